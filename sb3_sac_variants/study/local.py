"""Runs side by side on this machine."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from sb3_sac_variants.study.execute import Resources, execute, prepare
from sb3_sac_variants.study.run_folder import RunFolder


class Local:
    """Executes some runs at a time, each in a process of its own; offers the same as ``cluster.RayCluster``."""

    def __init__(self, jobs: int, resources: Resources) -> None:
        self._resources = resources
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(jobs)

    def submit(self, folder: RunFolder) -> Future[None]:
        """Execute a run as soon as there is room for it; the future raises what the run raises."""
        return self._executor.submit(self._execute, folder)

    def _execute(self, folder: RunFolder) -> None:
        prepare(folder)
        execute(folder, self._resources, tick=lambda: not self._stop.is_set())

    def close(self) -> None:
        """End all that was started."""
        self._stop.set()
        self._executor.shutdown(cancel_futures=True)
