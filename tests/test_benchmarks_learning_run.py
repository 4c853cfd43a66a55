"""The commands of the learning studies, `run.py` and `report.py`, as their user starts them.

A stand-in for the zoo writes what the zoo would write, so that nothing is trained.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from learning_studies import FIELDS, LEARNING, study

# isort: split
import report
import run
import scheduler
import stochastic
from collect import collect
from run_folder import RunFolder, State
from studies import parse_study
from table import markdown, summarise

# Write the files that the zoo and the final evaluation would write; the parameter `act` makes training hang or fail.
FAKE_TRAIN = """
import argparse, pathlib, signal, sys, time, zipfile
import numpy, yaml
parser = argparse.ArgumentParser()
for name in ("--algo", "--env", "--device", "-f"): parser.add_argument(name)
for name in ("-n", "--seed", "--eval-freq", "--eval-episodes", "--num-threads", "--verbose"):
    parser.add_argument(name, type=int)
parser.add_argument("-params", nargs="+", default=[])
args = parser.parse_args()
params = {text.partition(":")[0]: eval(text.partition(":")[2]) for text in args.params}
zoo = pathlib.Path(args.f, args.algo, args.env + "_1")
(zoo / args.env).mkdir(parents=True)
saved = dict(algo=args.algo, env=args.env, seed=args.seed, n_timesteps=args.n, eval_freq=args.eval_freq,
             eval_episodes=args.eval_episodes, hyperparams=params or None, device=args.device, num_threads=1,
             tensorboard_log="")
(zoo / args.env / "args.yml").write_text(yaml.dump(saved))
def evaluate(steps):
    results = numpy.full((len(steps), args.eval_episodes), float(args.seed))
    numpy.savez(zoo / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)
evaluate([args.eval_freq])
if params.get("act") == "fail": sys.exit("no luck with " + args.env)
if params.get("act") == "hang":
    if args.env == "Reacher-v5": signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("hanging", flush=True)
    time.sleep(60)
evaluate(list(range(args.eval_freq, args.n + 1, args.eval_freq)))
with zipfile.ZipFile(zoo / (args.env + ".zip"), "w") as archive: archive.writestr("data", "")
"""
FAKE_FINAL = """
import json, pathlib, sys
folder, episodes = pathlib.Path(sys.argv[1]), int(sys.argv[sys.argv.index("--episodes") + 1])
seed = int(folder.name.removeprefix("seed"))
result = {"deterministic": "--stochastic" not in sys.argv, "returns": [-float(seed)] * episodes}
(folder / "final_evaluation.json").write_text(json.dumps(result))
"""
HARNESS = """
import sys
import run, scheduler
scheduler.FINAL_SCRIPT = sys.argv.pop(1)
scheduler.TERMINATION_SECONDS = 1.0
run.check_registered = lambda runs: None
sys.exit(run.main())
"""


class Zoo:
    """The harness with the stand-in, in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.capsys = capsys
        package = folder / "fake" / "rl_zoo3"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "train.py").write_text(FAKE_TRAIN)
        self.final_script = folder / "final.py"
        self.final_script.write_text(FAKE_FINAL)
        self.declare()

    def declare(self, **fields: Any) -> None:
        self.study = study(**fields)
        (self.folder / "studies.yml").write_text(yaml.dump({"tiny": {**FIELDS, **fields}}, sort_keys=False))

    def options(self) -> list[str]:
        return ["--studies-file", str(self.folder / "studies.yml"), "--out", str(self.out)]

    def run(self, *arguments: str) -> tuple[int, str]:
        code = run.main([*arguments, "--jobs", "2", *self.options()])
        return code, self.capsys.readouterr().out

    def report(self, *arguments: str) -> tuple[int, str]:
        places = ["--results", str(self.folder / "results"), "--figures", str(self.folder / "figures")]
        code = report.main([*arguments, *places, *self.options()])
        return code, self.capsys.readouterr().out

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HARNESS, str(self.final_script), "--jobs", "2", *self.options()]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(LEARNING)])}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def folders(self) -> list[RunFolder]:
        return [RunFolder(self.out, run) for run in self.study.runs()]

    def states(self) -> set[State]:
        return {folder.state() for folder in self.folders()}


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zoo:
    zoo = Zoo(tmp_path, capsys)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("SB3_SAC_VARIANTS_NO_ZOO", "1")
    monkeypatch.setattr(scheduler, "FINAL_SCRIPT", zoo.final_script)
    monkeypatch.setattr(run, "check_registered", lambda runs: None)
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    return zoo


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.02)


