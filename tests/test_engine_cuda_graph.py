"""The CUDA graph engine without CUDA: on a stand-in that has the rules of a graph, whole runs are those of eager."""

import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from cuda_graph_double import Graph, install
from helpers import DICTIONARY, IMAGE, SpacesEnv, flat_parameters, goal_env, make, n_updates, several_agents
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step.engine import (
    CompiledEngine,
    CudaGraphEngine,
    EagerEngine,
    EngineUnavailableError,
)
from sb3_sac_variants.common.gradient_step.engine_choice import FallbackEngine, make_engine

SMALL_IMAGES = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 4}}


def falling(progress: float) -> float:
    return 3e-3 * progress


def optimizer(cls: type[th.optim.Optimizer]) -> dict[str, Any]:
    return {"learning_rate": falling, "policy_kwargs": {"optimizer_class": cls}}


#: algorithm, arguments, and what makes its environment
RUNS: dict[str, tuple[type, dict[str, Any], Callable[[], Any]]] = {
    "SACv1": (SACv1, {"learning_rate": falling, "ent_coef": "auto"}, SpacesEnv),
    "SACv1 hard targets": (SACv1, {"tau": 1.0, "target_update_interval": 5, "gradient_steps": 3}, SpacesEnv),
    "SACv1 discrete": (SACv1, {}, lambda: gym.make("CartPole-v1")),
    "SACv2": (SACv2, {"learning_rate": falling, "buffer_size": 40}, SpacesEnv),
    "SACv2 gSDE": (SACv2, {"use_sde": True, "sde_sample_freq": 4}, SpacesEnv),
    "SACv2 frugal, several": (
        SACv2,
        {"optimize_memory_usage": True, "buffer_size": 60, "gradient_steps": -1},
        lambda: DummyVecEnv([lambda: SpacesEnv(episode_length=4, truncate=True)] * 3),
    ),
    "SACv2 normalised": (SACv2, {}, lambda: VecNormalize(DummyVecEnv([SpacesEnv]))),
    "SACv2 images": (SACv2, {"policy": "CnnPolicy", "policy_kwargs": SMALL_IMAGES}, lambda: SpacesEnv(IMAGE)),
    "SACv2 dictionary": (SACv2, {"policy": "MultiInputPolicy"}, lambda: SpacesEnv(DICTIONARY)),
    "SACv2 HER": (
        SACv2,
        {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer, "learning_starts": 20},
        goal_env,
    ),
    "SACv2 n-step": (SACv2, {"n_steps": 3}, SpacesEnv),
    "SACv2 AdamW": (SACv2, optimizer(th.optim.AdamW), SpacesEnv),
    "SACv2 SGD": (SACv2, optimizer(th.optim.SGD), SpacesEnv),
    "SQL": (SQL, {}, SpacesEnv),
    "SQL discrete": (SQL, {"ent_coef": 0.3}, lambda: gym.make("CartPole-v1")),
    "MASAC": (MASAC, {"ce_coef": 0.05}, several_agents),
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_the_eager_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    algorithm, arguments, make_env = RUNS[name]
    models = []
    for engine in ("eager", "cudagraph"):
        model = make(algorithm, make_env(), **arguments, engine=engine)
        model.learn(60)
        models.append(model)
    eager, graph = models
    assert isinstance(graph.updater.engine, CudaGraphEngine)
    assert n_updates(eager) == n_updates(graph) > 30
    for key, value in flat_parameters(eager).items():
        th.testing.assert_close(flat_parameters(graph)[key], value, rtol=1e-4, atol=1e-6, msg=key)
    metrics, reference = graph.updater.metrics.means(), eager.updater.metrics.means()
    np.testing.assert_allclose([*metrics.values()], [*reference.values()], rtol=1e-3, atol=1e-4)
    # An optimiser whose rate is a plain number is warmed up anew whenever it changes; so is a store that has grown
    assert Graph.replays > 0.3 * n_updates(graph) or name == "SACv2 SGD"


class Changes(BaseCallback):
    """Changes what is a constant to a graph, in the middle of a run."""

    def _on_step(self) -> bool:
        if self.num_timesteps in (20, 40):
            self.model.target_entropy -= 1.0  # type: ignore[attr-defined]
            self.model.batch_size += 2  # type: ignore[attr-defined]
        return True


def test_a_changed_constant_is_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    models = []
    for engine in ("eager", "cudagraph"):
        models.append(make(SACv2, engine=engine))
        models[-1].learn(60, callback=Changes())
    assert Graph.captures == 3
    for key, value in flat_parameters(models[0]).items():
        th.testing.assert_close(flat_parameters(models[1])[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_what_the_host_reads_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    model = make(SACv2, engine="cudagraph")
    update = model.update

    def reading(batch: Any, noise: Any) -> dict[str, th.Tensor]:
        batch.rewards.mean().item()
        return update(batch, noise)

    model.update = reading
    with pytest.raises(EngineUnavailableError, match=r"cannot capture this update .*host reads.*pass engine='eager'"):
        model.learn(20)
    assert n_updates(model) == CudaGraphEngine.warm_up_steps


def test_auto_goes_on_eagerly_where_nothing_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    calls = []

    def draw(batch_size: int) -> tuple[th.Tensor]:
        if Graph.generator_captures and not Graph.capturing:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        return (th.ones(batch_size),)

    def step(x: th.Tensor) -> None:
        calls.append(x.sum().item())

    arguments = (draw, step, True)
    engine = FallbackEngine(CudaGraphEngine(*arguments, th.device("cuda")), EagerEngine(*arguments))
    with pytest.warns(UserWarning, match=r"chose 'cudagraph', which failed .*going on with engine='eager'"):
        engine.run(7, 4, lambda: None)
    assert calls == [4.0] * 7
    assert engine.name == "eager"


def test_what_is_drawn_outside_of_a_graph_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number, shape or structure is taken over as the eager engine takes it, not kept from the capture."""
    install(monkeypatch)
    sums = {}
    for name in ("eager", "cudagraph"):
        draws = [(th.ones(4), 1.0, None)] * 5 + [(th.ones(4), 2.0, None)] * 5 + [(th.ones(1), 2.0, None)] * 5
        draws += [(th.ones(1), 2.0, th.ones(1))] * 5
        total, left = th.zeros(()), iter(draws)

        def step(x: th.Tensor, factor: float, more: th.Tensor | None, total: th.Tensor = total) -> None:
            total += factor * x.sum() + (0.0 if more is None else 100.0)

        arguments = (lambda batch_size, left=left: next(left), step, False)
        engine = EagerEngine(*arguments) if name == "eager" else CudaGraphEngine(*arguments, th.device("cuda"))
        engine.run(len(draws), 4, lambda: None)
        sums[name] = total.item()
    assert sums["cudagraph"] == sums["eager"] == 20 + 40 + 10 + 510
    assert Graph.captures == 4


@pytest.mark.parametrize("obstacle", ["", "hook", "optimizer"])
def test_a_compiled_update_is_captured_on_cuda(obstacle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cuda, "Stream", lambda device: None)
    arguments: dict[str, Any] = {"device": th.device("cuda"), "draw_on_device": True, "planned_steps": 1}
    arguments["unsupported_engines"] = {"cudagraph": "a step hook"} if obstacle == "hook" else {}
    said = contextlib.nullcontext() if obstacle else pytest.warns(UserWarning, match="pass engine='cudagraph'")
    with said:
        engine = make_engine(
            "compile", lambda batch_size: (), lambda: None, fullgraph=obstacle != "optimizer", **arguments
        )
    assert engine.name == "compile"
    assert isinstance(engine, CompiledEngine if obstacle else CudaGraphEngine)
