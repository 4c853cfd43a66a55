"""Simple Spread of the multi-agent particle environments."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from gymnasium.utils import EzPickle

from .parallel_env import ParallelEnvAdapter
from .render_mode import check_render_mode

# Without mpe2's own "human", whose window draws and waits once for every agent, Gymnasium supplies the window.
_SIMPLE_SPREAD_METADATA = {"render_modes": ["rgb_array"], "render_fps": 10}


class SimpleSpreadEnv(ParallelEnvAdapter, EzPickle):
    """
    Simple Spread of the multi-agent particle environments, registered as ``SimpleSpread-v3``.

    N agents cover N landmarks without running into each other. Each agent observes its velocity, its position, the
    landmarks and the other agents relative to itself, and 2 (N - 1) numbers of a silent channel, always zero: Box of
    shape (N, 6 N), which is (3, 18) by default; mpe2's limits on neighbours shorten it. It pushes itself by the
    differences of two pairs out of five numbers in [0, 1]: Box of shape (N, 5). Its reward is
    ``(1 - local_ratio) * global + local_ratio * local``: global is minus the sum over landmarks of the distance to the
    nearest agent, local minus the number of its collisions. Episodes are truncated after ``max_cycles`` steps.
    With ``continuous_actions=False`` an agent chooses between standing still and one push in each of four directions:
    MultiDiscrete ``[5] * N``.

    A pickled or copied environment starts anew from the same arguments and wants a reset, as the one inside does.

    :param N: Number of agents and of landmarks, at least 1
    :param local_ratio: Share of the local reward, in [0, 1]
    :param max_cycles: Steps of an episode, at least 1
    :param continuous_actions: Whether actions are Box, or MultiDiscrete
    :param render_mode: None or "rgb_array": frames of shape (700, 700, 3), uint8.
        ``gymnasium.make("SimpleSpread-v3", render_mode="human")`` shows the same frames in a window, one a step, where
        the window of mpe2 itself would draw and wait once for every agent.
    :param kwargs: Further arguments of mpe2's ``simple_spread_v3.parallel_env``
    :raises ImportError: If the extra ``multiagent`` is not installed
    :raises TypeError: If an argument has the wrong type or mpe2 does not know it
    :raises ValueError: If an argument is out of its range
    """

    metadata: dict[str, Any] = _SIMPLE_SPREAD_METADATA

    def __init__(
        self,
        N: int = 3,
        local_ratio: float = 0.5,
        max_cycles: int = 25,
        continuous_actions: bool = True,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        _check_count("N", N)
        _check_count("max_cycles", max_cycles)
        if isinstance(local_ratio, bool) or not isinstance(local_ratio, Real):
            raise TypeError(f"local_ratio must be a number in [0, 1], got {local_ratio!r}")
        if not 0 <= local_ratio <= 1:
            raise ValueError(f"local_ratio={local_ratio!r} must be in [0, 1]: it is the share of the local reward")
        check_render_mode(render_mode, self.metadata["render_modes"], "SimpleSpread-v3")
        try:
            from mpe2 import simple_spread_v3
        except ImportError as error:
            raise ImportError(
                "SimpleSpread-v3 needs mpe2 and pettingzoo, which are not installed or do not import: "
                'pip install "sb3-sac-variants[multiagent]"'
            ) from error

        arguments = dict(
            N=N,
            local_ratio=local_ratio,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            **kwargs,
        )
        EzPickle.__init__(self, **arguments)
        super().__init__(simple_spread_v3.parallel_env(**arguments))
        self.metadata = {**self.metadata, **_SIMPLE_SPREAD_METADATA}


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")
