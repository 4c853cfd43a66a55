"""A small file of studies for the tests of `sb3_sac_variants.study`."""

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
