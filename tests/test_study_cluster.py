"""Studies on a Ray cluster of several nodes on this machine, and what is sent between them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from studies import wait_for

from sb3_sac_variants.study.cluster import Collector, RayCluster, pack, unpack
from sb3_sac_variants.study.execute import Resources
from sb3_sac_variants.study.run_folder import RunFolder, State
from sb3_sac_variants.study.studies import parse_study

FIELDS: dict[str, Any] = {
    "environments": {"Pendulum-v1": {"learning_starts": 100}},
    "algorithms": {"sac_v2": None},
    "seeds": [1, 2],
    "steps": 1000,
    "eval_freq": 200,
    "eval_episodes": 2,
    "final": {"episodes": 2},
}


def test_a_folder_arrives_as_it_was_sent_and_older_checkpoints_go(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for path, text in [
        ("out.log", "a"),
        ("a_1/checkpoint/checkpoint.json", "{}"),
        ("a_1/checkpoint/version-2/model.zip", "b"),
    ]:
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_text(text)
    (here / "run.json.tmp").write_text("half")
    (here / "run.json").write_text("{}")
    (there / "a_1" / "checkpoint" / "version-1").mkdir(parents=True)
    (there / "a_1" / "checkpoint" / "version-1" / "model.zip").write_text("old")
    (there / "kept").write_text("mine")
    unpack(pack(here), there)
    files = {str(path.relative_to(there)): path.read_text() for path in there.rglob("*") if path.is_file()}
    assert files == {
        "out.log": "a",
        "run.json": "{}",
        "a_1/checkpoint/checkpoint.json": "{}",
        "a_1/checkpoint/version-2/model.zip": "b",
        "kept": "mine",
    }


def test_a_checkpoint_that_is_replaced_while_it_is_packed_arrives_as_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, listings = tmp_path / "here", []

    def write(version: str) -> None:
        (here / "checkpoint" / version).mkdir(parents=True)
        (here / "checkpoint" / version / "model.zip").write_text(version)
        (here / "checkpoint" / "checkpoint.json").write_text(version)

    def rglob(path: Path, pattern: str) -> list[Path]:
        found = list(list_files(path, pattern))
        listings.append(len(found))
        if len(listings) == 1:
            shutil.rmtree(here / "checkpoint" / "version-1")
            write("version-2")
        if len(listings) == 2:
            raise FileNotFoundError("a folder that was listed is gone")
        if len(listings) == 3:
            write("version-3")
        return found

    write("version-1")
    list_files = Path.rglob
    monkeypatch.setattr(Path, "rglob", rglob)
    packed = pack(here)
    unpack(packed, tmp_path / "there")
    current = (tmp_path / "there" / "checkpoint" / "checkpoint.json").read_text()
    assert current == "version-3"
    assert (tmp_path / "there" / "checkpoint" / current / "model.zip").read_text() == current


def test_a_folder_that_is_not_there_is_sent_as_nothing(tmp_path: Path) -> None:
    unpack(pack(tmp_path / "none"), tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_the_drivers_node_holds_a_run_until_its_last_files_have_come(tmp_path: Path) -> None:
    (run,) = parse_study("tiny", {**FIELDS, "seeds": [1]}).runs()
    collector, folder = Collector(tmp_path), RunFolder(tmp_path, run)
    assert collector.fetch(run) == {}
    assert folder.state() is State.RUNNING
    record = {"settings": run.settings()}
    files = {"run.json": json.dumps(record).encode(), "sac_v2/Pendulum-v1_1/checkpoint/checkpoint.json": b"{}"}
    collector.store(run, files)
    assert collector.fetch(run) == files  # for another node, when the first has died
    collector.store(run, {**files, "run.json": json.dumps({**record, "wall_seconds": 3.0}).encode()}, last=True)
    assert folder.record()["wall_seconds"] == 3.0
    assert folder.state() is State.INTERRUPTED
    assert folder.claim()
    assert Collector(tmp_path).fetch(run) is None  # another command has begun it


def test_a_run_whose_node_dies_when_all_has_come_is_finished(tmp_path: Path) -> None:
    (run,) = parse_study("tiny", {**FIELDS, "seeds": [1]}).runs()
    collector, folder = Collector(tmp_path), RunFolder(tmp_path, run)
    assert collector.fetch(run) == {}
    folder.zoo.mkdir(parents=True)
    results = np.zeros((5, 2))
    np.savez(folder.evaluations_file, timesteps=[200, 400, 600, 800, 1000], results=results, ep_lengths=results)
    with zipfile.ZipFile(folder.model, "w") as archive:
        archive.writestr("data", "")
    play = {**run.plays()["final"], "returns": [1.0, 2.0]}
    collector.store(run, {"run.json": json.dumps({"settings": run.settings(), "plays": {"final": play}}).encode()})
    assert collector.fetch(run) is None  # Ray has started the task again
    assert folder.state() is State.FINISHED


def test_a_run_that_cannot_be_read_is_not_held(tmp_path: Path) -> None:
    (run,) = parse_study("tiny", {**FIELDS, "seeds": [1]}).runs()
    collector, folder = Collector(tmp_path), RunFolder(tmp_path, run)
    assert collector.fetch(run) == {}
    folder.root.mkdir(parents=True)
    (folder.root / "run.json").write_text("null")
    with pytest.raises(ValueError, match="is damaged"):
        collector.fetch(run)  # for another node
    assert folder.claim(timeout=0.0)


def test_the_address_of_a_client_outside_the_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ray://head:10001.*--address auto"):
        RayCluster("ray://head:10001", tmp_path, Resources(), gpus=0.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs the extra 'cluster'")
    from ray.cluster_utils import Cluster

    # The nodes start their processes with this environment.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def start(folder: Path, fields: dict[str, Any], *options: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "studies.yml").write_text(yaml.dump({"tiny": fields}))
    command = [sys.executable, "-m", "sb3_sac_variants.study", "run", "studies.yml", "--out", "out", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def report(folder: Path) -> str:
    command = [sys.executable, "-m", "sb3_sac_variants.study", "report", "studies.yml", "--out", "out"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "results" / "tiny.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["sac_v2", "sac"])
def test_runs_of_a_node_that_dies_go_on_at_another_with_the_same_result(
    cluster: Any, tmp_path: Path, algo: str
) -> None:
    fields = {**FIELDS, "algorithms": [algo]}
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    process = start(tmp_path / "cluster", fields, "--address", cluster.address)
    folders = [RunFolder(tmp_path / "cluster" / "out", run) for run in parse_study("tiny", fields).runs()]
    try:
        wait_for(
            lambda: all((evaluated := folder.evaluations()) and len(evaluated["timesteps"]) > 1 for folder in folders),
            seconds=900,
        )
        assert not any(folder.is_trained() for folder in folders)
        cluster.remove_node(nodes[0], allow_graceful=False)
        output, _ = process.communicate(timeout=1800)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "2 of 2 runs finished" in output
    assert sum(folder.record()["resumed"] for folder in folders) == 1
    undisturbed = start(tmp_path / "local", fields, "--jobs", "2")
    output, _ = undisturbed.communicate(timeout=1800)
    assert undisturbed.returncode == 0, output
    assert report(tmp_path / "cluster") == report(tmp_path / "local")


@pytest.mark.slow
def test_an_interruption_ends_runs_that_share_a_gpu_and_loses_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # Ray counts what is visible
    scratch = set(Path(tempfile.gettempdir()).glob("sb3-study-*"))
    # To Ray a GPU is a number; the third run waits for its half of it.
    cluster.add_node(num_cpus=3, num_gpus=1)
    fields = {**FIELDS, "steps": 20_000, "seeds": [1, 2, 3]}
    process = start(tmp_path, fields, "--address", cluster.address, "--gpus", "0.5", "--device", "cpu")
    folders = [RunFolder(tmp_path / "out", run) for run in parse_study("tiny", fields).runs()]
    try:
        wait_for(lambda: sum(folder.checkpoint.exists() for folder in folders) == 2, seconds=900)
        assert len(trainings(folders)) == 2
        for training in trainings(folders):
            assert b"CUDA_VISIBLE_DEVICES=0" in (training / "environ").read_bytes().split(b"\0")
        states = [folder.state() for folder in folders]
        assert Counter(states) == {State.RUNNING: 2, State.TO_DO: 1}
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, output
    wait_for(lambda: not trainings(folders), seconds=900)
    begun = [folder for folder in folders if folder.root.exists()]
    assert [folder.state() for folder in begun] == [State.INTERRUPTED] * 2
    for folder in begun:
        assert folder.record()["wall_seconds"]  # its last words have arrived
        assert json.loads(folder.checkpoint.read_text())
    assert set(Path(tempfile.gettempdir()).glob("sb3-study-*")) <= scratch


@pytest.mark.slow
def test_a_run_that_fails_on_the_cluster_is_reported_as_one_that_fails_here(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    fields = {**FIELDS, "environments": ["CartPole-v1"], "algorithms": ["sac"], "seeds": [1]}
    process = start(tmp_path, fields, "--address", cluster.address)
    output, _ = process.communicate(timeout=600)
    (folder,) = (RunFolder(tmp_path / "out", run) for run in parse_study("tiny", fields).runs())
    assert process.returncode == 1
    assert "FAILED tiny/sac/CartPole-v1/seed1: exit status 1" in output
    assert "Discrete(2) was provided" in output
    assert "Discrete(2) was provided" in folder.log.read_text()
    assert folder.state() is State.FAILED
    assert folder.claim()


def trainings(folders: list[RunFolder]) -> list[Path]:
    """The zoo's processes for these runs."""
    mine = [f"-f\0{folder.run.folder}\0".encode() for folder in folders]

    def command(process: Path) -> bytes:
        try:
            return (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            return b""

    processes = {process: command(process) for process in Path("/proc").glob("[0-9]*")}
    return [process for process, text in processes.items() if b"20000" in text and any(name in text for name in mine)]
