"""Observations that ended an episode, for a replay memory that stores each observation once."""

import copy

import numpy as np
import torch as th


class TerminalObservations:
    """
    Next observations of the rows that are followed by another episode.

    In a memory that stores each observation once, the next observation of a row is the observation of the row that
    follows in time, unless an episode ended between the two. Those exceptions are kept here.
    """

    def __init__(
        self, rows: int, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, th.dtype], device: th.device | str
    ):
        # For each row the place of its own observation, -1 if it has none; on the device, and again on the host
        self._place_of = th.full((rows,), -1, dtype=th.int64, device=device)
        self._place_of_on_host = np.full(rows, -1, dtype=np.int64)
        self._places = {key: th.zeros((0, *shape), dtype=dtypes[key], device=device) for key, shape in shapes.items()}
        self._free: list[int] = []

    @property
    def capacity(self) -> int:
        """Number of places."""
        return next(iter(self._places.values())).shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes taken on the device."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self._place_of, *self._places.values()))

    def put(self, row: int, observation: dict[str, np.ndarray]) -> bool:
        """
        Keep the next observation of a row. An interrupt at any moment leaves the other rows as they were.

        :return: whether memory was allocated anew
        """
        place = int(self._place_of_on_host[row])
        grows = place < 0 and not self._free
        if grows:
            self._grow()
        if place < 0:
            place = self._free.pop()
        for key, places in self._places.items():
            places[place] = th.from_numpy(np.array(observation[key])).reshape(places.shape[1:])
        self._place_of_on_host[row] = place  # first, for forget() looks here
        self._place_of[row] = place
        return grows

    def forget(self, rows: range) -> None:
        """Give up what was kept for some rows, which no longer need their own next observation."""
        for row in rows.start + np.flatnonzero(self._place_of_on_host[rows.start : rows.stop] >= 0):
            place = int(self._place_of_on_host[row])
            self._place_of[row] = -1
            self._place_of_on_host[row] = -1
            self._free.append(place)  # last: an interrupt must not make a place free that is still in use

    def replace(self, key: str, rows: th.Tensor, following: th.Tensor) -> th.Tensor:
        """Put what is kept for rows ``(B,)`` in place of what follows them in the memory, ``(B, ...)``."""
        if self.capacity == 0:
            return following
        place = self._place_of.index_select(0, rows)
        own = self._places[key].index_select(0, place.clamp(min=0))
        return th.where((place >= 0).view(-1, *[1] * (own.dim() - 1)), own, following)

    @th.inference_mode(False)  # its tensors are written to later, outside of that mode
    def _grow(self) -> None:
        present = self.capacity
        capacity = max(2 * present, 64)
        grown = {key: places.new_zeros((capacity, *places.shape[1:])) for key, places in self._places.items()}
        for key, places in self._places.items():
            grown[key][:present] = places
        self._places, self._free = grown, [*self._free, *range(present, capacity)]

    def to(self, device: th.device | str) -> None:
        """Move everything to another device."""
        self._place_of = self._place_of.to(device)
        self._places = {key: places.to(device) for key, places in self._places.items()}

    def resized(self, rows: int) -> "TerminalObservations":
        """Copy for a memory of another size, on the CPU; no row beyond it may have an observation of its own."""
        resized = copy.copy(self)
        resized._place_of_on_host = np.full(rows, -1, dtype=np.int64)
        kept = self._place_of_on_host[:rows]
        resized._place_of_on_host[: len(kept)] = kept
        resized._place_of = th.from_numpy(resized._place_of_on_host.copy())
        resized._places = {key: places.cpu() for key, places in self._places.items()}
        resized._free = list(self._free)
        return resized
