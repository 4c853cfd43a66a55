"""precision="bfloat16" rounds the operands of an update's large products, and nothing else, where that is faster."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import SpacesEnv, flat_parameters, several_agents
from stable_baselines3.common.logger import Logger
from torch import nn

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.equations import products
from sb3_sac_variants.common.equations.products import ROUND_FROM, Linear, let_layers_round, rounded_operands
from sb3_sac_variants.common.gradient_step import precision as precision_module
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.common.gradient_step.precision import VARIABLE, bfloat16_pays, matmul_precision
from sb3_sac_variants.common.networks.critics import StackedLinear

CPU = th.device("cpu")
#: one hidden product that is rounded
NET_ARCH = [ROUND_FROM, ROUND_FROM]
needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))


@pytest.fixture
def rounding_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are rounded whatever the processor."""
    monkeypatch.setenv(VARIABLE, "always")


def make(cls: type, precision: str, engine: str = "eager", env: Any = None) -> Any:
    env = several_agents() if cls is MASAC else env or SpacesEnv()
    arguments: dict[str, Any] = {"policy_kwargs": {"net_arch": NET_ARCH}, "learning_starts": 0, "batch_size": 32}
    if cls is SQL:
        arguments.update(n_value_particles=4, n_svgd_particles=4)
    model = cls("MlpPolicy", env, engine=engine, precision=precision, seed=0, device="cpu", **arguments)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    for _ in range(100):
        obs, next_obs = rng.standard_normal((2, 1, *model.observation_space.shape)).astype(np.float32)
        if isinstance(model.action_space, gym.spaces.Discrete):
            action = rng.integers(0, 2, (1, 1))
        else:
            action = rng.uniform(-1, 1, (1, *model.action_space.shape)).astype(np.float32)
        info = {"agent_rewards": rng.standard_normal(action.shape[1])} if cls is MASAC else {}
        model.replay_buffer.add(obs, next_obs, action, rng.standard_normal(1), np.zeros(1, bool), [info])
    return model


def vector(model: Any) -> th.Tensor:
    return th.cat([value.flatten() for value in flat_parameters(model).values()])


def movement(model: Any, n_updates: int = 3) -> th.Tensor:
    before = vector(model).clone()
    th.manual_seed(1)
    model.train(n_updates, batch_size=32)
    return vector(model) - before


# ---------------------------------------------------------------- one product


def rounded(x: th.Tensor) -> th.Tensor:
    return x.bfloat16().double()


@pytest.mark.parametrize("layer", [nn.Linear(ROUND_FROM, 80), StackedLinear(2, ROUND_FROM, 80)], ids=str)
def test_a_product_and_its_gradients_round_operands_and_result_and_no_more(layer: nn.Module) -> None:
    th.manual_seed(0)
    layer = copy.deepcopy(layer)
    let_layers_round(layer)
    shape = (2, 16) if isinstance(layer, StackedLinear) else (16,)
    x, upstream = th.randn(*shape, ROUND_FROM, requires_grad=True), th.randn(*shape, 80)
    with rounded_operands():
        output = layer(x)
    weight = layer.weight if isinstance(layer, StackedLinear) else layer.weight.t()
    exact = rounded(x) @ rounded(weight)
    # The result of a product is rounded once, to 8 significant bits; the bias is added in float32
    assert output.dtype == th.float32
    th.testing.assert_close((output - layer.bias).double(), exact, rtol=2.0**-8, atol=1e-5)
    by_input, by_weight, by_bias = th.autograd.grad(output, (x, layer.weight, layer.bias), upstream)
    assert {gradient.dtype for gradient in (by_input, by_weight, by_bias)} == {th.float32}
    expected = rounded(x).transpose(-1, -2) @ rounded(upstream)
    expected = expected if isinstance(layer, StackedLinear) else expected.t()
    th.testing.assert_close(by_weight.double(), expected, rtol=2.0**-8, atol=1e-5)
    th.testing.assert_close(by_input.double(), rounded(upstream) @ rounded(weight).mT, rtol=2.0**-8, atol=1e-5)
    th.testing.assert_close(by_bias.flatten(), upstream.sum(-2).flatten(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(ROUND_FROM - 1, 80), (80, ROUND_FROM - 1)])
