"""Runs on a Ray cluster, whose nodes share no disk.

Each run is one task, in a temporary folder of its node. It sends what it writes to the driver's node, checkpoints
included, so that a run whose node has died goes on from there when Ray starts the task again.
"""

import contextlib
import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any

from sb3_sac_variants.study.execute import TERMINATION_SECONDS, Resources, execute, prepare
from sb3_sac_variants.study.run_folder import RunFolder, write_bytes
from sb3_sac_variants.study.studies import Run

#: How often Ray starts a task again whose node or process has died
RETRIES = 10


class Collector:
    """An actor on the driver's node that holds the runs, and reads and writes their folders there."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._held: dict[PurePosixPath, RunFolder] = {}

    def fetch(self, run: Run) -> dict[str, bytes] | None:
        """Read what a run can go on from; None if there is nothing to do."""
        folder = self._held.setdefault(run.folder, RunFolder(self._out, run))
        files = None
        try:
            files = pack(folder.root) if prepare(folder) else None
            return files
        finally:
            if files is None:  # it may be held for a node that died when all had come
                self._held.pop(run.folder).lock.release(force=True)

    def store(self, run: Run, files: dict[str, bytes], last: bool = False) -> None:
        """Write what a run has sent."""
        unpack(files, self._held[run.folder].root)
        if last:
            self._held.pop(run.folder).lock.release(force=True)


class RayCluster:
    """Hands runs to the Ray cluster of this node; offers the same as ``execute.Local``."""

    def __init__(self, address: str, out: Path, resources: Resources, gpus: float) -> None:
        if address.startswith("ray://"):
            remedy = "run this command on one of its nodes, with --address auto"
            raise ValueError(f"--address {address} is for clients outside the cluster; {remedy}")
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray.init(address=address, log_to_driver=False)
        has = [node["Resources"] for node in ray.nodes()]
        if not any(node.get("CPU", 0) >= resources.threads and node.get("GPU", 0) >= gpus for node in has):
            print(f"No node has {resources.threads} cores and {gpus:g} GPUs for a run yet: they wait for one.")
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._collector = ray.remote(Collector).options(num_cpus=0, scheduling_strategy=here).remote(out)
        self._task = ray.remote(_run_on_node).options(
            num_cpus=resources.threads, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        self._resources = resources
        self._tasks: list[Any] = []

    def submit(self, folder: RunFolder) -> Future[None]:
        """Execute a run as soon as a node has room for it; the future raises what the run raises."""
        self._tasks.append(self._task.remote(folder.run, self._collector, self._resources))
        return self._tasks[-1].future()

    def close(self) -> None:
        """End all that was started: first by an exception, so that a run sends its files and clears its folder."""
        import ray

        for force in (False, True):
            for task in self._tasks:
                ray.cancel(task, force=force, recursive=False)
            if self._tasks:
                ray.wait(self._tasks, num_returns=len(self._tasks), timeout=2 * TERMINATION_SECONDS)
        ray.shutdown()


def _run_on_node(run: Run, collector: Any, resources: Resources) -> None:
    import ray

    with tempfile.TemporaryDirectory(prefix="sb3-study-") as scratch:
        folder = RunFolder(Path(scratch), run)
        if (files := ray.get(collector.fetch.remote(run))) is None:
            return
        unpack(files, folder.root)
        sent: list[float] = []

        def send_news() -> None:
            files = [file for file in (folder.checkpoint, folder.evaluations_file) if file.exists()]
            if (written := [file.stat().st_mtime for file in files]) != sent:
                ray.get(collector.store.remote(run, pack(folder.root)))
                sent[:] = written

        try:
            execute(folder, resources, send_news)
        finally:
            ray.get(collector.store.remote(run, pack(folder.root), last=True))


def pack(root: Path) -> dict[str, bytes]:
    """Read the files of a folder; where a checkpoint is replaced meanwhile, the new one."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            found = sorted(root.rglob("*"))
            paths = [path for path in found if path.is_file() and path.suffix not in (".tmp", ".partial")]
            files = {str(path.relative_to(root)): path.read_bytes() for path in paths}
            if sorted(root.rglob("*")) == found:
                return files


def unpack(files: dict[str, bytes], root: Path) -> None:
    """Write files, each in one step, the record first and a checkpoint's head last; remove older checkpoints."""
    for name in sorted(files, key=lambda name: (name != "run.json", name.endswith("checkpoint/checkpoint.json"))):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, files[name])
    for version in root.glob("**/checkpoint/version-*"):
        if not any(PurePosixPath(name).is_relative_to(version.relative_to(root)) for name in files):
            shutil.rmtree(version)
