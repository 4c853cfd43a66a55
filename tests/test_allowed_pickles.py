"""The reader of pickles builds what files ordinarily hold, and runs nothing of whoever wrote one."""

import argparse
import collections
import csv
import datetime
import fractions
import functools
import io
import os
import pathlib
import pickle
import queue
import random
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from helpers import SpacesEnv, as_arrays, make
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
from torch import nn

from sb3_sac_variants import SACv1
from sb3_sac_variants.common.persistence.allowed import MOST_UNGUARDED, classes_of, read_pickle
from sb3_sac_variants.common.persistence.rebuild import NotAllowed, Rebuild

# ---------------------------------------------------------------- what files ordinarily hold


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def seeded(space: spaces.Space) -> spaces.Space:
    space.seed(3)
    return space


ORDINARY: dict[str, Callable[[], Any]] = {
    "plain": lambda: {"a": [1, 2.5, None, True, "x", b"y", (1 + 2j)], 3: {4, 5}, "f": frozenset([6])},
    "big number": lambda: 2**200,
    "array": lambda: np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty array": lambda: np.zeros((0, 3), dtype=np.uint8),
    "array in the order of Fortran": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "array in another order": lambda: np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "array with gaps": lambda: np.arange(16.0).reshape(4, 4)[::2],
    "array of the other order of bytes": lambda: np.arange(3, dtype=">f4"),
    "array of objects": lambda: np.array([{"is_success": True}, None], dtype=object),
    "array of words": lambda: np.array(["a", "bcd"]),
    "NumPy scalars": lambda: [np.float32(0.1), np.int64(3), np.bool_(True), np.float64(2)],
    "NumPy types": lambda: [np.float32, np.dtype("uint8"), np.dtype(bool)],
    "deque": lambda: collections.deque([{"r": 1.0}, {"r": 2.0}], maxlen=100),
    "containers": lambda: [
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.Counter("abca"),
    ],
    "standard library": lambda: [
        datetime.timedelta(3),
        pathlib.Path("a") / "b",
        slice(1, 2),
        range(3),
        types.SimpleNamespace(a=1),
    ],
    "dates": lambda: [
        np.array(["2020-01-01", "2021-05-05"], "M8[D]"),
        np.array([90, 120], "m8[s]"),
        np.array([1], "m8[25us]"),
        np.timedelta64(90, "s"),
        np.array([1], "m8"),
    ],
    "arrays of objects": lambda: np.array([{"a": 1}, None, (2, "b")], dtype=object),
    "tensors": lambda: {"a": th.arange(6.0).reshape(2, 3), "b": th.tensor(3, dtype=th.uint8), "c": th.ones(0)},
    "parameter": lambda: nn.Parameter(th.ones(2)),
    "torch": lambda: [th.float32, th.device("cpu"), th.Size([2])],
    "action noise": lambda: [
        NormalActionNoise(np.zeros(2), np.ones(2)),
        OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)),
    ],
    "statistics": lambda: RunningMeanStd(shape=(3,)),
    "schedules": lambda: [FloatSchedule(0.1), FloatSchedule(LinearSchedule(1.0, 0.0, 1.0))],
    "frequency": lambda: TrainFreq(2, TrainFrequencyUnit.EPISODE),
}


def comparable(value: Any) -> Any:
    """
    :param value: anything
    :return: the same of arrays and numbers
    """
    value = as_arrays(value.detach() if isinstance(value, th.Tensor) else value)
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return type(value), {name: comparable(item) for name, item in vars(value).items()}
    return value


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_objects_are_read(name: str, protocol: int) -> None:
    value = ORDINARY[name]()
    found = read_pickle(pickle.dumps(value, protocol=protocol))
    assert type(found) is type(value)
    np.testing.assert_equal(comparable(found), comparable(value))


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_are_read_whatever_python_wrote_them(module: str, trusted: bool) -> None:
    written = b"\x80\x02c" + module.encode() + b"\nPurePosixPath\nX\x01\x00\x00\x00aX\x01\x00\x00\x00b\x86R."
    assert read_pickle(written, trusted) == pathlib.PurePosixPath("a/b")


