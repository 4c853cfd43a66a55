"""The Markdown table of a study: final returns over seeds, against the threshold and the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from aggregate import bootstrap_interval, iqm, spread
from collect import Row
from studies import Study


@dataclass(frozen=True)
class Line:
    """The result of one algorithm on one environment.

    :param env: Environment id
    :param algo: Name of the algorithm in the study
    :param label: Its name for readers
    :param returns: Mean final return of each seed
    :param low: Lower end of the interval of the interquartile mean
    :param high: Upper end
    :param reaches: Whether the mean over all seeds reaches the study's threshold; None without a threshold
    :param keeps_up: Whether the mean is not below the baseline's by more than the spread over seeds; None without a
        baseline and with a single seed
    :param baseline: Name of the algorithm that it is compared with, if any
    :param scalars: Last value, mean over the seeds, of each logged quantity that the study collects
    """

    env: str
    algo: str
    label: str
    returns: np.ndarray
    low: float
    high: float
    reaches: bool | None
    keeps_up: bool | None
    baseline: str | None
    scalars: Mapping[str, float] = field(default_factory=dict)


def not_below(returns: np.ndarray, baseline: np.ndarray) -> bool | None:
    """Whether results are not below others by more than the seeds' spread.

    :param returns: One value for each seed
    :param baseline: One value for each seed
    :return: Whether the difference of the means is above minus the standard deviation of a difference of two seeds,
        ``sqrt(std^2 + std_baseline^2)``; None with a single seed on either side, which has no spread
    """
    if min(len(returns), len(baseline)) < 2:
        return None
    return bool(np.mean(returns) - np.mean(baseline) >= -math.hypot(spread(returns), spread(baseline)))


def summarise(study: Study, summary: list[Row], scalars: Sequence[Row] = ()) -> list[Line]:
    """
    :param study: The study
    :param summary: Its summary rows
    :param scalars: Its rows of logged quantities
    :return: One line for each environment and algorithm that has finished runs
    """
    lines = []
    for env in study.environments:
        by_algo = {
            variant.name: np.array(
                [float(row["final_return_mean"]) for row in summary if (row["env"], row["algo"]) == (env, variant.name)]
            )
            for variant in study.variants
        }
        for variant in study.variants:
            returns = by_algo[variant.name]
            if len(returns) == 0:
                continue
            low, high = bootstrap_interval(returns)
            threshold = study.final.threshold
            lines.append(
                Line(
                    env=env,
                    algo=variant.name,
                    label=variant.label,
                    returns=returns,
                    low=float(low),
                    high=float(high),
                    reaches=None if threshold is None else bool(returns.mean() >= threshold),
                    keeps_up=None if variant.baseline is None else not_below(returns, by_algo[variant.baseline]),
                    baseline=variant.baseline,
                    scalars=_last_values([row for row in scalars if (row["env"], row["algo"]) == (env, variant.name)]),
                )
            )
    return lines


def _last_values(scalars: Sequence[Row]) -> dict[str, float]:
    """
    :param scalars: Rows of one algorithm on one environment
    :return: By name, the mean over the seeds of the value at the last step
    """
    last = max((int(row["step"]) for row in scalars), default=0)
    values: dict[str, list[float]] = {}
    for row in scalars:
        if int(row["step"]) == last:
            values.setdefault(row["name"], []).append(float(row["value"]))
    return {name: float(np.mean(of_seeds)) for name, of_seeds in values.items()}


def markdown(study: Study, lines: list[Line]) -> str:
    """
    :param study: The study
    :param lines: Its results
    :return: A Markdown table
    """
    header = ["Environment", "Algorithm", "Seeds", "Mean ± std over seeds", "IQM [95 % interval]"]
    if study.final.threshold is not None:
        header.append(f"At least {study.final.threshold:g}")
    labels = {variant.name: variant.label for variant in study.variants}
    baselines = {variant.baseline for variant in study.variants if variant.baseline is not None}
    if baselines:
        header.append("Difference" if len(baselines) > 1 else f"Beside {labels[min(baselines)]}")
    rules = ["---"] * 2 + ["---:"] * 3 + ["---"] * (len(header) - 5)
    scalars = [name for name in study.scalars if any(name in line.scalars for line in lines)]
    rows = [[*header, *(f"Last `{name}`" for name in scalars)], [*rules, *["---:"] * len(scalars)]]
    means = {(line.env, line.algo): line.returns.mean() for line in lines}
    for line in lines:
        digits = 0 if max(abs(line.returns)) >= 1000 else 1 if max(abs(line.returns)) >= 10 else 2
        std = spread(line.returns)
        cells = [line.env, line.label, str(len(line.returns)), f"{line.returns.mean():.{digits}f}"]
        middle = f"{iqm(line.returns):.{digits}f}"
        if math.isnan(std):
            cells.append(middle)
        else:
            cells[-1] += f" ± {std:.{digits}f}"
            cells.append(f"{middle} [{line.low:.{digits}f}, {line.high:.{digits}f}]")
        if study.final.threshold is not None:
            above = int((line.returns >= study.final.threshold).sum())
            cells.append(f"{'yes' if line.reaches else 'no'} ({above} of {len(line.returns)} seeds)")
        if baselines:
            base = means.get((line.env, line.baseline))
            if base is None:
                cells.append("")
            else:
                other = "" if len(baselines) == 1 else f" to {labels[line.baseline]}"
                verdict = {True: "", False: ", beyond the spread", None: ""}[line.keeps_up]
                cells.append(f"{line.returns.mean() - base:+.{digits}f}{other}{verdict}")
        cells += [f"{line.scalars[name]:.3g}" if name in line.scalars else "" for name in scalars]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
