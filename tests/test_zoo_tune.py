"""Tuning by several workers through a PostgreSQL server."""

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import wait_for

from sb3_sac_variants.zoo import tune

WORKERS, TRIALS, HEARTBEAT = 4, 20, 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "logs/study.log", "--study-name", "a"], "logs/study.log must be the URL of a database"),
        (["--storage", "sqlite:///study.log", "--study-name", "a"], "study.log must be the URL of a database"),
        (["--storage", "sqlite:///a.db", "--study-name", "a", "--heartbeat", "0"], "--heartbeat 0"),
        (["--storage", "sqlite:///a.db"], "--study-name"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune", *arguments])
    with pytest.raises(SystemExit):
        tune.main()
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("failures", [2, tune.ATTEMPTS])
def test_errors_of_the_database_are_tried_again(failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna turns those in its sessions into an error of its own."""
    optuna: Any = pytest.importorskip("optuna", minversion="5", reason="needs the extra 'cluster'")
    from sqlalchemy.exc import OperationalError

    errors = [OperationalError("", None, Exception()), optuna.exceptions.StorageInternalError()] * failures
    attempts: list[Any] = []

    def create_study(**options: Any) -> Any:
        attempts.append(options)
        if len(attempts) <= failures:
            raise errors[len(attempts)]
        return optuna.create_study(**options)

    monkeypatch.setattr(tune.time, "sleep", lambda seconds: None)
    create = tune._with_heartbeats(create_study, HEARTBEAT)
    options = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "study_name": "tuning"}
    if failures == tune.ATTEMPTS:
        with pytest.raises(type(errors[failures])):
            create(**options)
        assert len(attempts) == tune.ATTEMPTS
    else:
        assert create(**options).study_name == "tuning"


def find_server() -> Path | None:
    """Folder of initdb and postgres; Debian keeps them out of the search path."""
    folders = [Path(path).parent for path in [shutil.which("initdb")] if path]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@pytest.fixture
def storage() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="needs the extra 'cluster'")
    programs = find_server()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    # The server refuses to run as root.
    user = "nobody" if os.getuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp())
    account = pwd.getpwnam(user)
    if os.getuid() == 0:
        os.chown(folder, account.pw_uid, account.pw_gid)
    switch: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid} if os.getuid() == 0 else {}
    initialise = [programs / "initdb", "--pgdata", folder / "data", "--auth", "trust", "--username", "tuner"]
    subprocess.run(initialise, check=True, capture_output=True, cwd=folder, **switch)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [programs / "postgres", "-D", folder / "data", "-p", f"{port}", "-k", folder, "-h", "127.0.0.1"]
    server = subprocess.Popen(serve, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **switch)
    try:
        wait_for(lambda: answers(port), seconds=900)
        yield f"postgresql+psycopg://tuner@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        shutil.rmtree(folder)


def answers(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"host=127.0.0.1 port={port} user=tuner dbname=postgres").close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.slow
def test_four_workers_started_together_lose_no_trial_and_retry_that_of_a_worker_that_dies(
    storage: str, tmp_path: Path
) -> None:
    import optuna
    from optuna.trial import TrialState

    command = [sys.executable, "-m", "sb3_sac_variants.zoo", "tune", "--algo", "sac_v2", "--env", "Pendulum-v1"]
    command += ["-n", "250", "--n-evaluations", "1", "--eval-episodes", "1", "--num-threads", "1", "--device", "cpu"]
    command += ["--storage", storage, "--study-name", "tuning", "--heartbeat", f"{HEARTBEAT}", "--no-optim-plots"]
    command += [
        "--max-total-trials",
        f"{TRIALS}",
        "--n-startup-trials",
        "5",
        "--sampler",
        "random",
        "-f",
        str(tmp_path),
    ]
    command += ["-params", "learning_starts:100"]
    logs = [tmp_path / f"worker{number}.log" for number in range(WORKERS)]
    workers = [subprocess.Popen(["sh", "-c", 'exec "$@" > "$0" 2>&1', log, *command]) for log in logs]

    def trials() -> list[optuna.trial.FrozenTrial]:
        try:
            return optuna.load_study(study_name="tuning", storage=storage).trials
        except Exception:  # before the tables are complete
            return []

    def all_are_in_a_trial() -> bool:
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        if len([trial for trial in trials() if trial.state is TrialState.RUNNING]) == WORKERS:
            return True
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        return False

    try:
        wait_for(lambda: len(trials()) >= WORKERS, seconds=900)
        wait_for(all_are_in_a_trial, seconds=900)
        workers[0].kill()
        for worker in workers[1:]:
            worker.send_signal(signal.SIGCONT)
        codes = [worker.wait(1800) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    texts = [log.read_text() for log in logs]
    assert codes == [-signal.SIGKILL, 0, 0, 0], texts
    states = [trial.state for trial in trials()]
    assert TRIALS <= states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) < TRIALS + WORKERS
    assert states.count(TrialState.RUNNING) == 0
    (failed,) = (trial for trial in trials() if trial.state is TrialState.FAIL)
    (retried,) = (trial for trial in trials() if trial.system_attrs.get("failed_trial") == failed.number)
    assert retried.state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert failed.params.items() <= retried.params.items()
    # None double: apart from the retry, all drew parameters of their own.
    drawn = [tuple(sorted(trial.params.items())) for trial in trials() if trial.number != failed.number]
    assert len(set(drawn)) == len(drawn)