@pytest.mark.parametrize(
    "make_space",
    [
        lambda: spaces.Box(-1, 1, (3,)),
        lambda: spaces.Discrete(4),
        lambda: spaces.Dict(a=spaces.MultiBinary(3), b=spaces.MultiDiscrete([2, 3])),
        lambda: spaces.Tuple([spaces.Text(5), spaces.Discrete(2)]),
    ],
)
def test_spaces_are_read_with_their_random_state(make_space: Callable[[], spaces.Space]) -> None:
    space = seeded(make_space())
    found = read_pickle(cloudpickle.dumps(space))
    assert found == space
    for _ in range(3):
        np.testing.assert_equal(found.sample(), space.sample())


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_random_generators_go_on(name: str) -> None:
    source = np.random.Generator(getattr(np.random, name)(3))
    source.random(5)
    assert read_pickle(pickle.dumps(source)).random() == source.random()
    legacy = np.random.RandomState(3)
    assert read_pickle(pickle.dumps(legacy)).rand() == legacy.rand()
    python = random.Random(3)
    assert read_pickle(pickle.dumps(python)).random() == python.random()
    sequence = np.random.SeedSequence(3).spawn(2)[1]
    np.testing.assert_equal(read_pickle(pickle.dumps(sequence)).generate_state(4), sequence.generate_state(4))


def test_replay_buffer_is_read() -> None:
    buffer = make(SACv1).learn(12).replay_buffer
    found = read_pickle(pickle.dumps(buffer))
    th.manual_seed(0)
    one = found.sample(20)
    th.manual_seed(0)
    np.testing.assert_equal(as_arrays(tuple(one)), as_arrays(tuple(buffer.sample(20))))


class Activation(nn.Tanh):
    """Of the caller's own, imported."""


def test_classes_of_networks_are_read_as_arguments_only() -> None:
    value = {"activation_fn": Activation, "optimizer_class": th.optim.RMSprop, "net_arch": [4]}
    content = pickle.dumps(value)
    assert read_pickle(content, arguments=True) == value
    with pytest.raises(NotAllowed, match=r"Activation"):
        read_pickle(content)


@pytest.mark.slow
def test_schedule_of_the_zoo_needs_no_zoo() -> None:
    code = "import sys; sys.path.insert(0, {!r}); from sb3_sac_variants.common.persistence.allowed import read_pickle; "
    code += "print(read_pickle({!r})(0.5)); assert 'rl_zoo3' not in sys.modules"
    utils = pytest.importorskip("rl_zoo3.utils")
    content = pickle.dumps(utils.SimpleLinearSchedule(0.1))
    assert read_pickle(content)(0.5) == 0.05
    root = str(pathlib.Path(__file__).parent.parent)
    result = subprocess.run([sys.executable, "-c", code.format(root, content)], capture_output=True, text=True)
    assert result.stdout == "0.05\n", result.stderr


# ---------------------------------------------------------------- what runs code


CALLS: list[Any] = []


def canary(*args: Any, **kwargs: Any) -> None:
    """What must not be called."""
    CALLS.append(args)


class Reduced:
    """
    :param values: what ``__reduce__`` returns
    """

    def __init__(self, *values: Any):
        self.values = values

    def __reduce__(self) -> Any:
        return self.values


class Armed(nn.Module):
    """A network whose constructor must not be called."""

    def __init__(self, *args: Any):
        super().__init__()
        canary()


class ArmedEnv(SpacesEnv, EzPickle):
    """An environment whose constructor must not be called."""

    def __init__(self, *args: Any):
        SpacesEnv.__init__(self)
        EzPickle.__init__(self, *args)
        canary()


class Holder:
    """Holds what it is given."""


