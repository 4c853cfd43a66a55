"""Runs of Stable-Baselines3's and sb3-contrib's algorithms keep checkpoints, and go on as if they had never stopped."""

import copy
import gc
import pickle
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from crafted import crafted_checkpoint
from gymnasium.wrappers import FlattenObservation
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from sb3_sac_variants import SACv2
from sb3_sac_variants.common.callbacks import RunCheckpointCallback, restore_checkpoint

STEPS, CRASH, EVERY = 200, 150, 32
REPLAY = {"learning_starts": 40, "batch_size": 16, "buffer_size": 120}
NETWORK = {"policy_kwargs": {"net_arch": [16]}}
LSTM = {"policy": "MlpLstmPolicy", "policy_kwargs": {"net_arch": [16], "lstm_hidden_size": 8}}


def noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.1))


#: algorithm, environment, number of environments, arguments; a function among them makes the argument
RUNS: dict[str, tuple[type[BaseAlgorithm], str, int, dict[str, Any]]] = {
    "SAC": (SAC, "Pendulum-v1", 1, {**REPLAY, **NETWORK}),
    "SAC, fixed temperature, n steps": (SAC, "Pendulum-v1", 2, {**REPLAY, **NETWORK, "ent_coef": 0.1, "n_steps": 3}),
    "TD3, noise, several environments": (TD3, "Pendulum-v1", 2, {**REPLAY, **NETWORK, "action_noise": noise}),
    "DDPG, noise": (DDPG, "Pendulum-v1", 1, {**REPLAY, **NETWORK, "action_noise": noise, "train_freq": 4}),
    "DQN": (DQN, "CartPole-v1", 1, {**REPLAY, **NETWORK, "target_update_interval": 50}),
    "SAC, hindsight": (
        SAC, "bits", 1, {**REPLAY, **NETWORK, "policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer}
    ),
    "PPO": (PPO, "CartPole-v1", 2, {"n_steps": 16, "batch_size": 16}),
    "A2C": (A2C, "Pendulum-v1", 1, {}),
    "QRDQN": (QRDQN, "CartPole-v1", 1, {**REPLAY, **NETWORK}),
    "TQC": (TQC, "Pendulum-v1", 1, {**REPLAY, **NETWORK}),
    "CrossQ": (CrossQ, "Pendulum-v1", 1, {**REPLAY, **NETWORK}),
    "TRPO": (TRPO, "Pendulum-v1", 1, {"n_steps": 16, "batch_size": 16}),
    "RecurrentPPO": (RecurrentPPO, "CartPole-v1", 2, {"n_steps": 16, "batch_size": 16, **LSTM}),
    "MaskablePPO": (MaskablePPO, "CartPole-v1", 1, {"n_steps": 16, "batch_size": 16, "use_masking": False}),
}  # fmt: skip
SHORT = ("SAC", "SAC, hindsight", "TD3, noise, several environments", "DQN", "PPO")


class Crash(Exception):
    """The power is cut."""


class CrashCallback(BaseCallback):
    """Raises an error at a step, and counts those that it sees."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.seen = step, 0

    def _on_step(self) -> bool:
        self.seen += 1
        if self.num_timesteps >= self.step:
            raise Crash
        return True


def environment(name: str, n_envs: int = 1) -> VecEnv:
    if name == "bits":
        return make_vec_env(BitFlippingEnv, n_envs, seed=0, env_kwargs={"continuous": True})
    return VecNormalize(make_vec_env(name, n_envs, seed=0))


def make(name: str, **changes: Any) -> Any:
    cls, env, n_envs, arguments = RUNS[name]
    arguments = {"policy": "MlpPolicy", **arguments, **changes}
    learn = {"use_masking": arguments.pop("use_masking")} if "use_masking" in arguments else {}
    made = {
        key: value() if key == "action_noise" else value if key == "env" else copy.deepcopy(value)
        for key, value in arguments.items()
    }
    made.setdefault("env", environment(env, n_envs))
    model: Any = cls(seed=3, device="cpu", **made)
    model.arguments_of_learn = learn
    return model


def train(
    model: Any, folder: Path, crash_at: int = 10**9, callback: Any = None, every: int = EVERY, **options: Any
) -> CrashCallback:
    crash = CrashCallback(crash_at)
    callbacks: list[BaseCallback] = [crash, RunCheckpointCallback(folder, save_freq=every)]
    if callback is not None:
        callbacks.append(callback)
    left = max(STEPS - model.num_timesteps, 0)
    try:
        model.learn(left, callback=callbacks, **model.__dict__.pop("arguments_of_learn"), **options)
    except Crash:
        assert crash_at < 10**9
    return crash


def resumed(name: str, folder: Path, **changes: Any) -> Any:
    model = make(name, **changes)
    th.rand(7)
    restore_checkpoint(model, folder)
    assert 0 < model.num_timesteps < CRASH
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.slow]) for name in RUNS]
)
def test_a_crashed_run_ends_as_the_whole_one(name: str, tmp_path: Path) -> None:
    whole = make(name)
    seen = train(whole, tmp_path / "whole").seen
    train(make(name), tmp_path / "run", CRASH)
    model = resumed(name, tmp_path / "run")
    assert train(model, tmp_path / "run", reset_num_timesteps=False).seen == seen
    assert model.num_timesteps == whole.num_timesteps
    for part, wanted in whole.get_parameters().items():
        th.testing.assert_close(model.get_parameters()[part], wanted, rtol=0, atol=0)
    np.testing.assert_equal(model._last_obs, whole._last_obs)
    assert [episode["r"] for episode in model.ep_info_buffer] == [episode["r"] for episode in whole.ep_info_buffer]
    if getattr(model, "replay_buffer", None) is not None:
        np.testing.assert_array_equal(model.replay_buffer.actions, whole.replay_buffer.actions)


def test_callbacks_go_on_with_what_they_remember(tmp_path: Path) -> None:
    def evaluated() -> EvalCallback:
        env = make_vec_env("Pendulum-v1", seed=5)
        return EvalCallback(VecNormalize(env), eval_freq=45, n_eval_episodes=1, log_path=str(tmp_path), verbose=0)

    whole, crashed, going_on = evaluated(), evaluated(), evaluated()
    train(make("SAC"), tmp_path / "whole", callback=whole)
    train(make("SAC"), tmp_path / "run", CRASH, callback=crashed)
    train(resumed("SAC", tmp_path / "run"), tmp_path / "run", callback=going_on, reset_num_timesteps=False)
    assert going_on.evaluations_timesteps == whole.evaluations_timesteps == [45, 90, 135, 180]
    assert going_on.evaluations_results == whole.evaluations_results
    assert going_on.best_mean_reward == whole.best_mean_reward


def test_a_run_that_begins_anew_over_its_checkpoint_is_warned_of(tmp_path: Path) -> None:
    train(make("SAC"), tmp_path, CRASH)
    model = resumed("SAC", tmp_path)
    message = rf"counts from 0 what was taken up after {model.num_timesteps} steps.*pass reset_num_timesteps=False"
    with pytest.warns(UserWarning, match=message):
        model.learn(10, callback=RunCheckpointCallback(tmp_path, 10_000))
    model = resumed("SAC", tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="learn\\(\\) counts from 0")
        model.learn(10, reset_num_timesteps=False)  # of which a callback that comes later does not know
        model.learn(10, reset_num_timesteps=False, callback=RunCheckpointCallback(tmp_path, 10_000))


def test_the_model_of_a_checkpoint_is_a_saved_model(tmp_path: Path) -> None:
    model = make("SAC")
    train(model, tmp_path, CRASH)
    (file,) = tmp_path.glob("version-*/model.zip")
    assert SAC.load(file).num_timesteps == 128


def test_an_environment_in_another_process_begins_a_new_episode(tmp_path: Path) -> None:
    def run() -> Any:
        env = make_vec_env("Pendulum-v1", 1, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})
        model: Any = SAC("MlpPolicy", env, seed=3, **REPLAY)
        model.arguments_of_learn = {}
        return model

    crashed, model = run(), run()
    with pytest.warns(UserWarning, match="will begin a new episode, because the state of an environment cannot be"):
        train(crashed, tmp_path, CRASH)
    restore_checkpoint(model, tmp_path)
    assert model.num_timesteps == 128
    assert model._last_obs is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(model, tmp_path, reset_num_timesteps=False)
    assert model.num_timesteps == STEPS
    for each in (crashed, model):
        each.env.close()


def test_state_dependent_exploration_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="use_sde=True resumed from a checkpoint goes on with another exploration"):
        train(make("SAC", use_sde=True), tmp_path, CRASH)
    assert resumed("SAC", tmp_path, use_sde=True).num_timesteps == 128


def test_loops_of_another_kind_are_refused(tmp_path: Path) -> None:
    model = ARS("LinearPolicy", "Pendulum-v1", n_delta=1, n_eval_episodes=1)
    with pytest.raises(TypeError, match=r"does not know the loop of ARS, which is neither .*: train it without"):
        model.learn(10, callback=RunCheckpointCallback(tmp_path))


def test_a_method_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    class Own(SAC):
        def save_checkpoint(self) -> None:
            raise AssertionError

        load_checkpoint = save_checkpoint

    def model() -> Any:
        made: Any = Own("MlpPolicy", environment("Pendulum-v1"), seed=3, **REPLAY)
        made.arguments_of_learn = {}
        return made

    train(model(), tmp_path, CRASH)
    resumed = model()
    restore_checkpoint(resumed, tmp_path)
    assert resumed.num_timesteps == 128


def test_another_run_is_not_replaced(tmp_path: Path) -> None:
    train(make("SAC"), tmp_path, CRASH)
    with pytest.raises(RuntimeError, match="holds a checkpoint of another run"):
        train(make("SAC"), tmp_path)


def crafted(saved: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Put another state into a copy of a checkpoint, with the hash that belongs to it."""
    (file,) = saved.glob("run/version-*/state.pkl")
    state = pickle.loads(file.read_bytes())
    change(state)
    return crafted_checkpoint(saved, folder / "crafted", "state.pkl", pickle.dumps(state))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("this code must not run",))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    :return: a folder with the checkpoint ``run`` of SAC
    """
    folder = tmp_path_factory.mktemp("saved")
    train(make("SAC"), folder / "run", CRASH)
    return folder


def test_code_in_a_checkpoint_is_not_run(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = crafted(saved, tmp_path, lambda state: state["attributes"].update(_n_updates=Evil()))
    with pytest.raises(ValueError, match=r"asks for .*print.* pass trusted=True to restore_checkpoint\(\)"):
        restore_checkpoint(make("SAC"), folder)
    assert "must not run" not in capsys.readouterr().out


def test_attributes_that_are_no_state_are_not_taken(saved: Path, tmp_path: Path) -> None:
    model, other = make("SAC"), {"gamma": 0.5, "tensorboard_log": "elsewhere", "train": 3}
    restore_checkpoint(model, crafted(saved, tmp_path, lambda state: state["attributes"].update(other)))
    assert (model.gamma, model.tensorboard_log, "train" in vars(model)) == (0.99, None, False)


def test_what_does_not_fit_is_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"checkpoint of another algorithm \(stable_baselines3.sac.sac.SAC\), not .*TD3"
    ):
        restore_checkpoint(make("TD3, noise, several environments"), saved / "run")
    with pytest.raises(ValueError, match=r"model\.zip.* holds other networks than the model has .*\n.*\[16, 3"):
        restore_checkpoint(make("SAC", policy_kwargs={"net_arch": [8]}), saved / "run")
    with pytest.raises(ValueError, match=r"holds a replay buffer with n_steps=1, not 3"):
        restore_checkpoint(make("SAC", n_steps=3), saved / "run")
    env = FlattenObservation(gym.make("Pendulum-v1"))
    model: Any = SAC("MlpPolicy", env, **REPLAY, policy_kwargs={"net_arch": [16]})
    with pytest.raises(ValueError, match=r"is built of .*FlattenObservation.*, but the checkpoint is of .*Normalize"):
        restore_checkpoint(model, saved / "run")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        restore_checkpoint(make("SAC"), tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint of another algorithm \(stable_baselines3"):
        SACv2.load_checkpoint(saved / "run", environment("Pendulum-v1"))


def test_a_damaged_file_is_named(saved: Path, tmp_path: Path) -> None:
    folder = crafted_checkpoint(saved, tmp_path / "damaged", "replay_buffer.pkl", None)
    (file,) = folder.glob("version-*/replay_buffer.pkl")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"is damaged \(the content of .*replay_buffer.pkl is not what was written"):
        restore_checkpoint(make("SAC"), folder)


@pytest.mark.parametrize("memory", [False, True])
def test_empty_rows_are_not_written(memory: bool, tmp_path: Path) -> None:
    options = {"handle_timeout_termination": False} if memory else {}
    changes = {"buffer_size": 100_000, "optimize_memory_usage": memory, "replay_buffer_kwargs": options}
    model = make("SAC", **changes)
    train(model, tmp_path, CRASH)
    (file,) = tmp_path.glob("version-*/replay_buffer.pkl")
    assert file.stat().st_size < 20_000
    again = resumed("SAC", tmp_path, **changes)
    for name, array in vars(model.replay_buffer).items():
        if isinstance(array, np.ndarray):
            found = vars(again.replay_buffer)[name]
            assert (found.shape, found.dtype) == (array.shape, array.dtype)
            np.testing.assert_array_equal(found[:128], array[:128])
            assert not found[129:].any()


def test_an_array_of_another_kind_is_not_taken_for_one_with_empty_rows(tmp_path: Path) -> None:
    # After three steps of four environments there are as many rows as environments
    changes = {"buffer_size": 400, "env": environment("bits", 4)}
    model = make("SAC, hindsight", **changes)
    train(model, tmp_path, crash_at=24, every=12)
    again = make("SAC, hindsight", **{**changes, "env": environment("bits", 4)})
    restore_checkpoint(again, tmp_path)
    assert again.num_timesteps == 12
    for name in ("_current_ep_start", "ep_start", "rewards"):
        assert vars(again.replay_buffer)[name].shape == vars(model.replay_buffer)[name].shape
    again.learn(12, reset_num_timesteps=False)


def test_a_buffer_of_the_users_own_is_left_as_it_is(tmp_path: Path) -> None:
    changes = {"replay_buffer_class": OwnBuffer, "buffer_size": 400}
    train(make("SAC", **changes), tmp_path, CRASH)
    found = resumed("SAC", tmp_path, **changes).replay_buffer
    assert found.weights.tolist() == [2.0] * 129
    assert found.priorities.tolist() == [1.0] * 400


class OwnBuffer(ReplayBuffer):
    """Keeps numbers beside the transitions, as many in one array as there are rows at the checkpoint."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights, self.priorities = np.full(129, 2.0), np.ones(self.buffer_size)


