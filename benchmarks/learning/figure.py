"""The figure of a study: learning curves with intervals."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from aggregate import bootstrap_interval, iqm
from collect import Collection, Row
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from studies import Study, Variant

# Okabe and Ito's palette, told apart with any colour vision, without its yellow, which is faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# The same algorithm looks the same in every figure.
COLOURS = {"sac_v1": "#0072B2", "sac_v2": "#D55E00", "sql": "#009E73", "sac": "#000000", "dqn": "#000000"}
STYLES = ("-", "--", "-.", ":")
PANEL_INCHES = (4.4, 3.0)
DPI = 160
MAX_COLUMNS = 3


def draw(study: Study, collection: Collection, path: Path) -> None:
    """Draw one panel for each environment, and below it one for each other scalar that the study collects.

    :param study: The study
    :param collection: Its rows
    :param path: PNG file to write
    """
    measures = ("return", *study.scalars)
    # No empty panel for an environment whose runs are still to come
    environments = [env for env in study.environments if any(row["env"] == env for row in collection.curves)]
    panels = [(measure, env) for measure in measures for env in environments]
    columns = min(len(environments), MAX_COLUMNS) if len(environments) > 1 else min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    width, height = PANEL_INCHES
    # A single panel alone would be blown up to the width of the page.
    figure, grid = plt.subplots(
        rows, columns, figsize=(width * max(columns, 1.5), height * rows + 0.6), layout="constrained", squeeze=False
    )
    axes = list(grid.flat)
    for spare in axes[len(panels) :]:
        spare.set_visible(False)
    for panel, (measure, env) in zip(axes, panels, strict=False):
        _draw_panel(panel, study, collection, measure, env)
    handles = {
        str(handle.get_label()): handle
        for panel in axes[: len(panels)]
        for handle in panel.get_legend_handles_labels()[0]
    }
    # As many columns as the longest label leaves room for, at twelve characters an inch
    widest = max(len(label) for label in handles)
    ncols = max(1, min(len(handles), int(12 * figure.get_figwidth() // (widest + 8))))
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=ncols, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the program's version, the same data give the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def appearance(variants: tuple[Variant, ...]) -> dict[str, tuple[str, str]]:
    """Choose colours and line styles.

    :param variants: The curves of a study
    :return: Colour and line style by name; no colour twice while there are enough of them
    """
    fixed = {variant.name: COLOURS[variant.name] for variant in variants if variant.name in COLOURS}
    # First what is no other algorithm's colour.
    free = sorted((c for c in PALETTE if c not in fixed.values()), key=lambda c: c in COLOURS.values()) or PALETTE
    others = [variant.name for variant in variants if variant.name not in fixed]
    colours = {**fixed, **{name: free[i % len(free)] for i, name in enumerate(others)}}
    return {variant.name: (colours[variant.name], STYLES[i % len(STYLES)]) for i, variant in enumerate(variants)}


def curves_by_seed(rows: list[Row], value: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrange rows as an array.

    :param rows: Rows of one algorithm on one environment
    :param value: Column to take
    :return: Steps that all seeds have, of shape (n,), and values of shape (seeds, n)
    """
    seeds: dict[int, dict[int, float]] = {}
    for row in rows:
        seeds.setdefault(int(row["seed"]), {})[int(row["step"])] = float(row[value])
    steps = sorted(set.intersection(*(set(curve) for curve in seeds.values())))
    return np.array(steps), np.array([[curve[step] for step in steps] for curve in seeds.values()])


def _draw_panel(panel: Axes, study: Study, collection: Collection, measure: str, env: str) -> None:
    is_return = measure == "return"
    source = collection.curves if is_return else [row for row in collection.scalars if row["name"] == measure]
    looks = appearance(study.variants)
    for variant in study.variants:
        rows = [row for row in source if (row["env"], row["algo"]) == (env, variant.name)]
        if not rows:
            continue
        steps, values = curves_by_seed(rows, "return_mean" if is_return else "value")
        colour, style = looks[variant.name]
        if len(values) > 1:
            panel.plot(steps, values.T, color=colour, linewidth=0.6, alpha=0.35)
            panel.fill_between(steps, *bootstrap_interval(values), color=colour, alpha=0.15, linewidth=0)
        marker = "o" if len(steps) == 1 else None
        middle = iqm(values)
        panel.plot(steps, middle, color=colour, linestyle=style, marker=marker, linewidth=2.0, label=variant.label)
    if is_return and study.final.threshold is not None:
        panel.axhline(
            study.final.threshold,
            color="0.4",
            linewidth=1.0,
            linestyle=(0, (1, 2)),
            label=f"asked for: {study.final.threshold:g}",
        )
    panel.set_title(env, fontsize=11)
    panel.set_xlabel("environment steps")
    panel.set_ylabel(f"return, mean of {study.eval_episodes} episodes" if is_return else measure)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_xlim(0, study.steps)
    panel.grid(color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
