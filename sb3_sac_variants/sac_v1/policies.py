"""Networks of SACv1: actor (Gaussian or Gaussian mixture), critics, value network and target value network."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn

from sb3_sac_variants.common.checks.validation import check_range
from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor, gaussian_log_prob, linear_heads, log_det_tanh
from sb3_sac_variants.common.networks.critics import stacked_mlp
from sb3_sac_variants.common.networks.discrete import CategoricalActor
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.networks.preprocessing import FeatureNetwork


class ValueNetwork(FeatureNetwork):
    """
    State-value network V(s) (Haarnoja et al. 2018, section 4.2).

    Arguments as :class:`~sb3_sac_variants.common.networks.preprocessing.FeatureNetwork`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.value_network = stacked_mlp(1, self.features_dim, 1, self.net_arch, self.activation_fn)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """V(s), the soft state value, ``(B, 1)``."""
        return self.value_network(self.extract_features(obs, self.features_extractor)).squeeze(0)


class GaussianMixtureActor(SquashedGaussianActor):
    """
    Tanh-squashed mixture of ``n_components`` Gaussians, the policy of the first version of the 2018 paper.

    Its component is a discrete choice, so gradients do not flow through a sample: it learns by the likelihood ratio.
    """

    def __init__(self, *args: Any, n_components: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.n_components = n_components
        self.action_dim = get_action_dim(self.action_space)
        latent_dim, action_dim = self.net_arch[-1] if self.net_arch else self.features_dim, self.action_dim
        self.mu = nn.Linear(latent_dim, n_components * action_dim)
        self.log_std = nn.Linear(latent_dim, n_components * action_dim)  # type: ignore[assignment]
        self.component_logits = nn.Linear(latent_dim, n_components)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_components": self.n_components}

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Noise of :meth:`sample`: a number for each action dimension and one that picks the component."""
        return (batch_size, self.action_dim + 1)

    def get_action_dist_params(self, obs: PyTorchObs) -> Any:
        """
        Refuse what SB3's actors give.

        :raises ValueError: always, since a mixture is more than one mean and deviation
        """
        raise ValueError(f"n_components={self.n_components} Gaussians have no one mean and deviation: call mixture()")

    def mixture(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Log-weights ``(B, K)``, means ``(B, K, action_dim)`` and log standard deviations, likewise, in each state."""
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        shape = (-1, self.n_components, self.action_dim)
        logits, mean, log_std = linear_heads(latent, self.component_logits, self.mu, self.log_std)  # type: ignore[arg-type]
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        return th.log_softmax(logits, dim=1), mean.reshape(shape), log_std.reshape(shape)

    def sample(self, obs: PyTorchObs, noise: th.Tensor, reparameterize: bool = False) -> PolicySample:
        """
        Draw an action from the mixture, with its log-density by logsumexp over the components.

        :param noise: standard normal noise of :meth:`noise_shape`; the last column, mapped to a uniform number by the
            normal distribution function, picks the component
        :param reparameterize: must be False
        """
        if reparameterize:
            raise ValueError("a mixture policy cannot be reparameterised: pass policy_gradient='likelihood_ratio'")
        log_weights, means, log_stds = self.mixture(obs)
        uniform = th.special.ndtr(noise[:, -1:])
        cumulative = log_weights.detach().exp().cumsum(dim=1)
        component = (uniform > cumulative[:, :-1]).sum(dim=1).view(-1, 1, 1).expand(-1, 1, means.shape[2])
        mean, log_std = means.gather(1, component).squeeze(1), log_stds.gather(1, component).squeeze(1)
        u = (mean + log_std.exp() * noise[:, :-1]).detach()
        log_prob = self.log_prob(u, log_weights, means, log_stds).unsqueeze(1)
        return PolicySample(th.tanh(u), log_prob, th.ones_like(log_prob))

    @staticmethod
    def log_prob(u: th.Tensor, log_weights: th.Tensor, means: th.Tensor, log_stds: th.Tensor) -> th.Tensor:
        """log pi(tanh(u)|s) = log sum_k w_k N(u; mean_k, std_k) - sum log(1 - tanh(u)^2), ``(B,)``."""
        components = log_weights + gaussian_log_prob(u.unsqueeze(1), means, log_stds)
        return th.logsumexp(components, dim=1) - log_det_tanh(u)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Action to take in the environment; the mean of the most likely component if deterministic."""
        if not deterministic:
            return self.action_log_prob(obs)[0]
        log_weights, means, _ = self.mixture(obs)
        component = log_weights.argmax(dim=1).view(-1, 1, 1).expand(-1, 1, means.shape[2])
        return th.tanh(means.gather(1, component).squeeze(1))


class SACv1Policy(MaxEntPolicy):
    """
    Actor, twin critics, value network and target value network of Haarnoja et al. 2018.

    Arguments as SB3's ``SACPolicy``, and:

    :param n_components: number of Gaussians in the policy; more than one needs ``policy_gradient="likelihood_ratio"``
    """

    value_net: ValueNetwork
    value_net_target: ValueNetwork
    learned_networks = ("actor", "critic", "value_net")

    def __init__(self, *args: Any, n_components: int = 1, **kwargs: Any):
        check_range("policy_kwargs n_components", n_components, 1, integer=True)
        if n_components > 1 and kwargs.get("use_sde"):
            raise ValueError(f"n_components={n_components} does not go with use_sde=True: choose one of the two")
        self.n_components = n_components
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.value_net = self.make_value_net()
        self._add_optimizer(self.value_net, list(self.value_net.parameters()), lr_schedule)
        self.value_net_target = target_copy(self.value_net, self.make_value_net)

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> SquashedGaussianActor | CategoricalActor:
        if self.n_components == 1:
            return super().make_actor(features_extractor)
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(
                f"n_components={self.n_components} needs continuous actions, not {self.action_space}: leave it out, a "
                "policy over discrete actions has any number of modes"
            )
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return GaussianMixtureActor(n_components=self.n_components, **actor_kwargs).to(self.device)

    def make_value_net(self) -> ValueNetwork:
        """Build a value network with the critics' architecture and a features extractor of its own."""
        kwargs = {name: self.critic_kwargs[name] for name in (*self.net_args, "net_arch")}
        return ValueNetwork(**self._update_features_extractor(kwargs, None)).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "n_components": self.n_components}


MlpPolicy = SACv1Policy


class CnnPolicy(SACv1Policy):
    """Networks of SACv1 for images. Arguments as :class:`SACv1Policy`."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(SACv1Policy):
    """Networks of SACv1 for dictionary observations. Arguments as :class:`SACv1Policy`."""

    default_features_extractor_class = CombinedExtractor