def test_products_with_few_inputs_or_outputs_keep_their_digits(sizes: tuple[int, int]) -> None:
    for layer in (Linear(*sizes), StackedLinear(2, *sizes)):
        x = th.randn(2, 4, sizes[0])
        expected = layer(x)
        with rounded_operands():
            assert th.equal(layer(x), expected)


def test_layers_round_in_the_context_only_and_stay_what_they_were() -> None:
    network = nn.Sequential(nn.Linear(80, 80), nn.ReLU())
    parameters, names = [*network.parameters()], [*network.state_dict()]
    x = th.randn(4, 80)
    expected = network(x)
    let_layers_round(network)
    assert isinstance(network[0], nn.Linear)
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))
    assert [*network.state_dict()] == names
    assert th.equal(network(x), expected)
    with rounded_operands():
        assert not th.equal(network(x), expected)
    with pytest.raises(KeyboardInterrupt), rounded_operands():
        raise KeyboardInterrupt
    assert th.equal(network(x), expected)


# ---------------------------------------------------------------- an update


@pytest.mark.usefixtures("rounding_everywhere")
@pytest.mark.parametrize("cls", [SACv1, SACv2, SQL, MASAC])
def test_updates_differ_by_the_rounding(cls: type) -> None:
    exact, rounded = (movement(make(cls, precision)) for precision in ("float32", "bfloat16"))
    # Adam steps by the sign of a gradient at first: elements near 0 that round over it move the other way
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 0.3


@pytest.mark.usefixtures("rounding_everywhere")
@pytest.mark.parametrize("cls", [SACv1, SACv2, SQL])
def test_updates_on_discrete_actions_differ_by_the_rounding(cls: type) -> None:
    def make_discrete(precision: str) -> Any:
        model = cls(
            "MlpPolicy",
            "CartPole-v1",
            engine="eager",
            precision=precision,
            learning_starts=20,
            batch_size=32,
            seed=0,
            device="cpu",
            policy_kwargs={"net_arch": NET_ARCH},
        )
        return model.learn(20)

    exact, rounded = (movement(make_discrete(precision)) for precision in ("float32", "bfloat16"))
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 0.3


@pytest.mark.usefixtures("rounding_everywhere")
@pytest.mark.parametrize("cls", [SACv1, SACv2, SQL, MASAC])
def test_every_large_layer_of_an_update_is_rounded(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(cls, "bfloat16")
    large, seen = set(), set()
    for name, layer in model.policy.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear | StackedLinear) and min(weight.shape[-2:]) >= ROUND_FROM:
            large.add(name)
    names = {parameter.data_ptr(): name.rpartition(".")[0] for name, parameter in model.policy.named_parameters()}
    for function in ("linear", "stacked_linear"):
        original = getattr(products, function)

        def watched(inputs: th.Tensor, weight: th.Tensor, bias: Any, original: Any = original) -> th.Tensor:
            output = original(inputs, weight, bias)
            with rounded_operands(False):
                if not th.equal(output, original(inputs, weight, bias)):
                    seen.add(names.get(weight.data_ptr()))
            return output

        monkeypatch.setattr(products, function, watched)
        if function == "stacked_linear":
            monkeypatch.setattr("sb3_sac_variants.common.networks.critics.stacked_linear", watched)
    model.train(1, batch_size=32)
    assert large
    assert seen >= large


@pytest.mark.usefixtures("rounding_everywhere")
@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("cls", [SACv1, SACv2, SQL, MASAC])
def test_compiled_updates_round_as_eager_ones(cls: type) -> None:
    exact, eager, compiled = (
        movement(make(cls, *how)) for how in (("float32",), ("bfloat16",), ("bfloat16", "compile"))
    )
    assert 1e-4 < (compiled - exact).norm() / exact.norm() < 0.3
    # A compiler may leave out a rounding between two operations, and Adam turns what is small around
    assert (compiled - eager).norm() < (eager - exact).norm()


@pytest.mark.usefixtures("rounding_everywhere")
@needs_compiler
@pytest.mark.slow
def test_a_precision_that_is_changed_reaches_a_compiled_update() -> None:
    exact, changed = make(SACv2, "float32", "compile"), make(SACv2, "float32", "compile")
    assert th.equal(movement(exact), movement(changed))
    changed.precision = "bfloat16"
    assert not th.equal(movement(exact), movement(changed))