class Taker:
    """Does something with the arguments of an object that is made."""

    def __new__(cls, *args: Any) -> "Taker":
        if args:
            canary(*args)
        return super().__new__(cls)


def by_name(module: str, name: str, *arguments: str) -> bytes:
    """
    :param module: a module
    :param name: a name in it, with or without dots
    :param arguments: words
    :return: a pickle that calls it
    """
    words = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    arguments_code = b"(" + b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in arguments) + b"t"
    return b"\x80\x04" + words + b"\x93" + arguments_code + b"R."


def maker(value: Any) -> Any:
    """
    :param value: an object
    :return: the function that makes one like it when its pickle is read
    """
    return value.__reduce_ex__(2)[0]


def storage_with_code() -> bytes:
    """
    :return: what torch's old file format holds, with code
    """
    return pickle.dumps(Reduced(canary, ()))


def own_append() -> bytes:
    holder, state = pickle.dumps(Holder(), protocol=2), pickle.dumps({"append": Armed}, protocol=2)
    return holder[:-1] + state[2:-1] + b"b" + b"K\x01a."


def with_arguments(cls: type, *arguments: Any) -> bytes:
    """
    :param cls: a class
    :param arguments: for its ``__new__``
    :return: a pickle that makes an object so
    """
    return pickle.dumps(cls, protocol=2)[:-1] + pickle.dumps(arguments, protocol=2)[2:-1] + b"\x81."


def tensor_with_state() -> bytes:
    function, arguments = th.ones(2).__reduce_ex__(2)
    return pickle.dumps(Reduced(function, arguments, (th.ones(3), 1, False, 1, {})))


