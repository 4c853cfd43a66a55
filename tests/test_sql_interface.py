"""Soft Q-learning as a model: policies, inspection, saving, engines, and arguments without meaning."""

import math
import pathlib
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION, DICTIONARY, IMAGE, VECTOR, SpacesEnv, assert_same_parameters, flat_parameters, make
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise

from sb3_sac_variants import SQL
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.sql import MlpPolicy, sql
from sb3_sac_variants.sql.policies import uniform_particles

PARTICLES = {"n_value_particles": 4, "n_svgd_particles": 4}
POLICIES = {"MlpPolicy": VECTOR, "CnnPolicy": IMAGE, "MultiInputPolicy": DICTIONARY}


@pytest.mark.parametrize("policy", POLICIES)
def test_learns_predicts_saves_and_loads(policy, tmp_path):
    env = SpacesEnv(POLICIES[policy], spaces.Box(-2.0, 4.0, (2,)))
    model = make(SQL, env, policy, **PARTICLES)
    before = {name: value.clone() for name, value in flat_parameters(model).items()}
    model.learn(12)
    after = flat_parameters(model)
    assert all(th.isfinite(value).all() for value in after.values())
    for network in ("actor", "critic", "critic_target"):
        assert [n for n, v in before.items() if f"/{network}." in n and not th.equal(v, after[n])], network

    obs = model.env.reset()
    best, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(best, model.predict(obs, deterministic=True)[0])
    assert not np.array_equal(model.predict(obs)[0], model.predict(obs)[0])
    assert env.action_space.contains(best[0])
    assert model.soft_value(obs).shape == model.q_value(obs, best).shape == (1,)

    model.save(tmp_path / "model")
    loaded = SQL.load(tmp_path / "model", env=env, device="cpu")
    assert_same_parameters(loaded, model)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], best)
    assert (loaded.n_value_particles, loaded.n_svgd_particles) == (4, 4)
    loaded.learn(5, reset_num_timesteps=False)


def test_deterministic_action_has_the_highest_q_of_those_sampled():
    model = make(SQL, **PARTICLES)
    model.learn(12)
    obs = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    best = model.q_value(obs, model.predict(obs, deterministic=True)[0])
    sampled = [model.q_value(obs, model.predict(obs)[0]) for _ in range(50)]
    # 32 candidates: no better than the best of so many others, and better than nearly all of them
    assert (best >= np.quantile(sampled, 0.8, axis=0)).all()


def test_first_actions_cover_the_range():
    model = make(SQL, net_arch=[64, 64])
    actions, _ = model.predict(np.zeros((2000, 3), dtype=np.float32), deterministic=False)
    assert (np.histogramdd(actions, 4, [(-1, 1)] * 2)[0] > 20).all()


def test_values_for_inspection():
    model = make(SQL, ent_coef=0.5, **PARTICLES)
    obs, state = np.ones((1, 3), dtype=np.float32), th.get_rng_state()
    value = model.soft_value(obs)
    assert th.equal(state, th.get_rng_state())
    axis = np.linspace(-1, 1, 60) * (1 - 1 / 60)
    actions = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    q = model.q_value(np.ones((3600, 3)), actions)
    assert value[0] == pytest.approx(0.5 * np.log(np.exp(q / 0.5).mean() * 4), abs=0.01)


def test_policy_acts_without_the_algorithm(tmp_path):
    for env in (SpacesEnv(), gym.make("CartPole-v1")):
        model = make(SQL, env, ent_coef=0.1)
        model.policy.save(tmp_path / "policy")
        policy = MlpPolicy.load(tmp_path / "policy", device="cpu")
        obs = np.ones((4, *env.observation_space.shape), dtype=np.float32)
        np.testing.assert_array_equal(
            policy.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
        )
    th.testing.assert_close(policy.actor.log_prob(th.ones(1, 4)), model.actor.log_prob(th.ones(1, 4)))


def test_temperature_given_to_load_goes_before_the_saved_one(tmp_path):
    model = make(SQL, gym.make("CartPole-v1"), ent_coef=0.1)
    model.save(tmp_path / "model")
    loaded = SQL.load(tmp_path / "model", ent_coef=2.0, device="cpu")
    assert loaded.actor.ent_coef.item() == loaded.temperature.value.item() == 2.0


def test_discrete_actions_follow_a_temperature_that_was_set():
    model = make(SQL, gym.make("CartPole-v1"), ent_coef="auto_0.001")
    model.log_ent_coef.data.fill_(math.log(100.0))
    model.predict(np.zeros(4, dtype=np.float32))
    assert model.actor.ent_coef.item() == pytest.approx(100.0)
    model.log_ent_coef.data.fill_(math.log(3.0))
    model.learn(3)  # before the first update
    assert model.actor.ent_coef.item() == pytest.approx(3.0)


def test_metrics_are_logged():
    model = make(SQL, **PARTICLES)
    written = {}

    class Writer(KVWriter):
        def write(self, key_values, key_excluded, step=0):
            written.update(key_values)

    model.set_logger(Logger(None, [Writer()]))
    model.learn(12, log_interval=1)
    model.dump_logs()
    wanted = {"critic_loss", "actor_loss", "ent_coef", "entropy", "q_mean"}
    assert set(model.updater.metrics.names) == wanted
    assert wanted <= {name.removeprefix("train/") for name in written}


