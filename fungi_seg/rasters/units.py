"""Lengths that files give in units of many names."""

from __future__ import annotations

import math

MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre", "\\u00b5m"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch", "inches"), 25400.0),
}


def micrometres(length: float | None, unit: str) -> float | None:
    """A length in micrometres; none where it isn't one above 0, or its unit is none of length."""
    factor = MICROMETRES.get(unit.strip().lower())
    if length is None or factor is None or not 0 < length < math.inf:
        return None
    return length * factor
