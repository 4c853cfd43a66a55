"""What tests of `sb3_sac_variants.study` and of tuning share: a small file of studies, and waiting for processes."""

import time
from collections.abc import Callable
from typing import Any

from sb3_sac_variants.study.studies import Study, parse_study

FIELDS: dict[str, Any] = {
    "environments": {"Pendulum-v1": {"learning_starts": 100}, "Reacher-v5": None},
    "algorithms": {"sac": None, "cold": {"algo": "sac_v2", "label": "alpha = 0.1", "params": {"ent_coef": 0.1}}},
    "seeds": [1, 2],
    "steps": 400,
    "eval_freq": 200,
    "eval_episodes": 3,
    "final": {"episodes": 4, "threshold": -5},
    "baseline": "sac",
}


def study(**fields: Any) -> Study:
    """The study ``tiny``, with some fields changed."""
    return parse_study("tiny", {**FIELDS, **fields})


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until something that other processes do is done."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.1)
