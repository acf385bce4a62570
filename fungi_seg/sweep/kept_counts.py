"""What a sweep counted with a bank, kept on disk, so that a sweep that was interrupted goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from fungi_seg.files import digest, save_arrays

Cell = tuple[int, float]  # k and temperature


class KeptCounts:
    """Pixel counts by k and temperature of one bank, in a file that is named after all else that they depend on.

    Args:
        folder: of the files.
        settings: all that the counts depend on, beside k and temperature.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._path = folder / f"counts-{digest(settings)[:32]}.safetensors"

    def read(self) -> tuple[dict[str, Any], dict[Cell, np.ndarray]]:
        """What was kept of the bank, and counts `[images, 3, C]`; nothing without such a file, or of a damaged one."""
        try:
            with safe_open(self._path, "np") as file:
                facts = json.loads(file.metadata()["facts"])
                return facts, {_cell(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return {}, {}

    def write(self, facts: dict[str, Any], counts: dict[Cell, np.ndarray]) -> None:
        """Keep them, with some facts about the bank."""
        arrays = {f"{k} {temperature!r}": found for (k, temperature), found in counts.items()}
        save_arrays(self._path, arrays, {"facts": json.dumps(facts)})


def _cell(name: str) -> Cell:
    k, temperature = name.split(" ")
    return int(k), float(temperature)
