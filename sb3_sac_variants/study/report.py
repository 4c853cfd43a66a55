"""CSV files, Markdown tables and figures of the finished runs of a study."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sb3_sac_variants.study.collect import Results, collect, read, write
from sb3_sac_variants.study.figure import draw
from sb3_sac_variants.study.statistics import bootstrap_interval, iqm, not_below
from sb3_sac_variants.study.studies import Study


def report(study: Study, out: Path, folder: Path, figures: Path) -> list[str]:
    """Write the files of a study, whose runs are in ``out``, and return what is missing or falls short of its aims."""
    results, missing = collect(study, out, read(study.name, folder))
    if not len(results["summary"]):
        return missing
    write(results, study.name, folder)
    text, short = final_table(study, results)
    if study.published:
        text += f"\nBeside what is published, from the evaluations in training:\n\n{published_table(study, results)}"
    (folder / f"{study.name}.md").write_text(text, encoding="utf-8")
    draw(study, results, figures / f"{study.name}.png")
    runs = f"{len(results['summary'])} of {len(study.runs())} runs"
    print(f"{study.title or study.name} ({study.name}): {runs}\n\n{text}")
    return missing + short


def final_table(study: Study, results: Results) -> tuple[str, list[str]]:
    """The table of final returns, and a sentence for each result that the study does not accept."""
    labels, threshold = study.labels, study.final.threshold
    summary = results["summary"].astype({"final_return_mean": float})
    by_run = {key: frame.to_numpy() for key, frame in summary.groupby(["env", "algo"])["final_return_mean"]}
    scalars = results["scalars"].astype({"value": float, "step": int})
    last = scalars.sort_values("step").groupby(["env", "algo", "name", "seed"])["value"].last()
    logged = last.groupby(["env", "algo", "name"]).mean().to_dict()
    names = [name for name in study.scalars if name in set(scalars["name"])]
    baselines = sorted({baseline for name in labels if (baseline := study.baseline_of(name))})
    header = ["Environment", "Algorithm", "Seeds", "Mean ± std over seeds", "IQM [95 % interval]"]
    header += [] if threshold is None else [f"At least {threshold:g}"]
    header += ["Difference" if len(baselines) > 1 else f"Beside {labels[baseline]}" for baseline in baselines[:1]]
    rules = ["---"] * 2 + ["---:"] * 3 + ["---"] * (len(header) - 5) + ["---:"] * len(names)
    rows, short = [[*header, *(f"Last `{name}`" for name in names)], rules], []
    for env, name in ((env, name) for env in study.environments for name in labels if (env, name) in by_run):
        baseline = study.baseline_of(name)
        returns, base = by_run[env, name], by_run.get((env, baseline))
        mean, digits = returns.mean(), _digits(returns)
        std = f" ± {returns.std(ddof=1):.{digits}f}" if len(returns) > 1 else ""
        cells = [env, labels[name], f"{len(returns)}", f"{mean:.{digits}f}{std}", with_interval(returns)]
        result = f"{study.name}: {labels[name]} on {env}, mean return {mean:.2f}"
        if threshold is not None:
            reached = f"({(returns >= threshold).sum()} of {len(returns)} seeds)"
            cells.append(f"{'yes' if mean >= threshold else 'no'} {reached}")
            if mean < threshold:
                short.append(f"{result}, is below {threshold:g}")
        if baseline is None or base is None:
            cells += [""] * bool(baselines)
        else:
            verdict = f" to {labels[baseline]}" if len(baselines) > 1 else ""
            if not_below(returns, base) is False:
                verdict += ", beyond the spread"
                short.append(f"{result}, is below {baseline} beyond the seeds' spread")
            cells.append(f"{mean - base.mean():+.{digits}f}{verdict}")
        values = [logged.get((env, name, scalar)) for scalar in names]
        rows.append([*cells, *("" if value is None else f"{value:.3g}" for value in values)])
    return markdown(rows), short


def published_table(study: Study, results: Results) -> str:
    """What others have published, beside the evaluations at the same steps, where there are any of the environment."""
    curves = results["curves"].astype({"return_mean": float, "step": int})
    by_step = {key: frame.to_numpy() for key, frame in curves.groupby(["env", "step", "algo"])["return_mean"]}
    rows = [["Environment", "Steps", "Algorithm", "Seeds", "IQM [95 % interval]"]]
    rows += [["---", "---:", "---", "---:", "---:"]]
    for env, published in ((env, study.published[env]) for env in study.published if env in set(curves["env"])):
        for step in sorted({step for curve in published.values() for step in curve}):
            for name, label in study.labels.items():
                if (returns := by_step.get((env, step, name))) is not None:
                    rows.append([env, f"{step}", label, f"{len(returns)}", with_interval(returns)])
            for label, curve in published.items():
                if step in curve:
                    middle, low, high = curve[step]
                    rows.append([env, f"{step}", label, "", f"{middle:.10g} [{low:.10g}, {high:.10g}]"])
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
