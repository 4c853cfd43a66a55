"""Several workers, on one machine or many, tune one algorithm through a database.

``python -m sb3_sac_variants.study tune`` takes the options of ``python -m rl_zoo3.train -optimize`` and starts it as
a worker. Beside the zoo's own command, workers may start together on an empty database, and the trial of a worker that
has died is failed and tried again by another.
"""

from __future__ import annotations

import argparse
import random
import runpy
import sys
import time
from typing import Any

from sb3_sac_variants.study import optional

ATTEMPTS = 10
RETRIES = 3


def main(arguments: list[str]) -> None:
    """Start a worker.

    :param arguments: Options of the zoo's ``train``, and ``--heartbeat``
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_sac_variants.study tune", description=__doc__)
    parser.add_argument("--heartbeat", type=int, default=60, help="seconds between two signs of life of a trial; it is "
                        "failed and tried again after twice as long without one (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--storage", required=True, help="URL of the database: postgresql+psycopg://user:password@host/name"
    )
    parser.add_argument("--study-name", required=True, help="the same for all workers")
    args, others = parser.parse_known_args(arguments)
    if args.heartbeat < 1:
        parser.error(f"--heartbeat {args.heartbeat} must be at least 1")
    if "://" not in args.storage:
        parser.error(f"--storage {args.storage} must be the URL of a database; files do not notice a dead worker")
    optuna: Any = optional("optuna")
    optuna.create_study = create_study_with(optuna.create_study, args.heartbeat)
    sys.argv = ["train", *others, "-optimize", "--storage", args.storage, "--study-name", args.study_name]
    runpy.run_module("rl_zoo3.train", run_name="__main__", alter_sys=True)


def create_study_with(create_study: Any, heartbeat: int) -> Any:
    """Wrap Optuna's ``create_study``, to which the zoo gives the URL of the database."""
    storages: Any = optional("optuna.storages")
    errors: Any = optional("sqlalchemy.exc")

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
                # A trial that died with the last workers would count as running for ever.
                storages.fail_stale_trials(study)
                return study
            except errors.SQLAlchemyError:
                # Another worker is creating the same tables; a database that is not there fails again at the end.
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.1, 1.0))

    return create
