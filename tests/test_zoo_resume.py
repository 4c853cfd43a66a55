"""A run of the zoo that is killed goes on by one command, and ends as one that was never interrupted."""

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

pytest.importorskip("rl_zoo3")

from rl_zoo3 import train

from sb3_sac_variants import SACv2
from sb3_sac_variants.common.callbacks import RunCheckpointCallback
from sb3_sac_variants.common.persistence.checkpoint_folder import POINTER
from sb3_sac_variants.zoo import register
from sb3_sac_variants.zoo.resume import CHECKPOINT, _episode_lengths, main, resume
from sb3_sac_variants.zoo.run_files import read_yaml

CALLBACK = "sb3_sac_variants.common.callbacks.RunCheckpointCallback"
#: environment of each algorithm, and its hyperparameters
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sac_v1": ("Pendulum-v1", {"n_envs": 2, "gradient_steps": -1}),
    "sac_v2": ("Pendulum-v1", {"normalize": True, "n_envs": 2, "gradient_steps": -1, "learning_rate": "lin_3e-4"}),
    "sql": ("CartPole-v1", {"normalize": "dict(norm_obs=True, norm_reward=False)"}),
    "masac": ("SimpleSpread-v3", {"normalize": "dict(norm_reward=False)", "n_envs": 2}),
    "sac": ("Pendulum-v1", {"normalize": True, "learning_rate": "lin_3e-4"}),
    "ppo": ("CartPole-v1", {"n_steps": 8, "n_envs": 2, "clip_range": "lin_0.2"}),
    "td3": ("Pendulum-v1", {"n_envs": 2, "noise_type": "ornstein-uhlenbeck", "noise_std": 0.1}),
}
OURS = ("sac_v1", "sac_v2", "sql", "masac")
#: step at which a run crashes, where one is to
crash_at = 10**9


class Crash(Exception):
    """The power is cut."""


class CrashCallback(BaseCallback):
    """Raises an error at a step."""

    def _on_step(self) -> bool:
        if self.num_timesteps >= crash_at:
            raise Crash
        return True


class GoalEnv(gym.Env[Any, Any]):
    """Ends after ten steps, and says whether it has succeeded."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(2, np.float32), float(action[0]), False, self.steps == 10, {"is_success": True}


def arguments(algo: str, folder: Path, log_folder: str, steps: int) -> list[str]:
    """
    :param algo: the zoo's name of the algorithm
    :param folder: where to write hyperparameters and runs
    :param log_folder: of the run, inside it
    :param steps: of the run
    :return: arguments of the zoo's ``train``
    """
    env_id, hyperparameters = RUNS[algo]
    if algo == "masac":
        pytest.importorskip("mpe2")
    defaults = {
        "policy": "MlpPolicy",
        "n_timesteps": steps,
        "batch_size": 16,
        "policy_kwargs": "dict(net_arch=[16])",
        "callback": [{CALLBACK: {"save_freq": steps // 8}}, f"{__name__}.CrashCallback"],
    }
    if algo != "ppo":
        defaults["learning_starts"] = 20
    if algo in OURS:
        defaults["engine"] = "eager"
    (folder / "hyperparameters.yml").write_text(yaml.safe_dump({env_id: {**defaults, **hyperparameters}}))
    return [
        *("--algo", algo, "--env", env_id, "--conf-file", str(folder / "hyperparameters.yml"), "--seed", "1"),
        *("--eval-freq", str(steps // 5), "--eval-episodes", "1", "-f", str(folder / log_folder), "--device", "cpu"),
        *("--verbose", "0", "--num-threads", "1"),
    ]


def results(algo: str, folder: Path) -> dict[str, Any]:
    """
    :param algo: the zoo's name of the algorithm
    :param folder: with logs of runs
    :return: weights, evaluations and returns of the first run
    """
    run = folder / algo / f"{RUNS[algo][0]}_1"
    found: dict[str, Any] = {}
    for name in (f"{RUNS[algo][0]}.zip", "best_model.zip"):
        with zipfile.ZipFile(run / name) as archive:
            weights = th.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
        found[name] = {key: value.numpy() for key, value in weights.items()}
    found["evaluations"] = dict(np.load(run / "evaluations.npz"))
    # Returns and lengths of the episodes, without the time they took
    for file in sorted(run.glob("*.monitor.csv")):
        found[file.name] = [line.split(",")[:2] for line in file.read_text().splitlines()[1:]]
    return found


def run_folder(algo: str, folder: Path) -> Path:
    return folder / algo / f"{RUNS[algo][0]}_1"


def crashed_and_whole(algo: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train a run to its end, and one that crashes after three quarters; give the folder of the second."""
    register()
    for log_folder, step in {"whole": 10**9, "crashed": 90}.items():
        monkeypatch.setattr(sys, "argv", ["train", *arguments(algo, folder, log_folder, 120)])
        monkeypatch.setattr(sys.modules[__name__], "crash_at", step)
        with contextlib.nullcontext() if log_folder == "whole" else pytest.raises(Crash):
            train.train()
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    crashed = run_folder(algo, folder / "crashed")
    assert (crashed / CHECKPOINT / POINTER).is_file()
    return crashed


