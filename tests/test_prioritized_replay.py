"""Prioritised replay, an example of what a replay buffer may hand to an update and hear of it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cuda_graph_double
import numpy as np
import pytest
import torch as th
from agents import several
from helpers import ACTION, VECTOR
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.equations.losses import soft_bellman_error, td_error
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.masac.buffers import AgentReplayBuffer

EXAMPLE = Path(__file__).parents[1] / "examples" / "prioritized_replay.py"
if not EXAMPLE.exists():
    pytest.skip("the examples are not part of this distribution", allow_module_level=True)


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prioritized_replay", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prioritized_replay"] = module  # where pickle looks for its classes
    spec.loader.exec_module(module)
    return module


example = load_example()
Prioritized = example.PrioritizedReplayBuffer


class UniformRows(Prioritized):  # type: ignore[misc, valid-type]
    """Weights and priorities as ever, but the rows that the ordinary replay would draw."""

    def draw_rows(self, batch_size: int) -> th.Tensor:
        return th.randint(self.size() * self.n_envs, (batch_size,))


class UniformAgentRows(UniformRows, AgentReplayBuffer):
    """The same with a reward for each agent."""


def fill(buffer: Any, steps: int = 50) -> Any:
    rng = np.random.default_rng(0)
    n_envs, shape, dims = buffer.n_envs, buffer.obs_shape, buffer.action_dim
    for _ in range(steps):
        obs, next_obs = rng.standard_normal((2, n_envs, *shape)).astype(np.float32)
        discrete = hasattr(buffer.action_space, "n")
        action = rng.integers(2, size=(n_envs, dims)) if discrete else rng.uniform(-1, 1, (n_envs, dims))
        buffer.add(obs, next_obs, action, rng.standard_normal(n_envs), rng.random(n_envs) < 0.1, [{}] * n_envs)
    return buffer


def make(cls: Any, replay: Any, env: str = "Pendulum-v1", engine: str = "eager", **kwargs: Any) -> Any:
    model = cls(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [16]},
        replay_buffer_class=replay,
        replay_buffer_kwargs=kwargs,
        engine=engine,
        seed=0,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    fill(model.replay_buffer)
    th.manual_seed(1)
    return model


def parameters(model: Any) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()


def test_weighted_bellman_error_known_answer() -> None:
    q_values = th.tensor([[[1.0], [2.0]], [[0.0], [4.0]]])
    target_q = th.tensor([[0.0], [1.0]])
    weights = th.tensor([[2.0], [0.5]])
    # 1/2 of the mean over transitions of w (Q - y)^2, summed over the critics
    expected = 0.5 * (2.0 * 1 + 0.5 * 1) / 2 + 0.5 * (2.0 * 0 + 0.5 * 9) / 2
    assert float(soft_bellman_error(q_values, target_q, weights)) == pytest.approx(expected)
    assert td_error(q_values, target_q).tolist() == [0.5, 2.0]
    with pytest.raises(ValueError, match=r"weights has shape \(2,\), expected \(2, 1\)"):
        soft_bellman_error(q_values, target_q, weights.squeeze())


def test_draw_follows_the_priorities_and_weights_correct_it() -> None:
    buffer = fill(Prioritized(4, VECTOR, ACTION, "cpu", alpha=0.5, beta=1.0, epsilon=0.0), steps=4)
    buffer.update_priorities(th.arange(4), th.tensor([1.0, 4.0, 9.0, 16.0]))  # p = 1, 2, 3, 4
    th.manual_seed(0)
    batch = buffer.draw(20_000)
    shares = th.bincount(batch.indices, minlength=4) / 20_000
    th.testing.assert_close(shares, th.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=0.015)
    # 1 / p, scaled so that the largest is 1
    expected = th.tensor([1.0, 1 / 2, 1 / 3, 1 / 4])[batch.indices].unsqueeze(1)
    th.testing.assert_close(batch.weights, expected)
    # An expectation with these weights is that of the uniform draw
    values = th.tensor([5.0, 1.0, 2.0, 8.0])[batch.indices]
    weights = batch.weights.squeeze(1)
    assert float((weights * values).sum() / weights.sum()) == pytest.approx(4.0, rel=0.03)
    assert th.equal(batch.rewards, buffer.gather(batch.indices).rewards)


def test_new_transitions_have_the_highest_priority_and_overwrite_old_ones() -> None:
    buffer = fill(Prioritized(6, VECTOR, ACTION, "cpu", n_envs=2, alpha=1.0, epsilon=0.0), steps=2)
    assert buffer.priorities.tolist() == [1, 1, 1, 1, 0, 0]
    assert set(buffer.draw(100).indices.tolist()) == {0, 1, 2, 3}
    buffer.update_priorities(th.tensor([0, 3]), th.tensor([5.0, 0.5]))
    fill(buffer, steps=2)
    assert buffer.priorities.tolist() == [5, 5, 1, 0.5, 5, 5]


@pytest.mark.parametrize(
    ("cls", "env"), [(SACv1, "Pendulum-v1"), (SACv2, "Pendulum-v1"), (SQL, "Pendulum-v1"), (SACv2, "CartPole-v1")]
)
def test_equal_priorities_give_the_numbers_of_the_uniform_replay(cls: Any, env: str) -> None:
    """Bit for bit: all weights are 1, and to ask for errors changes nothing."""
    ordinary, prioritized = make(cls, TensorReplayBuffer, env), make(cls, UniformRows, env, alpha=0.0)
    before = parameters(ordinary)
    for model in (ordinary, prioritized):
        th.manual_seed(1)
        model.train(5, batch_size=8)
    assert not th.equal(parameters(ordinary), before)
    assert th.equal(parameters(prioritized), parameters(ordinary))
    assert prioritized.updater.metrics.means() == ordinary.updater.metrics.means()


@pytest.mark.parametrize("n_actions", [None, 3])
def test_several_agents_too(n_actions: int | None) -> None:
    ordinary, prioritized = (
        MASAC(
            "MlpPolicy",
            several(n_actions=n_actions),
            policy_kwargs={"net_arch": [16]},
            learning_starts=10,
            batch_size=8,
            replay_buffer_class=replay,
            replay_buffer_kwargs=kwargs,
            engine="eager",
            seed=0,
        ).learn(40)
        for replay, kwargs in [(None, {}), (UniformAgentRows, {"alpha": 0.0})]
    )
    assert th.equal(parameters(prioritized), parameters(ordinary))


def test_settings_that_change_reach_a_captured_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_graph_double.install(monkeypatch)

    def parameters_of(engine: str, change: bool) -> th.Tensor:
        model = make(SACv2, Prioritized, engine=engine)
        model.train(6, batch_size=16)
        if change:
            model.replay_buffer.beta = 1.0
        model.train(6, batch_size=16)
        if change:
            model.replay_buffer.alpha, model.replay_buffer.epsilon = 0.1, 2.0
        model.train(6, batch_size=16)
        return parameters(model)

    eager, graph, unchanged = (
        parameters_of(*arguments) for arguments in [("eager", True), ("cudagraph", True), ("eager", False)]
    )
    th.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-6)
    assert not th.allclose(unchanged, eager, rtol=1e-3, atol=1e-5)
    assert cuda_graph_double.Graph.captures == 2  # beta is in the memory that the graph reads


def test_priorities_are_the_errors_of_the_last_update() -> None:
    model = make(SACv2, Prioritized, alpha=1.0, epsilon=0.0)
    critic = model.critic.state_dict()
    critic = {name: value.clone() for name, value in critic.items()}
    buffer = model.replay_buffer
    told = []
    buffer.update_priorities = lambda *args: told.append(args)
    model.train(1, batch_size=32)
    ((rows, errors),) = told
    samples = buffer.gather(rows)
    model.critic.load_state_dict(critic)
    q_values = model.critic.evaluate(samples.observations, samples.actions)
    assert errors.shape == (32,)
    # Where an episode ended, the target is the reward
    ended = samples.dones.squeeze(1) == 1
    assert ended.any()
    expected = (q_values - samples.rewards).abs().mean(dim=0).squeeze(1)
    th.testing.assert_close(errors[ended], expected[ended].detach())


def test_algorithm_that_reports_no_errors_is_refused() -> None:
    class Silent(SACv2):
        def update(self, batch: Any, noise: Any) -> Any:
            return {name: value for name, value in super().update(batch, noise).items() if name != "td_error"}

    with pytest.raises(ValueError, match=r"PrioritizedReplayBuffer asks .* Silent\.update\(\) reports no 'td_error'"):
        make(Silent, Prioritized).train(1, batch_size=8)


@pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
@pytest.mark.slow
def test_compiled_update_computes_the_eager_numbers() -> None:
    eager, compiled = (make(SACv2, Prioritized, engine=engine) for engine in ("eager", "compile"))
    for model in (eager, compiled):
        th.manual_seed(1)
        model.train(7, batch_size=16)
    th.testing.assert_close(parameters(compiled), parameters(eager), rtol=1e-4, atol=2e-6)
    th.testing.assert_close(compiled.replay_buffer.priorities, eager.replay_buffer.priorities, rtol=1e-4, atol=1e-5)
    assert len(eager.replay_buffer.priorities.unique()) > 10


def test_pickled_and_moved_with_its_priorities(tmp_path: Path) -> None:
    model = make(SACv2, Prioritized)
    model.train(5, batch_size=8)
    model.save_replay_buffer(tmp_path / "replay.pkl")
    loaded = make(SACv2, Prioritized)
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    assert th.equal(loaded.replay_buffer.priorities, model.replay_buffer.priorities)
    loaded.replay_buffer.reset()
    assert not loaded.replay_buffer.priorities.any()


def test_memory_saving_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="optimize_memory_usage=True does not go with PrioritizedReplayBuffer"):
        Prioritized(10, VECTOR, ACTION, "cpu", optimize_memory_usage=True)


def test_beta_is_annealed_and_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example.main(timesteps=120)
    *_, result, share = capsys.readouterr().out.splitlines()
    assert "Return over 10" in result
    assert "tenth" in share
    betas = []

    def note(*_: Any) -> bool:
        betas.append(float(model.replay_buffer.beta))
        return True

    model = make(SACv2, Prioritized, beta=0.4)
    model.learn(4, callback=CallbackList([example.AnnealBeta(0.4), ConvertCallback(note)]))
    assert betas == pytest.approx([0.55, 0.7, 0.85, 1.0])
