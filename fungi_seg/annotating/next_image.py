"""Which image to annotate next: one that is in doubt, and unlike those that are annotated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_DOUBT = 1e-6  # so that where nothing is in doubt the image most unlike the annotated ones comes next


@dataclass(frozen=True)
class Suggestion:
    """An image to annotate next.

    Attributes:
        index: its place.
        why: in a sentence.
    """

    index: int
    why: str


def suggest(doubt: np.ndarray, embeddings: np.ndarray, annotated: np.ndarray) -> Suggestion | None:
    """The image whose doubt times its distance from all annotated ones (1 − the highest cosine) is largest.

    Doubt alone asks for one hard image after another of the same kind, distance alone for odd ones that are easy. While
    nothing is annotated it is the image most like all of them together.

    Args:
        doubt: `[n]` how unsure the classes of each image are on average, 0..1; NaN where it wasn't segmented yet, which
            counts as the mean of the others.
        embeddings: `[n, D]` of length 1, the mean patch token of each image.
        annotated: `[n]` bool.

    Returns:
        None where every image is annotated.
    """
    open_ones = np.flatnonzero(~annotated)
    if not len(open_ones):
        return None
    if not annotated.any():
        middle = embeddings.mean(0, dtype=np.float64)
        index = int(open_ones[(embeddings[open_ones] @ middle).argmax()])
        return Suggestion(index, f"it is the most like all {len(doubt)} images together, a good one to begin with")
    similarity = np.clip((embeddings[open_ones] @ embeddings[annotated].T).max(1), -1, 1)
    known = ~np.isnan(doubt[open_ones])
    usual = doubt[open_ones][known].mean() if known.any() else 1.0
    doubts = np.maximum(np.where(known, doubt[open_ones], usual), LEAST_DOUBT)
    best = int((doubts * (1 - similarity)).argmax())
    index, count = int(open_ones[best]), int(annotated.sum())
    of_all = f"the {count} annotated images" if count > 1 else "the annotated image"
    in_doubt = (
        f"its classes are in doubt ({100 * doubt[index]:.0f} % on average)"
        if known[best]
        else "it wasn't segmented yet"
    )
    likeness = "unlike" if similarity[best] < similarity.mean() else "not quite like"
    return Suggestion(index, f"{in_doubt}, and it looks {likeness} {of_all} (similarity {similarity[best]:.2f})")
