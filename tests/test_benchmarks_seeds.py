"""Several seeds updated together get what each would get by itself."""

import functools
import sys
from pathlib import Path

import pytest
import torch as th

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not part of this distribution")


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("cls", "kind"), [(SACv2, "box"), (SACv1, "box"), (SACv2, "discrete"), (SQL, "discrete"), (MASAC, "agents")]
)
def test_each_seed_equals_its_single_run(cls: type, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "harness", raising=False)
    import seeds
    from harness import RandomAgents, RandomEnv

    environments = {"box": RandomEnv, "discrete": functools.partial(RandomEnv, action_dim=0), "agents": RandomAgents}
    monkeypatch.setattr(seeds, "RandomEnv", environments[kind])
    before = th.get_default_dtype()
    th.set_default_dtype(th.float64)  # Adam's first steps are as long for a gradient that is rounding as for any other
    try:
        assert seeds.difference_to_single_runs(cls, seeds=3, device="cpu", updates=3) < 1e-6
    finally:
        th.set_default_dtype(before)
