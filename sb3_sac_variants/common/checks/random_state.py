"""The state of the random number generators a run draws from."""

import random
from typing import Any

import numpy as np
import torch as th

RandomState = dict[str, Any]


def torch_random_state(device: th.device) -> RandomState:
    """State of torch's generators that a model on ``device`` draws from."""
    state: RandomState = {"torch": th.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = th.cuda.get_rng_state(device)
    return state


def random_state(device: th.device) -> RandomState:
    """State of all global generators that a model on ``device`` draws from: Python's, NumPy's, torch's."""
    numpy_state = np.random.get_state()  # noqa: NPY002 - SB3 draws from NumPy's global generator
    return {"python": random.getstate(), "numpy": numpy_state, **torch_random_state(device)}


def set_random_state(state: RandomState, device: th.device) -> None:
    """
    Set the state of all global generators.

    :param state: what :func:`random_state` gave
    :param device: where the model lives now
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    th.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        th.cuda.set_rng_state(state["cuda"], device)
