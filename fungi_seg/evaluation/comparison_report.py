"""A comparison as tables: Markdown, CSV, LaTeX, JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from fungi_seg.evaluation.comparison import Comparison
from fungi_seg.evaluation.report import json_text
from fungi_seg.evaluation.words import interval_words, table_lines
from fungi_seg.provenance import settings_section
from fungi_seg.segmentation import LEVEL

CHANGED = 10  # images that are shown
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$"}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def result_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, percent: each result, and its difference to the first; `*` where that isn't chance."""
    several = any(result["seeds"] > 1 for result in comparison.results)
    header = ["result", "mIoU %", f"{LEVEL} % interval", *(["sd over seeds"] if several else [])]
    rows = []
    for number, result in enumerate(comparison.results):
        spread = [f"{100 * result['std']:.2f}" if result["seeds"] > 1 else "–"] if several else []
        change = [_change(result), interval_words(result["difference_interval"], "+")] if number else ["reference", ""]
        rows.append(
            [result["name"], f"{100 * result['miou']:.2f}", interval_words(result["interval"]), *spread, *change]
        )
    return [*header, "difference", f"paired {LEVEL} % interval"], rows


def class_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, percent: the IoU of each class with its interval, and differences to the first."""
    header, others = ["class"], comparison.results[1:]
    for result in comparison.results:
        header += [f"{result['name']} IoU %", f"{LEVEL} %"]
    for result in others:
        header += [f"{result['name']} − {comparison.names[0]}", f"paired {LEVEL} %"]
    rows = []
    for c, name in enumerate(comparison.classes):
        cells, known = [name], [result["classes"][c] for result in comparison.results]
        for one in known:
            cells += ["absent" if one["iou"] is None else f"{100 * one['iou']:.2f}", _bounds(one["interval"])]
        for one in known[1:]:
            cells += [_change(one), _bounds(one["difference_interval"], "+")]
        rows.append(cells)
    return header, rows


def image_table(comparison: Comparison, count: int = CHANGED) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, percent: the images that move a difference of mIoU most."""
    names = comparison.names
    header = ["images that changed most", *(f"{name} mIoU %" for name in names)]
    header += [f"moves {name} − {names[0]} by" for name in names[1:]]
    rows = []
    for image in comparison.changed_images(count):
        own = ("–" if value is None else f"{100 * value:.2f}" for value in image["miou"])
        rows.append([image["id"], *own, *(f"{100 * value:+.2f}" for value in image["moves"][1:])])
    return header, rows


def comparison_explanation(comparison: Comparison) -> str:
    """How the tables are to be read, in a few sentences."""
    return (
        f"{len(comparison.images)} images. Intervals: {LEVEL} % over images, by the jackknife (each image left out in "
        f"turn). Differences are to {comparison.names[0]}, paired: both without the same image each time. Where that "
        f"interval excludes 0 the difference is marked *, whether or not the intervals of the two figures overlap; of "
        f"many classes or results one in twenty is marked by chance."
    )


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as a person reads it."""
    lines = [f"# {' · '.join(comparison.names)}", "", comparison_explanation(comparison), ""]
    for table in (result_table(comparison), class_table(comparison), image_table(comparison)):
        lines += [*table_lines(*table), ""]
    if comparison.notes:
        lines += ["Notes:", "", *(f"- {note}" for note in comparison.notes), ""]
    return "\n".join([*lines, *settings_section({"metric": comparison.metric, "data": comparison.data})])


def comparison_json(comparison: Comparison) -> str:
    """The whole comparison as JSON, an image a line."""
    return json_text(asdict(comparison))


def comparison_csv(comparison: Comparison) -> str:
    """A line per result and class, and one per result for the mean; figures in 0..1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["result", "class", "iou", "low", "high", "difference", "difference_low", "difference_high"])
    for result in comparison.results:
        for name, iou, one in (
            ("(mean)", result["miou"], result),
            *((c["name"], c["iou"], c) for c in result["classes"]),
        ):
            bounds = (one["interval"] or ("", "")), (one["difference_interval"] or ("", ""))
            writer.writerow([result["name"], name, iou, *bounds[0], one["difference"], *bounds[1]])
    return text.getvalue()


def comparison_latex(comparison: Comparison) -> str:
    """Two tables, results and classes, that need the package booktabs."""
    header, rows = class_table(comparison)
    kept = [0, *range(1, 2 * len(comparison.results), 2), *range(1 + 2 * len(comparison.results), len(header))]
    shorter = [header[place] for place in kept], [[row[place] for place in kept] for row in rows]
    tables = (_tabular(*result_table(comparison)), _tabular(*shorter))
    return "% needs \\usepackage{booktabs}; * marks differences whose paired interval excludes 0\n" + "\n".join(tables)


def _tabular(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", "\\toprule", _latex_row(header), "\\midrule"]
    return "\n".join([*lines, *map(_latex_row, rows), "\\bottomrule", "\\end{tabular}", ""])


def _latex_row(cells: list[str]) -> str:
    found = []
    for cell in cells:
        text = "".join(LATEX.get(character, character) for character in cell.removesuffix(" *"))
        found.append(text.replace("−", "$-$") + ("$^{*}$" if cell.endswith(" *") else ""))
    return f"{' & '.join(found)} \\\\"


def _change(one: dict[str, Any]) -> str:
    if one["difference"] is None:
        return "–"
    return f"{100 * one['difference']:+.2f}{' *' if one['differs'] else ''}"


def _bounds(bounds: list[float] | None, sign: str = "") -> str:
    return "–" if bounds is None else interval_words(bounds, sign)
