"""
Correctness and speed on a CUDA device, in one command of a few minutes:

    python benchmarks/gpu.py --out benchmarks/gpu

First every engine is checked against the eager one on every algorithm, each of them in a process of its own, over a
short learn() and several updates in one call; where one differs, the table says from which update on. Then updates and
environment steps per second are measured against Stable-Baselines3's SAC in the same run. Writes ``engines.csv``,
``updates.csv`` and ``learning.csv``, each as soon as it is known, and ``gpu.md``. What differs once in a hundred times
is looked for with

    python benchmarks/gpu.py --checks-only --variants "SACv1 discrete" --repeat 30 --engines compile
"""

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch as th
from harness import (
    RandomAgents,
    RandomEnv,
    alternate,
    markdown_table,
    median_ratio,
    prepare,
    synchronize,
    updates_per_second,
    where,
    write_csv,
)
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step.engine import CompiledEngine

ENGINES = ("eager", "compile", "cudagraph")


class Variant(NamedTuple):
    """
    What is checked.

    :param cls: algorithm
    :param arguments: its arguments
    :param make_env: what its environment is made by
    """

    cls: type
    arguments: dict[str, Any]
    make_env: Callable[[], gym.Env] = RandomEnv


discrete = functools.partial(RandomEnv, action_dim=0)
VARIANTS = {
    "SACv2": Variant(SACv2, {}),
    "SACv2 gSDE": Variant(SACv2, {"use_sde": True}),
    "SACv2 fixed alpha": Variant(SACv2, {"ent_coef": 0.2, "target_update_interval": 3}),
    "SACv2 n-step": Variant(SACv2, {"n_steps": 3}),
    "SACv2 frugal replay": Variant(SACv2, {"optimize_memory_usage": True}),
    "SACv2 discrete": Variant(SACv2, {}, discrete),
    "SACv1": Variant(SACv1, {"reward_scale": 5.0}),
    "SACv1 hard targets": Variant(SACv1, {"tau": 1.0, "target_update_interval": 5, "policy_q": "q1"}),
    "SACv1 mixture": Variant(SACv1, {"policy_gradient": "likelihood_ratio", "policy_kwargs": {"n_components": 4}}),
    "SACv1 discrete": Variant(SACv1, {}, discrete),
    "SQL": Variant(SQL, {}),
    "SQL discrete": Variant(SQL, {}, discrete),
    "MASAC": Variant(MASAC, {}, RandomAgents),
    "MASAC cross-entropy, shared": Variant(
        MASAC, {"ce_coef": 0.05, "policy_kwargs": {"share_actor": True, "share_critic": True}}, RandomAgents
    ),
}


def parameters_after(variant: Variant, engine: str, updates: int, device: str) -> th.Tensor:
    """
    Train a little, and note the parameters after each update.

    :param variant: what is checked
    :param engine: its engine
    :param updates: gradient steps to do, each after a step in the environment; then as many in one call
    :param device: where
    :return: all parameters of the policy in float64, at the beginning, after each step and after the call,
        ``(updates + 2, n_parameters)``
    """
    arguments: dict[str, Any] = {"seed": 1, "learning_starts": 0, "buffer_size": 20_000, **variant.arguments}
    model = variant.cls("MlpPolicy", variant.make_env(), device=device, engine=engine, **arguments)
    prepare(model, transitions=1000)

    def parameters() -> th.Tensor:
        synchronize(model.device)
        return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().double().cpu()

    found = [parameters()]
    for step in range(updates):
        model.learn(1, log_interval=None, reset_num_timesteps=step == 0)
        found.append(parameters())
    model.train(gradient_steps=updates, batch_size=model.batch_size)  # several in one call
    return th.stack([*found, parameters()])


def check_variant(name: str, engines: list[str], updates: int, device: str) -> None:
    """
    Compare engines to the eager one, and print a line of JSON for each.

    :param name: of the variant
    :param engines: what to compare
    :param updates: gradient steps to do
    :param device: where
    """
    reference = parameters_after(VARIANTS[name], "eager", updates, device)
    moved = (reference - reference[0]).norm(dim=1)[1:].clamp(min=1e-12)  # the first updates may change nothing
    for engine in engines:
        start, error = time.perf_counter(), math.nan
        try:
            found = parameters_after(VARIANTS[name], engine, updates, device)
            errors = (found - reference).norm(dim=1)[1:] / moved
            error = errors.max().item()
            verdict = "agrees"
            if not error < 1e-2:
                verdict = f"DIFFERS from update {(~(errors < 1e-2)).nonzero()[0].item() + 1} on"
        except Exception as exception:
            verdict = describe(exception)
        result = {"engine": engine, "relative difference": f"{error:.1e}", "verdict": verdict}
        print(json.dumps({**result, "seconds": f"{time.perf_counter() - start:.1f}"}), flush=True)


