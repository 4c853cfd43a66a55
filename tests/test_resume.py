"""A run that is interrupted and resumed from its checkpoint gives the numbers of a run that was not, bit for bit."""

import collections
import enum
import json
import os
import random
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils import EzPickle
from helpers import (
    DICTIONARY,
    NormalizingExtractor,
    SpacesEnv,
    as_arrays,
    assert_same_parameters,
    every_algorithm_with,
    flat_parameters,
    goal_env,
    last_observation,
    make,
    n_episodes,
    n_updates,
    several,
)
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.callbacks import RunCheckpointCallback
from sb3_sac_variants.common.persistence.checkpoint_folder import POINTER

TOTAL = 36


class Crash(Exception):
    """The power is cut."""


class CrashAt(BaseCallback):
    """
    :param step: when
    """

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise Crash
        return True


def ou_noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2), theta=0.5)


#: name: environment and arguments, each made anew
SCENARIOS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "plain": (lambda: SpacesEnv(episode_length=7), dict),
    "truncated, buffer full": (lambda: SpacesEnv(truncate=True), lambda: {"buffer_size": 17}),
    "learning-rate schedules": (
        SpacesEnv,
        lambda: {"learning_rate": lambda p: 1e-2 * p, "qf_learning_rate": lambda p: 1e-3 + p},
    ),
    "long rollouts": (SpacesEnv, lambda: {"train_freq": 4, "gradient_steps": 2, "target_update_interval": 3}),
    "episodes": (SpacesEnv, lambda: {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "still random": (SpacesEnv, lambda: {"learning_starts": 40}),
    "learned temperature": (SpacesEnv, lambda: {"ent_coef": "auto_0.3"}),
    "momentum": (SpacesEnv, lambda: {"policy_kwargs": {"optimizer_class": th.optim.RMSprop}}),
    "batch norm and dropout": (
        SpacesEnv,
        lambda: {"policy_kwargs": {"features_extractor_class": NormalizingExtractor}},
    ),
    "gSDE": (
        lambda: several(truncate=True, episode_length=7),
        lambda: {
            "use_sde": True,
            "sde_sample_freq": 3,
            "train_freq": 4,
            "gradient_steps": -1,
            "use_sde_at_warmup": True,
        },
    ),
    "correlated noise": (
        lambda: several(truncate=True, episode_length=7),
        lambda: {"action_noise": ou_noise(), "gradient_steps": -1},
    ),
    "correlated noise, one environment": (SpacesEnv, lambda: {"action_noise": ou_noise()}),
    "VecFrameStack and VecNormalize": (
        lambda: VecNormalize(VecFrameStack(several(truncate=True, episode_length=7), 3)),
        dict,
    ),
    "n-step returns": (SpacesEnv, lambda: {"n_steps": 3}),
    "HER": (
        lambda: make_vec_env(goal_env, 2),
        lambda: {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer, "learning_starts": 16},
    ),
    "images stored once": (
        lambda: SpacesEnv(DICTIONARY, truncate=True),
        lambda: {"policy": "MultiInputPolicy", "optimize_memory_usage": True, "net_arch": []},
    ),
}


def evidence(model: Any) -> dict[str, Any]:
    """
    :param model: at the end of a run
    :return: numbers that tell two runs apart; taking them changes the model
    """
    found = {
        "random": (random.random(), np.random.rand(), th.rand(1).item(), model.action_space.sample()),  # noqa: NPY002
        "parameters": {name: value.numpy() for name, value in flat_parameters(model).items()},
        "counters": (model.num_timesteps, n_episodes(model), n_updates(model)),
        "observation": last_observation(model),
        "episodes": [(info["r"], info["l"]) for info in model.ep_info_buffer],
        "metrics": model.updater.metrics.means(),
        "batch": as_arrays(model.replay_buffer.sample(64, model.get_vec_normalize_env())),
        "next step": model.env.step(np.zeros((model.n_envs, *model.action_space.shape), dtype=np.float32))[:3],
    }
    if (normalize := model.get_vec_normalize_env()) is not None:
        found["statistics"] = (normalize.obs_rms.mean, normalize.ret_rms.var, normalize.returns)
    return found


def scramble() -> None:
    """What other programs do between a crash and the next start."""
    random.seed(123)
    np.random.seed(123)  # noqa: NPY002
    th.manual_seed(123)


def interrupted_run(algorithm: type, folder: Path, make_env: Callable[[], Any], **kwargs: Any) -> Any:
    """
    :param algorithm: class
    :param folder: for the checkpoint
    :param make_env: makes the environment
    :param kwargs: arguments of the algorithm
    :return: a model that crashed at about half of its run, and was resumed
    """
    model = make(algorithm, make_env(), **kwargs)
    with pytest.raises(Crash):
        model.learn(TOTAL, callback=[RunCheckpointCallback(folder, 11), CrashAt(31)])
    scramble()
    # Lambdas are code
    resumed = algorithm.load_checkpoint(folder, make_env(), device="cpu", trusted="learning_rate" in kwargs)
    assert 11 <= resumed.num_timesteps < 31
    return resumed.learn(TOTAL - resumed.num_timesteps, reset_num_timesteps=False)


@pytest.mark.thin(5)
@every_algorithm_with("scenario", SCENARIOS, gaussian=["gSDE", "learned temperature"])
def test_resumed_run_is_the_uninterrupted_run(algorithm: type, scenario: str, tmp_path: Path) -> None:
    make_env, make_kwargs = SCENARIOS[scenario]
    whole = evidence(make(algorithm, make_env(), **make_kwargs()).learn(TOTAL))
    resumed = evidence(interrupted_run(algorithm, tmp_path, make_env, **make_kwargs()))
    np.testing.assert_equal(resumed, whole)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "HalfCheetah-v5", "Reacher-v5"])
