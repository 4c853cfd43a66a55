"""CSV files, tables and figures of the finished runs of a study."""

from __future__ import annotations

import argparse

from sb3_sac_variants.study import optional
from sb3_sac_variants.study.collect import collect, read, write
from sb3_sac_variants.study.studies import Study
from sb3_sac_variants.study.table import final_table, published_table


def report(study: Study, args: argparse.Namespace) -> list[str]:
    """Write the files of one study.

    :param args: Options of the command
    :return: What is missing or falls short of the study's aims
    """
    optional("seaborn")
    from sb3_sac_variants.study.figure import draw

    folder = args.results or args.file.parent / "results"
    results = stored = read(study.name, folder)
    missing: list[str] = []
    if not args.redraw:
        results, missing = collect(study, args.out, stored)
        if len(results["summary"]):
            write(results, study.name, folder)
    if not len(results["summary"]):
        return [f"{study.name}: missing {run}" for run in missing] or [f"{study.name}: no results in {folder}"]
    text, short = final_table(study, results)
    if study.published:
        text += f"\nBeside what is published, from the evaluations in training:\n\n{published_table(study, results)}"
    (folder / f"{study.name}.md").write_text(text, encoding="utf-8")
    draw(study, results, (args.figures or args.file.parent / "figures") / f"{study.name}.png")
    print(
        f"{study.title or study.name} ({study.name}): {len(results['summary'])} of {len(study.runs())} runs\n\n{text}"
    )
    return [f"{study.name}: missing {run}" for run in missing] + short
