"""Networks of soft Q-learning: critics, target critics, and an actor that samples exp(Q(s, .)/alpha)."""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.actors import ActorNetwork
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.discrete import CategoricalActor
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.networks.preprocessing import batch_size

#: sampled actions that the deterministic policy takes the best of
DETERMINISTIC_CANDIDATES = 32


def uniform_particles(actions: th.Tensor) -> PolicySample:
    """Weight K actions for each state, uniform on [-1, 1]^D, ``(B, K, D)``, as a sample of the uniform policy."""
    batch_size, n_particles, action_dim = actions.shape
    log_density = actions.new_full((batch_size, n_particles), -action_dim * math.log(2.0))
    return PolicySample(actions, log_density, th.full_like(log_density, 1.0 / n_particles))


class ActsByCritic(nn.Module):
    """An actor that is one together with the critics of its policy."""

    def follow(self, critic: StackedCritic) -> None:
        """Set the Q-functions to act by."""
        object.__setattr__(self, "_critic", critic)  # not a part of this module

    @property
    def critic(self) -> Any:
        """
        The Q-functions to act by.

        :raises RuntimeError: if there are none, because the actor was saved and loaded by itself
        """
        if "_critic" not in vars(self):
            raise RuntimeError("this actor acts by the critics of its policy: save, load or export the whole policy")
        return vars(self)["_critic"]


class SteinActor(ActsByCritic, ActorNetwork):
    """
    A network that maps noise to actions, a = tanh(f(s, xi)) with xi ~ N(0, I) (P17, section 3.3).

    The density of its samples is not known; it learns from where they should move
    (:mod:`sb3_sac_variants.sql.svgd`). P17 is Haarnoja et al. 2017.

    f adds its output to the noise, f(s, xi) = xi + g(s, xi): at the beginning the actions then cover the cube, while
    those of a network with small initial weights would all lie near 0 and find but one of several modes.

    Arguments as :class:`~sb3_sac_variants.common.networks.actors.ActorNetwork`.
    """

    action_space: spaces.Box
    candidates: th.Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.action_dim = get_action_dim(self.action_space)
        layers = create_mlp(self.features_dim + self.action_dim, self.action_dim, self.net_arch, self.activation_fn)
        self.sampler = nn.Sequential(*layers)
        # Noise of the deterministic policy: the same in each run, drawn without touching the run's random state
        generator = th.Generator("cpu").manual_seed(0)
        noise = th.randn(DETERMINISTIC_CANDIDATES, self.action_dim, generator=generator, device="cpu")
        self.register_buffer("candidates", noise, persistent=False)

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Shape of the noise for one action in each state."""
        return (batch_size, 1, self.action_dim)

    def pre_tanh(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """Actions before the tanh, u = f(s, xi), of standard normal noise xi for K actions a state, ``(B, K, D)``."""
        features = self.extract_features(obs, self.features_extractor)
        features = features.unsqueeze(1).expand(-1, noise.shape[1], -1)
        return noise + self.sampler(th.cat([features, noise], dim=2))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Action to take in the environment, in [-1, 1], ``(B, D)``.

        :param deterministic: whether to take, of some actions always sampled with the same noise, the one with the
            highest Q (the mean of a policy with several modes would lie between them)
        """
        count = batch_size(obs)
        if not deterministic:
            noise = th.randn(self.noise_shape(count), dtype=self.dtype, device=self.candidates.device)
            return th.tanh(self.pre_tanh(obs, noise)).squeeze(1)
        actions = th.tanh(self.pre_tanh(obs, self.candidates.expand(count, -1, -1)))
        best = self.critic.min_q(obs, uniform_particles(actions)).argmax(dim=1)
        return actions[th.arange(count, device=actions.device), best]


class SoftmaxActor(ActsByCritic, CategoricalActor):
    """The policy softmax(min_i Q_i(s, .)/alpha) over discrete actions: it has no parameters of its own."""

    ent_coef: th.Tensor

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Discrete, normalize_images: bool = True):
        super().__init__(observation_space, action_space, normalize_images=normalize_images)
        # Saved with the policy, which can then act by itself
        self.register_buffer("ent_coef", th.ones(1))
        self.dtype = self.ent_coef.dtype

    @property
    def device(self) -> th.device:
        """Device of the policy; SB3 looks at the parameters, of which there are none."""
        return self.ent_coef.device

    def log_prob(self, obs: PyTorchObs) -> th.Tensor:
        q_values = self.critic.q_of_all_actions(obs).amin(dim=0)
        # The same policy; Q/alpha itself may be too large a number
        return th.log_softmax((q_values - q_values.amax(dim=1, keepdim=True)) / self.ent_coef, dim=1)


class SQLPolicy(MaxEntPolicy):
    """
    Networks of soft Q-learning.

    Arguments as SB3's ``SACPolicy`` but for those of its Gaussian; on discrete actions there is no actor network, and
    so nothing to share features with.
    """

    actor: SteinActor | SoftmaxActor  # type: ignore[assignment]
    critic_target: StackedCritic  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        if isinstance(self.action_space, spaces.Discrete):
            self._build_without_actor_network(lr_schedule)
        else:
            super()._build(lr_schedule)
        self.actor.follow(self.critic)
        self.critic_target = target_copy(self.critic, self.make_critic)

    def _build_without_actor_network(self, lr_schedule: Schedule) -> None:
        actor_arch, critic_arch = self.net_args["net_arch"], self.critic_kwargs["net_arch"]
        for name, used, value in (
            ("net_arch's pi", actor_arch == critic_arch, actor_arch),
            ("share_features_extractor", not self.share_features_extractor, self.share_features_extractor),
        ):
            if not used:
                raise ValueError(
                    f"policy_kwargs {name}={value} is for an actor network, which soft Q-learning does without on "
                    f"{self.action_space}: leave it out"
                )
        self.learned_networks = ("critic",)
        self.critic = self.make_critic()
        self._add_optimizer(self.critic, list(self.critic.parameters()), lr_schedule)
        self.actor = self.make_actor()

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> SteinActor | SoftmaxActor:
        kwargs = self._actor_kwargs_without_gaussian()
        if isinstance(self.action_space, spaces.Discrete):
            names = ("observation_space", "action_space", "normalize_images")
            return SoftmaxActor(**{name: kwargs[name] for name in names}).to(self.device)
        return SteinActor(**self._update_features_extractor(kwargs, features_extractor)).to(self.device)


MlpPolicy = SQLPolicy


class CnnPolicy(SQLPolicy):
    """Networks of soft Q-learning for images. Arguments as :class:`SQLPolicy`."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(SQLPolicy):
    """Networks of soft Q-learning for dictionary observations. Arguments as :class:`SQLPolicy`."""

    default_features_extractor_class = CombinedExtractor