def test_simulators_resume_in_the_middle_of_an_episode(env_id: str, tmp_path: Path) -> None:
    if "v5" in env_id:
        pytest.importorskip("mujoco")

    def make_env() -> VecEnv:
        return make_vec_env(env_id, 2, monitor_dir=str(tmp_path / "monitor"))

    whole = evidence(make(SACv2, make_env()).learn(TOTAL))
    resumed = evidence(interrupted_run(SACv2, tmp_path / "run", make_env))
    np.testing.assert_equal(resumed, whole)


def freeze_a_layer(model: Any) -> None:
    model.actor.latent_pi[0].requires_grad_(False)


def freeze_the_temperature(model: Any) -> None:
    model.log_ent_coef.requires_grad_(False)


def with_optimizer(optimizer_class: type) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.critic.optimizer = optimizer_class(model.critic.parameters(), lr=1e-2)
        model.ent_coef_optimizer = optimizer_class([model.log_ent_coef], lr=1e-2)

    return change


@pytest.mark.parametrize(
    "change",
    [freeze_a_layer, freeze_the_temperature, *map(with_optimizer, (th.optim.RAdam, th.optim.NAdam, th.optim.SGD))],
)
def test_what_was_frozen_and_other_optimizers_go_on(change: Callable[[Any], None], tmp_path: Path) -> None:
    model = make(SACv2, SpacesEnv(), learning_rate=1e-2).learn(20)
    change(model)
    model.learn(6, reset_num_timesteps=False)
    model.save_checkpoint(tmp_path)
    model.learn(10, reset_num_timesteps=False)
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")  # random numbers are those of the checkpoint
    resumed.learn(10, reset_num_timesteps=False)
    assert_same_parameters(model, resumed)
    assert [one.requires_grad for one in resumed.policy.parameters()] == [
        one.requires_grad for one in model.policy.parameters()
    ]
    assert type(resumed.critic.optimizer) is type(model.critic.optimizer)
    assert type(resumed.ent_coef_optimizer) is type(model.ent_coef_optimizer)


class Dice(SpacesEnv):
    """Rewards from Python's own random numbers."""

    def step(self, action: np.ndarray) -> Any:
        observation, _, *rest = super().step(action)
        return observation, random.random(), *rest


def test_random_numbers_of_python_go_on(tmp_path: Path) -> None:
    random.seed(1)
    whole = evidence(make(SACv2, Dice()).learn(TOTAL))
    random.seed(1)
    np.testing.assert_equal(evidence(interrupted_run(SACv2, tmp_path / "run", Dice)), whole)


