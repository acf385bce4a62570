"""How reports write figures: percent, intervals, tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def interval_words(bounds: Sequence[float] | None, sign: str = "") -> str:
    """An interval in 0..1 as percent; `sign` is `+` where it is of a difference."""
    if bounds is None:
        return "no interval"
    return f"{100 * bounds[0]:{sign}.2f} to {100 * bounds[1]:{sign}.2f}"


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown: the first column holds names, the others figures."""
    lines = [f"| {' | '.join(header)} |", "|---" + "|---:" * (len(header) - 1) + "|"]
    for row in rows:
        cells = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return lines
