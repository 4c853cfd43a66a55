"""
Stochastic policies whose randomness is an argument.

SB3's distributions draw their own noise, hold state and validate their arguments on the host. Here noise comes in
from outside, which makes a sample a pure function of (observation, noise): it can be compiled, captured in a CUDA
graph, repeated in a test, and the same seed gives the same run on every engine.
"""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, Actor
from torch import nn
from torch.nn import functional as F

from sb3_sac_variants.common.checks.data import DivergedError
from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.networks.fast_inference import plain_linear
from sb3_sac_variants.common.networks.preprocessing import FeatureNetwork, TraceablePreprocessing, batch_size

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

#: observations from which on it pays to put the weights of several layers together for one product
ONE_PRODUCT_FROM = 128


def gaussian_log_prob(value: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """Log-density of independent Gaussians, summed over the last dimension: ``(..., D)`` to ``(...)``."""
    return (-0.5 * ((value - mean) * th.exp(-log_std)).square() - log_std - LOG_SQRT_2PI).sum(dim=-1)


def log_det_tanh(pre_tanh: th.Tensor) -> th.Tensor:
    """
    Log-determinant of the squashing, ``sum log(1 - tanh(u)^2)``, in a form that stays finite for any u.

    It is P18, appendix C, eq. 21, with ``log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u))``.
    """
    return 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh)).sum(dim=-1)


def linear_heads(latent: th.Tensor, *heads: nn.Module) -> tuple[th.Tensor, ...]:
    """
    Evaluate layers on top of the same input ``(B, latent_dim)`` as one matrix product.

    For a batch, a product with six columns takes as long as one with three, and so does its gradient. Layers that are
    not a plain ``nn.Linear``, or have hooks, are called one by one.
    """
    # The comparison would fix the size of a batch in an exported model, and a trace warns of it
    if th.compiler.is_exporting() or th.jit.is_tracing() or len(latent) < ONE_PRODUCT_FROM:
        return tuple(head(latent) for head in heads)
    layers = [layer for layer in map(plain_linear, heads) if layer is not None and layer.bias is not None]
    if len(layers) < len(heads):
        return tuple(head(latent) for head in heads)
    weight, bias = th.cat([layer.weight for layer in layers]), th.cat([layer.bias for layer in layers])
    return F.linear(latent, weight, bias).split([layer.out_features for layer in layers], dim=1)


class ActorNetwork(FeatureNetwork, BasePolicy):
    """
    What the actors that are not SB3's SAC ``Actor`` have in common.

    They have a ``forward(obs, deterministic)`` that gives the action to take, in [-1, 1] if actions are continuous.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, *args: Any, **kwargs: Any):
        squash_output = isinstance(action_space, spaces.Box)
        super().__init__(observation_space, action_space, *args, squash_output=squash_output, **kwargs)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)


class SquashedGaussianActor(TraceablePreprocessing, Actor):
    """
    The tanh-squashed Gaussian policy (P18, appendix C).

    It is SB3's SAC ``Actor``, with its networks, parameters and gSDE, and with sampling as a pure function.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # With a gradient, the exploration matrix of SB3's distribution would keep the autograd graph it was drawn in,
        # which belongs to one CUDA stream: no CUDA graph could be captured on another
        with th.no_grad():
            super().__init__(*args, **kwargs)

    def reset_noise(self, batch_size: int = 1) -> None:
        """
        As SB3's, without a gradient.

        :raises DivergedError: if a standard deviation is NaN
        """
        try:
            with th.no_grad():
                super().reset_noise(batch_size)
        except ValueError as error:  # torch's normal distribution refuses standard deviations that are NaN
            raise DivergedError(type(self).__name__) from error

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Shape of the noise of :meth:`sample`: a number for each action dimension; with gSDE a whole matrix."""
        if self.use_sde:
            return tuple(self.get_std().shape)
        assert self.action_space.shape is not None
        return (batch_size, math.prod(self.action_space.shape))

    def sample(self, obs: PyTorchObs, noise: th.Tensor, reparameterize: bool = True) -> PolicySample:
        """
        Draw a ~ pi(.|s) as a = tanh(u), u = mean + std * noise, with log pi(a|s) (P18, eq. 21).

        :param noise: standard normal noise of :meth:`noise_shape`
        :param reparameterize: whether gradients flow through the action (P18, eq. 11) or only into the log-probability
            of a fixed action (likelihood ratio)
        :return: one action of weight one for each state, ``(B, action_dim)`` and ``(B, 1)``
        """
        mean, log_std, kwargs = self.get_action_dist_params(obs)
        if self.use_sde:
            # One exploration matrix for the batch, as SB3: u = mean + latent @ (std * noise)
            latent, std = kwargs["latent_sde"], self.get_std()
            u = mean + latent @ (noise * std)
            log_std = 0.5 * th.log(latent.square() @ std.square() + self.action_dist.epsilon)
        else:
            u = mean + log_std.exp() * noise
        if not reparameterize:
            u = u.detach()
        if self.use_sde or not reparameterize:
            log_density = gaussian_log_prob(u, mean, log_std)
        else:  # (u - mean) / std is the noise, whatever the parameters: N(u; mean, std) = N(noise; 0, 1) / std
            log_density = (-0.5 * noise.square() - LOG_SQRT_2PI - log_std).sum(dim=-1)
        log_prob = (log_density - log_det_tanh(u)).unsqueeze(1)
        return PolicySample(th.tanh(u), log_prob, th.ones_like(log_prob))

    def action_log_prob(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """As SB3's ``Actor``: actions drawn, ``(B, action_dim)``, and log pi, ``(B,)``, as :meth:`sample` has it."""
        if self.use_sde:  # with the exploration matrix of the rollout
            return super().action_log_prob(obs)
        noise = th.randn(self.noise_shape(batch_size(obs)), dtype=self.dtype, device=self.device)
        sample = self.sample(obs, noise)
        assert sample.actions is not None
        return sample.actions, sample.log_prob.squeeze(1)

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        As SB3's.

        :return: means and log standard deviations, ``(B, action_dim)`` each; with gSDE the log standard deviations are
            the exploration matrix's, ``(latent_dim, action_dim)``, and ``latent_sde`` is what it is multiplied by
        """
        if self.use_sde:
            return super().get_action_dist_params(obs)
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        mean, log_std = linear_heads(latent, self.mu, self.log_std)  # type: ignore[arg-type]
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), {}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Action to take in the environment, in [-1, 1], ``(B, action_dim)``; tanh(mean) if deterministic."""
        if self.use_sde:  # keeps the exploration matrix of the rollout in SB3's distribution
            if self.action_dist.exploration_mat.device != self.device:  # the model was moved after it was drawn
                self.reset_noise()
            mean, _, kwargs = self.get_action_dist_params(obs)
            # SB3's distribution would draw the same, after a look at the parameters on the host
            return th.tanh(mean if deterministic else mean + self.action_dist.get_noise(kwargs["latent_sde"]))
        mean, log_std, _ = self.get_action_dist_params(obs)
        if deterministic:
            return th.tanh(mean)
        return th.tanh(th.addcmul(mean, log_std.exp(), th.randn_like(mean)))