def test_rendered_environment_resumes(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    env = gym.make("Pendulum-v1", render_mode="rgb_array")
    model = make(SACv2, env).learn(12)
    assert env.render().any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_checkpoint(tmp_path)
    env = gym.make("Pendulum-v1", render_mode="rgb_array")
    resumed = SACv2.load_checkpoint(tmp_path, env, device="cpu")
    np.testing.assert_equal(evidence(resumed)["next step"], evidence(model)["next step"])
    assert env.render().any()


class RandomActions(SpacesEnv):
    """An environment that draws from its action space."""

    def step(self, action: np.ndarray) -> Any:
        return super().step(self.action_space.sample())


class RandomActionsOfClass(RandomActions):
    """The action space is one of the class, and among no attributes of the environment."""

    action_space = SpacesEnv().action_space

    def __init__(self) -> None:
        super().__init__()
        vars(self).pop("action_space")


@pytest.mark.parametrize("env_class", [RandomActions, RandomActionsOfClass])
@pytest.mark.parametrize("learning_starts", [4, 40])
def test_environment_that_draws_from_the_action_space_of_the_model_resumes(
    env_class: type[gym.Env], learning_starts: int, tmp_path: Path
) -> None:
    def make_env() -> VecEnv:
        return VecNormalize(DummyVecEnv([env_class, SpacesEnv]))

    whole = evidence(make(SACv2, make_env(), learning_starts=learning_starts).learn(TOTAL))
    resumed = interrupted_run(SACv2, tmp_path, make_env, learning_starts=learning_starts)
    assert resumed.action_space is resumed.env.action_space is resumed.env.envs[0].action_space
    np.testing.assert_equal(evidence(resumed), whole)


class Inner(EzPickle):
    """Part of an environment. Pickled, it would begin anew."""

    unwrapped = None

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0


class Adapter(SpacesEnv):
    """An environment around others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.listed = Inner(), [Inner()]

    def step(self, action: np.ndarray) -> Any:
        self.inner.steps += 1
        self.listed[0].steps += 1
        return super().step(action)


def test_environment_inside_an_adapter_resumes(tmp_path: Path) -> None:
    make(SACv2, Adapter()).learn(13).save_checkpoint(tmp_path)
    env = Adapter()
    inner = env.inner
    SACv2.load_checkpoint(tmp_path, env, device="cpu")
    assert inner.steps == env.listed[0].steps == 13
    assert env.inner is inner


@pytest.mark.slow
def test_resumed_in_another_process(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        import numpy as np
        sys.path.insert(0, {tests!r})
        from helpers import SACv2, flat_parameters, make
        from test_resume import Crash, CrashAt
        from stable_baselines3.common.env_util import make_vec_env
        from sb3_sac_variants.common.callbacks import RunCheckpointCallback

        folder, env, part = Path(sys.argv[1]), make_vec_env("Pendulum-v1", 2), sys.argv[2]
        if part == "second":
            model = SACv2.load_checkpoint(folder, env, device="cpu")
            assert model.num_timesteps == 150, model.num_timesteps
            model.learn(400 - model.num_timesteps, reset_num_timesteps=False)
        else:
            model = make(SACv2, env)
            crash = [RunCheckpointCallback(folder, 150), CrashAt(290)]
            try:
                model.learn(400, callback=crash if part == "first" else None)
            except Crash:
                sys.exit()
        tensors = flat_parameters(model).values()
        np.savez(folder.with_name(part), **{{str(number): tensor for number, tensor in enumerate(tensors)}})
    """
    code = textwrap.dedent(program.format(tests=str(Path(__file__).parent)))
    for part in ("whole", "first", "second"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), part], check=True)
    whole, resumed = (dict(np.load(tmp_path / f"{part}.npz")) for part in ("whole", "second"))
    np.testing.assert_equal(resumed, whole)


def test_engine_is_chosen_by_the_plan_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_sac_variants.common.gradient_step import updater

    plans = []
    make_engine = updater.make_engine

    def spy(*args: Any, planned_steps: float, **kwargs: Any) -> Any:
        plans.append(planned_steps)
        return make_engine(*args, planned_steps=planned_steps, **kwargs)

    monkeypatch.setattr(updater, "make_engine", spy)
    resumed = interrupted_run(SACv2, tmp_path, SpacesEnv)
    resumed.set_parameters(resumed.get_parameters())
    resumed.updater.updates_since_load = 1000
    resumed.learn(5, reset_num_timesteps=False)
    assert plans == [plans[0], plans[0], 1005]


