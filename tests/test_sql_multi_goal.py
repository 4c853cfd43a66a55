"""The multi-goal task of the 2017 paper, through its example: four goals that are equally good."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "multi_goal.py"
if not EXAMPLE.exists():
    pytest.skip("the examples are not part of this distribution", allow_module_level=True)


def test_example_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "figure.png"
    options = ["--timesteps", "505", "--episodes", "1", "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *options])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    *_, sql, mixture, saved = capsys.readouterr().out.splitlines()
    for line in (sql, mixture):
        counts = line[24:].split()
        assert len(counts) == 5
        assert sum(map(int, counts)) == 1
    assert str(figure) in saved
    assert figure.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sql_reaches_all_four_goals(seed):
    """A share of a quarter each would be exact; a sampler that has lost a mode never goes to one of them."""
    example = runpy.run_path(str(EXAMPLE))
    model = example["make_sql"](seed).learn(4000)
    _, reached = example["play"](model, 100)
    assert np.all(reached >= 8), reached
    assert reached.sum() >= 90
