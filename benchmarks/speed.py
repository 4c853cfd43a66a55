"""
How fast are updates and training on a CPU, beside Stable-Baselines3, SBX, LeanRL and BenchMARL?

Every candidate is a process of its own that waits for its turn; all take turns, round by round, so that a noisy machine
disturbs them alike. Reported are medians, medians of the ratios to Stable-Baselines3 in the same round, and the share
of the floor: of what the processor would do if an update were nothing but products of 256x256 matrices in float32.
Writes benchmarks/NAME.csv and benchmarks/NAME.md. Draws benchmarks/figures/speed.png from all benchmarks/speed*.csv,
one for each kind of processor.

    python benchmarks/speed.py                                     # about a quarter of an hour on two idle cores
    python -m venv .venv-sbx && .venv-sbx/bin/pip install sbx-rl "gymnasium[mujoco]"
    python benchmarks/speed.py --sbx-python .venv-sbx/bin/python   # with SBX

LeanRL is a folder of scripts, not a package, and was written for libraries of its time:

    git clone https://github.com/meta-pytorch/LeanRL .venv-leanrl/checkout && python -m venv .venv-leanrl
    .venv-leanrl/bin/pip install torch tensordict==0.7.2 torchrl==0.7.2 "gymnasium[mujoco]==0.29.1" tyro tqdm \
        stable-baselines3==2.4.1
    python benchmarks/speed.py --leanrl-python .venv-leanrl/bin/python --leanrl-checkout .venv-leanrl/checkout

`--only` takes parts of the titles of what is measured, `--only Hopper discrete` for instance. Several agents beside
BenchMARL:

    python -m venv .venv-benchmarl && .venv-benchmarl/bin/pip install benchmarl pettingzoo "gymnasium>=1.0"
    python benchmarks/speed.py --only agents --name agents --benchmarl-python .venv-benchmarl/bin/python
"""

import argparse
import contextlib
import csv
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from harness import markdown_table, where, write_csv

from sb3_sac_variants.common.gradient_step.precision import bfloat16_pays

HERE = Path(__file__).resolve().parent


class Group(NamedTuple):
    """
    Candidates that are measured side by side.

    :param title: what is measured
    :param candidates: the first is the baseline
    :param options: command line of the workers
    """

    title: str
    candidates: tuple[str, ...]
    options: tuple[str, ...]


UPDATES = (
    "sb3:SAC", "sbx:SAC", "SACv2:eager", "SACv2:compile", "SACv2:eager-bfloat16", "SACv2:compile-bfloat16",
    "SACv1:eager", "SACv1:compile", "SACv1:compile-bfloat16", "SQL:compile",
)  # fmt: skip
DISCRETE = (
    "discrete sb3:DQN", "discrete SACv2:eager", "discrete SACv2:compile", "discrete SACv2:compile-bfloat16",
    "discrete SQL:compile",
)  # fmt: skip
AGENTS = ("benchmarl:MASAC", "MASAC:eager", "MASAC:compile")
#: networks and batch of SimpleSpread-v3 in hyperparams/masac.yml
AGENTS_OPTIONS = ("--net-arch", "128", "128", "--batch-size", "128")
LADDER = (
    "sb3:SAC", "SACv2:eager-replay_in_numpy", "SACv2:eager-metrics_to_the_host", "SACv2:eager-critics_in_a_loop",
    "SACv2:eager-memory_given_back", "SACv2:eager-last_layers_one_by_one",
    "SACv2:eager", "SACv2:compile-optimizers_outside_the_graph", "SACv2:compile-critics_in_a_loop",
    "SACv2:compile-with_all_guards", "SACv2:compile-denormals_kept", "SACv2:compile-last_layers_one_by_one",
    "SACv2:compile-templates_for_products", "SACv2:compile-narrow_products_kept", "SACv2:compile-wrapper_in_cpp",
    "SACv2:compile",
)  # fmt: skip
TRAINING = (
    "sb3:SAC", "sbx:SAC", "leanrl:SAC", "leanrl:SAC-compile", "SACv2:eager", "SACv2:auto-denormals_kept", "SACv2:auto",
    "SACv2:auto-bfloat16", "SACv1:auto", "SACv1:auto-bfloat16",
)  # fmt: skip