class ScriptNoise(OrnsteinUhlenbeckActionNoise):
    """A noise of the user's script."""


class Own(SAC):
    """Somebody's algorithm, with attributes of several kinds."""

    def __init__(self, *args: Any, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.coefficient, self.rate, self.folder = beta, 1.0, "mine"

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        super().train(gradient_steps, batch_size)
        self.rate *= 0.9


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNS, "Own", (Own, "Pendulum-v1", 1, {**REPLAY, **NETWORK}))


def test_a_model_is_given_free(tmp_path: Path) -> None:
    model = make("SAC")
    train(model, tmp_path, CRASH)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.usefixtures("own")
def test_other_arguments_stay_and_what_has_changed_is_taken(tmp_path: Path) -> None:
    crashed = make("Own")
    train(crashed, tmp_path, CRASH)
    crashed.folder = "theirs"
    model = resumed("Own", tmp_path, beta=0.5, stats_window_size=7, learning_rate=0.2)
    assert (model.coefficient, model.folder, model.ep_info_buffer.maxlen, model.learning_rate) == (0.5, "mine", 7, 0.2)
    assert 0 < model.rate < 0.9
    train(make("SAC", ent_coef=0.1), tmp_path / "fixed", CRASH)
    assert resumed("SAC", tmp_path / "fixed", ent_coef=0.5).ent_coef_tensor.item() == 0.5


