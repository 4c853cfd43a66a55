"""Reading the transition table of Gymnasium's toy-text environments."""

from typing import Any

import gymnasium
import numpy as np

from sb3_sac_variants.tabular.checks import BoolArray, FloatArray

#: wrappers whose ``step`` changes neither rewards nor actions: package and name, so that nothing has to be installed
_HARMLESS = {
    ("rl_zoo3", "PatchedTimeLimit"),  # which the zoo puts in place of TimeLimit
    ("stable_baselines3", "Monitor"),
    ("gymnasium", "Wrapper"),
    ("gymnasium", "ObservationWrapper"),
    ("gymnasium", "Autoreset"),
    ("gymnasium", "HumanRendering"),
    ("gymnasium", "OrderEnforcing"),
    ("gymnasium", "PassiveEnvChecker"),
    ("gymnasium", "RecordEpisodeStatistics"),
    ("gymnasium", "RecordVideo"),
    ("gymnasium", "RenderCollection"),
    ("gymnasium", "TimeAwareObservation"),
    ("gymnasium", "TimeLimit"),
}


def read_table(env: "gymnasium.Env[Any, Any]") -> tuple[FloatArray, FloatArray, BoolArray]:
    """
    Turn ``env.unwrapped.P`` into arrays; see :meth:`FiniteMDP.from_gymnasium` for what becomes of the ends of episodes.

    :param env: A toy-text environment, wrapped or not
    :return: ``transition`` (S, A, S), ``reward`` (S, A), ``terminal`` (S,)
    :raises TypeError: ``env`` is not a Gymnasium environment
    :raises ValueError: ``env`` has no such table, or one that does not describe how it steps
    """
    table = _table_of(env)
    n_states, n_actions = len(table), len(table[0])
    outcomes = [
        (state, action, probability, successor, reward, ended)
        for state in range(n_states)
        for action in range(n_actions)
        for probability, successor, reward, ended in table[state][action]
        if probability != 0
    ]
    columns = zip(*outcomes, strict=True)
    state, action, probability, successor, reward, ended = (np.array(column) for column in columns)
    # Numbers in place of booleans would be taken for indices
    successor, ended = successor.astype(np.int64), ended.astype(np.bool_)

    terminal = _terminal_states(env, n_states, state, successor, ended)
    detour = ended & ~terminal[successor]
    if detour.any():
        successor = np.where(detour, n_states, successor)
        terminal = np.append(terminal, True)

    transition = np.zeros((terminal.size, n_actions, terminal.size))
    expected_reward = np.zeros((terminal.size, n_actions))
    runs = ~terminal[state]
    np.add.at(transition, (state[runs], action[runs], successor[runs]), probability[runs])
    np.add.at(expected_reward, (state[runs], action[runs]), (probability * reward)[runs])
    over = np.flatnonzero(terminal)
    transition[over, :, over] = 1
    return transition, expected_reward, terminal


def _table_of(env: "gymnasium.Env[Any, Any]") -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:
    """The table P of an environment that steps as P says."""
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"env must be a gymnasium.Env, got {env!r}; make one with gymnasium.make('FrozenLake-v1')")
    table = getattr(env.unwrapped, "P", None)
    if not isinstance(table, dict) or not table:
        raise ValueError(
            f"env {env} has no transition table P, so its dynamics cannot be read; use FrozenLake, CliffWalking, Taxi "
            f"or another environment with one, or build FiniteMDP(transition, reward, gamma) from arrays"
        )
    numbered = set(table) == set(range(len(table)))
    if not numbered or not table[0] or any(set(row) != set(range(len(table[0]))) for row in table.values()):
        raise ValueError(
            f"env {env} must number the states and actions of its table P from 0 without gaps, the same actions in "
            f"every state; renumber them, or build FiniteMDP(transition, reward, gamma) from arrays"
        )
    if not any(outcomes for row in table.values() for outcomes in row.values()):
        raise ValueError(
            f"env {env} lists no outcome in its table P; mend it, or build FiniteMDP(transition, reward, gamma) from "
            f"arrays"
        )
    for state, row in table.items():
        for action, outcomes in row.items():
            if not all(_is_outcome(outcome, len(table)) for outcome in outcomes):
                raise ValueError(
                    f"env {env} has P[{state}][{action}]={outcomes!r} in its table, which must list outcomes "
                    f"(probability, successor, reward, ended) with a successor from 0 to {len(table) - 1}; mend it, or "
                    f"build FiniteMDP(transition, reward, gamma) from arrays"
                )
    layer: gymnasium.Env[Any, Any] = env
    while isinstance(layer, gymnasium.Wrapper):
        steps = next(cls for cls in type(layer).__mro__ if "step" in vars(cls))
        if (steps.__module__.partition(".")[0], steps.__name__) not in _HARMLESS:
            raise ValueError(
                f"env is wrapped in {type(layer).__name__}, whose step() its transition table does not show; pass "
                f"env.unwrapped, and change the reward or the actions of the arrays instead"
            )
        layer = layer.env
    if getattr(env.unwrapped, "fickle_passenger", False):
        raise ValueError(
            "env was made with fickle_passenger=True, and Taxi's transition table leaves out that the passenger may "
            "change the destination; use fickle_passenger=False"
        )
    return table


def _is_outcome(outcome: Any, n_states: int) -> bool:
    """Whether it is a probability, a state that exists, a reward and whether the episode ends."""
    try:
        _, successor, _, _ = outcome
        return 0 <= successor < n_states and int(successor) == successor
    except (TypeError, ValueError):
        return False


def _terminal_states(
    env: "gymnasium.Env[Any, Any]", n_states: int, state: np.ndarray, successor: np.ndarray, ended: np.ndarray
) -> BoolArray:
    """States that are entered only when an episode ends, as far as episodes get."""
    entered_at_end = np.zeros(n_states, dtype=np.bool_)
    entered_at_end[successor[ended]] = True
    start = np.asarray(getattr(env.unwrapped, "initial_state_distrib", None), dtype=np.float64)
    if start.shape != (n_states,):
        raise ValueError(
            f"env {env} must have a start distribution initial_state_distrib over its {n_states} states, which tells "
            f"the ends of episodes from the states on the way, got shape {start.shape}; set it, or build "
            f"FiniteMDP(transition, reward, gamma, terminal) from arrays"
        )
    visited = start > 0
    leads_to = np.zeros((n_states, n_states), dtype=np.bool_)
    leads_to[state[~ended], successor[~ended]] = True
    frontier = visited
    while frontier.any():
        frontier = leads_to[frontier].any(0) & ~visited
        visited = visited | frontier
    return entered_at_end & ~visited
