"""Stable-Baselines3's own tests, with SACv2 in SAC's place: which are run, and with what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "sb3_tests.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not part of this distribution")

TESTS = """
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.sac.policies import SACPolicy

@pytest.mark.parametrize("model_class", [PPO, SAC])
def test_class(model_class):
    assert model_class.__name__ == "SACv2"

@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_name(name):
    assert name == "sac" and SACPolicy.__module__.startswith("sb3_sac_variants")

def test_code():
    SAC("MlpPolicy", "no such environment")

def test_of_others():
    raise AssertionError(PPO)
"""


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), str(folder), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.thin(2)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_only_tests_that_take_sac_are_run(workers: str, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "tests" / "test_save_load.py").write_text(TESTS, encoding="utf-8")
    done = run(tmp_path / "tests", "-n", workers)
    assert done.returncode == 1, done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert "test_save_load.py::test_code" in done.stdout


def test_another_folder_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "pass the folder tests of a checkout of Stable-Baselines3" in done.stderr
