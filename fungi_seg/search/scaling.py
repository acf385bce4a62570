"""Queries whose numbers count unequally, for any kind of index."""

from __future__ import annotations

import numpy as np


def scaled(queries: np.ndarray, scale: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Queries `[Q, D]` with their numbers times `scale` `[D]`, of length 1 again, and what length they had, `[Q, 1]`.

    Without `scale` they stay as they are, and there are no lengths.
    """
    if scale is None:
        return queries, None
    longer = queries * scale
    lengths = np.maximum(np.linalg.norm(longer, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return longer / lengths, lengths
