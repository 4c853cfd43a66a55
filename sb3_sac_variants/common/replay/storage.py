"""The memory of a replay buffer: rows on the training device, and which of them may be drawn."""

import math
import warnings
from typing import Any

import numpy as np
import torch as th

try:
    import psutil  # type: ignore[import-untyped]
except ImportError:  # comes with SB3's extra
    psutil = None

EVERYTHING = slice(None)


class RowStorage:
    """
    The memory of a replay buffer, one row a transition.

    All that is a number is in one float32 tensor, so that a batch is one gather; images, which stay uint8, are in
    tensors of their own.

    :param rows: number of transitions
    :param n_envs: transitions that are written together, one of each environment
    :param widths: how many numbers there are in a row of each kind, by name
    :param images: shapes of the images in a row, by name
    :raises MemoryError: if there is no room
    """

    def __init__(
        self,
        rows: int,
        n_envs: int,
        widths: dict[str, int],
        images: dict[str, tuple[int, ...]],
        device: th.device | str,
    ):
        self.n_envs = n_envs
        self.widths = widths
        if th.device(device).type == "cpu":
            _warn_of_memory(rows, rows * (4 * sum(widths.values()) + sum(map(math.prod, images.values()))))
        try:
            self.numbers = _zeros((rows, sum(widths.values())), np.float32, device)
            self.images = {name: _zeros((rows, *shape), np.uint8, device) for name, shape in images.items()}
        except (RuntimeError, MemoryError, ValueError) as error:  # torch and NumPy have no narrower type for all of it
            raise MemoryError(
                f"No memory on {device} for buffer_size={rows} transitions: lower buffer_size, or pass "
                "optimize_memory_usage=True"
            ) from error
        self._map_to_host()

    def check(self, widths: dict[str, int], images: dict[str, tuple[int, ...]], n_envs: int, filled: int) -> None:
        """
        Check what was read from a file.

        :param filled: rows that it has to have at least
        :raises ValueError: if it is not the memory of a buffer with rows like these
        """
        rows = len(self.numbers)
        fits = [*self.widths.items()] == [*widths.items()] and self.n_envs == n_envs and filled <= rows
        fits = fits and self.numbers.shape == (rows, sum(widths.values())) and self.numbers.dtype == th.float32
        found = {name: (tuple(image.shape), image.dtype) for name, image in self.images.items()}
        if not fits or found != {name: ((rows, *shape), th.uint8) for name, shape in images.items()}:
            raise ValueError(f"a replay buffer with rows of {self.widths} and {found}, not of {widths} and {images}")

    def _tensors(self) -> list[th.Tensor]:
        return [self.numbers, *self.images.values()]

    def _map_to_host(self) -> None:
        """
        Find the memory that a step is written to, as arrays ``(steps, n_envs, ...)``.

        On the CPU these are the tensors themselves, elsewhere room for one step, which is then copied as a whole.
        """
        tensors = self._tensors()
        self._staging: list[th.Tensor] = []
        if self.numbers.device.type != "cpu":
            tensors = self._staging = [th.zeros((self.n_envs, *x.shape[1:]), dtype=x.dtype) for x in tensors]
        self._host, *images = [
            tensor.numpy().reshape(len(tensor) // self.n_envs, self.n_envs, *tensor.shape[1:]) for tensor in tensors
        ]
        self._host_images = dict(zip(self.images, images, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes taken."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def write(
        self, step: int, numbers: list[np.ndarray], images: dict[str, np.ndarray], columns: slice = EVERYTHING
    ) -> None:
        """
        Write a step of all environments, or a part of it.

        :param numbers: ``(n_envs, ...)`` each, in the order of :attr:`widths`
        :param images: ``(n_envs, *shape)`` each, by name
        :param columns: what the numbers take of a row
        """
        place = 0 if self._staging else step
        if numbers:
            n_envs = self.n_envs
            parts = [np.asarray(values).reshape(n_envs, -1) for values in numbers]
            # Converts to float32 on the way
            np.concatenate(parts, axis=1, out=self._host[place, :, columns], casting="unsafe")
        for name, image in images.items():
            room = self._host_images[name][place]
            room[...] = np.reshape(image, room.shape)
        if self._staging:
            here = slice(step * self.n_envs, (step + 1) * self.n_envs)
            staged_numbers, *staged_images = self._staging
            self.numbers[here, columns].copy_(staged_numbers[:, columns])
            for (name, stored), staged in zip(self.images.items(), staged_images, strict=True):
                if name in images:
                    stored[here].copy_(staged)

    def gather(self, rows: th.Tensor) -> dict[str, th.Tensor]:
        """What is in some rows ``(B,)``, by name: numbers ``(B, width)`` and images ``(B, *shape)``."""
        numbers = self.numbers.index_select(0, rows).split(tuple(self.widths.values()), dim=1)
        stored = dict(zip(self.widths, numbers, strict=True))
        for name, image in self.images.items():
            stored[name] = image.index_select(0, rows)
        return stored

    def array(self, name: str) -> np.ndarray:
        """One of the numbers ``(rows, width)`` or images ``(rows, *shape)`` of all rows, on the CPU without a copy."""
        if name in self.images:
            return self.images[name].cpu().numpy()
        columns = self.numbers.split(tuple(self.widths.values()), dim=1)
        return columns[list(self.widths).index(name)].cpu().numpy()

    def to(self, device: th.device | str) -> None:
        """Move everything to another device."""
        self.numbers = self.numbers.to(device)
        self.images = {name: image.to(device) for name, image in self.images.items()}
        self._map_to_host()

    def first(self, rows: int) -> "RowStorage":
        """The first rows on the CPU, where they are shared, not copied: to be pickled."""
        part = RowStorage.__new__(RowStorage)
        images = {name: image[:rows].cpu() for name, image in self.images.items()}
        vars(part).update(n_envs=self.n_envs, widths=self.widths, numbers=self.numbers[:rows].cpu(), images=images)
        return part

    def resized(self, rows: int) -> "RowStorage":
        """The rows in a memory of another size, on the CPU; of the same size, this one."""
        if len(self.numbers) == rows:
            return self
        shapes = {name: tuple(image.shape[1:]) for name, image in self.images.items()}
        other = RowStorage(rows, self.n_envs, self.widths, shapes, "cpu")
        for source, target in zip(self._tensors(), other._tensors(), strict=True):
            common = min(len(source), rows)
            target[:common] = source[:common]
        return other

    def __getstate__(self) -> dict[str, Any]:
        # As arrays, which pickle writes to a file as they are; of a tensor it would make two copies first
        images = {name: image.cpu().numpy() for name, image in self.images.items()}
        numbers = self.numbers.cpu().numpy()
        return {"n_envs": self.n_envs, "widths": self.widths, "numbers": numbers, "images": images}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.numbers = _tensor_of(state["numbers"])
        self.images = {name: _tensor_of(image) for name, image in state["images"].items()}
        self._map_to_host()


def _tensor_of(saved: np.ndarray) -> th.Tensor:
    """Take over an array that was read from a file."""
    return th.from_numpy(np.require(saved, requirements=["C", "W"]))


def _zeros(shape: tuple[int, ...], dtype: type, device: th.device | str) -> th.Tensor:
    """Make room that is zero. On the CPU NumPy makes it, which takes memory only when a row is first written."""
    if th.device(device).type == "cpu":
        return th.from_numpy(np.zeros(shape, dtype))
    return th.zeros(shape, dtype=th.uint8 if dtype is np.uint8 else th.float32, device=device)


def _warn_of_memory(rows: int, nbytes: int) -> None:
    """Warn of too little memory: the system hands it out all the same, and the run ends when the rows are filled."""
    available = math.inf if psutil is None else psutil.virtual_memory().available
    if nbytes > available:
        warnings.warn(
            f"buffer_size={rows} will take {nbytes / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free: lower "
            "buffer_size, or pass optimize_memory_usage=True",
            stacklevel=2,
        )


class RowRange:
    """The rows that may be drawn: ``first, first + 1, ..., first + count - 1`` modulo the size of the memory."""

    def __init__(self, rows: int, device: th.device | str):
        self.rows = rows
        self.first, self.count = 0, 0
        self._on_device: tuple[th.Tensor, th.Tensor] | None = None
        self.to(device)

    def to(self, device: th.device | str) -> None:
        """Draw on another device from now on."""
        self.device = th.device(device)
        self._on_device = None
        if self.device.type == "cuda":
            # In memory, so that a captured CUDA graph follows when the range changes. float64, which other devices may
            # not have: float32 could not reach every row of a large memory evenly
            self._on_device = tuple(  # type: ignore[assignment]
                th.full((), number, dtype=th.float64, device=device) for number in (self.first, self.count)
            )

    def set(self, first: int, count: int) -> None:
        """Change the range."""
        if self._on_device is not None and (first, count) != (self.first, self.count):
            for number, tensor in zip((first, count), self._on_device, strict=True):
                tensor.fill_(number)  # copied from the host, it would wait for the graph that runs
        self.first, self.count = first, count

    def draw(self, batch_size: int) -> th.Tensor:
        """Draw rows ``(batch_size,)`` uniformly with replacement."""
        if self._on_device is None:
            rows = th.randint(self.count, (batch_size,), device=self.device)
            return (rows + self.first) % self.rows if self.first else rows
        first, count = self._on_device
        return (th.rand(batch_size, dtype=th.float64, device=first.device) * count + first).long() % self.rows
