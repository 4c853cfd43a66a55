"""
Save the state of environments, and put it back into environments built the same way.

The state is that of the episode under way, wrappers included. Every layer (``VecEnv`` wrapper, ``VecEnv``,
``gymnasium`` wrapper, environment) gives its attributes. References from one layer to another are stored as numbers
and point to the new layers afterwards, so environments keep their identity, and so do their spaces. Functions and
classes among the attributes belong to how an environment is built, and stay those of the new one.

An :class:`EnvironmentStateError` says what cannot be saved: environments in other processes (``SubprocVecEnv``), and
attributes that cannot be pickled (Box2D). A simulator behind a plain number or address cannot be recognised: such an
environment has to define ``__getstate__`` and ``__setstate__`` for its whole state, which are then used, or to raise in
``__getstate__``.
"""

import functools
import io
import types
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_sac_variants.common.persistence.allowed import classes_of, is_trusted, read_pickle
from sb3_sac_variants.common.persistence.by_name import ByNamePickler
from sb3_sac_variants.common.persistence.rebuild import Build, NotAllowed, name_of

#: attributes that do not belong to the state: descriptions, and open log files
_NOT_STATE = ("class_attributes", "results_writer", "spec", "_cached_spec")
#: further ones that are not written: with what arguments a wrapper of gymnasium was made
_NOT_WRITTEN = ("_saved_kwargs",)
#: layers that go by the name of another one, whose state and behaviour under a ``VecEnv`` they have
_ALIASES = {"rl_zoo3.gym_patches.PatchedTimeLimit": "gymnasium.wrappers.common.TimeLimit"}
#: kinds of attributes that belong to how an environment is built
_NOT_STATE_TYPES = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    functools.partial,
)


class EnvironmentStateError(Exception):
    """The state of an environment cannot be saved; the message says whose and why."""


def layers(env: VecEnv) -> list[list[Any]]:
    """
    List what an environment is built of.

    :return: its wrappers from the outermost to the innermost, one a group, and a last group with the innermost
        vectorised environment and, where they are in this process, its environments, each with what it wraps
    """
    groups: list[list[Any]] = []
    while isinstance(env, VecEnvWrapper):
        groups.append([env])
        env = env.venv
    last: list[Any] = [env]
    for single in getattr(env, "envs", []):
        _add_with_inner(single, last)
    return [*groups, last]


def _add_with_inner(env: Any, found: list[Any]) -> None:
    """Add an environment of whatever interface, and those it holds (as wrappers and adapters do), to ``found``."""
    if any(env is layer for layer in found):
        return
    found.append(env)
    for value in getattr(env, "__dict__", {}).values():
        if hasattr(type(value), "unwrapped"):  # gymnasium's and PettingZoo's environments have it
            _add_with_inner(value, found)


def get_state(group: list[Any], everything: list[Any]) -> bytes:
    """
    Take the state of a group of layers; ``everything`` is all layers of the environment.

    :raises EnvironmentStateError: if it cannot be pickled
    """
    buffer = io.BytesIO()
    try:
        own_spaces = _spaces(group)
        _Pickler(buffer, everything).dump(own_spaces)
        _Pickler(buffer, [*everything, *own_spaces]).dump([_attributes(layer) for layer in group])
    except Exception as error:  # objects may raise anything when they are pickled
        name = name_of(group[-1] if len(group) > 1 else group[0])
        raise EnvironmentStateError(f"{name} ({type(error).__name__}: {error})") from error
    return buffer.getvalue()


def set_state(group: list[Any], everything: list[Any], state: bytes, trusted: bool = False) -> None:
    """
    Put a state into some layers. Objects are built only of classes that occur in them, or are known otherwise.

    :param group: layers to put a state into
    :param everything: all layers of the environment
    :param state: what :func:`get_state` gave for a group built in the same way
    :param trusted: whether to build objects of any class
    """
    known, given = classes_of(everything), list(everything)

    def new(cls: Any) -> Any:
        if not isinstance(cls, Build) or cls.cls not in known:
            raise NotAllowed(f"an object of {name_of(cls)}")
        return _new(cls.cls)

    def update(instance: Any, attributes: Any) -> None:
        is_given = any(instance is one for one in given)
        if is_given or type(instance) not in known or not isinstance(attributes, dict):
            raise NotAllowed(f"the state of {name_of(instance)}")
        _update(instance, attributes)

    functions: dict[str, Callable[..., Any]] = {f"{__name__}._new": new, f"{__name__}._update": update}
    file = io.BytesIO(state)
    read = functools.partial(read_pickle, file, trusted, classes=known, functions=functions)
    given += map(restored_space, _spaces(group), read(persistent=given))
    for layer, attributes in zip(group, read(persistent=given), strict=True):
        set_own = getattr(layer, "__setstate__", None) if _has_own_state(layer) else None
        if set_own is not None:
            if _is_made_anew(layer) and not is_trusted(trusted):
                raise NotAllowed(f"the state of {name_of(layer)}, which would be constructed anew")
            set_own(_with_arguments_of(layer, attributes))
            continue
        shadowing = [name for name in attributes if _shadows(layer, name)]
        if shadowing and not is_trusted(trusted):
            raise NotAllowed(f"values in place of {shadowing} of {name_of(layer)}")
        vars(layer).update(attributes)


