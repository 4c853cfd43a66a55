"""The Optuna samplers: a finished trial gives back exactly what was sampled, and all of it can be trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.zoo.samplers import (
    convert_masac_params,
    convert_sac_v1_params,
    convert_sac_v2_params,
    convert_sql_params,
    sample_masac_params,
    sample_sac_v1_params,
    sample_sac_v2_params,
    sample_sql_params,
)

SAMPLERS = [
    pytest.param(SACv1, sample_sac_v1_params, convert_sac_v1_params, id="sac_v1"),
    pytest.param(SACv2, sample_sac_v2_params, convert_sac_v2_params, id="sac_v2"),
    pytest.param(SQL, sample_sql_params, convert_sql_params, id="sql"),
]
#: and that of several agents, which have other environments
ALL_SAMPLERS = [*SAMPLERS, pytest.param(MASAC, sample_masac_params, convert_masac_params, id="masac")]
HER_KWARGS = [None, {}, {"n_sampled_goal": 4, "goal_selection_strategy": "future", "copy_info_dict": True}]

Sample = Callable[..., dict[str, Any]]
Convert = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def sampled(
    sample: Sample,
    n_trials: int,
    n_actions: int = 3,
    her_kwargs: dict[str, Any] | None = None,
    storage: optuna.storages.BaseStorage | str | None = None,
) -> tuple[list[dict[str, Any]], optuna.Study]:
    """What ``sample`` returned in each trial, and the study as another process would load it."""
    arguments = {"using_her_replay_buffer": her_kwargs is not None, "her_kwargs": her_kwargs or {}}
    returned = []

    def objective(trial: optuna.Trial) -> float:
        returned.append(sample(trial, n_actions, 1, dict(arguments)))
        return returned[-1]["gamma"]

    # The zoo's default sampler, that is where a parameter asked for only now and then would warn.
    sampler = optuna.samplers.TPESampler(n_startup_trials=10, seed=0, multivariate=True)
    study = optuna.create_study(sampler=sampler, storage=storage, study_name="study", direction="maximize")
    study.optimize(objective, n_trials=n_trials)
    return returned, study if storage is None else optuna.load_study(storage=storage, study_name="study")


@pytest.mark.parametrize("her_kwargs", HER_KWARGS, ids=["no HER", "HER", "HER with arguments"])
@pytest.mark.parametrize("n_actions", [0, 1, 17])
@pytest.mark.parametrize(("algorithm", "sample", "convert"), ALL_SAMPLERS)
def test_converter_restores_what_was_sampled(
    algorithm: type, sample: Sample, convert: Convert, n_actions: int, her_kwargs: dict[str, Any] | None
) -> None:
    returned, study = sampled(sample, 12, n_actions, her_kwargs)
    assert returned == [convert(trial.params) for trial in study.trials]
    if her_kwargs is not None:
        assert all(set(her_kwargs) <= set(hyperparams["replay_buffer_kwargs"]) for hyperparams in returned)


@pytest.mark.parametrize("storage", [pytest.param("sqlite", marks=pytest.mark.slow), "journal"])
@pytest.mark.parametrize(("algorithm", "sample", "convert"), ALL_SAMPLERS)
def test_numbers_survive_the_storage(
    algorithm: type, sample: Sample, convert: Convert, storage: str, tmp_path: Path
) -> None:
    where: Any = f"sqlite:///{tmp_path / 'study.db'}"
    if storage == "journal":
        where = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log")))
    returned, study = sampled(sample, 5, her_kwargs=HER_KWARGS[-1], storage=where)
    assert returned == [convert(trial.params) for trial in study.trials]


@pytest.mark.parametrize(("algorithm", "sample", "convert"), ALL_SAMPLERS)
def test_converter_leaves_the_trial_alone(algorithm: type, sample: Sample, convert: Convert) -> None:
    _, study = sampled(sample, 1, her_kwargs={})
    params = study.trials[0].params
    before = dict(params)
    convert(params)
    assert params == before


@pytest.mark.filterwarnings("error::optuna.exceptions.ExperimentalWarning", "error::UserWarning")
@pytest.mark.parametrize(("algorithm", "sample", "convert"), ALL_SAMPLERS)
def test_every_trial_asks_for_the_same_parameters(algorithm: type, sample: Sample, convert: Convert) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _, study = sampled(sample, 30)
    assert len({frozenset(trial.params) for trial in study.trials}) == 1


@pytest.mark.parametrize(("algorithm", "sample", "convert"), SAMPLERS)
def test_sampled_hyperparameters_make_a_model(algorithm: type, sample: Sample, convert: Convert) -> None:
    env = gym.make("Pendulum-v1")
    for hyperparams in sampled(sample, 12, n_actions=1)[0]:
        model = algorithm("MlpPolicy", env, **hyperparams)
        assert model.gamma == hyperparams["gamma"]
        assert model.policy.net_arch == hyperparams["policy_kwargs"]["net_arch"]
        assert model.gradient_steps == -1  # one update for each environment step, however many environments there are


@pytest.mark.parametrize(("algorithm", "sample", "convert"), SAMPLERS)
def test_restored_her_arguments_make_a_model(algorithm: type, sample: Sample, convert: Convert) -> None:
    _, study = sampled(sample, 1, n_actions=2, her_kwargs=HER_KWARGS[-1])
    hyperparams = convert(study.trials[0].params)
    env = BitFlippingEnv(n_bits=2, continuous=True)
    model = algorithm("MultiInputPolicy", env, buffer_size=10, replay_buffer_class=HerReplayBuffer, **hyperparams)
    assert model.replay_buffer.n_sampled_goal == hyperparams["replay_buffer_kwargs"]["n_sampled_goal"]
    assert model.replay_buffer.copy_info_dict


def test_sac_v1_samples_reward_scales_and_both_kinds_of_target() -> None:
    returned, study = sampled(sample_sac_v1_params, 60)
    scales = [hyperparams["reward_scale"] for hyperparams in returned]
    assert min(scales) < 1 < 10 < max(scales)
    assert all(hyperparams["ent_coef"] == 1.0 for hyperparams in returned)
    hard = [hyperparams for hyperparams in returned if hyperparams["tau"] == 1.0]
    soft = [hyperparams for hyperparams in returned if hyperparams["tau"] < 1.0]
    assert hard
    assert soft
    assert all(100 <= hyperparams["target_update_interval"] <= 10_000 for hyperparams in hard)
    assert all(hyperparams["target_update_interval"] == 1 for hyperparams in soft)
    assert len(hard) == sum(trial.params["hard_target_update"] for trial in study.trials)


@pytest.mark.parametrize("n_actions", [1, 6])
def test_sac_v2_samples_target_entropies_around_the_papers(n_actions: int) -> None:
    returned, _ = sampled(sample_sac_v2_params, 60, n_actions)
    ratios = -np.array([hyperparams["target_entropy"] for hyperparams in returned]) / n_actions
    assert 0.25 <= ratios.min() < 0.7 < 1.5 < ratios.max() <= 2.0
    assert {1, 8} < {hyperparams["target_update_interval"] for hyperparams in returned} <= set(range(1, 9))
    temperatures = [hyperparams["ent_coef"].removeprefix("auto_") for hyperparams in returned]
    assert 0.01 <= min(map(float, temperatures)) < max(map(float, temperatures)) <= 1.0


def test_the_zoo_prints_the_batch_size_that_sql_trains_with() -> None:
    returned, study = sampled(sample_sql_params, 30)
    printed = [trial.user_attrs["batch_size"] for trial in study.trials]
    assert printed == [hyperparams["batch_size"] for hyperparams in returned]
    assert 256 in printed


def test_sac_v2_samples_ratios_of_the_greatest_entropy_for_discrete_actions() -> None:
    """The zoo says 0 actions for every action space that is not a Box."""
    env = gym.make("CartPole-v1")
    for hyperparams in sampled(sample_sac_v2_params, 5, n_actions=0)[0]:
        ratio = float(hyperparams["target_entropy"].removeprefix("auto_"))
        model = SACv2("MlpPolicy", env, **hyperparams)
        assert 0.2 <= ratio <= 0.95
        assert model.target_entropy == pytest.approx(ratio * np.log(2))
