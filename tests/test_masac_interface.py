"""MASAC as a model of SB3: environments, replay, saving, loading, resuming, logs, and what it refuses."""

import io
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from agents import KINDS, AgentsEnv, both_kinds, env_of, make, several
from gymnasium import spaces
from helpers import SpacesEnv, assert_same_parameters, flat_parameters, n_updates, refused
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_sac_variants import MASAC
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.envs import ParallelEnvAdapter
from sb3_sac_variants.envs.agent_rewards import read_agent_rewards
from sb3_sac_variants.masac import AgentReplayBuffer


class Recorder(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.values.update(key_values)


def logged(model: MASAC, steps: int = 20) -> dict[str, Any]:
    recorder = Recorder()
    model.set_logger(Logger(None, [recorder]))
    model.learn(steps, log_interval=1)
    return recorder.values


# ---------------------------------------------------------------- learning, acting, evaluating


@both_kinds
@pytest.mark.parametrize("n_agents", [1, 2, 3, 20])
@pytest.mark.parametrize("shared", [(), ("share_actor",), ("share_actor", "share_critic")], ids=len)
def test_any_number_of_agents_learns(kind: str, n_agents: int, shared: tuple[str, ...]) -> None:
    model = make(env_of(kind, n_agents), policy_kwargs=dict.fromkeys(shared, True), ce_coef=0.01)
    before = flat_parameters(model)
    model.learn(8)
    after = flat_parameters(model)
    unchanged = [name for name in before if th.equal(before[name], after[name]) and not name.endswith("/lr")]
    assert not unchanged
    assert all(th.isfinite(value).all() for value in after.values())
    assert model.log_ent_coef.shape == (n_agents,)
    assert model.n_agents == n_agents
    obs = np.zeros((2, n_agents, 4), dtype=np.float32)
    assert model.q_value(obs, model.predict(obs)[0]).shape == model.soft_value(obs).shape == (2, n_agents)


def test_a_shared_actor_tells_the_agents_apart_and_has_one_network() -> None:
    model, apart = make(policy_kwargs={"share_actor": True}), make()
    assert [p.shape[0] for p in model.actor.parameters()] == [1] * 4
    assert [p.shape[0] for p in apart.actor.parameters()] == [3] * 4
    same_for_all = np.tile(np.array([[0.3, -0.2, 1.0, 0.5]], dtype=np.float32), (3, 1))
    action, _ = model.predict(same_for_all, deterministic=True)
    assert len({tuple(row) for row in action.tolist()}) == 3


@pytest.mark.parametrize("share_actor", [False, True])
def test_an_actor_sees_its_own_observation_only(share_actor: bool) -> None:
    model = make(policy_kwargs={"share_actor": share_actor})
    obs = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    changed = obs.copy()
    changed[1] += 1
    one, other = (model.predict(each, deterministic=True)[0] for each in (obs, changed))
    assert (one == other).all(axis=1).tolist() == [True, False, True]
    # ... while every critic sees all of them
    actions = np.zeros((1, 3, 2), dtype=np.float32)
    assert (model.q_value(obs[None], actions) != model.q_value(changed[None], actions)).all()


@both_kinds
def test_predict_gives_actions_of_the_space_for_one_or_many_observations(kind: str) -> None:
    env = env_of(kind, low=0.0)
    model = make(env)
    obs = np.stack([env.observation_space.sample() for _ in range(5)])
    for deterministic in (False, True):
        actions, _ = model.predict(obs, deterministic=deterministic)
        assert actions.shape == (5, *env.action_space.shape)
        assert all(env.action_space.contains(action) for action in actions)
        assert model.predict(obs[0], deterministic=deterministic)[0].shape == env.action_space.shape
    assert not np.array_equal(model.predict(obs)[0], model.predict(obs)[0])


def test_values_are_those_of_each_agent() -> None:
    model = make(ent_coef=0.5)
    obs = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    actions, _ = model.predict(obs)
    with th.no_grad():
        expected = model.critic.evaluate(th.tensor(obs), th.tensor(actions)).amin(dim=0).numpy()
    np.testing.assert_allclose(model.q_value(obs, actions), expected, rtol=1e-5)
    assert model.q_value(obs, actions).shape == model.soft_value(obs).shape == (5, 3)


def test_soft_values_follow_beta_at_once() -> None:
    model, other = make(ent_coef=0.5, ce_coef=0.1, seed=0), make(ent_coef=0.5, seed=0)
    obs = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    assert not np.allclose(model.soft_value(obs), other.soft_value(obs))
    model.ce_coef = 0.0
    np.testing.assert_array_equal(model.soft_value(obs), other.soft_value(obs))
    model.ce_coef = "x"
    with pytest.raises(ValueError, match="ce_coef='x' is not allowed: pass a number"):
        model.soft_value(obs)


def test_a_fixed_temperature_set_as_a_tensor() -> None:
    model = make(ent_coef=0.5)
    model.ent_coef_tensor = model.ent_coef_tensor * 0.5
    assert model.ent_coef == 0.25
    assert model.ent_coef_tensor.tolist() == [0.25] * 3
    with pytest.raises(ValueError, match=r"ent_coef_tensor=tensor.*the same for all agents: pass a number"):
        model.ent_coef_tensor = th.tensor([0.1, 0.2, 0.3])
    model.ent_coef_tensor[0] = 0.5
    with pytest.warns(UserWarning, match=r"the same for all agents.* What is saved is ent_coef=0.25"):
        model.save(io.BytesIO())


def test_callbacks_and_evaluation_see_the_mean_over_agents(tmp_path: Path) -> None:
    model = make(Monitor(AgentsEnv()))
    callback = EvalCallback(Monitor(AgentsEnv()), eval_freq=10, log_path=str(tmp_path), verbose=0)
    model.learn(20, callback=callback)
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (2, 5)
    rewards = []
    env = Monitor(AgentsEnv(truncate=True))
    mean, _ = evaluate_policy(
        model, env, n_eval_episodes=1, callback=lambda names, _: rewards.append(names["info"]["agent_rewards"])
    )
    assert mean == pytest.approx(np.sum(rewards) / 3, abs=1e-5)


def test_the_cross_entropy_of_a_single_agent_is_idle() -> None:
    with pytest.warns(UserWarning, match=r"ce_coef=0\.1 has no effect on a single agent: leave it out"):
        make(AgentsEnv(1), ce_coef=0.1)


@both_kinds
@pytest.mark.parametrize("share_actor", [False, True])
def test_no_observations_have_no_actions(kind: str, share_actor: bool) -> None:
    model = make(env_of(kind), policy_kwargs={"share_actor": share_actor})
    nothing = np.zeros((0, *model.observation_space.shape), np.float32)
    assert len(model.predict(nothing)[0]) == 0
    assert model.soft_value(nothing).shape == (0, 3)


def test_simple_spread_through_the_registry() -> None:
    pytest.importorskip("mpe2")
    model = make("SimpleSpread-v3").learn(30)
    assert model.replay_buffer.sample(50).rewards.shape == (50, 3)
    assert evaluate_policy(model, model.get_env(), n_eval_episodes=1)[0] < 0


def test_a_parallel_env_in_the_adapter() -> None:
    mpe2 = pytest.importorskip("mpe2")
    env = ParallelEnvAdapter(mpe2.simple_spread_v3.parallel_env(N=2, continuous_actions=True))
    assert make(env).learn(10).n_agents == 2


# ---------------------------------------------------------------- replay and environments


@both_kinds
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_replay_keeps_each_agents_action_and_reward(kind: str, optimize_memory_usage: bool) -> None:
    env = several(2, truncate=True, **KINDS[kind])
    model = make(env, optimize_memory_usage=optimize_memory_usage, gradient_steps=-1, gamma=0.9).learn(40)
    assert type(model.replay_buffer) is AgentReplayBuffer
    batch = model.replay_buffer.sample(200)
    actions = batch.actions.view(200, 3, -1).numpy()
    if kind == "discrete":
        assert batch.actions.dtype == th.int64
        actions = np.linspace(-1, 1, KINDS[kind]["n_actions"])[actions]
    targets = np.linspace(-0.5, 0.5, 3)[:, None]
    np.testing.assert_allclose(batch.rewards.numpy(), -np.square(actions - targets).mean(axis=2), atol=1e-6)
    assert not batch.dones.any()


def test_actions_are_stored_scaled() -> None:
    model = make(AgentsEnv(low=0.0)).learn(20)
    stored = model.replay_buffer.sample(100).actions
    assert stored.min() < -0.5
    assert stored.shape == (100, 6)


@pytest.mark.parametrize(("kind", "normalized"), [("continuous", False), ("discrete", True)])
def test_processes_run_as_one_process_does(kind: str, normalized: bool) -> None:
    runs = []
    for make_env in (DummyVecEnv, lambda functions: SubprocVecEnv(functions, start_method="fork")):
        env = make_env([lambda length=length: env_of(kind, episode_length=length) for length in (3, 5)])
        model = make(VecNormalize(env, norm_reward=False) if normalized else env, gradient_steps=-1, ce_coef=0.1)
        runs.append(model.learn(20))
        env.close()
    assert_same_parameters(*runs)


def test_observations_may_be_normalised() -> None:
    env = VecNormalize(several(2), norm_reward=False)
    model = make(env, gradient_steps=-1).learn(30)
    raw, seen = model.replay_buffer.sample(200), model.replay_buffer.sample(200, env)
    assert raw.observations.std() > 1.1 * seen.observations.std()
    assert raw.rewards.shape == seen.rewards.shape == (200, 3)


@both_kinds
@pytest.mark.parametrize(("ce_coef", "times"), [(0.0, 1), (0.1, 2)])
def test_densities_are_computed_where_they_are_needed(
    kind: str, ce_coef: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(env_of(kind), ce_coef=ce_coef, ce_obs="own")
    log_densities, calls = model.actor.log_densities, []
    monkeypatch.setattr(model.actor, "log_densities", lambda *args: calls.append(args) or log_densities(*args))
    model.learn(12)
    assert len(calls) == times * n_updates(model)


def test_a_seed_repeats_a_run() -> None:
    assert_same_parameters(*(make(several(2), gradient_steps=-1, ce_coef=0.1).learn(20) for _ in range(2)))


# ---------------------------------------------------------------- saving, loading, resuming

OPTIONS: dict[str, Any] = {
    "ce_coef": 0.05,
    "ce_convention": "similarity",
    "ce_obs": "own",
    "ce_floor": "joint_0.1",
    "ce_center": True,
    "ce_relative": True,
    "target_entropy": "auto_0.5",
    "policy_kwargs": {"share_actor": True, "share_critic": True},
}


DISCRETE_OPTIONS: dict[str, Any] = {**OPTIONS, "ce_floor": "none", "policy_kwargs": {"share_critic": True}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("continuous", {}), ("continuous", OPTIONS), ("discrete", {}), ("discrete", DISCRETE_OPTIONS)],
    ids=["defaults", "options", "discrete-defaults", "discrete-options"],
)
def test_a_loaded_model_acts_and_learns_as_the_saved_one(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = make(env_of(kind), **options).learn(12)
    model.save(tmp_path / "model")
    loaded = MASAC.load(tmp_path / "model", env_of(kind))
    assert_same_parameters(model, loaded)
    for name in ("ce_coef", "ce_convention", "ce_obs", "ce_floor", "ce_center", "ce_relative", "target_entropy"):
        assert getattr(loaded, name) == getattr(model, name)
    assert vars(loaded.cross_entropy) == vars(model.cross_entropy)
    obs = np.zeros((3, 4), dtype=np.float32)
    assert np.array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    model.save_replay_buffer(tmp_path / "buffer")
    loaded.load_replay_buffer(tmp_path / "buffer")
    for each in (model, loaded):
        each.set_logger(Logger(None, []))
        th.manual_seed(0)
        each.train(3, batch_size=4)
    assert_same_parameters(model, loaded)


@both_kinds
def test_a_policy_can_be_saved_alone(kind: str, tmp_path: Path) -> None:
    model = make(env_of(kind), policy_kwargs={"share_actor": True})
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    obs = np.ones((3, 4), dtype=np.float32)
    assert np.array_equal(model.policy.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


@both_kinds
def test_a_run_resumed_from_a_checkpoint_goes_on_exactly(kind: str, tmp_path: Path) -> None:
    def fresh() -> DummyVecEnv:
        return DummyVecEnv([lambda: env_of(kind, episode_length=7)])

    whole = make(fresh(), ce_coef=0.1).learn(13)
    whole.save_checkpoint(tmp_path / "run")
    whole.learn(12, reset_num_timesteps=False)
    resumed = MASAC.load_checkpoint(tmp_path / "run", fresh()).learn(12, reset_num_timesteps=False)
    assert_same_parameters(whole, resumed)


# ---------------------------------------------------------------- logs and warnings


def test_logs_what_the_agents_are_at() -> None:
    values = logged(make(ce_coef=0.1, ent_coef="auto_0.5"))
    assert values["train/ce_ratio"] == pytest.approx(0.1 * 2 / 0.5, rel=0.05)
    assert values["train/ent_coef"] == pytest.approx(0.5, rel=0.05)
    assert -0.1 < values["train/policy_divergence"] <= np.log(2)  # an estimate
    for name in ("critic_loss", "actor_loss", "ent_coef_loss", "entropy", "q_mean", "learning_rate", "n_updates"):
        assert np.isfinite(values[f"train/{name}"])


@pytest.mark.parametrize("arguments", [{"ce_coef": -0.3}, {"ce_coef": 0.3, "ce_convention": "similarity"}], ids=str)
def test_collapse_is_warned_of_when_the_model_is_made(arguments: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=r"(?s)ce_coef=-?0\.3.*ce_ratio.* is 1\.2.*Pass a ce_coef closer to 0, a"):
        make(ent_coef=0.5, **arguments)


def test_the_warning_of_collapse_names_what_helps() -> None:
    with pytest.warns(UserWarning, match="closer to 0$"):  # whatever the temperature is
        make(ent_coef=1000.0, ce_coef=-0.6, ce_relative=True)


@pytest.mark.parametrize(("kind", "target"), [("continuous", 1.0), ("discrete", 1.609)])  # hardly to be reached
def test_a_temperature_that_runs_away_is_seen_among_others(kind: str, target: float) -> None:
    model = make(env_of(kind), target_entropy=target)
    model.log_ent_coef.data[:] = th.tensor([0.0, -2.0, 10.0])
    with pytest.warns(UserWarning, match=r"runs away: ent_coef is 2\.2e\+04"):
        values = logged(model)
    assert values["train/ent_coef_max"] > 2.9 * values["train/ent_coef"]


def test_a_cold_agent_does_not_make_a_hot_one_look_as_if_its_temperature_ran_away() -> None:
    model = make(env_of("discrete"), target_entropy=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model._watch({"ent_coef_max": 150.0, "entropy_of_hottest": 1.0, "entropy_min": 0.1})
    with pytest.warns(UserWarning, match="runs away: ent_coef is 150"):
        model._watch({"ent_coef_max": 150.0, "entropy_of_hottest": 0.1, "entropy_min": 0.1})


def test_collapse_of_a_single_agent_is_warned_of() -> None:
    model = make(ent_coef="auto", ce_coef=-0.3)
    model.log_ent_coef.data[:] = th.tensor([0.4, 3.0, 3.0]).log()
    with pytest.warns(UserWarning, match=r"ce_ratio.* is 1\.5"):
        values = logged(model)
    assert values["train/ce_ratio"] == pytest.approx((1.5 + 0.2 + 0.2) / 3, rel=0.05)
    assert values["train/ce_ratio_max"] == pytest.approx(1.5, rel=0.05)


def test_collapse_is_warned_of_once_when_the_temperature_has_fallen() -> None:
    model = make(ent_coef="auto_0.5", ce_coef=-0.2)  # a ratio of 0.8 at the beginning
    model.log_ent_coef.data.fill_(np.log(0.1))
    with pytest.warns(UserWarning, match="ce_ratio") as caught:
        logged(model)
    assert sum("ce_ratio" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"ce_coef": 0.9},
        {"ce_coef": -0.9, "ce_convention": "similarity"},
        {"ce_coef": -0.2},
        {"ce_coef": -0.4, "ce_relative": True, "ent_coef": 0.001},
        {},
    ],
    ids=str,
)
def test_no_warning_without_a_cause(arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logged(make(**{"ent_coef": 0.5, **arguments}))


@pytest.mark.parametrize("n_agents", [1, 3])
@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [
        ("continuous", "auto", -2.0),
        ("continuous", "auto_0.5", -1.0),
        ("continuous", -3, -3.0),
        ("continuous", 0.7, 0.7),
        ("discrete", "auto", 0.7 * np.log(5)),
        ("discrete", "auto_0.3", 0.3 * np.log(5)),
        ("discrete", 1.5, 1.5),
    ],
)
def test_target_entropy_is_that_of_one_agent(kind: str, target: Any, expected: float, n_agents: int) -> None:
    assert make(env_of(kind, n_agents), target_entropy=target).target_entropy == pytest.approx(expected)


# ---------------------------------------------------------------- refusals


class WithoutAgentRewards(AgentsEnv):
    """An environment with rows for agents, whose rewards it keeps for itself."""

    def step(self, action: np.ndarray) -> Any:
        return *super().step(action)[:-1], {"other": 1}


def test_missing_agent_rewards_are_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"(?s)no 'agent_rewards', only \['TimeLimit.truncated', 'other'\].*Adapter"):
        make(WithoutAgentRewards()).learn(2)


BAD_REWARDS = [
    [1.0, 2.0],
    [[1.0, 2.0, 3.0]],
    ["a", "b", "c"],
    {"left": 1.0},
    [[1.0], [1.0, 2.0], 3.0],
    1.0,
]


@pytest.mark.parametrize("rewards", BAD_REWARDS, ids=str)
def test_agent_rewards_of_a_wrong_kind_are_refused(rewards: Any) -> None:
    space = spaces.Box(-1.0, 1.0, (3, 2))
    buffer = AgentReplayBuffer(10, space, space, device="cpu")
    zeros = np.zeros((1, 3, 2), dtype=np.float32)
    with refused(ValueError, "info['agent_rewards']", rewards, "ParallelEnvAdapter"):
        buffer.add(zeros, zeros, zeros, np.zeros(1), np.zeros(1), [{"agent_rewards": rewards}])
    assert buffer.size() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_agent_rewards_that_are_not_finite_name_the_agent(value: float) -> None:
    with pytest.raises(ValueError, match=r"^info\['agent_rewards'\]=.* is not finite for agent 1: mend the rewards"):
        read_agent_rewards({"agent_rewards": [1.0, value, 2.0]}, 3, value)


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, shape)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (box(3), box(2), r"observation_space=.*\(3,\).* no row for each agent.*ParallelEnvAdapter.*SACv2"),
        (box(2, 3), box(2), r"action_space=.*\(2,\).* no row for each agent.*ParallelEnvAdapter"),
        (box(2, 3, 4), box(2, 2), r"observation_space=.* no row for each agent"),
        (box(2, 3), box(3, 2), r"different numbers of agents.*ParallelEnvAdapter"),
        (spaces.Dict({"a": box(2, 3)}), box(2, 2), r"observation_space=Dict.* no row for each agent"),
        (box(2, 3), spaces.Discrete(3), r"action_space=Discrete\(3\) has no row for each agent.*ParallelEnvAdapter"),
        (box(2, 3), spaces.MultiBinary(2), r"action_space=MultiBinary\(2\) has no row.*MultiDiscrete"),
        (box(2, 3), spaces.Box(-np.inf, 1.0, (2, 2)), r"finite action bounds"),
    ],
    ids=str,
)
def test_spaces_of_no_agents_are_refused(observations: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make(SpacesEnv(observations, actions))


def test_pendulum_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="ParallelEnvAdapter, or train a single agent with SACv2"):
        make(gym.make("Pendulum-v1"))


BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("ce_coef", "0.1", "pass a number"),
    ("ce_coef", float("nan"), "pass a number"),
    ("ce_convention", "diversity", "pass one of 'objective', 'similarity'"),
    ("ce_obs", "literal", "pass one of 'theirs', 'own'"),
    ("ce_floor", "none", "pass 'product' or 'joint'"),
    ("ce_center", 1.0, "pass True or False"),
    ("ce_relative", "yes", "pass True or False"),
    ("use_sde", True, "pass use_sde=False"),
    ("n_steps", 3, "pass n_steps=1"),
    ("target_entropy", "auto_x", "auto_<factor>"),
    ("target_entropy", "auto_-2", "auto_<factor>"),
    ("target_entropy", 1.5, "pass 'auto' or a number"),
    ("target_entropy", "half", "pass 'auto' or a number"),
    ("target_entropy", "auto_0_5", "auto_<factor>"),
    ("target_entropy", True, "pass 'auto' or a number"),
    ("ent_coef", "auto_0_1", "'auto_<initial value>'"),
    ("ent_coef", "1_0", "'auto_<initial value>'"),
    ("policy", "CnnPolicy", "pass one of 'MlpPolicy'"),
]


def test_a_replay_buffer_that_is_no_class_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"replay_buffer_class='abc' .*: leave it out, or pass a subclass of .*AgentRep"
    ):
        make(replay_buffer_class="abc")