def test_finished_runs_are_skipped_and_reported(zoo: Zoo) -> None:
    code, output = zoo.run()
    assert code == 0, output
    assert zoo.states() == {State.FINISHED}
    before = {path: path.stat().st_mtime_ns for path in zoo.out.rglob("*.zip")}
    code, output = zoo.run()
    assert (code, output.strip()) == (0, "8 finished")
    assert before == {path: path.stat().st_mtime_ns for path in zoo.out.rglob("*.zip")}

    collection = collect(zoo.study, zoo.out)
    assert collection.missing == []
    assert len(collection.curves) == 8 * 2
    row = next(row for row in collection.summary if row["seed"] == 2)
    assert (row["final_return_mean"], row["final_episodes"], row["threads"], row["device"]) == ("-2", 4, 1, "cpu")
    assert row["python"]
    assert row["wall_seconds"] >= 0
    assert not any(str(zoo.folder) in str(value) for row in collection.summary for value in row.values())

    lines = summarise(zoo.study, collection.summary)
    assert [line.label for line in lines] == ["sac", "alpha = 0.1"] * 2
    assert all(line.reaches and line.returns.tolist() == [-1.0, -2.0] for line in lines)
    assert "-1.50 ± 0.71 | -1.50 [-2.00, -1.00] | yes (2 of 2 seeds)" in markdown(zoo.study, lines)


def test_interrupted_runs_are_marked_and_run_again(zoo: Zoo) -> None:
    zoo.declare(algorithms={"sac": {"params": {"act": "hang"}}})
    process = zoo.start()
    folders = zoo.folders()
    try:
        wait_for(lambda: all(folder.log.exists() and "hanging" in folder.log_tail() for folder in folders[:2]))
        assert [folder.state() for folder in folders] == [State.RUNNING] * 2 + [State.TO_DO] * 2
        # A second harness leaves alone what the first one holds.
        assert "2 running elsewhere, 2 to do" in zoo.run("--dry-run")[1]
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "interrupted sac/Pendulum-v1/seed1" in output
    assert [folder.state() for folder in folders] == [State.INTERRUPTED] * 2 + [State.TO_DO] * 2
    assert folders[0].record()["state"] == "interrupted"
    # The lock would still be held if a child had survived.
    assert not any(folder.is_locked() for folder in folders)

    zoo.declare(algorithms=["sac"])
    code, output = zoo.run()
    assert code == 0, output
    assert zoo.states() == {State.FINISHED}
    assert folders[0].root.with_name("seed1-interrupted-1").is_dir()


def test_runs_that_outlive_their_harness_are_left_alone(zoo: Zoo) -> None:
    zoo.declare(algorithms={"sac": {"params": {"act": "hang"}}}, seeds=[1])
    process = zoo.start()
    folders = zoo.folders()
    try:
        wait_for(lambda: all(folder.log.exists() and "hanging" in folder.log_tail() for folder in folders))
        process.kill()
        process.communicate()
        assert zoo.states() == {State.RUNNING}
        assert zoo.run() == (1, "2 running elsewhere\n")
    finally:
        for folder in folders:
            os.killpg(folder.record()["pid"], signal.SIGKILL)
    wait_for(lambda: zoo.states() == {State.INTERRUPTED})


def test_failures_are_reported_with_the_end_of_their_log(zoo: Zoo) -> None:
    zoo.declare(algorithms={"sac": {"params": {"act": "fail"}}}, seeds=[1])
    code, output = zoo.run()
    assert code == 1
    assert "    no luck with Pendulum-v1" in output
    assert "2 failed: " in output
    assert zoo.states() == {State.FAILED}
    zoo.run()
    assert zoo.folders()[0].root.with_name("seed1-failed-1").is_dir()


