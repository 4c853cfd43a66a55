"""The figure of a study: learning curves with intervals."""

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_sac_variants.study.collect import Results
from sb3_sac_variants.study.statistics import bootstrap_interval, iqm
from sb3_sac_variants.study.studies import Study

# Okabe and Ito's palette, told apart with any colour vision, without its yellow, which is faint on white.
PALETTE = ("#CC79A7", "#56B4E9", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#000000")
# The same algorithm looks the same in every figure.
COLOURS = {"sac_v1": "#0072B2", "sac_v2": "#D55E00", "sql": "#009E73", "sac": "#000000", "dqn": "#000000"}


def draw(study: Study, results: Results, path: Path) -> None:
    """Draw one panel for each environment, and below it one for each other scalar that the study collects."""
    data = pd.concat([results["curves"].rename(columns={"return_mean": "value"}), results["scalars"]])
    data = data.astype({"value": float, "step": int}).fillna({"name": "return"})
    # The steps that all seeds of a curve have
    curve = [data["env"], data["algo"], data["name"]]
    seeds = data["seed"].groupby([*curve, data["step"]]).transform("nunique")
    data = data[(seeds == data["seed"].groupby(curve).transform("nunique")).to_numpy()]
    envs = [env for env in study.environments if env in set(data["env"])]
    panels = [(name, env) for name in ("return", *study.scalars) for env in envs]
    columns = min(3, len(envs) if len(envs) > 1 else len(panels))
    rows = -(-len(panels) // columns)
    # A single panel alone would be blown up to the width of the page.
    figure = Figure(figsize=(4.4 * max(columns, 1.5), 3 * rows + 0.6), layout="constrained")
    handles: dict[str, Any] = {}
    for number, (name, env) in enumerate(panels, 1):
        panel = figure.add_subplot(rows, columns, number)
        _draw_panel(panel, study, data[(data["name"] == name) & (data["env"] == env)])
        panel.set(title=env, xlabel="environment steps", ylabel=name, xlim=(0, study.steps))
        if name == "return":
            _draw_marks(panel, study, env)
            panel.set_ylabel(f"return, mean of {study.eval_episodes} episodes")
        handles.update(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    # As many columns as the longest label leaves room for, at twelve characters an inch
    ncols = max(1, min(len(handles), int(12 * figure.get_figwidth() // (max(map(len, handles)) + 8))))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the program's version, the same data give the same file.
    figure.savefig(path, dpi=160, metadata={"Software": None})


def _draw_panel(panel: Any, study: Study, data: pd.DataFrame) -> None:
    colour = colours(list(study.labels))
    for (name, label), style in zip(study.labels.items(), ("-", "--", "-.", ":") * len(colour), strict=False):
        mine = data[data["algo"] == name]
        if mine.empty:
            continue
        look = {"data": mine, "x": "step", "y": "value", "color": colour[name], "legend": False, "ax": panel}
        sns.lineplot(**look, units="seed", estimator=None, linewidth=0.6, alpha=0.35)
        sns.lineplot(**look, estimator=iqm, errorbar=bootstrap_interval, err_kws={"alpha": 0.15, "linewidth": 0},
                     linewidth=2.0, linestyle=style, label=label)  # fmt: skip
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_marks(panel: Any, study: Study, env: str) -> None:
    if study.final.threshold is not None:
        label = f"asked for: {study.final.threshold:g}"
        panel.axhline(study.final.threshold, color="0.4", linewidth=1.0, linestyle=":", label=label)
    for (label, curve), marker in zip(study.published.get(env, {}).items(), "osD^v<>", strict=False):
        if not (shown := {step: interval for step, interval in curve.items() if step <= study.steps}):
            continue
        middle, low, high = map(pd.Series, zip(*shown.values(), strict=True))
        # A mark at the last step is half outside of the panel
        look = {"fmt": marker, "color": "0.45", "capsize": 3, "label": label, "clip_on": False}
        panel.errorbar(list(shown), middle, (middle - low, high - middle), **look)


def colours(names: list[str]) -> dict[str, str]:
    """Colours by name; none twice while there are enough of them."""
    taken = [COLOURS.get(name) for name in names]
    free = itertools.cycle([colour for colour in PALETTE if colour not in taken] or PALETTE)
    return {name: colour or next(free) for name, colour in zip(names, taken, strict=True)}
