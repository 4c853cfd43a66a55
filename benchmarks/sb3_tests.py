"""
What do Stable-Baselines3's own tests say of SACv2 in place of its SAC?

Runs those of its tests that take SAC, with SACv2 under that name, and prints pytest's report; some minutes. What fails,
and why, is in docs/from_sb3.md. Tests are not part of Stable-Baselines3's package, so pass the folder of a checkout.

    git clone https://github.com/DLR-RM/stable-baselines3
    python benchmarks/sb3_tests.py stable-baselines3/tests
    python benchmarks/sb3_tests.py stable-baselines3/tests -k test_her      # what follows the folder is pytest's
"""

import argparse
import inspect
import re
import sys
from pathlib import Path

import pytest
import stable_baselines3
import stable_baselines3.sac.policies
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_sac_variants import SACv2
from sb3_sac_variants.sac_v2 import MlpPolicy


def takes_sac(item: pytest.Item) -> bool:
    """
    Tell whether a test takes SAC.

    :param item: test
    :return: whether one of its parameters is SAC, or, where none is an algorithm, its name or its code has SAC's
    """
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    algorithms = [value for value in parameters if inspect.isclass(value) and issubclass(value, BaseAlgorithm)]
    if algorithms:
        return SACv2 in algorithms
    if {"a2c", "ppo", "td3"}.intersection(value for value in parameters if isinstance(value, str)):
        return False
    return "sac" in item.name or re.search(r"\bSAC\b", inspect.getsource(item.function)) is not None


# This file is a plugin of pytest, too


def pytest_configure(config: pytest.Config) -> None:
    """Give SACv2 to what imports SAC."""
    stable_baselines3.SAC = SACv2
    stable_baselines3.sac.policies.SACPolicy = MlpPolicy


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests without SAC out."""
    left_out = [item for item in items if not takes_sac(item)]
    items[:] = [item for item in items if takes_sac(item)]
    config.hook.pytest_deselected(items=left_out)


def main() -> int:
    """
    Run the tests.

    :return: pytest's exit status
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path, help="folder of Stable-Baselines3's tests")
    folder, options = parser.parse_known_args()
    folder = folder.tests.resolve()
    if not (folder / "test_save_load.py").is_file():
        parser.error(f"{folder} has no test_save_load.py: pass the folder tests of a checkout of Stable-Baselines3")
    # append: the installed Stable-Baselines3 comes before the checkout's. test_utils.py needs Atari's games.
    arguments = [str(folder), "--import-mode=append", f"--ignore={folder / 'test_utils.py'}"]
    arguments += ["-p", "no:cacheprovider", "-p", Path(__file__).stem]
    print(f"stable-baselines3 {stable_baselines3.__version__}")
    return pytest.main([*arguments, "-q", "--tb=short", "-rfE", *options])


if __name__ == "__main__":
    sys.exit(main())
