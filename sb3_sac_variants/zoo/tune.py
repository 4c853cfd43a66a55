"""A worker of the RL Zoo's tuning, one of several on one machine or many that share a database.

Its options are those of ``python -m rl_zoo3.train -optimize`` (``python -m rl_zoo3.train --help`` lists them) and those
below. Beside that command, workers may start together on an empty database, and the trial of a worker that has died is
failed and tried again.
"""

import argparse
import importlib
import random
import runpy
import sys
import time
from typing import Any

#: How often a worker tries to reach the database and to create the study there
ATTEMPTS = 10
#: How often the trial of a worker that has died is tried again
RETRIES = 3


def main() -> None:
    """Start a worker with the options of the zoo's ``train``, and ``--heartbeat``."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_sac_variants.zoo tune", description=(__doc__ or "").replace("``", "'")
    )
    parser.add_argument(
        "--heartbeat",
        type=int,
        default=60,
        help="seconds between two signs of life of a trial; it is failed and tried again after twice as long without "
        "one (default: %(default)s)",
    )
    parser.add_argument("--storage", required=True, help="URL of the database: postgresql+psycopg://user@host/name")
    parser.add_argument("--study-name", required=True, help="the same for all workers")
    args, others = parser.parse_known_args()
    if args.heartbeat < 1:
        parser.error(f"--heartbeat {args.heartbeat} must be at least 1")
    if "://" not in args.storage or args.storage.endswith(".log"):  # the zoo takes that for a journal file
        parser.error(f"--storage {args.storage} must be the URL of a database; files do not notice a dead worker")
    optuna: Any = importlib.import_module("optuna")
    create_study = optuna.create_study
    optuna.create_study = _with_heartbeats(create_study, args.heartbeat)
    sys.argv[1:] = [*others, "-optimize", "--storage", args.storage, "--study-name", args.study_name]
    try:
        runpy.run_module("rl_zoo3.train", run_name="__main__", alter_sys=True)
    finally:
        optuna.create_study = create_study


def _with_heartbeats(create_study: Any, heartbeat: int) -> Any:
    """Wrap Optuna's ``create_study``, to which the zoo gives the URL of the database.

    :param create_study: Optuna's function
    :param heartbeat: Seconds between two signs of life
    """
    storages: Any = importlib.import_module("optuna.storages")
    if not hasattr(storages, "RetryHeartbeatStaleTrialCallback"):
        raise ImportError("tuning with several workers needs Optuna 5: pip install -U 'optuna>=5'")
    # Optuna turns the errors of a session into one of its own.
    database_errors = (
        importlib.import_module("sqlalchemy.exc").SQLAlchemyError,
        importlib.import_module("optuna.exceptions").StorageInternalError,
    )

    def create(*, storage: str, **options: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                database = storages.RDBStorage(
                    storage,
                    heartbeat_interval=heartbeat,
                    grace_period=2 * heartbeat,
                    heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
                )
                study = create_study(storage=database, **options)
                # A trial that died with the last of the workers would count as running for ever.
                storages.fail_stale_trials(study)
                return study
            except database_errors:
                # Another worker is creating the same tables; where no database answers, the last attempt says so.
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.1, 1.0))

    return create


if __name__ == "__main__":
    main()