def restored_space(space: Any, saved: Any) -> Any:
    """
    Put the state of a space into the one that is there, which others may draw from as well.

    :return: the one there; the saved one, if they differ in more than their random generators
    """
    if type(space) is not type(saved) or not isinstance(space, gym.Space) or space != saved:
        return saved
    vars(space).update({name: value for name, value in vars(saved).items() if name in vars(space)})
    return space


def get_states(env: VecEnv) -> list[bytes]:
    """
    Take the whole state of an environment: that of each group of its layers.

    :raises EnvironmentStateError: if it cannot be pickled
    """
    groups = layers(env)
    everything = [layer for group in groups for layer in group]
    return [get_state(group, everything) for group in groups]


def set_states(env: VecEnv, states: list[bytes], trusted: bool = False) -> None:
    """
    Put a state into a whole environment.

    :param env: vectorised environment, built as the one of which the state is
    :param states: what :func:`get_states` gave
    :param trusted: whether to build objects of any class
    """
    groups = layers(env)
    everything = [layer for group in groups for layer in group]
    for group, state in zip(groups, states, strict=True):
        set_state(group, everything, state, trusted)


def names(group: list[Any]) -> list[str]:
    """Name the classes of some layers."""
    return [name_of(layer) for layer in group]


def same_layers(one: list[str], other: list[str]) -> bool:
    """Whether a state of one environment fits another, by the names of their layers."""
    return [_ALIASES.get(name, name) for name in one] == [_ALIASES.get(name, name) for name in other]


def _spaces(group: list[Any]) -> list[Any]:
    """The spaces of some layers, those of their classes included; None in place of what is none."""
    found = [getattr(layer, name, None) for layer in group for name in ("observation_space", "action_space")]
    return [space if isinstance(space, gym.Space) else None for space in found]


def _has_own_state(layer: Any) -> bool:
    """
    Whether the author of an environment says what its state is.

    Gymnasium's methods do not count: ``EzPickle`` gives the arguments, and wrappers import what their state names.
    """
    method = getattr(type(layer), "__getstate__", None)
    if method in (None, getattr(object, "__getstate__", None)):
        return False
    return isinstance(layer, gym.Env) and method.__module__.partition(".")[0] != "gymnasium"


def _is_made_anew(layer: Any) -> bool:
    """Whether an environment takes its state back by a call of its constructor, with arguments of the state."""
    return getattr(type(layer), "__setstate__", None) is EzPickle.__setstate__


def _with_arguments_of(layer: Any, state: Any) -> Any:
    """A state in which arguments for EzPickle, which may make an environment anew, are those of the one there."""
    if type(state) in (list, tuple):
        return type(state)(_with_arguments_of(layer, part) for part in state)
    if type(state) is dict:
        own = {name: value for name, value in vars(layer).items() if name in ("_ezpickle_args", "_ezpickle_kwargs")}
        return {name: own[name] if name in own else _with_arguments_of(layer, part) for name, part in state.items()}
    return state


def _shadows(layer: Any, name: str) -> bool:
    """Whether an attribute that a file names is no state: it would hide a method, or is left out of every state."""
    hides = callable(getattr(type(layer), name, None)) and name not in vars(layer)
    return hides or name in _NOT_STATE


def _attributes(layer: Any) -> Any:
    if _has_own_state(layer):
        if _is_made_anew(layer):
            raise TypeError("it defines __getstate__, but EzPickle's __setstate__ would make it anew: define both")
        return layer.__getstate__()
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in (*_NOT_STATE, *_NOT_WRITTEN)
        and not isinstance(value, _NOT_STATE_TYPES)
        and not type(value).__module__.startswith("pygame")
    }


def _new(cls: type) -> Any:
    return object.__new__(cls)


def _update(instance: Any, attributes: dict[str, Any]) -> None:
    vars(instance).update(attributes)


class _Pickler(ByNamePickler):
    """Writes the objects in ``everything`` as their number."""

    def __init__(self, file: io.BytesIO, everything: list[Any]):
        super().__init__(file)
        self._numbers = {id(layer): number for number, layer in enumerate(everything) if layer is not None}

    def persistent_id(self, obj: Any) -> int | None:
        return self._numbers.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle):  # an environment inside a layer: its arguments are not its state
            return _new, (type(obj),), vars(obj), None, None, _update
        return super().reducer_override(obj)
