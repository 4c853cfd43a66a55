"""Metrics that stay on the device until the logger writes."""

import torch as th

#: how many scalars a gradient step can report
CAPACITY = 64


class DeviceMetrics:
    """
    Running means of the scalars that gradient steps report, added up where they are computed.

    The first step says which they are. Reading the means is the only synchronisation with the host.

    :param device: where they are computed
    """

    def __init__(self, device: th.device):
        self.names: tuple[str, ...] = ()
        # Room for any names: a compiled step, or a captured graph, writes to the same memory from the first step on
        self._sums = th.zeros(CAPACITY, device=device)
        self._count = th.zeros((), device=device)

    def add(self, values: dict[str, th.Tensor]) -> None:
        """
        Add what one gradient step reports.

        :param values: scalars by their names, the same ones at each step
        :raises ValueError: if the names are others than before
        """
        # A compiled step knows the names from when it was traced, and must not look here: it would compile anew
        if not th.compiler.is_compiling() and self.names and values.keys() != set(self.names):
            raise ValueError(
                f"an update reported the metrics {sorted(values)}, and {sorted(self.names)} before: report the same "
                "ones at each step"
            )
        if len(values) > CAPACITY:
            raise ValueError(f"an update reported {len(values)} metrics: report at most {CAPACITY}")
        self.names = tuple(sorted(values))
        if values:
            scalars = [values[name].detach().reshape(()).to(self._sums.dtype) for name in sorted(values)]
            self._sums[: len(values)] += th.stack(scalars)
        self._count += 1

    def means(self, begin_anew: bool = True) -> dict[str, float]:
        """
        Read the means.

        :param begin_anew: whether to forget them then
        :return: means since they were last forgotten, empty if there was no step
        """
        count = self._count.item()
        if count == 0:
            return {}
        means = (self._sums / count).tolist()
        if begin_anew:
            self.reset()
        return dict(zip(self.names, means, strict=False))

    def reset(self) -> None:
        """Forget what has been added up."""
        self._sums.zero_()
        self._count.zero_()

    def state(self) -> dict[str, float]:
        """
        Read what has been added up since the last :meth:`reset`, for a checkpoint.

        :return: number of steps, and sums by their names
        """
        return {"": self._count.item(), **dict(zip(self.names, self._sums.tolist(), strict=False))}

    def set_state(self, state: dict[str, float]) -> None:
        """
        Go on from a checkpoint.

        :param state: what :meth:`state` gave
        """
        self.names = tuple(name for name in state if name)
        self._sums[: len(self.names)] = th.tensor([state[name] for name in self.names])
        self._count.fill_(state[""])
