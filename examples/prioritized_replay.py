"""
Prioritised experience replay: transitions that surprise the critics are drawn more often.

Paper: Schaul et al. 2016, https://arxiv.org/abs/1511.05952 (proportional prioritisation). Any algorithm of this package
takes the replay buffer below. After each update it is told the error of each transition that it gave; the weights
that it gives correct the critics' loss for the unequal odds.

    python examples/prioritized_replay.py
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

import gymnasium as gym
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_sac_variants import SACv2
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer


class PrioritizedSamples(NamedTuple):
    """SB3's ``ReplayBufferSamples`` with ``weights``, ``(B, 1)``, and ``indices``, ``(B,)``, of the transitions."""

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    weights: th.Tensor
    indices: th.Tensor


class PrioritizedReplayBuffer(TensorReplayBuffer):
    """
    Draws a transition with probability p_i / sum_k p_k, where p_i = (error_i + epsilon)^alpha.

    All of it happens on the training device, so that the engines "compile" and "cudagraph" run it too.

    :param args: as :class:`~sb3_sac_variants.common.replay.buffers.TensorReplayBuffer`
    :param alpha: how much the errors count; with 0 the draw is uniform
    :param beta: how much of the unequal odds the weights correct, from 0 to 1
    :param epsilon: keeps transitions without an error from never being drawn again
    :param kwargs: as ``args``
    """

    def __init__(self, *args: Any, alpha: float = 0.6, beta: float = 0.4, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True does not go with PrioritizedReplayBuffer: leave it out")
        self.alpha, self.epsilon = alpha, epsilon
        self._beta = th.tensor(beta, device=self.device)
        #: p_i of each row of the memory, 0 where nothing is stored
        self.priorities = th.zeros(self.buffer_size * self.n_envs, device=self.device)
        #: new transitions get the highest priority so far, so that each is soon drawn once
        self.highest = th.ones((), device=self.device)

    @property
    def beta(self) -> th.Tensor:
        """How much of the unequal odds the weights correct; to be set to a number at any time."""
        return self._beta

    @beta.setter
    def beta(self, beta: float) -> None:
        self._beta.fill_(beta)  # in the memory that a captured graph reads

    @property
    def signature(self) -> Hashable:
        """Changes with what a captured graph takes for granted, so that it is captured anew."""
        return super().signature, self.alpha, self.epsilon, self.priorities.data_ptr()

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store one step of all environments."""
        first = self.pos * self.n_envs
        super().add(*args, **kwargs)
        self.priorities[first : first + self.n_envs] = self.highest

    def draw_rows(self, batch_size: int) -> th.Tensor:
        """Draw rows of the memory by their priorities, ``(batch_size,)``."""
        cumulative = self.priorities.cumsum(0, dtype=th.float64)
        points = cumulative[-1] * th.rand(batch_size, dtype=th.float64, device=self.device)
        return th.searchsorted(cumulative, points, right=True).clamp(max=len(cumulative) - 1)

    def draw(self, batch_size: int) -> PrioritizedSamples:  # type: ignore[override]
        """Draw a batch; its weights are scaled so that the largest is 1."""
        rows = self.draw_rows(batch_size)
        weights = self.priorities[rows].pow(-self.beta)
        return PrioritizedSamples(*self.gather(rows), (weights / weights.max()).unsqueeze(1), rows)

    def update_priorities(self, indices: th.Tensor, errors: th.Tensor) -> None:
        """
        Take over the errors of transitions; the algorithm calls it after each update.

        Of a row that was drawn twice one of its errors is kept; on a GPU it is not certain which.

        :param indices: their rows, as :meth:`draw` gave them
        :param errors: their temporal-difference errors, ``(B,)``
        """
        priorities = (errors + self.epsilon).pow(self.alpha)
        self.priorities[indices] = priorities
        self.highest.copy_(th.maximum(self.highest, priorities.max()))

    def reset(self) -> None:
        """Forget all transitions."""
        super().reset()
        if hasattr(self, "priorities"):  # SB3 calls this before they exist
            self.priorities.zero_()

    def to(self, device: th.device | str) -> "PrioritizedReplayBuffer":
        """Move to another device."""
        super().to(device)
        self._beta, self.priorities, self.highest = (
            tensor.to(self.device) for tensor in (self._beta, self.priorities, self.highest)
        )
        return self


class AnnealBeta(BaseCallback):
    """Raises the replay's ``beta`` from a first value to 1 at the end of training, as the paper does."""

    def __init__(self, first: float):
        super().__init__()
        self.first = first

    def _on_training_start(self) -> None:
        self.buffer: PrioritizedReplayBuffer = self.model.replay_buffer  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        remaining = max(0.0, 1.0 - self.num_timesteps / self.locals["total_timesteps"])
        self.buffer.beta = 1.0 - (1.0 - self.first) * remaining  # type: ignore[assignment]
        return True


def main(timesteps: int = 5_000) -> None:
    model = SACv2(
        "MlpPolicy",
        "Pendulum-v1",
        learning_rate=1e-3,
        replay_buffer_class=PrioritizedReplayBuffer,
        replay_buffer_kwargs={"alpha": 0.6, "beta": 0.4},
        seed=0,
    )
    model.learn(timesteps, callback=AnnealBeta(0.4), progress_bar=False)

    mean, std = evaluate_policy(model, Monitor(gym.make("Pendulum-v1")), n_eval_episodes=10)
    print(f"Return over 10 deterministic episodes: {mean:.0f} +/- {std:.0f} (random: about -1200)")
    priorities = model.replay_buffer.priorities[:timesteps]  # type: ignore[union-attr]
    top = priorities.sort(descending=True).values[: timesteps // 10].sum() / priorities.sum()
    print(f"The tenth of the transitions with the largest errors is drawn {100 * top:.0f} % of the time")


if __name__ == "__main__":
    main()
