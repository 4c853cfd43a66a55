"""
Checks of arguments that the tabular modules share.

Each takes the argument's name, its value as the caller passed it, and for arrays the expected axes as text, such as
``"(S, A)"``; it gives the value back in its proper type. Each raises TypeError for a wrong type and ValueError for a
wrong value; the message names the argument, its value and the remedy.
"""

import math
import numbers
import operator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: How far a row of probabilities may be from summing to one.
ROW_SUM_TOLERANCE = 1e-8


def real_array(name: str, value: ArrayLike, axes: str) -> FloatArray:
    """Give ``value`` as a float64 array, which may share its memory."""
    try:
        raw = np.asarray(value)
    except ValueError as error:
        raise TypeError(
            f"{name} must be an array of shape {axes}, got {value!r}; make its rows equally long"
        ) from error
    if raw.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {raw.dtype} from {value!r}; convert it to float64")
    return raw.astype(np.float64, copy=False)


def finite_array(name: str, value: ArrayLike, axes: str, shape: tuple[int, ...] | None = None) -> FloatArray:
    """
    Give ``value`` as a float64 array without NaN or infinity, which may share its memory.

    :param axes: Their number must fit
    :param shape: The expected shape, where it is known
    """
    array = real_array(name, value, axes)
    if shape is None and (array.ndim != axes.count(",") + 1 or array.size == 0):
        raise ValueError(f"{name} must have the axes {axes}, none of them empty, got shape {array.shape}; reshape it")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {axes} = {shape}, got {array.shape}; reshape or transpose it")
    if not np.isfinite(array).all():
        where = _first(~np.isfinite(array))
        raise ValueError(f"{name}{list(where)} is {array[where]}; replace NaN and infinite entries by finite numbers")
    return array


def probability_array(name: str, value: ArrayLike, axes: str, shape: tuple[int, ...] | None = None) -> FloatArray:
    """Give ``value`` as a :func:`finite_array` whose last axis holds probability distributions, which sum to one."""
    array = finite_array(name, value, axes, shape)
    if (array < 0).any():
        where = _first(array < 0)
        raise ValueError(
            f"{name}{list(where)} is {array[where]}; probabilities must not be negative, so mend this entry"
        )
    total = array.sum(-1)
    wrong = np.abs(total - 1) > ROW_SUM_TOLERANCE
    if wrong.any():
        where = _first(wrong)
        raise ValueError(
            f"{name}{list(where)} sums to {total[where]:.12g} over its last axis; every row must sum to one: "
            f"divide it by its sum, or add the missing outcome"
        )
    return array / total[..., None]  # a sum above one by the tolerance would undo a discount close to one


def real_number(name: str, value: Any) -> float:
    """Give ``value`` as a finite float; a bool is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}; pass a float")
    try:
        number = float(value)
    except OverflowError:  # an integer of any size
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}; pass a finite number")
    return number


def positive_number(name: str, value: Any, remedy: str) -> float:
    """
    Give ``value`` as a float above zero.

    :param remedy: What to do about a number that is not positive
    """
    number = real_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be positive, got {number:g}; {remedy}")
    return number


def positive_integer(name: str, value: Any) -> int:
    """Give ``value`` as an int above zero; a bool is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}; pass an int")
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}; pass 1 or more")
    return int(value)


def agent_index(agent: SupportsIndex, n_agents: int) -> int:
    """Give the number of an agent, from 0."""
    try:
        index = operator.index(agent)
    except TypeError as error:
        raise TypeError(f"agent must be an integer, got {agent!r}; number the agents from 0") from error
    if not 0 <= index < n_agents:
        raise ValueError(f"agent must lie between 0 and {n_agents - 1}, got {index}; number the agents from 0")
    return index


def temperature(value: Any) -> float:
    """Check alpha, which must be positive."""
    return positive_number("alpha", value, "for the hard limit (value iteration) use a small temperature such as 1e-6")


def tolerance(value: Any) -> float:
    """Check the change at which an iteration stops, which must be positive."""
    return positive_number("tolerance", value, "use 1e-8, say")


def discount(value: Any) -> float:
    """Check gamma, which must lie in [0, 1)."""
    gamma = real_number("gamma", value)
    if not 0 <= gamma < 1:
        raise ValueError(
            f"gamma must lie in [0, 1), got {gamma:g}; use 0.99, say, since the backups contract at rate gamma"
        )
    return gamma


def terminal_mask(value: ArrayLike | None, n_states: int) -> BoolArray:
    """Give a copy of a mask of terminal states, shape (S,); None stands for no terminal state."""
    if value is None:
        return np.zeros(n_states, dtype=np.bool_)
    mask = np.array(value)
    if mask.dtype != np.bool_:
        raise TypeError(f"terminal must be a boolean mask, got dtype {mask.dtype}; pass one bool for each state")
    if mask.shape != (n_states,):
        raise ValueError(
            f"terminal must have shape (S,) = ({n_states},), got {mask.shape}; pass one bool for each state"
        )
    return mask


def read_only(array: NDArray[Any], source: ArrayLike) -> NDArray[Any]:
    """Protect a checked array from later changes, also of ``source``, the array that the caller still holds."""
    kept = array.copy() if np.may_share_memory(array, np.asarray(source)) else array
    kept.flags.writeable = False
    return kept


def _first(mask: BoolArray) -> tuple[int, ...]:
    """Index of the first true entry."""
    return tuple(int(i) for i in np.argwhere(mask)[0])
