"""
Does compiling pay?

Wall time from the start of a process to the end of ``learn()``, with ``engine="auto"`` beside ``engine="eager"``,
compiler included: with an empty compiler cache ("cold") and with what the run before left in it ("warm"). Writes
benchmarks/startup.csv.

    python benchmarks/startup.py                         # about half an hour on two idle cores
    python benchmarks/startup.py --steps 2000 20000
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import markdown_table, where, write_csv

HERE = Path(__file__).resolve().parent
PROGRAM = """
import sys
import torch as th
th.set_num_threads(int(sys.argv[5]))
import sb3_sac_variants
cls = getattr(sb3_sac_variants, sys.argv[1])
cls("MlpPolicy", sys.argv[2], engine=sys.argv[3], seed=0, device="cpu").learn(int(sys.argv[4]), log_interval=None)
"""


def seconds(algorithm: str, env: str, engine: str, steps: int, threads: int, cache: str) -> float:
    """
    Time a process that trains.

    :param algorithm: class
    :param env: task
    :param engine: engine
    :param steps: environment steps, with one update each
    :param threads: of torch
    :param cache: folder of the compiler's cache
    :return: wall time of a process that trains
    """
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, algorithm, env, engine, str(steps), str(threads)]
    subprocess.run(command, check=True, env=environment)
    return time.perf_counter() - start


def measure(algorithm: str, env: str, steps: int, threads: int) -> dict[str, float]:
    """
    Time each way to run, one after the other.

    :param algorithm: class
    :param env: task
    :param steps: environment steps
    :param threads: of torch
    :return: seconds of each way to run, one after the other
    """
    with tempfile.TemporaryDirectory() as cache:
        return {
            name: seconds(algorithm, env, engine, steps, threads, cache)
            for name, engine in (("eager", "eager"), ("auto, cold", "auto"), ("auto, warm", "auto"))
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="SACv2")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--steps", type=int, nargs="+", default=[2_000, 20_000, 100_000])
    parser.add_argument("--rounds", type=int, default=1, help="how often each takes its turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "startup.csv")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for steps in arguments.steps:
        rounds = [
            measure(arguments.algorithm, arguments.env, steps, arguments.threads) for _ in range(arguments.rounds)
        ]
        for name in rounds[0]:
            wall = statistics.median(one[name] for one in rounds)
            ratio = statistics.median(one[name] / one["eager"] for one in rounds)
            rows.append({"steps": steps, "engine": name, "seconds": f"{wall:.1f}", "of_eager": f"{ratio:.2f}"})
            print(f"{steps:8} {name:12} {wall:8.1f} s {ratio:6.2f}", flush=True)
    record = {**where("cpu"), "threads": arguments.threads, "algorithm": arguments.algorithm, "env": arguments.env}
    write_csv(arguments.out, [{**row, **record} for row in rows])
    print(f"\n{markdown_table(rows)}")


if __name__ == "__main__":
    main()
