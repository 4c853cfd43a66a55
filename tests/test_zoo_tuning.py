"""Trials of the zoo's tuning: one whose networks diverge is pruned, and none keeps checkpoints."""

import argparse
from pathlib import Path
from typing import Any

import optuna
import pytest
from rl_zoo3 import exp_manager
from rl_zoo3.exp_manager import ExperimentManager

from sb3_sac_variants import SACv2
from sb3_sac_variants.zoo import register

SMALL = {"learning_starts": 100, "policy_kwargs": {"net_arch": [8]}}


def tuned(env_id: str, folder: Path, trials: int, **hyperparams: Any) -> list[str]:
    """
    :param env_id: of the environment
    :param folder: for the study's database and the zoo's logs
    :param trials: how many
    :param hyperparams: the zoo's, without those that are sampled
    :return: the states in which the trials of SACv2 end
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{folder / 'study.db'}"
    manager = ExperimentManager(
        argparse.Namespace(),
        "sac_v2",
        env_id,
        str(folder),
        n_timesteps=200,
        n_eval_episodes=1,
        hyperparams=hyperparams,
        config=None,
        optimize_hyperparameters=True,
        n_trials=trials,
        n_startup_trials=trials,
        storage=storage,
        study_name="study",
        no_optim_plots=True,
        device="cpu",
        verbose=0,
    )
    assert manager.setup_experiment() is None
    manager.hyperparameters_optimization()
    return [trial.state.name for trial in optuna.load_study(storage=storage, study_name="study").trials]


class Diverging(SACv2):
    """Raises in the middle of its training, and nowhere else."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        super().train(gradient_steps, batch_size)
        if self.num_timesteps > 140 and self.gamma == 0.5:
            raise ValueError("the actor has diverged")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "sampled", "env_id"),
    [
        (Diverging, {"gamma": 0.5}, "Pendulum-v1"),
        pytest.param(SACv2, {"learning_rate": 1e12}, "Pendulum-v1", marks=pytest.mark.slow),
        pytest.param(SACv2, {"learning_rate": 1e12}, "CartPole-v1", marks=pytest.mark.slow),
    ],
)
def test_diverged_trial_is_pruned(
    cls: type,
    sampled: dict[str, float],
    env_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def sample(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
        return dict(sampled) if trial.number == 1 else {}

    register()
    monkeypatch.setitem(exp_manager.ALGOS, "sac_v2", cls)
    monkeypatch.setitem(exp_manager.HYPERPARAMS_SAMPLER, "sac_v2", sample)
    states = tuned(env_id, tmp_path, trials=3, **SMALL)
    assert states == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert "has diverged" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"path": "checkpoint"}], ids=["no path", "one path for all trials"])
def test_trials_keep_no_checkpoints(kwargs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(exp_manager.HYPERPARAMS_SAMPLER, "sac_v2", lambda *args: {})
    name = "sb3_sac_variants.common.callbacks.RunCheckpointCallback"
    with pytest.warns(UserWarning, match="RunCheckpointCallback is left out of the trials"):
        states = tuned("Pendulum-v1", tmp_path, trials=2, callback=[{name: {"save_freq": 50, **kwargs}}], **SMALL)
    assert states == ["COMPLETE", "COMPLETE"]
    assert not (tmp_path / "checkpoint").exists()
