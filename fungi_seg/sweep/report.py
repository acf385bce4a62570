"""What a sweep found: intervals over images, paired differences, tables and a chart."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.evaluation import interval_words
from fungi_seg.files import replacing
from fungi_seg.images import DARK, DPI, GREY
from fungi_seg.provenance import settings_section
from fungi_seg.segmentation import LEVEL, mean_iou_interval, mean_iou_of
from fungi_seg.sweep.settings import DIMENSIONS, Setting

PANEL_INCHES = 4.4
DODGE = 0.08
LONG_LABEL = 10  # characters, from which labels are turned
NAMES = {"size": "bank size", "kind": "features", "gradient_weight": "gradient weight"}


@dataclass(frozen=True)
class Measured:
    """What was counted with one setting.

    Attributes:
        rows: of the bank.
        built: the kind of index that was searched.
        counts: `[S, images, 3, C]` int64, by seed: labelled pixels of each class that are right, that the truth holds,
            that were predicted.
    """

    rows: int
    built: str
    counts: np.ndarray


def summarise(measured: Mapping[Setting, Measured], reference: Setting) -> list[dict[str, Any]]:
    """A dictionary per setting, in 0..1.

    `values` are the mIoU by seed, `miou` their mean, `std` their sample standard deviation (0 for one seed), `interval`
    that of `miou` over images. `difference` is `miou` less that of `reference`, with its paired interval;
    `differs` says whether that excludes 0. Both intervals are None where fewer than two images have a label.
    """
    values = {setting: mean_iou_of(m.counts.sum(1)) for setting, m in measured.items()}
    results = []
    for setting, m in measured.items():
        by_seed = values[setting]
        paired = mean_iou_interval(m.counts, measured[reference].counts)
        results.append(
            asdict(setting)
            | {
                "rows": m.rows,
                "built": m.built,
                "values": by_seed.tolist(),
                "miou": float(by_seed.mean()),
                "std": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0,
                "interval": mean_iou_interval(m.counts),
                "difference": float(by_seed.mean() - values[reference].mean()),
                "difference_interval": paired,
                "differs": paired is not None and (paired[0] > 0 or paired[1] < 0),
            }
        )
    return results


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found.

    Attributes:
        results: from `summarise`.
        reference: the setting that the others are compared with.
        settings: everything that the numbers depend on.
        notes: what to know when reading them.
        seconds: by stage.
    """

    results: list[dict[str, Any]]
    reference: dict[str, Any]
    settings: dict[str, Any]
    notes: list[str]
    seconds: dict[str, float]

    @property
    def best(self) -> dict[str, Any]:
        """The result with the highest mIoU, the first of several."""
        return max(self.results, key=lambda result: result["miou"])

    @property
    def swept(self) -> tuple[str, ...]:
        """The dimensions with more than one value."""
        return tuple(name for name in DIMENSIONS if len(self.settings["sweep"][name]) > 1)

    def explanation(self) -> str:
        """How the table is to be read, in a few sentences."""
        data, sweep = self.settings["data"], self.settings["sweep"]
        reference = self.reference
        fixed = [
            _words(name, reference[name]) for name in DIMENSIONS if name not in self.swept and _told(name, reference)
        ]
        patches = " or ".join(map(str, dict.fromkeys(data["labelled_patches"].values())))
        return (
            f"{data['train_images']} training images with {patches} labelled patches, "
            f"{data['val_images']} validation images; mean over seeds {', '.join(map(str, sweep['seeds']))}. "
            + (f"Everywhere: {', '.join(fixed)}. " if fixed else "")
            + f"Intervals: {LEVEL} % over images, by the jackknife (each image left out in turn). Differences are to "
            f"{self._name(self.reference)}, paired: both without the same image each time. Where that interval "
            f"excludes 0 the difference is marked *, whether or not the intervals of the two mIoU overlap; of many "
            f"settings one in twenty would be marked by chance."
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """As text: the header, and a row per setting, percent."""
        several = len(self.settings["sweep"]["seeds"]) > 1
        header = [NAMES.get(name, name) for name in self.swept]
        header += ["mIoU %", f"{LEVEL} % interval", *(["sd over seeds"] if several else []), "difference", "paired"]
        rows = []
        for result in self.results:
            row = [_value(name, result[name]) for name in self.swept]
            row += [f"{100 * result['miou']:.2f}", interval_words(result["interval"])]
            row += [f"{100 * result['std']:.2f}"] if several else []
            if all(result[name] == value for name, value in self.reference.items()):
                row += ["reference", ""]
            else:
                mark = " *" if result["differs"] else ""
                row += [f"{100 * result['difference']:+.2f}{mark}", interval_words(result["difference_interval"], "+")]
            rows.append(row)
        return header, rows

    def summary(self) -> str:
        """The best setting and what it gains, in a line."""
        best = self.best
        line = f"best: {self._name(best)}, mIoU {100 * best['miou']:.2f} %"
        if self._name(best) == self._name(self.reference):
            return f"{line}, which is the reference"
        gain = f"{100 * best['difference']:+.2f} to the reference ({interval_words(best['difference_interval'], '+')})"
        return f"{line}, {gain}" + ("" if best["differs"] else ": no difference that these images show")

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def to_csv(self) -> str:
        """A line per setting and seed: the setting, bank rows, index, seed, mIoU in 0..1."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*DIMENSIONS, "rows", "built", "seed", "miou"])
        for result in self.results:
            for seed, value in zip(self.settings["sweep"]["seeds"], result["values"], strict=True):
                where = [_value(name, result[name]) for name in DIMENSIONS]
                writer.writerow([*where, result["rows"], result["built"], seed, value])
        return text.getvalue()

    def to_markdown(self) -> str:
        """The report as a person reads it, the best setting in bold."""
        header, rows = self.table()
        for result, row in zip(self.results, rows, strict=True):
            if result is self.best:
                row[len(self.swept)] = f"**{row[len(self.swept)]}**"
        lines = ["# Sweep", "", self.summary(), "", self.explanation(), ""]
        lines += [f"| {' | '.join(header)} |", "|" + "---:|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]
        if self.notes:
            lines += ["", "Notes:", "", *(f"- {note}" for note in self.notes)]
        lines += ["", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in self.seconds.items()]
        lines += ["", *settings_section(self.settings)]
        return "\n".join(lines)

    def chart(self, path: Path) -> None:
        """mIoU and its interval as a PNG: a panel per dimension that is swept, the others as in reference and best."""
        from matplotlib.figure import Figure

        names = self.swept or DIMENSIONS[:1]
        figure = Figure(figsize=(PANEL_INCHES * len(names) + 0.4, 4.2), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
        for panel, name in zip(panels, names, strict=True):
            self._draw(panel, name)
        panels[0].set_ylabel("mIoU %")
        figure.supxlabel(
            f"bars: {LEVEL} % interval over images; filled: the paired difference to the reference "
            f"({self._name(self.reference)}) excludes 0",
            fontsize=8,
        )
        with replacing(path) as draft:
            figure.savefig(draft, format="png", dpi=DPI)

    def _draw(self, panel: Any, name: str) -> None:
        values = self.settings["sweep"][name]
        lines = {"best": self.best, "reference": self.reference}
        others = [other for other in self.swept if other != name]
        if all(self.best[other] == self.reference[other] for other in others):
            lines = {"reference and best": self.reference}
        for place, (label, setting) in enumerate(lines.items()):
            found = [self._beside(setting, name, value) for value in values]
            results = [r for r in found if r]
            if not results:  # weights of the gradient beside a backbone without gradients
                continue
            x = np.array([i for i, r in enumerate(found) if r]) + DODGE * (place - (len(lines) - 1) / 2)
            middle = 100 * np.array([r["miou"] for r in results])
            bounds = [r["interval"] or (np.nan, np.nan) for r in results]  # without an interval no bar is drawn
            low, high = 100 * np.array(bounds).T
            colour = DARK if label == "best" else GREY
            others_set = ", ".join(_words(other, setting[other]) for other in others if _told(other, setting))
            panel.errorbar(x, middle, (middle - low, high - middle), color=colour, capsize=3, linewidth=1.2,
                           label=f"{others_set} ({label})")  # fmt: skip
            fill = [colour if r["differs"] else "white" for r in results]
            panel.scatter(x, middle, s=32, c=fill, edgecolors=colour, linewidths=1.2, zorder=3)
        labels = [self._label(name, value) for value in values]
        turned = {"rotation": 20, "ha": "right"} if max(map(len, labels)) > LONG_LABEL else {}
        panel.set_xticks(range(len(values)), labels, fontsize=8, **turned)
        panel.set_xlim(-0.5, len(values) - 0.5)
        panel.set_xlabel(NAMES.get(name, name))
        panel.grid(axis="y", color="#e4e4e4")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        if others and panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False)

    def _label(self, name: str, value: Any) -> str:
        """What an axis says of a value; of a backbone, where it is shown with other features than the rest."""
        found = self._beside(self.reference, name, value) if name == "backbone" else None
        other = found and found["kind"] != self.reference["kind"]
        return f"{_value(name, value)}, {found['kind']}" if found and other else _value(name, value)

    def _beside(self, setting: Mapping[str, Any], name: str, value: Any) -> dict[str, Any] | None:
        """The result that differs from a setting in one dimension only; none where there is no such combination.

        Of a backbone without gradients it is that of plain features.
        """
        wanted = {one: setting[one] for one in DIMENSIONS} | {name: value}
        if name == "gradient_weight":
            wanted["kind"] = "fungi"
        if wanted["kind"] == "plain":
            wanted["gradient_weight"] = None
        elif wanted["gradient_weight"] is None:
            wanted["gradient_weight"] = self.settings["sweep"]["gradient_weight"][0]
        same = [r for r in self.results if all(r[one] == wanted[one] for one in DIMENSIONS)]
        if not same and name == "backbone" and wanted["kind"] != "plain":  # it has no gradients
            return self._beside({**setting, "kind": "plain"}, name, value)
        return same[0] if same else None

    def _name(self, setting: Mapping[str, Any]) -> str:
        shown = (name for name in self.swept or DIMENSIONS if _told(name, setting))
        return ", ".join(_words(name, setting[name]) for name in shown)


def _told(name: str, setting: Mapping[str, Any]) -> bool:
    """Whether a setting says something: plain features have no gradient to weight."""
    return name != "gradient_weight" or setting[name] is not None


def _value(name: str, value: Any) -> str:
    if value is None:
        return "all" if name == "size" else "–"
    return str(value)


def _words(name: str, value: Any) -> str:
    return f"{NAMES.get(name, name)} {_value(name, value)}"
