"""How a mask is made of what neighbours say."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fungi_seg.errors import FungiSegError


@dataclass(frozen=True)
class DecoderConfig:
    """How neighbours vote.

    Args:
        k: neighbours a patch.
        temperature: of the softmax over their cosine similarities; lower follows the nearest more.
    """

    k: int = 30
    temperature: float = 0.02

    def __post_init__(self) -> None:
        if self.k < 1:
            raise FungiSegError(f"decoder.k is {self.k}; it must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise FungiSegError(f"decoder.temperature is {self.temperature}; it must be a number above 0")