@pytest.mark.parametrize(("name", "value", "remedy"), BAD_ARGUMENTS, ids=str)
def test_arguments_without_meaning_are_refused(name: str, value: Any, remedy: str) -> None:
    with refused(ValueError, name, value, remedy):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("share_actor", 1),
        ("share_critic", None),
        ("log_std_init", -1),
        ("features_extractor_kwargs", {"features_dim": 3}),
        ("share_features_extractor", True),
    ],
)
def test_policy_arguments_without_meaning_are_refused(name: str, value: Any) -> None:
    with refused(ValueError, f"policy_kwargs {name}", value, ": "):
        make(policy_kwargs={name: value})


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, TensorReplayBuffer])
def test_replay_without_room_for_agents_is_refused(buffer_class: type) -> None:
    with pytest.raises(ValueError, match=rf"replay_buffer_class={buffer_class.__name__} .*AgentReplayBuffer"):
        make(replay_buffer_class=buffer_class)


def test_own_kinds_of_replay_are_taken() -> None:
    class OwnBuffer(AgentReplayBuffer):
        pass

    assert type(make(replay_buffer_class=OwnBuffer).learn(8).replay_buffer) is OwnBuffer


def test_normalised_rewards_are_refused() -> None:
    message = r"norm_reward=True.*pass norm_reward=False"
    with pytest.raises(ValueError, match=message):
        make(VecNormalize(several(2)))
    model = make(several(2))
    env = model.get_env()
    with pytest.raises(ValueError, match=message):
        model.set_env(VecNormalize(several(2)))
    assert model.get_env() is env


