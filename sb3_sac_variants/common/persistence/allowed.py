"""
Read pickles without running code of whoever wrote them.

A pickle is a program: it may name any importable function and have it called. :func:`read_pickle` names nothing that
is not in memory already, calls only the functions listed here, which check their arguments, and builds objects only of
known classes, without their constructors.
"""

import collections
import enum
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import Env, spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_sac_variants.common.persistence.rebuild import (
    FUNCTIONS,
    PLAIN,
    STATES,
    Build,
    NotAllowed,
    Rebuild,
    checked_depth,
    checked_value,
    name_of,
    require,
    set_bit_generator,
    set_dtype,
    wrapped,
)

#: set to 1, everything is loaded as with ``trusted=True``: for commands that cannot pass the argument
TRUSTED_VARIABLE = "SB3_SAC_VARIANTS_TRUSTED"

OWN_PACKAGE = __name__.partition(".")[0]

#: where classes and functions of others were in the versions that wrote other files
_MOVED = {
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "pathlib._local": "pathlib",  # in files of Python 3.13
}
_NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"
_ZOO_SCHEDULE = "rl_zoo3.utils.SimpleLinearSchedule"

#: classes whose objects are built, with their subclasses
_BUILT = (spaces.Space, ActionNoise, BaseBuffer, RunningMeanStd)
#: the same, without subclasses
_BUILT_EXACTLY = {FloatSchedule, ConstantSchedule, LinearSchedule, TrainFreq, types.SimpleNamespace}
#: classes that an argument of an algorithm may be, with their subclasses
_ARGUMENTS = (th.nn.Module, th.optim.Optimizer, BasePolicy, BaseBuffer)
#: torch's own modules outside these packages compile and load code
_TORCH = ("torch.nn.", "torch.optim.")
#: modules whose objects an environment may hold, and a file may not make
_NEVER = (
    *("builtins", "cloudpickle", "ctypes", "functools", "importlib", "io", "multiprocessing", "operator"),
    *("subprocess", "types"),
)
#: modules of the standard library whose objects an environment may hold and a file may make; others hold files, say
_HARMLESS = ("argparse", "collections", "datetime", "decimal", "enum", "fractions", "pathlib", "random", "uuid")
#: constructors after which an object is whole
_ALLOCATORS = {cls.__new__ for cls in (object, *PLAIN)}
#: containers inside each other that Python frees by recursion without a limit, and how many a file may have
_UNGUARDED = (collections.defaultdict, collections.deque, collections.OrderedDict, types.SimpleNamespace)
MOST_UNGUARDED = 10_000
#: libraries whose modules hold more than the environment that was passed
_LIBRARIES = ("gymnasium", "stable_baselines3", "torch", *_NEVER)
#: what holds nothing that matters
_LEAVES = (type, types.ModuleType, types.FunctionType, np.ndarray, np.generic, th.Tensor, str, bytes, int, float)


class ZooLinearSchedule:
    """
    The RL Zoo's ``lin_`` schedule, for programs that have not imported the zoo.

    :param initial_value: its value at the beginning; it ends at 0
    """

    def __init__(self, initial_value: float):
        self.initial_value = initial_value

    def __call__(self, progress_remaining: float) -> float:
        return progress_remaining * self.initial_value


def is_trusted(trusted: bool) -> bool:
    """Whether the caller vouches for a file, by the argument of a function that loads or the environment variable."""
    return trusted or os.environ.get(TRUSTED_VARIABLE) == "1"


