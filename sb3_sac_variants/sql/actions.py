"""What soft Q-learning does differently for continuous and discrete actions: what V sums over, and the actor."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch as th
from gymnasium import spaces

from sb3_sac_variants.common.checks.validation import check_choice, check_range, parse_ent_coef
from sb3_sac_variants.common.equations.losses import energy_based_policy
from sb3_sac_variants.common.equations.types import Batch, PolicySample
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.sql.policies import SoftmaxActor, SteinActor, uniform_particles
from sb3_sac_variants.sql.svgd import SQUASH_GRADIENTS, squashed_stein_direction, stein_loss

SQLActor = SteinActor | SoftmaxActor


class ParticleNoise(NamedTuple):
    """
    Random numbers of one update.

    :param value_particles: uniform actions to estimate V with, ``(B, n_value_particles, D)``; ``(B, 0)`` where the
        sum is exact
    :param sampler: standard normal noise of the sampler, ``(B, n_svgd_particles, D)``; likewise
    """

    value_particles: th.Tensor
    sampler: th.Tensor


@dataclass(frozen=True)
class ParticleOptions:
    """
    Arguments of soft Q-learning that concern continuous actions.

    They are described at :class:`~sb3_sac_variants.sql.SQL`.
    """

    n_value_particles: int = 50
    n_svgd_particles: int = 32
    svgd_update_ratio: float = 0.5
    squash_gradient: str = "pre_tanh"

    @property
    def n_updated(self) -> int:
        """Number of particles that are updated."""
        return int(self.n_svgd_particles * self.svgd_update_ratio + 1e-9)  # 0.29 of 100 is 28.999999999999996


class SampledActions:
    """Continuous actions: V is estimated from uniform ones, and a Stein sampler learns to draw those of the policy."""

    def __init__(self, actor: SQLActor, critic: StackedCritic, learners: dict[str, Learner], options: ParticleOptions):
        assert isinstance(actor, SteinActor)
        self.actor, self.critic, self.learner, self.options = actor, critic, learners["actor"], options

    @staticmethod
    def check(options: ParticleOptions, ent_coef: str | float, action_space: spaces.Space) -> None:
        """Check the arguments that this kind of action concerns."""
        check_range("n_value_particles", options.n_value_particles, 1, integer=True)
        check_range("n_svgd_particles", options.n_svgd_particles, 2, integer=True)
        check_range("svgd_update_ratio", options.svgd_update_ratio, 0, 1, low_open=True)
        check_choice("squash_gradient", options.squash_gradient, tuple(SQUASH_GRADIENTS))
        if not 1 <= options.n_updated < options.n_svgd_particles:
            raise ValueError(
                f"svgd_update_ratio={options.svgd_update_ratio} of n_svgd_particles={options.n_svgd_particles} updates "
                f"{options.n_updated} and fixes {options.n_svgd_particles - options.n_updated}: pass a ratio or a "
                "number of particles that leaves at least one of each"
            )
        if parse_ent_coef(ent_coef)[1]:
            raise ValueError(
                f"ent_coef={ent_coef!r} needs the policy's entropy, and nobody knows the density of actions from a "
                "Stein sampler: pass a number greater than 0, or take SACv2"
            )

    def draw_noise(self, batch_size: int) -> ParticleNoise:
        """Draw the random numbers of one update."""
        shape = (batch_size, self.options.n_svgd_particles, self.actor.action_dim)
        value_particles = self.draw_particles(self.options.n_value_particles, batch_size)
        return ParticleNoise(value_particles, th.randn(shape, dtype=self.actor.dtype, device=self.actor.device))

    def draw_particles(self, n_particles: int, batch_size: int, generator: th.Generator | None = None) -> th.Tensor:
        """Draw the actions that V is estimated with: what :meth:`proposal` takes."""
        shape = (batch_size, n_particles, self.actor.action_dim)
        uniform = th.rand(shape, generator=generator, dtype=self.actor.dtype, device=self.actor.device)
        return 2.0 * uniform - 1.0

    def proposal(self, particles: th.Tensor) -> PolicySample:
        """Weight particles as a sample of the uniform policy."""
        return uniform_particles(particles)

    def policy(self, batch: Batch, next_q: th.Tensor, proposal: PolicySample, ent_coef: th.Tensor) -> PolicySample:
        """
        The policy, to log its entropy: at the next states, whose Q is known; at others it would cost as much as V.

        :param next_q: min Q at the proposal's actions in the next states, ``(B, K)``
        """
        return energy_based_policy(next_q, proposal, ent_coef)

    def improve_policy(self, batch: Batch, noise: ParticleNoise, ent_coef: th.Tensor) -> dict[str, th.Tensor]:
        """One step of the actor towards exp(Q/alpha), and metrics to log."""
        obs, n_updated = batch.observations, self.options.n_updated
        # Found by its name in each update: a compiled one looks whether a name has changed, not whether a function has
        squash = SQUASH_GRADIENTS[self.options.squash_gradient]

        def log_density(actions: th.Tensor) -> th.Tensor:
            return self.critic.min_q(obs, uniform_particles(actions)) / ent_coef

        # Where the particles should move, P17 eq. 13
        pre_tanh = self.actor.pre_tanh(obs, noise.sampler)
        updated, fixed = pre_tanh[:, :n_updated], pre_tanh[:, n_updated:]
        direction = squashed_stein_direction(fixed, updated, log_density, squash)
        # The network follows, eq. 14
        updated_noise = noise.sampler[:, :n_updated]
        actor_loss = self.learner.minimize(
            lambda actor: stein_loss(actor.pre_tanh(obs, updated_noise), direction, squash)
        )
        return {"actor_loss": actor_loss}


class AllActions:
    """Discrete actions: V is an exact sum, and the policy the softmax of Q, with nothing to learn."""

    def __init__(self, actor: SQLActor, critic: StackedCritic, learners: dict[str, Learner], options: ParticleOptions):
        assert isinstance(actor, SoftmaxActor)
        self.actor, self.critic = actor, critic
        self.n_actions = int(actor.action_space.n)

    @staticmethod
    def check(options: ParticleOptions, ent_coef: str | float, action_space: spaces.Space) -> None:
        for field in fields(options):
            value = getattr(options, field.name)
            if value != field.default:
                raise ValueError(
                    f"{field.name}={value!r} is for continuous actions, not {action_space}: leave it out, sums over "
                    "discrete actions are exact"
                )

    def draw_noise(self, batch_size: int) -> ParticleNoise:
        return ParticleNoise(self.draw_particles(0, batch_size), self.draw_particles(0, batch_size))

    def draw_particles(self, n_particles: int, batch_size: int, generator: th.Generator | None = None) -> th.Tensor:
        return th.empty((batch_size, 0), dtype=self.actor.dtype, device=self.actor.device)

    def proposal(self, particles: th.Tensor) -> PolicySample:
        probability = particles.new_full((particles.shape[0], self.n_actions), 1.0 / self.n_actions)
        return PolicySample(None, probability.log(), probability)

    def policy(self, batch: Batch, next_q: th.Tensor, proposal: PolicySample, ent_coef: th.Tensor) -> PolicySample:
        """The policy at the states of the batch, which eq. 18 of P19 is about: the next ones may be terminal."""
        return energy_based_policy(self.critic.min_q(batch.observations, proposal), proposal, ent_coef)

    def improve_policy(self, batch: Batch, noise: ParticleNoise, ent_coef: th.Tensor) -> dict[str, th.Tensor]:
        self.actor.ent_coef.copy_(ent_coef)
        return {}


#: what differs between the kinds of action space
ActionKind = SampledActions | AllActions
