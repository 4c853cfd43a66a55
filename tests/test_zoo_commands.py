"""The zoo's own commands with our algorithms, as a user types them after ``pip install``: no script, no extra option.

A tiny Pendulum or CartPole run each; most of a test is the time that Python needs to import PyTorch.
"""

import functools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from helpers import n_updates
from installs import ENVIRONMENT, installed_python, run
from stable_baselines3.common.save_util import load_from_pkl

import sb3_sac_variants
from sb3_sac_variants.zoo import samplers

ALGORITHMS = {"sac_v1": sb3_sac_variants.SACv1, "sac_v2": sb3_sac_variants.SACv2, "sql": sb3_sac_variants.SQL}
slow = pytest.mark.slow
#: each test takes ten seconds or more, most of it imports: one algorithm stands for the others where nobody has asked
each = pytest.mark.parametrize("algo", ["sac_v2", pytest.param("sac_v1", marks=slow), pytest.param("sql", marks=slow)])
N_STEPS = 150
EARLY = ["-params", "learning_starts:100"]

_folders: list[tempfile.TemporaryDirectory[str]] = []


def zoo(command: str, algo: str, *options: object, cwd: Path, env: str = "Pendulum-v1", **kwargs: Any) -> str:
    """``python -m rl_zoo3.<command> --algo <algo> --env <env> <options>`` with the package installed."""
    selection = ["--algos" if command == "plots.all_plots" else "--algo", algo, "--env", env, "-f", "logs"]
    return run(installed_python("wheel"), "-m", f"rl_zoo3.{command}", *selection, *options, cwd=cwd, **kwargs)


@functools.cache
def trained(algo: str) -> Path:
    """A folder with one finished run: evaluations, checkpoint, replay buffer. Not to be written to."""
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    options = ["-n", N_STEPS, "--eval-freq", 75, "--eval-episodes", 2, "--save-freq", 75, "--save-replay-buffer", "-P"]
    zoo("train", algo, *options, *EARLY, cwd=Path(folder.name))
    return Path(folder.name)


def run_folder(folder: Path, algo: str, number: int = 1, env: str = "Pendulum-v1") -> Path:
    return folder / "logs" / algo / f"{env}_{number}"


@each
def test_train(algo: str) -> None:
    folder = run_folder(trained(algo), algo)
    model = ALGORITHMS[algo].load(folder / "Pendulum-v1.zip", device="cpu")
    assert model.num_timesteps == N_STEPS
    assert n_updates(model) > 0
    assert model.learning_rate(1.0) == 1e-3  # the file's, not the algorithm's default
    assert list(np.load(folder / "evaluations.npz")["timesteps"]) == [75, 150]
    assert {"best_model.zip", "rl_model_75_steps.zip", "replay_buffer.pkl"} <= {path.name for path in folder.iterdir()}
    config = yaml.unsafe_load((folder / "Pendulum-v1" / "config.yml").read_text())
    assert config["learning_rate"] == 1e-3


@each
def test_enjoy(algo: str) -> None:
    output = zoo("enjoy", algo, "-n", 250, "--no-render", cwd=trained(algo))
    assert re.search(r"1 Episodes\nMean reward: -\d+", output)


@slow
@pytest.mark.parametrize("command", ["train", "enjoy"])
def test_without_the_hook(command: str, tmp_path: Path) -> None:
    """The package need not even be installed where Python looks for start-up files."""
    python = installed_python("wheel")
    options = ["--algo", "sac_v2", "--env", "Pendulum-v1", "-f", "logs"]
    module = [python, "-m", "sb3_sac_variants.zoo"]
    if command == "train":
        run(*module, "train", *options, "-n", 20, cwd=tmp_path, SB3_SAC_VARIANTS_NO_ZOO="1")
        assert (run_folder(tmp_path, "sac_v2") / "Pendulum-v1.zip").is_file()
    else:
        output = run(*module, "enjoy", *options, "-n", 200, "--no-render", cwd=trained("sac_v2"))
        assert "Mean reward" in output