def test_a_model_without_an_environment_is_refused() -> None:
    with refused(ValueError, "env", None, "pass an environment"):
        MASAC("MlpPolicy", None)


@both_kinds
def test_the_value_of_a_state_does_not_depend_on_others(kind: str) -> None:
    model = make(env_of(kind), ce_coef=2.0, ce_center=True)
    rng = np.random.default_rng(0)
    obs = 20 * rng.standard_normal((64, *model.observation_space.shape)).astype(np.float32)
    alone = model.soft_value(np.repeat(obs[:1], 64, axis=0), 400)[0]
    np.testing.assert_allclose(model.soft_value(obs, 400)[0], alone, rtol=0.02, atol=0.02)  # the same noise


@pytest.mark.parametrize("log_std", [-12.0, -20.0])
def test_densities_of_narrow_policies_keep_their_digits(log_std: float) -> None:
    model = make(env_of("continuous"))
    for layer in model.actor.networks.layers:
        for parameter in layer.parameters():
            parameter.data.zero_()
    outputs = model.actor.networks.layers[-1].bias
    outputs.data[..., : outputs.shape[-1] // 2] = 0.5
    outputs.data[..., outputs.shape[-1] // 2 :] = log_std
    noise = th.randn(model.actor.noise_shape(5), generator=th.Generator().manual_seed(0))
    sample = model.actor.sample(th.zeros(5, *model.observation_space.shape), noise)
    u = 0.5 + np.exp(log_std) * noise.double()
    exact = -0.5 * noise.double() ** 2 - 0.5 * np.log(2 * np.pi) - log_std - th.log1p(-(th.tanh(u) ** 2))
    th.testing.assert_close(sample.log_prob.squeeze(2).double(), exact.sum(dim=2), atol=1e-5, rtol=1e-6)
