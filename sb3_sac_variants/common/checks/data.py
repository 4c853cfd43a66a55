"""Checks of what goes to and fro between networks and environments: actions, observations, rewards."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_sac_variants.common.checks.validation import LARGEST


class DivergedError(ValueError):
    """
    A network whose output is no number any more. A ``ValueError``, so that the zoo's tuning prunes such a trial.

    :param policy: name of the policy
    :param step: environment steps so far, where they are known
    """

    def __init__(self, policy: str, step: int | None = None):
        self.policy, self.step = policy, step
        when = "" if step is None else f" at step {step}"
        super().__init__(
            f"{policy} has diverged{when}: its actions are not finite, and none of them reached the environment. "
            "Likely causes: a learning_rate or reward_scale that is too large, or observations or rewards of very "
            "different sizes. Lower the first two, or wrap the environment in "
            "stable_baselines3.common.vec_env.VecNormalize"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.policy, self.step)

    def at(self, step: int) -> "DivergedError":
        """The same error with the environment steps so far, where it does not have them yet."""
        return self if self.step is not None else DivergedError(self.policy, step)


def check_actions(actions: np.ndarray, policy: str) -> None:
    """
    Stop a network that has diverged before its actions reach an environment.

    :param actions: in [-1, 1], or numbers of actions, negative where there is none
    :param policy: name of the policy
    :raises DivergedError: if one is NaN or infinite, or none
    """
    # The sum of squares is cheap, and finite if each of them is
    if (actions < 0).any() if actions.dtype.kind == "i" else not np.vdot(actions, actions) <= LARGEST:
        raise DivergedError(policy)


def check_observation(observation: Any) -> None:
    """Raise a ``ValueError`` if an observation is NaN or infinite, in single precision."""
    for key, value in observation.items() if isinstance(observation, dict) else [(None, observation)]:
        array = _at_least_single(np.asarray(value))
        if array.dtype.kind == "f" and not (np.abs(array) <= LARGEST).all():
            name = "observation" if key is None else f"observation[{key!r}]"
            raise ValueError(f"{name}={value!r} is not finite: pass finite numbers") from None


def _at_least_single(values: np.ndarray) -> np.ndarray:
    """In half precision, no number but infinity would be beyond :data:`LARGEST`, and infinity would not."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def check_observation_shape(name: str, values: Any, space: spaces.Space, n_envs: int, first_env: int = 0) -> None:
    """
    Refuse observations of another shape than the space has: flattened, they would be learned from in another order.

    :param name: what the values are
    :param values: one row for each environment, or a dictionary of such
    :param first_env: number of the environment of the first row
    :raises ValueError: if it is another one; names both
    """
    environments = f"{n_envs} environments" if n_envs > 1 else f"environment {first_env}"
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            if key not in values:
                raise ValueError(
                    f"{name} of {environments} has no {key!r}, and {space} wants it: let what reset() and step() "
                    "return, and observation_space, be the same"
                )
            check_observation_shape(f"{name}[{key!r}]", values[key], part, n_envs, first_env)
        return
    assert space.shape is not None
    shape, expected = np.shape(values), (n_envs, *space.shape)
    if shape != expected:
        if n_envs == 1:
            shape, expected = shape[1:], space.shape
        found = f"is a dictionary of {[*values]}" if isinstance(values, dict) else f"has shape {shape}"
        remedy = "let what reset() and step() return, and observation_space, be the same"
        if name.startswith("terminal"):
            remedy += (
                "; a wrapper of a VecEnv that changes observations changes infos[...]['terminal_observation'], too"
            )
        raise ValueError(f"{name} of {environments} {found}, and {space} wants {expected}: {remedy}")


def check_finite(name: str, values: np.ndarray | dict[str, np.ndarray], step: int, first_env: int = 0) -> None:
    """
    Refuse data that would silently poison the replay buffer.

    :param name: what the values are
    :param values: one row for each environment, or a dictionary of such
    :param step: total number of environment steps so far
    :param first_env: number of the environment of the first row
    :raises ValueError: if one is NaN or infinite (in single precision); names the environment and the step
    """
    if isinstance(values, dict):
        for key, value in values.items():
            check_finite(f"{name}[{key!r}]", value, step, first_env)
        return
    if values.dtype.kind != "f":
        return
    values = _at_least_single(values)
    if np.vdot(values, values) <= LARGEST:  # cheap: the sum of squares bounds each of them
        return
    finite = np.abs(values) <= LARGEST
    if finite.all():
        return
    rows = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1))
    environments = ", ".join(str(first_env + row) for row in rows)
    key = name.partition("[")[2].removesuffix("]")
    mended = f"numpy.nan_to_num(x{f'[{key}]' * bool(key)})"
    if not np.isnan(values[~finite]).all():  # infinity becomes a number of double precision
        mended += ".clip(-1e3, 1e3)"
    wrapper = f"TransformObservation(env, lambda x: {f'x | {{{key}: {mended}}}' if key else mended}, None)"
    if name == "reward":
        wrapper = f"TransformReward(env, lambda x: {mended})"
    raise ValueError(
        f"{name} of environment {environments} at step {step} is not finite: {values[rows[0]]}. Fix the "
        f"environment, or wrap it: gymnasium.wrappers.{wrapper} makes finite numbers of them, "
        "stable_baselines3.common.vec_env.VecCheckNan finds the cause. The value was kept out of the replay buffer"
    )
