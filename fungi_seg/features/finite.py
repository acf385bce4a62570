"""Features that can't be used are never handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fungi_seg.errors import FungiSegError


def check_finite(parts: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Raise unless every part of every image is finite.

    Args:
        parts: `[B, …]` each, of numbers far from the largest: a sum tells whether one of them isn't finite.
        names: of the `B` images.
    """
    for part, rows in parts.items():
        broken = torch.nonzero(~torch.isfinite(rows.flatten(1).sum(1))).flatten().tolist()
        if broken:
            raise FungiSegError(
                f"{', '.join(names[i] for i in broken)}: the features ({part}) are not finite; use dtype float32 "
                f"(--backbone.dtype float32), and check the weights and the image"
            )