# ---------------------------------------------------------------- where the episode cannot go on


class WithWindow(SpacesEnv):
    """An environment with something that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.window = os.scandir()


def in_processes() -> SubprocVecEnv:
    return SubprocVecEnv([SpacesEnv, SpacesEnv], start_method="fork")


@pytest.mark.parametrize(
    ("make_env", "name"),
    [(lambda: DummyVecEnv([WithWindow]), "WithWindow"), (in_processes, "SubprocVecEnv")],
    ids=["window", "processes"],
)
def test_new_episode_where_the_environment_cannot_be_saved(
    make_env: Callable[[], Any], name: str, tmp_path: Path
) -> None:
    model = make(SACv1, VecNormalize(make_env())).learn(17)
    with pytest.warns(UserWarning, match=f"begin a new episode, because .*{name}"):
        model.save_checkpoint(tmp_path)
    resumed = SACv1.load_checkpoint(tmp_path, VecNormalize(make_env()), device="cpu")
    assert last_observation(resumed) is None
    assert_same_parameters(model, resumed)
    statistics = [each.get_vec_normalize_env().obs_rms.mean for each in (resumed, model)]
    np.testing.assert_equal(*statistics)
    steps = resumed.num_timesteps
    resumed.learn(20, reset_num_timesteps=False)
    assert resumed.num_timesteps == steps + 20
    for each in (model, resumed):
        each.env.close()


def test_new_episode_is_not_the_first_one_again(tmp_path: Path) -> None:
    model = make(SACv1, WithWindow())
    model.learn(1)
    first = model.replay_buffer.sample(1).observations
    with pytest.warns(UserWarning, match="new episode"):
        model.save_checkpoint(tmp_path)
    resumed = SACv1.load_checkpoint(tmp_path, WithWindow(), device="cpu")
    resumed.replay_buffer.reset()
    resumed.learn(1, reset_num_timesteps=False)
    assert not th.equal(resumed.replay_buffer.sample(1).observations, first)


def test_environment_that_says_itself_what_its_state_is(tmp_path: Path) -> None:
    class Handle(SpacesEnv):
        """Keeps its state in a simulator behind a number."""

        simulator: ClassVar[dict[int, int]] = {}

        def step(self, action: np.ndarray) -> Any:
            self.simulator[id(self)] = self.steps + 1
            return super().step(action)

        def __getstate__(self) -> dict[str, Any]:
            return {**vars(self), "simulated": self.simulator[id(self)]}

        def __setstate__(self, state: dict[str, Any]) -> None:
            self.simulator[id(self)] = state.pop("simulated")
            vars(self).update(state)

    model = make(SACv1, Handle()).learn(13)
    model.save_checkpoint(tmp_path)
    env = Handle()
    SACv1.load_checkpoint(tmp_path, env, device="cpu")
    assert env.steps == env.simulator[id(env)] == 3


@pytest.mark.parametrize("train_freq", [1, 4])
def test_middle_of_a_step_begins_a_new_episode_with_a_warning(train_freq: int, tmp_path: Path) -> None:
    class SaveInStep(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 14:
                with pytest.warns(UserWarning, match=r"begin a new episode, because .* in the middle of a step"):
                    self.model.save_checkpoint(tmp_path)
            return True

    model = make(SACv2, SpacesEnv(), train_freq=train_freq).learn(16, callback=SaveInStep())
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    assert (resumed.num_timesteps, last_observation(resumed)) == (14, None)
    resumed.learn(10, reset_num_timesteps=False)
    # At the end of learn() nothing is half done
    model.save_checkpoint(tmp_path)
    assert last_observation(SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")) is not None


def test_interrupted_updates_keep_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a step of the critics and one of the actor; the zoo ends a training so, and calls the callback."""
    model = make(SACv2, SpacesEnv())
    callback = RunCheckpointCallback(tmp_path / "run", 10)
    done = []

    def interrupted(self: Any, batch: Any, noise: Any) -> Any:
        done.append(None)
        if len(done) == 12:
            raise KeyboardInterrupt
        return update(self, batch, noise)

    update = SACv2.update
    monkeypatch.setattr(SACv2, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.learn(100, callback=callback)
    stopped = model.num_timesteps
    assert stopped % 10
    callback.on_training_end()
    assert json.loads((tmp_path / "run" / POINTER).read_text())["num_timesteps"] == stopped // 10 * 10
    with pytest.warns(UserWarning, match=r"goes on without what is left of the updates"):
        model.save_checkpoint(tmp_path / "own")
    # The episode goes on, and so does this model: from its next rollout on nothing is missing
    model.learn(40, callback=callback, reset_num_timesteps=False)
    assert model.replay_buffer.size() == model.num_timesteps == stopped + 40
    expected = evidence(model)
    resumed = SACv2.load_checkpoint(tmp_path / "run", SpacesEnv(), device="cpu")
    np.testing.assert_equal(evidence(resumed), expected)


@pytest.mark.parametrize(
    ("algorithm", "setting", "error"), [(SACv2, "tau", "tau=-1"), (SQL, "n_svgd_particles", "n_svgd_particles=-1")]
)
def test_settings_that_make_no_sense_keep_the_last_checkpoint(
    algorithm: type, setting: str, error: str, tmp_path: Path
) -> None:
    """They are seen before the first update of a rollout, all of which are then missing."""

    class SetsIt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 15:
                setattr(self.model, setting, -1)
            return True

    model, callback = make(algorithm, SpacesEnv()), RunCheckpointCallback(tmp_path / "run", 10)
    with pytest.raises(ValueError, match=error):
        model.learn(20, callback=[callback, SetsIt()])
    with pytest.warns(UserWarning, match=r"goes on without what is left of the updates"):
        model.save_checkpoint(tmp_path / "own")
    callback.on_training_end()
    assert json.loads((tmp_path / "run" / POINTER).read_text())["num_timesteps"] == 10


@pytest.mark.parametrize("outer", [EveryNTimesteps(10, RunCheckpointCallback("run", 1)), "list"])
def test_a_checkpoint_callback_inside_another_is_refused(outer: Any) -> None:
    """SB3's event callbacks call ``on_step`` of the inner one, and nothing else."""
    if outer == "list":
        outer = [EveryNTimesteps(10, CallbackList([RunCheckpointCallback("run", 1)]))]
    with pytest.raises(ValueError, match=r"would save nothing inside another callback.*in a list"):
        make(SACv2, SpacesEnv()).learn(20, callback=outer)


def test_an_error_before_the_training_is_not_masked(tmp_path: Path) -> None:
    RunCheckpointCallback(tmp_path).on_training_end()  # as the zoo does where the environment could not be reset
    assert not list(tmp_path.iterdir())


def test_training_stopped_by_a_callback_begins_a_new_episode(tmp_path: Path) -> None:
    model = make(SACv2, SpacesEnv()).learn(100, callback=StopTrainingOnMaxEpisodes(2))
    assert model.num_timesteps == 20
    with pytest.warns(UserWarning, match="in the middle of a step"):
        model.save_checkpoint(tmp_path)
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu").learn(10, reset_num_timesteps=False)
    assert resumed.num_timesteps == 30


def test_hindsight_episodes_are_cut_where_a_new_one_begins(tmp_path: Path) -> None:
    model = make(
        SACv1, make_vec_env(goal_env, 2), "MultiInputPolicy", learning_starts=30, replay_buffer_class=HerReplayBuffer
    )
    model.learn(10)
    model.env.envs[0].unwrapped.window = os.scandir()
    with pytest.warns(UserWarning, match="new episode"):
        model.save_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="last trajectory .* will be truncated"):
        buffer = SACv1.load_checkpoint(tmp_path, make_vec_env(goal_env, 2), device="cpu").replay_buffer
    assert (buffer.ep_length[: buffer.pos] > 0).all()


