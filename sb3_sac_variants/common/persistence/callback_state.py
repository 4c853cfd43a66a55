"""
Save what callbacks remember, and give it back to callbacks built the same way.

A callback's state is what it holds of plain data, and the state of environments of its own: counters, the best mean
reward and the evaluations of ``EvalCallback``, and where its environment is. An attribute keeps its new value where the
new callback began with another one than the old: another limit, or what follows from it. How large data began is not
kept; of these, arguments of the constructor keep their new value. So do texts, which may name a file, except inside
containers.
"""

import collections
import copy
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import VecEnv

from sb3_sac_variants.common.checks.compatibility import constructor_arguments
from sb3_sac_variants.common.persistence import env_state
from sb3_sac_variants.common.persistence.files import Refusal, file_errors
from sb3_sac_variants.common.persistence.rebuild import name_of

CallbackState = dict[str, Any]

#: parts that data has at the most of which callbacks keep what it was at the start
_SMALL = 1000
#: where a callback keeps what it held at the start of its first ``learn()``
_START = "_state_at_start"
_NOT_STATE = ("globals", "locals", "model", "parent", _START)
_PLAIN = (type(None), bool, int, float, str, bytes, np.ndarray)
_CONTAINERS = (dict, collections.OrderedDict, list, tuple, set, collections.deque)


def note_start(root: BaseCallback) -> None:
    """Have the callbacks of a ``learn()`` that begins keep what they hold before they have seen anything."""
    for _, callback in _named(root):
        if _START not in vars(callback):
            small = {name: value for name, value in vars(callback).items() if is_small(value)}
            vars(callback)[_START] = copy.deepcopy(_plain_ones(callback, small))


def get_state(root: BaseCallback | None) -> dict[str, CallbackState]:
    """
    Take the state of callbacks.

    :param root: the callback of a ``learn()``, None if there is none
    :return: the state of it and of those inside it, by name
    """
    return {name: _state(callback) for name, callback in _named(root)}


def set_state(
    root: BaseCallback,
    states: dict[str, CallbackState],
    trusted: bool,
    path: pathlib.Path,
    call: str = "load_checkpoint",
) -> None:
    """
    Give callbacks their state back; one that was not there begins anew.

    :param root: the callback of a ``learn()``
    :param states: what :func:`get_state` gave
    :param trusted: whether to build whatever the states of environments describe
    :param path: the file they are from, for errors
    :param call: what reads it, likewise
    :raises ValueError: if an environment is not built as the one of the state, or its state needs to be trusted
    """
    with file_errors(path, call):
        for name, callback in _named(root):
            state = states.get(name, {"attributes": {}, "start": {}, "envs": {}})
            for attribute, value in state["attributes"].items():
                if _takes(callback, attribute, value, state["start"]):
                    vars(callback)[attribute] = value
            for attribute, groups in state["envs"].items():
                env = getattr(callback, attribute, None)
                if not isinstance(env, VecEnv):
                    continue
                if len(env_state.layers(env)) != len(groups):
                    raise Refusal(
                        f"{attribute} of {type(callback).__name__} is not built as in the interrupted run: build it as "
                        "there, wrappers included"
                    )
                env_state.set_states(env, groups, trusted)


def _named(root: BaseCallback | None) -> Iterator[tuple[str, BaseCallback]]:
    """All callbacks inside one, by their class and how many of it came before."""
    counts: collections.Counter[str] = collections.Counter()
    for callback in _all(root, []):
        cls = name_of(callback)
        yield f"{cls} {counts[cls]}", callback
        counts[cls] += 1


def _all(callback: Any, seen: list[Any]) -> Iterator[BaseCallback]:
    if not isinstance(callback, BaseCallback) or any(callback is other for other in seen):
        return
    seen.append(callback)
    if not isinstance(callback, CallbackList):
        yield callback
    inner = [value for name, value in vars(callback).items() if name != "parent"]
    for value in callback.callbacks if isinstance(callback, CallbackList) else inner:
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for one in held:
            yield from _all(one, seen)


def _state(callback: BaseCallback) -> CallbackState:
    attributes = _attributes(callback)
    almost = sorted(set(_attributes(callback, exactly=False)) - set(attributes))
    if almost:
        warnings.warn(
            f"{type(callback).__name__} of a run resumed from this checkpoint will begin anew with {almost}, which "
            "hold objects of subclasses of plain types: convert them (int(value), dict(value)) to have them saved",
            stacklevel=2,
        )
    start = vars(callback).get(_START, {})
    texts = [name for name, value in vars(callback).items() if isinstance(value, str | bytes) and name in start]
    if changed := sorted(name for name in texts if not same(start[name], vars(callback)[name])):
        warnings.warn(
            f"{type(callback).__name__} of a run resumed from this checkpoint will begin anew with {changed}: a text "
            "may name a file, so none is given back; keep a number in its place, or a list with the text",
            stacklevel=2,
        )
    envs: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if isinstance(value, VecEnv):
            try:
                envs[name] = env_state.get_states(value)
            except env_state.EnvironmentStateError as error:
                warnings.warn(
                    f"{type(callback).__name__} of a run resumed from this checkpoint will begin anew with {name}: its "
                    f"state cannot be saved: {error}",
                    stacklevel=2,
                )
    return {"attributes": attributes, "start": start, "envs": envs}


def _attributes(callback: BaseCallback, exactly: bool = True) -> CallbackState:
    return _plain_ones(callback, vars(callback), exactly)


def _plain_ones(callback: BaseCallback, attributes: CallbackState, exactly: bool = True) -> CallbackState:
    candidates = {name: value for name, value in attributes.items() if name not in _NOT_STATE}
    return {name: value for name, value in candidates.items() if is_plain(value, exactly)}


def is_small(value: Any) -> bool:
    """Whether data has few parts; what holds itself has not."""
    waiting, room = [value], _SMALL
    while waiting and room > 0:
        part = waiting.pop()
        room -= part.size if isinstance(part, np.ndarray) else 1
        if isinstance(part, _CONTAINERS) and len(part) <= room:
            waiting += [*part, *part.values()] if isinstance(part, dict) else part
        elif isinstance(part, _CONTAINERS):
            return False
    return room > 0


def _takes(callback: BaseCallback, name: str, value: Any, at_start: CallbackState) -> bool:
    """Whether a callback takes an attribute back: not where its own is of other arguments, nor in a method's place."""
    if name in _NOT_STATE or not is_plain(value) or isinstance(value, str | bytes):  # a text may name a file
        return False
    if name not in vars(callback):  # made later
        return is_plain(getattr(type(callback), name, None))
    present = vars(callback)[name]
    return same(at_start[name], present) if name in at_start else name not in constructor_arguments(type(callback))


def same(one: Any, other: Any) -> bool:
    """Whether plain values are equal, in type as well; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return one == other or (one != one and other != other)


def is_plain(value: Any, exactly: bool = True) -> bool:
    """Whether a value is data that is read without trust; else, whether it is of subclasses of such data's types."""
    if isinstance(value, _CONTAINERS):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        try:
            return (not exactly or type(value) in _CONTAINERS) and all(is_plain(part, exactly) for part in parts)
        except RecursionError:  # it holds itself
            return False
    if isinstance(value, np.ndarray | np.generic) and (value.dtype.hasobject or value.dtype.names):
        return False
    if not exactly:
        return isinstance(value, (*_PLAIN, np.generic))
    return type(value) in _PLAIN or (isinstance(value, np.generic) and type(value) is value.dtype.type)
