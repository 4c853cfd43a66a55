"""Target networks: exact copies to begin with, which then follow their online networks."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch as th
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def target_copy(module: ModuleT, make: Callable[[], ModuleT] | None = None) -> ModuleT:
    """
    An exact copy of a network for the targets: in evaluation mode, without gradients and without an optimiser.

    :param module: the network
    :param make: builds another one, for a network that cannot be copied (with ``nn.utils.weight_norm``)
    """
    try:
        with th.no_grad():
            target = copy.deepcopy(module)
    except Exception:
        if make is None:
            raise
        device = next(module.parameters()).device
        # The run's random numbers are the same either way
        with th.random.fork_rng([device] if device.type == "cuda" else []):
            target = make()
        target.load_state_dict(module.state_dict())
    vars(target).pop("optimizer", None)
    target.train(False)
    return target.requires_grad_(False)


class TargetTracker:
    """
    Keeps a target network behind its online network (P18, section 5.2).

    It is an exponential moving average, updated each time a persistent counter of gradient steps reaches a multiple of
    the interval; ``tau = 1`` makes it a hard copy.

    SB3 tests its interval against the step inside one ``train()`` call, where with ``gradient_steps=1`` it is always
    zero; this counter counts over the whole run.
    """

    def __init__(self, online: nn.Module, target: nn.Module):
        self.tau, self.interval = 1.0, 1
        self.bind(online, target)

    def bind(self, online: nn.Module, target: nn.Module) -> None:
        """Track other networks from now on."""
        self.online: list[th.Tensor] = list(online.parameters())
        self.target: list[th.Tensor] = list(target.parameters())
        # Running statistics of normalisation layers are copied, not averaged (SB3, issue 996)
        self.online_statistics = [buffer for buffer in online.buffers() if buffer.is_floating_point()]
        self.target_statistics = [buffer for buffer in target.buffers() if buffer.is_floating_point()]
        self.steps = th.zeros((), dtype=th.int64, device=self.online[0].device)

    def configure(self, tau: float, interval: int, steps: int) -> None:
        """
        Set how the target follows.

        :param tau: coefficient of the moving average
        :param interval: number of gradient steps from one update to the next
        :param steps: gradient steps done so far in the whole run
        """
        self.tau, self.interval = tau, interval
        self.steps.fill_(steps)

    def signature(self) -> tuple[Any, ...]:
        """Identify the memory that a step reads and writes."""
        return tuple(tensor.data_ptr() for tensor in (*self.online, *self.target))

    def step(self) -> None:
        """Count one gradient step, and let the target follow if it is time."""
        with th.no_grad():
            self.steps += 1
            if self.interval == 1 and not th.compiler.is_compiling():
                th._foreach_lerp_(self.target, self.online, self.tau)
                if self.target_statistics:
                    th._foreach_copy_(self.target_statistics, self.online_statistics)
                return
            # The compiler fuses what it is given one by one; lists make that of torch 2.11 fail on CUDA
            if self.interval == 1:
                for follower, leader in zip(self.target, self.online, strict=True):
                    follower.lerp_(leader, self.tau)
                for follower, leader in zip(self.target_statistics, self.online_statistics, strict=True):
                    follower.copy_(leader)
                return
            # A weight of exactly 0 leaves a finite target as it is, of exactly 1 copies: no branch, so one graph serves
            due = self.steps % self.interval == 0
            weight = self.tau * due.to(self.online[0].dtype)
            for follower, leader in zip(self.target, self.online, strict=True):
                follower.lerp_(leader, weight)
            for follower, leader in zip(self.target_statistics, self.online_statistics, strict=True):
                follower.copy_(th.where(due, leader, follower))  # which may be infinite, as a mask is
