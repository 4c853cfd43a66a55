"""Metrics that stay on the device until the logger writes."""

import torch as th


class DeviceMetrics:
    """Running means of scalars, summed where they are computed: reading them is the only word to the host.

    :param names: of the scalars each gradient step reports
    :param device: where they are computed
    """

    def __init__(self, names: tuple[str, ...], device: th.device):
        self.names = names
        self._sums = th.zeros(len(names), device=device)
        self._count = th.zeros((), device=device)

    def add(self, values: dict[str, th.Tensor]) -> None:
        """
        :param values: one scalar for each name
        """
        self._sums += th.stack([values[name].detach().reshape(()).to(self._sums.dtype) for name in self.names])
        self._count += 1

    def means(self) -> dict[str, float]:
        """
        :return: means since the last call, empty if there was no step
        """
        count = self._count.item()
        if count == 0:
            return {}
        means = (self._sums / count).tolist()
        self._sums.zero_()
        self._count.zero_()
        return dict(zip(self.names, means, strict=True))

    def state(self) -> list[float]:
        """
        :return: what has been summed since the last :meth:`means`, for a checkpoint
        """
        return [*self._sums.tolist(), self._count.item()]

    def set_state(self, state: list[float]) -> None:
        """
        :param state: what :meth:`state` gave
        """
        self._sums.copy_(th.tensor(state[:-1]))
        self._count.fill_(state[-1])
