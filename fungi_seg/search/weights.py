"""How much each neighbour counts."""

from __future__ import annotations

import numpy as np

from fungi_seg.errors import FungiSegError


def neighbour_weights(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(similarity / temperature)` over the neighbours, `[Q, K]` (Hummingbird, section 3.2).

    Neighbours that are left out (−inf) get no weight.

    Raises:
        FungiSegError: a query without a neighbour, which can't vote for anything.
    """
    best = similarities.max(1, keepdims=True)
    nobody = ~np.isfinite(best)
    if nobody.any():
        raise FungiSegError(
            f"{int(nobody.sum())} of {len(similarities)} patches have no neighbour to vote for a class (similarities "
            f"are {best[nobody][0]}); ask only for patches that have neighbours"
        )
    weights = np.exp((similarities - best) / temperature)
    return weights / weights.sum(1, keepdims=True)
