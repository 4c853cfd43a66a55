"""The commands of a study, ``run``, ``status`` and ``report``, as their user starts them.

A stand-in for the zoo writes what the zoo would write, so that nothing is trained.
"""

import contextlib
import csv
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import FIELDS, study, wait_for

from sb3_sac_variants.study import __main__ as commands
from sb3_sac_variants.study import collect as collect_module
from sb3_sac_variants.study import execute
from sb3_sac_variants.study.__main__ import ask_zoo
from sb3_sac_variants.study.collect import collect, read
from sb3_sac_variants.study.run_folder import RunFolder, State
from sb3_sac_variants.study.studies import parse_study

CHECKOUT = Path(__file__).parents[1]
# Write the files that the zoo and the final evaluation would write; the parameter `act` makes it hang, fail or stop.
FAKE_TRAIN = """
import argparse, json, pathlib, signal, sys, time, zipfile
import numpy
parser = argparse.ArgumentParser()
for name in ("--algo", "--env", "--device", "-f", "--tensorboard-log"): parser.add_argument(name)
for name in ("-n", "--seed", "--eval-freq", "--eval-episodes", "--num-threads", "--verbose"):
    parser.add_argument(name, type=int)
parser.add_argument("-params", nargs="+", default=[])
args = parser.parse_args()
params = {text.partition(":")[0]: eval(text.partition(":")[2]) for text in args.params}
zoo = pathlib.Path(args.f, args.algo, args.env + "_1")
zoo.mkdir(parents=True)
def evaluate(steps):
    results = numpy.full((len(steps), args.eval_episodes), float(args.seed))
    numpy.savez(zoo / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)
evaluate([args.eval_freq])
for entry in params.get("callback", []):
    for callback in entry.values():
        folder = zoo / "checkpoint"
        folder.mkdir()
        (folder / "checkpoint.json").write_text(json.dumps(vars(args)))
if params.get("act") == "fail": sys.exit("no luck with " + args.env)
if params.get("act") == "hang":
    if args.env == "Reacher-v5": signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("hanging", flush=True)
    time.sleep(600)
if params.get("act") != "stop": evaluate(list(range(args.eval_freq, args.n + 1, args.eval_freq)))
with zipfile.ZipFile(zoo / (args.env + ".zip"), "w") as archive: archive.writestr("data", "")
(zoo / args.env).mkdir()
(zoo / args.env / "vecnormalize.pkl").touch()
"""
# Goes on from the checkpoint: the rest of the evaluations, and the model
FAKE_RESUME = """
import json, pathlib, sys, zipfile
import numpy
zoo = pathlib.Path(sys.argv[1])
args = json.loads((zoo / "checkpoint" / "checkpoint.json").read_text())
steps = list(range(args["eval_freq"], args["n"] + 1, args["eval_freq"]))
results = numpy.full((len(steps), args["eval_episodes"]), float(args["seed"]))
numpy.savez(zoo / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)
with zipfile.ZipFile(zoo / (args["env"] + ".zip"), "w") as archive: archive.writestr("data", "")
print("resumed")
"""
# The package without what it imports first, torch and Stable-Baselines3: studies need neither
LEAN = f"""
import sys, types
sys.modules["sb3_sac_variants"] = package = types.ModuleType("sb3_sac_variants")
package.__path__ = [{str(CHECKOUT / "sb3_sac_variants")!r}]
"""
FAKE_EVALUATE = f"""{LEAN}
import pathlib, sys, yaml
from sb3_sac_variants.study.run_folder import RunFolder
from sb3_sac_variants.study.studies import Run
folder = RunFolder(pathlib.Path(), Run.model_validate(yaml.safe_load(sys.argv[1])))
plays = folder.missing_plays()
made = {{name: {{**play, "returns": [-float(folder.run.seed)] * play["episodes"]}} for name, play in plays.items()}}
folder.write_record(plays=folder.record().get("plays", {{}}) | made)
"""
HARNESS = f"""{LEAN}
import sys
from sb3_sac_variants.study import __main__, execute
folder = sys.argv.pop(1)
execute.RESUME_COMMAND, execute.EVALUATE_COMMAND = ["", folder + "/resume.py"], ["", folder + "/evaluate.py"]
execute.TERMINATION_SECONDS = 1.0
__main__.ask_zoo = lambda runs: frozenset(["sac_v2"])
sys.exit(__main__.main())
"""


