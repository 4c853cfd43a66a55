"""Train, look at and report the studies of a file.

``run`` trains what is not finished, through the RL Zoo's own command; started again, it takes up every run where it
was, and Ctrl-C ends everything that was started. ``status`` shows how far the runs are. ``report`` makes CSV files,
tables and figures.
"""

import argparse
import difflib
import importlib
import os
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.metadata import entry_points
from pathlib import Path

try:
    from rich.console import Console
    from rich.live import Live

    from sb3_sac_variants.study.cluster import RayCluster
    from sb3_sac_variants.study.execute import Local, Resources
    from sb3_sac_variants.study.progress import Progress
    from sb3_sac_variants.study.run_folder import RunFolder, State
    from sb3_sac_variants.study.studies import Run, load_studies, select
except ModuleNotFoundError as error:
    sys.exit(f'a study needs {error.name}, which is not installed: pip install "sb3-sac-variants[study]"')

#: Without a terminal, progress is printed this often.
REPORT_SECONDS = 60.0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_sac_variants.study", description=(__doc__ or "").replace("``", "'")
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("run", help="train and evaluate what is not finished")
    status = commands.add_parser("status", help="show how far the runs are")
    report = commands.add_parser("report", help="write CSV files, tables and figures of the finished runs")
    for command in (train, status, report):
        command.add_argument("file", type=Path, help="file of studies (YAML)")
        command.add_argument("studies", nargs="*", help="names of studies (default: all of the file)")
        command.add_argument("--out", type=Path, default=Path("runs", "study"), help="folder of the runs (%(default)s)")
    for command in (train, status):
        command.add_argument(
            "--only", nargs="+", action="extend", default=[], metavar="PATTERN",
            help="keep the runs that match every pattern: a study, algorithm, environment or seed (sac_v1, 'Reacher*', "
            "seed2) or a whole folder ('half_cheetah/sac_v1/*/seed1')",
        )  # fmt: skip
    train.add_argument("--jobs", type=int, help="runs side by side on this machine (default: cores / --threads)")
    train.add_argument("--threads", type=int, default=1, help="threads of each run, and its cores on Ray (%(default)s)")
    train.add_argument("--device", help="PyTorch device (default: cpu, with --gpus cuda)")
    train.add_argument("--address", help="Ray cluster that takes the runs, such as auto; this machine must be in it")
    train.add_argument("--gpus", type=float, default=0.0, help="GPUs of each run on Ray, or a fraction of one")
    train.add_argument("--dry-run", action="store_true", help="list the runs with their states and commands, and stop")
    report.add_argument("--results", type=Path, help="folder of CSV files and tables (default: results, beside FILE)")
    report.add_argument("--figures", type=Path, help="folder of figures (default: figures, beside FILE)")
    report.add_argument("--check", action="store_true", help="end with status 1 if a result falls short")
    args = parser.parse_args(arguments)
    if args.command == "run":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if args.jobs is None:
            args.jobs = max(1, cores // max(args.threads, 1))
        for name, least in {"jobs": 1, "threads": 1, "gpus": 0}.items():
            if getattr(args, name) < least:
                parser.error(f"--{name} {getattr(args, name):g} must be at least {least}")
        if args.gpus and not args.address:
            parser.error("--gpus is for Ray; pass --address, or --device cuda --jobs N to share this machine's GPU")
        args.device = args.device or ("cuda" if args.gpus else "cpu")
        if args.device.startswith("cuda") and args.address and not args.gpus:
            parser.error(f"--device {args.device} needs --gpus with --address: Ray hides GPUs from what asks for none")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 1 if something failed, is missing or falls short, 2 for a wrong argument, 130 if interrupted."""
    args = parse_arguments(arguments)
    try:
        for option in ("out", "results", "figures"):
            if (path := getattr(args, option, None)) and path.exists() and not path.is_dir():
                raise ValueError(f"--{option} {path} is a file: pass a folder")
        studies = load_studies(args.file, args.studies)
        args.out = args.out.resolve()
        if args.command == "report":
            from sb3_sac_variants.study.report import report

            places = [getattr(args, kind) or args.file.parent / kind for kind in ("results", "figures")]
            short = [line for study in studies for line in report(study, args.out, *places)]
            for line in short:
                print(f"SHORT {line}")
            return 1 if args.check and short else 0
        runs = select(studies, args.only)
        if not runs:
            raise ValueError(f"no run matches --only {' '.join(args.only)}")
        folders = {folder: folder.state() for folder in (RunFolder(args.out, run) for run in runs)}
        if args.command == "status":
            Console().print(Progress(folders))
            for folder in (folder for folder, state in folders.items() if state is State.FAILED):
                folder.record()  # a damaged one is named
            return 0
        return train(folders, args)
    except ModuleNotFoundError as error:
        extra = "cluster" if error.name == "ray" else "study"
        print(f'error: this needs {error.name}, which is not installed: pip install "sb3-sac-variants[{extra}]"')
    except (OSError, ValueError) as error:
        print(f"error: {error}")
    return 2


def train(folders: dict[RunFolder, State], args: argparse.Namespace) -> int:
    """Work on the runs that are not finished, and print what becomes of each."""
    done = (State.FINISHED, State.RUNNING, State.CONFLICT)
    work = [folder for folder, state in folders.items() if state not in done]
    remedy = "Remove the folder, choose another --out, or give the study or algorithm another name in the file."
    for folder in (folder for folder, state in folders.items() if state is State.CONFLICT):
        print(f"{folder.root} holds another run: {'; '.join(folder.conflicts())}. {remedy}")
    resources = Resources(args.device, args.threads, ask_zoo([folder.run for folder in work]) if work else frozenset())
    if args.dry_run:
        for folder, state in folders.items():
            print(f"{state.words:22} {folder.run.folder}")
            if folder in work and state is not State.TRAINED:
                print(f"    {shlex.join(resources.command(folder.run))}")
        return 0
    stop = threading.Event()
    cluster = (args.address, args.out, resources, args.gpus)
    backend = RayCluster(*cluster) if args.address else Local(args.jobs, resources)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # A closed terminal and a batch system's signal end the runs as Ctrl-C does, unless nohup has the first ignored.
        # (A script's background jobs ignore SIGINT, by which they are ended all the same.)
        number = getattr(signal, name, None)
        if number and (name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN):
            signal.signal(number, lambda *_: stop.set())
    try:
        finished = follow(folders, {backend.submit(folder): folder for folder in work}, stop)
    finally:
        backend.close()
    if stop.is_set():
        print("Interrupted. Start again with the same command to go on.")
        return 130
    return 0 if finished else 1


def follow(folders: dict[RunFolder, State], futures: dict[Future[None], RunFolder], stop: threading.Event) -> bool:
    """Show progress until all runs are over or the user asks to stop, and say whether all are finished."""
    console, progress, printed = Console(highlight=False, markup=False), Progress(folders), time.monotonic()
    with Live(progress, console=console, refresh_per_second=1, auto_refresh=console.is_terminal):
        while futures and not stop.is_set():
            over, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in over:
                folder, error = futures.pop(future), future.exception()
                progress.update(folder, State.FAILED if error else folder.state())
                if error is not None:
                    reason = getattr(error, "cause", error)  # without the trace through Ray
                    console.print(f"FAILED {folder.run.folder}: {reason}", soft_wrap=True)
                elif (returns := folder.returns("final")) is not None:
                    mean = f"{returns.mean():.1f} +- {returns.std():.1f}"
                    console.print(f"finished {folder.run.folder}: final return {mean}", soft_wrap=True)
            progress.refresh()
            if not console.is_terminal and time.monotonic() - printed > REPORT_SECONDS:
                console.print(progress.line(), soft_wrap=True)
                printed = time.monotonic()
    print(end="" if console.is_terminal else "\n")
    return all(state is State.FINISHED for state in progress.states.values())


def ask_zoo(runs: list[Run]) -> frozenset[str]:
    """Ask the zoo which algorithms save checkpoints; refuse names that it does not know."""
    import gymnasium
    import rl_zoo3.import_envs  # noqa: F401
    from rl_zoo3.utils import ALGOS
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    for module in dict.fromkeys(module for run in runs for module in run.gym_packages):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"gym_packages={module!r}: {error}; install it, or put its folder on PYTHONPATH"
            ) from error
    for run in runs:
        for key, name, known in (("algorithms", run.algo, ALGOS), ("environments", run.env, gymnasium.registry)):
            if name not in known:
                close = " or ".join(difflib.get_close_matches(name, known))
                remedy = f"did you mean {close}?" if close else "install the package that brings it, or mend the name"
                if name in entry_points(group="rl_zoo3.algorithms").names:
                    remedy = "its package is installed, but the start-up hook has not told the zoo: unset "
                    remedy += "SB3_SAC_VARIANTS_NO_ZOO, or see 'The zoo says invalid choice' in docs/troubleshooting.md"
                if key == "environments":
                    remedy += " (gym_packages names modules that register your own)"
                raise ValueError(f"study {run.study!r}: {key}={name!r} is unknown to the RL Zoo; {remedy}")
    return frozenset(name for name, algo in ALGOS.items() if issubclass(algo, OffPolicyAlgorithm | OnPolicyAlgorithm))


if __name__ == "__main__":
    try:
        exit_status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on, as with head; the interpreter still wants to write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_status = 1
    except KeyboardInterrupt:  # before the first run begins
        exit_status = 130
    sys.exit(exit_status)