def groups(threads: int) -> list[Group]:
    """
    List what is measured side by side.

    :param threads: of each candidate
    :return: all that is measured
    """
    shared = ("--threads", str(threads))
    updates = ("--measure", "updates", *shared)
    return [
        Group("updates/s, Hopper shapes", UPDATES, updates),
        Group("updates/s, three discrete actions", DISCRETE, updates),
        Group("updates/s, without one idea", LADDER, updates),
        *(
            Group(
                f"updates/s, {n_agents} agents, {'shared' if shared else 'own'} networks",
                AGENTS,
                (*updates, "--agents", str(n_agents), *AGENTS_OPTIONS, *(("--shared",) if shared else ())),
            )
            for n_agents in (3, 8, 16)
            for shared in (False, True)
        ),
        *(
            Group(f"steps/s, {env}, one update a step", TRAINING, ("--measure", "end_to_end", "--env", env, *shared))
            for env in ("Hopper-v5", "HalfCheetah-v5")
        ),
    ]


class Interpreters(NamedTuple):
    """
    Where other libraries live.

    :param sbx: interpreter with SBX, or None to leave it out
    :param leanrl: interpreter with what LeanRL needs, or None to leave it out
    :param leanrl_checkout: LeanRL's repository
    :param benchmarl: interpreter with BenchMARL, or None to leave it out
    """

    sbx: str | None = None
    leanrl: str | None = None
    leanrl_checkout: str | None = None
    benchmarl: str | None = None

    def command(self, candidate: str) -> list[str] | None:
        """
        Find what runs a candidate.

        :param candidate: of a group
        :return: what runs it, if it can be run
        """
        if candidate.endswith("bfloat16"):
            engine = "eager" if ":eager" in candidate else "compile"
            if not bfloat16_pays("cpu", engine):  # it would be float32
                return None
        if candidate.startswith("leanrl:"):
            if self.leanrl is None or self.leanrl_checkout is None:
                return None
            return [self.leanrl, str(HERE / "leanrl_worker.py"), candidate, "--checkout", self.leanrl_checkout]
        if candidate.startswith("benchmarl:"):
            return None if self.benchmarl is None else [self.benchmarl, str(HERE / "benchmarl_worker.py"), candidate]
        python = self.sbx if candidate.startswith("sbx:") else sys.executable
        return None if python is None else [python, str(HERE / "speed_worker.py"), candidate]


