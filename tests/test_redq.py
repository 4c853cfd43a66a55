"""REDQ, the example of an algorithm in a package of its own: its numbers, and the zoo that finds it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch as th
from installs import declare, installed_python, run
from stable_baselines3.common.logger import Logger
from test_prioritized_replay import fill, parameters

from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported

PACKAGE = Path(__file__).parents[1] / "examples" / "redq"
if not PACKAGE.exists():
    pytest.skip("the examples are not part of this distribution", allow_module_level=True)
sys.path.insert(0, str(PACKAGE))
from redq import REDQ, ZOO  # noqa: E402


def make(env: str = "Pendulum-v1", **kwargs: Any) -> Any:
    kwargs = {"policy_kwargs": {"net_arch": [16]}, "engine": "eager", "seed": 0, "device": "cpu", **kwargs}
    model = REDQ("MlpPolicy", env, **kwargs)
    model.set_logger(Logger(None, []))
    fill(model.replay_buffer)
    th.manual_seed(1)
    return model


def test_is_short() -> None:
    assert sum(len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")) <= 90


def test_tuning_leaves_the_number_of_updates_alone() -> None:
    study = optuna.create_study()
    sampled = ZOO.sampler(study.ask(), 1, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
    assert not {"train_freq", "gradient_steps"} & set(sampled)
    assert "batch_size" in sampled


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_target_is_the_minimum_of_the_subset_and_the_policy_climbs_the_mean(env: str) -> None:
    model = make(env, subset_size=3)
    obs = model.replay_buffer.gather(th.arange(5)).observations
    noise = model.draw_noise(5)
    assert len(set(noise.critics.tolist())) == 3
    with th.no_grad():
        sample: PolicySample = model.actor.sample(obs, noise.actions)
        targets, values = (critic.sample_q(obs, sample) for critic in (model.critic_target, model.critic))
        chosen = th.stack([targets[index] for index in noise.critics.tolist()])
        assert th.equal(model.bootstrap_q(obs, sample, noise), chosen.min(dim=0).values)
        assert th.equal(model.actor_q(obs, sample), values.mean(dim=0))
    assert values.shape[0] == 10


def test_every_critic_gets_its_turn() -> None:
    model = make()
    counts = th.bincount(th.cat([model.draw_noise(1).critics for _ in range(1000)]), minlength=10)
    assert counts.min() > 140  # of 200 on average
    assert counts.max() < 260


def test_all_critics_as_the_subset_is_the_minimum_of_sac() -> None:
    model = make(subset_size=2, policy_kwargs={"net_arch": [16], "n_critics": 2})
    obs = model.replay_buffer.gather(th.arange(5)).observations
    noise = model.draw_noise(5)
    sample = model.actor.sample(obs, noise.actions)
    assert th.equal(model.bootstrap_q(obs, sample, noise), model.critic_target.min_q(obs, sample))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = make(subset_size=4)
    model.train(2, batch_size=8)
    model.save(tmp_path / "redq")
    loaded = REDQ.load(tmp_path / "redq", device="cpu")
    assert (loaded.subset_size, loaded.gradient_steps, loaded.critic.n_critics) == (4, 20, 10)
    assert th.equal(parameters(loaded), parameters(model))


def test_subset_larger_than_the_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="subset_size=11 must be from 1 to n_critics=10"):
        make(subset_size=11)


@pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
@pytest.mark.slow
def test_compiled_update_computes_the_eager_numbers() -> None:
    eager, compiled = make(), make(engine="compile")
    for model in (eager, compiled):
        th.manual_seed(1)
        model.train(5, batch_size=8)
    th.testing.assert_close(parameters(compiled), parameters(eager), rtol=1e-4, atol=2e-6)


QUICK = ["--env", "Pendulum-v1", "-f", "logs", "--device", "cpu"]


@pytest.mark.slow
def test_the_zoo_trains_it_where_its_metadata_is_found(tmp_path: Path) -> None:
    """As after ``pip install``, which the slow test below does."""
    declare(tmp_path, "redq-example", redq="redq:ZOO")
    path = {"PYTHONPATH": f"{tmp_path}:{PACKAGE}"}
    train = ["-m", "rl_zoo3.train", "--algo", "redq", *QUICK, "-n", 210]
    output = run(installed_python("wheel"), *train, cwd=tmp_path, **path)
    assert f"Loading hyperparameters from: {PACKAGE / 'redq' / 'redq.yml'}" in output
    model = REDQ.load(tmp_path / "logs" / "redq" / "Pendulum-v1_1" / "Pendulum-v1.zip", device="cpu")
    assert (model.gradient_steps, model.num_timesteps) == (2, 210)


@pytest.mark.slow
def test_the_zoo_trains_plays_and_tunes_it_after_pip_install(tmp_path: Path) -> None:
    python = installed_python("wheel")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    # Build a copy, so that nothing is left in the checkout
    run("cp", "-r", PACKAGE, tmp_path / "source")
    subprocess.run([*pip, "install", *options, str(tmp_path / "source")], check=True)
    try:
        zoo = lambda command, *arguments: run(  # noqa: E731
            python, "-m", f"rl_zoo3.{command}", "--algo", "redq", *QUICK, *arguments, cwd=tmp_path
        )
        assert "site-packages/redq/redq.yml" in zoo("train", "-n", 210)
        assert "Mean reward" in zoo("enjoy", "-n", 210, "--no-render")
        tune = ["-optimize", "--n-trials", 2, "--n-startup-trials", 1, "--n-evaluations", 1, "--no-optim-plots"]
        zoo("train", "-n", 110, *tune, "--eval-episodes", 1, "-params", "learning_starts:100", "gradient_steps:1")
        assert list((tmp_path / "logs" / "redq").glob("report_*.csv"))
    finally:
        subprocess.run([*pip, "uninstall", "-y", "redq-example"], check=True)
