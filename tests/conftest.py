"""Fixtures of all tests."""

import collections

import numpy as np
import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark as slow all but every n-th case of a test that is marked ``thin(n)``.

    :param items: tests that were found
    """
    cases: collections.Counter[str] = collections.Counter()
    for item in items:
        thin = item.get_closest_marker("thin")
        if thin is not None:
            test = item.nodeid.partition("[")[0]
            if cases[test] % thin.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


@pytest.fixture
def rng() -> np.random.Generator:
    """
    :return: a generator that gives each test the same numbers each time
    """
    return np.random.default_rng(0)
