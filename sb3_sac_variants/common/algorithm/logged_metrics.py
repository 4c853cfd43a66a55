"""Losses in the logger at any time, read from the device only when somebody looks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stable_baselines3.common.logger import Logger

from sb3_sac_variants.common.gradient_step.metrics import DeviceMetrics


class LoggedMetrics(defaultdict[str, Any]):
    """
    ``name_to_value`` of a logger, which fetches the means of a training when they are read.

    SB3's algorithms record their losses at each training, for which the host has to wait until the device is ready.
    Here the logger waits only if it is read (by a callback, or by a ``dump()`` to some output) after a training.
    ``dump()`` clears it, and the means begin anew. As in SB3, what is recorded under the same name after a training
    takes the place of its value until the next one.
    """

    _metrics: DeviceMetrics | None = None
    _fetch: Callable[[], object] | None = None
    _stale = False

    def __init__(self, *args: Any):
        super().__init__(*args)
        #: names recorded since the last training
        self._later: set[str] = set()

    @classmethod
    def of(cls, logger: Logger) -> "LoggedMetrics | None":
        """Make a logger's ``name_to_value`` a :class:`LoggedMetrics`, once; None for a logger that has none."""
        values = getattr(logger, "name_to_value", None)
        if values is not None and not isinstance(values, cls):
            values = logger.name_to_value = cls(float, values)
        return values

    def announce(self, metrics: DeviceMetrics, fetch: Callable[[], object]) -> None:
        """Say that there are new means, which ``fetch`` records."""
        self._metrics, self._fetch, self._stale = metrics, fetch, True
        self._later.clear()

    @classmethod
    def record(cls, logger: Logger, means: Mapping[str, float]) -> None:
        """Record means of a training, but for those in whose place somebody has recorded something since."""
        values = cls.of(logger)
        later = set() if values is None else set(values._later)
        for name, value in means.items():
            if name not in later:
                logger.record(name, value)
        if values is not None:
            values._later = later

    def clear(self) -> None:
        super().clear()
        if self._metrics is not None:
            self._metrics.reset()
        self._stale = False
        self._later.clear()

    def _refresh(self, name: Any = None) -> None:
        if self._stale and (name is None or str(name).startswith("train/")):
            self._stale = False
            assert self._fetch is not None
            self._fetch()

    def __setitem__(self, name: str, value: Any) -> None:
        self._later.add(name)
        super().__setitem__(name, value)

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
