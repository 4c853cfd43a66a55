"""Losses in the logger at any time, read from the device only when somebody looks."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from stable_baselines3.common.logger import Logger

from sb3_sac_variants.common.gradient_step.metrics import DeviceMetrics


class LoggedMetrics(defaultdict[str, Any]):
    """
    ``name_to_value`` of a logger, which fetches the means of a training when they are read.

    SB3's algorithms record their losses at each training, for which the host has to wait until the device is ready.
    Here the logger waits only if it is read (by a callback, or by a ``dump()`` to some output) after a training.
    ``dump()`` clears it, and the means begin anew.
    """

    _metrics: DeviceMetrics | None = None
    _fetch: Callable[[], object] | None = None
    _stale = False

    @classmethod
    def of(cls, logger: Logger) -> "LoggedMetrics":
        """Make a logger's ``name_to_value`` a :class:`LoggedMetrics`, once, and return it."""
        values = logger.name_to_value
        if not isinstance(values, cls):
            values = logger.name_to_value = cls(float, values)
        return values

    def announce(self, metrics: DeviceMetrics, fetch: Callable[[], object]) -> None:
        """Say that there are new means, which ``fetch`` records."""
        self._metrics, self._fetch, self._stale = metrics, fetch, True

    def clear(self) -> None:
        super().clear()
        if self._metrics is not None:
            self._metrics.reset()
        self._stale = False

    def _refresh(self, name: Any = None) -> None:
        if self._stale and (name is None or str(name).startswith("train/")):
            self._stale = False
            assert self._fetch is not None
            self._fetch()

    def __getitem__(self, name: str) -> Any:
        self._refresh(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._refresh(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self._refresh(name)
        return super().pop(name, *default)

    def __repr__(self) -> str:
        self._refresh()
        return super().__repr__()

    def __contains__(self, name: object) -> bool:
        self._refresh(name)
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self._refresh()
        return super().__iter__()

    def __len__(self) -> int:
        self._refresh()
        return super().__len__()

    def keys(self) -> Any:
        self._refresh()
        return super().keys()

    def values(self) -> Any:
        self._refresh()
        return super().values()

    def items(self) -> Any:
        self._refresh()
        return super().items()
