"""Several agents in Stable-Baselines3's single-agent world: PettingZoo parallel environments as Gymnasium ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .agent_rewards import AGENT_REWARDS, AGENT_TERMINATIONS, AGENT_TRUNCATIONS, MEAN_REWARD, as_numbers

_PAD = """pad the smaller ones:
    from sb3_sac_variants.envs import ParallelEnvAdapter
    env = ParallelEnvAdapter(parallel_env, pad=True)"""


class ParallelEnvAdapter(gym.Env[NDArray[Any], NDArray[Any]]):
    """
    Any PettingZoo ``ParallelEnv`` whose agents have like spaces, as one Gymnasium environment.

    - Observation: Box of shape (n_agents, d), a row for each agent in the order of ``agents``; the agents' bounds are
      stacked and may differ, length and dtype may not.
    - Action: the same, or MultiDiscrete ``[n] * n_agents`` if the agents' actions are Discrete.
    - Reward: the mean over the agents, a float for Monitor, evaluation and logging.
      ``info["agent_rewards"]``, float32 of shape (n_agents,), holds each agent's own; VecNormalize does not see it.
      ``info["mean_reward"]`` is the mean again, by which a wrapper that has changed it is found out.
    - Terminated when all agents have terminated; truncated when all have ended otherwise, also if only some terminated.
      ``info["agent_terminations"]`` and ``info["agent_truncations"]``, bool of shape (n_agents,), say whose own end a
      step was, in steps in which there is one. IndependentAgents goes by them; MASAC knows the joint end only.
    - ``info["agent_infos"]``: a dict for each agent, by agent, in steps and resets where some agent has one to say.

    Gymnasium's checker finds nothing amiss unless a space is unbounded or padded; Stable-Baselines3's checker warns of
    the unconventional observation shape, and of action bounds other than [-1, 1] (its policies rescale by themselves).
    Copying and pickling are as good as those of the environment inside.

    :param parallel_env: The PettingZoo environment. Its agents all start together
    :param pad: Whether agents may have vectors of different lengths, or different numbers of actions. Observations get
        zeros at their end; of an action the numbers that an agent has no use for are dropped, and a discrete action
        that it does not have is its action 0. To a policy all are alike: its entropy counts numbers and actions that
        do nothing, and equal probabilities make action 0 the likeliest. ``target_entropy="auto"`` is that of the
        largest agent; a number above it leaves the smaller ones less deterministic.
    :param keep_absent: Whether agents may leave before others. One that has left observes zeros, earns 0, and what it
        is said to do is not handed on, until the episode ends with the last of them; its entropy counts on. The bounds
        of observations are widened to have zero in them. Without it, RuntimeError when an agent leaves before others
    :raises TypeError: If it is not a ParallelEnv
    :raises ValueError: If it has no agents, if spaces are none of these kinds, or not alike
    """

    def __init__(self, parallel_env: Any, pad: bool = False, keep_absent: bool = False) -> None:
        _check_is_parallel_env(parallel_env)
        self.parallel_env = parallel_env
        self.pad = pad
        self.keep_absent = keep_absent
        #: Names of the agents; their order is that of the rows of observations, actions and agent rewards.
        self.agents: tuple[Any, ...] = tuple(parallel_env.possible_agents)
        if not self.agents:
            raise ValueError(f"parallel_env={parallel_env} has no possible_agents: there must be at least one")
        self.observation_space = _stacked("observation", self.agents, parallel_env.observation_space, pad)
        self.action_space = _stacked("action", self.agents, parallel_env.action_space, pad)
        if keep_absent:
            box: Any = self.observation_space
            self.observation_space = spaces.Box(np.minimum(box.low, 0), np.maximum(box.high, 0), dtype=box.dtype.type)
        #: Length of each agent's action, or number of its actions
        self._sizes = [_size(parallel_env.action_space(agent)) for agent in self.agents]
        self._shapes = {agent: parallel_env.observation_space(agent).shape for agent in self.agents}
        self.metadata = dict(getattr(parallel_env, "metadata", {}))
        self.render_mode = getattr(parallel_env, "render_mode", None)
        self._needs_reset = True
        #: Agents that have ended in this episode: whether they terminated
        self._ended: dict[Any, bool] = {}

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        return len(self.agents)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """
        Start an episode of all agents.

        :param seed: Handed to the environment inside; None goes on with its present generator
        :param options: Handed to the environment inside
        :return: Observations of shape (n_agents, d) and info
        :raises RuntimeError: If some agent is not there from the start
        """
        super().reset(seed=seed)
        observations, infos = self.parallel_env.reset(seed=seed, options=options)
        self._ended = {}
        self._check_present("reset", observations=observations)
        self._needs_reset = False
        return self._stack(observations), self._agent_infos(infos)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """
        Let every agent act at once.

        :param action: Actions of shape (n_agents, d), where values out of bounds are the environment's to judge, or
            numbers of discrete actions, shape (n_agents,)
        :return: Observations (n_agents, d), mean reward, terminated, truncated, info with ``agent_rewards``
        :raises ValueError: If the actions have another shape, are not finite, or are no numbers of discrete actions;
            if a reward is not one number
        :raises RuntimeError: If some agents leave before others without ``keep_absent``, or come back
        :raises gymnasium.error.ResetNeeded: Before the first reset and after the end of an episode
        """
        if self._needs_reset:
            raise gym.error.ResetNeeded("call reset() before step(), also after an episode has ended")
        present = [agent for agent in self.agents if agent not in self._ended]
        actions = self._by_agent(action)
        observations, rewards, terminations, truncations, infos = self.parallel_env.step(
            {agent: actions[agent] for agent in present}
        )
        self._check_present(
            "step", observations=observations, rewards=rewards, terminations=terminations, truncations=truncations
        )
        absent = list(self._ended)
        if back := [agent for agent in absent if agent in getattr(self.parallel_env, "agents", ())]:
            raise self._leaving_error(f"{back} came back after they had left")
        ended = {agent: bool(terminations[agent]) for agent in present if terminations[agent] or truncations[agent]}
        if 0 < len(ended) < len(present) and not self.keep_absent:
            raise self._leaving_error(
                f"of {list(self.agents)} only {list(ended)} ended in this step",
                ", or pass keep_absent=True, which keeps those that leave as zeros",
            )
        self._ended |= ended
        self._needs_reset = len(self._ended) == self.n_agents
        # What those that end in this step observe and earn in it is still their own
        zeros = {agent: np.zeros(self._shapes[agent], self.observation_space.dtype) for agent in absent}
        observations, rewards = {**observations, **zeros}, {**rewards, **dict.fromkeys(absent, 0.0)}

        agent_rewards = as_numbers([rewards[agent] for agent in self.agents], self.n_agents, np.float64)
        if agent_rewards is None:
            raise ValueError(
                f"{self.parallel_env} gave rewards={rewards!r}: let its step() give one number for each agent"
            )
        reward = float(agent_rewards.mean())
        info = {AGENT_REWARDS: agent_rewards.astype(np.float32), MEAN_REWARD: reward, **self._agent_infos(infos)}
        if ended:
            info[AGENT_TERMINATIONS] = np.array([ended.get(agent, False) for agent in self.agents])
            info[AGENT_TRUNCATIONS] = np.array([agent in ended and not ended[agent] for agent in self.agents])
        terminated = self._needs_reset and all(self._ended.values())
        truncated = self._needs_reset and not terminated
        return self._stack(observations), reward, terminated, truncated, info

    def render(self) -> Any:
        """
        Draw as the environment inside does.

        :return: Whatever its render mode gives: for "rgb_array" a frame of shape (height, width, 3), uint8
        """
        return self.parallel_env.render()

    def close(self) -> None:
        """Close the environment inside."""
        self.parallel_env.close()

    def _by_agent(self, action: NDArray[Any]) -> dict[Any, Any]:
        """Each agent's own action, checked."""
        shape, given = self.action_space.shape, np.asarray(action)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            if given.dtype.kind not in "iu" or not self.action_space.contains(given):
                raise ValueError(
                    f"action must be whole numbers from 0 to {self.action_space.nvec[0] - 1}, of shape (n_agents,) = "
                    f"{shape}, got shape {given.shape}: {action!r}"
                )
            numbers = zip(given.tolist(), self._sizes, strict=True)
            return dict(zip(self.agents, (number if number < n else 0 for number, n in numbers), strict=True))
        actions = np.array(given, dtype=self.action_space.dtype)
        if actions.shape != shape or not np.isfinite(actions).all():
            raise ValueError(
                f"action must be finite and of shape (n_agents, d) = {shape}, got shape {actions.shape}: {action!r}"
            )
        return {agent: row[:size] for agent, row, size in zip(self.agents, actions, self._sizes, strict=True)}

    def _stack(self, observations: Mapping[Any, NDArray[Any]]) -> NDArray[Any]:
        rows = [np.asarray(observations[agent]) for agent in self.agents]
        for agent, row in zip(self.agents, rows, strict=True):
            if row.shape != (shape := self._shapes[agent]):
                raise ValueError(
                    f"{self.parallel_env} gave {agent!r} an observation of shape {row.shape}, and its "
                    f"observation_space says {shape}: let both be the same"
                )
        if self.pad:
            assert self.observation_space.shape is not None
            rows = [np.pad(row, (0, self.observation_space.shape[1] - len(row))) for row in rows]
        stacked, dtype = np.stack(rows), self.observation_space.dtype
        if stacked.dtype.kind == "f" and np.dtype(dtype).kind != "f":
            raise ValueError(
                f"{self.parallel_env} gave observations of {stacked.dtype}, and its observation_space says {dtype}: "
                "let both be the same"
            )
        return stacked.astype(dtype, copy=False)

    def _agent_infos(self, infos: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
        # Copied: environments reuse these dicts from step to step, callers keep what they were given.
        agent_infos = {agent: dict(infos.get(agent, {})) for agent in self.agents}
        return {"agent_infos": agent_infos} if any(agent_infos.values()) else {}

    def _check_present(self, call: str, **results: Mapping[Any, Any]) -> None:
        for name, by_agent in results.items():
            missing = [agent for agent in self.agents if agent not in by_agent and agent not in self._ended]
            if missing:
                raise self._leaving_error(f"{call}() gave no {name} for {missing} of {list(self.agents)}")

    def _leaving_error(self, what: str, remedy: str = "") -> RuntimeError:
        return RuntimeError(
            f"{self.parallel_env}: {what}. Agents that come or leave at different times have no place in arrays of "
            f"shape (n_agents, d): use an environment whose agents start and end together{remedy}"
        )


def _check_is_parallel_env(parallel_env: Any) -> None:
    if hasattr(parallel_env, "agent_iter"):
        raise TypeError(
            f"parallel_env={parallel_env} is an AECEnv, whose agents act in turn: "
            "convert it with pettingzoo.utils.aec_to_parallel, or use the environment's parallel_env()"
        )
    methods = ("observation_space", "action_space", "reset", "step")
    if not hasattr(parallel_env, "possible_agents") or not all(
        callable(getattr(parallel_env, name, None)) for name in methods
    ):
        raise TypeError(
            f"parallel_env must be a PettingZoo ParallelEnv with possible_agents, got {parallel_env!r} "
            f"of type {type(parallel_env).__name__}"
        )


def _stacked(
    kind: str, agents: tuple[Any, ...], space_of: Callable[[Any], spaces.Space[Any]], pad: bool
) -> spaces.Box | spaces.MultiDiscrete:
    """
    One space of all agents: Box of shape (n_agents, d), or MultiDiscrete ``[n] * n_agents``.

    :param kind: "observation" or "action", for messages
    :param agents: The agents, in order
    :param space_of: Gives an agent's space
    :param pad: Whether the smaller ones are to be made as large as the largest
    :return: Their bounds, stacked
    :raises ValueError: If a space is of the wrong kind or the spaces are not alike
    """
    agent_spaces = {agent: space_of(agent) for agent in agents}
    for agent, space in agent_spaces.items():
        complaint = _complaint(kind, space)
        if complaint:
            raise ValueError(f"agent {agent!r} has the {kind} space {space}: {complaint}")
    if len({(type(space), space.dtype) for space in agent_spaces.values()}) > 1:
        raise _unlike(kind, "kind and dtype", agent_spaces, "create the environment with agents of one kind")
    sizes = [_size(space) for space in agent_spaces.values()]
    largest = max(sizes)
    if min(sizes) < largest and not pad:
        raise _unlike(kind, "size", agent_spaces, _PAD)
    boxes = [space for space in agent_spaces.values() if isinstance(space, spaces.Box)]
    if not boxes:
        return spaces.MultiDiscrete([largest] * len(agents))
    # An observation's padding is always zero; an action's may be anything, between the bounds of those who have it
    edge = 0 if kind == "observation" else np.nan
    low, high = (
        np.stack([np.pad(bound, (0, largest - len(bound)), constant_values=edge) for bound in bounds])
        for bounds in zip(*((box.low, box.high) for box in boxes), strict=True)
    )
    low = np.where(np.isnan(low), np.nanmin(low, axis=0), low)
    high = np.where(np.isnan(high), np.nanmax(high, axis=0), high)
    return spaces.Box(low, high, dtype=boxes[0].dtype.type)


def _size(space: spaces.Space[Any]) -> int:
    """Length of a vector, or number of discrete actions."""
    return int(space.n) if isinstance(space, spaces.Discrete) else space.shape[0]  # type: ignore[index]


def _unlike(kind: str, what: str, agent_spaces: Mapping[Any, spaces.Space[Any]], remedy: str) -> ValueError:
    listing = ", ".join(f"{agent!r}: {space}" for agent, space in agent_spaces.items())
    return ValueError(f"{kind} spaces must have the same {what} for all agents, but they are {listing}: {remedy}")


def _complaint(kind: str, space: spaces.Space[Any]) -> str | None:
    """
    Say what is wrong with an agent's space, and the remedy.

    :param kind: "observation" or "action"
    :param space: The space
    :return: None if it is a Box of shape (d,), for actions one of real numbers, or Discrete from 0
    """
    if kind == "action" and isinstance(space, spaces.Discrete):
        return None if space.start == 0 else "number the actions from 0"
    if not isinstance(space, spaces.Box):
        if kind == "action":
            return "actions must be Box or Discrete, create the environment with one of these kinds"
        return "observations must be a Box, encode them as vectors"
    if len(space.shape) != 1:
        return f"{kind}s must be vectors, Box of shape (d,), flatten them first (SuperSuit's flatten_v0)"
    if kind == "action" and not np.issubdtype(space.dtype, np.floating):
        return "actions must be real numbers, let the environment take floats and round them itself"
    return None
