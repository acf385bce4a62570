"""Parts of a bank's rows: where they are cut, what each answers, and the whole answer that comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fungi_seg.errors import BankError, FungiSegError

BLOCK = 8192  # rows that exact search multiplies at once: parts of whole blocks give the products of one index


@dataclass(frozen=True)
class Answer:
    """What one part says of queries.

    Attributes:
        start, stop: rows of the bank that were searched, the latter exclusive.
        seal: of the manifest of the bank that was searched.
        similarities: `[Q, P]` float32, highest first; `P` is `k`, or the rows of the part where those are fewer.
        rows: `[Q, P]` int64, counted in the whole bank.
        seconds: that the search took there.
    """

    start: int
    stop: int
    seal: str
    similarities: np.ndarray
    rows: np.ndarray
    seconds: float


def part_edges(rows: int, parts: int) -> list[int]:
    """Where `parts` parts of about one size begin and end: `parts + 1` rising row numbers, from 0 to `rows`.

    Raises:
        FungiSegError: more parts than rows.
    """
    if parts > rows:
        raise FungiSegError(f"index.parts is {parts}, but the bank has {rows} rows; lower index.parts")
    block = BLOCK if rows >= parts * BLOCK else 1
    return [*(rows * part // parts // block * block for part in range(parts)), rows]


def whole_answer(answers: Sequence[Answer], rows: int, seal: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest rows among those that parts found, nearest first, of equal similarities the first row.

    Args:
        answers: of all parts, in any order.
        rows: of the bank.
        seal: of the open bank.
        k: 1 ≤ k ≤ rows.

    Returns:
        Similarities `[Q, k]` float32 and rows `[Q, k]` int64.

    Raises:
        BankError: a part answered from another state of the bank.
        FungiSegError: the parts aren't all rows, each once; or an answer is shorter than it should be.
    """
    if any(answer.seal != seal for answer in answers):
        raise BankError(
            "the bank was changed since it was opened, and a part answered from its new state; open it again"
        )
    ordered = sorted(answers, key=lambda answer: answer.start)
    edges = [0, *(answer.stop for answer in ordered)]
    if [answer.start for answer in ordered] != edges[:-1] or edges[-1] != rows:
        spans = ", ".join(f"{answer.start} to {answer.stop}" for answer in ordered)
        raise FungiSegError(f"parts answered for rows {spans}, which isn't each of the bank's {rows} rows once")
    lines = len(ordered[0].rows)
    for answer in ordered:
        expected = (lines, min(k, answer.stop - answer.start))
        if answer.rows.shape != expected or answer.similarities.shape != expected:
            raise FungiSegError(
                f"the part of rows {answer.start} to {answer.stop} gave {list(answer.rows.shape)} neighbours, not "
                f"{list(expected)}"
            )
    similarities = np.concatenate([answer.similarities for answer in ordered], axis=1)
    numbers = np.concatenate([answer.rows for answer in ordered], axis=1)
    order = np.lexsort((numbers, -similarities), axis=1)[:, :k]
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(numbers, order, axis=1)
