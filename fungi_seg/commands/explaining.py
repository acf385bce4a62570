"""The command that shows who voted for a place of an image: explain."""

from __future__ import annotations

from pathlib import Path

from fungi_seg.datasets import DataConfig
from fungi_seg.errors import UsageError
from fungi_seg.features import PlacementConfig
from fungi_seg.images import InputOptions
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderOptions


def explain(
    image: str,
    bank: str,
    out: str,
    at: tuple[int, int] | None = None,
    region: tuple[int, int, int, int] | None = None,
    data: DataConfig = DataConfig(),
    decoder: DecoderOptions = DecoderOptions(),
    index: IndexConfig = IndexConfig(),
    input: InputOptions = InputOptions(),
    backbone: PlacementConfig = PlacementConfig(),
    json: str | None = None,
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
        input: how the image enters, where it isn't as the bank's images did.
        backbone: where the bank's backbone runs.
        json: file to write the explanation to, as JSON; - prints it in place of tables.
    """
    if (at is None) == (region is None):
        given = "neither" if at is None else "both"
        raise UsageError(
            f"{given} of at and region given; name a pixel --at X,Y, or a rectangle --region, but not both"
        )
    from fungi_seg.bank import MemoryBank, SourceImages
    from fungi_seg.commands.explanations import fetched, print_explanation
    from fungi_seg.commands.fitting import decoder_for
    from fungi_seg.commands.output import STANDARD_OUTPUT, write
    from fungi_seg.files import replacing
    from fungi_seg.segmentation import Segmenter, explanation_sheet, shown_sources

    opened = MemoryBank.open(bank)
    segmenter = Segmenter(opened, None, decoder_for(opened, decoder), index, **vars(backbone)).entering(input)
    explanation = segmenter.explain(image, at, region)
    images = fetched(SourceImages(segmenter.bank, data), shown_sources(explanation))
    target = Path(out).expanduser()
    write(str(target / "explanation.json"), explanation.to_json())
    with replacing(target / "contact_sheet.png") as draft:
        explanation_sheet(explanation, images).save(draft)
    write(json, explanation.to_json())
    if json == STANDARD_OUTPUT:
        return
    print_explanation(explanation)
    print(f"Look at: {target / 'contact_sheet.png'}")
