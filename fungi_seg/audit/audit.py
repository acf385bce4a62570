"""Audit of a memory bank: each annotated image is segmented by all the others, and what they say is compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from fungi_seg.audit.other_images import OtherImages, votes_of_others
from fungi_seg.audit.redundancy import LEAST_IMAGES, Redundancy, redundant_images, sample_lists
from fungi_seg.bank import FULL, MemoryBank
from fungi_seg.errors import BankError, check_unused
from fungi_seg.evaluation import intersection_over_union
from fungi_seg.progress import Stopwatch, pausing
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig

BINS = 10
PRIOR_ROWS = 10
SMALL_AREAS = 0.25
SUSPICIOUS = 0.1  # of 24 images, wrong masks had 0.10 to 0.29, and without any the highest was 0.09
NAMED = 10
IMAGE_HEADER = ("image", "suspicion", "agreed %", "same %", "rows", "main disagreement")
CLASS_HEADER = ("class", "rows", "images", "agreed %", "IoU %", "most confused with")
REDUNDANT_HEADER = ("image", "rows", "votes changed alone %")


@dataclass(frozen=True)
class Audit:
    """What the images of a bank say of each other.

    Attributes:
        images: a dictionary per image with rows, the most suspicious first: id, rows, agreement, same_class, suspicion,
            and of the contradiction that explains most of it annotated, voted (class names, none without one) and
            disputed_rows.
        classes: a dictionary per class: name, rows, images, agreement, iou (none if absent), confused_with, confused
            (the share of its rows that is), thin (why it is, or none).
        redundant: a dictionary per image that can go, in the order of their removal: id, rows, changed_alone.
        redundancy: changed (share of votes that differ once all of them are removed), queries, images.
        settings: everything that the numbers depend on.
        seconds: by stage.
        winners: `[M]` class that the other images vote for at each row; not in the JSON.
    """

    images: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    redundant: list[dict[str, Any]]
    redundancy: dict[str, Any]
    settings: dict[str, Any]
    seconds: dict[str, float]
    winners: np.ndarray = field(repr=False, compare=False)

    def to_json(self) -> str:
        """The whole audit as JSON."""
        values = {name: value for name, value in vars(self).items() if name != "winners"}
        return json.dumps(values, indent=1, ensure_ascii=False)

    def to_markdown(self) -> str:
        """The audit as a person reads it."""
        lines = [
            f"# Audit of {self.settings['bank']}",
            "",
            f"{self.settings['rows']} rows of {len(self.images)} images.",
        ]
        sections = (
            ("Most suspicious annotations", IMAGE_HEADER, self.image_rows(), self.verdict()),
            ("Classes", CLASS_HEADER, self.class_rows(), self.thin_line()),
            ("Redundant images", REDUNDANT_HEADER, self.redundant_rows(), self.redundant_line()),
        )
        for heading, header, rows, text in sections:
            lines += ["", f"## {heading}", ""]
            lines += [f"{text}\n"] if text else []
            if rows:
                lines += [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
                lines += [f"| {' | '.join(row)} |" for row in rows]
        lines += ["", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in self.seconds.items()]
        lines += ["", "Settings:", "", "```json", json.dumps(self.settings, indent=1, ensure_ascii=False), "```", ""]
        return "\n".join(lines)

    def image_rows(self, top: int | None = None) -> list[tuple[str, ...]]:
        """The `top` most suspicious images as text, under `IMAGE_HEADER`."""
        return [
            (
                image["id"],
                f"{image['suspicion']:.3f}",
                f"{100 * image['agreement']:.1f}",
                f"{100 * image['same_class']:.1f}",
                str(image["rows"]),
                dispute_line(image),
            )
            for image in self.images[:top]
        ]

    def class_rows(self) -> list[tuple[str, ...]]:
        """Classes as text, under `CLASS_HEADER`."""
        return [
            (
                c["name"],
                str(c["rows"]),
                str(c["images"]),
                "–" if c["agreement"] is None else f"{100 * c['agreement']:.1f}",
                "absent" if c["iou"] is None else f"{100 * c['iou']:.1f}",
                f"{c['confused_with']} ({100 * c['confused']:.1f} %)" if c["confused_with"] else "–",
            )
            for c in self.classes
        ]

    def redundant_rows(self) -> list[tuple[str, ...]]:
        """Images that can go as text, under `REDUNDANT_HEADER`."""
        return [(r["id"], str(r["rows"]), f"{100 * r['changed_alone']:.2f}") for r in self.redundant]

    def verdict(self) -> str:
        """Whether any image is suspicious, in one line."""
        found = [image["id"] for image in self.images if image["suspicion"] >= SUSPICIOUS]
        if not found:
            return f"Nothing is suspicious: no image reaches a suspicion of {SUSPICIOUS}."
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        names = f"{', '.join(found[:NAMED])}{more}"
        return f"{len(found)} of {len(self.images)} images reach a suspicion of {SUSPICIOUS}; look at {names}."

    def thin_line(self) -> str:
        """Which classes are thin and why, in one line; nothing if none is."""
        thin = [f"{c['name']} ({c['thin']})" for c in self.classes if c["thin"]]
        return f"Thin: {', '.join(thin)}. Annotate more images with them." if thin else ""

    def redundant_line(self) -> str:
        """How many images can go and what that changes, in one line."""
        found = self.redundancy
        if not self.redundant:
            return "None: no image can go without changing votes, or without leaving a class thin."
        return (
            f"{len(self.redundant)} of {found['images']} images can go together: {100 * found['changed']:.2f} % of "
            f"{found['queries']} votes change."
        )


def dispute_line(image: Mapping[str, Any]) -> str:
    """The contradiction that explains most of an image's suspicion, as text."""
    if image["annotated"] is None:
        return "–"
    return f"{image['annotated']}, others say {image['voted']} ({image['disputed_rows']} rows)"


