"""Fixtures of all tests."""

import collections

import numpy as np
import pytest
import torch as th

HAS_CUDA = th.cuda.is_available()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark as slow all but every n-th case of a test that is marked ``thin(n)``, and skip what needs a CUDA device.

    :param items: tests that were found
    """
    cases: collections.Counter[str] = collections.Counter()
    for item in items:
        if item.get_closest_marker("cuda") and not HAS_CUDA:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        thin = item.get_closest_marker("thin")
        if thin is not None:
            test = item.nodeid.partition("[")[0]
            if cases[test] % thin.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1


@pytest.fixture(autouse=True)
def _cuda_for_its_own_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let ``device="auto"`` be the CPU, also in processes that a test starts, unless the test is marked ``cuda``.

    So the same tests do the same on a machine with a GPU as on one without.
    """
    if not request.node.get_closest_marker("cuda"):
        monkeypatch.setattr(th.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def rng() -> np.random.Generator:
    """
    :return: a generator that gives each test the same numbers each time
    """
    return np.random.default_rng(0)
