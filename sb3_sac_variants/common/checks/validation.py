"""Checks of arguments: every error names the argument, its value and the remedy."""

import copy
import math
import sys
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise

from sb3_sac_variants.common.checks.random_state import random_state, set_random_state

#: what is beyond it becomes infinite in single precision: in the replay buffer, and in an update
LARGEST = float(np.finfo(np.float32).max)
#: smallest normal number of single precision
SMALLEST = float(np.finfo(np.float32).tiny)
#: up to which single precision tells integers apart
FINEST = 2**24
#: largest whole number among the arguments: with more steps a run would seem to hang, and more units fit no memory
MOST = 2**31 - 1


def plain(value: Any) -> Any:
    """Make a Python number of a NumPy or torch scalar, which neither JSON nor a schedule takes; leave the rest."""
    return value.item() if isinstance(value, np.generic | np.ndarray | th.Tensor) and value.ndim == 0 else value


def as_float(value: Any) -> float:
    """
    Make a float of an argument. Unlike ``float()`` refuse switches, and underscores between digits: "0_5" would be 5.

    :param value: a number, or text
    :raises ValueError, TypeError, OverflowError: if it is none
    """
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError
    return float(value)


def check_bool(name: str, value: Any) -> None:
    """Raise a ``ValueError`` for a switch that is neither True nor False: any string would count as True."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not allowed: pass True or False")


def check_device(device: Any) -> None:
    """
    Check that torch knows a device; that it is there is said by torch.

    :param device: "auto", or anything that names a device
    :raises ValueError: if it names none
    """
    try:
        th.device("cpu" if device == "auto" else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not known: pass 'auto', 'cpu', 'cuda' or 'cuda:0'") from error


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` if an argument is none of the ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known: pass one of {', '.join(map(repr, choices))}")


def check_range(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    integer: bool = False,
) -> None:
    """
    Check that an argument is a number within bounds.

    :param name: of the argument
    :param value: its value
    :param low: smallest value allowed
    :param high: largest value allowed
    :param low_open: whether ``low`` itself is excluded
    :param integer: whether only whole numbers are allowed, by default up to :data:`MOST`
    :raises ValueError: if the value is out of range, or no number
    """
    if integer and high == math.inf:
        high = MOST
    types = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    # A Python integer of any size compares with a float; only floats need not be finite
    good = isinstance(value, types) and not isinstance(value, bool)
    good = good and (isinstance(value, int) or math.isfinite(value)) and abs(plain(value)) <= sys.float_info.max
    if not good or value > high or value < low or (low_open and value == low):
        kind = "an integer" if integer else "a number"
        wanted = f"{kind} {'greater than' if low_open else 'at least'} {low:g}" if math.isfinite(low) else kind
        if math.isfinite(high):
            wanted += f" and at most {high}" if isinstance(high, int) else f" and at most {high:g}"
        raise ValueError(f"{name}={value!r} is not allowed: pass {wanted}")


def learning_rate_at(progress: float, name: str, rate: Any) -> float:
    """
    A learning rate, checked.

    :param progress: what remains of the run, from 1 to 0
    :param name: of the argument
    :param rate: a number, or a function of the remaining progress
    :raises ValueError: if it is no number of at least 0 in single precision, and gives none
    """
    value = rate
    if callable(rate):
        try:
            value = float(rate(progress))
        except Exception as error:
            raise ValueError(
                f"{name}={rate!r} is no function of the remaining progress, which goes from 1.0 to 0.0 (with "
                f"{progress:g} it raises {type(error).__name__}: {error}): pass a number at least 0, or a function "
                "that gives one"
            ) from error
        name = f"{name}({progress:g})"
        if -1e-12 < value < 0:  # by rounding, as SB3's LinearSchedule gives at its end
            value = 0.0
    check_range(name, value, 0, LARGEST)
    return value


def parse_ent_coef(ent_coef: str | float) -> tuple[float, bool]:
    """
    Read the temperature from its argument.

    :param ent_coef: a number, "auto" or "auto_<initial value>"
    :return: (initial) temperature, and whether it is learned
    :raises ValueError: if it is neither, or has no meaning as a temperature
    """
    remedy = "pass a number of at least 0, 'auto', or 'auto_<initial value>' with an initial value greater than 0"
    learned = isinstance(ent_coef, str) and ent_coef.startswith("auto")
    try:
        if isinstance(ent_coef, str) and learned:
            text = ent_coef[len("auto") :]
            if text and not text.startswith("_"):
                raise ValueError
            value = as_float(text[1:]) if text else 1.0
        else:
            value = as_float(ent_coef)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"ent_coef={ent_coef!r} is not a temperature: {remedy}") from None
    if not 0 <= value <= LARGEST or (learned and value < SMALLEST):
        raise ValueError(f"ent_coef={ent_coef!r} is not a temperature: {remedy}")
    return value, learned


def check_action_space(space: spaces.Space, supported: tuple[type[spaces.Space], ...], algorithm: str) -> None:
    """
    Check that an action space is supported and bounded.

    :param space: the environment's action space
    :param supported: classes the algorithm can do
    :param algorithm: its name
    :raises ValueError: if the space is of another class, or not bounded
    """
    if not isinstance(space, supported):
        names = " or ".join(cls.__name__ for cls in supported)
        several = isinstance(space, spaces.MultiDiscrete) and len(set(space.nvec.flat)) == 1
        remedy = "; for those of several agents take MASAC, or sb3_sac_variants.envs.IndependentAgents"
        raise ValueError(
            f"{algorithm} does not support action_space={space}: it needs {names}. Wrap the environment so that its "
            f"actions are of that kind{remedy * several}"
        )
    if not isinstance(space, spaces.Box):
        return
    if math.prod(space.shape or (0,)) == 0:
        raise ValueError(
            f"action_space={space} is no array of at least one number, which {algorithm} needs: wrap the environment "
            "so that it is, for example in gymnasium.wrappers.TransformAction(env, lambda action: action[0], "
            "gymnasium.spaces.Box(low, high, (1,)))"
        )
    where = f"got action_space={space} with low={space.low} and high={space.high}"
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"{algorithm} needs finite action bounds, {where}: bound it, for example with "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, gymnasium.spaces.Box(low, high, "
            f"{space.shape}))"
        )
    extent = space.high.astype(np.float64) - space.low.astype(np.float64)
    if space.dtype.kind in "iu" and (extent > FINEST).any():
        raise ValueError(
            f"{algorithm} acts in single precision, which has no number for each action between bounds more than "
            f"{FINEST} apart, {where}: wrap the environment so that its actions are of a floating-point type"
        )
    if not ((extent > 0) & (extent <= LARGEST)).all():
        raise ValueError(
            f"{algorithm} needs action bounds with low < high, and no further apart than {LARGEST:.2g}, {where}: leave "
            "out actions that do nothing, or bound them, for example with gymnasium.wrappers.TransformAction"
        )


def check_discrete_start(space: spaces.Space) -> None:
    """Raise a ``ValueError`` if the first action is not number 0: networks and replay buffers count from there."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(
            f"action_space={space} starts at {space.start}, and must at 0: wrap the environment with "
            f"gymnasium.wrappers.TransformAction(env, lambda a: a + {space.start}, spaces.Discrete({space.n}))"
        )


