"""
The Optuna samplers: a finished trial gives back exactly what was sampled, and all of it can be trained.

And what the zoo makes of it: what the user gave and a trial does not sample stays.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from helpers import SpacesEnv
from rl_zoo3 import exp_manager
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.zoo import register
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


# ---------------------------------------------------------------- in the zoo


class Made(Exception):
    """An algorithm was called with these hyperparameters."""


def experiment(algo: str, folder: Path, env_id: str = "Pendulum-v1", **kwargs: Any) -> ExperimentManager:
    register()
    if "hyperparams_of_file" in kwargs:
        file = folder / "file.py"
        file.write_text(f"hyperparams = {{{env_id!r}: {kwargs.pop('hyperparams_of_file')!r}}}")
        kwargs["config"] = str(file)
    return ExperimentManager(argparse.Namespace(), algo, env_id, str(folder), verbose=0, device="cpu", **kwargs)


def trained_with(manager: ExperimentManager, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a trial of ``-optimize`` has sampled, and what its algorithm is given."""

    def make(**kwargs: Any) -> None:
        raise Made(kwargs)

    monkeypatch.setitem(exp_manager.ALGOS, manager.algo, make)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    with pytest.raises(Made) as made:
        manager.objective(trial)
    return exp_manager.HYPERPARAMS_CONVERTER[manager.algo](trial.params), made.value.args[0]


SHORT = {"n_timesteps": 200, "policy": "MlpPolicy"}
#: as a file of hyperparameters has them, and as -params does
POLICY_KWARGS = ["dict(n_components=4, net_arch=[8])", {"n_components": 4, "net_arch": [8]}]


@pytest.mark.parametrize("policy_kwargs", POLICY_KWARGS, ids=["text", "dictionary"])
@pytest.mark.parametrize("given", ["hyperparams", "hyperparams_of_file"])
def test_a_trial_keeps_the_policy_kwargs_that_it_does_not_sample(
    given: str, policy_kwargs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperparams = {given: {**SHORT, "policy_kwargs": policy_kwargs}}
    manager = experiment("sac_v1", tmp_path, optimize_hyperparameters=True, **hyperparams)
    manager.setup_experiment()
    for _ in range(2):
        sampled, kwargs = trained_with(manager, monkeypatch)
        assert kwargs["policy_kwargs"] == {"n_components": 4, **sampled["policy_kwargs"]}
        assert {**kwargs, **sampled, "policy_kwargs": kwargs["policy_kwargs"]} == kwargs
    assert manager._hyperparams["policy_kwargs"] == POLICY_KWARGS[1]


@pytest.mark.parametrize("none", [{}, {"policy_kwargs": None}], ids=["left out", "None"])
def test_a_trial_without_policy_kwargs_has_the_sampled_ones(
    none: dict[str, None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = experiment("sac_v2", tmp_path, optimize_hyperparameters=True, hyperparams_of_file={**SHORT, **none})
    manager.setup_experiment()
    sampled, kwargs = trained_with(manager, monkeypatch)
    assert kwargs["policy_kwargs"] == sampled["policy_kwargs"]


@pytest.mark.parametrize("policy_kwargs", POLICY_KWARGS, ids=["text", "dictionary"])
def test_a_chosen_trial_goes_between_the_file_and_the_command(policy_kwargs: Any, tmp_path: Path) -> None:
    storage, study_name = f"sqlite:///{tmp_path / 'study.db'}", "study"
    returned, _ = sampled(sample_sac_v1_params, 1, storage=storage)
    search = {"storage": storage, "study_name": study_name, "trial_id": 0}
    net_arch = returned[0]["policy_kwargs"]["net_arch"]

    def read(file: Any, **kwargs: Any) -> Any:
        given = {} if file is None else {"policy_kwargs": file}
        manager = experiment("sac_v1", tmp_path, hyperparams_of_file={**SHORT, **given}, **search, **kwargs)
        hyperparams, saved = manager.read_hyperparameters()
        assert saved["policy_kwargs"] == hyperparams["policy_kwargs"]
        assert hyperparams["gamma"] == returned[0]["gamma"]
        return hyperparams["policy_kwargs"]

    assert read(None) == {"net_arch": net_arch}
    assert read(policy_kwargs) == {"n_components": 4, "net_arch": net_arch}
    given = {"policy_kwargs": {"n_components": 2}}
    assert read(policy_kwargs, hyperparams=given) == {"n_components": 2, "net_arch": net_arch}
    given = {"policy_kwargs": policy_kwargs, "learning_starts": 7}
    assert read(None, hyperparams=given) == POLICY_KWARGS[1]  # as -params replaces what else a trial has


def test_policy_kwargs_that_are_no_dictionary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperparams = {"hyperparams_of_file": {**SHORT, "policy_kwargs": "[64]"}}
    manager = experiment("sac_v2", tmp_path, optimize_hyperparameters=True, **hyperparams)
    manager.setup_experiment()
    with pytest.raises(TypeError, match=r"policy_kwargs=\[64\] is no dictionary: pass one"):
        trained_with(manager, monkeypatch)


def test_other_algorithms_are_left_to_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperparams = {"hyperparams_of_file": {**SHORT, "policy_kwargs": {"n_critics": 4}}}
    manager = experiment("sac", tmp_path, optimize_hyperparameters=True, **hyperparams)
    manager.setup_experiment()
    _, kwargs = trained_with(manager, monkeypatch)
    assert "n_critics" not in kwargs["policy_kwargs"]


@pytest.mark.parametrize("algo", ["sac_v1", "sql"])
def test_a_temperature_that_trials_do_without_is_named_and_left_out(
    algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"ent_coef": "auto", "ent_coef_learning_rate": 1e-3}
    manager = experiment(algo, tmp_path, optimize_hyperparameters=True, hyperparams_of_file={**SHORT, **given})
    message = (
        rf"-optimize leaves out ent_coef='auto', ent_coef_learning_rate=0.001: trials of {algo} have ent_coef=1.0, and "
        "sample reward_scale in its place. For a learned temperature tune sac_v2"
    )
    with pytest.warns(UserWarning, match=message):
        manager.setup_experiment()
    algorithm = exp_manager.ALGOS[algo]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # once is enough
        _, kwargs = trained_with(manager, monkeypatch)
    model = algorithm(**kwargs)
    assert (model.ent_coef, model.ent_coef_learning_rate) == (1.0, None)


@pytest.mark.parametrize(
    ("algo", "given"), [("sac_v1", {}), ("sac_v1", {"ent_coef": 1.0}), ("sac_v2", {"ent_coef": "auto_0.1"})]
)
def test_nothing_is_said_where_nothing_is_left_out(algo: str, given: dict[str, Any], tmp_path: Path) -> None:
    manager = experiment(algo, tmp_path, optimize_hyperparameters=True, hyperparams_of_file={**SHORT, **given})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        manager.setup_experiment()


def test_target_entropies_are_those_of_all_dimensions_of_an_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = gym.spaces.Box(-1.0, 1.0, (2, 3))
    env_id = "ActionsOfTwoTimesThree-v0"
    monkeypatch.setitem(
        gym.registry, env_id, gym.envs.registration.EnvSpec(env_id, lambda: SpacesEnv(action_space=space))
    )
    hyperparams = {"hyperparams_of_file": SHORT}
    manager = experiment("sac_v2", tmp_path, env_id, optimize_hyperparameters=True, **hyperparams)
    manager.setup_experiment()
    assert manager.n_actions == 6
