"""precision="bfloat16" rounds the operands of an update's matrix products, and nothing else."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step import precision as precision_module
from sb3_sac_variants.common.gradient_step.engine import compile_unsupported
from sb3_sac_variants.common.gradient_step.precision import matmul_precision, rounds_operands

needs_bfloat16 = pytest.mark.skipif(not rounds_operands("cpu"), reason="products are not rounded on this processor")


def make(cls: type, precision: str, engine: str = "eager") -> Any:
    env = gym.make("Pendulum-v1")
    model = cls("MlpPolicy", env, engine=engine, precision=precision, learning_starts=0, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    for _ in range(300):
        obs, next_obs = rng.standard_normal((2, 1, 3)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        model.replay_buffer.add(obs, next_obs, action, rng.standard_normal(1), np.zeros(1, bool), [{}])
    return model


def movement(model: Any, n_updates: int) -> th.Tensor:
    def parameters() -> th.Tensor:
        return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()

    before = parameters()
    th.manual_seed(1)
    model.train(n_updates, batch_size=256)
    return parameters() - before


@needs_bfloat16
@pytest.mark.parametrize("cls", [SACv1, SACv2, SQL])
def test_updates_differ_by_the_rounding_of_the_operands(cls):
    exact, rounded = (movement(make(cls, precision), 5) for precision in ("float32", "bfloat16"))
    error = (rounded - exact).norm() / exact.norm()
    # Adam steps by the sign of a gradient at first: elements near 0 that round over it move the other way
    assert 1e-4 < error < 0.3, error


@needs_bfloat16
@pytest.mark.slow
@pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
def test_compiled_updates_round_as_well():
    exact, rounded = (movement(make(SACv2, precision, "compile"), 5) for precision in ("float32", "bfloat16"))
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 0.3


@needs_bfloat16
def test_one_product_rounds_operands_only():
    th.manual_seed(0)
    x, y = th.randn(64, 64), th.randn(64, 64)
    with matmul_precision("bfloat16"):
        product = x @ y
    rounded_operands = x.bfloat16().double() @ y.bfloat16().double()
    th.testing.assert_close(product.double(), rounded_operands, rtol=1e-5, atol=1e-5)
    assert (product - x @ y).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_torch_is_left_as_it_was(precision):
    before = th.get_float32_matmul_precision()
    try:
        th.set_float32_matmul_precision("high")
        movement(make(SACv2, precision), 1)
        assert th.get_float32_matmul_precision() == "high"
        with pytest.raises(KeyboardInterrupt), matmul_precision(precision):
            raise KeyboardInterrupt
        assert th.get_float32_matmul_precision() == "high"
    finally:
        th.set_float32_matmul_precision(before)


def test_a_processor_without_it_is_named(monkeypatch):
    monkeypatch.setattr(precision_module, "rounds_operands", lambda device_type: False)
    with pytest.warns(UserWarning, match=r"precision='bfloat16' has no effect on this cpu device.*leave it out"):
        SACv2("MlpPolicy", "Pendulum-v1", precision="bfloat16", device="cpu")


def test_a_saved_model_keeps_it(tmp_path):
    SACv2("MlpPolicy", "Pendulum-v1", precision="bfloat16", device="cpu").save(tmp_path / "model")
    assert SACv2.load(tmp_path / "model").precision == "bfloat16"


@pytest.mark.parametrize("setting", ["cuda.matmul", "mkldnn.matmul", ""])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_settings_of_single_backends_are_kept(setting: str, precision: str) -> None:
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
        with matmul_precision(precision):
            assert th.get_float32_matmul_precision() == {"float32": "highest", "bfloat16": "medium"}[precision]
        assert [one.fp32_precision for one in backends] == before
    finally:
        th.set_float32_matmul_precision("highest")
        for one, value in zip(backends, initial, strict=True):
            one.fp32_precision = value