def test_other_buffers_and_optimizers_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"buffer_size=500 is not that of the checkpoint .*: make the model with 120"):
        restore_checkpoint(make("SAC", buffer_size=500), saved / "run")
    kwargs = {"net_arch": [16], "optimizer_class": th.optim.SGD}
    with pytest.raises(ValueError, match=r"model\.zip.* cannot be loaded: actor.optimizer is SGD, and the state is of"):
        restore_checkpoint(make("SAC", policy_kwargs=kwargs), saved / "run")
    model = make("SAC")
    model.env = None
    with pytest.raises(ValueError, match=r"model=SAC has no environment: make it on one"):
        restore_checkpoint(model, saved / "run")


def test_another_number_of_environments_is_refused(tmp_path: Path) -> None:
    def run(n_envs: int) -> Any:
        env = make_vec_env(Unsaved, n_envs, seed=0)
        model: Any = PPO("MlpPolicy", env, n_steps=16, batch_size=16)
        model.arguments_of_learn = {}
        return model

    with pytest.warns(UserWarning, match="will begin a new episode"):
        train(run(2), tmp_path, CRASH)
    with pytest.raises(ValueError, match=r"has 3 environments, the checkpoint .* is of 2"):
        restore_checkpoint(run(3), tmp_path)


class Unsaved(gym.Wrapper[Any, Any, Any, Any]):
    """Cannot be saved, as it holds a generator."""

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1"))
        self.numbers = (number for number in range(3))


