"""What the policies (SB3's word for all networks of an algorithm) have in common: an actor and stacked critics."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import SACPolicy
from torch import nn
from torch.nn.parameter import is_lazy

from sb3_sac_variants.common.checks.data import DivergedError, check_actions, check_observation
from sb3_sac_variants.common.checks.policy_arguments import check_extractor_kwargs
from sb3_sac_variants.common.checks.replaced import parts_of, same_parts
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor
from sb3_sac_variants.common.networks.critics import StackedContinuousCritic, StackedCritic
from sb3_sac_variants.common.networks.discrete import CategoricalActor, DiscreteActor, StackedDiscreteCritic
from sb3_sac_variants.common.networks.parameters import LoadsInPlace

#: arguments of SB3's SACPolicy that concern a Gaussian actor, and their defaults
GAUSSIAN_ARGUMENTS: dict[str, Any] = {"use_sde": False, "log_std_init": -3, "use_expln": False, "clip_mean": 2.0}


def modules_with_mode(module: nn.Module) -> Iterator[nn.Module]:
    """
    The modules in a network that have to be told of training and evaluation.

    These are all, except those below a module with a ``train`` of its own, which may want to keep them as they are
    (frozen batch normalisation, say), or below one of ``torch.jit.script``, which keeps its mode elsewhere.
    """
    yield module
    if not _sets_own_mode(module):
        for child in module.children():
            yield from modules_with_mode(child)


def _sets_own_mode(module: nn.Module) -> bool:
    return type(module).train is not nn.Module.train or isinstance(module, th.jit.ScriptModule)


class MaxEntPolicy(LoadsInPlace, SACPolicy):
    """
    Actor and critics of a maximum-entropy algorithm, for Box or Discrete actions.

    All arguments are those of SB3's ``SACPolicy`` (``net_arch``, ``activation_fn``, ``n_critics``, ``optimizer_class``,
    ``features_extractor_class``, gSDE, ...); those of a Gaussian actor are refused where there is none.

    Subclasses add the networks their algorithm bootstraps from in :meth:`_build`.
    """

    actor: SquashedGaussianActor | CategoricalActor  # type: ignore[assignment]
    critic: StackedCritic  # type: ignore[assignment]
    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    #: names of the networks that have an optimiser
    learned_networks: tuple[str, ...] = ("actor", "critic")
    #: modules and parameters of these when they were last looked at
    _parts: Sequence[Any] = ()

    def __init__(self, *args: Any, features_extractor_class: type[BaseFeaturesExtractor] | None = None, **kwargs: Any):
        self._modules_with_mode: tuple[list[nn.Module], list[nn.Module]] | None = None
        self._unscaling: tuple[np.ndarray, np.ndarray, np.ndarray, bool] | None = None
        if features_extractor_class is None:
            features_extractor_class = self.default_features_extractor_class
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)  # type: ignore[misc]

    def _build(self, lr_schedule: Schedule) -> None:
        """Build the networks and their optimisers."""
        self.actor = self.make_actor()
        self._check_made("make_actor", self.actor, "noise_shape")
        self._add_optimizer(self.actor, list(self.actor.parameters()), lr_schedule)
        self.critic = self.make_critic(self.actor.features_extractor if self.share_features_extractor else None)
        self._check_made("make_critic", self.critic, "min_q")
        # A shared features extractor learns from the actor's loss only (SB3's SAC)
        shared = {id(parameter) for parameter in self.actor.parameters()}
        twice = [one for one in self.critic.parameters() if id(one) in shared and one.requires_grad]
        if twice and not self.share_features_extractor:
            warnings.warn(
                "policy_kwargs share_features_extractor=False, but actor and critics share parameters, which the "
                "critics' loss does not train: let each features extractor make its own, or pass True",
                stacklevel=2,
            )
        self._add_optimizer(
            self.critic,
            [parameter for parameter in self.critic.parameters() if id(parameter) not in shared],
            lr_schedule,
        )

    def _check_made(self, method: str, network: nn.Module, needed: str) -> None:
        """Refuse a network of SB3's from a method of a subclass: it lacks what updates call."""
        if not hasattr(network, needed):
            raise TypeError(
                f"{type(self).__name__}.{method}() gave a {type(network).__name__} without {needed}(), which updates "
                f"call: derive it from the class of what super().{method}() gives"
            )

    def _add_optimizer(self, network: nn.Module, parameters: list[nn.Parameter], lr_schedule: Schedule) -> None:
        """Give a network the optimiser of these parameters, as its attribute ``optimizer`` (SB3's convention)."""
        make: Any = self.optimizer_class
        try:
            network.optimizer = make(parameters, lr=lr_schedule(1), **self.optimizer_kwargs)
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(
                f"policy_kwargs optimizer_class={make.__name__} with optimizer_kwargs={self.optimizer_kwargs} cannot "
                f"be made for the {type(network).__name__} ({error}): pass arguments that it takes, or another class"
            ) from error

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Build a features extractor, as SB3; layers that find out their size from their first input do so now."""
        check_extractor_kwargs(self.features_extractor_class, self.features_extractor_kwargs)
        dtype = th.get_default_dtype()
        th.set_default_dtype(th.float32)  # in which SB3 finds out the size of an image's features
        try:
            extractor = super().make_features_extractor()
            if any(map(is_lazy, extractor.parameters())):
                space = self.observation_space
                zeros: Any = th.zeros((1, *(space.shape or ())))
                if isinstance(space, spaces.Dict):
                    zeros = {key: th.zeros((1, *(part.shape or ()))) for key, part in space.items()}
                extractor.eval()
                with th.no_grad():
                    extractor(preprocess_obs(zeros, space, self.normalize_images))
                extractor.train()
        finally:
            th.set_default_dtype(dtype)
        return extractor if dtype == th.float32 else extractor.to(dtype)

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> SquashedGaussianActor | CategoricalActor:
        if isinstance(self.action_space, spaces.Discrete):
            kwargs = self._update_features_extractor(self._actor_kwargs_without_gaussian(), features_extractor)
            return DiscreteActor(**kwargs).to(self.device)
        actor_kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return SquashedGaussianActor(**actor_kwargs).to(self.device)

    def _actor_kwargs_without_gaussian(self) -> dict[str, Any]:
        """Leave out the arguments of a Gaussian, and refuse one that was passed: it would have no effect."""
        for name, default in GAUSSIAN_ARGUMENTS.items():
            if self.actor_kwargs[name] != default:
                raise ValueError(
                    f"policy_kwargs {name}={self.actor_kwargs[name]!r} is for Gaussian policies, and this one is none: "
                    "leave it out"
                )
        return {name: value for name, value in self.actor_kwargs.items() if name not in GAUSSIAN_ARGUMENTS}

    def make_critic(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> StackedCritic:
        """Make the critics, of the kind that the action space asks for; for a subclass to change."""
        critic_kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        discrete = isinstance(self.action_space, spaces.Discrete)
        critic_class = StackedDiscreteCritic if discrete else StackedContinuousCritic
        return critic_class(**critic_kwargs).to(self.device)

    def set_training_mode(self, mode: bool) -> None:
        """Put the networks that learn in training or evaluation mode; targets stay in evaluation mode."""
        if self._modules_with_mode is None:
            networks: list[nn.Module] = [getattr(self, name) for name in self.learned_networks]
            modules = [module for network in networks for module in modules_with_mode(network)]
            self._modules_with_mode = (
                [module for module in modules if not _sets_own_mode(module)],
                [module for module in modules if _sets_own_mode(module)],
            )
        ordinary, others = self._modules_with_mode
        for module in ordinary:
            module.__dict__["training"] = mode
        for module in others:  # what is below them is their own affair
            module.train(mode)
        self.training = mode

    def find_modules(self) -> None:
        """
        Look anew which modules have a training mode: where ``train()`` finds a part replaced, and outside of training.

        ``Module.train()`` walks through the tree at each call, which takes longer than the actor in a rollout.
        """
        parts = parts_of(getattr(self, name) for name in self.learned_networks)
        if not same_parts(parts, self._parts):
            self._modules_with_mode, self._parts = None, parts

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """
        Make a batch of one observation, or of several, as SB3's policies do.

        :raises ValueError: if it does not fit the observation space
        """
        try:
            return super().obs_to_tensor(observation)
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
            raise ValueError(
                f"observation={observation!r} does not fit ({error}): pass one observation of "
                f"{self.observation_space}, or several"
            ) from error

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions, as SB3's policies do.

        :raises ValueError: if the observation is not finite
        :raises DivergedError: if the policy has none, because its parameters or outputs are not finite
        """
        self.find_modules()
        try:
            actions, state = super().predict(observation, state, episode_start, deterministic)
            if isinstance(self.action_space, spaces.Box):  # looked at on the way through unscale_action()
                return actions, state
            check_actions(actions, type(self).__name__)
        except DivergedError:
            check_observation(observation)
            raise
        return actions.astype(self.action_space.dtype, copy=False), state

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        Scale actions from [-1, 1] to the action space, as SB3's policies do, and never beyond its bounds.

        :return: in [low, high], of the action space's type; integers are rounded
        :raises DivergedError: if an action is not finite
        """
        assert isinstance(self.action_space, spaces.Box)
        check_actions(scaled_action, type(self).__name__)
        if self._unscaling is None:
            self._unscaling = self._prepare_unscaling()
        low, high, half_range, exact = self._unscaling
        action = low + (scaled_action + 1.0) * half_range
        if exact and action.dtype == low.dtype:
            return action
        dtype = self.action_space.dtype
        if dtype.kind != "f":
            action = np.rint(action)
        return np.minimum(np.maximum(action, low), high).astype(dtype, copy=False)

    def _prepare_unscaling(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
        """Bounds, half of their distance, and whether rounding never leads beyond them or to another type."""
        low, high = self._bounds()
        half_range = 0.5 * (high - low)
        exact = low.dtype == self.action_space.dtype and (low + low.dtype.type(2) * half_range <= high).all()
        return low, high, half_range, bool(exact)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Scale actions to [-1, 1], as SB3's policies do, also where the bounds' type cannot hold their difference."""
        assert isinstance(self.action_space, spaces.Box)
        low, high = self._bounds()
        return 2.0 * ((action - low) / (high - low)) - 1.0

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        space = self.action_space
        assert isinstance(space, spaces.Box)
        dtype = np.result_type(space.dtype, np.float32)  # wider than half precision and than integers
        return space.low.astype(dtype, copy=False), space.high.astype(dtype, copy=False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data["share_features_extractor"] = self.share_features_extractor
        return data
