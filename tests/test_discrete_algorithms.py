"""SACv1, SACv2 and SQL on discrete actions: the same classes and updates, other networks."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import DICTIONARY, IMAGE, VECTOR, SpacesEnv, assert_same_parameters, flat_parameters, make, n_updates
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.her import HerReplayBuffer

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step import target_entropy
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.sac_v1.policies import SACv1Policy

ALGORITHMS = [SACv1, SACv2, SQL]
POLICIES = {"MlpPolicy": VECTOR, "CnnPolicy": IMAGE, "MultiInputPolicy": DICTIONARY}


class DiscreteEnv(SpacesEnv):
    """Random observations; action k pays k."""

    def __init__(self, observation_space: spaces.Space = VECTOR, action_space: spaces.Space | None = None):
        super().__init__(observation_space, action_space or spaces.Discrete(3))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        reward = float(np.sum(action))
        return self.observation_space.sample(), reward, self.steps == self.episode_length, False, {}


@pytest.mark.thin(2)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learns_predicts_saves_and_loads(algorithm, policy, tmp_path):
    env = DiscreteEnv(POLICIES[policy])
    model = make(algorithm, env, policy)
    before = {name: value.clone() for name, value in flat_parameters(model).items()}
    model.learn(12)
    after = flat_parameters(model)
    assert all(th.isfinite(value).all() for value in after.values())
    for network in model.policy.learned_networks:
        changed = [n for n, v in before.items() if f"/{network}." in n and not th.equal(v, after[n])]
        assert changed, network

    obs = model.env.reset()
    action, _ = model.predict(obs, deterministic=True)
    assert action.shape == (1,)
    single = {key: value[0] for key, value in obs.items()} if isinstance(obs, dict) else obs[0]
    assert env.action_space.contains(model.predict(single)[0].item())
    drawn = {int(model.predict(obs, deterministic=False)[0][0]) for _ in range(60)}
    assert drawn == {0, 1, 2}

    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env, device="cpu")
    assert_same_parameters(loaded, model)
    assert loaded.predict(obs, deterministic=True)[0] == action
    loaded.learn(5, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_for_inspection_are_exact(algorithm):
    model = make(algorithm, DiscreteEnv())
    model.learn(12)
    obs, state = np.ones((2, 3), dtype=np.float32), th.get_rng_state()
    q = np.stack([model.q_value(obs, np.array([a, a])) for a in range(3)], axis=1)
    assert q.shape == (2, 3)
    np.testing.assert_allclose(q, model.critic.values(th.ones(2, 3)).amin(dim=0).detach().numpy(), rtol=1e-5)
    value, alpha = model.soft_value(obs), model.temperature.value.item()
    assert value.shape == (2,)
    np.testing.assert_array_equal(value, model.soft_value(obs, n_samples=3))
    assert th.equal(state, th.get_rng_state())
    log_prob = model.actor.log_prob(th.ones(2, 3)).detach().numpy()
    if algorithm is not SACv1:  # which has a network for V
        np.testing.assert_allclose(value, (np.exp(log_prob) * (q - alpha * log_prob)).sum(axis=1), rtol=1e-4)
    if algorithm is SQL:
        np.testing.assert_allclose(value, alpha * np.log(np.exp(q / alpha).sum(axis=1)), rtol=1e-4)


def test_rollout_stores_the_actions_that_were_taken():
    env = DiscreteEnv()
    model = make(SACv2, env, learning_starts=0)
    model.learn(30)
    stored = model.replay_buffer.draw(200)
    assert stored.actions.dtype == th.int64
    assert stored.actions.shape == (200, 1)
    np.testing.assert_array_equal(stored.rewards.numpy(), stored.actions.numpy())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_discrete_observations_and_several_environments(algorithm):
    model = make(algorithm, make_vec_env("FrozenLake-v1", 3))
    model.learn(15)
    assert model.replay_buffer.observations.shape[:2] == (model.replay_buffer.buffer_size, 3)
    assert model.soft_value(np.arange(16)).shape == (16,)
    assert model.predict(np.int64(3), deterministic=True)[0].shape == ()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_n_step_returns(algorithm):
    model = make(algorithm, DiscreteEnv(), n_steps=3)
    model.learn(15)
    assert n_updates(model) > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hindsight_replay(algorithm):
    model = make(
        algorithm, BitFlippingEnv(n_bits=2, continuous=False), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer
    )
    model.learn(15)
    assert n_updates(model) > 0


def test_both_policy_gradients_of_sac_v1_are_the_same_sum():
    steps = []
    for policy_gradient in ("reparameterized", "likelihood_ratio"):
        model = make(SACv1, DiscreteEnv(), policy_gradient=policy_gradient)
        model.learn(8)
        steps.append(th.cat([p.detach().flatten() for p in model.actor.parameters()]))
    th.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-5)


def test_temperature_reaches_the_target_entropy():
    """A bandit: the policy of the target entropy is softmax(r/alpha) for one alpha, which it has to find."""
    model = make(SACv2, DiscreteEnv(), gamma=0.0, learning_rate=1e-2, target_entropy="auto_0.8", batch_size=32)
    model.learn(400)
    log_prob = model.actor.log_prob(th.randn(64, 3))
    entropy = -(log_prob.exp() * log_prob).sum(dim=1).mean()
    assert model.target_entropy == pytest.approx(0.8 * np.log(3))
    assert entropy.item() == pytest.approx(model.target_entropy, abs=0.1)


def test_soft_q_learning_bears_a_temperature_that_q_by_it_overflows_at() -> None:
    model = make(SQL, "CartPole-v1", ent_coef=1e-36)
    with th.no_grad():
        model.critic.q_networks.stacked[-1].bias.fill_(1e3)
        model.critic.q_networks.stacked[-1].bias[..., 1] += 1e3
    obs = th.zeros(1, 4)
    assert model.actor.log_prob(obs).exp().tolist() == [[0.0, 1.0]]
    model.learn(30)
    assert model.logger.name_to_value["train/entropy"] == 0.0


def test_runaway_temperature_warns_when_the_logger_writes(monkeypatch):
    monkeypatch.setattr(target_entropy, "RUNAWAY_FACTOR", 0.9)
    model = make(SACv2, DiscreteEnv(), ent_coef="auto_1000", target_entropy="auto_1", learning_starts=0)
    model.set_logger(Logger(None, []))
    with pytest.warns(UserWarning, match="temperature runs away"):
        model.learn(20, log_interval=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_sde": True}, "use_sde=True needs continuous actions"),
        ({"action_noise": NormalActionNoise(np.zeros(1), np.ones(1))}, "action_noise=.* cannot be added"),
        ({"policy_kwargs": {"log_std_init": -1}}, "log_std_init=-1 is for Gaussian policies"),
        ({"policy_kwargs": {"use_expln": True}}, "use_expln=True is for Gaussian policies"),
        ({"target_entropy": 2.0}, "target_entropy=2.0 cannot be reached"),
    ],
)
def test_arguments_without_meaning_are_refused(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(algorithm, DiscreteEnv(), **arguments)


def test_a_mixture_of_gaussians_is_refused():
    with pytest.raises(ValueError, match="n_components=2 needs continuous actions"):
        make(SACv1, DiscreteEnv(), policy_gradient="likelihood_ratio", policy_kwargs={"n_components": 2})
    assert SACv1Policy(VECTOR, spaces.Discrete(2), lambda _: 1e-3, n_components=1).n_components == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)])
def test_other_kinds_of_discrete_actions_are_refused(algorithm, space):
    with pytest.raises(ValueError, match=r"does not support action_space=Multi.*Box or Discrete"):
        make(algorithm, DiscreteEnv(action_space=space))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_actions_that_do_not_start_at_zero_are_refused(algorithm):
    with pytest.raises(ValueError, match=r"action_space=Discrete\(3, start=1\)"):
        make(algorithm, DiscreteEnv(action_space=spaces.Discrete(3, start=1)))


@pytest.mark.slow
@pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compiled_update_computes_the_eager_numbers(algorithm):
    models = []
    for engine in ("eager", "compile"):
        model = make(algorithm, DiscreteEnv(), engine=engine, ent_coef="auto" if algorithm is SACv2 else 0.5)
        model.learn(12)
        models.append(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach())
    th.testing.assert_close(models[0], models[1], rtol=1e-4, atol=2e-6)
