"""The rule of the robustness studies, applied to returns whose answer is known."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "robustness" / "robustness.py"
if not SCRIPT.exists():
    pytest.skip("the benchmarks are not part of this distribution", allow_module_level=True)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def returns(script: dict[str, Any], loss: float, nominal: float = 1000.0) -> pd.DataFrame:
    """Measures of five seeds that lose a part of their return in each of 24 changed worlds."""
    rows = []
    for seed in range(1, 6):
        worlds = {"nominal": nominal, **{f"mass_{number}": nominal * (1 - loss - 0.001 * seed) for number in range(24)}}
        rows += [{"algo": "a", "seed": seed, "world": world, "return_mean": value} for world, value in worlds.items()]
    return script["measures"](pd.DataFrame(rows)).loc["a"]


def test_measures_are_relative_to_the_nominal_world(script: dict[str, Any]) -> None:
    found = returns(script, loss=0.5)
    np.testing.assert_allclose(found["relative"], 0.5 - 0.001 * np.arange(1, 6))
    np.testing.assert_allclose(found["worst"], 1000 * found["relative"])
    np.testing.assert_allclose(found["tenth"], found["worst"])


def test_an_arm_is_more_robust_only_if_its_worst_tenth_is_better_too(script: dict[str, Any]) -> None:
    baseline = returns(script, loss=0.5)
    assert script["verdict"](returns(script, loss=0.2), baseline).endswith(", more robust")
    assert script["verdict"](returns(script, loss=0.8), baseline).endswith(", less robust")
    assert script["verdict"](baseline, baseline).endswith("the data do not tell")
    # It loses a smaller part of less: better training of the baseline, or robustness?
    assert script["verdict"](returns(script, loss=0.2, nominal=100.0), baseline).endswith("the data do not tell")
