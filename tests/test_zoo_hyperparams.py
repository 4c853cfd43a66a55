"""Every entry of our hyperparameter files goes through the zoo and makes a model with what it says."""

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import rl_zoo3
import yaml
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from helpers import ACTION, VECTOR, SpacesEnv
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.utils import FloatSchedule

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step.target_entropy import parse_target_entropy
from sb3_sac_variants.zoo import hyperparameter_file, register

ALGORITHMS = {"sac_v1": SACv1, "sac_v2": SACv2, "sql": SQL}
HYPERPARAMS = {algo: yaml.safe_load(hyperparameter_file(algo).read_text()) for algo in ALGORITHMS}
ENTRIES = [
    pytest.param(algo, env_id, id=f"{algo}-{env_id}")
    for algo, entries in HYPERPARAMS.items()
    for env_id in entries
    if env_id not in ("default", "atari")
]
MUJOCO_V5 = [
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
]
#: Actions of environments that the tests do not install and that have no continuous ones
ACTIONS = {"LunarLander-v3": spaces.Discrete(4)}
#: What the zoo itself consumes or converts, and the algorithm therefore never gets to see
OF_THE_ZOO = {"env_wrapper", "learning_rate", "n_envs", "n_timesteps", "normalize", "policy", "policy_kwargs"}


class GoalEnv(SpacesEnv):
    """Stands in for a robot that reaches for goals."""

    def __init__(self) -> None:
        names = ("observation", "achieved_goal", "desired_goal")
        super().__init__(spaces.Dict(dict.fromkeys(names, VECTOR)))

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return -np.linalg.norm(achieved - desired, axis=-1)


class Encoder(gym.ObservationWrapper):
    """Stands in for the autoencoder of CarRacing."""

    def __init__(self, env: gym.Env, ae_path: str):
        super().__init__(env)
        self.observation_space = VECTOR

    def observation(self, observation: Any) -> np.ndarray:
        return self.observation_space.sample()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo with our algorithms, in a folder of its own, with the wrapper module that one entry names."""
    register()
    monkeypatch.chdir(tmp_path)
    wrapper = ModuleType("ae.wrapper")
    wrapper.AutoencoderWrapper = Encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ae", ModuleType("ae"))
    monkeypatch.setitem(sys.modules, "ae.wrapper", wrapper)


def ensure_environment(env_id: str, her: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``gym.make`` return a stand-in where the real environment is not installed."""
    try:
        gym.make(env_id).close()
    except (gym.error.Error, ImportError):
        actions = ACTIONS.get(env_id, ACTION)
        stand_in = EnvSpec(env_id, lambda **_: GoalEnv() if her else SpacesEnv(action_space=actions))
        monkeypatch.setitem(gym.registry, env_id, stand_in)


def experiment(algo: str, env_id: str, **kwargs: Any) -> tuple[Any, ExperimentManager]:
    manager = ExperimentManager(argparse.Namespace(), algo, env_id, "logs", eval_freq=-1, device="cpu", **kwargs)
    setup = manager.setup_experiment()
    assert setup is not None
    return setup[0], manager


@pytest.mark.thin(4)
@pytest.mark.usefixtures("zoo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "error:.* has no effect")
@pytest.mark.parametrize(("algo", "env_id"), ENTRIES)
def test_entry_makes_the_model_it_describes(algo: str, env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = HYPERPARAMS[algo][env_id]
    ensure_environment(env_id, "HerReplayBuffer" in entry.get("replay_buffer_class", ""), monkeypatch)
    model, manager = experiment(algo, env_id)
    assert type(model) is ALGORITHMS[algo]
    assert manager.n_timesteps == entry["n_timesteps"]
    assert model.n_envs == entry.get("n_envs", 1)
    assert bool(model.get_vec_normalize_env()) == bool(entry.get("normalize", False))
    for name, value in entry.items():
        if name in OF_THE_ZOO:
            continue
        made = getattr(model, name)
        if name == "train_freq":
            assert (made.frequency, made.unit.value) == (tuple(value) if isinstance(value, list) else (value, "step"))
        elif name == "replay_buffer_class":
            assert made.__name__ == value
        elif name == "target_entropy":
            assert made == parse_target_entropy(value, model.action_space)
        elif name == "replay_buffer_kwargs":
            assert made == eval(value)
        else:
            assert made == value, name
    for name, value in eval(entry.get("policy_kwargs", "{}")).items():
        assert model.policy_kwargs[name] == value
    rate = entry.get("learning_rate", 3e-4)
    assert model.lr_schedule(1.0) == pytest.approx(float(str(rate).removeprefix("lin_")))
    assert model.lr_schedule(0.5) == pytest.approx(model.lr_schedule(1.0) * (0.5 if str(rate).startswith("lin") else 1))


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_environment_without_an_entry_takes_the_default(
    algo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_environment("NobodyTunedThis-v7", False, monkeypatch)
    model, manager = experiment(algo, "NobodyTunedThis-v7")
    assert "Using 'default' hyperparameters" in capsys.readouterr().out
    assert manager.n_timesteps == 1_000_000
    assert model.reward_scale == HYPERPARAMS[algo]["default"].get("reward_scale", 1.0)


@pytest.mark.usefixtures("zoo")
def test_options_on_the_command_line_go_before_the_file() -> None:
    model, manager = experiment("sac_v1", "Pendulum-v1", hyperparams={"reward_scale": 2.0}, n_timesteps=7)
    assert (model.reward_scale, manager.n_timesteps) == (2.0, 7)
    assert isinstance(model.lr_schedule, FloatSchedule)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("algo", "env_id"), [("sac_v1", "Pendulum-v1"), ("sac_v2", "Pendulum-v1"), ("sql", "CartPole-v1")]
)
def test_linear_schedules_of_every_learning_rate(algo: str, env_id: str) -> None:
    rates = {"learning_rate": "lin_1e-3", "qf_learning_rate": "lin_2e-3", "ent_coef_learning_rate": "lin_4e-3"}
    hyperparams = {**rates, "ent_coef": "auto", "learning_starts": 10, "train_freq": 1, "policy_kwargs": {}}
    model, _ = experiment(algo, env_id, hyperparams=hyperparams)
    model.learn(20, callback=lambda *_: model.num_timesteps < 15)  # the last update is that of step 14
    for name in model.policy.learned_networks:
        first = 1e-3 if name == "actor" else 2e-3
        assert getattr(model, name).optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * first)
    assert model.temperature.optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 4e-3)