CRAFTED: dict[str, Callable[[], bytes]] = {
    "a function": lambda: pickle.dumps(Reduced(canary, ())),
    "os.system": lambda: by_name(os.system.__module__, "system", "true"),
    "eval": lambda: by_name("builtins", "eval", "1"),
    "getattr": lambda: by_name("builtins", "getattr", "a", "upper"),
    "dots": lambda: by_name("stable_baselines3.common.save_util", "os.system", "true"),
    "dots through a class": lambda: by_name("gymnasium.spaces.box", "Box.__init__.__globals__", "a"),
    "module of ours": lambda: by_name("sb3_sac_variants.common.persistence.allowed", "os.system", "true"),
    "partial": lambda: pickle.dumps(functools.partial(canary)),
    "partial of a class": lambda: pickle.dumps(functools.partial(Armed, 1)),
    "partial of a container": lambda: pickle.dumps(functools.partial(list, "abc")),
    "partial of a module outside torch's": lambda: pickle.dumps(functools.partial(NatureCNN, 1)),
    "partial of a module with objects": lambda: pickle.dumps(functools.partial(nn.LeakyReLU, [0.2])),
    "deep tuple in a frozenset": lambda: b"\x80\x04()" + b"\x85" * 10**5 + b"\x91.",
    "deep tuple as a key": lambda: b"\x80\x04()" + b"\x85" * 10**5 + b"K\x01d.",
    "tuple of itself twice, and so on": lambda: b"\x80\x04(K\x01\x85" + b"2\x86" * 60 + b"\x91.",
    "items of a defaultdict at once": lambda: pickle.dumps(Reduced(collections.defaultdict, (None, {1: 2}))),
    "factory that is no class": lambda: pickle.dumps(Reduced(collections.defaultdict, ((1,),))),
    "many deques": lambda: b"\x80\x04ccollections\ndeque\nq\x000(" + b"h\x00)R" * (MOST_UNGUARDED + 1) + b"l.",
    "partial of a partial": lambda: pickle.dumps(functools.partial(functools.partial(canary))),
    "torch.load": lambda: by_name("torch", "load", "file"),
    "torch.hub": lambda: by_name("torch.hub", "load", "a", "b"),
    "torch.storage": lambda: pickle.dumps(Reduced(maker(th.ones(2).storage()), (storage_with_code(),))),
    "loader of Stable-Baselines3": lambda: by_name("stable_baselines3.common.save_util", "load_from_pkl", "file"),
    "lambda": lambda: cloudpickle.dumps(lambda: 3),
    "class by value": lambda: cloudpickle.dumps(type("New", (), {"__module__": "__main__"})),
    "wrapper of a pickle": lambda: pickle.dumps(CloudpickleWrapper(lambda: 3)),
    "constructor": lambda: pickle.dumps(Reduced(Armed, (1,))),
    "network": lambda: pickle.dumps(nn.Linear(2, 2)),
    "compiler": lambda: pickle.dumps(th.fx.symbolic_trace(nn.Linear(2, 2))),
    "environment": lambda: pickle.dumps(ArmedEnv(1)),
    "NumPy's loader": lambda: by_name("numpy", "load", "file"),
    "NumPy's files": lambda: b"\x80\x04\x8c\x05numpy\x8c\x06memmap\x93.",
    "NumPy's generator": lambda: pickle.dumps(Reduced(maker(np.random.PCG64()), (Armed,))),
    "NumPy's other constructor": lambda: pickle.dumps(Reduced(maker(np.random.default_rng()), ("MT19937", Armed))),
    "offsets of a structured type": lambda: pickle.dumps(np.zeros(2, dtype=[("a", "f4"), ("b", "i8")])),
    "method of an object": own_append,
    "our own permission": lambda: pickle.dumps(Rebuild(canary)),
    "old instruction": lambda: b"(S'true'\nios\nsystem\n.",
    "extension registry": lambda: b"\x80\x04\x82\x01.",
    "number of an object": lambda: b"\x80\x04K\x07Q.",
    "new enumeration": lambda: pickle.dumps(Reduced(TrainFrequencyUnit, ("A", "b c"))),
    "factory": lambda: pickle.dumps(Reduced(collections.defaultdict, (Armed,))),
    "class in a list": lambda: pickle.dumps([Holder]),
    "class in a set": lambda: pickle.dumps({Holder}),
    "class in a dictionary": lambda: pickle.dumps({"a": Holder}),
    "function in a list": lambda: pickle.dumps([maker(np.random.PCG64())]),
    "object with arguments": lambda: with_arguments(Taker, 1),
    "object of a class that is an argument": lambda: with_arguments(Armed),
    "state of a tensor": tensor_with_state,
    "state of a class": lambda: pickle.dumps(Armed, protocol=2)[:-1] + b"}U\x01aK\x01sb.",
    "state of the caller's": lambda: b"\x80\x02K\x00Q}U\x01aK\x01sb.",
}
#: refused by what is called with arguments that do not fit
OTHERWISE: dict[str, type[Exception]] = {"new enumeration": TypeError, "torch.storage": pickle.UnpicklingError}