def test_a_run_with_other_settings_is_neither_used_nor_overwritten(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac"], seeds=[1])
    zoo.run()
    zoo.declare(algorithms=["sac"], seeds=[1], eval_episodes=7, params={"gamma": 0.9})
    code, output = zoo.run()
    assert code == 1
    assert "eval_episodes is 3, wanted 7" in output
    assert "hyperparams is" in output
    assert [entry.split(": ")[1] for entry in collect(zoo.study, zoo.out).missing] == ["other settings"] * 2


def test_more_final_episodes_need_no_new_training(zoo: Zoo) -> None:
    zoo.declare(algorithms=["sac"], seeds=[1])
    zoo.run()
    zoo.declare(algorithms=["sac"], seeds=[1], final={"episodes": 6, "deterministic": False})
    assert zoo.states() == {State.TRAINED}
    code, output = zoo.run()
    assert code == 0
    assert "training" not in output
    returns = zoo.folders()[0].final_returns()
    assert returns is not None
    assert len(returns) == 6


def test_dry_run_and_wrong_names_start_nothing(zoo: Zoo) -> None:
    code, output = zoo.run("--dry-run", "--only", "cold", "seed2")
    assert code == 0
    assert "python -m rl_zoo3.train --algo sac_v2 --env Reacher-v5 -n 400 -params ent_coef:0.1 --seed 2" in output
    assert zoo.run("--only", "td3") == (2, "error: no run matches --only td3\n")
    assert zoo.run("pendulum") == (2, "error: no study named pendulum; studies.yml has tiny\n")
    assert not zoo.out.exists()


def test_report_writes_small_files_and_keeps_the_larger_results(zoo: Zoo) -> None:
    zoo.run()
    code, output = zoo.report("--check")
    assert code == 0, output
    assert "8 of 8 runs" in output
    with open(zoo.folder / "results" / "tiny.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "study": "tiny", "algo": "sac", "env": "Pendulum-v1", "seed": "1", "step": "200",
        "return_mean": "1", "return_std": "0",
    }  # fmt: skip
    figure = (zoo.folder / "figures" / "tiny.png").read_bytes()
    for folder in zoo.folders()[:3]:
        folder.root.rename(folder.root.with_name("gone" + folder.root.name))
    code, output = zoo.report()
    assert code == 2
    assert "--replace" in output
    rows_before = (zoo.folder / "results" / "tiny.csv").read_bytes()
    assert zoo.report("--add", "--check")[0] == 0
    assert (zoo.folder / "results" / "tiny.csv").read_bytes() == rows_before
    # The figure follows from the CSV files alone.
    (zoo.folder / "figures" / "tiny.png").unlink()
    assert zoo.report("--redraw", "--check")[0] == 0
    assert (zoo.folder / "figures" / "tiny.png").read_bytes() == figure
    code, output = zoo.report("--replace", "--check")
    assert code == 1
    assert "SHORT tiny: missing tiny/sac/Pendulum-v1/seed1: to do" in output


def test_models_are_evaluated_with_and_without_noise(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate_run(
        folder: Path, algo: str, env: str, episodes: int, seed: int, deterministic: bool, device: str
    ) -> tuple[list[float], list[int]]:
        assert folder in {zoo.out / training.folder for training in zoo.study.runs()}
        assert (env, episodes, seed, device) == ("Pendulum-v1", 2, 7, "cpu")
        return ([-1.0, -2.0] if deterministic else [-3.0, -5.0]), [200, 200]

    zoo.declare(environments=["Pendulum-v1"], algorithms=["sac"])
    zoo.run()
    results = zoo.folder / "results"
    results.mkdir()
    monkeypatch.setattr(stochastic, "evaluate_run", evaluate_run)
    monkeypatch.setattr(stochastic, "load_studies", lambda: {"tiny": zoo.study})
    places = ["--out", str(zoo.out), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["stochastic.py", "tiny", *places, "--episodes", "2", "--seed", "7"])
    stochastic.main()
    with (results / "tiny_stochastic.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["deterministic"], row["stochastic"]) for row in rows] == [
        ("1", "-1.5", "-4.0"),
        ("2", "-1.5", "-4.0"),
    ]
    assert rows[0]["command"] == "python benchmarks/learning/stochastic.py tiny"
    # Nothing trained: an error, and no empty table in place of the old one
    places[1] = str(zoo.folder / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["stochastic.py", "tiny", *places])
    with pytest.raises(SystemExit):
        stochastic.main()
    assert "no finished run of tiny" in zoo.capsys.readouterr().err
    assert len((results / "tiny_stochastic.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.slow
def test_the_zoo_itself_trains_and_normalised_models_are_evaluated_as_trained(tmp_path: Path) -> None:
    fields = FIELDS | {"environments": ["Pendulum-v1"], "algorithms": ["sac"], "seeds": [1]}
    fields |= {"params": {"normalize": True}, "scalars": ["train/ent_coef"]}
    (tmp_path / "studies.yml").write_text(yaml.dump({"tiny": fields}))
    places = ["--studies-file", str(tmp_path / "studies.yml"), "--out", str(tmp_path / "out")]
    command = [sys.executable, str(LEARNING / "run.py"), *places]
    assert subprocess.run(command, check=False).returncode == 0
    (training,) = parse_study("tiny", fields).runs()
    folder = RunFolder(tmp_path / "out", training)
    assert "Loading running average" in folder.log.read_text()
    returns = folder.final_returns()
    assert returns is not None
    # Pendulum's own rewards, not normalised ones
    assert -2000 < returns.mean() < -100
    collection = collect(parse_study("tiny", fields), tmp_path / "out")
    assert [row["step"] for row in collection.scalars] == [200, 400]
    assert collection.summary[0]["command"].endswith(
        "--tensorboard-log sac/Pendulum-v1/seed1/tensorboard -f sac/Pendulum-v1/seed1"
    )


@pytest.mark.slow
def test_independent_agents_are_reported_in_steps_of_their_environment(tmp_path: Path) -> None:
    pytest.importorskip("mpe2", reason="needs the extra 'multiagent'")
    wrapper = {"vec_env_wrapper": "sb3_sac_variants.envs.IndependentAgents", "learning_starts": 300}
    fields = FIELDS | {"environments": ["SimpleSpread-v3"], "seeds": [1], "params": wrapper, "baseline": None}
    fields |= {"algorithms": {"split": {"algo": "sac_v2", "agents": 3}}, "scalars": ["train/entropy"]}
    (tmp_path / "studies.yml").write_text(yaml.dump({"tiny": fields}))
    places = ["--studies-file", str(tmp_path / "studies.yml"), "--out", str(tmp_path / "out")]
    assert subprocess.run([sys.executable, str(LEARNING / "run.py"), *places], check=False).returncode == 0
    collection = collect(parse_study("tiny", fields), tmp_path / "out")
    assert [row["step"] for row in collection.curves] == [200, 400]
    assert [row["step"] for row in collection.scalars] == [200, 400]
    assert collection.summary[0]["final_episodes"] == 4
    assert float(collection.curves[0]["return_std"]) > 0  # episodes, not one of them thrice