def check(engines: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """
    Check variants, each in a process of its own: an error of the device leaves no other work in that process.

    :param engines: what to compare to the eager engine, those first that take the least time
    :param arguments: of the command line
    :return: differences from the eager engine, relative to how far its parameters moved
    """
    deadline = time.perf_counter() + 60 * arguments.check_minutes

    def run(name: str) -> list[dict[str, Any]]:
        options = ["--device", arguments.device, "--updates", str(arguments.updates), "--engines", *engines]
        command = [sys.executable, __file__, "--only", name, *options]
        error = ""
        try:
            seconds = max(deadline - time.perf_counter(), 1.0)
            child = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            output = child.stdout
            if child.returncode != 0:
                error = f"FAILED: {next(iter(reversed(child.stderr.strip().splitlines())), '')[:150]}"
        except subprocess.TimeoutExpired as exception:
            output = exception.stdout or ""
            output = output if isinstance(output, str) else output.decode()
            error = "NOT RUN: out of time"
        found = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
        rows = [{"variant": name, **row} for row in found]
        for engine in engines[len(rows) :]:
            rows.append({"variant": name, "engine": engine, "relative difference": "nan", "verdict": error})
        for row in rows:
            print({"seconds": "", **row}, flush=True)
        return rows

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = [row for rows in pool.map(run, arguments.variants * arguments.repeat) for row in rows]
    rows.sort(key=lambda row: engines.index(row["engine"]))
    return [
        {"variant": "", "engine": "", "relative difference": "", "verdict": "", "seconds": "", **row} for row in rows
    ]


def describe(exception: Exception) -> str:
    """
    Put an exception into one line.

    :param exception: what went wrong
    :return: its type and the first line of its message, for a table
    """
    return f"FAILED: {type(exception).__name__}: {next(iter(str(exception).splitlines()), '')[:150]}"


def side_by_side(
    what: str, setting: str, candidates: dict[str, Callable[[], Callable[[], float]]], rounds: int
) -> list[dict[str, Any]]:
    """
    Measure candidates in turn.

    :param what: is measured
    :param setting: and how
    :param candidates: what makes each of them ready and gives what measures it; the first is the baseline
    :param rounds: measurements of each
    :return: a row for each candidate, also for one that cannot run: the others have cost device time
    """
    measures: dict[str, Callable[[], float]] = {}
    failures: dict[str, str] = {}

    def guarded(name: str, measure: Callable[[], float]) -> float:
        try:
            return math.nan if name in failures else measure()
        except Exception as exception:
            failures[name] = describe(exception)
            return math.nan

    for name, prepare_candidate in candidates.items():
        try:
            measures[name] = functools.partial(guarded, name, prepare_candidate())
        except Exception as exception:
            failures[name] = describe(exception)
    baseline = next(iter(candidates))
    figures = median_ratio(alternate(measures, rounds), baseline)
    rows = []
    for name in candidates:
        rate, ratio = figures.get(name, (float("nan"), float("nan")))
        rows.append(
            {
                "what": what,
                "setting": setting,
                "candidate": name,
                "rate": f"{rate:.0f}",
                "ratio to SB3": f"{ratio:.2f}",
                "verdict": failures.get(name, ""),
            }
        )
        print(rows[-1], flush=True)
    return rows


def let_torch_capture(model: Any) -> None:
    """
    Let ``torch.compile`` capture the gradient step in CUDA graphs of its own, in place of a model's engine.

    :param model: prepared model with an eager engine
    """
    model.train(gradient_steps=1, batch_size=model.batch_size)
    engine = CompiledEngine(model.draw_batch, model._gradient_step, draw_on_device=True)
    engine.compiled = th.compile(model._gradient_step, mode="reduce-overhead", fullgraph=True, dynamic=False)
    model.updater.engine = engine


def speed_of_updates(engines: list[str], device: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """
    Measure gradient steps per second.

    :param engines: engines to measure
    :param device: where
    :param seconds: of each measurement
    :param rounds: measurements of each candidate
    :return: a row for each candidate
    """

    @functools.cache
    def ready(cls: type, reduce_overhead: bool = False, **arguments: Any) -> Any:
        model = prepare(cls("MlpPolicy", RandomEnv(), device=device, learning_starts=0, **arguments))
        if reduce_overhead:
            let_torch_capture(model)
        updates_per_second(model, 10, 0.3)  # compile, capture, warm up
        return model

    def measure(cls: type, steps_a_call: int, **arguments: Any) -> Callable[[], float]:
        return functools.partial(updates_per_second, ready(cls, **arguments), steps_a_call, seconds)

    rows = []
    for steps_a_call in (1, 50):
        candidates = {"SB3 SAC": functools.partial(measure, SAC, steps_a_call)}
        for cls in (SACv2, SACv1):
            for engine in engines:
                candidates[f"{cls.__name__} {engine}"] = functools.partial(measure, cls, steps_a_call, engine=engine)
        candidates["SACv2, torch's own CUDA graphs (reduce-overhead)"] = functools.partial(
            measure, SACv2, steps_a_call, engine="eager", reduce_overhead=True
        )
        candidates[f"SACv2 {engines[-1]}, SB3's replay on the CPU"] = functools.partial(
            measure, SACv2, steps_a_call, engine=engines[-1], replay_buffer_class=ReplayBuffer
        )
        # On CUDA that is TensorFloat32
        candidates[f"SACv2 {engines[-1]}, precision='bfloat16'"] = functools.partial(
            measure, SACv2, steps_a_call, engine=engines[-1], precision="bfloat16"
        )
        rows += side_by_side("updates/s", f"{steps_a_call} a call", candidates, rounds)
    return rows


def speed_of_learning(engine: str, device: str, env: str, steps: int, rounds: int) -> list[dict[str, Any]]:
    """
    Measure environment steps per second of ``learn()``.

    :param engine: our engine
    :param device: where
    :param env: environment id
    :param steps: environment steps to learn
    :param rounds: measurements of each candidate
    :return: a row for each candidate
    """

    def ready(cls: type, **arguments: Any) -> Callable[[], float]:
        model = cls("MlpPolicy", env, device=device, learning_starts=100, buffer_size=100_000, **arguments)
        model.learn(300)  # capture and warm up

        def measure() -> float:
            synchronize(model.device)
            start = time.perf_counter()
            model.learn(steps, reset_num_timesteps=False)
            synchronize(model.device)
            return steps / (time.perf_counter() - start)

        return measure

    candidates = {"SB3 SAC": functools.partial(ready, SAC)}
    for cls in (SACv2, SACv1):
        candidates[f"{cls.__name__} {engine}"] = functools.partial(ready, cls, engine=engine)
    return side_by_side("steps/s", env, candidates, rounds)


def main() -> int:
    """
    Run all parts and write the tables.

    :return: 1 if an engine failed or differs from eager
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(VARIANTS), help="check one variant and print the result, nothing else")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="what to check")
    parser.add_argument("--repeat", type=int, default=1, help="how often to check each of them")
    parser.add_argument("--checks-only", action="store_true", help="measure no speed")
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 1), help="checks at the same time")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu"), help="folder of the results")
    parser.add_argument("--device", default="cuda", help="device (cpu: only to try the script)")
    parser.add_argument("--env", default="Hopper-v5", help="environment of the steps/s")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES[1:]), help="engines to check")
    parser.add_argument("--updates", type=int, default=20, help="gradient steps to compare engines after")
    parser.add_argument("--check-minutes", type=float, default=5.0, help="for all comparisons")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement")
    parser.add_argument("--steps", type=int, default=1500, help="environment steps of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each candidate")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")

    engines = sorted({*arguments.engines} - {"eager"}, key=ENGINES.index, reverse=True)
    if arguments.only is not None:
        check_variant(arguments.only, engines, arguments.updates, arguments.device)
        return 0
    try:
        gym.make(arguments.env).close()
    except (gym.error.Error, ImportError) as error:  # no MuJoCo on this machine, or not all that it needs
        print(f"--env {arguments.env} cannot be made ({error}): going on with Pendulum-v1", flush=True)
        arguments.env = "Pendulum-v1"

    record = {**where(arguments.device), "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])}
    print(record, flush=True)
    sections = []

    def keep(file: str, rows: list[dict[str, Any]]) -> None:
        """Write what there is so far: device time may end at any moment."""
        if not rows:  # no engine to check but the eager one
            return
        sections.append(markdown_table(rows))
        write_csv(arguments.out / file, [{**row, **record} for row in rows])
        (arguments.out / "gpu.md").write_text("\n\n".join([markdown_table([record]), *sections]) + "\n", "utf-8")

    checks = check(engines, arguments)
    keep("engines.csv", checks)
    if arguments.checks_only:
        return int(any(row["verdict"] != "agrees" for row in checks))
    measured = ["eager", *reversed(engines)]
    keep("updates.csv", speed_of_updates(measured, arguments.device, arguments.seconds, arguments.rounds))
    options = (arguments.device, arguments.env, arguments.steps, arguments.rounds)
    keep("learning.csv", speed_of_learning(measured[-1], *options))
    return int(any(row["verdict"] != "agrees" for row in checks))


if __name__ == "__main__":
    sys.exit(main())
