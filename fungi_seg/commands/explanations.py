"""An explanation as tables, and the annotated images that it names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table

from fungi_seg.bank import SourceImages
from fungi_seg.commands.output import console
from fungi_seg.datasets import Sample
from fungi_seg.errors import DataError
from fungi_seg.segmentation import Explanation

MOST_IMAGES = 20  # in the table of a region
log = logging.getLogger(__name__)


def print_explanation(explanation: Explanation) -> None:
    """Print who voted: patches for a pixel, images for a region; and what a regression says beside them."""
    console().print(f"{explanation.what}: {_listed(explanation.named(explanation.scores))}", markup=False)
    if explanation.regression is not None:
        share, said = explanation.regression_share, explanation.named(explanation.regression)
        console().print(f"of which the regression is {share:.0%}, alone: {_listed(said)}", markup=False)
    console().print(_patch_table(explanation) if explanation.at else _image_table(explanation))


def fetched(images: SourceImages, wanted: Sequence[str]) -> dict[str, Sample]:
    """The annotated images that are there; names what is missing of the others."""
    found, lost = {}, []
    for source in wanted:
        try:
            found[source] = images[source]
        except DataError as error:
            lost.append(str(error))
    if lost:
        log.warning("%d of %d annotated images can't be shown: %s", len(lost), len(wanted), lost[0])
    return found


def _patch_table(explanation: Explanation) -> Table:
    table = Table(*(Column(h, justify="right") for h in ("rank", "vote %", "cosine")), "image", "box", "labels")
    for rank, n in enumerate(explanation.neighbours, start=1):
        figures = (str(rank), f"{100 * n.weight:.1f}", f"{n.similarity:.3f}")
        box = ", ".join(f"{side:.0f}" for side in n.box)
        table.add_row(*figures, escape(n.source), box, escape(_listed(explanation.named(n.labels))))
    return table


def _image_table(explanation: Explanation) -> Table:
    table = Table(*(Column(h, justify="right") for h in ("rank", "vote %", "votes")), "image", "labels")
    for rank, s in enumerate(explanation.sources[:MOST_IMAGES], start=1):
        figures = (str(rank), f"{100 * s.share:.1f}", str(s.votes))
        table.add_row(*figures, escape(s.source), escape(_listed(explanation.named(s.labels))))
    if len(explanation.sources) > MOST_IMAGES:
        table.caption = f"… and {len(explanation.sources) - MOST_IMAGES} more, in explanation.json"
    return table


def _listed(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
