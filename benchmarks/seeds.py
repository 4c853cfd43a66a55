"""
Several seeds in one CUDA graph: their networks, optimisers, targets and temperatures stacked along an axis of seeds.

    python benchmarks/seeds.py --out benchmarks/gpu

One update of a network of two layers of 256 units leaves most of a large GPU idle. Here ``torch.func.vmap`` runs the
algorithm's own ``update`` over the seeds, so that each kernel does the work of all. First every seed is compared to a
run of its own, then seeds x updates per second are measured beside the package's engine for a single run. Writes
``seeds.csv`` and ``seeds.md``.
"""

import argparse
import copy
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch as th
from harness import (
    RandomEnv,
    alternate,
    markdown_table,
    median_ratio,
    prepare,
    synchronize,
    updates_per_second,
    where,
    write_csv,
)

from sb3_sac_variants import SACv1, SACv2
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.gradient_step.nested import map_leaves

Slot = tuple[dict[Any, Any], Any]


def slots(model: Any) -> Iterator[Slot]:
    """
    Find the tensors of a model that an update reads and writes.

    :param model: any algorithm of this package
    :return: dictionaries that hold one, and its key, in the same order for models of the same shape
    """
    for root in (model.policy, model.temperature):
        for module in root.modules():
            for held in (module._parameters, module._buffers):
                yield from ((held, name) for name, tensor in held.items() if tensor is not None)
    for learner in model.updater._all_learners():
        for parameter in learner.parameters:
            state = learner.optimizer.state[parameter]
            yield from ((state, name) for name in state)


class SeedAxis:
    """
    Models of one algorithm that differ in their seeds, updated together.

    Their tensors become views of the stacked ones, so that each model plays and is saved as ever.

    :param models: with the same networks and arguments, plain Adam, and replay buffers that are equally full
    """

    def __init__(self, models: list[Any]):
        self.models, self.leader = models, models[0]
        places = [list(slots(model)) for model in models]
        self.slots = places[0]
        self.stacked = [th.stack([held[key].detach() for held, key in same]) for same in zip(*places, strict=True)]
        by_address = {}
        for same, stack in zip(zip(*places, strict=True), self.stacked, strict=True):
            by_address[id(same[0][0][same[0][1]])] = stack
            for (held, key), own in zip(same, stack.unbind(), strict=True):
                held[key].data = own
        self.parameters = [list(learner.parameters) for learner in self._learners]
        # Targets follow element by element: all seeds at once, after the update
        self.trackers = []
        for tracker in self.leader.updater.trackers.values():
            together = copy.copy(tracker)
            for name in ("online", "target", "online_statistics", "target_statistics"):
                setattr(together, name, [by_address[id(tensor)] for tensor in getattr(tracker, name)])
            self.trackers.append(together)
        self.numbers = th.stack([model.replay_buffer._storage.numbers for model in models])
        self.metrics: dict[str, th.Tensor] = {}

    @property
    def _learners(self) -> list[Any]:
        return self.leader.updater._all_learners()

    def draw(self, batch_size: int) -> tuple[Batch, Any]:
        """
        Draw a batch and the noise of a gradient step for each seed.

        :param batch_size: transitions for each
        :return: as ``draw_batch`` of the algorithm, with an axis of seeds in front
        """
        seeds, buffer = len(self.models), self.leader.replay_buffer
        rows = buffer._range.draw(seeds * batch_size).view(seeds, batch_size)

        def gather(numbers: th.Tensor, rows: th.Tensor) -> tuple[Any, ...]:
            buffer._storage.numbers, own = numbers, buffer._storage.numbers
            try:
                return tuple(Batch.of(buffer.gather(rows), self.leader.gamma)[:6])
            finally:
                buffer._storage.numbers = own

        batch = Batch(*th.func.vmap(gather)(self.numbers, rows))
        drawn = th.func.vmap(lambda _: self.leader.draw_noise(batch_size), randomness="different")
        return batch, drawn(th.empty(seeds, 0, device=self.leader.device))

    def step(self, batch: Batch, noise: Any) -> None:
        """
        Do one gradient step of each seed.

        :param batch: of :meth:`draw`
        :param noise: of :meth:`draw`
        """
        with th.no_grad():
            self.metrics = th.func.vmap(self._step_of_one)(self.stacked, tuple(batch[:6]), noise)
            for tracker in self.trackers:
                tracker.step()

    def _step_of_one(self, tensors: list[th.Tensor], batch: tuple[th.Tensor, ...], noise: Any) -> dict[str, th.Tensor]:
        """The algorithm's update, with the tensors of one seed in place of the leader's."""
        model, own = self.leader, [held[key] for held, key in self.slots]
        optimizers = [learner.optimizer for learner in self._learners]
        here = {id(tensor): stacked for tensor, stacked in zip(own, tensors, strict=True)}
        try:
            for (held, key), tensor in zip(self.slots, tensors, strict=True):
                held[key] = tensor
            for learner, parameters, optimizer in zip(self._learners, self.parameters, optimizers, strict=True):
                learner.parameters = [here[id(parameter)] for parameter in parameters]
                state = {here[id(parameter)]: optimizer.state[parameter] for parameter in parameters}
                learner.module.optimizer = SimpleNamespace(state=state, param_groups=optimizer.param_groups)
                # As in a compiled update
                learner.evaluate, learner.minimize = learner.evaluate_functional, learner.minimize_functional
            for tracker in model.updater.trackers.values():
                tracker.step = lambda: None
            reported = model.update(Batch(*batch), noise)
            return {name: value.reshape(()) for name, value in reported.items() if name != "td_error"}
        finally:
            for (held, key), tensor in zip(self.slots, own, strict=True):
                held[key] = tensor
            for learner, parameters, optimizer in zip(self._learners, self.parameters, optimizers, strict=True):
                learner.parameters, learner.module.optimizer = parameters, optimizer
                del learner.evaluate, learner.minimize
            for tracker in model.updater.trackers.values():
                del tracker.step