def test_finished_run_that_overshot_is_taken_up_as_documented(tmp_path: Path) -> None:
    make(SACv2, several(3)).learn(10).save_checkpoint(tmp_path)
    model, total_timesteps = SACv2.load_checkpoint(tmp_path, several(3), device="cpu"), 10
    recipe = re.search(r"model\.learn\(.*", str(SACv2.load_checkpoint.__doc__))
    assert recipe
    eval(recipe.group(), {"model": model, "total_timesteps": total_timesteps})
    assert model.num_timesteps == 12


# ---------------------------------------------------------------- callbacks


class Mode(enum.IntEnum):
    """A number that only this module knows."""

    FAST = 1


class Holder(BaseCallback):
    """
    :param value: what it remembers from then on
    """

    def __init__(self, value: Any):
        super().__init__()
        self.held = value
        self.plain = [np.float64(1), {"a": (None, b"", np.zeros(2))}]

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    "value",
    [
        [Mode.FAST],
        collections.namedtuple("Pair", "a b")(1, 2),
        collections.defaultdict(lambda: 0, {1: 2}),
        np.ma.array([1.0, 2.0]),
        type("Name", (str,), {})("x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_attribute_of_a_callback_that_is_almost_plain_is_left_out(value: Any, tmp_path: Path) -> None:
    model = make(SACv2).learn(12, callback=Holder(value))
    with pytest.warns(UserWarning, match=r"Holder of a run resumed .* will begin anew with \['held'\], which"):
        model.save_checkpoint(tmp_path)
    callback = Holder("new")
    SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu").learn(1, callback=callback, reset_num_timesteps=False)
    assert (callback.held, callback.n_calls) == ("new", 13)


class Counting(BaseCallback):
    """
    :param folder: from which it works a path out
    :param limit: from which it works a list out
    """

    in_class = 0

    def __init__(self, folder: str, limit: float):
        super().__init__()
        self.save_path, self.seen = os.path.join(folder, "best"), [0, float("nan")]
        self.limits = [limit, np.array([limit])]

    def _on_step(self) -> bool:
        self.seen[0] += 1
        self.in_class += 1
        self.lazy = getattr(self, "lazy", 0) + 1
        return True


@pytest.mark.parametrize("before", [0, 5])
def test_what_callbacks_remember(before: int, tmp_path: Path) -> None:
    callback = Counting("old", 1)
    make(SACv2).learn(before, callback=callback)
    make(SACv2).learn(12, callback=callback).save_checkpoint(tmp_path)
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu")
    callback = Counting("new", 2)
    resumed.learn(1, callback=callback, reset_num_timesteps=False)
    steps = before + 13
    assert (callback.n_calls, callback.seen[0], callback.in_class, callback.lazy) == (steps,) * 4
    assert (callback.save_path, callback.limits) == (os.path.join("new", "best"), [2, np.array([2])])
    resumed.save_checkpoint(tmp_path)  # as if it had been so from the start
    again = Counting("new", 2)
    SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu").learn(1, callback=again, reset_num_timesteps=False)
    assert (again.n_calls, again.save_path) == (steps + 1, callback.save_path)


def test_methods_of_a_callback_are_not_replaced(tmp_path: Path) -> None:
    callback = Holder(1)
    model = make(SACv2).learn(12, callback=callback)
    vars(callback)["_on_step"] = 3
    model.save_checkpoint(tmp_path)
    SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu").learn(1, callback=Holder(1), reset_num_timesteps=False)


def test_limit_of_a_callback_may_change(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="in the middle of a step"):
        make(SACv2).learn(100, callback=StopTrainingOnMaxEpisodes(2)).save_checkpoint(tmp_path)
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    resumed.learn(100, callback=StopTrainingOnMaxEpisodes(5), reset_num_timesteps=False)
    assert resumed.num_timesteps == 50


class Rollouts(BaseCallback):
    """Counts rollouts, and draws a random number in each."""

    count = 0

    def _on_rollout_start(self) -> None:
        self.count += 1
        np.random.rand()  # noqa: NPY002

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("progress_bar", [False, True])
def test_rollout_of_the_checkpoint_starts_once_for_callbacks_before_it(progress_bar: bool, tmp_path: Path) -> None:
    if progress_bar:  # SB3 puts the callbacks into a list in a list
        pytest.importorskip("rich")
    model, callbacks = make(SACv2), [Rollouts(), RunCheckpointCallback(tmp_path, 11), CrashAt(21)]
    before = list(callbacks)
    with pytest.raises(Crash):
        model.learn(TOTAL, callback=callbacks, progress_bar=progress_bar)
    assert callbacks == before
    whole, resumed = Rollouts(), Rollouts()
    model = SACv2.load_checkpoint(tmp_path, SpacesEnv(), device="cpu")
    model.learn(TOTAL - model.num_timesteps, callback=resumed, reset_num_timesteps=False)
    np.testing.assert_equal(evidence(model), evidence(make(SACv2).learn(TOTAL, callback=whole)))
    assert resumed.count == whole.count
