"""
The functions that a pickle may have called when it is read, each with a check of its arguments.

Arrays, random generators and tensors are written as calls of NumPy's and torch's own functions, which believe what they
are told.
"""

import collections
import datetime
import decimal
import fractions
import functools
import io
import math
import pathlib
import pickle
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

#: levels of tuples and of arrays of objects in each other
DEEPEST = 20
#: plain types, which may be named and do nothing when called without arguments
PLAIN = {int, float, bool, str, bytes, bytearray, complex, list, dict, tuple, set, frozenset}


class NotAllowed(pickle.UnpicklingError):
    """A pickle names what only a trusted file may name."""


class Rebuild:
    """A function that a pickle may have called, which checks its arguments."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function


class Build:
    """A class of which a pickle may have objects built, without its constructor."""

    def __init__(self, cls: type):
        self.cls = cls


def name_of(value: Any) -> str:
    """Full name of a class or function, or of the class of an object; of what stands in for one in a file, likewise."""
    if isinstance(value, Rebuild | Build):
        value = value.function if isinstance(value, Rebuild) else value.cls
    cls: Any = value if isinstance(value, type | types.FunctionType) else type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def wrapped(functions: dict[str, Callable[..., Any]]) -> dict[str, Rebuild]:
    return {name: Rebuild(function) for name, function in functions.items()}


def require(fits: bool, what: str) -> None:
    if not fits:
        raise NotAllowed(f"arguments that do not fit {what}")


def checked_value(value: Any) -> Any:
    """The value, if it is no class or function that would be called later."""
    for part in value if type(value) is tuple else (value,):
        if isinstance(part, Rebuild | Build):
            raise NotAllowed(f"{name_of(part)} as a value")
    return value


def checked_depth(value: Any) -> Any:
    """The value, if it is not nested deeply: tuples are hashed, and arrays freed, by recursion without a limit."""
    level = [value]
    for _ in range(DEEPEST):
        parts: dict[int, Any] = {}
        for outer in level:
            nested = isinstance(outer, tuple | frozenset) or (isinstance(outer, np.ndarray) and outer.dtype.hasobject)
            if nested:
                inside = outer.flat if isinstance(outer, np.ndarray) else outer
                parts |= {id(part): part for part in inside}
        if not parts:
            return value
        level = [*parts.values()]
    raise NotAllowed(f"values that are nested more than {DEEPEST} deep")


# ---------------------------------------------------------------- NumPy

#: units of dates and durations
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")


def _dtype(spec: Any, align: Any = False, copy: Any = False) -> np.dtype:
    require(isinstance(spec, str) and len(spec) < 20 and "," not in spec and "(" not in spec, "numpy.dtype")
    return np.dtype(spec, copy=True)


def set_dtype(dtype: np.dtype, state: Any) -> None:
    # NumPy believes offsets and flags that it is told here: only the order of bytes is heeded
    require(isinstance(state, tuple) and len(state) >= 8 and state[2:5] == (None, None, None), "numpy.dtype")
    require(state[1] in ("<", ">", "=", "|"), "numpy.dtype")
    if dtype.kind in "mM" and len(state) > 8 and state[8] is not None:
        unit, number, *_ = state[8][1]
        unit = unit.decode() if isinstance(unit, bytes) else unit
        if unit != "generic":
            require(state[1] != ">" and unit in _UNITS and type(number) is int and 0 < number < 2**31, "numpy.dtype")
            dtype.__setstate__(np.dtype(f"{dtype.kind}8[{number}{unit}]").__reduce__()[2])  # type: ignore[attr-defined]
        return
    if state[1] == ">":
        require(not dtype.hasobject and dtype.kind in "biufc", "numpy.dtype")
        dtype.__setstate__((3, ">", None, None, None, -1, -1, 0))  # type: ignore[attr-defined]


def _checked_shape(shape: Any) -> tuple[int, ...]:
    require(isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape), "numpy.ndarray")
    return tuple(shape)


def _empty_array(cls: Any, shape: Any, code: Any) -> np.ndarray:
    require(cls is np.ndarray, "numpy.ndarray")
    return np.ndarray((0,), "b")


def _set_array(array: np.ndarray, state: Any) -> None:
    # As _empty_array made it: NumPy frees what an array holds, whoever else looks at it
    require(type(array) is np.ndarray and array.shape == (0,) and array.dtype == np.int8, "numpy.ndarray")
    require(isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], np.dtype), "numpy.ndarray")
    _, shape, dtype, fortran, content = state
    size = math.prod(_checked_shape(shape))
    if dtype.hasobject:
        require(type(content) is list and len(content) == size, "numpy.ndarray")
    else:
        require(isinstance(content, (bytes, bytearray)) and len(content) == size * dtype.itemsize, "numpy.ndarray")
        content = bytes(content)
    array.__setstate__((1, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]
    checked_depth(array)


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> np.ndarray:
    require(isinstance(buffer, (bytes, bytearray)) and isinstance(dtype, np.dtype), "numpy.ndarray")
    require(not dtype.hasobject and order in ("C", "F", "K"), "numpy.ndarray")
    array = np.frombuffer(buffer, dtype=dtype)
    if order == "K":  # of any other order of axes, since NumPy 2.3
        return array.reshape(_checked_shape(shape), order="C").transpose(axis_order)
    return array.reshape(_checked_shape(shape), order=order)


def _scalar(dtype: Any, content: Any = b"") -> Any:
    require(isinstance(dtype, np.dtype) and not dtype.hasobject and isinstance(content, bytes), "a NumPy scalar")
    require(len(content) == dtype.itemsize, "a NumPy scalar")
    return np.frombuffer(content, dtype)[0]


def _bit_generator(cls: Any = "MT19937") -> np.random.BitGenerator:
    known = {"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}
    name = cls if isinstance(cls, str) else getattr(cls, "__name__", "")
    require(name in known and (isinstance(cls, str) or cls is getattr(np.random, name)), "a bit generator")
    return getattr(np.random, name)()


def set_bit_generator(generator: Any, state: Any) -> None:
    numbers = state[0] if isinstance(state, tuple) else state
    require(isinstance(numbers, dict), "a bit generator")
    position = numbers["state"].get("pos", 0)
    require(type(position) is int and 0 <= position <= 624, "a bit generator")  # NumPy would read beyond its table
    position = numbers.get("buffer_pos", 0)  # of Philox
    require(type(position) is int and 0 <= position <= 4, "a bit generator")
    if isinstance(state, tuple) and state[1] is not None:
        require(isinstance(state[1], np.random.SeedSequence), "a bit generator")
    generator.__setstate__(state)


def _generator(bit_generator: Any = "MT19937", constructor: Any = None) -> np.random.Generator:
    require(constructor is None or isinstance(constructor, Rebuild), "a random generator")
    if not isinstance(bit_generator, np.random.BitGenerator):
        bit_generator = _bit_generator(bit_generator)
    return np.random.Generator(bit_generator)


def _random_state(bit_generator: Any = "MT19937", constructor: Any = None) -> np.random.RandomState:
    return np.random.RandomState(_generator(bit_generator).bit_generator)


def _set_random_state(target: Any, state: Any) -> None:
    set_bit_generator(type("_Check", (), {"__setstate__": lambda self, state: None})(), state)
    target.__setstate__(state)


def _set_generator(target: Any, state: Any) -> None:
    if state is not None:
        set_bit_generator(target.bit_generator, state)


def _seed_sequence(cls: Any, checksum: Any, state: Any) -> np.random.SeedSequence:
    require(cls is np.random.SeedSequence and state is None, "numpy.random.SeedSequence")
    return np.random.SeedSequence(0)


def _set_seed_sequence(target: Any, state: Any) -> None:
    require(isinstance(state, tuple) and len(state) >= 5, "numpy.random.SeedSequence")
    entropy, children, pool, size, spawn_key = state[:5]
    numbers = entropy if isinstance(entropy, list | tuple) else [entropy]
    fits = isinstance(entropy, np.ndarray) or all(number is None or type(number) is int for number in numbers)
    require(fits, "numpy.random.SeedSequence")
    require(type(children) is int and isinstance(spawn_key, tuple), "numpy.random.SeedSequence")
    require(isinstance(pool, np.ndarray) and pool.dtype == np.uint32, "numpy.random.SeedSequence")
    require(type(size) is int and pool.shape == (size,) and size >= 4, "numpy.random.SeedSequence")
    target.__setstate__(state)


# ---------------------------------------------------------------- torch and the standard library


def _storage(content: Any) -> Any:
    require(isinstance(content, bytes), "a storage of torch")
    storage = th.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    require(isinstance(storage, th.storage.TypedStorage), "a storage of torch")
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any) -> th.Tensor:
    require(isinstance(storage, th.storage.TypedStorage) and not hooks, "torch.Tensor")
    require(all(type(number) is int and number >= 0 for number in (offset, *size, *stride)), "torch.Tensor")
    # torch's own function makes room for what lies beyond the end, and fills it with whatever is in memory
    flat = th.empty(0, dtype=storage.dtype).set_(storage)
    return flat.as_strided(size, stride, offset).requires_grad_(bool(gradient))


def _parameter(data: Any, gradient: Any, hooks: Any) -> th.nn.Parameter:
    require(isinstance(data, th.Tensor) and not hooks, "torch.nn.Parameter")
    return th.nn.Parameter(data, bool(gradient))


def _plain_call(cls: Any) -> Callable[..., Any]:
    """A constructor that copies its arguments and does nothing else with them."""

    def call(*arguments: Any) -> Any:
        # Of a range, a container would be as long as it likes
        kinds = {type(argument) for argument in arguments}
        require(not kinds & {range, type}, name_of(cls))
        require({kind.__module__ for kind in kinds} <= {"builtins", "datetime"}, name_of(cls))
        require(cls is not slice or all(each is None or type(each) is int for each in arguments), "slice")
        require(cls is not fractions.Fraction or "e" not in str(arguments).lower(), "fractions.Fraction")
        for argument in arguments:
            for item in argument if isinstance(argument, list | tuple | dict | set | frozenset) else ():
                checked_depth(item)
        return cls(*arguments)

    return call


def _partial(cls: Any) -> functools.partial:
    """An activation with arguments: a class of torch's modules."""
    fits = isinstance(cls, type) and issubclass(cls, th.nn.Module) and cls.__module__.startswith("torch.nn.modules.")
    require(fits, "functools.partial")
    return functools.partial(cls)