def audit_bank(
    bank: MemoryBank, decoder: DecoderConfig | None = None, index: IndexConfig | None = None, progress: bool = False
) -> Audit:
    """Hold each image's annotation against the votes of all other images (leave one image out).

    Each row of the bank is a query; its neighbours are the nearest rows of other images, K of them, or as many as there
    are. No backbone runs. In memory: scores of every row, `2·C` bytes each.

    - `agreement`, of an image or a class: the share of its label distributions that the votes give the same class
      (`Σ min(annotated, voted)` over classes, mean over rows); `same_class`: the share of rows whose largest class is
      the one that wins the vote; `iou`: of the class, from the same shares summed up over all rows.
    - `suspicion`: see `suspicion`.
    - `thin` classes: held by fewer than K rows, so that they lose even a vote that finds all of them; or by fewer than
      3 images, so that where one is questioned there aren't two others to judge.
    - `redundant` images: see `fungi_seg.audit.redundancy.redundant_images`.

    Args:
        bank: an open bank.
        decoder: how neighbours vote.
        index: how they are searched.
        progress: report on standard error.

    Raises:
        BankError: rows of one image alone.
        FungiSegError: an index that can't be made, or a decoder of which the vote isn't all.
    """
    decoder, index = decoder or DecoderConfig(), index or IndexConfig()
    others_than_the_vote = [field.name for field in fields(decoder) if field.name not in ("k", "temperature")]
    check_unused(decoder, "decoder.", others_than_the_vote, "an audit asks neighbours alone", "leave it out")
    count = np.bincount(bank.rows.source, minlength=len(bank.info.sources))
    if (count > 0).sum() < 2:
        raise BankError(
            f"{bank.path}: the bank's rows come from one image; an audit compares images with each other and needs at "
            f"least 2. Build the bank from more images"
        )
    timed = Stopwatch()
    with timed("index"):
        others = OtherImages(bank, index)
    with timed("votes"):
        lists = sample_lists(bank, others, decoder)
        scores, winners = votes_of_others(bank, others, decoder, progress, lists)
    with timed("comparison"):
        images, confusion = _compared(bank, scores, winners)
    agreement = np.full(len(count), np.nan)
    agreement[list(images)] = [image["same_class"] for image in images.values()]
    with timed("redundancy"):
        redundancy = redundant_images(bank, others, decoder, agreement, progress, lists)
    settings = {
        "bank": bank.place,
        "rows": len(bank),
        "decoder": asdict(decoder),
        "index": asdict(index) | {"built": others.kind},
    }
    return Audit(
        sorted(images.values(), key=lambda image: -image["suspicion"]),
        _classes(bank, confusion, decoder.k),
        [
            {"id": bank.info.sources[image], "rows": int(count[image]), "changed_alone": alone}
            for image, alone in zip(redundancy.images, redundancy.alone, strict=True)
        ],
        _summary(redundancy),
        settings,
        dict(timed.seconds),
        winners,
    )