class Worker:
    """
    A candidate's process.

    :param candidate: what it measures
    :param command: what runs it
    """

    def __init__(self, candidate: str, command: list[str]):
        self.candidate = candidate
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # the program may say other things
            with contextlib.suppress(json.JSONDecodeError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
        raise RuntimeError(f"{self.candidate} ended with status {self.process.wait()}: see its message above")

    def measure(self) -> dict[str, float]:
        """
        Let the candidate take its turn.

        :return: its answer to one request
        """
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()


@contextlib.contextmanager
def workers(group: Group, interpreters: Interpreters, seconds: float) -> Iterator[list[Worker]]:
    """
    Run the processes of a group.

    :param group: candidates
    :param interpreters: of other libraries
    :param seconds: of each measurement
    :return: their processes, warmed up; they end with the context
    """
    running: list[Worker] = []
    try:
        for candidate in group.candidates:
            command = interpreters.command(candidate)
            if command is not None:
                running.append(Worker(candidate, [*command, *group.options, "--seconds", str(seconds)]))
        yield running
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.wait()


def run_group(group: Group, interpreters: Interpreters, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """
    Measure a group.

    :param group: candidates
    :param interpreters: of other libraries
    :param seconds: of each measurement
    :param rounds: how often each takes its turn
    :return: a row for each candidate
    """
    with workers(group, interpreters, seconds) as running:
        results = [[worker.measure() for worker in running] for _ in range(rounds)]
    rows = []
    for i, worker in enumerate(running):
        mine = [result[i] for result in results]
        ratio = statistics.median(result[i]["per_second"] / result[0]["per_second"] for result in results)
        row: dict[str, Any] = {
            "measure": group.title,
            "candidate": worker.candidate,
            "per_second": round(statistics.median(one["per_second"] for one in mine), 1),
            "ratio": f"{ratio:.2f}",
        }
        share = statistics.median(one.get("floor_share", 0.0) for one in mine)
        row["floor_share"] = f"{share:.2f}" if share else ""
        for stage in ("environment", "update", "rest"):
            row[f"{stage}_us"] = round(statistics.median(one[stage] for one in mine)) if stage in mine[0] else ""
        rows.append(row)
        print(
            f"{group.title:45} {worker.candidate:32} {row['per_second']:8} {row['ratio']:>6} {row['floor_share']:>6}",
            flush=True,
        )
    return rows


#: what the chart shows of a file, and how it is called there
CHART = {
    "sb3:SAC": "SB3",
    "sbx:SAC": "SBX",
    "leanrl:SAC": "LeanRL",
    "SACv1:auto": "SACv1",
    "SACv2:auto": "SACv2",
    "SACv2:auto-bfloat16": "SACv2, bfloat16",
}
CHART_MEASURE = "steps/s, Hopper-v5, one update a step"


def draw(tables: list[Path], file: Path) -> None:
    """
    Draw training steps per second, a panel for each processor.

    :param tables: CSV files of this program
    :param file: where the chart goes; none is drawn if no file has the measure
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = []
    for table in tables:
        with table.open(newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.DictReader(opened) if row["measure"] == CHART_MEASURE]
        if rows:
            kind = table.stem.rpartition("_")[2].upper()  # of speed_epyc_avx2
            title = rows[0]["device"] + (f", {kind}" if kind != "SPEED" else "")
            panels.append((title, {row["candidate"]: row for row in rows}))
    if not panels:
        return
    columns = math.ceil(len(panels) ** 0.5)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (device, rows_of) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        shown = [candidate for candidate in CHART if candidate in rows_of][::-1]
        colors = ["tab:blue" if candidate.startswith("SAC") else "tab:gray" for candidate in shown]
        steps = [float(rows_of[candidate]["per_second"]) for candidate in shown]
        bars = axes.barh([CHART[candidate] for candidate in shown], steps, color=colors)
        axes.bar_label(bars, [f"{float(rows_of[candidate]['ratio']):.2f}x" for candidate in shown], padding=3)
        axes.margins(x=0.15)
        axes.set_xlabel("training steps per second, Hopper-v5")
        axes.set_title(device, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sbx-python", help="interpreter of an environment with SBX (default: leave SBX out)")
    parser.add_argument("--leanrl-python", help="interpreter of an environment for LeanRL (default: leave it out)")
    parser.add_argument("--leanrl-checkout", help="LeanRL's repository")
    parser.add_argument("--benchmarl-python", help="interpreter with BenchMARL (default: leave it out)")
    parser.add_argument("--threads", type=int, default=2, help="of each candidate")
    parser.add_argument("--rounds", type=int, default=5, help="how often each candidate takes its turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="measures whose title contains one of these, and no others in the files"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the results")
    parser.add_argument("--name", default="speed", help="of the files there; one for each kind of processor")
    arguments = parser.parse_args()
    th.set_num_threads(arguments.threads)  # also for the question whether bfloat16 pays
    chosen = [group for group in groups(arguments.threads) if any(part in group.title for part in arguments.only)]
    if not chosen:
        parser.error(f"--only {arguments.only!r} are in no title: " + "; ".join(g.title for g in groups(2)))
    if (arguments.leanrl_python is None) != (arguments.leanrl_checkout is None):
        parser.error("--leanrl-python and --leanrl-checkout go together")
    others = Interpreters(
        arguments.sbx_python, arguments.leanrl_python, arguments.leanrl_checkout, arguments.benchmarl_python
    )
    rows = [row for group in chosen for row in run_group(group, others, arguments.seconds, arguments.rounds)]
    record = {**where("cpu"), "threads": arguments.threads}
    write_csv(arguments.out / f"{arguments.name}.csv", [{**row, **record} for row in rows])
    text = f"{', '.join(f'{key} {value}' for key, value in record.items())}\n\n{markdown_table(rows)}\n"
    (arguments.out / f"{arguments.name}.md").write_text(text, encoding="utf-8")
    draw(sorted(arguments.out.glob("speed*.csv")), arguments.out / "figures" / "speed.png")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