def _set_partial(target: functools.partial, state: Any) -> None:
    require(isinstance(state, tuple) and len(state) == 4, "functools.partial")
    function, arguments, keywords, attributes = state
    require(function is target.func and not attributes, "functools.partial")
    require(type(arguments) is tuple and type(keywords) is dict, "functools.partial")
    plain = all(type(value) in (bool, int, float, str, type(None)) for value in (*arguments, *keywords.values()))
    require(plain and all(type(name) is str for name in keywords), "functools.partial")
    target.__setstate__((function, arguments, dict(keywords), None))  # type: ignore[attr-defined]


def _encode(text: Any, encoding: Any) -> bytes:
    """What older pickles write bytes as."""
    require(isinstance(text, str) and encoding == "latin1", "bytes")
    return text.encode("latin1")


def _default_dict(factory: Any = None, *items: Any) -> collections.defaultdict:
    require(factory is None or (isinstance(factory, type) and factory in PLAIN), "collections.defaultdict")
    require(not items, "collections.defaultdict")
    return collections.defaultdict(factory)


_PLAIN_CALLS = (
    *(bytearray, complex, frozenset, range, set, slice, random.Random),
    *(collections.Counter, collections.OrderedDict, collections.deque),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction, types.SimpleNamespace),
    *(th.Size, th.device),
)
_PATHS = (pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.WindowsPath)

FUNCTIONS = wrapped(
    {
        "numpy.dtype": _dtype,
        "numpy._core.multiarray._reconstruct": _empty_array,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy._core.numeric._frombuffer": _array_of_buffer,
        "numpy.random._pickle.__bit_generator_ctor": _bit_generator,
        "numpy.random._pickle.__generator_ctor": _generator,
        "numpy.random._pickle.__randomstate_ctor": _random_state,
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _seed_sequence,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.storage._load_from_bytes": _storage,
        "collections.defaultdict": _default_dict,
        "functools.partial": _partial,
        "_codecs.encode": _encode,
        **{name_of(cls): _plain_call(cls) for cls in _PLAIN_CALLS},
        # In Python 3.13 their module has another name
        **{f"pathlib.{cls.__name__}": _plain_call(cls) for cls in _PATHS},
    }
)

STATES: dict[type, Callable[[Any, Any], None]] = {
    np.ndarray: _set_array,
    np.random.Generator: _set_generator,
    np.random.RandomState: _set_random_state,
    np.random.SeedSequence: _set_seed_sequence,
    functools.partial: _set_partial,
    random.Random: lambda target, state: target.setstate(state),
}
