"""The Markdown tables of a study: final returns against threshold and baseline, and published results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sb3_sac_variants.study.collect import Results
from sb3_sac_variants.study.statistics import bootstrap_interval, iqm, not_below
from sb3_sac_variants.study.studies import Study


def final_table(study: Study, results: Results) -> tuple[str, list[str]]:
    """The table of final returns.

    :return: The table, and a sentence for each result that the study does not accept
    """
    threshold = study.final.threshold
    summary = results["summary"].astype({"final_return_mean": float})
    by_run = {key: frame.to_numpy() for key, frame in summary.groupby(["env", "algo"])["final_return_mean"]}
    scalars = results["scalars"].astype({"value": float, "step": int})
    last = scalars[scalars["step"] == scalars.groupby(["env", "algo"])["step"].transform("max")]
    logged = last.groupby(["env", "algo", "name"])["value"].mean().to_dict()
    labels = study.labels
    baselines = {baseline for name in labels if (baseline := study.baseline_of(name))}
    names = [name for name in study.scalars if name in set(scalars["name"])]
    header = ["Environment", "Algorithm", "Seeds", "Mean ± std over seeds", "IQM [95 % interval]"]
    header += [] if threshold is None else [f"At least {threshold:g}"]
    header += ["Difference" if len(baselines) > 1 else f"Beside {labels[b]}" for b in sorted(baselines)[:1]]
    rows, short = [], []
    for env in study.environments:
        for name in (name for name in labels if (env, name) in by_run):
            baseline = study.baseline_of(name)
            returns, base = by_run[env, name], by_run.get((env, baseline))
            mean, digits = returns.mean(), _digits(returns)
            std = f" ± {returns.std(ddof=1):.{digits}f}" if len(returns) > 1 else ""
            cells = [env, labels[name], f"{len(returns)}", f"{mean:.{digits}f}{std}", with_interval(returns)]
            result = f"{study.name}: {labels[name]} on {env}, mean return {mean:.2f}"
            if threshold is not None:
                reached = f"({(returns >= threshold).sum()} of {len(returns)} seeds)"
                cells.append(f"{'yes' if mean >= threshold else 'no'} {reached}")
                short += [f"{result}, is below {threshold:g}"] * bool(mean < threshold)
            if baselines:
                beyond = base is not None and not_below(returns, base) is False
                other = f" to {labels[baseline]}" if baseline and len(baselines) > 1 else ""
                verdict = ", beyond the spread" * beyond
                cells.append("" if base is None else f"{mean - base.mean():+.{digits}f}{other}{verdict}")
                short += [f"{result}, is below {baseline} beyond the seeds' spread"] * beyond
            values = [logged.get((env, name, scalar)) for scalar in names]
            rows.append([*cells, *("" if value is None else f"{value:.3g}" for value in values)])
    rules = ["---"] * 2 + ["---:"] * 3 + ["---"] * (len(header) - 5) + ["---:"] * len(names)
    return markdown([[*header, *(f"Last `{name}`" for name in names)], rules, *rows]), short


def published_table(study: Study, results: Results) -> str:
    """What others have published, beside the evaluations at the same steps."""
    curves = results["curves"].astype({"return_mean": float, "step": int})
    rows = [
        ["Environment", "Steps", "Algorithm", "Seeds", "IQM [95 % interval]"],
        ["---", "---:", "---", "---:", "---:"],
    ]
    for env, published in study.published.items():
        for step in sorted({step for curve in published.values() for step in curve}):
            for name, label in study.labels.items():
                mine = curves[(curves["env"] == env) & (curves["algo"] == name) & (curves["step"] == step)]
                if len(returns := mine["return_mean"].to_numpy()):
                    rows.append([env, f"{step}", label, f"{len(returns)}", with_interval(returns)])
            for label, curve in published.items():
                if step in curve:
                    middle, low, high = curve[step]
                    rows.append([env, f"{step}", label, "", f"{middle:.0f} [{low:.0f}, {high:.0f}]"])
    return markdown(rows)


def with_interval(returns: np.ndarray) -> str:
    """The interquartile mean with its interval, as text; without one for a single seed."""
    digits = _digits(returns)
    low, high = bootstrap_interval(returns)
    return f"{iqm(returns):.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if len(returns) > 1 else "")


def _digits(returns: np.ndarray) -> int:
    return 0 if max(abs(returns)) >= 1000 else 1 if max(abs(returns)) >= 10 else 2


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Write a table, whose second row has the rules."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