def read_pickle(
    source: Any,
    trusted: bool = False,
    arguments: bool = False,
    classes: Collection[type] = (),
    persistent: Collection[Any] = (),
    functions: dict[str, Callable[..., Any]] | None = None,
) -> Any:
    """
    Read a pickle.

    :param source: bytes, or a file that is open for reading
    :param trusted: whether to build whatever it names, which may run code
    :param arguments: whether it may hold classes that are arguments: networks, optimisers, replay buffers
    :param classes: further classes of which objects may be built, beside the known ones
    :param persistent: objects that it refers to by their number
    :param functions: further functions that it may call, by their full name
    :return: what it holds
    :raises NotAllowed: if it names anything else
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    unpickler: Any
    if is_trusted(trusted):
        unpickler = _TrustingUnpickler(file)
    else:
        unpickler = _AllowListUnpickler(file)
        unpickler.arguments, unpickler.classes = arguments, frozenset(classes)
        unpickler.functions = {**FUNCTIONS, **wrapped(functions or {})}
        unpickler.empty, unpickler.unguarded = [], 0
    unpickler.persistent = list(persistent)
    found = unpickler.load()
    if not is_trusted(trusted) and unpickler.empty:
        raise NotAllowed(f"an object of {name_of(unpickler.empty[0])} without its state")
    return found


def classes_of(objects: Sequence[Any]) -> set[type]:
    """
    Find the classes of all that some objects hold, and those that are defined beside their own.

    :return: the classes that have been imported and whose objects a file may describe
    """
    found: set[type] = set()
    seen: dict[int, Any] = {}
    waiting = list(objects)
    while waiting and len(seen) < 100_000:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _LEAVES):
            continue
        seen[id(value)] = value
        found.add(type(value))
        waiting += getattr(value, "__dict__", {}).values()
        for cls in type(value).__mro__:
            slots = vars(cls).get("__slots__", ())
            waiting += [getattr(value, name, None) for name in ((slots,) if isinstance(slots, str) else slots)]
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
            waiting += value
    for module in {type(value).__module__ for value in objects}:
        if not _is_of(module, _LIBRARIES):
            beside = vars(sys.modules.get(module, types)).values()
            found |= {value for value in beside if isinstance(value, type) and value.__module__ == module}
    return {cls for cls in found if _is_harmless(cls)}


def _is_harmless(cls: type) -> bool:
    """Whether to make an object of a class, with any attributes, and to forget it again does nothing by itself."""
    package = cls.__module__.partition(".")[0].lstrip("_")
    harmless = package in _HARMLESS if package in sys.stdlib_module_names else not _is_of(cls.__module__, _NEVER)
    return harmless and not hasattr(cls, "__del__") and cls.__name__ != "CloudpickleWrapper"


def _is_allocated(cls: type) -> bool:
    """Whether an object of a class holds no memory of C that its constructor, or a state, would have to fill."""
    makers = [vars(base)["__new__"] for base in cls.__mro__ if "__new__" in vars(base)]
    return all(isinstance(maker, staticmethod) or maker in _ALLOCATORS for maker in makers)


def _is_of(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of some packages, or inside one; ``_io`` counts as ``io``."""
    return module.partition(".")[0].lstrip("_") in packages


