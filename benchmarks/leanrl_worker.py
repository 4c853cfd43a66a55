"""
LeanRL's SAC as a candidate of ``speed.py``; run in an environment of its own (see ``benchmarks/README.md``).

LeanRL's programs are scripts: one is run as it is, from a checkout, with a progress bar in place of tqdm's that holds
the loop between two measurements, and without a word to wandb.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import runpy
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

#: steps before the first measurement: LeanRL compiles in the first of them
WARM_UP = 300


class Turns:
    """
    Stands in for ``tqdm.tqdm``: goes through the steps, a measurement at each line of standard input.

    :param steps: of the script's loop
    """

    seconds = 3.0

    def __init__(self, steps: Iterable[int]):
        self.steps = steps

    def __iter__(self) -> Iterator[int]:
        start, done = 0.0, 0
        for step in self.steps:
            if step == WARM_UP:
                answer: dict[str, float] = {}
            elif step > WARM_UP and time.perf_counter() - start >= self.seconds:
                answer = {"per_second": done / (time.perf_counter() - start)}
            else:
                done += 1
                yield step
                continue
            print(json.dumps(answer), flush=True)
            if not sys.stdin.readline():
                sys.exit()
            start, done = time.perf_counter(), 1
            yield step

    def set_description(self, text: str) -> None:
        """
        Show nothing.

        :param text: not shown
        """


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidate", help='"leanrl:SAC" or "leanrl:SAC-compile"')
    parser.add_argument("--checkout", type=Path, required=True, help="LeanRL's repository")
    parser.add_argument("--measure", choices=("end_to_end",), required=True)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    compiled = arguments.candidate.endswith("-compile")
    script = "sac_continuous_action_torchcompile.py" if compiled else "sac_continuous_action.py"

    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch as th
    import tqdm

    th.set_num_threads(arguments.threads)
    Turns.seconds = arguments.seconds
    tqdm.tqdm = Turns
    wandb: Any = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("wandb", None))
    wandb.init, wandb.log = (lambda **_: None), (lambda *_, **__: None)
    sys.modules["wandb"] = wandb
    # Gymnasium before 1.0, which LeanRL is written for, has no v5
    task = arguments.env.replace("-v5", "-v4")
    options = ["--env-id", task, "--learning-starts", "100", "--buffer-size", "50000", "--no-cuda"]
    sys.argv = [script, *options, *(["--compile"] if compiled else [])]
    runpy.run_path(str(arguments.checkout / "leanrl" / script), run_name="__main__")


if __name__ == "__main__":
    main()