@pytest.mark.usefixtures("rounding_everywhere")
def test_the_rollout_and_inspection_stay_float32() -> None:
    model = make(SACv2, "bfloat16")
    movement(model)
    exact = make(SACv2, "float32")
    exact.policy.load_state_dict(model.policy.state_dict())
    exact.temperature.load_state_dict(model.temperature.state_dict())
    observations = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    actions = model.predict(observations, deterministic=True)[0]
    assert np.array_equal(actions, exact.predict(observations, deterministic=True)[0])
    assert np.array_equal(model.q_value(observations, actions), exact.q_value(observations, actions))
    assert np.array_equal(model.soft_value(observations), exact.soft_value(observations))


# ---------------------------------------------------------------- where it pays


def test_a_processor_without_it_is_named_and_computes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_module, "_is_faster", lambda device_type, with_roundings: False)
    model = make(SACv2, "bfloat16")
    with pytest.warns(UserWarning, match=r"precision='bfloat16' is not used: with engine 'eager'.*float32.*BFLOAT16"):
        moved = movement(model)
    assert th.equal(moved, movement(make(SACv2, "float32")))


def test_another_precision_or_engine_of_a_running_model_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(precision_module, "_is_faster", lambda device_type, with_roundings: not with_roundings)
    model = make(SACv2, "float32")
    movement(model)
    model.precision = "bfloat16"
    with pytest.warns(UserWarning, match=r"precision='bfloat16' is not used: with engine 'eager'"):
        movement(model)
    model.updater.check_precision("bfloat16", "compile")  # where it is used
    with pytest.warns(UserWarning, match="with engine 'eager'"):  # to which "auto" goes back where compiling fails
        movement(model)


def test_an_engine_that_rounds_in_steps_of_its_own_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(precision_module, "_is_faster", lambda device_type, with_roundings: not with_roundings)
    assert [bfloat16_pays("cpu", engine) for engine in ("eager", "compile")] == [False, True]


def test_the_probe_gives_an_answer_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    answers = [[bfloat16_pays("cpu", engine) for engine in ("eager", "compile")] for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("value", "expected"), [("always", True), ("never", False)])
def test_the_environment_answers_for_the_probe(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert bfloat16_pays("cpu", "eager") is expected


def test_an_unknown_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(ValueError, match=r"SB3_SAC_VARIANTS_BFLOAT16='yes'.*'always' or 'never'"):
        bfloat16_pays("cpu", "eager")


# ---------------------------------------------------------------- torch's own setting


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_torch_is_left_as_it_was(precision: Any) -> None:
    before = th.get_float32_matmul_precision()
    network = nn.Linear(2, 2)
    try:
        th.set_float32_matmul_precision("high")
        movement(make(SACv2, "float32"), 1)
        assert th.get_float32_matmul_precision() == "high"
        with pytest.raises(KeyboardInterrupt), matmul_precision(precision, network, CPU, "eager"):
            raise KeyboardInterrupt
        assert th.get_float32_matmul_precision() == "high"
    finally:
        th.set_float32_matmul_precision(before)


@pytest.mark.parametrize("setting", ["cuda.matmul", "mkldnn.matmul", ""])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_settings_of_single_backends_are_kept(setting: str, device: str) -> None:
    if not hasattr(th.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one setting for all")
    backends = [th.backends, th.backends.cuda.matmul, th.backends.mkldnn.matmul]
    backend = th.backends
    for name in filter(None, setting.split(".")):
        backend = getattr(backend, name)
    initial = [one.fp32_precision for one in backends]
    try:
        backend.fp32_precision = "tf32"
        before = [one.fp32_precision for one in backends]
        with matmul_precision("bfloat16", nn.Linear(2, 2), th.device(device), "eager"):
            assert th.get_float32_matmul_precision() == {"cpu": "highest", "cuda": "medium"}[device]
        assert [one.fp32_precision for one in backends] == before
    finally:
        th.set_float32_matmul_precision("highest")
        for one, value in zip(backends, initial, strict=True):
            one.fp32_precision = value


def test_a_saved_model_keeps_it(tmp_path: Any) -> None:
    model = make(SACv2, "bfloat16")
    model.save(tmp_path / "model")
    assert SACv2.load(tmp_path / "model").precision == "bfloat16"
