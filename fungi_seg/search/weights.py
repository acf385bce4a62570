"""How much each neighbour counts."""

from __future__ import annotations

import numpy as np


def neighbour_weights(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(similarity / temperature)` over the neighbours, `[Q, K]` (Hummingbird, section 3.2).

    Neighbours that weren't found (−inf) get no weight.
    """
    best = np.nan_to_num(similarities.max(1, keepdims=True), neginf=0.0)
    weights = np.exp((similarities - best) / temperature)
    return weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(weights.dtype).tiny)
