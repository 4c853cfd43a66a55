"""The multi-goal point mass of soft Q-learning (Haarnoja et al. 2017, section 5.1 and figure 1)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .render_mode import check_render_mode

_METADATA = {"render_modes": ["rgb_array"], "render_fps": 10}
_RED, _BLUE, _ORANGE = (200, 40, 40), (40, 80, 180), (250, 190, 120)
# The walls' corners in units of the position limit, once around.
_WALLS = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1), (-1, -1)])


class MultiGoalEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """
    A point in the plane that may go to any of four goals.

    Its optimal maximum entropy policy is multi-modal: from the centre all four goals are equally good, so the policy
    should reach each of them, where a deterministic or unimodal one commits to a single goal.

    - State and observation: position, Box of shape (2,), float32, within ``[-7, 7]``; the walls stop the point.
    - Action: velocity, Box of shape (2,), float32, within ``[-1, 1]``; faster ones are clipped, the point can do no
      more. One step lasts one unit of time: ``position' = clip(position + action)``.
    - Goals: ``(5, 0), (-5, 0), (0, 5), (0, -5)``.
    - Reward: ``-action_cost * |action|^2 - distance_cost * d^2``, with d the distance from the new position to the
      nearest goal, plus ``goal_reward`` if ``d < goal_radius``.
    - Terminated when ``d < goal_radius``. The class itself never truncates; registered as ``MultiGoal-v0`` its
      episodes last at most 30 steps.
    - Start: normal around the centre, of standard deviation ``init_std``; ``reset(options={"position": (x, y)})``
      starts elsewhere.
    - Info: ``is_success`` (bool, a goal was reached) and ``goal`` (int, index of the nearest goal).

    The paper calls the reward a mixture of Gaussians around the goals; the authors' published environment uses the
    squared distance to the nearest one. Dynamics, reward and default constants here are those of the published
    environment. The authors' soft actor-critic experiment has ``action_cost=1, distance_cost=0.1, goal_reward=1``.

    :param goal_reward: Reward for reaching a goal, at least 0
    :param action_cost: Weight of the squared speed, at least 0
    :param distance_cost: Weight of the squared distance to the nearest goal, at least 0
    :param goal_radius: Distance below which a goal counts as reached, above 0
    :param init_std: Standard deviation of each coordinate of the start, at least 0
    :param render_mode: None or "rgb_array": frames of shape (480, 480, 3), uint8, drawn by NumPy alone.
        ``gymnasium.make("MultiGoal-v0", render_mode="human")`` shows the same frames in a window.
    :raises TypeError: If a number is of another type
    :raises ValueError: If a number is out of its range, or ``render_mode`` unknown
    """

    metadata: dict[str, Any] = _METADATA

    #: Positions of the goals, shape (4, 2), read-only.
    goals: ClassVar[NDArray[np.float32]] = np.array([[5, 0], [-5, 0], [0, 5], [0, -5]], dtype=np.float32)
    goals.flags.writeable = False

    _POSITION_LIMIT = 7.0
    _SPEED_LIMIT = 1.0
    _FRAME_SIZE = 480
    # Half the width of the pictured square: a margin around the walls, so that a point at the border is seen whole.
    _VIEW = 7.7
    _PIXELS_PER_UNIT = _FRAME_SIZE / (2 * _VIEW)

    def __init__(
        self,
        goal_reward: float = 10.0,
        action_cost: float = 30.0,
        distance_cost: float = 1.0,
        goal_radius: float = 1.0,
        init_std: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        self.goal_reward = _checked_number("goal_reward", goal_reward)
        self.action_cost = _checked_number("action_cost", action_cost)
        self.distance_cost = _checked_number("distance_cost", distance_cost)
        self.goal_radius = _checked_number("goal_radius", goal_radius)
        if self.goal_radius == 0:
            raise ValueError("goal_radius=0 would make the goals unreachable: give a positive distance")
        self.init_std = _checked_number("init_std", init_std)
        check_render_mode(render_mode, self.metadata["render_modes"], "MultiGoal-v0")
        self.render_mode = render_mode

        limit = self._POSITION_LIMIT
        self.observation_space = spaces.Box(-limit, limit, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Box(-self._SPEED_LIMIT, self._SPEED_LIMIT, shape=(2,), dtype=np.float32)

        self._position: NDArray[np.float32] | None = None
        self._path: list[NDArray[np.float32]] = []  # positions of this episode, kept only for rendering
        self._needs_reset = True
        self._background: NDArray[np.uint8] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start an episode.

        :param seed: Seed of the start positions from now on; None goes on with the present generator
        :param options: ``{"position": (x, y)}`` starts there, within ``[-7, 7]``, instead of at random
        :return: Observation of shape (2,) and info
        :raises ValueError: If an option is unknown or the position is not a point of the observation space
        """
        super().reset(seed=seed)
        options = dict(options or {})
        if "position" in options:
            position = self._checked_start(options.pop("position"))
        else:
            position = self._bounded(self.np_random.normal(scale=self.init_std, size=2))
        if options:
            raise ValueError(f'options has unknown keys {list(options)}: the only one is "position"')
        self._position = position
        self._path = [position]
        self._needs_reset = False
        return position.copy(), self._info(position)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Move for one unit of time.

        :param action: Velocity, shape (2,), clipped to ``[-1, 1]``
        :return: Observation (2,), reward, terminated, truncated (always False), info
        :raises ValueError: If the action has another shape or is not finite
        :raises gymnasium.error.ResetNeeded: Before the first reset and after termination
        """
        if self._position is None or self._needs_reset:
            raise gym.error.ResetNeeded("call reset() before step(), also after an episode has terminated")
        velocity = np.asarray(action, dtype=np.float32)
        if velocity.shape != (2,) or not np.isfinite(velocity).all():
            raise ValueError(f"action must be two finite numbers, an array of shape (2,), got {action!r}")
        velocity = velocity.clip(-self._SPEED_LIMIT, self._SPEED_LIMIT)

        self._position = position = self._bounded(self._position + velocity)
        if self.render_mode is not None:
            self._path.append(position)
        info = self._info(position)
        terminated = info["is_success"]
        reward = -self.action_cost * float(np.square(velocity, dtype=np.float64).sum())
        reward -= float(self.position_cost(position))
        if terminated:
            reward += self.goal_reward
        self._needs_reset = terminated
        return position.copy(), reward, terminated, False, info

    def nearest_goal(self, positions: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """
        Nearest goal of each position.

        :param positions: Positions, shape (..., 2)
        :return: Index into ``goals`` and distance to that goal, both of shape (...); ties go to the lower index
        """
        offsets = np.asarray(positions, dtype=np.float64)[..., None, :] - self.goals
        squared = np.square(offsets).sum(axis=-1)
        return squared.argmin(axis=-1), np.sqrt(squared.min(axis=-1))

    def position_cost(self, positions: ArrayLike) -> NDArray[np.float64]:
        """
        The part of the cost that depends on where the point is: ``distance_cost * d^2``.

        :param positions: Positions, shape (..., 2)
        :return: Costs, shape (...), at least 0
        """
        return self.distance_cost * np.square(self.nearest_goal(positions)[1])

    def render(self) -> NDArray[np.uint8] | None:
        """
        Draw the position cost in bands, the goals, this episode's path and the point.

        :return: Frame of shape (480, 480, 3), uint8, y pointing up; None without a render mode
        :raises gymnasium.error.ResetNeeded: Before the first reset
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing without a render mode: make the environment with "rgb_array"')
            return None
        if not self._path:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self._background is None:
            self._background = self._draw_background()
        frame = self._background.copy()
        pixels = [self._to_pixels(position) for position in self._path]
        for start, end in pairwise(pixels):
            _draw_capsule(frame, start, end, 1.5, _BLUE)
        _draw_capsule(frame, pixels[-1], pixels[-1], 8.0, _BLUE)
        return frame

    def _bounded(self, position: NDArray[Any]) -> NDArray[np.float32]:
        return np.clip(position, -self._POSITION_LIMIT, self._POSITION_LIMIT).astype(np.float32)

    def _checked_start(self, position: ArrayLike) -> NDArray[np.float32]:
        try:
            start = np.array(position, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            start = np.empty(0, dtype=np.float32)
        # contains() also refuses NaN, which compares false with both bounds.
        if not self.observation_space.contains(start):
            limit = self._POSITION_LIMIT
            raise ValueError(f"position must be two numbers within [{-limit}, {limit}], got {position!r}")
        return start

    def _info(self, position: NDArray[np.float32]) -> dict[str, Any]:
        goal, distance = self.nearest_goal(position)
        return {"is_success": bool(distance < self.goal_radius), "goal": int(goal)}

    def _to_pixels(self, position: ArrayLike) -> NDArray[np.float64]:
        """Position (x, y) -> (row, column) of the frame, rows counted from the top."""
        x, y = np.asarray(position, dtype=np.float64)
        return np.array([self._VIEW - y, self._VIEW + x]) * self._PIXELS_PER_UNIT - 0.5

    def _draw_background(self) -> NDArray[np.uint8]:
        axis = (np.arange(self._FRAME_SIZE) + 0.5) / self._PIXELS_PER_UNIT - self._VIEW
        x, y = np.meshgrid(axis, -axis)
        # Bands of equal distance, a unit wide: the contour lines of the cost whatever its weight, zero included.
        band = np.floor(self.nearest_goal(np.stack([x, y], axis=-1))[1])
        frame = np.repeat((250 - 12 * band).astype(np.uint8)[..., None], 3, axis=-1)
        for goal in self.goals:
            centre = self._to_pixels(goal)
            _draw_capsule(frame, centre, centre, self.goal_radius * self._PIXELS_PER_UNIT, _ORANGE)
            _draw_capsule(frame, centre, centre, 4.0, _RED)
        for start, end in pairwise([self._to_pixels(self._POSITION_LIMIT * corner) for corner in _WALLS]):
            _draw_capsule(frame, start, end, 1.0, (0, 0, 0))
        return frame


def _checked_number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
    return float(value)


def _draw_capsule(
    frame: NDArray[np.uint8],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    radius: float,
    colour: Sequence[int],
) -> None:
    """
    Paint, in place and with smooth edges, all that lies within a radius of a segment; a disc if its ends coincide.

    :param frame: Image of shape (height, width, 3), uint8
    :param start: One end, (row, column) in pixels
    :param end: The other end
    :param radius: Half the width of the stroke in pixels
    :param colour: Red, green, blue
    """
    size = np.array(frame.shape[:2])
    low = np.clip(np.floor(np.minimum(start, end) - radius).astype(int), 0, size)
    high = np.clip(np.ceil(np.maximum(start, end) + radius).astype(int) + 1, 0, size)
    patch = frame[low[0] : high[0], low[1] : high[1]]

    offsets = np.moveaxis(np.mgrid[low[0] : high[0], low[1] : high[1]], 0, -1) - start
    direction = end - start
    along = np.clip(offsets @ direction / max(float(direction @ direction), 1e-12), 0.0, 1.0)
    distance = np.linalg.norm(offsets - along[..., None] * direction, axis=-1)
    coverage = np.clip(radius - distance + 0.5, 0.0, 1.0)[..., None]
    patch[...] = np.rint((1.0 - coverage) * patch + coverage * np.array(colour))
