"""What an evaluation of image features found, as JSON, tables and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungi_seg.files import replacing
from fungi_seg.images import BLUE, DARK, DPI, GREY
from fungi_seg.provenance import settings_section

HEADLINE = ("top1", "accuracy", "map")
FURTHER = {
    "Mean per class": ("mean_per_class",),
    "Clusters": ("nmi", "ari"),
    "Precision among the first images retrieved": ("mp@1", "mp@5", "mp@10"),
}
METHODS = {"knn_weighted": "weighted", "retrieval_medium": "medium", "retrieval_hard": "hard"}
METRICS = {
    "top1": "top-1",
    "mean_per_class": "mean per class",
    "nmi": "NMI",
    "ari": "ARI",
    "map": "mAP",
    "mp@1": "mP@1",
    "mp@5": "mP@5",
    "mp@10": "mP@10",
}
REFERENCE = "embedding"
PANELS_ACROSS = 4
PANEL_INCHES = 2.6
BAR_INCHES = 0.24
PAD_INCHES = 0.1
FIGURES_ROOM = 1.22
TICKS = 5
LEGEND = "grey, dashed: the embedding alone; dark: the best; whiskers: standard deviation over extractions and draws"


@dataclass(frozen=True)
class ImageReport:
    """What features of whole images are worth, by combination of their parts.

    Attributes:
        results: a dictionary per features, method, shots (none: every training image) and metric, with `values` (one
            per extraction and draw, 0..1, an ARI from −0.5), their `mean`, and `std`, the sample standard deviation
            (0 for a single value); top-1 of the linear probe also has `chosen_c`, one per value.
        settings: everything that the numbers depend on.
        notes: what to know when reading them.
        seconds: by stage.
    """

    results: list[dict[str, Any]]
    settings: dict[str, Any]
    notes: list[str]
    seconds: dict[str, float]

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def to_markdown(self) -> str:
        """The report as a person reads it: a row per combination of parts, the best of each column in bold."""
        data = self.settings["data"]
        lines = [
            "# Image features compared",
            "",
            f"{data['train']} training images, {data['val']} validation images; features of "
            f"{' + '.join(data['parts'])}. Percent"
            + (
                "; ± is the sample standard deviation over extractions and draws."
                if any(len(r["values"]) > 1 for r in self.results)
                else "."
            ),
            "",
            *self._markdown_table(HEADLINE),
        ]
        for heading, metrics in FURTHER.items():
            if any(r["metric"] in metrics for r in self.results):
                lines += ["", f"## {heading}", "", *self._markdown_table(metrics)]
        if self.notes:
            lines += ["", "Notes:", "", *(f"- {note}" for note in self.notes)]
        lines += ["", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in self.seconds.items()]
        lines += ["", *settings_section(self.settings)]
        return "\n".join(lines)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The headline figures as text: the header, and a row per combination of parts."""
        return self._table(HEADLINE)

    def chart(self, path: Path) -> None:
        """The headline figures as a PNG: a panel per method, a bar per combination, the embedding alone as a line."""
        columns = self._columns(HEADLINE)
        combinations = self._combinations()
        across = min(PANELS_ACROSS, len(columns))
        down = -(-len(columns) // across)
        figure = _figure(across, down, len(combinations))
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for panel, (title, cells) in zip(panels, columns.items(), strict=False):
            _draw(panel, title, [cells[name] for name in combinations])
        for panel in panels[len(columns) :]:
            panel.remove()
        figure.supxlabel(LEGEND, fontsize=8)
        with replacing(path) as draft:
            figure.savefig(draft, format="png", dpi=DPI)

    def _combinations(self) -> list[str]:
        return list(dict.fromkeys(r["features"] for r in self.results))

    def _columns(self, metrics: Iterable[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """By title of the column, then by combination: the results of these metrics."""
        columns: dict[str, dict[str, dict[str, Any]]] = {}
        for result in self.results:
            if result["metric"] in metrics:
                columns.setdefault(_title(result), {})[result["features"]] = result
        return columns

    def _table(self, metrics: Iterable[str], bold: bool = False) -> tuple[list[str], list[list[str]]]:
        columns = self._columns(metrics)
        rows = [[name] for name in self._combinations()]
        for cells in columns.values():
            best = max(_percent(r["mean"]) for r in cells.values())
            for row in rows:
                result = cells[row[0]]
                text = _text(result)
                row.append(f"**{text}**" if bold and _percent(result["mean"]) == best else text)
        return ["features", *columns], rows

    def _markdown_table(self, metrics: Iterable[str]) -> list[str]:
        header, rows = self._table(metrics, bold=True)
        rule = "|---|" + "---:|" * (len(header) - 1)
        return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _title(result: dict[str, Any]) -> str:
    method = METHODS.get(result["method"], result["method"])
    if result["shots"] is not None:
        return f"{method}, {result['shots']} a class"
    return f"{method} {METRICS.get(result['metric'], result['metric'])}"


def _percent(share: float) -> float:
    """As shown, so that what reads the same counts the same."""
    return round(100 * share, 2)


def _text(result: dict[str, Any]) -> str:
    text = f"{100 * result['mean']:.2f}"
    return f"{text} ± {100 * result['std']:.2f}" if len(result["values"]) > 1 else text


def _figure(across: int, down: int, bars: int) -> Any:
    """An empty figure that no global state of matplotlib knows of."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (1.8 + PANEL_INCHES * across, (1.0 + BAR_INCHES * max(bars, 3)) * down + 0.3)
    return Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=PAD_INCHES, h_pad=PAD_INCHES))


def _draw(panel: Any, title: str, results: list[dict[str, Any]]) -> None:
    """One panel: a horizontal bar per combination, the first at the top, and its figure at the right edge."""
    from matplotlib.ticker import MaxNLocator

    names = [r["features"] for r in results]
    means, spreads = ([100 * r[value] for r in results] for value in ("mean", "std"))
    best = max(round(mean, 1) for mean in means)
    colours = [
        GREY if name == REFERENCE else DARK if round(mean, 1) == best else BLUE
        for name, mean in zip(names, means, strict=True)
    ]
    panel.barh(range(len(names)), means, color=colours, height=0.72)
    for row, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        if spread:
            panel.errorbar(mean, row, xerr=spread, color="black", capsize=2, linewidth=0.9)
        panel.annotate(
            f"{mean:.1f}",
            (1, row),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            fontsize=7.5,
            weight="bold" if round(mean, 1) == best else "normal",
        )
    if REFERENCE in names:
        panel.axvline(means[names.index(REFERENCE)], color="black", linewidth=0.8, linestyle="--")
    reach = max(mean + spread for mean, spread in zip(means, spreads, strict=True))
    panel.set_xlim(0, FIGURES_ROOM * max(reach, 1))
    panel.set_xticks([tick for tick in MaxNLocator(TICKS).tick_values(0, max(reach, 1)) if 0 <= tick <= max(reach, 1)])
    panel.spines["bottom"].set_bounds(0, max(reach, 1))
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_title(f"{title}, %", fontsize=9)
    panel.tick_params(axis="x", labelsize=7.5)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right"]].set_visible(False)