@slow
@pytest.mark.parametrize("env", ["CartPole-v1", "FrozenLake-v1", "CliffWalking-v1"])
@each
def test_discrete_actions(algo: str, env: str, tmp_path: Path) -> None:
    zoo("train", algo, "-n", N_STEPS, *EARLY, env=env, cwd=tmp_path)
    model = ALGORITHMS[algo].load(run_folder(tmp_path, algo, env=env) / f"{env}.zip", device="cpu")
    assert n_updates(model) > 0
    output = zoo("enjoy", algo, "-n", 250, "--no-render", env=env, cwd=tmp_path)
    # Without training to speak of, the cliff's walker never arrives, and nothing else ends its episode
    assert "Mean reward" in output or env == "CliffWalking-v1"


@slow
@each
@pytest.mark.parametrize("options", [["--load-best"], ["--load-checkpoint", 75], ["--stochastic", "--n-envs", 2, "-P"]])
def test_enjoy_options(algo: str, options: list[object]) -> None:
    zoo("enjoy", algo, "-n", 20, "--no-render", *options, cwd=trained(algo))


@slow
@each
def test_record_video(algo: str, tmp_path: Path) -> None:
    zoo("record_video", algo, "-n", 20, "-o", tmp_path, cwd=trained(algo))
    (video,) = tmp_path.glob("*.mp4")
    assert video.stat().st_size > 0


@slow
@each
def test_continued_training(algo: str, tmp_path: Path) -> None:
    first = run_folder(trained(algo), algo)
    options = ["-i", first / "Pendulum-v1.zip", "-n", N_STEPS, "--save-replay-buffer", *EARLY]
    output = zoo("train", algo, *options, cwd=tmp_path)
    assert "Loading replay buffer" in output
    before = ALGORITHMS[algo].load(first / "Pendulum-v1.zip", device="cpu")
    after = ALGORITHMS[algo].load(run_folder(tmp_path, algo) / "Pendulum-v1.zip", device="cpu")
    assert n_updates(after) > n_updates(before)
    buffers = [load_from_pkl(path / "replay_buffer.pkl") for path in (first, run_folder(tmp_path, algo))]
    assert [buffer.size() for buffer in buffers] == [N_STEPS, 2 * N_STEPS]


OPTIMIZE = ["-optimize", "-n", 200, "--n-evaluations", 2, "--eval-episodes", 1, "--n-startup-trials", 1, *EARLY]


def study_storage(storage: str, folder: Path) -> Any:
    if storage.endswith(".log"):
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / storage)))
    return f"sqlite:///{folder / storage.removeprefix('sqlite:///')}"


@slow
@pytest.mark.parametrize(
    ("env", "storage"),
    [
        ("Pendulum-v1", "journal/study.log"),
        ("Pendulum-v1", "sqlite:///study.db"),
        ("CartPole-v1", "journal/study.log"),
    ],
)
@each
def test_optimize_and_load_every_trial(algo: str, env: str, storage: str, tmp_path: Path) -> None:
    """Trial 0 too, which the zoo takes for none given."""
    where = ["--storage", storage, "--study-name", "study"]
    zoo("train", algo, *OPTIMIZE, *where, "--n-trials", 2, "--pruner", "halving", env=env, cwd=tmp_path)
    (report,) = (tmp_path / "logs" / algo).glob("report_*.csv")
    assert len(report.read_text().splitlines()) == 3
    study = optuna.load_study(study_name="study", storage=study_storage(storage, tmp_path))
    convert = getattr(samplers, f"convert_{algo}_params")
    for trial in study.trials:
        zoo("train", algo, *where, "--trial-id", trial.number, "-n", 10, env=env, cwd=tmp_path)
        saved = run_folder(tmp_path, algo, trial.number + 2, env) / env / "config.yml"
        config = yaml.unsafe_load(saved.read_text())
        assert convert(trial.params).items() <= config.items()


