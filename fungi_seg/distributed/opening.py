"""The bank and the backbone of a command, opened again by workers."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from fungi_seg.bank import MemoryBank
from fungi_seg.errors import BankError
from fungi_seg.features import Backbone, BackboneConfig, load_backbone
from fungi_seg.images import InputConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig, Segmenter

PARTS, MOST_BATCHES = 8, 8  # of a worker's work; batches in a part


@dataclass(frozen=True)
class SameSegmenter:
    """What a worker needs to have the segmenter of the command.

    Attributes:
        bank: its folder.
        seal: of the bank's manifest.
        backbone: with the device and the arithmetic that the command's has.
        decoder, index, input: of it.
    """

    bank: Path
    seal: str
    backbone: BackboneConfig
    decoder: DecoderConfig
    index: IndexConfig
    input: InputConfig

    @classmethod
    def of(cls, segmenter: Segmenter) -> SameSegmenter:
        """How to have this one again."""
        bank = segmenter.bank
        backbone = placed(segmenter.features.backbone)
        where = Path(bank.path).absolute()
        return cls(where, bank.manifest.seal, backbone, segmenter.decoder, segmenter.index_config, segmenter.input)

    def open(self) -> Segmenter:
        """The same segmenter.

        Raises:
            FungiSegError: the bank or the backbone isn't there, or is another one.
        """
        bank = MemoryBank.open(self.bank)
        features = bank.patch_features(backbone=load_backbone(**vars(self.backbone)))
        if bank.manifest.seal != self.seal:
            raise BankError(
                f"{self.bank}: is another bank on node {platform.node()} than here, or was changed meanwhile; all "
                f"nodes must see the same one"
            )
        return Segmenter(bank, features, self.decoder, self.index).entering(self.input)


def placed(backbone: Backbone) -> BackboneConfig:
    """How to load a backbone again that computes the same."""
    return replace(backbone.config, device=backbone.device.type, dtype=str(backbone.dtype).removeprefix("torch."))


def runs(total: int, batch: int, workers: int) -> list[range]:
    """Parts of so many items: runs of whole batches, several for each worker, so that all end at much the same time.

    Args:
        total: items.
        batch: that go through the backbone together.
        workers: that there may be.
    """
    batches = -(-total // batch)
    step = batch * max(1, min(MOST_BATCHES, batches // (PARTS * workers)))
    return [range(start, min(start + step, total)) for start in range(0, total, step)]
