"""Evaluate the trained models of a study with and without the policy's noise, as the 2018 paper's figure 3a does.

``python benchmarks/learning/stochastic.py reward_scale`` writes ``results/reward_scale_stochastic.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch as th
from final_evaluation import evaluate_run
from provenance import describe
from run import DEFAULT_OUT
from run_folder import RunFolder, State
from studies import load_studies

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=10_000, help="of environment and noise")
    args = parser.parse_args()
    th.set_num_threads(1)
    studies = load_studies()
    if args.study not in studies:
        parser.error(f"no study named {args.study}; there are {', '.join(studies)}")
    record = {"command": f"python benchmarks/learning/stochastic.py {args.study}", **describe()}
    del record["os"]  # as in the other tables
    rows = []
    for run in studies[args.study].runs():
        folder = RunFolder(args.out, run)
        if folder.state() is not State.FINISHED:
            print(f"missing {run.folder}")
            continue
        row: dict[str, object] = {"study": args.study, "algo": run.name, "env": run.env, "seed": run.seed}
        for kind, deterministic in (("deterministic", True), ("stochastic", False)):
            returns, _ = evaluate_run(
                folder.root, run.algo, run.env, args.episodes, args.seed, deterministic, device="cpu"
            )
            row[kind] = f"{np.mean(returns):.1f}"
        print(f"{run.folder}: deterministic {row['deterministic']}, stochastic {row['stochastic']}", flush=True)
        rows.append({**row, "episodes": args.episodes, **record})
    if not rows:
        parser.error(f"{args.out} has no finished run of {args.study}")
    with (args.results / f"{args.study}_stochastic.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
