"""A small table of learning studies for the tests of `benchmarks/learning`, which this module puts on the path."""

import sys
from pathlib import Path
from typing import Any

import pytest

LEARNING = Path(__file__).parents[1] / "benchmarks" / "learning"
if not LEARNING.is_dir():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)
sys.path.insert(0, str(LEARNING))

from studies import Study, parse_study  # noqa: E402

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
    """
    :param fields: fields to change
    :return: the study ``tiny``
    """
    return parse_study("tiny", {**FIELDS, **fields})
