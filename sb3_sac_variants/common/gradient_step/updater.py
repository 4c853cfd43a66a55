"""One object for the gradient steps of a model: its learners, targets, temperature, metrics and engine."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sb3_sac_variants.common.checks.replaced import hooks_of_users, parts_of, same_parts
from sb3_sac_variants.common.gradient_step.engine import Draw, Engine, Signature, Step
from sb3_sac_variants.common.gradient_step.engine_choice import COMPILE_PAYS_FROM, make_engine
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.metrics import DeviceMetrics
from sb3_sac_variants.common.gradient_step.precision import warn_if_ignored
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature, Temperature

#: gradient steps from one search for denormal numbers to the next
FLUSH_INTERVAL = 64


class Updater:
    """
    Does the gradient steps of a model.

    :param tracked_networks: names of the online networks, and of the targets that follow them
    """

    def __init__(
        self,
        policy: BasePolicy,
        learned_networks: tuple[str, ...],
        tracked_networks: Mapping[str, str],
        temperature: Temperature,
    ):
        self.device = policy.device
        self.temperature = temperature
        self.learners = {name: Learner(getattr(policy, name), name) for name in learned_networks}
        self.tracked_networks = dict(tracked_networks)
        #: the networks that updates work on, by their names
        self.networks: dict[str, nn.Module] = {}
        self.trackers = {
            target: TargetTracker(getattr(policy, online), getattr(policy, target))
            for online, target in tracked_networks.items()
        }
        #: modules and parameters of all networks when they were last looked at
        self._parts: list[Any] = []
        self._actor: nn.Module | None = None
        self.metrics = DeviceMetrics(self.device)
        self.engine: Engine | None = None
        #: what it was chosen for: the argument, and whether batches are drawn on the device
        self._wanted_engine = ("", False)
        #: gradient steps that were planned when the engine was chosen; a resumed run takes the same engine
        self.planned_steps: float | None = None
        #: precision and engine that were last looked at
        self._checked_precision = ("float32", "")
        #: gradient steps done since the model was made or loaded; a checkpoint goes on counting
        self.updates_since_load = 0
        self._is_running = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine out of a copy: a compiled step, or a captured graph, belongs to this model's memory."""
        return {**vars(self), "engine": None, "_is_running": False}

    def _all_learners(self) -> list[Learner]:
        temperature = [self.temperature.learner] if isinstance(self.temperature, LearnedTemperature) else []
        return [*self.learners.values(), *temperature]

    def bind(self, networks: Mapping[str, nn.Module]) -> bool:
        """Take up networks, layers, parameters and optimisers that have been replaced; whether there were any."""
        self.networks = dict(networks)
        modules = {**networks, "temperature": self.temperature}
        changed = [learner for learner in self._all_learners() if not learner.is_bound_to(modules[learner.name])]
        for learner in changed:
            learner.bind(modules[learner.name])
        self._actor = networks["actor"]  # itself it is called in rollouts only
        parts = parts_of(modules.values())
        replaced = not same_parts(parts, self._parts)
        if replaced:
            for learner in self._all_learners():
                learner.refresh()  # which refuses an optimiser that knows other parameters
            self._parts = parts
            for online, target in self.tracked_networks.items():
                self.trackers[target].bind(networks[online], networks[target])
        if changed or replaced:
            self.engine = None
        return bool(changed) or replaced

    def refresh(self) -> None:
        """Take up new parameters and states of the optimisers, after they were loaded."""
        for learner in self._all_learners():
            learner.refresh()
        self.engine, self.planned_steps = None, None

    def plan(self, gradient_steps: float) -> None:
        """
        Plan ahead, for the choice of the engine.

        :param gradient_steps: how many there will be until the end of ``learn()``. Those that are done count too: who
            has trained so long in short calls of ``learn()`` will likely go on
        """
        before, self.planned_steps = self.planned_steps, self.updates_since_load + gradient_steps
        if before is not None and before < COMPILE_PAYS_FROM <= self.planned_steps:
            self.engine = None  # to be chosen anew

    def set_learning_rates(self, actor: float, critic: float, ent_coef: float) -> None:
        """Set the learning rates of the actor, of all other networks, and of the temperature if it is learned."""
        for name, learner in self.learners.items():
            learner.set_learning_rate(actor if name == "actor" else critic)
        if isinstance(self.temperature, LearnedTemperature):
            self.temperature.learner.set_learning_rate(ent_coef)

    def choose_engine(self, name: str, draw: Draw, step: Step, draw_on_device: bool, verbose: int) -> Engine:
        """Choose an engine, unless there is one that still fits; arguments as :func:`make_engine`."""
        if self.engine is not None and self._wanted_engine == (name, draw_on_device):
            return self.engine
        assert self.planned_steps is not None
        learners = self._all_learners()
        in_one_graph = all(learner.plain_adam for learner in learners)
        for learner in learners:
            learner.in_one_graph = in_one_graph
        self.engine = make_engine(
            name,
            draw,
            step,
            device=self.device,
            draw_on_device=draw_on_device,
            fullgraph=in_one_graph,
            planned_steps=self.planned_steps,
            unsupported_engines=self._unsupported_engines(),
            verbose=verbose,
        )
        self._wanted_engine = (name, draw_on_device)
        for learner in learners:  # compiled steps give none, and nobody shall read those of the last eager one
            for parameter in learner.parameters:
                parameter.grad = None
        return self.engine

    def _unsupported_engines(self) -> dict[str, str]:
        """Engines that cannot repeat what an update does here: why, by the engine's name."""
        reasons = {}
        for part in self._parts:
            if not isinstance(part, nn.Module):
                continue
            if isinstance(part, _BatchNorm) and part.training and part.track_running_stats:
                reasons["compile"] = f"torch.func cannot change the running statistics of a {type(part).__name__}"
            # One would be called while a graph is made, and only then
            if part is not self._actor and (hooks_of_users(part) or "forward" in vars(part)):
                what = "a hook" if hooks_of_users(part) else "a forward() of its own put on it"
                reasons["compile"] = reasons["cudagraph"] = f"a {type(part).__name__} has {what}"
        return reasons | {
            engine: why for learner in self._all_learners() for engine, why in learner.unsupported_engines().items()
        }

    def check_precision(self, precision: str, engine: str) -> None:
        """Warn, once for each, if an engine will not compute in this precision; "auto" may change the engine."""
        if (precision, engine) != self._checked_precision:
            self._checked_precision = (precision, engine)
            warn_if_ignored(precision, self.device, engine)

    def run(self, n_updates: int, until: int, batch_size: int, signature: Signature) -> int:
        """
        Do gradient steps up to the next search for denormal numbers, which comes every 64 on a CPU.

        :param n_updates: gradient steps done so far in the whole run
        :param until: how many there are to be in the end
        :param batch_size: transitions in each
        :param signature: see :meth:`Engine.run`
        :return: how many were done
        """
        steps = min(until - n_updates, FLUSH_INTERVAL - n_updates % FLUSH_INTERVAL)
        self.updates_since_load += steps
        assert self.engine is not None
        self._is_running = True
        try:
            self.engine.run(steps, batch_size, signature)
        finally:
            self._is_running = False
        self.metrics.check()
        self.metrics.collect()
        if (n_updates + steps) % FLUSH_INTERVAL == 0 and self.device.type == "cpu":
            for learner in self.learners.values():
                learner.flush_denormals()
        return steps

    def steps_of_this_run(self) -> int:
        """
        How many gradient steps the present :meth:`run` has done, 0 between two of them.

        :raises RuntimeError: while a step is compiled or captured, for which this would be a constant
        """
        if not self._is_running:
            return 0
        if th.compiler.is_compiling() or (self.device.type == "cuda" and th.cuda.is_current_stream_capturing()):
            raise RuntimeError(
                "self._n_updates is a number, which would stand still in this update for good: let update() read a "
                "tensor that counts, such as self.critic_target_tracker.steps"
            )
        assert self.engine is not None
        return self.engine.steps_done

    def signature(self) -> tuple[Hashable, ...]:
        """Changes when memory that a gradient step reads or writes has been replaced."""
        written: list[Learner | TargetTracker] = [*self._all_learners(), *self.trackers.values()]
        return tuple(one.signature() for one in written)

    def state(self) -> dict[str, Any]:
        """What of a run is neither in the networks nor in the optimisers, for a checkpoint."""
        frozen = {
            learner.name: [name for name, one in learner.module.named_parameters() if not one.requires_grad]
            for learner in self._all_learners()
        }
        counts = {"planned_steps": self.planned_steps, "updates_since_load": self.updates_since_load}
        return {"metrics": self.metrics.state(), **counts, "frozen": frozen}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.metrics.set_state(state["metrics"])
        self.planned_steps, self.updates_since_load = state["planned_steps"], state["updates_since_load"]
        for learner in self._all_learners():
            frozen = state["frozen"].get(learner.name, ())
            for name, parameter in learner.module.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and name not in frozen)