def test_returns_do_not_run_on_over_an_episode_that_broke_off(tmp_path: Path) -> None:
    def run() -> Any:
        model: Any = SAC("MlpPolicy", make_vec_env(Unsaved, seed=0), seed=3, n_steps=3, **REPLAY)
        model.arguments_of_learn = {}
        return model

    with pytest.warns(UserWarning, match="will begin a new episode"):
        train(run(), tmp_path, CRASH)
    model = run()
    restore_checkpoint(model, tmp_path)
    last = model.replay_buffer.pos - 1
    assert model.replay_buffer.timeouts[last] == 1
    assert model.replay_buffer.dones[last] == 0


def test_a_noise_of_the_script_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptNoise, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "ScriptNoise", ScriptNoise, raising=False)
    changes = {"action_noise": lambda: ScriptNoise(np.zeros(1), np.full(1, 0.1))}
    crashed = make("TD3, noise, several environments", **changes)
    train(crashed, tmp_path, CRASH)
    model = resumed("TD3, noise, several environments", tmp_path, **changes)
    model.action_noise = None  # as the user may wish from here on
    train(model, tmp_path, reset_num_timesteps=False)
    assert model.action_noise is None


def test_an_observation_that_cannot_be_saved_begins_a_new_episode(tmp_path: Path) -> None:
    class Odd(np.ndarray):
        """A kind of array of its own."""

    class OddObservations(VecEnvWrapper):
        def reset(self) -> Any:
            return np.asarray(self.venv.reset()).view(Odd)

        def step_wait(self) -> Any:
            observations, *others = self.venv.step_wait()
            return np.asarray(observations).view(Odd), *others

    model: Any = SAC("MlpPolicy", OddObservations(environment("Pendulum-v1")), seed=3, **REPLAY)
    model.arguments_of_learn = {}
    with pytest.warns(UserWarning, match=r"will begin a new episode, because _last_obs is a Odd"):
        train(model, tmp_path, CRASH)


def test_what_is_pending_does_not_go_stale(saved: Path, tmp_path: Path) -> None:
    folder, model = crafted_checkpoint(saved, tmp_path / "run", "", None), make("SAC")
    arguments = model.__dict__.pop("arguments_of_learn")
    restore_checkpoint(model, folder)
    model.learn(8, reset_num_timesteps=False)  # without the callback
    model.arguments_of_learn = arguments
    crash = train(model, folder, reset_num_timesteps=False)
    assert crash.seen == STEPS - 128 - 8  # and not more by what the callback of the checkpoint had seen


def test_algorithms_of_this_package_have_their_own(tmp_path: Path) -> None:
    model = SACv2("MlpPolicy", "Pendulum-v1")
    with pytest.raises(TypeError, match=r"SACv2 has checkpoints of its own: use SACv2\.load_checkpoint\("):
        restore_checkpoint(model, tmp_path)
