"""The command that tells who voted for a place of an image: explain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fungi_seg.bank import SourceImages
from fungi_seg.commands.classification import FILE_WIDTH
from fungi_seg.datasets import DataConfig, Sample
from fungi_seg.errors import DataError
from fungi_seg.files import replacing
from fungi_seg.progress import tell
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig, Explanation, Segmenter, explanation_sheet, shown_sources

MOST_IMAGES = 20  # in the table of a region


def explain(
    image: str,
    bank: str,
    out: str,
    at: tuple[int, int] | None = None,
    region: tuple[int, int, int, int] | None = None,
    data: DataConfig = DataConfig(),
    decoder: DecoderConfig = DecoderConfig(),
    index: IndexConfig = IndexConfig(),
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    json: bool = False,
) -> None:
    """Show which annotated patches and images voted for a pixel or a region of an image.

    Writes OUT/explanation.json and OUT/contact_sheet.png.

    Args:
        image: the image file.
        bank: folder of the bank.
        out: folder for the results.
        at: the pixel, X,Y from the top left.
        region: the rectangle, LEFT,TOP,RIGHT,BOTTOM in pixels; right and bottom are the first ones outside.
        data: where the annotated images lie, if not where they lay when the bank was built (--data.root is enough).
        decoder: how neighbours vote.
        index: how neighbours are searched.
        weights: local weights file, where it isn't where it was when the bank was built.
        device: auto, cpu, cuda, cuda:1, …
        dtype: auto, bfloat16 or float32.
        json: print JSON in place of tables.
    """
    segmenter = Segmenter(bank, None, decoder, index, weights, device, dtype)
    explanation = segmenter.explain(image, at, region)
    images = _fetched(SourceImages(segmenter.bank, data), shown_sources(explanation))
    target = Path(out).expanduser()
    with replacing(target / "explanation.json") as draft:
        draft.write_text(explanation.to_json(), encoding="utf-8")
    with replacing(target / "contact_sheet.png") as draft:
        explanation_sheet(explanation, images).save(draft)
    if json:
        print(explanation.to_json())
        return
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(f"{explanation.what}: {_listed(explanation.named(explanation.scores))}", markup=False)
    console.print(_patch_table(explanation) if at else _image_table(explanation))
    print(f"Look at: {target / 'contact_sheet.png'}")


def _fetched(images: SourceImages, wanted: Sequence[str]) -> dict[str, Sample]:
    """The annotated images that are there; says on standard error what the others lack."""
    found, lost = {}, []
    for source in wanted:
        try:
            found[source] = images[source]
        except DataError as error:
            lost.append(str(error))
    if lost:
        tell(f"{len(lost)} of {len(wanted)} annotated images can't be shown: {lost[0]}")
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