@pytest.mark.thin(3)
@pytest.mark.parametrize("algo", RUNS)
def test_crashed_run_ends_as_the_whole_one(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume(crashed_and_whole(algo, tmp_path, monkeypatch))
    np.testing.assert_equal(results(algo, tmp_path / "crashed"), results(algo, tmp_path / "whole"))


@pytest.mark.parametrize("entry_point", [f"{__name__}:GoalEnv", "panda_gym.envs:GoalEnv"])
def test_successes_in_the_monitor_go_on(entry_point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The zoo knows environments with goals by "parking-v0" in their id, or by where they come from
    module = entry_point.partition(":")[0]
    monkeypatch.setitem(sys.modules, module, sys.modules[__name__])
    monkeypatch.setitem(sys.modules, module.partition(".")[0], sys.modules[__name__])
    env_id = "OfTests-parking-v0" if module == __name__ else "OfTests-v0"
    monkeypatch.setitem(gym.registry, env_id, gym.envs.registration.EnvSpec(env_id, entry_point))
    monkeypatch.setitem(RUNS, "sac_v2", (env_id, {}))
    resume(crashed_and_whole("sac_v2", tmp_path, monkeypatch))
    whole, crashed = (
        [line.split(",") for line in (run_folder("sac_v2", tmp_path / name) / "0.monitor.csv").read_text().splitlines()]
        for name in ("whole", "crashed")
    )
    assert whole[1] == crashed[1] == ["r", "l", "t", "is_success"]
    assert len(whole) == 2 + 12
    assert [line[:2] for line in whole[2:]] == [line[:2] for line in crashed[2:]]


def test_wrappers_that_a_library_imports_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mpe2")
    wrapper = {"vec_env_wrapper": "sb3_sac_variants.envs.IndependentAgents"}
    monkeypatch.setitem(RUNS, "sac_v2", ("SimpleSpread-v3", wrapper))
    resume(crashed_and_whole("sac_v2", tmp_path, monkeypatch))
    np.testing.assert_equal(results("sac_v2", tmp_path / "crashed"), results("sac_v2", tmp_path / "whole"))


def test_run_goes_on_from_inside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the zoo would look for statistics of VecNormalize, those of the evaluation lie
    crashed = crashed_and_whole("sac_v2", tmp_path, monkeypatch)
    monkeypatch.chdir(crashed)
    assert Path("Pendulum-v1/vecnormalize.pkl").exists()
    resume(Path())
    np.testing.assert_equal(results("sac_v2", tmp_path / "crashed"), results("sac_v2", tmp_path / "whole"))


def test_classes_of_a_module_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_the_user.py").write_text("from gymnasium.wrappers import Autoreset as Wrapper\n")
    monkeypatch.syspath_prepend(tmp_path)
    wrapper = {"env_wrapper": "module_of_the_user.Wrapper"}
    monkeypatch.setitem(RUNS, "sac_v2", ("Pendulum-v1", wrapper))
    crashed = crashed_and_whole("sac_v2", tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "module_of_the_user")
    with pytest.raises(ValueError, match=r"asks for 'module_of_the_user\.Wrapper'.* \(--import\) if it is .*, or set"):
        resume(crashed)
    monkeypatch.setattr(sys, "argv", ["resume", str(crashed), "--import", "module_of_the_user"])
    main()
    np.testing.assert_equal(results("sac_v2", tmp_path / "crashed"), results("sac_v2", tmp_path / "whole"))


def test_functions_of_a_module_to_import_are_wrappers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from os import system\nfrom gymnasium.wrappers import Autoreset\ndef wrap(env):\n    return Autoreset(env)\n"
    )
    (tmp_path / "functions_of_the_user.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RUNS, "sac_v2", ("Pendulum-v1", {"env_wrapper": "functions_of_the_user.wrap"}))
    crashed = crashed_and_whole("sac_v2", tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"asks for 'functions_of_the_user\.wrap'.* \(--import\) if it is .*, or set"):
        resume(crashed)  # that the module happens to be there vouches for none of its functions
    (config,) = crashed.glob("*/config.yml")
    asked = config.read_text()
    config.write_text(asked.replace("functions_of_the_user.wrap", "functions_of_the_user.system"))
    with pytest.raises(ValueError, match=r"asks for 'functions_of_the_user\.system'"):
        resume(crashed, ["functions_of_the_user"])
    config.write_text(asked)
    monkeypatch.setattr(sys, "argv", ["resume", str(crashed), "--import", "functions_of_the_user"])
    main()
    np.testing.assert_equal(results("sac_v2", tmp_path / "crashed"), results("sac_v2", tmp_path / "whole"))


@pytest.mark.parametrize("others", [0, 1])
def test_tensorboard_of_another_run_is_left_alone(others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, shown = tmp_path / "tensorboard", arguments
    monkeypatch.setitem(
        globals(), "arguments", lambda *given: [*shown(*given), *(["-tb", str(logs)] if "crashed" in given else [])]
    )
    crashed = crashed_and_whole("sac_v2", tmp_path, monkeypatch)
    folder = logs / "Pendulum-v1"
    for number in range(others):
        (folder / f"SACv2_{number + 2}").mkdir()
    resume(crashed)
    written = {path.name: len(list(path.iterdir())) for path in folder.iterdir()}
    assert written == ({"SACv2_1": 1, "SACv2_2": 0, "SACv2_3": 1} if others else {"SACv2_1": 2})


def test_classes_that_a_file_names(tmp_path: Path) -> None:
    """``--trial-id`` writes those of ``policy_kwargs`` so."""
    file = tmp_path / "config.yml"
    file.write_text("policy_kwargs: {activation_fn: !!python/name:torch.nn.modules.activation.ReLU ''}")
    assert read_yaml(file) == {"policy_kwargs": {"activation_fn": th.nn.ReLU}}
    for name in ("os.system", "torch.load", "not_imported.Network"):
        file.write_text(f"policy_kwargs: {{activation_fn: !!python/name:{name} ''}}")
        with pytest.raises(ValueError, match=rf"is damaged, .*: {name} is neither a network nor an optimiser"):
            read_yaml(file)


@pytest.mark.slow
def test_a_run_of_sb3_that_began_with_an_agent_goes_on_as_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_id, hyperparameters = RUNS["sac"]
    monkeypatch.setitem(RUNS, "sac", (env_id, {**hyperparameters, "gamma": 0.9}))
    monkeypatch.setattr(sys, "argv", ["train", *arguments("sac", tmp_path, "agent", 60)])
    train.train()
    monkeypatch.setitem(RUNS, "sac", (env_id, hyperparameters))
    agent = str(run_folder("sac", tmp_path / "agent") / "Pendulum-v1.zip")
    monkeypatch.setattr(sys, "argv", ["train", *arguments("sac", tmp_path, "logs", 120), "-i", agent])
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 90)
    with pytest.raises(Crash):
        train.train()
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    monkeypatch.setenv("SB3_SAC_VARIANTS_TRUSTED", "1")
    resume(run_folder("sac", tmp_path / "logs"))
    assert SAC.load(run_folder("sac", tmp_path / "logs") / "Pendulum-v1.zip").gamma == 0.9


def test_checkpoint_is_no_trained_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    given = arguments("sql", tmp_path, "logs", 60)
    monkeypatch.setattr(sys, "argv", ["train", *given])
    train.train()
    (model,) = run_folder("sql", tmp_path / "logs").glob("checkpoint/*/model.zip")
    monkeypatch.setattr(sys, "argv", ["train", *given, "-i", str(model)])
    with pytest.raises(ValueError, match=r"trained_agent='.*' is part of a checkpoint.* resume FOLDER"):
        train.train()


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("algo", ["sac_v1", "sac_v2"])
def test_checkpoint_of_the_zoo_goes_on_in_a_script(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setattr(sys, "argv", ["train", *arguments(algo, tmp_path, "logs", 60)])
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    train.train()
    (state,) = run_folder(algo, tmp_path / "logs").glob("checkpoint/*/state.pkl")
    code = f"""
import sys
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from sb3_sac_variants import SACv1, SACv2
env = make_vec_env("Pendulum-v1", 2)
algorithm = {{"sac_v1": SACv1, "sac_v2": SACv2}}[{algo!r}]
model = algorithm.load_checkpoint({str(state.parent.parent)!r}, VecNormalize(env) if algorithm is SACv2 else env)
assert model.num_timesteps == 60
# In the middle of the episode that was under way
assert [e.get_wrapper_attr("_elapsed_steps") for e in env.envs] == [30, 30]
model.learn(10, reset_num_timesteps=False)
assert "rl_zoo3" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_model_without_a_checkpoint_is_not_trained_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setitem(RUNS, "sac_v2", ("Pendulum-v1", {"callback": f"{__name__}.CrashCallback"}))
    monkeypatch.setattr(sys, "argv", ["train", *arguments("sac_v2", tmp_path, "logs", 60)])
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    train.train()
    folder = run_folder("sac_v2", tmp_path / "logs")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=r"whose files a run from the start would replace, and '.*' has no checkpoint"):
        resume(folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def crash_without_checkpoint(callback: list[Any], step: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(RUNS, "sac_v2", ("Pendulum-v1", {"callback": [*callback, f"{__name__}.CrashCallback"]}))
    register()
    monkeypatch.setattr(sys, "argv", ["train", *arguments("sac_v2", folder, "logs", 120)])
    monkeypatch.setattr(sys.modules[__name__], "crash_at", step)
    with pytest.raises(Crash):
        train.train()
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    return run_folder("sac_v2", folder / "logs")


def test_evaluations_of_a_run_that_saves_no_checkpoints_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = crash_without_checkpoint([], 90, tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {"best_model.zip", "evaluations.npz"} <= {path.name for path in before}
    with pytest.raises(ValueError, match=r"is of a run of 72 steps or more, .* has no checkpoint to go on from: train"):
        resume(folder)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_models_of_a_run_that_saves_no_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = crash_without_checkpoint([], 20, tmp_path, monkeypatch)  # before its first evaluation and episode
    (folder / "rl_model_15_steps.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is of a run of 15 steps or more"):
        resume(folder)


def test_run_that_crashed_before_its_first_checkpoint_was_due_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = crash_without_checkpoint([{CALLBACK: {"save_freq": 80}}], 79, tmp_path, monkeypatch)
    resume(folder)
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [24, 48, 72, 96, 120]


def test_checkpoint_with_a_path_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "home")
    folder = crash_without_checkpoint([{CALLBACK: {"save_freq": 15, "path": "mine"}}], 90, tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ValueError, match=r"'mine' has no checkpoint to go on from: call this from the folder in which"):
        resume(folder)
    assert not list(Path().iterdir())
    monkeypatch.chdir(tmp_path / "home")
    resume(folder)
    assert (folder / "Pendulum-v1.zip").is_file()


class OwnCallback(RunCheckpointCallback):
    """A subclass under another name."""


def test_checkpoint_of_a_subclass_of_the_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {f"{__name__}.OwnCallback": {"save_freq": 15, "path": str(tmp_path / "elsewhere")}}
    folder = crash_without_checkpoint([own], 90, tmp_path, monkeypatch)
    resume(folder)
    assert (folder / "Pendulum-v1.zip").is_file()


@pytest.mark.parametrize("update", [60, 61])
def test_ctrl_c_in_an_update_ends_as_the_whole_run(
    update: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zoo then ends the training as if it were over, callbacks included, and saves the model."""
    register()
    done = []

    def interrupted(self: Any, batch: Any, noise: Any) -> Any:
        done.append(None)
        metrics = whole_update(self, batch, noise)
        if len(done) == update:
            raise KeyboardInterrupt
        return metrics

    whole_update = SACv2.update
    for log_folder in ("whole", "crashed"):
        monkeypatch.setattr(sys, "argv", ["train", *arguments("sac_v2", tmp_path, log_folder, 120)])
        monkeypatch.setattr(SACv2, "update", whole_update if log_folder == "whole" else interrupted)
        train.train()
    monkeypatch.setattr(SACv2, "update", whole_update)
    assert len(done) == update
    resume(run_folder("sac_v2", tmp_path / "crashed"))
    np.testing.assert_equal(results("sac_v2", tmp_path / "crashed"), results("sac_v2", tmp_path / "whole"))


def test_the_checkpoint_lies_where_the_callback_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {CALLBACK: {"save_freq": 15, "path": str(tmp_path / "elsewhere")}}
    monkeypatch.setitem(RUNS, "sac_v2", ("Pendulum-v1", {"callback": [elsewhere, f"{__name__}.CrashCallback"]}))
    register()
    monkeypatch.setattr(sys, "argv", ["train", *arguments("sac_v2", tmp_path, "logs", 120)])
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 90)
    with pytest.raises(Crash):
        train.train()
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    resume(run_folder("sac_v2", tmp_path / "logs"))
    assert (run_folder("sac_v2", tmp_path / "logs") / "Pendulum-v1.zip").is_file()


class LockedEnv(gym.Wrapper):
    """An environment whose state cannot be saved, as those of Box2D; episodes of ten steps."""

    metadata: ClassVar[dict] = {}  # of the class; a wrapper's is a property, which Gymnasium 1.0 takes for an error

    def __init__(self) -> None:
        super().__init__(gym.wrappers.TimeLimit(gym.make("Pendulum-v1").unwrapped, 10))
        self.lock = threading.Lock()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_episodes_before_the_checkpoint_stay(kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is of step 90, in the end of an episode; the crash comes at step 99."""
    monkeypatch.setitem(gym.registry, "Locked-v0", gym.envs.registration.EnvSpec("Locked-v0", LockedEnv))
    monkeypatch.setitem(RUNS, "sac_v2", ("Locked-v0", {}))
    register()
    given = arguments("sac_v2", tmp_path, "logs", 120)
    vec_env = ["--vec-env", "subproc" if kind is SubprocVecEnv else "dummy"]
    monkeypatch.setattr(sys, "argv", ["train", *given, *vec_env])
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 99)
    with pytest.raises(Crash):
        train.train()
    monkeypatch.setattr(sys.modules[__name__], "crash_at", 10**9)
    folder = run_folder("sac_v2", tmp_path / "logs")
    with pytest.warns(UserWarning, match="begin"):
        resume(folder)
    rows = [line.split(",") for line in (folder / "0.monitor.csv").read_text().splitlines()[2:]]
    assert [row[1] for row in rows] == ["10"] * 12


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder='.*' holds no run of the zoo"):
        resume(tmp_path)
    (tmp_path / "Pendulum-v1").mkdir()
    file = tmp_path / "Pendulum-v1" / "args.yml"
    for content in ("", "a: [", "!!python/object/apply:os.system ['true']"):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"'.*args\.yml' is damaged"):
            resume(tmp_path)


@pytest.mark.parametrize("content", ["seed: 2001-13-99", "a: !!int abc", "a: !!timestamp x", "[" * 5000])
def test_arguments_that_are_damaged_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "Pendulum-v1").mkdir()
    (tmp_path / "Pendulum-v1" / "args.yml").write_text(content)
    with pytest.raises(ValueError, match=r"args\.yml' is damaged"):
        resume(tmp_path)


def test_lengths_of_episodes_with_empty_and_damaged_lines(tmp_path: Path) -> None:
    monitor = tmp_path / "0.monitor.csv"
    monitor.write_text("#{}\nr,l,t\n-1.0,200,1.5\n\n-2.0,100,2.5\n-3.0,5")
    assert _episode_lengths(monitor) == [200, 0, 100]
    monitor.write_text("#{}\nr,l,t\n-1.0,x,1.5\n")
    with pytest.raises(ValueError, match=r"0\.monitor\.csv' is damaged"):
        _episode_lengths(monitor)


def test_callback_without_the_zoo_needs_a_path() -> None:
    from helpers import SACv2, make

    with pytest.raises(ValueError, match=r"path=None is known in runs of the RL Zoo only: pass the folder"):
        make(SACv2).learn(5, callback=RunCheckpointCallback())


@pytest.mark.slow
@pytest.mark.parametrize("algo", RUNS)
def test_killed_run_ends_as_the_whole_one(algo: str, tmp_path: Path) -> None:
    kills = 5  # of each of four algorithms
    steps = 2000
    # The runs have a callback of this module's own, for which whoever resumes them vouches
    environment = {"PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path]), "SB3_SAC_VARIANTS_TRUSTED": "1"}
    command = [sys.executable, "-m", "sb3_sac_variants.zoo"]

    def start(*given: str) -> subprocess.Popen:
        return subprocess.Popen([*command, *given], env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path)

    begun = time.monotonic()
    assert start("train", *arguments(algo, tmp_path, "whole", steps)).wait() == 0
    duration = time.monotonic() - begun
    folder = run_folder(algo, tmp_path / "killed")
    process = start("train", *arguments(algo, tmp_path, "killed", steps))
    moments = random.Random(algo)
    for _ in range(kills):
        while not list(folder.glob("*/args.yml")) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.uniform(0.05, 0.7) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = start("resume", str(folder))
    assert process.wait() == 0
    np.testing.assert_equal(results(algo, tmp_path / "killed"), results(algo, tmp_path / "whole"))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_in_a_run_are_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "Pendulum-v1").mkdir(parents=True)
    (folder / "Pendulum-v1" / "args.yml").write_text("{}")
    (tmp_path / "victim.csv").write_text("a,1\n" * 9)
    if kind == "link":
        (folder / "0.monitor.csv").symlink_to(tmp_path / "victim.csv")
    else:
        os.mkfifo(folder / "evaluations.npz")
    with pytest.raises(ValueError, match=r"is a link or no file: put the file itself there"):
        resume(folder)


def test_aliases_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "Pendulum-v1").mkdir()
    lines = ["a: &a0 [x, x]", *(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    (tmp_path / "Pendulum-v1" / "args.yml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"is damaged: it holds more than 10000 values"):
        resume(tmp_path)