def test_a_grid_of_states_is_evaluated_in_parts(monkeypatch):
    for env in (SpacesEnv(), gym.make("CartPole-v1")):
        model = make(SQL, env, **(PARTICLES if isinstance(env, SpacesEnv) else {}))
        states = np.stack([env.observation_space.sample() for _ in range(7)])
        whole = model.soft_value(states, n_samples=10)
        monkeypatch.setattr(sql, "ROWS_AT_ONCE", 20)
        np.testing.assert_allclose(model.soft_value(states, n_samples=10), whole, rtol=1e-5, atol=1e-6)
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
@pytest.mark.parametrize("squash_gradient", ["pre_tanh", "action"])
def test_compiled_update_computes_the_eager_numbers(squash_gradient):
    models = []
    for engine in ("eager", "compile"):
        model = make(
            SQL, engine=engine, squash_gradient=squash_gradient, tau=1.0, target_update_interval=3, **PARTICLES
        )
        model.learn(12)
        models.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    th.testing.assert_close(models[0], models[1], rtol=1e-3, atol=2e-5)


def test_action_noise_is_added():
    model = make(SQL, action_noise=NormalActionNoise(np.full(2, 5.0), np.zeros(2)), learning_starts=0, **PARTICLES)
    model.learn(5)
    assert (model.replay_buffer.draw(20).actions == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_value_particles": 0}, "n_value_particles=0 is not allowed: pass an integer at least 1"),
        ({"n_value_particles": 2.5}, "n_value_particles=2.5 is not allowed"),
        ({"n_svgd_particles": 1}, "n_svgd_particles=1 is not allowed: pass an integer at least 2"),
        ({"svgd_update_ratio": 0.0}, "svgd_update_ratio=0.0 is not allowed"),
        ({"svgd_update_ratio": 1.0}, "svgd_update_ratio=1.0 of n_svgd_particles=32 updates 32 and fixes 0"),
        ({"svgd_update_ratio": 0.01}, "svgd_update_ratio=0.01 of n_svgd_particles=32 updates 0 and fixes 32"),
        ({"svgd_update_ratio": "half"}, "svgd_update_ratio='half' is not allowed"),
        ({"squash_gradient": "tanh"}, "squash_gradient='tanh' is not known: pass one of 'pre_tanh', 'action', 'none'"),
        ({"ent_coef": "auto"}, "ent_coef='auto' needs the policy's entropy"),
        ({"ent_coef": "auto_0.1"}, "ent_coef='auto_0.1' needs the policy's entropy"),
        ({"ent_coef": 0.0}, "ent_coef=0.0 is not allowed: exp(Q/ent_coef) needs one greater than 0"),
        ({"ent_coef": -1.0}, "ent_coef=-1.0 is not a temperature"),
        ({"use_sde": True}, "use_sde=True has no effect on SQL, whose policy is not Gaussian"),
        ({"policy_kwargs": {"clip_mean": 1.0}}, "clip_mean=1.0 is for Gaussian policies"),
    ],
)
def test_arguments_without_meaning_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(SQL, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_value_particles": 16}, "n_value_particles=16 is for continuous actions, not Discrete(2)"),
        ({"n_svgd_particles": 16}, "n_svgd_particles=16 is for continuous actions"),
        ({"svgd_update_ratio": 0.3}, "svgd_update_ratio=0.3 is for continuous actions"),
        ({"squash_gradient": "action"}, "squash_gradient='action' is for continuous actions"),
        ({"ent_coef": 0}, "ent_coef=0.0 is not allowed"),
        (
            {"policy_kwargs": {"share_features_extractor": True}},
            "share_features_extractor=True is for an actor network",
        ),
        ({"policy_kwargs": {"net_arch": {"pi": [8], "qf": [16]}}}, "net_arch's pi=[8] is for an actor network"),
    ],
)
def test_arguments_without_meaning_on_discrete_actions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(SQL, gym.make("CartPole-v1"), **arguments)


@pytest.mark.parametrize("action_dim", [150, 400])
def test_many_action_dimensions(action_dim: int) -> None:
    # 0.5**150, the uniform density, is no number of single precision
    actions = th.rand(2, 3, action_dim)
    sample = uniform_particles(actions)
    expected = -action_dim * math.log(2.0)
    th.testing.assert_close(sample.log_prob, th.full((2, 3), expected))
    th.testing.assert_close(sample.weights.sum(dim=1), th.ones(2))


@pytest.mark.parametrize("space", [ACTION, gym.spaces.Discrete(3)])
def test_an_actor_alone_says_what_it_lacks(space: gym.Space, tmp_path: pathlib.Path) -> None:
    model = make(SQL, SpacesEnv(action_space=space))
    model.actor.save(tmp_path / "actor")
    alone = type(model.actor).load(tmp_path / "actor")
    with pytest.raises(RuntimeError, match=r"critics of its policy: save, load or export the whole policy"):
        alone.predict(np.zeros(3, np.float32), deterministic=True)


def test_an_actor_without_parameters_knows_its_device() -> None:
    model = make(SQL, SpacesEnv(action_space=gym.spaces.Discrete(3)))
    assert model.actor.to("meta").device.type == "meta"