def _summary(redundancy: Redundancy) -> dict[str, Any]:
    return {"changed": redundancy.changed, "queries": redundancy.queries, "images": redundancy.images_before}


def _compared(
    bank: MemoryBank, scores: np.ndarray, winners: np.ndarray
) -> tuple[dict[int, dict[str, Any]], np.ndarray]:
    """A dictionary per image with rows, by its index among the sources; `[C, C]` label shares, annotated by voted."""
    classes, source = bank.info.classes, np.asarray(bank.rows.source)
    labels = bank.rows.labels
    trust = Trust(bank, scores, winners)
    order = np.argsort(source, kind="stable")
    confusion, images = np.zeros((len(classes), len(classes))), {}
    for rows in pausing(np.split(order, np.flatnonzero(np.diff(source[order])) + 1)):
        annotated, voted = labels.take(rows).dense(len(classes)), scores[rows].astype(np.float32)
        same = np.minimum(annotated, voted)
        rest = np.maximum(1 - same.sum(1, keepdims=True), 1e-6)
        confusion += np.diag(same.sum(0)) + (annotated - same).T @ ((voted - same) / rest)
        evidence = trust.evidence(rows, annotated, voted)
        a, v = np.unravel_index(int(evidence.argmax()), evidence.shape)
        disputed = (annotated.argmax(1) == a) & (winners[rows] == v)
        known = evidence[a, v] > 0
        images[int(source[rows[0]])] = {
            "id": bank.info.sources[source[rows[0]]],
            "rows": len(rows),
            "agreement": float(same.sum(1).mean()),
            "same_class": float((annotated.argmax(1) == winners[rows]).mean()),
            "suspicion": suspicion(evidence, winners[rows]),
            "annotated": classes[a] if known else None,
            "voted": classes[v] if known else None,
            "disputed_rows": int(disputed.sum()) if known else 0,
        }
    return images, confusion