def _resolve(module: str, name: str) -> Any:
    """Look an imported class, or data type of torch, up; never import."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, (type, types.ModuleType)) else None
        if not isinstance(found, (type, th.dtype)):
            return None
    return found


class _TrustingUnpickler(pickle.Unpickler):
    """Reads whatever a trusted pickle names, by old names too."""

    persistent: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):  # tensors of a device that is not here
            return lambda content: th.load(io.BytesIO(content), map_location="cpu", weights_only=False)
        module = _MOVED.get(module, module)
        if _NUMPY_1:
            module = module.replace("numpy._core.", "numpy.core.")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        return self.persistent[pid]


#: instructions of old or extended pickles
_FOREIGN = (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4)
#: bytes of a large array that are read at a time
_PIECE = 1 << 20
#: the standard library's unpickler in Python
_Unpickler: Any = pickle._Unpickler


class _AllowListUnpickler(_Unpickler):
    """
    The standard library's unpickler in Python, whose steps can be checked.

    The one in C looks at names only, and would let a class that is allowed as a value be called.
    """

    arguments: bool
    classes: frozenset[type]
    functions: dict[str, Rebuild]
    persistent: list[Any]
    #: objects that a library of C has yet to fill
    empty: list[Any]
    #: number of containers of :data:`_UNGUARDED`
    unguarded: int
    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is not int or not 0 <= pid < len(self.persistent):
            raise NotAllowed(f"object number {pid!r}")
        return self.persistent[pid]

    def find_class(self, module: str, name: str) -> Any:
        module = _MOVED.get(module, module)
        full_name = f"{module}.{name}"
        if full_name in self.functions:
            return self.functions[full_name]
        found = _resolve(module, name)
        if found is None and full_name == _ZOO_SCHEDULE:
            return Build(ZooLinearSchedule)
        if isinstance(found, th.dtype) or (found is not None and self._may_hold(found)):
            return found
        if found is None or not self._may_build(found):
            by_value = module.startswith("cloudpickle")
            raise NotAllowed("the code of a function or class (a lambda, say)" if by_value else full_name)
        return Rebuild(_look_up(found)) if issubclass(found, enum.Enum) else Build(found)

    def _may_hold(self, cls: type) -> bool:
        """Whether a class may be a value itself."""
        if issubclass(cls, np.memmap):  # opens files when it is called
            return False
        if cls in PLAIN or issubclass(cls, (np.generic, np.dtype, np.ndarray, np.random.BitGenerator)):
            return True
        module = f"{cls.__module__}."
        of_torch = module.startswith("torch.") and not module.startswith(_TORCH)
        return cls is np.random.SeedSequence or (self.arguments and issubclass(cls, _ARGUMENTS) and not of_torch)

    def _may_build(self, cls: type) -> bool:
        if cls in self.classes or cls in _BUILT_EXACTLY or issubclass(cls, _BUILT) or cls is ZooLinearSchedule:
            return True
        if issubclass(cls, enum.Enum):
            return cls.__module__.startswith(("stable_baselines3.", f"{OWN_PACKAGE}."))
        return name_of(cls) == _ZOO_SCHEDULE or cls.__module__.startswith(f"{OWN_PACKAGE}.common.replay.")

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not isinstance(function, Rebuild):
            raise NotAllowed(f"a call of {name_of(function)}")
        self.stack[-1] = self._counted(function.function(*arguments))

    def _counted(self, value: Any) -> Any:
        if type(value) in _UNGUARDED:
            self.unguarded += 1
            if self.unguarded > MOST_UNGUARDED:
                raise NotAllowed(f"more than {MOST_UNGUARDED} containers such as {name_of(value)}")
        return value

    def _new(self, cls: Any, arguments: Any, keywords: Any = None) -> Any:
        cls = cls.cls if isinstance(cls, Build) else cls
        if not isinstance(cls, type) or not self._may_build(cls) or keywords:
            raise NotAllowed(f"an object of {name_of(cls)}")
        if arguments and not issubclass(cls, tuple):
            raise NotAllowed(f"an object of {name_of(cls)} with arguments")
        made = self._counted(cls.__new__(cls, *arguments))
        if not _is_allocated(cls):
            self.empty.append(made)
        return made

    def _newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack.append(self._new(self.stack.pop(), arguments))

    def _newobj_ex(self) -> None:
        keywords, arguments = self.stack.pop(), self.stack.pop()
        self.stack.append(self._new(self.stack.pop(), arguments, keywords))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        cls = type(target)
        if cls in STATES:
            STATES[cls](target, state)
        elif isinstance(target, np.dtype):
            set_dtype(target, state)
        elif isinstance(target, np.random.BitGenerator):
            set_bit_generator(target, state)
        elif isinstance(target, type | enum.Enum) or not self._may_build(cls) or self._is_given(target):
            raise NotAllowed(f"the state of {name_of(target)}")
        elif not hasattr(cls, "__setstate__"):
            state, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            if state := _attributes(state):
                vars(target).update(state)
            for name, value in _attributes(slots).items():
                object.__setattr__(target, name, value)
        elif issubclass(cls, EzPickle):  # its own method may call EzPickle's
            raise NotAllowed(f"the state of {name_of(cls)}, which would be constructed anew")
        elif issubclass(cls, Env) and getattr(cls, "__setstate__").__module__.startswith("gymnasium."):  # noqa: B009
            raise NotAllowed(f"the state of {name_of(cls)}, which would import what it names")
        else:
            cls.__setstate__(target, state)
            self.empty = [other for other in self.empty if other is not target]

    def _is_given(self, target: Any) -> bool:
        """Whether the caller has an object, which the file refers to by its number."""
        return any(target is given for given in self.persistent)

    def _append(self) -> None:
        value = self.stack.pop()
        _exactly(self.stack[-1], list, collections.deque).append(checked_value(value))

    def _appends(self) -> None:
        values = self.pop_mark()
        _exactly(self.stack[-1], list, collections.deque).extend(map(checked_value, values))

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        target = _exactly(self.stack[-1], dict, collections.OrderedDict, collections.defaultdict)
        target[checked_depth(key)] = checked_value(value)

    def _setitems(self) -> None:
        items = self.pop_mark()
        target = _exactly(self.stack[-1], dict, collections.OrderedDict, collections.defaultdict)
        target.update(zip(map(checked_depth, items[::2]), map(checked_value, items[1::2]), strict=True))

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(checked_depth, items[::2]), map(checked_value, items[1::2]), strict=True)))

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(checked_depth(checked_value(item)) for item in items))

    def _additems(self) -> None:
        items = self.pop_mark()
        _exactly(self.stack[-1], set).update(checked_depth(checked_value(item)) for item in items)

    def _refuse(self) -> None:
        raise NotAllowed("an instruction that no file of ours or of Stable-Baselines3 has")

    def _bytearray(self) -> None:
        """As the standard library does, which takes three times the memory of what it reads, a replay buffer say."""
        size = int.from_bytes(self.read(8), "little")
        content = bytearray(size)
        with memoryview(content) as room:
            for start in range(0, size, _PIECE):
                stop = min(start + _PIECE, size)
                room[start:stop] = self.read(stop - start)
        self.append(content)

    dispatch |= {
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _newobj,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.ADDITEMS[0]: _additems,
        pickle.DICT[0]: _dict,
        pickle.FROZENSET[0]: _frozenset,
        **dict.fromkeys((code[0] for code in _FOREIGN), _refuse),
    }


def _exactly(value: Any, *classes: type) -> Any:
    """The value, if its own methods are those of a plain container."""
    if type(value) not in classes:
        raise NotAllowed(f"items for {name_of(value)}")
    return value


def _look_up(cls: Any) -> Callable[[Any], Any]:
    """The members of an enumeration by their values; more arguments would make a new one."""
    return lambda value: cls(checked_depth(value))


def _attributes(state: Any) -> dict[str, Any]:
    state = {} if state is None else state
    require(isinstance(state, dict) and all(isinstance(key, str) and key[:2] != "__" for key in state), "attributes")
    return state
