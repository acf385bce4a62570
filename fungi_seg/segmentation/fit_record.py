"""What a fit tries, and what it finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fungi_seg.segmentation.confidence import Calibration
from fungi_seg.segmentation.settings import DecoderConfig


@dataclass(frozen=True)
class Grid:
    """What is tried. A published value is kept unless another one is better beyond doubt.

    Args:
        gradient_weight, k, temperature: of the vote, in every combination.
        class_share, ridge, penalty, share: of what is done with it, in every combination; `ridge` are kinds of
            regression, with their bandwidth as a multiple of the median distance between tokens of different images.
        refine: how far scores follow edges; the last is taken as it is where no image is at hand.
    """

    gradient_weight: tuple[float, ...] = (0.15, 0.3, 0.5)
    k: tuple[int, ...] = (10, 30)
    temperature: tuple[float, ...] = (0.01, 0.02, 0.05)
    class_share: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    ridge: tuple[tuple[str, float], ...] = (("token", 1.0), ("feature", 1.0), ("fourier", 1.0))
    penalty: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    share: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85)
    refine: tuple[float, ...] = (0.5, 1.0)


@dataclass(frozen=True)
class Choice:
    """One setting, and what it gains over the published one where all others are as chosen.

    Attributes:
        setting: its name.
        value, published: what was taken, and what is published.
        tried: the value that did best, which isn't taken where its gain could be chance.
        gain: of that value in mIoU, 0..1, over rows of the bank.
        interval: of the gain, 95 %, as `mean_iou_interval` finds it.
    """

    setting: str
    value: Any
    published: Any
    tried: Any
    gain: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """What was chosen for a bank.

    Attributes:
        decoder: the settings.
        choices: why.
        notes: what else there is to say.
        facts: rows tried, images, and mIoU over rows of the published settings and of these.
        confidence: how sure classes are with these settings.
    """

    decoder: DecoderConfig
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, float] | None = None
    confidence: Calibration | None = None

    def record(self) -> dict[str, Any]:
        """What a bank keeps of it: see `MemoryBank.keep_decoder`."""
        return {
            "settings": asdict(self.decoder),
            "choices": [asdict(choice) for choice in self.choices],
            "notes": list(self.notes),
            "facts": self.facts or {},
            "confidence": self.confidence.record() if self.confidence else None,
        }
