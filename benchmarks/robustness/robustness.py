"""Judge the robustness studies by the rule that their file fixes: a table and a figure from the CSV files of the tests.

python benchmarks/robustness/robustness.py robustness_half_cheetah      # after run and report of the study
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sb3_sac_variants.study.figure import PALETTE
from sb3_sac_variants.study.report import markdown, with_interval
from sb3_sac_variants.study.statistics import bootstrap_interval, iqm
from sb3_sac_variants.study.studies import Study, load_studies

HERE = Path(__file__).resolve().parent
BASELINE = "td3"


def measures(tests: pd.DataFrame) -> pd.DataFrame:
    """What each seed of each arm does in the changed worlds.

    :param tests: Rows of one kind of actions
    :return: Columns ``nominal``, ``relative`` (mean of R / R_nominal), ``worst`` and ``tenth`` (mean of the worst tenth
        of all worlds) by arm and seed
    """
    returns = tests.pivot_table(index=["algo", "seed"], columns="world", values="return_mean")
    nominal = returns.pop("nominal")
    worst = np.sort(returns.to_numpy(), axis=1)
    return pd.DataFrame(
        {
            "nominal": nominal,
            "relative": returns.div(nominal, axis=0).mean(axis=1),
            "worst": worst[:, 0],
            "tenth": worst[:, : -(-(worst.shape[1] + 1) // 10)].mean(axis=1),
        }
    )


def verdict(arm: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """What the rule in the studies' file says of an arm.

    :param arm: Its measures by seed
    :param baseline: Those of TD3
    """
    both = arm.join(baseline.add_suffix("_baseline"), how="inner")
    difference = (both["relative"] - both["relative_baseline"]).to_numpy()
    low, high = bootstrap_interval(difference)
    text = f"{iqm(difference):+.2f} [{low:+.2f}, {high:+.2f}]"
    if high < 0:
        return f"{text}, less robust"
    if low > 0 and iqm(both["tenth"].to_numpy()) > iqm(both["tenth_baseline"].to_numpy()):
        return f"{text}, more robust"
    return f"{text}, the data do not tell"


def table(study: Study, tests: pd.DataFrame) -> str:
    """One row for each arm and kind of actions."""
    rows = [["Arm", "Actions", "Nominal", "R / R nominal", "Worst world", "Worst tenth", "R / R nominal beside TD3"]]
    rows.append(["---", "---", *["---:"] * 4, "---"])
    for actions, part in tests.groupby("actions"):
        found = measures(part)
        for name, label in study.labels.items():
            if name in found.index.get_level_values("algo"):
                arm = found.loc[name]
                columns = [
                    with_interval(arm[column].to_numpy()) for column in ("nominal", "relative", "worst", "tenth")
                ]
                known = name != BASELINE and BASELINE in found.index.get_level_values("algo")
                known = known and len(arm) == len(study.seeds) > 1  # an interval of two values is these two
                rows.append([label, str(actions), *columns, verdict(arm, found.loc[BASELINE]) if known else ""])
    return markdown(rows)


def draw(study: Study, tests: pd.DataFrame, path: Path) -> None:
    """Return relative to the nominal one by factor and property, and the worst world against the nominal one."""
    tests = tests[tests["actions"] == "mean"]
    nominal = tests[tests["world"] == "nominal"].set_index(["algo", "seed"])["return_mean"].rename("nominal")
    curves = tests.join(nominal, on=["algo", "seed"])
    curves["relative"] = curves["return_mean"] / curves["nominal"]
    curves[["property", "factor"]] = curves["world"].replace("nominal", "nominal_1").str.split("_", expand=True)
    curves["factor"] = curves["factor"].astype(float)
    curves["label"] = curves["algo"].map(study.labels)
    properties = [name for name in dict.fromkeys(curves["property"]) if name != "nominal"]
    figure = Figure(figsize=(4 * (len(properties) + 1), 3.8), layout="constrained")
    panels = figure.subplots(1, len(properties) + 1)
    look = {"hue": "label", "palette": dict(zip(study.labels.values(), PALETTE, strict=False))}
    for panel, name in zip(panels, properties, strict=False):
        data = curves[curves["property"].isin([name, "nominal"])]
        sns.lineplot(data, x="factor", y="relative", style="label", estimator=iqm, errorbar=bootstrap_interval,
                     err_style="bars", ax=panel, **look)  # fmt: skip
        panel.set(title=name, xlabel="factor", ylabel="return / nominal return", xscale="log")
        panel.set_xticks(sorted(set(data["factor"])), [f"{factor:g}" for factor in sorted(set(data["factor"]))])
        panel.minorticks_off()
    found = measures(tests).reset_index().assign(label=lambda frame: frame["algo"].map(study.labels))
    sns.scatterplot(found, x="nominal", y="worst", style="label", ax=panels[-1], **look)
    panels[-1].set(title="each seed", xlabel="nominal return", ylabel="return in its worst world")
    handles, labels = panels[0].get_legend_handles_labels()
    for panel in panels:
        panel.get_legend().remove()
        panel.grid(color="0.92")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="names of studies (default: all)")
    parser.add_argument("--file", type=Path, default=HERE / "studies.yml", help="file of the studies")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the CSV files and tables")
    parser.add_argument("--figures", type=Path, default=HERE / "figures", help="folder of the figures")
    args = parser.parse_args()
    for study in load_studies(args.file, args.studies):
        file = args.results / f"{study.name}_tests.csv"
        if not file.exists():
            parser.error(f"{file} is missing: run and report the study {study.name} first")
        tests = pd.read_csv(file)
        text = table(study, tests)
        print(f"{study.title or study.name}\n\n{text}")
        (args.results / f"{study.name}_robustness.md").write_text(text, encoding="utf-8")
        draw(study, tests, args.figures / f"{study.name}_robustness.png")


if __name__ == "__main__":
    main()
