"""How far the runs are: one line for each study, algorithm and environment, whatever the number of seeds."""

import time
from collections import Counter
from pathlib import PurePosixPath

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from sb3_sac_variants.study.run_folder import RunFolder, State


class Progress:
    """What is known of the runs, and how it is shown."""

    def __init__(self, states: dict[RunFolder, State]) -> None:
        self.states = dict(states)
        self._started = time.monotonic()
        self._steps = dict.fromkeys(states, 0)
        for folder, state in states.items():
            self.update(folder, state)
        self._steps_at_start = sum(self._steps.values())

    def update(self, folder: RunFolder, state: State) -> None:
        """Note the state of a run, and how far it is."""
        self.states[folder] = state
        # Several environments side by side end a few steps early.
        done = folder.run.steps if state in (State.TRAINED, State.FINISHED) else folder.steps_done()
        self._steps[folder] = max(done, self._steps[folder])

    def refresh(self) -> None:
        """Look at the runs that are being worked on, here or by another command."""
        for folder, state in self.states.items():
            if state is not State.FINISHED:
                self.update(folder, folder.state(patience=0.0 if state is State.RUNNING else 0.1))

    def line(self) -> str:
        """All runs in one line."""
        done, total = sum(self._steps.values()), sum(folder.run.steps for folder in self.states)
        counts = Counter(self.states.values())
        parts = [f"{counts[State.FINISHED]} of {len(self.states)} runs finished"]
        parts += [f"{counts[state]} {state.words}" for state in [*State][1:-1] if counts[state]]
        parts.append(f"{100 * done / total:.0f} % of the steps")
        if speed := (done - self._steps_at_start) / max(time.monotonic() - self._started, 1e-9):
            minutes = (total - done) / speed / 60
            left = f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min"
            parts.append(f"{speed:.0f} steps/s, {left} left")
        return ", ".join(parts)

    def __rich__(self) -> Group:
        groups: dict[PurePosixPath, list[RunFolder]] = {}
        for folder in self.states:
            groups.setdefault(folder.run.folder.parent, []).append(folder)
        path = Column("study/algorithm/environment", overflow="fold")
        table = Table(path, "seeds", "steps", "", "return", box=None, pad_edge=False)
        for name, folders in groups.items():
            done = sum(self._steps[folder] for folder in folders) / sum(folder.run.steps for folder in folders)
            last = [found["results"][-1].mean() for folder in folders if (found := folder.evaluations())]
            seeds = Text.assemble(*(self.states[folder].value[1:] for folder in folders))
            mean = f"{sum(last) / len(last):.1f}" if last else ""
            table.add_row(str(name), seeds, ProgressBar(1.0, done, width=10), f"{100 * done:.0f} %", mean)
        legend = ", ".join(f"{sign} {words}" for words, sign, _ in (state.value for state in State))
        return Group(table, Text(legend, style="dim"), Text(self.line()))