@pytest.mark.parametrize("arguments", [False, True])
@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_pickles_run_nothing(name: str, arguments: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = CRAFTED[name]()
    CALLS.clear()
    monkeypatch.setattr(os, "system", canary)
    given = Holder()
    with pytest.raises(OTHERWISE.get(name, NotAllowed)):
        read_pickle(content, arguments=arguments, classes={Holder, Taker, ArmedEnv}, persistent=[given])
    assert not CALLS
    assert not vars(given)


def test_nothing_is_imported(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_a_stranger.py").write_text("class Space: pass")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotAllowed, match=r"module_of_a_stranger\.Space"):
        read_pickle(by_name("module_of_a_stranger", "Space"))
    assert "module_of_a_stranger" not in sys.modules


def test_forged_flags_of_a_type_are_ignored() -> None:
    # With the flags of object arrays, NumPy would take these numbers for addresses
    content = pickle.dumps(np.arange(3, dtype=np.int64), protocol=4)
    forged = content.replace(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t", b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft")
    assert forged != content
    np.testing.assert_equal(read_pickle(forged), np.arange(3))


def test_memory_beyond_an_array_cannot_be_reached() -> None:
    for cut in (b"K\x09", b"K\x00"):
        content = pickle.dumps(np.arange(3, dtype=np.int64), protocol=4).replace(b"K\x03\x85", cut + b"\x85")
        with pytest.raises(NotAllowed, match=r"numpy\.ndarray"):
            read_pickle(content)
    storage = pickle.dumps(Reduced(maker(th.ones(2)), (th.ones(2).storage(), 0, (9,), (1,), False, {})))
    with pytest.raises(RuntimeError, match="out of bounds"):
        read_pickle(storage)


@pytest.mark.parametrize("position", [-50, 5])
def test_memory_beside_a_random_generator_cannot_be_reached(position: int) -> None:
    source = np.random.Philox(3)
    create, arguments, state = source.__reduce__()
    forged = ({**state[0], "buffer_pos": position}, *state[1:]) if isinstance(state, tuple) else None
    forged = forged or {**state, "buffer_pos": position}
    with pytest.raises(NotAllowed, match="a bit generator"):
        read_pickle(pickle.dumps(Reduced(create, arguments, forged)))


def test_trusted_pickles_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = cloudpickle.dumps(lambda x: x + 1)
    assert read_pickle(content, trusted=True)(1) == 2
    monkeypatch.setenv("SB3_SAC_VARIANTS_TRUSTED", "0")
    with pytest.raises(NotAllowed, match=r"the code of a function or class \(a lambda, say\)"):
        read_pickle(content)
    monkeypatch.setenv("SB3_SAC_VARIANTS_TRUSTED", "1")
    assert read_pickle(content)(1) == 2


@pytest.mark.parametrize("trusted", [False, True])
def test_tensors_of_a_device_that_is_not_here(trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(th.serialization, "location_tag", lambda storage: "cuda:7")
        content = pickle.dumps(th.arange(3.0))
    assert b"cuda:7" in content
    tensor = read_pickle(io.BytesIO(content), trusted=trusted)
    assert tensor.device.type == "cpu"
    assert tensor.tolist() == [0.0, 1.0, 2.0]


def test_classes_of_what_an_environment_holds() -> None:
    env = SpacesEnv()
    env.inner = {"a": [(Holder(),)]}
    env.process = subprocess.Popen([sys.executable, "-c", ""])
    env.process.wait()
    env.call, env.wrapper, env.file = functools.partial(canary), CloudpickleWrapper(1), io.BytesIO()
    found = classes_of([env])
    assert {SpacesEnv, Holder, spaces.Box} <= found
    assert not found & {subprocess.Popen, functools.partial, CloudpickleWrapper, types.FunctionType}
    assert isinstance(read_pickle(pickle.dumps(Holder()), classes=found), Holder)


class Keyed:
    """Is the key of a dictionary."""


class Slotted:
    """Has no dictionary of attributes."""

    __slots__ = ("inner",)


class Inner:
    """Is in a slot."""


class Derived:
    """Has a property over an attribute of the same name, as some caches."""

    def __init__(self) -> None:
        vars(self)["x"] = 3

    @property
    def x(self) -> int:
        return vars(self)["x"] + 1


def test_classes_of_keys_and_slots() -> None:
    env = SpacesEnv()
    slotted = Slotted()
    slotted.inner = Inner()
    env.table, env.slotted = {Keyed(): 1}, slotted
    assert {Keyed, Slotted, Inner} <= classes_of([env])


def test_attributes_under_properties_are_read() -> None:
    assert read_pickle(pickle.dumps(Derived()), classes={Derived}).x == 4


def test_modules_are_told_from_those_whose_names_they_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("iota")
    device = type("Device", (), {"__module__": "iota"})
    module.Device = device  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "iota", module)
    env = SpacesEnv()
    env.device, env.raw = device(), open(os.devnull, "rb")  # noqa: SIM115
    found = classes_of([env])
    env.raw.close()
    assert device in found
    assert io.BufferedReader not in found


def text(value: str) -> bytes:
    """
    :param value: a name
    :return: the instruction that pushes it
    """
    return b"\x8c" + bytes([len(value)]) + value.encode()


NESTED = {
    "key": lambda n: b"})" + b"\x85" * n + b"K\x01s.",
    "set": lambda n: b"\x8f()" + b"\x85" * n + b"\x90.",
    "slice": lambda n: text("builtins") + text("slice") + b"\x93q\x010" + b"h\x01" * n + b"N" + b"\x85R" * n + b".",
    "frozenset": lambda n: text("builtins") + text("frozenset") + b"\x93(](" + b")" + b"\x85" * n + b"etR.",
}


@pytest.mark.parametrize("kind", NESTED)
def test_deeply_nested_values_are_refused(kind: str) -> None:
    """Python would hash or free them by recursion, and end the process."""
    with pytest.raises(NotAllowed, match=r"nested more than 20 deep|do not fit slice"):
        read_pickle(b"\x80\x04" + NESTED[kind](50_000))
    if kind != "slice":
        read_pickle(b"\x80\x04" + NESTED[kind](3))


def test_arrays_of_objects_in_each_other_are_refused() -> None:
    array: Any = None
    for _ in range(30):
        outer = np.empty(1, dtype=object)
        outer[0] = array
        array = outer
    with pytest.raises(NotAllowed, match="nested more than 20 deep"):
        read_pickle(pickle.dumps(array))


def test_an_array_has_one_state() -> None:
    """NumPy would free what the array holds under everybody who looks at it."""
    content = pickle.dumps(np.arange(3.0), protocol=4)
    state = content[content.index(b"(K\x01") :]  # a tuple, BUILD, and the end
    np.testing.assert_equal(read_pickle(content), np.arange(3.0))
    with pytest.raises(NotAllowed, match=r"numpy\.ndarray"):
        read_pickle(content[:-1] + b"q\xf0h\xf0" + state)


@pytest.mark.parametrize("cls", [collections.deque, set, frozenset, collections.Counter, th.Size])
def test_containers_of_a_range_are_refused(cls: type) -> None:
    with pytest.raises(NotAllowed, match="arguments that do not fit"):
        read_pickle(pickle.dumps(Reduced(cls, (range(10**18),))))


def test_a_fraction_without_end_is_refused() -> None:
    with pytest.raises(NotAllowed, match=r"fractions\.Fraction"):
        read_pickle(pickle.dumps(Reduced(fractions.Fraction, ("1e999999999",))))
    assert read_pickle(pickle.dumps(fractions.Fraction(1, 3))) == fractions.Fraction(1, 3)


class Deletes:
    """Does something when it is forgotten."""

    def __del__(self) -> None:
        canary()


def test_objects_that_do_something_by_themselves_are_not_made() -> None:
    env = SpacesEnv()
    env.cleaner, env.folder, env.queue = Deletes(), tempfile.TemporaryDirectory(), queue.Queue()
    env.reader, env.config = csv.DictReader([]), argparse.Namespace(size=3)
    found = classes_of([env])
    assert {SpacesEnv, argparse.Namespace} <= found
    assert not found & {Deletes, tempfile.TemporaryDirectory, queue.Queue, csv.DictReader}
    env.cleaner = None
    env.folder.cleanup()


def test_memory_that_c_leaves_empty_is_not_handed_out() -> None:
    generator = np.random.default_rng(3)
    empty = b"\x80\x02cnumpy.random._generator\nGenerator\n)\x81."
    with pytest.raises(NotAllowed, match=r"an object of numpy\.random\._generator\.Generator without its state"):
        read_pickle(empty, classes=[np.random.Generator])
    again = read_pickle(pickle.dumps(generator), classes=[np.random.Generator])
    assert again.random() == np.random.default_rng(3).random()
