"""Configuration to and from plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from fungi_seg.errors import FungiSegError, nearest

C = TypeVar("C")


def from_dict(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """A configuration dataclass from what JSON or YAML gives for it.

    Raises:
        FungiSegError: a key it doesn't have (named with the nearest one), or a missing one.
    """
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise FungiSegError(f"{where} has the unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise FungiSegError(f"{where} lacks {', '.join(missing)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
