"""Damaged files of every algorithm, on every kind of space: loaded with success, or an error that names the file."""

import contextlib
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import agents
import gymnasium as gym
import pytest
from helpers import DICTIONARY, SpacesEnv, as_arrays, assert_same_parameters, goal_env, make, several
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.persistence.checkpoint_folder import POINTER


class Kind(NamedTuple):
    """A kind of run: its algorithm, and how its environment and its model are made."""

    algorithm: Any
    env: Callable[[], Any]
    make: Callable[..., Any]


KINDS = {
    "sac_v1, dictionary": Kind(SACv1, lambda: SpacesEnv(DICTIONARY), lambda env: make(SACv1, env, "MultiInputPolicy")),
    "sac_v2, two environments": Kind(
        SACv2, lambda: VecNormalize(several()), lambda env: make(SACv2, env, gradient_steps=-1)
    ),
    "sac_v2, stored once": Kind(
        SACv2, lambda: SpacesEnv(truncate=True), lambda env: make(SACv2, env, optimize_memory_usage=True)
    ),
    "sac_v2, hindsight": Kind(
        SACv2,
        goal_env,
        lambda env: make(SACv2, env, "MultiInputPolicy", learning_starts=8, replay_buffer_class=HerReplayBuffer),
    ),
    "sql, discrete": Kind(SQL, lambda: gym.make("CartPole-v1"), lambda env: make(SQL, env)),
    "masac": Kind(MASAC, agents.several, lambda env: agents.make(env, gradient_steps=-1)),
    "masac, discrete": Kind(MASAC, lambda: agents.AgentsEnv(n_actions=3), agents.make),
}


class Saved(NamedTuple):
    """What a run of a kind has saved, in a folder: model.zip, buffer.pkl and the checkpoint "run"."""

    kind: Kind
    folder: pathlib.Path
    steps: int

    def load(self, path: pathlib.Path) -> Any:
        return self.kind.algorithm.load(path, self.kind.env(), device="cpu")

    def load_checkpoint(self, path: pathlib.Path) -> Any:
        return self.kind.algorithm.load_checkpoint(path, self.kind.env(), "cpu")


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("saved")
    model = kind.make(kind.env()).learn(12)
    model.save(folder / "model.zip")
    model.save_replay_buffer(folder / "buffer.pkl")
    model.save_checkpoint(folder / "run")
    return Saved(kind, folder, model.num_timesteps)


FAST = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
BROAD = settings(FAST, max_examples=150)
DAMAGE = {
    "position": st.floats(0, 1),
    "length": st.integers(0, 8),
    "with_": st.binary(max_size=8),
    "cut": st.booleans(),
}


def damaged(content: bytes, position: float, length: int, with_: bytes, cut: bool) -> bytes:
    """
    :param content: of a file
    :param position: from 0 (beginning) to 1 (end)
    :param length: bytes to leave out
    :param with_: bytes to put in their place
    :param cut: whether to leave out all that follows
    :return: the damaged content
    """
    start = int(position * len(content))
    return content[:start] + with_ + (b"" if cut else content[start + length :])


@contextlib.contextmanager
def or_refused(path: pathlib.Path, name: str = "path") -> Iterator[None]:
    """
    :param path: what is loaded inside: with success, or an error that names it
    :param name: of the argument
    """
    try:
        yield
    except ValueError as error:
        if f"{name}={str(path)!r}" not in str(error):
            raise


def check_model(saved: Saved, **how: Any) -> None:
    file = saved.folder / "damaged.zip"
    file.write_bytes(damaged((saved.folder / "model.zip").read_bytes(), **how))
    whole = saved.load(saved.folder / "model.zip")
    with or_refused(file):
        assert_same_parameters(saved.load(file), whole)
    with or_refused(file, "load_path_or_dict"):
        model = saved.load(saved.folder / "model.zip")
        model.set_parameters(file)
        assert_same_parameters(model, whole)


def check_replay_buffer(saved: Saved, **how: Any) -> None:
    model = saved.load(saved.folder / "model.zip")
    file = saved.folder / "damaged.pkl"
    file.write_bytes(damaged((saved.folder / "buffer.pkl").read_bytes(), **how))
    contents = []
    with or_refused(file):
        for path in (saved.folder / "buffer.pkl", file):
            model.load_replay_buffer(path)
            set_random_seed(0)
            contents.append(repr(as_arrays(tuple(model.replay_buffer.sample(50, env=model.get_vec_normalize_env())))))
        assert contents[0] == contents[1]


def check_checkpoint(saved: Saved, name: str, **how: Any) -> None:
    folder = saved.folder / "damaged_run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved.folder / "run", folder)
    (file,) = folder.rglob(name)
    file.write_bytes(damaged(file.read_bytes(), **how))
    with or_refused(folder):
        assert saved.load_checkpoint(folder).num_timesteps == saved.steps


names = st.sampled_from(["model.zip", "replay_buffer.pkl", "state.pkl", POINTER])

test_damaged_models = FAST(given(**DAMAGE)(check_model))
test_damaged_replay_buffers = FAST(given(**DAMAGE)(check_replay_buffer))
test_damaged_checkpoints = FAST(given(name=names, **DAMAGE)(check_checkpoint))


@pytest.mark.slow
@BROAD
@given(name=names, **DAMAGE)
def test_damaged_files_in_great_number(saved: Saved, name: str, **how: Any) -> None:
    check_model(saved, **how)
    check_replay_buffer(saved, **how)
    check_checkpoint(saved, name, **how)


@settings(FAST, max_examples=15)
@given(**DAMAGE)
def test_damaged_models_of_sb3(tmp_path_factory: pytest.TempPathFactory, **how: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "sac.zip").exists():
        SAC("MlpPolicy", SpacesEnv(), buffer_size=10, device="cpu", policy_kwargs={"net_arch": [4]}).save(
            folder / "sac.zip"
        )
    file = folder / "damaged_sac.zip"
    file.write_bytes(damaged((folder / "sac.zip").read_bytes(), **how))
    with or_refused(file):
        SACv2.from_sb3(file, device="cpu")
