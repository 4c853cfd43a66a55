"""Runs on a Ray cluster, whose nodes share no disk.

Each run is one task, in a temporary folder of its node. It sends what it writes to the driver's node, checkpoints
included, so that a run whose node has died goes on from there when Ray starts the task again.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sb3_sac_variants.study import optional
from sb3_sac_variants.study.execute import Resources, execute, prepare
from sb3_sac_variants.study.run_folder import RunFolder
from sb3_sac_variants.study.runs import Run

#: How often Ray starts a task again whose node or process has died
RETRIES = 10


class Collector:
    """An actor on the driver's node that reads and writes the folders of the runs there."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def fetch(self, run: Run) -> bytes:
        """Pack what a run can go on from."""
        folder = RunFolder(self._out, run)
        prepare(folder)
        return pack(folder.root)

    def store(self, run: Run, packed: bytes) -> None:
        """Unpack what a run has sent."""
        unpack(packed, RunFolder(self._out, run).root)


class RayCluster:
    """Hands runs to the Ray cluster of this node; offers the same as ``local.Local``."""

    def __init__(self, address: str, out: Path, resources: Resources, gpus: float) -> None:
        if address.startswith("ray://"):
            raise ValueError(
                f"--address {address} is for clients outside the cluster; run this command on one of its nodes, "
                "with --address auto"
            )
        self._ray: Any = optional("ray", "cluster")
        strategies: Any = optional("ray.util.scheduling_strategies", "cluster")
        self._ray.init(address=address, log_to_driver=False)
        here = strategies.NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        self._collector = self._ray.remote(Collector).options(num_cpus=0, scheduling_strategy=here).remote(out)
        self._task = self._ray.remote(_run_on_node).options(
            num_cpus=resources.threads, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        self._resources = resources
        self._tasks: list[Any] = []

    def submit(self, folder: RunFolder) -> Future[None]:
        """Execute a run as soon as a node has room for it; the future raises what the run raises."""
        self._tasks.append(self._task.remote(folder.run, self._collector, self._resources))
        return self._tasks[-1].future()

    def close(self) -> None:
        """End all that was started."""
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()


def _run_on_node(run: Run, collector: Any, resources: Resources) -> None:
    ray: Any = optional("ray", "cluster")
    with tempfile.TemporaryDirectory(prefix="sb3-study-") as scratch:
        folder = RunFolder(Path(scratch), run)
        unpack(ray.get(collector.fetch.remote(run)), folder.root)
        sent: list[float] = []

        def send_news() -> bool:
            files = [file for file in (folder.checkpoint, folder.evaluations_file, folder.plays_file) if file.exists()]
            if (written := [file.stat().st_mtime for file in files]) != sent:
                ray.get(collector.store.remote(run, pack(folder.root)))
                sent[:] = written
            return True

        try:
            execute(folder, resources, tick=send_news)
        finally:
            ray.get(collector.store.remote(run, pack(folder.root)))


def pack(root: Path) -> bytes:
    """Put the files of a folder into an archive; where a checkpoint is replaced meanwhile, the new one."""
    while True:
        buffer = io.BytesIO()
        with contextlib.suppress(FileNotFoundError), tarfile.open(fileobj=buffer, mode="w") as archive:
            files = sorted(root.rglob("*"))
            for path in files:
                if path.is_file() and path.suffix != ".tmp":
                    content = path.read_bytes()  # at once: the zoo may be writing on
                    member = tarfile.TarInfo(str(path.relative_to(root)))
                    member.size, member.mtime = len(content), int(path.stat().st_mtime)
                    archive.addfile(member, io.BytesIO(content))
            if sorted(root.rglob("*")) == files:
                archive.close()
                return buffer.getvalue()


def unpack(packed: bytes, root: Path) -> None:
    """Write the files of an archive, each in one step, a checkpoint's head last, and remove older checkpoints."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = {member.name: member for member in archive}
        for name in sorted(members, key=lambda name: name.endswith("checkpoint/checkpoint.json")):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(members[name])
            assert content is not None
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(content.read())
            temporary.replace(path)
    for path in root.glob("**/checkpoint/version-*/*"):
        if str(path.relative_to(root)) not in members:
            path.unlink()
            with contextlib.suppress(OSError):  # others are still in it
                path.parent.rmdir()