@pytest.mark.usefixtures("zoo")
def test_numbers_as_learning_rates_stay_numbers() -> None:
    model, _ = experiment("sac_v2", "Pendulum-v1", hyperparams={"qf_learning_rate": 2e-3})
    assert model.qf_learning_rate == 2e-3


@pytest.mark.parametrize("algo", ["sac_v1", "sac_v2"])
def test_files_have_every_environment_of_the_zoos_sac_and_of_mujoco(algo: str) -> None:
    zoo_file = Path(rl_zoo3.__file__).parent / "hyperparams" / "sac.yml"
    wanted = {*yaml.safe_load(zoo_file.read_text()), *MUJOCO_V5}
    assert wanted <= set(HYPERPARAMS[algo])
    assert "default" in HYPERPARAMS[algo]


def test_sac_v1_has_the_reward_scales_and_warm_up_of_the_paper() -> None:
    scales = {"Hopper": 5, "Walker2d": 5, "HalfCheetah": 5, "Ant": 5, "Humanoid": 20, "Swimmer": 25}
    for robot, scale in scales.items():
        for version in ("v4", "v5"):
            entry = HYPERPARAMS["sac_v1"][f"{robot}-{version}"]
            assert entry["reward_scale"] == scale
            assert entry["learning_starts"] == (10_000 if robot in ("HalfCheetah", "Ant") else 1000)
    assert HYPERPARAMS["sac_v1"]["HumanoidStandup-v5"]["reward_scale"] == 100


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_files_have_the_zoos_discrete_environments_and_toy_text(algo: str) -> None:
    zoo_file = Path(rl_zoo3.__file__).parent / "hyperparams" / "dqn.yml"
    assert {*yaml.safe_load(zoo_file.read_text()), "FrozenLake-v1", "CliffWalking-v1"} <= set(HYPERPARAMS[algo])


def test_sql_has_the_reward_scales_of_the_paper() -> None:
    scales = {"Hopper": 30, "Walker2d": 10, "HalfCheetah": 30, "Ant": 300, "Humanoid": 100, "Swimmer": 30}
    for robot, scale in scales.items():
        for version in ("v4", "v5"):
            assert HYPERPARAMS["sql"][f"{robot}-{version}"]["reward_scale"] == scale
    assert set(MUJOCO_V5) <= set(HYPERPARAMS["sql"])
    assert "ent_coef" not in HYPERPARAMS["sql"]["default"]


def test_every_entry_says_how_reward_and_entropy_weigh() -> None:
    """A reward scale beside a learned temperature would only be undone by it."""
    for entry in HYPERPARAMS["sac_v1"].values():
        learned = entry.get("ent_coef") == "auto"
        assert learned != ("reward_scale" in entry)
    for entry in HYPERPARAMS["sac_v2"].values():
        assert "reward_scale" not in entry


def test_fixed_temperatures_of_the_zoo_are_the_inverse_of_reward_scales() -> None:
    for env_id, entry in HYPERPARAMS["sac_v2"].items():
        if isinstance(ent_coef := entry.get("ent_coef"), float):
            assert HYPERPARAMS["sac_v1"][env_id]["reward_scale"] == pytest.approx(1 / ent_coef)
