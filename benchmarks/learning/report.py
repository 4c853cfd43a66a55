"""Collect the finished runs of the studies into CSV files, Markdown tables and figures.

`--redraw` makes tables and figures anew from the CSV files, without the runs. `--check` ends with status 1 if a run is
missing, a threshold is not reached, or an algorithm is below its study's baseline beyond the seeds' spread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from collect import Collection, collect
from figure import draw
from run import DEFAULT_OUT, choose_studies
from studies import STUDIES_FILE, Study
from table import Line, markdown, summarise

HERE = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Command line.

    :param arguments: Command line; default: that of this process
    :return: 0, or 1 if ``--check`` finds something wanting, or 2 for a wrong argument
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="names of studies (default: all that have finished runs)")
    parser.add_argument("--studies-file", type=Path, default=STUDIES_FILE, help="table of studies")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"folder of the runs (default: {DEFAULT_OUT})")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of CSV files and tables")
    parser.add_argument("--figures", type=Path, default=HERE / "figures", help="folder of figures")
    parser.add_argument("--redraw", action="store_true", help="start from the CSV files instead of the runs")
    parser.add_argument("--replace", action="store_true", help="overwrite results even by those of fewer runs")
    parser.add_argument("--add", action="store_true", help="keep the results of runs that are not in --out")
    parser.add_argument("--check", action="store_true", help="end with status 1 if a result falls short")
    args = parser.parse_args(arguments)
    try:
        studies = choose_studies(args.studies_file, args.studies)
        short = [line for study in studies for line in report(study, args)]
    except (OSError, ValueError) as error:
        print(f"error: {error}")
        return 2
    for line in short:
        print(f"SHORT {line}")
    return 1 if args.check and short else 0


def report(study: Study, args: argparse.Namespace) -> list[str]:
    """Write the files of one study.

    :param study: The study
    :param args: The options
    :return: What falls short of the study's aims
    :raises ValueError: If results of more runs than there are would be overwritten
    """
    if args.redraw:
        collection = Collection.read(study, args.results)
    else:
        collection = collect(study, args.out)
        stored = Collection.read(study, args.results)
        if args.add:
            collection.add(stored, study)
        if len(collection.summary) < len(stored.summary) and not args.replace:
            raise ValueError(
                f"{args.out} has {len(collection.summary)} finished runs of {study.name} and {args.results} results of "
                f"{len(stored.summary)}: choose another --results, or pass --add to keep those of the others, or "
                "--replace to lose them"
            )
        if collection.summary:
            collection.write(args.results)
    if collection.summary:
        lines = summarise(study, collection.summary, collection.scalars)
        figure = args.figures / f"{study.name}.png"
        draw(study, collection, figure)
        text = f"{markdown(study, lines)}\n"
        (args.results / f"{study.name}.md").write_text(text, encoding="utf-8")
        print(f"{study.title} ({study.name}): {len(collection.summary)} of {len(study.runs())} runs\n\n{text}")
    else:
        lines = []
    return [f"{study.name}: missing {run}" for run in collection.missing] + shortcomings(study, lines)


def shortcomings(study: Study, lines: list[Line]) -> list[str]:
    """
    :param study: The study
    :param lines: Its results
    :return: A sentence for each result that the study does not accept
    """
    found = []
    for line in lines:
        where = f"{study.name}: {line.label} on {line.env}, mean return {line.returns.mean():.2f}"
        if line.reaches is False:
            found.append(f"{where}, is below {study.final.threshold:g}")
        if line.keeps_up is False:
            found.append(f"{where}, is below {line.baseline} beyond the seeds' spread")
    return found


if __name__ == "__main__":
    sys.exit(main())
