"""Fixtures of all tests."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """
    :return: a generator that gives each test the same numbers each time
    """
    return np.random.default_rng(0)
