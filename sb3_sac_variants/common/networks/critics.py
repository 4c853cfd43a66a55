"""Critics with stacked weights: all of them in one batched product a layer, instead of a loop."""

import contextlib
import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.utils import _pytree as pytree

from sb3_sac_variants.common.checks.replaced import is_hooked
from sb3_sac_variants.common.equations.products import stacked_linear
from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.networks.preprocessing import FeatureNetwork


class StackedLinear(nn.Module):
    """
    ``n`` independent linear layers evaluated as one batched matrix product.

    Weights are ``(n, in_features, out_features)``, biases ``(n, 1, out_features)``, initialised like ``nn.Linear``
    (uniform within +-1/sqrt(in_features)).
    """

    def __init__(self, n: int, in_features: int, out_features: int):
        super().__init__()
        self.out_features = out_features
        self.weight = nn.Parameter(th.empty(n, in_features, out_features))
        self.bias = nn.Parameter(th.empty(n, 1, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1.0 / math.sqrt(max(self.weight.shape[1], 1))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Evaluate all layers on ``(n, B, in_features)``, or on ``(B, in_features)`` that they share."""
        if self.out_features == 1:
            # Matrix libraries are slow at a single column: a sum of products takes a sixth of the time on a CPU
            return (inputs * self.weight.transpose(1, 2)).sum(dim=2, keepdim=True) + self.bias
        if inputs.dim() == 2:
            inputs = inputs.expand(self.weight.shape[0], *inputs.shape)
        return stacked_linear(inputs, self.weight, self.bias)

    def linear(self, index: int) -> nn.Linear:
        """One of the stacked layers, whose parameters are views of this one's."""
        _, in_features, out_features = self.weight.shape
        layer = SingleLinear(in_features, out_features, device="meta")
        views: dict[str, Any] = {"weight": self.weight[index].T, "bias": self.bias[index, 0]}
        layer._parameters.update(views)
        return layer

    def extra_repr(self) -> str:
        n, in_features, out_features = self.weight.shape
        return f"n={n}, in_features={in_features}, out_features={out_features}"


class SingleLinear(nn.Linear):
    """One of the layers of a :class:`StackedLinear`, to whose parameters one can write, but give no others."""

    def __setattr__(self, name: str, value: Any) -> None:
        parameters = vars(self).get("_parameters", {})
        if name not in parameters:
            super().__setattr__(name, value)
        elif value is not parameters[name]:  # as it is after weight *= 0.5
            raise _not_replaced(name, f"{name}.data.copy_(value)")

    def __delattr__(self, name: str) -> None:  # what spectral_norm() does, say
        if name in self._parameters:
            raise _not_replaced(name, f"{name}.data.copy_(value)")
        super().__delattr__(name)


class SingleNetwork(nn.Sequential):
    """One of the networks of :class:`StackedNetworks`, to whose layers one can write, but give no others."""

    def __setitem__(self, index: Any, module: nn.Module) -> None:
        raise _not_replaced(f"layer {index}", "layer.load_state_dict(other.state_dict())")


def _not_replaced(what: str, remedy: str) -> AttributeError:
    return AttributeError(
        f"{what} is a view of the stacked critics, and what takes its place would not be used: write to it, as in "
        f"{remedy}, or derive a critic of your own"
    )


class ActivationOfEach(nn.Module):
    """An activation with parameters or statistics, ``nn.PReLU`` say, of which each of ``n`` networks has its own."""

    def __init__(self, activations: list[nn.Module]):
        super().__init__()
        self.activations = nn.ModuleList(activations)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Evaluate each on its network's part of ``(n, B, features)``."""
        return th.stack([activation(part) for activation, part in zip(self.activations, inputs, strict=True)])


class StackedNetworks(nn.Module):
    """
    ``n`` networks of the same shape, evaluated together: from ``(B, input_dim)`` to ``(n, B, output_dim)``.

    As a sequence it holds the single networks, as ``q_networks`` of SB3's ``ContinuousCritic`` does: ``networks[0]`` is
    an ``nn.Sequential`` of plain layers from ``(B, input_dim)`` to ``(B, output_dim)``. Its parameters are views of the
    stacked ones: writing to them in place changes the stacked ones, and gradients reach them. It is made when it is
    asked for, so that hooks on it see its own calls only: those on this module and its ``layers`` see all.
    """

    def __init__(self, *layers: nn.Module):
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)

    @property
    def layers(self) -> list[nn.Module]:
        """The stacked layers and the activations between them."""
        return list(self._modules.values())  # type: ignore[arg-type]

    @property
    def stacked(self) -> list[StackedLinear]:
        """The stacked layers without the activations."""
        return [layer for layer in self.layers if isinstance(layer, StackedLinear)]

    def forward(self, inputs: th.Tensor, first: int = 0) -> th.Tensor:
        """
        Evaluate all networks, to ``(n, B, output_dim)``.

        :param inputs: ``(B, input_dim)``, or ``(n, B, input_dim)``
        :param first: layer to begin with, whose input is then given
        """
        for layer in self.layers[first:]:
            inputs = layer(inputs)
        return inputs

    def __len__(self) -> int:
        return len(self.stacked[0].weight)

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        return [self._network(i) for i in place] if isinstance(index, slice) else self._network(place)

    def _network(self, index: int) -> nn.Sequential:
        def own(layer: nn.Module) -> nn.Module:
            if isinstance(layer, StackedLinear):
                return layer.linear(index)
            return layer.activations[index] if isinstance(layer, ActivationOfEach) else layer

        return SingleNetwork(*map(own, self.layers))

    def __iter__(self) -> Iterator[nn.Sequential]:
        return (self[index] for index in range(len(self)))


def stacked_mlp(
    n: int, input_dim: int, output_dim: int, net_arch: list[int], activation_fn: type[nn.Module]
) -> StackedNetworks:
    """Make ``n`` multi-layer perceptrons of the same shape, with ``net_arch`` hidden layers."""
    sizes = [input_dim, *net_arch]
    layers: list[nn.Module] = []
    for in_features, out_features in itertools.pairwise(sizes):
        activation = activation_fn()
        if activation.state_dict():
            activation = ActivationOfEach([activation, *(activation_fn() for _ in range(n - 1))])
        elif not layers:
            _check_activation(activation, activation_fn, out_features)
        layers += [StackedLinear(n, in_features, out_features), activation]
    return StackedNetworks(*layers, StackedLinear(n, sizes[-1], output_dim))


def _check_activation(activation: nn.Module, activation_fn: Any, width: int) -> None:
    """Refuse an activation that would do with stacked networks what it does not do with a single one."""
    inputs = th.linspace(-3.0, 3.0, 6 * width).view(2, 3, width)
    probe, together = copy.deepcopy(activation).eval(), None
    with th.no_grad(), th.random.fork_rng([]):  # nothing of the run's changes
        alone, again = (th.stack([probe(part.clone()) for part in inputs]) for _ in range(2))
        with contextlib.suppress(Exception):
            together = probe(inputs.clone())
    if not th.equal(alone, again):  # it is random: there is no telling
        return
    if alone.shape != inputs.shape:
        raise ValueError(
            f"policy_kwargs activation_fn={activation_fn} makes {tuple(alone.shape[1:])} of {tuple(inputs.shape[1:])} "
            "numbers, and the next layer wants as many as there were: pass one that keeps their number"
        )
    if together is None or together.shape != alone.shape or not th.allclose(together, alone):
        raise ValueError(
            f"policy_kwargs activation_fn={activation_fn} would mix networks or observations, which are in the first "
            "two dimensions here: pass one of single numbers, or of the last dimension, as "
            "functools.partial(nn.Softmax, dim=-1)"
        )


class StackedCritic(FeatureNetwork):
    """
    Action-value networks Q_i, i = 1..n_critics, evaluated together, as SB3's ``ContinuousCritic``.

    Q is asked for in these ways, and hooks on the module, or a ``forward()`` of the user's own, count in all of them:

    - :meth:`evaluate`, at one action for each state: the Bellman error
    - :meth:`sample_q` and :meth:`min_q`, at the actions of a policy's sample: targets, and what the policy climbs
    - :meth:`forward` and :meth:`q1_forward`, as SB3 has them: for users

    Arguments as :class:`~sb3_sac_variants.common.networks.preprocessing.FeatureNetwork`, for each critic; the critics
    share the features extractor. If it is the actor's as well, it gets no gradient from here.
    """

    def __init__(self, *args: Any, n_critics: int = 2, share_features_extractor: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.share_features_extractor = share_features_extractor
        self.n_critics = n_critics
        sizes = self._network_sizes(self.features_dim)
        self.q_networks = stacked_mlp(self._n_networks(), *sizes, self.net_arch, self.activation_fn)

    def _n_networks(self) -> int:
        """Number of networks that are stacked."""
        return self.n_critics

    @abstractmethod
    def _network_sizes(self, features_dim: int) -> tuple[int, int]:
        """Sizes of a network's input and output."""

    def evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        Q of all critics at one action for each state, ``(n_critics, B, 1)``; ``(n_critics, B, N)`` with N agents.

        :param actions: actions as the replay buffer has them, ``(B, action_dim)``
        """
        if self._is_called_as_module:
            return th.stack(self(obs, actions))
        return self._evaluate(obs, actions)

    @property
    def _is_called_as_module(self) -> bool:
        """Whether there are hooks, or a ``forward()`` of the user's: SB3 calls the module at every evaluation."""
        own = type(self).forward is not StackedCritic.forward or "forward" in self.__dict__
        return own or is_hooked(self)

    @abstractmethod
    def _evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """:meth:`evaluate` without hooks and without a ``forward()`` of the user's."""

    @abstractmethod
    def sample_q(self, obs: PyTorchObs, sample: PolicySample) -> th.Tensor:
        """Q of all critics at the actions of a policy sample, ``(n_critics, B, K)``."""

    def features(self, obs: PyTorchObs) -> th.Tensor:
        """Extract features, ``(B, features_dim)``."""
        # A shared extractor learns from the actor's loss only, as in SB3's ContinuousCritic
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            return self.extract_features(obs, self.features_extractor)

    def min_q(self, obs: PyTorchObs, sample: PolicySample) -> th.Tensor:
        """Minimum over the critics at the actions of a sample, min_i Q_i(s, a) (P18, section 4.2), ``(B, K)``."""
        return self.sample_q(obs, sample).amin(dim=0)

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """Q of all critics at one action for each state, one ``(B, 1)`` each, as SB3's ``ContinuousCritic``."""
        return tuple(self._evaluate(obs, actions))

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Q of the first critic at one action for each state, ``(B, 1)``."""
        return self.evaluate(obs, actions)[0]

    def __getattr__(self, name: str) -> Any:
        """``qf0``, ``qf1``, ... are the single critics, as in SB3."""
        if self._is_single(name):
            return self.q_networks[int(name[2:])]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_single(name):
            raise _not_replaced(name, f"critic.{name}.load_state_dict(other.state_dict())")
        super().__setattr__(name, value)

    def _is_single(self, name: str) -> bool:
        return name.startswith("qf") and name[2:].isdecimal() and int(name[2:]) < self._n_networks()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(n_critics=self.n_critics, share_features_extractor=self.share_features_extractor)
        return data


class StackedContinuousCritic(StackedCritic):
    """Action-value networks Q_i(s, a) for Box actions. Arguments as :class:`StackedCritic`."""

    action_space: spaces.Box

    def _network_sizes(self, features_dim: int) -> tuple[int, int]:
        return features_dim + get_action_dim(self.action_space), 1

    def _evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.q_networks(th.cat([self.features(obs), actions], dim=1))

    def sample_q(self, obs: PyTorchObs, sample: PolicySample) -> th.Tensor:
        assert sample.actions is not None, "a continuous critic needs sampled actions"
        if sample.actions.dim() == 2:
            return self.evaluate(obs, sample.actions)
        if self._is_called_as_module:
            n_particles = sample.actions.shape[1]
            repeated = pytree.tree_map(lambda x: x.repeat_interleave(n_particles, dim=0), obs)
            return self.evaluate(repeated, sample.actions.flatten(0, 1)).unflatten(1, (-1, n_particles)).squeeze(3)
        # K actions for each state: its features serve them all
        features, particles = self.features(obs), sample.actions
        inputs = th.cat([features.unsqueeze(1).expand(-1, particles.shape[1], -1), particles], dim=2)
        return self.q_networks(inputs.flatten(0, 1)).view(self.n_critics, *particles.shape[:2])