class Trust:
    """What annotation is usual where the other images vote as they do: the class that wins, and how high.

    For each winning class and tenth of its score: the mean label distribution of the rows that got such a vote, with 10
    rows added of the mean over all scores of that class. A class that wins low, or is often confused, leaves the
    annotation open; one that wins high and is always right doesn't.

    Args:
        bank: an open bank.
        scores: `[M, C]` class scores of its rows, from the other images.
        winners: `[M]` the class with the highest.
    """

    def __init__(self, bank: MemoryBank, scores: np.ndarray, winners: np.ndarray):
        self._classes, self._winners = len(bank.info.classes), winners
        self._cells = winners * BINS + np.minimum((scores.max(1) * BINS).astype(np.int64), BINS - 1)
        labels = bank.rows.labels
        owner, entries = labels.entries(np.arange(len(labels)))
        flat = self._cells[owner] * self._classes + labels.ids[entries]
        counts = np.bincount(flat, labels.weights[entries] / FULL, minlength=self._classes * BINS * self._classes)
        self._counts = counts.reshape(self._classes * BINS, self._classes)
        self._totals = self._counts.reshape(self._classes, BINS, self._classes).sum(1)

    def evidence(self, rows: np.ndarray, annotated: np.ndarray, voted: np.ndarray) -> np.ndarray:
        """How far an image's annotation is contradicted beyond what is usual, `[C, C]`, annotated by voted class.

        A row annotated as `a` whose vote goes to `v` by a margin of `m = score(v) − score(a)` contradicts by `m`. From
        this is taken what would be expected if its annotation were drawn from those that are usual for such a vote in
        the *other* images. Summed over rows it is about 0 where the image is annotated like the others, however hard it
        is.

        Args:
            rows: `[n]` all rows of one image.
            annotated: `[n, C]` their label distributions.
            voted: `[n, C]` their class scores.
        """
        winners = self._winners[rows]
        cells, at = np.unique(self._cells[rows], return_inverse=True)
        own, totals = np.zeros((len(cells), self._classes)), np.zeros((self._classes, self._classes))
        np.add.at(own, at, annotated)
        np.add.at(totals, winners, annotated)
        overall = np.maximum(self._totals - totals, 0) + 1 / self._classes
        overall /= overall.sum(1, keepdims=True)
        usual = np.maximum(self._counts[cells] - own, 0) + PRIOR_ROWS * overall[cells // BINS]
        usual /= usual.sum(1, keepdims=True)
        margin = np.take_along_axis(voted, winners[:, None], 1) - voted
        evidence = np.zeros((self._classes, self._classes))
        np.add.at(evidence, winners, (annotated - usual[at]) * margin)
        return evidence.T


def suspicion(evidence: np.ndarray, winners: np.ndarray) -> float:
    """How confidently the other images contradict an annotation, from its evidence: usual is about 0, and 1 is blatant.

    For each class that wins votes in the image: the mean evidence against the annotation of those rows, times the share
    of the image's rows that they are, to the power ¼; and of these the sum. A mean over rows would drown an object that
    was left out, of which few rows tell, while a mean over classes would let a single odd row count as much as half
    the image.

    Args:
        evidence: `[C, C]` from `Trust.evidence`.
        winners: `[n]` class that wins at each row of the image.
    """
    rows = np.bincount(winners, minlength=len(evidence))
    return float((evidence.sum(0) / (rows + 1) * (rows / len(winners)) ** SMALL_AREAS).sum())


def _classes(bank: MemoryBank, confusion: np.ndarray, k: int) -> list[dict[str, Any]]:
    """A dictionary per class, from label shares summed up over all rows, `[C, C]`."""
    labels, names = bank.rows.labels, bank.info.classes
    owner, entries = labels.entries(np.arange(len(labels)))
    pairs = np.unique(np.asarray(bank.rows.source)[owner].astype(np.int64) * len(names) + labels.ids[entries])
    images, rows = np.bincount(pairs % len(names), minlength=len(names)), bank.class_rows()
    iou, lines = intersection_over_union(confusion), []
    for i, name in enumerate(names):
        total, wrong = confusion[i].sum(), np.where(np.arange(len(names)) == i, 0, confusion[i])
        other = int(wrong.argmax())
        lines.append(
            {
                "name": name,
                "rows": int(rows[i]),
                "images": int(images[i]),
                "agreement": float(confusion[i, i] / total) if total > 0 else None,
                "iou": float(iou[i]) if total > 0 else None,
                "confused_with": names[other] if wrong[other] > 0 else None,
                "confused": float(wrong[other] / total) if total > 0 else 0.0,
                "thin": _thin(int(rows[i]), int(images[i]), k),
            }
        )
    return lines


def _thin(rows: int, images: int, k: int) -> str | None:
    if images < LEAST_IMAGES:
        return f"in {images} images, fewer than {LEAST_IMAGES}"
    return f"{rows} rows, fewer than the {k} neighbours that vote" if rows < k else None
