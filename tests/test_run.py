"""The training loop: how often it updates, at which rates, from which actions, and that a seed fixes it."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    ALGORITHMS,
    GAUSSIAN,
    SpacesEnv,
    assert_same_parameters,
    every_algorithm,
    every_algorithm_with,
    every_gaussian_algorithm,
    flat_parameters,
    make,
    n_updates,
    rows_at,
)
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer


def optimizers(model: Any) -> dict[str, th.optim.Optimizer]:
    """
    :param model: a model
    :return: its networks' optimisers by name
    """
    return {name: getattr(model, name).optimizer for name in model.policy.learned_networks}


# ---------------------------------------------------------------- how often


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("arguments", "n_envs", "steps", "updates"),
    [
        # SB3 trains after each rollout that ends beyond learning_starts
        ({"learning_starts": 5}, 1, 20, 15),
        ({"learning_starts": 0}, 1, 20, 20),
        ({"learning_starts": 30}, 1, 20, 0),
        ({"train_freq": 4, "gradient_steps": 2}, 1, 20, 2 * 4),
        ({"train_freq": (4, "step"), "gradient_steps": -1}, 1, 20, 4 * 4),
        ({"train_freq": (1, "episode"), "gradient_steps": -1}, 1, 20, 20),
        ({"train_freq": (2, "episode"), "gradient_steps": 3}, 1, 20, 3),
        ({"gradient_steps": 3}, 3, 30, 3 * 9),
        ({"gradient_steps": -1}, 3, 30, 3 * 9),
        ({"train_freq": 2, "gradient_steps": -1}, 3, 30, 6 * 5),
    ],
)
@every_algorithm
def test_number_of_updates(algorithm: type, arguments: dict[str, Any], n_envs: int, steps: int, updates: int) -> None:
    model = make(algorithm, make_vec_env(SpacesEnv, n_envs), **arguments).learn(steps)
    assert model.num_timesteps == steps
    assert n_updates(model) == updates
    if updates:
        assert {state["step"].item() for state in model.critic.optimizer.state.values()} == {updates}


@every_algorithm
def test_nothing_is_learned_before_learning_starts(algorithm: type) -> None:
    model = make(algorithm, learning_starts=20)
    before = flat_parameters(model)
    model.learn(20)
    after = flat_parameters(model)
    assert all(th.equal(before[name], after[name]) for name in before)
    model.learn(1, reset_num_timesteps=False)
    assert any(not th.equal(before[name], tensor) for name, tensor in flat_parameters(model).items())


@every_algorithm
def test_every_network_learns(algorithm: type) -> None:
    model = make(algorithm, learning_rate=1e-2, **({"ent_coef": "auto"} if algorithm in GAUSSIAN else {}))
    before = {name: value for name, value in flat_parameters(model).items() if ".optimizer" not in name}
    model.learn(20)
    after = flat_parameters(model)
    unchanged = [name for name, value in before.items() if th.equal(value, after[name])]
    assert not unchanged


@every_algorithm
def test_training_goes_on(algorithm: type) -> None:
    model = make(algorithm).learn(20)
    model.learn(13, reset_num_timesteps=False)
    assert (model.num_timesteps, n_updates(model)) == (33, 28)
    assert model.env.get_attr("steps") == [3]  # the episode went on
    model.learn(12)
    assert (model.num_timesteps, n_updates(model)) == (12, 28 + 7)
    assert model.env.get_attr("steps") == [2]


@every_algorithm
def test_more_learning_steps_than_the_buffer_holds(algorithm: type) -> None:
    model = make(algorithm, make_vec_env(SpacesEnv, 2), buffer_size=16, gradient_steps=-1).learn(60)
    assert model.replay_buffer.full
    assert model.replay_buffer.size() == 8


# ---------------------------------------------------------------- seeds


@pytest.mark.thin(2)
@every_algorithm_with("kind", ["plain", "gSDE", "learned temperature"], gaussian=["gSDE", "learned temperature"])
def test_same_seed_same_run(algorithm: type, kind: str) -> None:
    arguments = {"gSDE": {"use_sde": True}, "learned temperature": {"ent_coef": "auto"}}.get(kind, {})
    one, same, other = (make(algorithm, SpacesEnv(), **arguments, seed=seed).learn(30) for seed in (3, 3, 4))
    assert_same_parameters(one, same)
    np.testing.assert_array_equal(one.env.get_attr("actions"), same.env.get_attr("actions"))
    assert not np.array_equal(one.env.get_attr("actions"), other.env.get_attr("actions"))
    with pytest.raises(AssertionError):
        assert_same_parameters(one, other)


@every_algorithm
def test_looking_at_a_model_does_not_change_its_run(algorithm: type) -> None:
    runs = []
    for look in (False, True):
        model = make(algorithm, SpacesEnv())

        def callback(names: dict[str, Any], _: Any, look: bool = look) -> bool:
            if look:
                observation = names["new_obs"]
                names["self"].predict(observation, deterministic=True)
                names["self"].soft_value(observation)
                names["self"].q_value(observation, np.zeros((1, 2)))
            return True

        runs.append(model.learn(25, callback=callback))
    assert_same_parameters(*runs)


# ---------------------------------------------------------------- learning rates and optimisers


@every_gaussian_algorithm
def test_learning_rate_schedules(algorithm: type) -> None:
    model = make(
        algorithm,
        ent_coef="auto",
        learning_rate=lambda progress: 1e-3 * progress,
        qf_learning_rate=lambda progress: 1e-2 * progress,
        ent_coef_learning_rate=0.5,
    )
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers(model).items()}
    assert rates == {name: pytest.approx(1e-3 if name == "actor" else 1e-2) for name in rates}
    model.learn(40)
    rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in optimizers(model).items()}
    # The last update comes when nothing remains, the schedule is at its end
    assert rates == {name: pytest.approx(0.0, abs=1e-9) for name in rates}
    model.learn(40, callback=lambda names, _: names["self"].num_timesteps < 30)
    rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in optimizers(model).items()}
    left = 1 - 29 / 40
    assert rates == {name: pytest.approx(left * (1e-3 if name == "actor" else 1e-2)) for name in rates}
    assert float(model.temperature.optimizer.param_groups[0]["lr"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("optimizer_class", "optimizer_kwargs"),
    [
        (th.optim.Adam, {"eps": 1e-5, "betas": (0.8, 0.99)}),
        (th.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
        (th.optim.AdamW, {"weight_decay": 0.1}),
        (th.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5}),
        (th.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (th.optim.NAdam, {}),
        (th.optim.Adagrad, {}),
    ],
)
@every_algorithm
def test_optimizers(algorithm: type, optimizer_class: type, optimizer_kwargs: dict[str, Any]) -> None:
    model = make(
        algorithm,
        learning_rate=1e-2,
        policy_kwargs={"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs},
    )
    for optimizer in optimizers(model).values():
        assert type(optimizer) is optimizer_class
        assert {name: optimizer.param_groups[0][name] for name in optimizer_kwargs} == optimizer_kwargs
    before = flat_parameters(model)
    model.learn(15)
    after = flat_parameters(model)
    changed = [name for name in before if "policy/actor" in name and not th.equal(before[name], after[name])]
    assert changed
    assert all(tensor.isfinite().all() for tensor in after.values())


@every_algorithm
def test_the_optimizer_step_is_that_of_torch(algorithm: type) -> None:
    """The machinery around an optimiser must not change its step: repeat one by hand."""
    for optimizer_class in (th.optim.Adam, th.optim.RMSprop):
        model = make(algorithm, learning_rate=1e-2, policy_kwargs={"optimizer_class": optimizer_class}).learn(10)
        parameters = [parameter.detach().clone() for parameter in model.actor.parameters()]
        state = copy.deepcopy(model.actor.optimizer.state_dict())
        twins = [th.nn.Parameter(parameter) for parameter in parameters]
        twin = optimizer_class(twins, lr=1e-2)
        twin.load_state_dict(state)
        model.train(1, 4)
        for parameter, copied in zip(model.actor.parameters(), twins, strict=True):
            copied.grad = parameter.grad.clone()
        twin.step()
        for parameter, copied in zip(model.actor.parameters(), twins, strict=True):
            th.testing.assert_close(parameter.detach(), copied.detach(), rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- replay buffers, environments, devices


class CountingBuffer(ReplayBuffer):
    """A replay buffer of the user's own, with an argument of its own."""

    def __init__(self, *args: Any, marker: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.marker, self.draws = marker, 0

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        self.draws += 1
        return super().sample(*args, **kwargs)


@every_algorithm
def test_replay_buffer_of_the_user(algorithm: type) -> None:
    model = make(algorithm, replay_buffer_class=CountingBuffer, replay_buffer_kwargs={"marker": "mine"}).learn(20)
    assert (model.replay_buffer.marker, model.replay_buffer.draws) == ("mine", 15)
    assert isinstance(make(algorithm).replay_buffer, TensorReplayBuffer)
    kwargs = {"handle_timeout_termination": False}
    assert not make(algorithm, replay_buffer_kwargs=kwargs).replay_buffer.handle_timeout_termination
    assert not isinstance(make(algorithm, replay_buffer_class=ReplayBuffer).replay_buffer, TensorReplayBuffer)


@pytest.mark.parametrize("truncate", [False, True])
@every_algorithm
def test_stores_what_sb3_s_replay_buffer_stores(algorithm: type, truncate: bool) -> None:
    batches = []
    for buffer_class in (TensorReplayBuffer, ReplayBuffer):
        env = SpacesEnv(truncate=truncate)
        model = make(algorithm, env, replay_buffer_class=buffer_class, learning_starts=25).learn(25)
        batches.append(rows_at(model.replay_buffer, np.arange(25)))
    for ours, theirs in zip(*batches, strict=True):
        assert ours is theirs is None or th.equal(ours, theirs)
    assert batches[0].dones.sum() == (0 if truncate else 2)


@every_algorithm
def test_environment_by_its_id(algorithm: type) -> None:
    model = make(algorithm, "Pendulum-v1").learn(12)
    assert isinstance(model.env, DummyVecEnv)
    assert model.env.env_is_wrapped(Monitor) == [True]


@every_algorithm
def test_another_environment_in_the_middle(algorithm: type) -> None:
    first, second = SpacesEnv(), SpacesEnv()
    model = make(algorithm, first).learn(12)
    model.set_env(second)
    model.learn(8, reset_num_timesteps=False)
    assert (len(first.actions), len(second.actions)) == (12, 8)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(SpacesEnv(spaces.Box(-1, 1, (9,))))


@every_algorithm
def test_device(algorithm: type) -> None:
    expected = "cuda" if th.cuda.is_available() else "cpu"
    assert make(algorithm, device="auto").device.type == expected
    model = make(algorithm, device=th.device("cpu")).learn(8)
    assert {tensor.device.type for tensor in flat_parameters(model).values()} == {"cpu"}


@every_algorithm
def test_monitored_returns_are_raw(algorithm: type) -> None:
    env = SpacesEnv(episode_length=10)
    model = make(algorithm, env, reward_scale=7.0).learn(10)
    raw = -np.square(env.actions).mean(axis=1).sum()
    assert model.ep_info_buffer[0]["r"] == pytest.approx(raw, abs=1e-4)
    assert model.replay_buffer.rewards[:10].sum() == pytest.approx(raw, abs=1e-4)


def test_gymnasium_wrappers() -> None:
    env = gym.wrappers.TimeLimit(
        gym.wrappers.RescaleAction(SpacesEnv(episode_length=100), np.float32(-2), np.float32(2)), 6
    )
    model = make(ALGORITHMS[0], env).learn(18)
    assert model.replay_buffer.gather(th.arange(18)).dones.sum() == 0  # cut by the limit, not terminated
    assert len(model.ep_info_buffer) == 3
