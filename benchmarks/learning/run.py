"""Train what the studies in studies.yml ask for, through the RL Zoo's own command, side by side.

Each run is one single-threaded process. What is finished is skipped, what was interrupted or has failed is run again
(its files are set aside), and Ctrl-C ends everything that was started. `report.py` makes tables and figures of it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text
from run_folder import RunFolder, State
from scheduler import Scheduler
from studies import STUDIES_FILE, Run, Study, load_studies, merge_runs, select, zoo_command

DEFAULT_OUT = Path("runs", "learning")
POLL_SECONDS = 0.5
# Without a terminal, the progress is printed this often.
REPORT_SECONDS = 60.0


class SpeedColumn(ProgressColumn):
    """Environment steps per second."""

    def render(self, task: Task) -> Text:
        """
        :param task: The run
        :return: Its speed, as text
        """
        return Text(f"{task.speed:.0f} steps/s" if task.speed else "- steps/s", style="cyan")


class Display:
    """One live line for each run and one for all; without a terminal, the same as plain lines once a minute.

    :param scheduler: What to show
    :param console: Where
    """

    def __init__(self, scheduler: Scheduler, console: Console) -> None:
        self._scheduler = scheduler
        self._console = console
        self._progress = Progress(
            _text("{task.description}"),
            BarColumn(bar_width=10),
            _text("{task.completed:,.0f}/{task.total:,.0f}"),
            SpeedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            _text("{task.fields[note]}"),
            console=console,
            # Steps are counted at the end of episodes, which can be many seconds apart.
            speed_estimate_period=120.0,
            refresh_per_second=2,
            auto_refresh=console.is_terminal,
            disable=not console.is_terminal,
        )
        # A run that only waits for its final evaluation has no steps to do.
        self._steps = {folder: 0 if folder.is_trained() else folder.run.steps for folder in scheduler.waiting}
        self._all = self._progress.add_task("all runs", total=sum(self._steps.values()), note="")
        self._tasks: dict[RunFolder, TaskID] = {}
        self._reported = time.monotonic()

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def refresh(self) -> None:
        """Read how far each run is."""
        running = {job.folder: job for job in self._scheduler.running}
        for folder in set(self._tasks) - set(running):
            self._progress.remove_task(self._tasks.pop(folder))
        over = [*self._scheduler.finished, *self._scheduler.failed, *self._scheduler.skipped]
        completed = sum(self._steps[folder] for folder in over)
        for folder, job in running.items():
            if folder not in self._tasks:
                self._tasks[folder] = self._progress.add_task(str(folder.run.folder), total=folder.run.steps, note="")
            steps, last = folder.steps_done(), folder.last_return()
            note = "final evaluation" if not job.training else "" if last is None else f"return {last:.1f}"
            completed += min(steps, self._steps[folder])
            self._progress.update(self._tasks[folder], completed=steps, note=note)
        note = f"{len(over)}/{len(self._steps)} done" + (
            f", {len(self._scheduler.failed)} failed" if self._scheduler.failed else ""
        )
        self._progress.update(self._all, completed=completed, note=note)
        if not self._console.is_terminal and time.monotonic() - self._reported > REPORT_SECONDS:
            self._reported = time.monotonic()
            for task in self._progress.tasks:
                self._console.print(_plain(task), soft_wrap=True)


def _text(template: str) -> TextColumn:
    return TextColumn(template, table_column=Column(no_wrap=True))


def _plain(task: Task) -> str:
    minutes = "-" if task.time_remaining is None else f"{task.time_remaining / 60:.0f} min"
    speed = f"{task.speed:.0f}" if task.speed else "-"
    note = f", {task.fields['note']}" if task.fields["note"] else ""
    return f"  {task.description}: {task.completed:,.0f}/{task.total:,.0f}, {speed} steps/s, {minutes} left{note}"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """
    :param arguments: Command line; default: that of this process
    :return: The options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="names of studies (default: all)")
    parser.add_argument("--studies-file", type=Path, default=STUDIES_FILE, help="table of studies")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder of the runs (default: {DEFAULT_OUT})")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="keep the runs that match every pattern: a study, algorithm, environment or seed (sac_v1, 'Reacher*', "
        "seed2) or a whole id ('half_cheetah/sac_v1/*/seed1')",
    )
    parser.add_argument("--jobs", type=int, default=_cores(), help="processes side by side (default: cores)")
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: cpu)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs with their states and commands, and stop")
    args = parser.parse_args(arguments)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {args.jobs}")
    return args


