"""Checkpoints are written whole or not at all, and what is none is refused."""

import errno
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import numpy as np
import pytest
import torch as th
from crafted import crafted_checkpoint
from gymnasium.utils import EzPickle
from helpers import (
    SpacesEnv,
    as_arrays,
    assert_same_parameters,
    flat_parameters,
    last_observation,
    make,
    several,
)
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_sac_variants import SACv1, SACv2
from sb3_sac_variants.common.callbacks import RunCheckpointCallback
from sb3_sac_variants.common.persistence import env_state
from sb3_sac_variants.common.persistence.checkpoint_folder import MARK, POINTER
from sb3_sac_variants.common.persistence.rebuild import NotAllowed

# ---------------------------------------------------------------- writing is all or nothing


def fail(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


def fail_late(times: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """
    :param times: calls that go well
    :param function: what they do
    :return: the function, until it fails
    """
    left = [times]

    def failing(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        return fail() if left[0] < 0 else function(*args, **kwargs)

    return failing


FAILURES = {
    "second network": ("torch.save", 2),
    "model in place": ("os.replace", 0),
    "replay buffer": ("pickle.dump", 0),
    "rest": ("sb3_sac_variants.common.persistence.checkpoint.random_state", 0),
    "flush": ("os.fsync", 3),
    "pointer": ("os.replace", 3),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_interrupted_writing_leaves_the_old_checkpoint(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(SACv2, SpacesEnv()).learn(12)
    model.save_checkpoint(tmp_path)
    old = sorted(tmp_path.rglob("*"))
    before = flat_parameters(model)
    model.learn(8, reset_num_timesteps=False)
    target, times = FAILURES[failure]
    with monkeypatch.context() as patch:
        patch.setattr(target, fail_late(times, resolve_name(target)))
        with pytest.raises(OSError, match="No space"):
            model.save_checkpoint(tmp_path)
    assert sorted(tmp_path.rglob("*")) == old
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    assert resumed.num_timesteps == 12
    np.testing.assert_equal(as_arrays(flat_parameters(resumed)), as_arrays(before))
    model.save_checkpoint(tmp_path)
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").num_timesteps == 20
    assert len(list(tmp_path.glob(f"*/{MARK}"))) == 1


def test_remains_of_a_killed_process_do_no_harm(tmp_path: Path) -> None:
    model = make(SACv2, SpacesEnv()).learn(12)
    model.save_checkpoint(tmp_path)
    remains = tmp_path / "version-20-0123abcd"
    remains.mkdir()
    (remains / MARK).touch()
    (remains / "model.zip").write_bytes(b"half")
    (tmp_path / ".checkpoint.json.0123abcd.partial").write_bytes(b"half")
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").num_timesteps == 12
    model.save_checkpoint(tmp_path)
    assert not remains.exists()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.slow
def test_killed_while_writing(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from helpers import SACv2, make
        model = make(SACv2, buffer_size=200_000)
        model.learn(20)
        model.replay_buffer.pos = 150_000
        while True:
            model.save_checkpoint(sys.argv[1])
            print("saved", flush=True)
            model.num_timesteps += 1
    """)
    for attempt in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 * attempt + 0.01)
            process.send_signal(signal.SIGKILL)
        resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
        assert resumed.replay_buffer.size() == 150_000


def test_interrupted_after_the_pointer_the_new_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(SACv2, SpacesEnv()).learn(12)
    model.save_checkpoint(tmp_path)
    model.learn(8, reset_num_timesteps=False)
    syncs = 8  # of three files with their folder, of the folder of the version, and of the pointer
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail_late(syncs, resolve_name("os.fsync")))
        with pytest.raises(OSError, match="No space"):
            model.save_checkpoint(tmp_path)
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").num_timesteps == 20
    model.save_checkpoint(tmp_path)


# ---------------------------------------------------------------- checkpoints of other runs

OTHER_RUN = r"path='.*' holds a checkpoint of another run \(version-.*give each run a folder.*load_checkpoint\(\), or"


def test_runs_that_alternate_do_not_overwrite_each_other(tmp_path: Path) -> None:
    model, other = make(SACv2).learn(12), make(SACv2).learn(9)
    model.save_checkpoint(tmp_path)
    model.save_checkpoint(tmp_path)
    other.save_checkpoint(tmp_path)  # as SB3's save() does, the first one replaces what is there
    with pytest.raises(RuntimeError, match=OTHER_RUN):
        model.save_checkpoint(tmp_path)
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").num_timesteps == 9
    other.save_checkpoint(tmp_path)
    model.save_checkpoint(tmp_path / "elsewhere")


def test_two_runs_that_go_on_from_one_checkpoint(tmp_path: Path) -> None:
    make(SACv2).learn(12).save_checkpoint(tmp_path)
    one, two = (SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu") for _ in range(2))
    one.save_checkpoint(tmp_path)
    with pytest.raises(RuntimeError, match=OTHER_RUN):
        two.save_checkpoint(tmp_path)
    one.save_checkpoint(tmp_path)


def test_training_does_not_begin_where_another_run_has_its_checkpoint(tmp_path: Path) -> None:
    callback = RunCheckpointCallback(tmp_path, 10)
    model = make(SACv2).learn(20, callback=callback)
    model.learn(20, callback=callback)
    other = make(SACv2)
    with pytest.raises(RuntimeError, match=OTHER_RUN):
        other.learn(20, callback=RunCheckpointCallback(tmp_path, 10))
    assert other.num_timesteps == 0
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    resumed.learn(10, callback=RunCheckpointCallback(tmp_path, 10), reset_num_timesteps=False)


def test_run_that_began_beside_another_one_is_refused_at_its_first_checkpoint(tmp_path: Path) -> None:
    class OtherSaves(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 5:
                make(SACv2).learn(6).save_checkpoint(tmp_path)
            return True

    with pytest.raises(RuntimeError, match=OTHER_RUN):
        make(SACv2).learn(20, callback=[RunCheckpointCallback(tmp_path, 10), OtherSaves()])
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").num_timesteps == 6


# ---------------------------------------------------------------- what is no checkpoint of this run


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make(SACv2, VecNormalize(several())).learn(12).save_checkpoint(tmp_path)
    return tmp_path


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path='.*nowhere' holds no checkpoint: pass a folder"):
        SACv2.load_checkpoint(tmp_path / "nowhere", SpacesEnv())


@pytest.mark.parametrize("name", ["model.zip", "replay_buffer.pkl", "state.pkl", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["half", "empty", "noise"])
def test_damaged_checkpoint(name: str, damage: str, saved: Path) -> None:
    (file,) = saved.rglob(name)
    content = file.read_bytes()
    file.write_bytes({"half": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256))}[damage])
    with pytest.raises(ValueError, match=r"path='.*(damaged|holds something else).*load (another|a file written)"):
        SACv2.load_checkpoint(saved, VecNormalize(several()))


def test_other_algorithm(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"sac_v2\), not sac_v1: load it with the class"):
        SACv1.load_checkpoint(saved, VecNormalize(several()))


@pytest.mark.parametrize(
    "make_env",
    [several, lambda: VecFrameStack(several(), 1), lambda: VecNormalize(make_vec_env(SpacesEnv, 3))],
    ids=["no VecNormalize", "other wrapper", "other number"],
)
def test_environment_built_otherwise(make_env: Callable[[], Any], saved: Path) -> None:
    with pytest.raises(
        ValueError, match=r"(?s)env=.*(build the environment as in|has 3 environments, .* is of 2: build it as in)"
    ):
        SACv2.load_checkpoint(saved, make_env())


def test_no_environment_is_not_a_damaged_file(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"env=None leaves nothing to go on in: pass an environment"):
        SACv2.load_checkpoint(saved, None)  # type: ignore[arg-type]


def test_a_run_that_begins_anew_over_its_checkpoint_is_warned_of(tmp_path: Path) -> None:
    make(SACv2).learn(12).save_checkpoint(tmp_path)
    model = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    with pytest.warns(UserWarning, match=r"counts from 0 what was taken up after 12 steps.*reset_num_timesteps=False"):
        model.learn(10, callback=RunCheckpointCallback(tmp_path, 10))
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.learn(2, reset_num_timesteps=False)
        resumed.learn(2)


def test_no_path_at_all() -> None:
    no_path: Any = None
    model = make(SACv2).learn(4)
    for call in (lambda: model.save_checkpoint(no_path), lambda: SACv2.load_checkpoint(no_path, SpacesEnv())):
        with pytest.raises(TypeError, match="path=None is no path: pass that of the checkpoint's folder"):
            call()
    with pytest.raises(TypeError, match="path=None is neither a path nor a file open for writing"):
        model.save_replay_buffer(no_path)
    with pytest.raises(ValueError, match=r"path='\.' has no name of a file"):
        model.save(".")


def test_files_open_for_text(tmp_path: Path) -> None:
    model = make(SACv2).learn(4)
    with open(tmp_path / "text", "w+") as file:
        text: Any = file
        for call in (model.save, model.save_replay_buffer):
            with pytest.raises(TypeError, match="is open for text: open it with mode 'wb'"):
                call(text)
        with pytest.raises(TypeError, match=r"load_path_or_dict=.* is open for text"):
            model.set_parameters(text)
        for call in (SACv2.load, model.load_replay_buffer):
            with pytest.raises(TypeError, match="is open for text: open it with mode 'rb'"):
                call(text)


def test_nothing_to_resume_without_environment(tmp_path: Path) -> None:
    model = make(SACv2)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"env=None leaves nothing to resume: call set_env"):
        SACv2.load(tmp_path / "model").save_checkpoint(tmp_path / "run")


def test_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"path='.*file' is a file: pass a folder"):
        make(SACv2).save_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EIO])
def test_file_system_without_locks(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*args: Any) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    model = make(SACv2).learn(12)
    if code == errno.EIO:
        with pytest.raises(OSError, match="no locks"):
            model.save_checkpoint(tmp_path)
        return
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"path='.*' is on a file system without locks: that two runs") as caught:
            model.save_checkpoint(tmp_path)
        assert len(caught) == 1
    assert len(list(tmp_path.glob("version-*"))) == 1
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").num_timesteps == 12


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", [MARK, POINTER])
def test_pipe_in_the_place_of_a_file(name: str, tmp_path: Path) -> None:
    make(SACv2).learn(12).save_checkpoint(tmp_path)
    (file,) = tmp_path.rglob(name)
    file.unlink()
    os.mkfifo(file)
    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)  # in place of waiting for ever
    try:
        with pytest.raises(ValueError, match=rf"path='.*' is damaged \({name} is no file\)"):
            SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("save_freq", [0, -5, 1.5, None])
def test_checkpoint_frequency(save_freq: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"save_freq={save_freq} .*: pass an integer at least 1"):
        RunCheckpointCallback(tmp_path, save_freq)


def test_callback_says_what_it_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(SACv2).learn(25, callback=RunCheckpointCallback(tmp_path, 10, verbose=1))
    # Two on the way, and one at the end
    assert capsys.readouterr().out.count("Saved a checkpoint of step") == 3
    assert json.loads((tmp_path / POINTER).read_text())["num_timesteps"] == 25


def test_callback_keeps_what_goes_on_exactly_where_the_training_was_stopped(tmp_path: Path) -> None:
    callbacks = [RunCheckpointCallback(tmp_path, 10), StopTrainingOnMaxEpisodes(2)]
    make(SACv2, SpacesEnv(episode_length=8)).learn(100, callback=callbacks)
    assert json.loads((tmp_path / POINTER).read_text())["num_timesteps"] == 10


def test_environment_by_its_id(tmp_path: Path) -> None:
    model = make(SACv2, "Pendulum-v1")
    model.learn(20)
    model.save_checkpoint(tmp_path)
    resumed = SACv2.load_checkpoint(tmp_path, "Pendulum-v1", device="cpu")
    resumed.learn(10, reset_num_timesteps=False)
    assert resumed.num_timesteps == 30


# ---------------------------------------------------------------- states of environments


class Arguments(SpacesEnv, EzPickle):
    """An environment that says what its state is, and would be made anew when it gets it back."""

    made_with: ClassVar[list[Any]] = []

    def __init__(self, argument: Any = None):
        SpacesEnv.__init__(self)
        EzPickle.__init__(self, argument)
        self.made_with.append(argument)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)


def state_with(attributes: list[dict[str, Any]]) -> bytes:
    """The state of layers without spaces, with these attributes."""
    return pickle.dumps([None, None] * len(attributes)) + pickle.dumps(attributes)


def test_environment_is_not_made_anew_with_the_arguments_of_a_file(tmp_path: Path) -> None:
    model = make(SACv2, Arguments()).learn(13)
    with pytest.warns(UserWarning, match="new episode, because .*Arguments .*EzPickle's __setstate__ .*: define both"):
        model.save_checkpoint(tmp_path)
    assert last_observation(SACv2.load_checkpoint(tmp_path, Arguments(), device="cpu")) is None
    env = DummyVecEnv([Arguments])
    (group,) = env_state.layers(env)
    Arguments.made_with.clear()
    with pytest.raises(NotAllowed, match=r"the state of .*Arguments, which would be constructed anew"):
        env_state.set_state(group, group, state_with([{}, {"_ezpickle_args": (1,), "_ezpickle_kwargs": {}}]))
    assert not Arguments.made_with


def test_environment_that_makes_itself_anew_does_so_with_its_own_arguments(tmp_path: Path) -> None:
    class Remade(Arguments):
        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            vars(self).update(state)

    env = DummyVecEnv([lambda: Remade("mine")])
    (group,) = env_state.layers(env)
    arguments = {"_ezpickle_args": ("of a stranger",), "_ezpickle_kwargs": {}}
    Arguments.made_with.clear()
    env_state.set_state(group, group, state_with([{}, {**arguments, "steps": 3}]))
    assert (env.envs[0].steps, Arguments.made_with) == (3, ["mine"])


def test_environment_that_only_says_what_its_state_is(tmp_path: Path) -> None:
    class WithoutViewer(SpacesEnv):
        viewer: Any = None

        def __getstate__(self) -> dict[str, Any]:
            return {name: value for name, value in vars(self).items() if name != "viewer"}

    env = WithoutViewer()
    env.viewer = open(__file__)  # noqa: SIM115
    model = make(SACv2, env).learn(13)
    model.save_checkpoint(tmp_path)
    env.viewer.close()
    resumed = WithoutViewer()
    resumed.viewer = 3
    SACv2.load_checkpoint(tmp_path, resumed, device="cpu")
    assert (resumed.steps, resumed.viewer) == (3, 3)


def test_the_zoos_time_limit_goes_on_as_gymnasiums(tmp_path: Path) -> None:
    patches = pytest.importorskip("rl_zoo3.gym_patches")
    patched = patches.PatchedTimeLimit
    for name, (one, other) in {"a": (patched, patched.__base__), "b": (patched.__base__, patched)}.items():
        model = make(SACv2, one(SpacesEnv(), 7)).learn(12)
        model.save_checkpoint(tmp_path / name)
        model.learn(12, reset_num_timesteps=False)
        resumed = SACv2.load_checkpoint(tmp_path / name, other(SpacesEnv(), 7), device="cpu")
        resumed.learn(12, reset_num_timesteps=False)
        assert_same_parameters(model, resumed)
        np.testing.assert_equal(last_observation(resumed), last_observation(model))


def test_memory_beside_torchs_random_generator_cannot_be_reached(tmp_path: Path) -> None:
    make(SACv2).learn(8).save_checkpoint(tmp_path / "saved" / "run")
    (file,) = tmp_path.glob("saved/run/*/state.pkl")
    state = pickle.loads(file.read_bytes())
    generator = bytearray(state["random"]["torch"].numpy().tobytes())
    struct.pack_into("=ii", generator, 8, 624, 1)
    struct.pack_into("=Q", generator, 16, 624)
    state["random"]["torch"] = th.frombuffer(generator, dtype=th.uint8).clone()
    crafted = crafted_checkpoint(tmp_path / "saved", tmp_path / "crafted", "state.pkl", pickle.dumps(state))
    with pytest.raises(ValueError, match=r"arguments that do not fit torch\.set_rng_state"):
        SACv2.load_checkpoint(crafted, SpacesEnv(), device="cpu")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_pointer_of_a_newer_version_or_a_link_is_left_alone(is_link: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make(SACv2).learn(3).save_checkpoint(folder)
    versions = {path.name for path in folder.glob("version-*")}
    pointer = folder / "checkpoint.json"
    if is_link:
        pointer.rename(tmp_path / "other")
        pointer.symlink_to(tmp_path / "other")
    else:
        fields = json.loads(pointer.read_text())
        pointer.write_text(json.dumps({**fields, "format": 99}))
    before = pointer.read_text()
    for callback in (None, RunCheckpointCallback(folder)):
        model = make(SACv2)
        with pytest.raises(ValueError, match=r"which this version does not know|is a link"):
            model.learn(3, callback=callback).save_checkpoint(folder)
    assert pointer.read_text() == before
    assert {path.name for path in folder.glob("version-*")} == versions


def test_a_file_of_somebody_elses_by_the_pointers_name_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    model = make(SACv2).learn(3)
    model.save_checkpoint(folder)
    (folder / "checkpoint.json").write_text("notes")
    other = make(SACv2).learn(4)
    other.save_checkpoint(folder)
    (kept,) = folder.glob("checkpoint.json.*.damaged")
    assert kept.read_text() == "notes"
    assert len([*folder.glob("version-*")]) == 2  # there is no telling whether the first was good
    assert SACv2.load_checkpoint(folder, SpacesEnv()).num_timesteps == 4


def test_a_protected_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = make(SACv2), tmp_path / "model.zip"
    path.write_bytes(b"mine")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # to root everything is writable
    with pytest.raises(PermissionError, match="must not be written to"):
        model.save(path)
    assert path.read_bytes() == b"mine"


def test_names_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".zip")
    make(SACv2).save(path)
    SACv2.load(path)