class Zoo:
    """The commands with the stand-in, in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.capsys = capsys
        package = folder / "fake" / "rl_zoo3"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "train.py").write_text(FAKE_TRAIN)
        (folder / "resume.py").write_text(FAKE_RESUME)
        (folder / "evaluate.py").write_text(FAKE_EVALUATE)
        self.declare()

    def declare(self, **fields: Any) -> None:
        self.study = study(**fields)
        (self.folder / "studies.yml").write_text(yaml.dump({"tiny": {**FIELDS, **fields}}, sort_keys=False))

    def options(self) -> list[str]:
        return [str(self.folder / "studies.yml"), "--out", str(self.out)]

    def run(self, *arguments: str) -> tuple[int, str]:
        code = commands.main(["run", *self.options(), "--jobs", "2", *arguments])
        return code, self.capsys.readouterr().out

    def status(self) -> str:
        assert commands.main(["status", *self.options()]) == 0
        return self.capsys.readouterr().out

    def report(self, *arguments: str) -> tuple[int, str]:
        code = commands.main(["report", *self.options(), *arguments])
        return code, self.capsys.readouterr().out

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HARNESS, str(self.folder), "run", *self.options(), "--jobs", "2", *arguments]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(CHECKOUT)])}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def folders(self) -> list[RunFolder]:
        return [RunFolder(self.out, run) for run in self.study.runs()]

    def states(self) -> list[State]:
        return [folder.state() for folder in self.folders()]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zoo:
    zoo = Zoo(tmp_path, capsys)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "fake"), str(CHECKOUT)]))
    monkeypatch.setenv("SB3_SAC_VARIANTS_NO_ZOO", "1")
    monkeypatch.setattr(execute, "RESUME_COMMAND", ["", str(tmp_path / "resume.py")])
    monkeypatch.setattr(execute, "EVALUATE_COMMAND", ["", str(tmp_path / "evaluate.py")])
    monkeypatch.setattr(execute, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(commands, "ask_zoo", lambda runs: frozenset(["sac_v2"]))
    return zoo


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_runs_are_skipped_and_reported(zoo: Zoo) -> None:
    code, output = zoo.run()
    assert code == 0, output
    assert "finished tiny/sac/Pendulum-v1/seed2: final return -2.0 +- 0.0" in output
    assert set(zoo.states()) == {State.FINISHED}
    before = {path: path.stat().st_mtime_ns for path in zoo.out.rglob("*.zip")}
    code, output = zoo.run()
    assert code == 0
    assert "8 of 8 runs finished" in output
    assert before == {path: path.stat().st_mtime_ns for path in zoo.out.rglob("*.zip")}

    results, missing = collect(zoo.study, zoo.out, read("tiny", zoo.folder))
    assert missing == []
    assert len(results["curves"]) == 8 * 2
    row = results["summary"].set_index("seed").loc["2"].iloc[0]
    assert list(row[["final_return_mean", "final_episodes", "threads", "device"]]) == ["-2", "4", "1", "cpu"]
    assert row["python"]
    assert float(row["wall_seconds"]) >= 0
    assert not results["summary"].map(lambda value: str(zoo.folder) in value).any(axis=None)


def test_interrupted_runs_go_on_from_their_checkpoints_or_start_again(zoo: Zoo) -> None:
    zoo.declare(environments=["Pendulum-v1"], params={"act": "hang"}, seeds=[1])
    process = zoo.start()
    folders = zoo.folders()
    try:
        wait_for(lambda: all(folder.log.exists() and "hanging" in folder.log_tail() for folder in folders))
        assert zoo.states() == [State.RUNNING] * 2
        # Another command leaves alone what the first one holds.
        code, output = zoo.run()
        assert code == 1
        assert "2 running" in output
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Start again with the same command" in output
    assert zoo.states() == [State.INTERRUPTED] * 2
    assert zoo.status().count("‖") == 3  # one for each run, one in the legend

    shutil.copytree(zoo.out, zoo.folder / "before")
    (zoo.folder / "fake" / "rl_zoo3" / "train.py").write_text(FAKE_TRAIN.replace("time.sleep(600)", ""))
    code, output = zoo.run()
    assert code == 0, output
    assert zoo.states() == [State.FINISHED] * 2
    # The stand-in for SB3's SAC saves no checkpoints: it starts again, and nothing of the first attempt is lost.
    before = zoo.folder / "before" / "tiny" / "sac" / "Pendulum-v1"
    aside = folders[0].root.with_name("seed1-interrupted-1")
    assert contents(aside) == contents(before / "seed1")
    assert not folders[1].root.with_name("seed1-interrupted-1").exists()
    assert "resumed" in folders[1].log.read_text()


def commands_running() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(file.read_text(errors="replace"))
    return found


def test_time_of_an_attempt_that_was_killed_counts(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "NOTE_SECONDS", 0.5)
    zoo.declare(environments=["Pendulum-v1"], params={"act": "hang"}, algorithms=["sac_v2"], baseline=None, seeds=[1])
    resources = execute.Resources(threads=2, resumable=frozenset(["sac_v2"]))

    class PowerCut(BaseException):
        """Nothing is written after it."""

    deadline = time.monotonic() + 60

    def cut() -> None:
        assert time.monotonic() < deadline, "waited for too long"
        if first.checkpoint.exists() and first.record().get("wall_seconds", 0.0) >= 0.5:
            first.write_record = lambda **fields: None  # type: ignore[method-assign]
            raise PowerCut

    first, again = zoo.folders()[0], zoo.folders()[0]
    assert execute.prepare(first)
    with pytest.raises(PowerCut):
        execute.execute(first, resources, cut)
    first.lock.release()
    before = again.record()["wall_seconds"]
    assert before >= 0.5
    assert execute.prepare(again)
    execute.execute(again, execute.Resources("cuda", threads=4), lambda: None)
    again.lock.release()
    assert again.record()["wall_seconds"] > before
    # It went on with what it had begun with.
    assert [again.record()[key] for key in ("device", "threads", "resumed")] == ["cpu", 2, True]


@pytest.mark.slow
def test_runs_do_not_outlive_a_study_that_is_killed(zoo: Zoo) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux ends a process with its parent")
    zoo.declare(algorithms={"sac": {"params": {"act": "hang"}}}, baseline=None, seeds=[1])
    process = zoo.start()
    folders = zoo.folders()
    wait_for(lambda: all(folder.log.exists() and "hanging" in folder.log_tail() for folder in folders))
    process.kill()
    process.communicate()
    assert zoo.states() == [State.INTERRUPTED] * 2
    wait_for(lambda: not any(str(folder.run.folder) in command for folder in folders for command in commands_running()))


def test_failures_are_reported_with_the_end_of_their_log(zoo: Zoo) -> None:
    zoo.declare(algorithms={"sac": {"params": {"act": "fail"}}}, seeds=[1])
    code, output = zoo.run()
    assert code == 1
    assert "    no luck with Pendulum-v1" in output
    assert "FAILED tiny/sac/Reacher-v5/seed1: exit status 1" in output
    assert zoo.states() == [State.FAILED] * 2
    zoo.run()
    assert zoo.folders()[0].root.with_name("seed1-failed-1").is_dir()


def test_a_training_that_is_stopped_early_says_where(zoo: Zoo) -> None:
    zoo.declare(algorithms={"sac": {"params": {"act": "stop"}}}, environments=["Pendulum-v1"], seeds=[1])
    code, output = zoo.run()
    assert code == 1
    assert "training ended without an error after 200 of 400 steps: remove the callback that ends it, or" in output
    assert zoo.states() == [State.FAILED]


def test_a_gpu_that_is_not_there_is_refused(zoo: Zoo) -> None:
    """Stable-Baselines3 would take the CPU in its place, and the results would name the GPU."""
    zoo.declare(environments=["Pendulum-v1"], params={"act": "fail"}, algorithms=["sac_v2"], baseline=None, seeds=[1])
    message = "device='cuda:0': PyTorch finds no GPU on this machine; "
    assert zoo.run("--device", "cuda:0") == (2, f"error: {message}take --device cpu, or use another one\n")
    assert not zoo.out.exists()
    zoo.run()
    (folder,) = zoo.folders()
    folder.write_record(device="cuda:0")  # with which it goes on from its checkpoint
    assert f"{message}remove {folder.root} to start it anew" in zoo.run()[1]


def test_a_run_with_other_settings_is_neither_used_nor_overwritten(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac"], seeds=[1])
    zoo.run()
    before = contents(zoo.out)
    zoo.declare(algorithms=["sac"], seeds=[1], eval_episodes=7, params={"gamma": 0.9})
    code, output = zoo.run()
    assert code == 1
    assert contents(zoo.out) == before
    assert "eval_episodes is 3, wanted 7" in output
    assert "params is {}, wanted {'gamma': 0.9}" in output
    missing = collect(zoo.study, zoo.out, read("tiny", zoo.folder))[1]
    assert [entry.split(": ")[1] for entry in missing] == ["other settings"] * 2


def test_results_of_other_settings_are_not_reported(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac"], seeds=[1])
    zoo.run()
    assert zoo.report()[0] == 0
    for fields, line in [
        ({"params": {"gamma": 0.9}}, "missing tiny/sac/Pendulum-v1/seed1: other settings"),
        ({"final": {"episodes": 9}}, "kept for tiny/sac/Pendulum-v1/seed1 (trained, not evaluated): 4 episodes and"),
    ]:
        zoo.declare(algorithms=["sac"], seeds=[1], **fields)
        code, output = zoo.report("--check")
        assert code == 1
        assert line in output
        zoo.declare(algorithms=["sac"], seeds=[1])
        assert zoo.report()[0] == 0


def test_more_final_episodes_and_tests_need_no_new_training(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac"], seeds=[1])
    zoo.run()
    final = {"episodes": 6, "deterministic": False}
    tests = {"episodes": 2, "actions": ["mean", "sampled"], "worlds": {"heavy": {"env_kwargs": {"g": 12.0}}}}
    zoo.declare(algorithms=["sac"], seeds=[1, 2], final=final, tests=tests)
    assert zoo.states() == [State.TRAINED] * 2 + [State.TO_DO] * 2
    models = list(zoo.out.rglob("*.zip"))
    assert zoo.run("--only", "seed1")[0] == 0
    assert list(zoo.out.rglob("*.zip")) == models
    assert zoo.states() == [State.FINISHED] * 2 + [State.TO_DO] * 2
    returns = zoo.folders()[0].returns("final")
    assert returns is not None
    assert len(returns) == 6
    assert zoo.report()[0] == 0
    with open(zoo.folder / "results" / "tiny_tests.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["world"], row["actions"], row["return_mean"]) for row in rows[:2]] == [
        ("heavy", "mean", "-1"),
        ("heavy", "sampled", "-1"),
    ]


def test_dry_run_and_wrong_names_start_nothing(zoo: Zoo) -> None:
    code, output = zoo.run("--dry-run", "--only", "cold", "seed2")
    assert code == 0
    assert "python -m rl_zoo3.train --algo sac_v2 --env Reacher-v5 -n 400 -params ent_coef:0.1 'callback:[{" in output
    assert zoo.run("--only", "td3") == (2, "error: no run matches --only td3\n")
    file = str(zoo.folder / "studies.yml")
    assert commands.main(["run", file, "pendulum"]) == 2
    assert zoo.capsys.readouterr().out == "error: no study named pendulum; studies.yml has tiny\n"
    assert commands.main(["status", str(zoo.folder / "no.yml")]) == 2
    assert "no.yml" in zoo.capsys.readouterr().out
    assert not zoo.out.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminal of this system hangs up")
@pytest.mark.parametrize(("ignored", "ended"), [(False, True), (True, False)], ids=["terminal", "nohup"])
def test_a_study_outlives_its_terminal_under_nohup(zoo: Zoo, ignored: bool, ended: bool) -> None:
    zoo.declare(environments=["Pendulum-v1"], algorithms={"sac": {"params": {"act": "hang"}}}, baseline=None, seeds=[1])
    folder = zoo.folders()[0]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        process = zoo.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        wait_for(lambda: folder.log.exists() and "hanging" in folder.log_tail())
        process.send_signal(signal.SIGHUP)
        if ended:
            assert process.wait(60) == 130
        else:
            time.sleep(2.0)
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_command_takes_up_what_another_one_has_not_begun(zoo: Zoo) -> None:
    zoo.declare(algorithms={"sac": {"params": {"act": "hang"}}, "cold": {"algo": "sac_v2"}}, baseline=None, seeds=[1])
    process = zoo.start("--only", "sac")  # both of its jobs hang
    try:
        hanging = [folder for folder in zoo.folders() if folder.run.name == "sac"]
        wait_for(lambda: all(folder.log.exists() and "hanging" in folder.log_tail() for folder in hanging))
        assert zoo.states().count(State.TO_DO) == 2
        code, output = zoo.run()
        assert code == 1
        assert "2 of 4 runs finished, 2 running" in output
        assert [folder.log.exists() for folder in zoo.folders()] == [True] * 4
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert "0 of 2 runs finished" in output


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "studies.yml"
    file.write_text(yaml.safe_dump({"mine": FIELDS}), encoding="utf-8")
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "sb3_sac_variants.study", "status", str(file), "--out", str(tmp_path)]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert done.returncode == 1
    assert "Error" not in done.stderr


@pytest.mark.slow
def test_unknown_names_are_told_with_the_key_and_those_that_are_meant() -> None:
    misspelt = study(algorithms=["sac_v3"], baseline=None).runs()
    with pytest.raises(
        ValueError, match=r"study 'tiny': algorithms='sac_v3' is unknown to the RL Zoo; did you mean sac"
    ):
        ask_zoo(misspelt)


def test_an_algorithm_that_the_zoo_has_not_been_told_of_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(importlib.import_module("rl_zoo3.utils").ALGOS, "sac_v2")
    with pytest.raises(ValueError, match=r"'sac_v2' is unknown .* unset SB3_SAC_VARIANTS_NO_ZOO, or .*troubleshooting"):
        ask_zoo(study(algorithms=["sac_v2"], baseline=None).runs())


def test_a_report_leaves_out_what_no_run_has(zoo: Zoo) -> None:
    zoo.run("--only", "sac", "Reacher-v5")
    zoo.run("--only", "cold", "Pendulum-v1")
    code, output = zoo.report()
    assert code == 0
    assert "4 of 8 runs" in output
    assert (zoo.folder / "figures" / "tiny.png").exists()


def test_a_report_names_what_is_not_finite_or_not_logged(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "read_scalars", lambda folder: {"a/b": {50: 1.0}})
    zoo.declare(scalars=["a/b", "never/logged"], algorithms=["sac_v2"], baseline=None)
    zoo.run()
    folder = zoo.folders()[0]
    plays = folder.record()["plays"]
    plays["final"]["returns"][1] = float("nan")
    folder.write_record(plays=plays)
    code, output = zoo.report()
    assert code == 0
    assert "3 of 4 runs" in output
    assert f"SHORT missing {folder.run.folder}: some of its returns are not finite" in output
    assert "SHORT missing scalars 'never/logged': no run has logged it" in output
    assert "missing scalars 'a/b'" not in output


def test_a_report_names_seeds_that_were_trained_with_other_hyperparameters(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac_v2"], environments=["Pendulum-v1", "Reacher-v5"], seeds=[1, 2, 3], baseline=None)
    zoo.run()
    note = "!!python/object/apply:collections.OrderedDict\n- - - tau\n    - {}\n  - - callback\n    - [{}]\n"
    for folder in zoo.folders():
        tau = 0.01 if (folder.run.env, folder.run.seed) == ("Pendulum-v1", 2) else 0.005
        file = folder.zoo / folder.run.env / "config.yml"
        file.write_text(note.format(tau, f"own.Callback{folder.run.seed}"))
    code, output = zoo.report("--check")
    assert code == 1
    assert "SHORT mixed tiny/sac_v2 on Pendulum-v1: seeds [1, 3] and [2] have other hyperparameters" in output
    assert "on Reacher-v5: seeds" not in output


def test_tests_that_stored_results_lack_are_named_and_old_ones_removed(zoo: Zoo) -> None:
    one = {"algorithms": ["sac"], "environments": ["Pendulum-v1"], "seeds": [1], "baseline": None}
    worlds = {"worlds": {"windy": {}}, "episodes": 2}
    zoo.declare(**one, tests=worlds)
    zoo.run()
    assert zoo.report("--check")[0] == 0
    tests = zoo.folder / "results" / "tiny_tests.csv"
    assert tests.exists()
    zoo.declare(**one)
    assert zoo.report("--check")[0] == 0
    assert not tests.exists()
    shutil.rmtree(zoo.out)
    assert "kept" not in zoo.report()[1]
    zoo.declare(**one, tests=worlds)
    assert "SHORT kept for tiny/sac/Pendulum-v1/seed1 (to do): 4 episodes and 0 tests after" in zoo.report()[1]


def test_stored_results_outlive_a_run_that_is_begun_anew(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac"], environments=["Pendulum-v1"], seeds=[1, 2])
    zoo.run()
    zoo.report()
    written = contents(zoo.folder / "results")
    for folder, fields in zip(zoo.folders(), ({}, {"failed": True}), strict=True):
        shutil.rmtree(folder.root)
        folder.root.mkdir()
        folder.write_record(settings=folder.run.settings(), **fields)
    assert zoo.states() == [State.INTERRUPTED, State.FAILED]
    code, output = zoo.report("--check")
    assert code == 1
    for seed, words in ((1, "interrupted"), (2, "failed")):
        assert f"SHORT kept for tiny/sac/Pendulum-v1/seed{seed} ({words}): 4 episodes and 0 tests after" in output
    held = zoo.folders()[0]
    assert held.claim()
    assert "seed1 (running): 4 episodes" in zoo.report()[1]
    assert contents(zoo.folder / "results") == written


def test_a_relative_python_path_counts_from_where_the_command_was_given(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(zoo.folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "fake", str(CHECKOUT)]))
    assert zoo.run("--only", "sac", "--only", "Pendulum-v1", "seed1")[0] == 0
    assert zoo.states().count(State.FINISHED) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "-1"], "--jobs -1"),
        (["--threads", "0"], "--threads 0"),
        (["--gpus", "0.5"], "pass --address"),
        (["--gpus", "-1"], "--gpus -1"),
        (["--device", "cuda:1", "--address", "auto"], "--device cuda:1 needs --gpus with --address"),
    ],
)
def test_wrong_options_are_refused(zoo: Zoo, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        zoo.run(*arguments)
    assert message in zoo.capsys.readouterr().err


@pytest.mark.parametrize("option", ["--results", "--figures", "--out"])
def test_a_file_in_the_place_of_a_folder_is_refused(zoo: Zoo, option: str) -> None:
    (zoo.folder / "file").touch()
    code, output = zoo.report(option, str(zoo.folder / "file"))
    assert code == 2
    assert f"error: {option} {zoo.folder / 'file'} is a file: pass a folder" in output


def test_stored_results_that_somebody_has_changed_are_refused(zoo: Zoo) -> None:
    zoo.run("--only", "sac", "Pendulum-v1", "seed1")
    zoo.report()
    results = zoo.folder / "results"
    for name, change, message in [
        ("tiny_summary.csv", lambda text: text.replace("device", "machine"), "tiny_summary.csv lacks columns or has"),
        ("tiny_summary.csv", lambda text: text + text.splitlines()[1] + "\n", "tiny_summary.csv lacks columns or has"),
        ("tiny.csv", lambda text: text.splitlines()[0] + "\n", "tiny.csv lacks .*Pendulum-v1.*: put back what"),
    ]:
        file = results / name
        written = file.read_text()
        file.write_text(change(written))
        code, output = zoo.report()
        assert code == 2
        assert re.search(message, output)
        file.write_text(written)
    assert zoo.report()[0] == 0


def test_one_damaged_run_does_not_hide_the_others(zoo: Zoo) -> None:
    zoo.run("--only", "sac", "Pendulum-v1")
    (zoo.folders()[0].root / "run.json").write_text("{")
    assert commands.main(["status", *zoo.options()]) == 2
    output = zoo.capsys.readouterr().out
    assert "✗✓" in output
    assert "run.json is damaged" in output


def test_a_study_of_sixty_runs_has_a_line_for_each_algorithm_and_environment(zoo: Zoo) -> None:
    zoo.declare(seeds=list(range(1, 16)))
    zoo.run("--only", "sac", "Pendulum-v1", "seed[1-3]")
    lines = zoo.status().splitlines()
    assert len(lines) < 10
    assert "✓✓✓············" in lines[1]
    assert "20 %" in lines[1]
    assert "3 of 60 runs finished, 5 % of the steps" in lines[-1]


@pytest.mark.slow
def test_report_writes_small_files_and_keeps_results_of_runs_that_are_gone(zoo: Zoo) -> None:
    zoo.run()
    code, output = zoo.report("--check")
    assert code == 0, output
    assert "8 of 8 runs" in output
    assert "-1.50 ± 0.71 | -1.50 [-2.00, -1.00] | yes (2 of 2 seeds)" in output
    results = zoo.folder / "results"
    with open(results / "tiny.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "study": "tiny", "algo": "sac", "env": "Pendulum-v1", "seed": "1", "step": "200",
        "return_mean": "1", "return_std": "0",
    }  # fmt: skip
    figure = zoo.folder / "figures" / "tiny.png"
    picture, written = figure.read_bytes(), {path: path.read_bytes() for path in results.iterdir()}
    for folder in zoo.folders()[:3]:
        folder.root.rename(folder.root.with_name("gone" + folder.root.name))
    assert zoo.report("--check")[0] == 0
    assert written == {path: path.read_bytes() for path in results.iterdir()}
    # The figure follows from the CSV files alone.
    figure.unlink()
    for folder in zoo.folders()[3:]:
        folder.root.rename(folder.root.with_name("gone" + folder.root.name))
    assert zoo.report("--check")[0] == 0
    assert figure.read_bytes() == picture
    # Results of other settings are kept, and named.
    zoo.declare(algorithms=["sac"], params={"gamma": 0.9})
    code, output = zoo.report("--check")
    assert code == 1
    assert (
        "SHORT kept for tiny/sac/Pendulum-v1/seed1 (to do): 4 episodes and 0 tests after python -m rl_zoo3.train --algo"
        in output
    )
    zoo.declare()
    shutil.rmtree(results)
    code, output = zoo.report("--check")
    assert code == 1
    assert "SHORT missing tiny/sac/Pendulum-v1/seed1: to do" in output


@pytest.mark.slow
def test_the_zoo_itself_trains_and_normalised_models_are_evaluated_as_trained(tmp_path: Path) -> None:
    fields = FIELDS | {"environments": ["Pendulum-v1"], "algorithms": ["sac"], "seeds": [1]}
    fields |= {"params": {"normalize": True}, "scalars": ["train/ent_coef"]}
    (tmp_path / "studies.yml").write_text(yaml.dump({"tiny": fields}))
    places = [str(tmp_path / "studies.yml"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "sb3_sac_variants.study", "run", *places]
    assert subprocess.run(command, check=False).returncode == 0
    (training,) = parse_study("tiny", fields).runs()
    folder = RunFolder(tmp_path / "out", training)
    assert "Loading running average" in folder.log.read_text()
    returns = folder.returns("final")
    assert returns is not None
    # Pendulum's own rewards, not normalised ones
    assert -2000 < returns.mean() < -100
    results, _ = collect(parse_study("tiny", fields), tmp_path / "out", read("tiny", tmp_path))
    assert list(results["scalars"]["step"]) == ["200", "400"]
    assert results["summary"]["command"][0].endswith(
        "--tensorboard-log tiny/sac/Pendulum-v1/seed1/tensorboard -f tiny/sac/Pendulum-v1/seed1"
    )


@pytest.mark.slow
def test_independent_agents_are_reported_in_steps_of_their_environment(tmp_path: Path) -> None:
    pytest.importorskip("mpe2", reason="needs the extra 'multiagent'")
    wrapper = {"vec_env_wrapper": "sb3_sac_variants.envs.IndependentAgents", "learning_starts": 300}
    fields = FIELDS | {"environments": ["SimpleSpread-v3"], "seeds": [1], "params": wrapper, "baseline": None}
    fields |= {"algorithms": {"split": {"algo": "sac_v2", "agents": 3}}, "scalars": ["train/entropy"]}
    (tmp_path / "studies.yml").write_text(yaml.dump({"tiny": fields}))
    places = [str(tmp_path / "studies.yml"), "--out", str(tmp_path / "out")]
    assert subprocess.run([sys.executable, "-m", "sb3_sac_variants.study", "run", *places], check=False).returncode == 0
    results, _ = collect(parse_study("tiny", fields), tmp_path / "out", read("tiny", tmp_path))
    assert list(results["curves"]["step"]) == ["200", "400"]
    assert list(results["scalars"]["step"]) == ["200", "400"]
    assert results["summary"]["final_episodes"][0] == "4"
    assert float(results["curves"]["return_std"][0]) > 0  # episodes, not one of them thrice


@pytest.mark.slow
def test_classes_of_the_user_are_resumed_and_evaluated(tmp_path: Path) -> None:
    (tmp_path / "of_the_user.py").write_text(
        "import gymnasium\nfrom sb3_sac_variants.sac_v2.policies import SACv2Policy\n"
        "class Policy(SACv2Policy): pass\nclass Wrapper(gymnasium.Wrapper): pass\n"
        "pendulum = 'gymnasium.envs.classic_control:PendulumEnv'\n"
        "gymnasium.register('OfTheUser-v0', pendulum, max_episode_steps=200)\n"
    )
    params = {"policy": "of_the_user.Policy", "env_wrapper": [{"of_the_user.Wrapper": {}}], "engine": "eager"}
    fields = FIELDS | {"environments": ["OfTheUser-v0"], "seeds": [1], "params": params, "baseline": None}
    fields |= {"algorithms": ["sac_v2"], "steps": 1000, "gym_packages": ["of_the_user"]}
    (tmp_path / "studies.yml").write_text(yaml.dump({"tiny": fields}))
    command = [sys.executable, "-m", "sb3_sac_variants.study", "run", str(tmp_path / "studies.yml")]
    command += ["--out", str(tmp_path / "out")]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    (run,) = parse_study("tiny", fields).runs()
    folder = RunFolder(tmp_path / "out", run)
    process = subprocess.Popen(command, env=environment)
    wait_for(folder.checkpoint.exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert folder.state() is State.INTERRUPTED
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert folder.record()["resumed"]
    assert folder.state() is State.FINISHED
