"""All engines compute the same update; an engine that cannot run says so."""

import contextlib
import copy
import functools
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import n_updates, set_progress, several
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step import engine_choice
from sb3_sac_variants.common.gradient_step.compilation import compile_step, compile_unsupported
from sb3_sac_variants.common.gradient_step.engine import EngineUnavailableError
from sb3_sac_variants.common.gradient_step.engine_choice import COMPILE_PAYS_FROM
from sb3_sac_variants.common.networks.actors import ONE_PRODUCT_FROM

needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))


class HuberSAC(SACv2):
    """Critics with another loss."""

    def critic_loss(self, critic: Any, batch: Any, target_q: th.Tensor) -> Any:
        q_values = critic.evaluate(batch.observations, batch.actions)
        losses = th.nn.functional.huber_loss(q_values, target_q.expand_as(q_values), reduction="none")
        return losses.mean(dim=1).sum(), (q_values.mean(), None)


#: what is checked beyond the defaults: class and arguments
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "gsde": (SACv2, {"use_sde": True}),
    "n_steps": (SACv2, {"n_steps": 3}),
    "frugal_replay": (SACv2, {"optimize_memory_usage": True}),
    "target_interval": (SACv2, {"target_update_interval": 3, "ent_coef": 0.2}),
    "sb3_order": (SACv2, {"update_order": "sb3", "ent_coef_loss": "log_alpha"}),
    "last_layers_in_one_product": (SACv2, {"batch_size": ONE_PRODUCT_FROM}),
    "other_optimizer": (SACv2, {"policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.RMSprop}}),
    "other_optimizer_v1": (SACv1, {"policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.RMSprop}}),
    "other_optimizer_and_order": (
        SACv2,
        {"update_order": "sb3", "policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.AdamW}},
    ),
    "another_critic_loss": (HuberSAC, {}),
    "hard_targets": (SACv1, {"tau": 1.0, "target_update_interval": 2, "policy_q": "q1"}),
    "learned_temperature": (SACv1, {"ent_coef": "auto"}),
    "mixture": (SACv1, {"policy_gradient": "likelihood_ratio", "policy_kwargs": {"net_arch": [16], "n_components": 3}}),
}


def make(cls: type, engine: str, device: str = "cpu", **arguments: Any) -> Any:
    arguments = {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 0, "batch_size": 8, **arguments}
    model = cls("MlpPolicy", "Pendulum-v1", engine=engine, seed=0, device=device, **arguments)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((1, 3)).astype(np.float32)
    for _ in range(50):
        next_obs = rng.standard_normal((1, 3)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        model.replay_buffer.add(obs, next_obs, action, rng.standard_normal(1), rng.random(1) < 0.1, [{}])
        obs = next_obs
    th.manual_seed(1)
    return model


QUIET = contextlib.nullcontext()


def parameters(model: Any) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().cpu()


def assert_engines_agree(cls: type, engine: str, device: str = "cpu", **arguments: Any) -> None:
    reference, model = make(cls, "eager", device, **arguments), make(cls, engine, device, **arguments)
    before = parameters(reference)
    th.testing.assert_close(parameters(model), before, rtol=0, atol=0)
    for gradient_steps in (1, 4, 2):
        for each in (reference, model):
            th.manual_seed(gradient_steps)
            np.random.seed(gradient_steps)  # noqa: NPY002 - SB3's own buffers draw with NumPy's global generator
            each.train(gradient_steps, batch_size=each.batch_size)
    assert (parameters(reference) - before).abs().max() > 1e-3
    th.testing.assert_close(parameters(model), parameters(reference), rtol=1e-4, atol=2e-6)
    assert model.updater.metrics.means() == pytest.approx(reference.updater.metrics.means(), rel=1e-3, abs=1e-4)
    assert n_updates(model) == 7


@needs_compiler
@pytest.mark.parametrize("cls", [pytest.param(SACv1, marks=pytest.mark.slow), SACv2])
def test_compiled_update_computes_the_eager_numbers(cls):
    assert_engines_agree(cls, "compile")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_variants_compute_the_eager_numbers(variant):
    cls, arguments = VARIANTS[variant]
    assert_engines_agree(cls, "compile", **arguments)


@pytest.mark.cuda
@pytest.mark.parametrize("engine", ["cudagraph", "compile"])
@pytest.mark.parametrize("variant", ["SACv1", "SACv2", *VARIANTS])
def test_cuda_engines_compute_the_eager_numbers(engine, variant):
    cls, arguments = {"SACv1": (SACv1, {}), "SACv2": (SACv2, {}), **VARIANTS}[variant]
    assert_engines_agree(cls, engine, "cuda", **arguments)


@needs_compiler
@pytest.mark.slow
def test_a_changing_learning_rate_does_not_recompile():
    model = make(SACv2, "compile", learning_rate=lambda progress: 1e-3 * progress)
    model.train(2, batch_size=8)
    before = parameters(model)
    with th.compiler.set_stance("fail_on_recompile"):
        for progress in (0.7, 0.2, 0.0):
            set_progress(progress, model)
            model.train(1, batch_size=8)
    assert model.actor_learner.lr.item() == 0.0
    assert not th.equal(parameters(model), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "device"),
    [
        pytest.param("compile", "cpu", marks=needs_compiler),
        pytest.param("compile", "cuda", marks=pytest.mark.cuda),
        pytest.param("cudagraph", "cuda", marks=pytest.mark.cuda),
    ],
)
def test_what_changes_between_updates_reaches_the_engine(engine, device):
    reference, model = make(SACv2, "eager", device), make(SACv2, engine, device)
    for name, value in [("target_entropy", -3.0), ("tau", 0.5), ("reward_scale", 9.0), ("target_update_interval", 2)]:
        for each in (reference, model):
            th.manual_seed(2)
            each.train(1, batch_size=8)
            setattr(each, name, value)
    for batch_size in (8, 16):
        for each in (reference, model):
            th.manual_seed(3)
            each.train(2, batch_size=batch_size)
        th.testing.assert_close(parameters(model), parameters(reference), rtol=1e-4, atol=2e-6)
    for each in (reference, model):
        each.policy.load_from_vector(0.5 * each.policy.parameters_to_vector())
        put_elsewhere(each.critic_target)
        th.manual_seed(4)
        each.train(5, batch_size=16)
    th.testing.assert_close(parameters(model), parameters(reference), rtol=1e-4, atol=2e-6)


def reload(optimizer: th.optim.Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def put_elsewhere(network: th.nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()


CHANGES: dict[str, Callable[[Any], object]] = {
    "target_entropy": lambda model: setattr(model, "target_entropy", -7.0),
    "update_order": lambda model: setattr(model, "update_order", "sb3"),
    "precision": lambda model: setattr(model, "precision", "bfloat16"),
    "parameters": lambda model: put_elsewhere(model.actor),
    "target_parameters": lambda model: put_elsewhere(model.critic_target),
    "options": lambda model: model.critic.optimizer.param_groups[0].update(eps=1e-6),
    "optimizer": lambda model: reload(model.critic.optimizer),
    "temperature": lambda model: reload(model.temperature.optimizer),
    "replay_buffer": lambda model: model.replay_buffer.reset(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_captured_graph_is_told_what_it_must_not_go_on_with(change):
    model = make(SACv2, "eager")
    model.train(1, batch_size=8)
    before = model.engine_signature()
    model.learn(3)
    assert model.engine_signature() == before
    CHANGES[change](model)
    assert model.engine_signature() != before


@pytest.mark.parametrize("cls", [SACv1, SACv2, SQL])
def test_update_constants_are_attributes(cls):
    model = make(cls, "eager")
    assert all(getattr(model, name) is not None for name in model.update_constants)


@needs_compiler
@pytest.mark.slow
def test_a_network_that_does_not_compile_is_named_with_the_remedy():
    class Refuses(th.nn.Module):
        @th.compiler.disable
        def forward(self, features):
            return features

    model = make(SACv2, "compile", policy_kwargs={"net_arch": [16], "activation_fn": Refuses})
    with pytest.raises(EngineUnavailableError, match=r"engine='compile' cannot compile .* pass engine='eager'"):
        model.train(1, batch_size=8)


@pytest.fixture
def traced(monkeypatch):
    """Compiled updates by the tracer alone, which needs no C++ compiler."""
    trace = functools.partial(th.compile, backend="eager")

    def traced_alone(step, fullgraph, options, **_):
        kept = {name: value for name, value in options.items() if name == "guard_filter_fn"}
        return trace(step, fullgraph=fullgraph, options=kept)

    monkeypatch.setattr(th, "compile", traced_alone)
    monkeypatch.setattr(engine_choice, "compile_unsupported", lambda: None)


@pytest.mark.thin(2)
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kwargs", [{"weight_decay": 1.0}, {"amsgrad": True}])
def test_engines_step_parameters_whose_gradient_is_zero(kwargs):
    biases = {}
    for engine in ("eager", "compile"):
        policy_kwargs = {"net_arch": [4], "optimizer_class": th.optim.AdamW, "optimizer_kwargs": kwargs}
        model = make(SACv2, engine, learning_rate=1e-2, policy_kwargs=policy_kwargs)
        model.train(2, batch_size=8)
        with th.no_grad():
            model.actor.log_std.bias.fill_(4.0)  # clipped: no gradient reaches this layer
        th.manual_seed(2)
        model.train(3, batch_size=8)
        biases[engine] = model.actor.log_std.bias.item()
    assert biases["eager"] == biases["compile"] != 4.0


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (SACv2, {"target_update_interval": np.int64(2), "tau": np.float64(0.1), "reward_scale": np.float32(2.0)}),
        (
            SQL,
            {"n_value_particles": np.int64(4), "n_svgd_particles": np.int64(4), "svgd_update_ratio": np.float64(0.5)},
        ),
    ],
)
def test_scalars_of_numpy_are_compiled_as_numbers(cls, arguments):
    model = make(cls, "compile", **arguments)
    model.train(1, batch_size=4)
    plain = make(cls, "compile", **{name: value.item() for name, value in arguments.items()})
    plain.train(1, batch_size=4)
    assert th.equal(parameters(model), parameters(plain))


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_compiled_update_that_changes_its_metrics_is_refused():
    class Changing(SACv2):
        update_constants = (*SACv2.update_constants, "more")
        more = False

        def update(self, batch, noise):
            return {**super().update(batch, noise), **({"more": batch.rewards.mean()} if self.more else {})}

    model = make(Changing, "compile")
    model.train(2, batch_size=8)
    model.train(1, batch_size=8)
    model.more = True
    with pytest.raises(ValueError, match=r"'more'.* and \[.*'critic_loss'.*\] before: report the same"):
        model.train(1, batch_size=8)


class Shaped(SACv2):
    """An update with constants of its own: a tuple and a function."""

    update_constants = (*SACv2.update_constants, "weights", "shape")
    weights: tuple[float, ...] = (1.0,)
    shape: Callable[[Any], Any] = th.exp

    def update(self, batch, noise):
        weights, shaped = sum(self.weights), self.shape(batch.rewards.new_ones(()))
        return {**super().update(batch, noise), "weights": shaped.new_tensor(weights), "shaped": shaped}


@pytest.mark.usefixtures("traced")
def test_tuples_and_functions_among_the_constants_reach_a_compiled_update():
    model = make(Shaped, "compile")
    model.shape = lambda value: 2 * value  # the tuple is still that of the class

    def reported():
        model.updater.metrics.reset()
        model.train(2, batch_size=8)
        means = model.updater.metrics.means()
        return means["weights"], means["shaped"]

    assert reported() == (1.0, 2.0)
    model.weights = (1.0, 2.0)
    assert reported() == (3.0, 2.0)
    model.weights = (4.0, 2.0)
    assert reported() == (6.0, 2.0)
    model.shape = lambda value: 3 * value
    assert reported() == (6.0, 3.0)


class Delayed(SACv2):
    """Something in every second update, by a counter."""

    by: Callable[[Any], Any]

    def update(self, batch, noise):
        due = type(self).by(self) % 2 == 0
        return {**super().update(batch, noise), "due": th.as_tensor(due).float()}


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("engine", ["eager", "compile", "auto"])
def test_the_number_of_updates_counts_in_an_update_or_is_refused(engine, monkeypatch):
    monkeypatch.setattr(engine_choice, "COMPILE_PAYS_FROM", 0)
    model = make(Delayed, engine)
    Delayed.by = lambda self: self._n_updates
    message = r"_n_updates is a number, which would stand still .*: let update\(\) read a tensor that counts"
    if engine == "compile":
        with pytest.raises(EngineUnavailableError, match=message):
            model.train(4, batch_size=8)
    else:
        with pytest.warns(UserWarning, match=message) if engine == "auto" else contextlib.nullcontext():
            model.train(3, batch_size=8)
        model.train(2, batch_size=8)
        assert model.updater.metrics.means()["due"] == pytest.approx(3 / 5)
        model.updater.metrics.reset()
        model._n_updates = 0
    assert model._n_updates == 0
    Delayed.by = lambda self: self.critic_target_tracker.steps
    model.train(3, batch_size=8)
    model.train(2, batch_size=8)
    assert model._n_updates == 5
    assert model.updater.metrics.means()["due"] == pytest.approx(3 / 5)
    assert copy.deepcopy(model)._n_updates == 5


@needs_compiler
@pytest.mark.slow
def test_many_models_in_one_process_can_each_be_compiled():
    # torch.compile keeps eight graphs for a function, which all models would share
    with th._dynamo.config.patch(recompile_limit=1):
        for seed in range(3):
            make(SACv2, "compile", ent_coef=0.1 + seed).train(1, batch_size=8)


@pytest.mark.parametrize(("fullgraph", "compilations", "limit"), [(True, 4, 4), (False, 4, 64), (False, None, 64)])
def test_a_step_in_pieces_may_be_compiled_more_often(fullgraph, compilations, limit, monkeypatch):
    options = {}
    monkeypatch.setattr(th, "compile", lambda step, recompile_limit=None, **_: options.update(limit=recompile_limit))
    compile_step(lambda *_: None, fullgraph, compilations)
    assert options == {"limit": limit}


def test_a_step_in_pieces_may_be_compiled_more_often_where_the_limit_is_of_all(monkeypatch):
    """As in torch 2.8."""
    monkeypatch.setattr(th, "compile", lambda step, **_: step)
    with th._dynamo.config.patch(recompile_limit=8):
        compile_step(lambda *_: None, True, None)
        assert th._dynamo.config.recompile_limit == 8
        compile_step(lambda *_: None, False, None)
        assert th._dynamo.config.recompile_limit == 64


def test_engine_by_name_that_cannot_run_raises_with_the_reason(monkeypatch):
    with pytest.raises(EngineUnavailableError, match=r"cudagraph.*device='cpu'"):
        make(SACv2, "cudagraph").train(1, batch_size=8)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineUnavailableError, match=r"compile.*C\+\+ compiler"):
        make(SACv2, "compile").train(1, batch_size=8)


@pytest.mark.parametrize(
    ("planned", "obstacle", "expected"),
    [
        (COMPILE_PAYS_FROM - 1, None, "eager"),
        (COMPILE_PAYS_FROM, None, "compile"),
        (COMPILE_PAYS_FROM, "no C++ compiler", "eager"),
    ],
)
def test_auto_compiles_only_what_pays(monkeypatch, capsys, planned, obstacle, expected):
    monkeypatch.setattr(engine_choice, "compile_unsupported", lambda: obstacle)
    model = make(SACv2, "auto", verbose=1)
    model.updater.plan(planned)
    model.train(1, batch_size=4)
    assert model.updater.engine.name == expected
    printed = capsys.readouterr().out
    assert f"Using the {expected} engine" in printed
    assert obstacle is None or obstacle in printed


def test_auto_counts_gradient_steps_not_environment_steps():
    model = make(SACv2, "auto", train_freq=10, gradient_steps=1)
    model.learn(9 * COMPILE_PAYS_FROM, callback=lambda names, _: names["self"].num_timesteps < 15)
    assert n_updates(model) == 1
    assert model.updater.engine.name == "eager"


def test_auto_falls_back_to_eager_with_one_warning(monkeypatch):
    def failing_compile(*args, **kwargs):
        def run(*args):
            raise RuntimeError("the compiler broke\nand said much more")

        return run

    monkeypatch.setattr(th, "compile", failing_compile)
    monkeypatch.setattr(engine_choice, "compile_unsupported", lambda: None)
    model = make(SACv2, "auto")
    model.updater.plan(COMPILE_PAYS_FROM)
    with pytest.warns(UserWarning, match=r"'compile', which failed \(RuntimeError: the compiler broke\)"):
        model.train(2, batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train(1, batch_size=8)
    assert n_updates(model) == 3


def test_auto_falls_back_with_the_batch_and_the_noise_that_were_drawn(monkeypatch):
    def failing_compile(*args, **kwargs):
        def run(*args):
            raise th._dynamo.exc.TorchRuntimeError("RuntimeError when making fake tensor call\n  the reason\nand more")

        return run

    monkeypatch.setattr(th, "compile", failing_compile)
    monkeypatch.setattr(engine_choice, "compile_unsupported", lambda: None)
    vectors = []
    for engine in ("eager", "auto"):
        model = make(SACv2, engine)
        model.updater.plan(COMPILE_PAYS_FROM)
        with pytest.warns(UserWarning, match=r"fake tensor call the reason\)") if engine == "auto" else QUIET:
            model.train(3, batch_size=8)
        assert n_updates(model) == 3
        vectors.append(parameters(model))
    assert th.equal(*vectors)


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that nobody, not even root, can write to")
def test_a_cache_folder_that_cannot_be_written_means_eager_with_one_warning():
    program = """if True:
        import torch as th
        from sb3_sac_variants import SACv2
        from sb3_sac_variants.common.gradient_step import engine_choice
        th.set_num_threads(1)
        engine_choice.COMPILE_PAYS_FROM = 1
        model = SACv2("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs={"net_arch": [16]})
        model.learn(110)
        print(model.updater.engine.name, model._n_updates)
    """
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": "/sys"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "eager 10\n"
    assert done.stderr.count("engine='auto' chose 'compile', which failed") == 1
    assert "Traceback" not in done.stderr


def test_saved_models_hold_no_engine(tmp_path):
    model = make(SACv2, "eager")
    model.train(2, batch_size=8)
    model.save(tmp_path / "model")
    loaded = SACv2.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    assert loaded.updater.engine is None
    th.testing.assert_close(parameters(loaded), parameters(model), rtol=0, atol=0)


PAGE_FAULTS = """
import resource
import torch as th
from sb3_sac_variants.common.gradient_step.engine_choice import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        blocks = [th.ones(150_000) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults()
print(min(faults() for _ in range(5)))  # a busy system may take pages away in between
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_was_freed_is_kept_for_the_next_step():
    """Otherwise most processes get it page by page: twenty thousand faults here, and twenty to seventy an update."""
    untuned = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))
    }
    result = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True, env=untuned
    )
    assert int(result.stdout) < 100


def test_no_gradient_of_an_eager_step_is_left_for_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(SACv2, "eager").learn(20)
    parameters = [*model.actor.parameters(), *model.critic.parameters()]
    assert all(parameter.grad is not None for parameter in parameters)
    model.updater.engine = None
    monkeypatch.setattr(type(model.updater), "run", lambda self, done, until, *_: until - done)  # leaves none itself
    model.learn(10, reset_num_timesteps=False)
    assert all(parameter.grad is None for parameter in parameters)


def test_updates_are_planned_for_all_environments() -> None:
    model = SACv2("MlpPolicy", several(4), train_freq=2, buffer_size=100, learning_starts=0).learn(40)
    assert model.updater.planned_steps == 40 / (4 * 2)
    assert make(SACv2, "auto", gradient_steps=0).learn(40).updater.planned_steps == 0


def test_no_updates_are_planned_for_the_warm_up() -> None:
    model = make(SACv2, "auto", learning_starts=30)
    model.learn(40)
    assert model.updater.planned_steps == 10
    model.learn(20, reset_num_timesteps=False)
    assert model.updater.planned_steps == 10 + 20


@pytest.mark.parametrize(
    ("says_its_length", "gradient_steps", "planned"), [(True, 1, 500), (True, 50, 25_000), (False, 1, 100)]
)
def test_auto_counts_gradient_steps_of_episodes(says_its_length, gradient_steps, planned):
    env = gym.make("Pendulum-v1")  # of 200 steps
    if not says_its_length:
        env = env.unwrapped
        env.spec = None
    model = SACv2(
        "MlpPolicy", env, train_freq=(1, "episode"), gradient_steps=gradient_steps, buffer_size=10, learning_starts=0
    )
    model.learn(100_000, callback=lambda *_: False)
    assert model.updater.planned_steps == planned
