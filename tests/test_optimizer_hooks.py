"""What people hang on an optimiser or its parameters is called, or refused: hooks, own steps, late options."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch as th
from cuda_graph_double import install
from helpers import ALGORITHMS, make, several_agents
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sb3_sac_variants import MASAC, SACv2
from sb3_sac_variants.common.gradient_step import engine_choice
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.common.gradient_step.engine import EngineUnavailableError
from sb3_sac_variants.common.gradient_step.learner import Learner

needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))

Watch = Callable[[th.optim.Optimizer, Callable[[], None]], Any]


def replace_step(optimizer: th.optim.Optimizer, call: Callable[[], None]) -> None:
    step = optimizer.step

    def own_step(closure: Any = None) -> Any:
        call()
        return step(closure)

    optimizer.step = own_step  # type: ignore[method-assign]


STEP_CALLS: dict[str, Watch] = {
    "pre_hook": lambda optimizer, call: optimizer.register_step_pre_hook(lambda *_: call()),
    "post_hook": lambda optimizer, call: optimizer.register_step_post_hook(lambda *_: call()),
    "own_step": replace_step,
    "global_pre_hook": lambda _, call: register_optimizer_step_pre_hook(lambda *_: call()),
    "global_post_hook": lambda _, call: register_optimizer_step_post_hook(lambda *_: call()),
}
GRADIENT_CALLS: dict[str, Watch] = {
    "gradient_hook": lambda optimizer, call: first(optimizer).register_hook(lambda _: call()),
    "post_accumulate_hook": lambda optimizer, call: first(optimizer).register_post_accumulate_grad_hook(
        lambda _: call()
    ),
}


def first(optimizer: th.optim.Optimizer) -> nn.Parameter:
    return optimizer.param_groups[0]["params"][0]


@pytest.fixture
def watch() -> Iterator[Callable[..., list[None]]]:
    """Hangs a call on an optimiser and gives the list that grows with each; global hooks go with the test."""
    handles: list[Any] = []

    def hang(kind: str, optimizer: th.optim.Optimizer) -> list[None]:
        calls: list[None] = []
        handles.append({**STEP_CALLS, **GRADIENT_CALLS}[kind](optimizer, lambda: calls.append(None)))
        return calls

    yield hang
    for handle in handles:
        if handle is not None:
            handle.remove()


@pytest.mark.thin(2)
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, MASAC])
@pytest.mark.parametrize("kind", [*STEP_CALLS, *GRADIENT_CALLS])
def test_everything_is_called_at_each_eager_step(algorithm: type, kind: str, watch: Any) -> None:
    env = several_agents() if algorithm is MASAC else None
    model = make(algorithm, env, engine="eager").learn(20)
    calls = watch(kind, model.critic.optimizer)
    model.train(3, batch_size=4)
    optimizers = len(model.policy.learned_networks) + (model.log_ent_coef is not None)
    assert len(calls) == 3 * (optimizers if "global" in kind else 1)


def test_gradients_can_be_clipped_by_a_hook() -> None:
    module, reference = (nn.Linear(3, 2) for _ in range(2))
    reference.load_state_dict(module.state_dict())
    module.optimizer = th.optim.Adam(module.parameters(), lr=0.1, eps=1.0)  # type: ignore[assignment]
    optimizer = th.optim.Adam(reference.parameters(), lr=0.1, eps=1.0)
    learner = Learner(module, "network")
    parameters = list(module.parameters())

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, 1e-2)

    learner.optimizer.register_step_pre_hook(clip)
    inputs = th.randn(8, 3)
    for _ in range(3):
        learner.minimize(lambda network: network(inputs).square().mean())
        optimizer.zero_grad()
        reference(inputs).square().mean().backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 1e-2)
        optimizer.step()
    for mine, expected in zip(module.parameters(), reference.parameters(), strict=True):
        th.testing.assert_close(mine, expected)


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
@pytest.mark.parametrize(
    ("option", "late"),
    [
        ({"weight_decay": 0.1}, False),
        ({"weight_decay": 0.1}, True),
        ({"amsgrad": True}, False),  # torch itself cannot begin with it in the middle
        ({"maximize": True}, False),
        ({"maximize": True}, True),
    ],
)
def test_options_that_are_set_after_construction_count(
    option: dict[str, Any], functional: bool, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Linear(3, 2)
    reference = copy.deepcopy(module)
    module.optimizer = th.optim.Adam(module.parameters(), lr=2.0**-7)  # type: ignore[assignment]
    optimizer = th.optim.Adam(reference.parameters(), lr=2.0**-7)
    learner = Learner(module, "network")
    inputs = th.randn(8, 3)
    if functional:
        monkeypatch.setattr(th.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr(th.compiler, "disable", lambda function: function)
    for step in range(4):
        if step == (2 if late else 0):
            for each in (learner.optimizer, optimizer):
                each.param_groups[0].update(option)
            assert not learner.is_bound_to(module)
            learner.bind(module)
        assert learner.is_bound_to(module)
        learner.minimize(lambda network: network(inputs).square().mean())
        optimizer.zero_grad()
        reference(inputs).square().mean().backward()
        optimizer.step()
    for mine, expected in zip(module.parameters(), reference.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


class OwnAdam(th.optim.Adam):
    """Adam with a step, and a state, of its own."""

    @th.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["calls"] = 0
                state["calls"] += 1
                parameter -= group["lr"] * parameter.grad.sign()


def test_a_step_that_a_subclass_of_adam_writes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(SACv2, learning_starts=5, policy_kwargs={"optimizer_class": OwnAdam}).learn(10)
    assert all(state == {"calls": 5} for state in model.critic.optimizer.state.values())
    install(monkeypatch)
    model.engine = "cudagraph"
    with pytest.raises(EngineUnavailableError, match=r"has a step hook or a step of its own; pass engine='eager'"):
        model.train(1, batch_size=4)


@pytest.mark.parametrize("kind", GRADIENT_CALLS)
@pytest.mark.parametrize("owner", ["critic", "temperature"])
def test_what_a_compiled_graph_would_not_call_is_refused(
    kind: str, owner: str, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(SACv2, engine="compile").learn(3)
    calls = watch(kind, getattr(model, owner).optimizer)
    with pytest.raises(EngineUnavailableError, match=rf"{owner} has a gradient hook.*pass engine='eager'"):
        model.train(1, batch_size=4)
    model.engine = "auto"
    monkeypatch.setattr(engine_choice, "COMPILE_PAYS_FROM", 0)
    with pytest.warns(UserWarning, match=rf"goes on with 'eager', not 'compile': .*{owner} has a gradient hook"):
        model.train(1, batch_size=4)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", [*STEP_CALLS, *GRADIENT_CALLS])
def test_what_a_cuda_graph_would_not_call_is_refused(kind: str, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    model = make(SACv2, engine="cudagraph").learn(20)
    watch(kind, model.critic.optimizer)
    with pytest.raises(EngineUnavailableError, match=r"(step|gradient) hook.*pass engine='eager'"):
        model.train(1, batch_size=4)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("owner", ["critic", "temperature"])
@pytest.mark.parametrize("kind", STEP_CALLS)
def test_a_compiled_update_calls_what_hangs_on_a_step(kind: str, owner: str, watch: Any) -> None:
    model = make(SACv2, engine="compile").learn(20)
    calls = watch(kind, getattr(model, owner).optimizer)
    model.train(3, batch_size=4)
    assert len(calls) == 3 * (3 if "global" in kind else 1)
