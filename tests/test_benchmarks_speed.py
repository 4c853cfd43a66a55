"""The benchmarks of time and memory still run, and say what was measured on what. Their numbers are not looked at."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not part of this distribution"),
]

#: script, smallest run, file that it writes, rows in it
COMMANDS = {
    # With bfloat16 a row more, where the processor has instructions for it
    "speed": ("speed.py --only discrete --rounds 1 --seconds 0.1 --threads 1 --out .", "speed.csv", None),
    "agents": ("speed.py --only 3 --rounds 1 --seconds 0.1 --threads 1 --out .", "speed.csv", 4),
    "rollout": ("rollout.py --steps 20 --rounds 1 --n-envs 1 2 --out table.csv", "table.csv", None),
    "replay": ("replay.py --rounds 1 --out table.csv", "table.csv", None),
    "memory": ("memory.py --only Hopper-v5 --size 300 --threads 1 --out table.csv", "table.csv", 6),
    "startup": ("startup.py --env Pendulum-v1 --steps 120 --threads 1 --out table.csv", "table.csv", 3),
    "sql_sampler": ("sql_sampler.py --densities uniform --steps 3 --seeds 1 --out table.csv", "table.csv", None),
    "gpu": ("gpu.py --device cpu --env Pendulum-v1 --engines cudagraph compile --updates 2 --check-minutes 0.5 "
            "--seconds 0.1 --steps 150 --rounds 1 --out .", "updates.csv", None),
    "seeds": ("seeds.py --device cpu --seeds 1 2 --rounds 1 --seconds 0.1 --out .", "seeds.csv", 6),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_benchmark_writes_its_table(name: str, tmp_path: Path) -> None:
    command, file, count = COMMANDS[name]
    script, *options = command.split()
    code = subprocess.run([sys.executable, str(BENCHMARKS / script), *options], cwd=tmp_path, check=False).returncode
    assert code == (1 if name == "gpu" else 0)  # there are no CUDA graphs on a CPU, which gpu.py has to report
    with (tmp_path / file).open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == count if count is not None else rows
    for row in rows:
        assert row["torch"]
        assert row["python"]
        assert None not in row.values()
    assert str(tmp_path) not in (tmp_path / file).read_text(encoding="utf-8")
