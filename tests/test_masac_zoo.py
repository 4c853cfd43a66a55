"""MASAC in the zoo: its hyperparameters, its sampler, and the zoo's commands on several agents."""

import argparse
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import optuna
import pytest
import yaml
from agents import AgentsEnv
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from rl_zoo3.exp_manager import ExperimentManager

from sb3_sac_variants import MASAC
from sb3_sac_variants.zoo import hyperparameter_file, register
from sb3_sac_variants.zoo.samplers import convert_masac_params, sample_masac_params

ENTRIES = yaml.safe_load(hyperparameter_file("masac").read_text())


@pytest.fixture(autouse=True)
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(gym.registry, "Agents-v0", EnvSpec("Agents-v0", AgentsEnv))


def experiment(env_id: str, **kwargs: Any) -> tuple[Any, ExperimentManager]:
    manager = ExperimentManager(argparse.Namespace(), "masac", env_id, "logs", eval_freq=-1, device="cpu", **kwargs)
    setup = manager.setup_experiment()
    assert setup is not None
    return setup[0], manager


def test_entry_of_simple_spread_makes_the_model_it_describes() -> None:
    pytest.importorskip("mpe2")
    entry = ENTRIES["SimpleSpread-v3"]
    model, manager = experiment("SimpleSpread-v3")
    assert type(model) is MASAC
    assert manager.n_timesteps == entry["n_timesteps"]
    assert model.n_envs == entry.get("n_envs", 1)
    for name in set(entry) - {"n_envs", "n_timesteps", "policy", "policy_kwargs", "learning_rate", "train_freq"}:
        made = getattr(model, name)
        assert made == (-5 * float(entry[name][5:]) if name == "target_entropy" else entry[name]), name
    for name, value in eval(entry["policy_kwargs"]).items():
        assert model.policy_kwargs[name] == value
    assert model.lr_schedule(1.0) == pytest.approx(entry["learning_rate"])
    assert model.ce_coef == 0


def test_other_environments_take_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    model, manager = experiment("Agents-v0", hyperparams={"ce_coef": 0.1})
    assert "Using 'default' hyperparameters" in capsys.readouterr().out
    assert manager.n_timesteps == 1_000_000
    assert model.ce_coef == 0.1


def test_simple_spread_with_discrete_actions() -> None:
    pytest.importorskip("mpe2")
    model, manager = experiment("SimpleSpread-v3", env_kwargs={"continuous_actions": False})
    assert model.action_space == spaces.MultiDiscrete([5, 5, 5])
    assert manager.n_actions == 0  # which tells the sampler
    assert 0 < model.target_entropy < math.log(5)


def test_a_fixed_temperature_in_the_place_of_the_learned_one() -> None:
    """The file's target entropy is then of no use, and a warning says so."""
    pytest.importorskip("mpe2")
    with pytest.warns(UserWarning, match=r"target_entropy='auto_0.5' has no effect on the fixed ent_coef=0.03"):
        model, _ = experiment("SimpleSpread-v3", hyperparams={"ent_coef": 0.03})
    assert model.ent_coef == 0.03


@pytest.mark.parametrize("n_actions", [None, 4])
def test_sampled_hyperparameters_make_a_model(n_actions: int | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=5, seed=0))
    shares: set[tuple[str, bool]] = set()
    factors = []

    def objective(trial: optuna.Trial) -> float:
        zoo_n_actions = 3 if n_actions is None else 0
        hyperparams = sample_masac_params(trial, zoo_n_actions, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
        model = MASAC("MlpPolicy", AgentsEnv(n_actions=n_actions), **hyperparams)
        assert convert_masac_params(trial.params) == hyperparams
        assert model.policy.net_arch == hyperparams["policy_kwargs"]["net_arch"]
        shares.update([("actor", model.policy.share_actor), ("critic", model.policy.share_critic)])
        factors.append(model.target_entropy / (-2 if n_actions is None else math.log(n_actions)))
        return model.gamma

    study.optimize(objective, n_trials=8)
    assert len(shares) == 4
    low, middle, high = (0.25, 1, 2) if n_actions is None else (0.1, 0.5, 0.9)
    assert low <= min(factors) < middle < max(factors) <= high


@pytest.mark.slow
@pytest.mark.parametrize("continuous", [True, False])
def test_train_enjoy_and_tune(tmp_path: Path, continuous: bool) -> None:
    """The zoo's own commands, in processes of their own."""
    pytest.importorskip("mpe2")
    task = ["--algo", "masac", "--env", "SimpleSpread-v3", "-f", "logs"]
    task += ["--env-kwargs", f"continuous_actions:{continuous}"]
    quick = ["-params", "learning_starts:20", "batch_size:16", "policy_kwargs:dict(net_arch=[16])"]

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"rl_zoo3.{command}", *task, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("train", "-n", "200", "--eval-freq", "100", "--eval-episodes", "2", *quick)
    assert (tmp_path / "logs/masac/SimpleSpread-v3_1/SimpleSpread-v3.zip").is_file()
    assert "Episode Reward" in run("enjoy", "-n", "60", "--no-render")
    tune = ["-optimize", "--n-trials", "2", "--n-startup-trials", "1", "--n-evaluations", "1", "--n-jobs", "1"]
    run("train", "-n", "150", *tune, "--eval-episodes", "1", "-params", "learning_starts:100")
    assert list((tmp_path / "logs/masac").glob("report_*.csv"))
