"""
Correctness and speed on a CUDA device, in one command of a few minutes:

    python benchmarks/gpu.py --out benchmarks/gpu

First every engine is checked against the eager one, then updates per second and environment steps per second are
measured against Stable-Baselines3's SAC in the same run. Writes ``gpu.csv`` and ``gpu.md``.
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th
from harness import (
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

from sb3_sac_variants import SACv1, SACv2

ENGINES = ("eager", "compile", "cudagraph")
#: what is checked: class and arguments
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "SACv2": (SACv2, {}),
    "SACv2 gSDE": (SACv2, {"use_sde": True}),
    "SACv2 fixed alpha": (SACv2, {"ent_coef": 0.2, "target_update_interval": 3}),
    "SACv2 n-step": (SACv2, {"n_steps": 3}),
    "SACv2 frugal replay": (SACv2, {"optimize_memory_usage": True}),
    "SACv1": (SACv1, {"reward_scale": 5.0}),
    "SACv1 hard targets": (SACv1, {"tau": 1.0, "target_update_interval": 5, "policy_q": "q1"}),
    "SACv1 mixture": (SACv1, {"policy_gradient": "likelihood_ratio", "policy_kwargs": {"n_components": 4}}),
}


def parameters_after(cls: type, arguments: dict[str, Any], engine: str, updates: int, device: str) -> th.Tensor:
    """
    :param cls: algorithm
    :param arguments: its arguments
    :param engine: its engine
    :param updates: gradient steps to do
    :param device: where
    :return: all parameters of the policy, in float64
    """
    model = prepare(
        cls("MlpPolicy", RandomEnv(), seed=1, device=device, engine=engine, learning_starts=0, **arguments), 1000
    )
    th.manual_seed(2)
    for steps in (1, updates - 1):
        model.train(gradient_steps=steps, batch_size=64)
    synchronize(model.device)
    return th.nn.utils.parameters_to_vector(model.policy.parameters()).double().cpu()


def check(engines: list[str], updates: int, device: str) -> list[dict[str, Any]]:
    """
    :param engines: what to compare to the eager engine
    :param updates: gradient steps to compare after
    :param device: where
    :return: largest differences from the eager engine, and from where the parameters started
    """
    rows = []
    for name, (cls, arguments) in VARIANTS.items():
        start = prepare(cls("MlpPolicy", RandomEnv(), seed=1, device=device, engine="eager", **arguments), 1)
        initial = th.nn.utils.parameters_to_vector(start.policy.parameters()).double().cpu()
        reference = parameters_after(cls, arguments, "eager", updates, device)
        movement = (reference - initial).norm().item()
        for engine in engines:
            begin = time.perf_counter()
            try:
                result = parameters_after(cls, arguments, engine, updates, device)
                error = (result - reference).norm().item() / movement
                verdict = "agrees" if error < 1e-2 else "DIFFERS"
            except Exception as exception:
                error, verdict = (
                    float("nan"),
                    f"FAILED: {type(exception).__name__}: {str(exception).splitlines()[0][:150]}",
                )
            seconds = time.perf_counter() - begin
            rows.append(
                {
                    "variant": name,
                    "engine": engine,
                    "relative difference": f"{error:.1e}",
                    "verdict": verdict,
                    "seconds": f"{seconds:.1f}",
                }
            )
            print(rows[-1], flush=True)
    return rows


def speed_of_updates(device: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """
    :param device: where
    :param seconds: of each measurement
    :param rounds: measurements of each candidate
    :return: a row for each candidate
    """
    models: dict[str, Any] = {"SB3 SAC": prepare(SAC("MlpPolicy", RandomEnv(), device=device, learning_starts=0))}
    for cls in (SACv2, SACv1):
        for engine in ENGINES:
            model = cls("MlpPolicy", RandomEnv(), device=device, engine=engine, learning_starts=0)
            models[f"{cls.__name__} {engine}"] = prepare(model)
    rows = []
    for steps_a_call in (1, 50):
        measures: dict[str, Callable[[], float]] = {}
        for name, model in models.items():
            updates_per_second(model, steps_a_call, 0.3)  # compile, capture, warm up
            measures[name] = functools.partial(updates_per_second, model, steps_a_call, seconds)
        for name, (rate, ratio) in median_ratio(alternate(measures, rounds), "SB3 SAC").items():
            rows.append(
                {
                    "what": "updates/s",
                    "setting": f"{steps_a_call} a call",
                    "candidate": name,
                    "rate": f"{rate:.0f}",
                    "ratio to SB3": f"{ratio:.2f}",
                }
            )
            print(rows[-1], flush=True)
    return rows


def speed_of_learning(device: str, env: str, steps: int, rounds: int) -> list[dict[str, Any]]:
    """
    :param device: where
    :param env: environment id
    :param steps: environment steps to learn
    :param rounds: measurements of each candidate
    :return: a row for each candidate
    """

    def learner(cls: type, **arguments: Any) -> Callable[[], float]:
        model = cls("MlpPolicy", env, device=device, learning_starts=100, buffer_size=100_000, **arguments)
        model.learn(300)  # capture and warm up

        def measure() -> float:
            synchronize(model.device)
            start = time.perf_counter()
            model.learn(steps, reset_num_timesteps=False)
            synchronize(model.device)
            return steps / (time.perf_counter() - start)

        return measure

    measures = {"SB3 SAC": learner(SAC)}
    for cls in (SACv2, SACv1):
        measures[f"{cls.__name__} cudagraph"] = learner(cls, engine="cudagraph")
    rows = []
    for name, (rate, ratio) in median_ratio(alternate(measures, rounds), "SB3 SAC").items():
        rows.append(
            {
                "what": "steps/s",
                "setting": env,
                "candidate": name,
                "rate": f"{rate:.0f}",
                "ratio to SB3": f"{ratio:.2f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    """
    :return: 1 if an engine failed or differs from eager
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu"), help="folder of the results")
    parser.add_argument("--device", default="cuda", help="device (cpu: only to try the script)")
    parser.add_argument("--env", default="Hopper-v5", help="environment of the steps/s")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES[1:]), help="engines to check")
    parser.add_argument("--updates", type=int, default=20, help="gradient steps to compare engines after")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement")
    parser.add_argument("--steps", type=int, default=1500, help="environment steps of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each candidate")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")

    record = where(arguments.device)
    print(record, flush=True)
    checks = check(arguments.engines, arguments.updates, arguments.device)
    speeds = speed_of_updates(arguments.device, arguments.seconds, arguments.rounds)
    speeds += speed_of_learning(arguments.device, arguments.env, arguments.steps, arguments.rounds)
    command = "python benchmarks/gpu.py " + " ".join(sys.argv[1:])
    write_csv(arguments.out / "engines.csv", [{**row, **record, "command": command} for row in checks])
    write_csv(arguments.out / "speed.csv", [{**row, **record, "command": command} for row in speeds])
    summary = f"`{command}`\n\n{markdown_table([record])}\n\n{markdown_table(checks)}\n\n{markdown_table(speeds)}\n"
    (arguments.out / "gpu.md").write_text(summary)
    return int(any(row["verdict"] != "agrees" for row in checks))


if __name__ == "__main__":
    sys.exit(main())
