"""Metrics that stay on the device until the logger writes."""

import torch as th

#: how many scalars a gradient step can report
CAPACITY = 64


class DeviceMetrics:
    """
    Running means of the scalars that gradient steps report, added up where they are computed.

    The first step says which they are. Reading them is the only synchronisation with the host.
    """

    def __init__(self, device: th.device):
        self.names: tuple[str, ...] = ()
        #: names of a step that reported others than the first one
        self._strange: tuple[str, ...] | None = None
        # Room for any names: a compiled step, or a captured graph, writes to the same memory from the first step on
        self._sums = th.zeros(CAPACITY, device=device)
        self._count = th.zeros((), device=device)
        # What was added up before, in double precision where the device has it: a long sum of single ones drifts. Not
        # in the step itself, whose compiled kernels are of single precision throughout
        dtype = th.float32 if device.type == "mps" else th.float64
        self._sums_before = self._sums.to(dtype, copy=True)
        self._count_before = self._count.to(dtype, copy=True)

    def add(self, values: dict[str, th.Tensor]) -> None:
        """
        Add the scalars that one gradient step reports, by their names.

        :raises ValueError: if the names are others than before; in a compiled step only :meth:`check` says so
        :raises TypeError: if one is no tensor of one number
        """
        for name, value in values.items():
            if not isinstance(value, th.Tensor) or value.numel() != 1:
                shape = f" of shape {tuple(value.shape)}" if isinstance(value, th.Tensor) else ""
                raise TypeError(
                    f"the metric {name!r} of an update is a {type(value).__name__}{shape}: report a tensor of one "
                    "number, such as a mean()"
                )
        names = tuple(sorted(values))
        self.declare(names)
        if not th.compiler.is_compiling():
            self.check()
        if names:
            scalars = [values[name].detach().reshape(()).to(self._sums) for name in names]
            self._sums[: len(names)] += th.stack(scalars)
        self._count += 1

    def declare(self, names: tuple[str, ...]) -> bool:
        """Take note of what a step reports."""
        if len(names) > CAPACITY:
            raise ValueError(f"an update reported {len(names)} metrics: report at most {CAPACITY}")
        if not self.names:
            self.names = names
        elif names != self.names:
            self._strange = names
        return True

    def check(self) -> None:
        """
        Refuse steps that do not report the same metrics.

        :raises ValueError: if one reported others than the first
        """
        if self._strange is not None:
            strange, self._strange = self._strange, None
            raise ValueError(
                f"an update reported the metrics {list(strange)}, and {list(self.names)} before: report the same ones "
                "at each step"
            )

    def collect(self) -> None:
        """Put what a few steps have added up to what was there before, without synchronising with the host."""
        self._sums_before += self._sums
        self._count_before += self._count
        self._sums.zero_()
        self._count.zero_()

    def means(self) -> dict[str, float]:
        """Means since the last :meth:`reset`, by their names; empty if there was no step."""
        self.collect()
        count = self._count_before.item()
        return dict(zip(self.names, (self._sums_before / count).tolist(), strict=False)) if count else {}

    def reset(self) -> None:
        """Forget what has been added up."""
        for tensor in (self._sums, self._count, self._sums_before, self._count_before):
            tensor.zero_()

    def state(self) -> dict[str, float]:
        """Number of steps, as "", and sums by their names since the last :meth:`reset`, for a checkpoint."""
        self.collect()
        return {"": self._count_before.item(), **dict(zip(self.names, self._sums_before.tolist(), strict=False))}

    def set_state(self, state: dict[str, float]) -> None:
        """Go on from what :meth:`state` gave."""
        self.names = tuple(name for name in state if name)
        sums = th.tensor([state[name] for name in self.names], dtype=self._sums_before.dtype)
        self._sums_before[: len(self.names)] = sums
        self._count_before.fill_(state[""])