def choose_studies(path: Path, names: list[str]) -> list[Study]:
    """
    :param path: Table of studies
    :param names: Wanted studies; empty for all
    :return: The studies, in the order of the table
    :raises ValueError: If there is no study of a name
    """
    studies = load_studies(path)
    unknown = [name for name in names if name not in studies]
    if unknown:
        raise ValueError(f"no study named {', '.join(unknown)}; {path.name} has {', '.join(studies)}")
    return [study for name, study in studies.items() if not names or name in names]


def check_registered(runs: list[Run]) -> None:
    """Ask the zoo, in a process of its own, whether it knows the algorithms and environments.

    :param runs: What is to be trained
    :raises ValueError: If it does not, with the remedy
    """
    code = "import rl_zoo3.import_envs, gymnasium; from rl_zoo3.utils import ALGOS; print(*ALGOS, *gymnasium.registry)"
    zoo = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if zoo.returncode != 0:
        raise ValueError(f"the RL Zoo cannot be imported; try pip install '.[dev]':\n{zoo.stderr.strip()}")
    known = set(zoo.stdout.split())
    missing = sorted({name for run in runs for name in (run.algo, run.env)} - known)
    if missing:
        raise ValueError(
            f"the RL Zoo does not know {', '.join(missing)}; install the package with pip install '.[dev]'"
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line.

    :param arguments: Command line; default: that of this process
    :return: 0 if all runs are finished, 1 if some failed or could not be run, 130 after an interruption
    """
    args = parse_arguments(arguments)
    console = Console(highlight=False, markup=False)
    try:
        runs = select(merge_runs(choose_studies(args.studies_file, args.studies)), args.only)
        if not runs:
            raise ValueError(f"no run matches --only {' '.join(args.only)}")
        folders = [RunFolder(args.out, run) for run in runs]
        states = {folder: folder.state() for folder in folders}
        if args.dry_run:
            for folder, state in states.items():
                console.print(f"{state.value:22} {', '.join(folder.run.ids)}", soft_wrap=True)
                if state not in (State.FINISHED, State.TRAINED):
                    console.print(f"    {shlex.join(zoo_command(folder.run, args.device))}", soft_wrap=True)
        console.print(", ".join(f"{count} {state.value}" for state, count in Counter(states.values()).items()))
        for folder in (folder for folder, state in states.items() if state is State.CONFLICT):
            console.print(
                f"{folder.root} holds another run: {'; '.join(folder.conflicts())}. Remove the folder, choose another "
                "--out, or give the algorithm another name in the table.",
                soft_wrap=True,
            )
        if args.dry_run:
            return 0
        work = [f for f, state in states.items() if state not in (State.FINISHED, State.RUNNING, State.CONFLICT)]
        complete = all(state is State.FINISHED or folder in work for folder, state in states.items())
        if not work:
            return 0 if complete else 1
        check_registered([folder.run for folder in work])
    except (OSError, ValueError) as error:
        console.print(f"error: {error}", soft_wrap=True)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    scheduler = Scheduler(work, args.jobs, args.device, say=lambda text: console.print(text, soft_wrap=True))
    if not train(scheduler, console):
        console.print("Interrupted. Start again with the same command to go on.")
        return 130
    if scheduler.failed:
        console.print(f"{len(scheduler.failed)} failed: {', '.join(str(f.run.folder) for f in scheduler.failed)}")
    return 1 if scheduler.failed or scheduler.skipped or not complete else 0


def train(scheduler: Scheduler, console: Console) -> bool:
    """Work until everything is done or the user, or the system, asks to stop.

    :param scheduler: The work
    :param console: Where to show progress
    :return: False after an interruption
    """
    stop = threading.Event()
    # A closed terminal and a batch system's signal end the children as Ctrl-C does. The handler only takes note, so
    # that no process can be started and forgotten in between.
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        with Display(scheduler, console) as display:
            unfinished = True
            while unfinished and not stop.is_set():
                unfinished = scheduler.step()
                display.refresh()
                stop.wait(POLL_SECONDS if unfinished else 0.0)
    finally:
        scheduler.interrupt()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return not stop.is_set()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