def seeds_of(cls: type, seeds: int, device: str, transitions: int = 1_000) -> list[Any]:
    """
    Make models that differ in their seeds, with filled replay buffers.

    :param cls: algorithm
    :param seeds: how many
    :param device: where
    :param transitions: in each replay buffer
    :return: the models, ready to be updated
    """
    models = []
    for seed in range(seeds):
        model = cls("MlpPolicy", RandomEnv(), seed=seed, device=device, engine="eager", buffer_size=transitions)
        models.append(prepare(model, transitions, seed))
        for tracker in model.updater.trackers.values():
            tracker.configure(model.tau, model.target_update_interval, 0)
    return models


def difference_to_single_runs(cls: type, seeds: int, device: str, updates: int = 20) -> float:
    """
    Compare each seed of an axis to a model that is updated by itself, on the same batches and noise.

    :param cls: algorithm
    :param seeds: how many
    :param device: where
    :param updates: gradient steps to compare after
    :return: the largest difference of a seed's parameters, relative to how far they moved
    """
    single, together = seeds_of(cls, seeds, device), seeds_of(cls, seeds, device)

    def parameters(model: Any) -> th.Tensor:
        return th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().double()

    before = [parameters(model) for model in single]
    axis = SeedAxis(together)
    for _ in range(updates):
        batch, noise = axis.draw(single[0].batch_size)
        axis.step(batch, noise)
        for seed, model in enumerate(single):
            of_seed = functools.partial(lambda seed, leaf: leaf[seed], seed)
            model._gradient_step(Batch(*map(of_seed, batch[:6])), map_leaves(of_seed, noise))
    pairs = zip(before, single, together, strict=True)
    return max(
        ((parameters(b) - parameters(a)).norm() / (parameters(a) - start).norm()).item() for start, a, b in pairs
    )


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """
    Capture a step in a CUDA graph.

    :param step: is run a few times first
    :return: replays it
    """
    stream = th.cuda.Stream()
    stream.wait_stream(th.cuda.current_stream())
    with th.cuda.stream(stream):
        for _ in range(3):
            step()
    th.cuda.current_stream().wait_stream(stream)
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph, stream=stream):
        step()
    return graph.replay


def rate(step: Callable[[], None], device: th.device, seconds: float) -> float:
    """
    Time a step.

    :param step: is repeated
    :param device: where it runs
    :param seconds: how long to measure
    :return: steps per second
    """
    synchronize(device)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(50 if device.type == "cuda" else 1):
            step()
            done += 1
        synchronize(device)
    return done / (time.perf_counter() - start)


def measure(cls: type, counts: list[int], device: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """
    Measure updates of several seeds.

    :param cls: algorithm
    :param counts: of seeds
    :param device: where
    :param seconds: of each measurement
    :param rounds: measurements of each
    :return: a row for each number of seeds, after one for a run by itself
    """
    alone = prepare(cls("MlpPolicy", RandomEnv(), device=device, learning_starts=0, buffer_size=1_000), 1_000)
    updates_per_second(alone, 50, 0.3)
    axes = []

    def one_step(axis: SeedAxis) -> None:
        axis.step(*axis.draw(axis.leader.batch_size))

    measures: dict[str, Callable[[], float]] = {"alone": lambda: updates_per_second(alone, 50, seconds)}
    for count in counts:
        axis = SeedAxis(seeds_of(cls, count, device))

        axes.append(axis)  # whose memory a captured graph uses
        step = functools.partial(one_step, axis)
        replay = captured(step) if axis.leader.device.type == "cuda" else step
        measures[str(count)] = functools.partial(rate, replay, axis.leader.device, seconds)
    rows = []
    for name, (updates, ratio) in median_ratio(alternate(measures, rounds), "alone").items():
        count = 1 if name == "alone" else int(name)
        rows.append(
            {
                "algorithm": cls.__name__,
                "seeds": f"one run, {alone.updater.engine.name}" if name == "alone" else name,
                "updates/s": f"{updates:.0f}",
                "seeds x updates/s": f"{count * updates:.0f}",
                "ratio to one run": f"{count * ratio:.2f}",
                "difference": "",
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    """
    Compare, measure, and write the table.

    :return: 1 if a seed differs from its single run
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/gpu"), help="folder of the results")
    parser.add_argument("--device", default="cuda", help="device (cpu: only to try the script)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 4, 8, 16, 32], help="numbers of seeds")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    arguments = parser.parse_args()
    record = {**where(arguments.device), "command": " ".join(["python benchmarks/seeds.py", *sys.argv[1:]])}
    rows = []
    for cls in (SACv2, SACv1):
        found = measure(cls, arguments.seeds, arguments.device, arguments.seconds, arguments.rounds)
        for row in found[1:]:
            row["difference"] = f"{difference_to_single_runs(cls, int(row['seeds']), arguments.device):.1e}"
        rows += found
        write_csv(arguments.out / "seeds.csv", [{**row, **record} for row in rows])
        (arguments.out / "seeds.md").write_text(f"{markdown_table([record])}\n\n{markdown_table(rows)}\n", "utf-8")
    print(markdown_table(rows))
    return int(any(row["difference"] and not float(row["difference"]) < 1e-2 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