@slow
@pytest.mark.parametrize("storage", ["journal/study.log", "sqlite:///study.db"])
def test_two_workers_on_one_study(storage: str, tmp_path: Path) -> None:
    # Two processes that create the tables of an SQLite file at the same moment fail, in Optuna alone too.
    (tmp_path / "journal").mkdir()
    optuna.create_study(study_name="study", storage=study_storage(storage, tmp_path), direction="maximize")
    options = [
        *OPTIMIZE,
        "--storage",
        storage,
        "--study-name",
        "study",
        "--n-trials",
        "2",
        "--no-optim-plots",
        "--uuid",
    ]
    command = [installed_python("wheel"), "-m", "rl_zoo3.train", "--algo", "sac_v1", "--env", "Pendulum-v1", *options]
    workers = [
        subprocess.Popen(
            [str(part) for part in command],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    study = optuna.load_study(study_name="study", storage=study_storage(storage, tmp_path))
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert all(trial.state.is_finished() for trial in study.trials)


@slow
@each
def test_plots(algo: str, tmp_path: Path) -> None:
    zoo("plots.plot_train", algo, cwd=trained(algo))
    output = zoo("plots.all_plots", algo, "--no-million", "-o", tmp_path / "results", cwd=trained(algo))
    assert re.search(rf"\| *{algo.upper()} *\|", output)
    assert re.search(r"\|Pendulum-v1 \|-\d+ \+/- \d+", output)
    assert (tmp_path / "results.pkl").is_file()


@slow
@each
@pytest.mark.parametrize(
    "hyperparams",
    [
        ["optimize_memory_usage:True", "replay_buffer_kwargs:dict(handle_timeout_termination=False)"],
        ["n_steps:3", "train_freq:[2,'episode']", "gradient_steps:5"],
        ["use_sde:True"],
        ["n_envs:2", "normalize:True"],
    ],
)
def test_model_with_other_buffers_and_exploration(algo: str, hyperparams: list[str], tmp_path: Path) -> None:
    """``enjoy`` and ``record_video`` shrink the replay buffers of the algorithms that they know, and not of ours."""
    if algo == "sql" and "use_sde:True" in hyperparams:
        pytest.skip("soft Q-learning has no Gaussian to explore with")
    zoo("train", algo, "-n", N_STEPS, "--vec-env", "subproc", "-params", *hyperparams, cwd=tmp_path)
    zoo("enjoy", algo, "-n", 20, "--no-render", cwd=tmp_path)
    zoo("record_video", algo, "-n", 5, cwd=tmp_path)


@slow
@each
def test_hindsight_experience_replay(algo: str, tmp_path: Path) -> None:
    (tmp_path / "goals.py").write_text(
        "import gymnasium\n"
        "from stable_baselines3.common.envs import BitFlippingEnv\n"
        "gymnasium.register('Goals-v0', lambda render_mode=None: BitFlippingEnv(4, continuous=True))\n"
    )
    (tmp_path / "goals.yml").write_text(
        "Goals-v0:\n"
        "  n_timesteps: 200\n"
        "  policy: MultiInputPolicy\n"
        "  replay_buffer_class: HerReplayBuffer\n"
        "  replay_buffer_kwargs: dict(copy_info_dict=True)\n"
    )
    python = installed_python("wheel")
    options = ["--algo", algo, "--env", "Goals-v0", "--gym-packages", "goals", "-f", "logs"]
    study = ["--storage", "study.log", "--study-name", "study"]
    config = ["-conf", "goals.yml"]
    run(python, "-m", "rl_zoo3.train", *options, *config, "--save-replay-buffer", cwd=tmp_path)
    run(python, "-m", "rl_zoo3.enjoy", *options, "-n", 20, "--no-render", cwd=tmp_path)
    optimize = ["-optimize", "--n-trials", 1, "--n-evaluations", 1, "--no-optim-plots"]
    run(python, "-m", "rl_zoo3.train", *options, *config, *study, *optimize, cwd=tmp_path)
    run(python, "-m", "rl_zoo3.train", *options, *config, *study, "--trial-id", 0, cwd=tmp_path)
    saved = yaml.unsafe_load((tmp_path / "logs" / algo / "Goals-v0_3" / "Goals-v0" / "config.yml").read_text())
    assert set(saved["replay_buffer_kwargs"]) == {"n_sampled_goal", "goal_selection_strategy", "copy_info_dict"}


@slow
@each
def test_tensorboard(algo: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    zoo("train", algo, "-n", N_STEPS, "-tb", "board", cwd=tmp_path)
    assert list((tmp_path / "board" / "Pendulum-v1").glob("*/events.out*"))