def check_sde(use_sde: bool, space: spaces.Space) -> None:
    """Raise a ``ValueError`` if gSDE is to explore and the actions are not continuous."""
    if use_sde and not isinstance(space, spaces.Box):
        raise ValueError(
            f"use_sde={use_sde} needs continuous actions, not {space}: pass use_sde=False, the policy explores itself"
        )


def check_action_noise(noise: ActionNoise | None, space: spaces.Space) -> None:
    """
    Check that action noise can be added to an action, and has its shape.

    :param noise: noise to add to actions, for one environment or several
    :param space: the environment's action space
    :raises ValueError: if actions are no numbers to add to, or of another shape; NumPy would stretch noise over agents
        or environments
    """
    if noise is None:
        return
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"action_noise={noise} cannot be added to actions of {space}: leave it out, the policy explores by itself"
        )
    state = random_state(th.device("cpu"))
    shape = np.shape(copy.deepcopy(getattr(noise, "base_noise", noise))())
    set_random_state(state, th.device("cpu"))  # the run's random numbers stay untouched
    if shape != space.shape and not (len(space.shape) < 2 and math.prod(shape) == 1):
        raise ValueError(
            f"action_noise={noise} gives numbers of shape {shape}, and actions have {space.shape}: pass noise with a "
            f"mean of that shape, for example NormalActionNoise(np.zeros({space.shape}), 0.1 * np.ones({space.shape}))"
        )
