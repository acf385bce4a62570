"""How fast masks follow strokes: `python tools/stroke_speed.py FOLDER --bank B`. Nothing is saved."""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import closing
from tempfile import TemporaryDirectory

from machine import processor

from fungi_seg.annotating import Workspace, WorkspaceConfig
from fungi_seg.cli import tool

SIDE, PAUSE = 24, 0.05


def stroke_speed(folder: str, bank: str, strokes: int = 25, images: int = 3) -> None:
    """Paint small squares on some images, and print how long each took with the mask that follows it.

    Args:
        folder: of the images.
        bank: folder of the bank, with two classes at least.
        strokes: on each image.
        images: how many are painted on.
    """
    seconds = []
    with (
        TemporaryDirectory() as notes,
        closing(Workspace(folder, bank, WorkspaceConfig(annotations=notes))) as workspace,
    ):
        rows = workspace.engine.bank
        for number in range(images):
            told = workspace.image(number, "speed")
            workspace.prediction(number)
            version = told["version"]
            for stroke in range(strokes):
                left, top = (stroke * 37 % (told[side] - SIDE) for side in ("width", "height"))
                start = time.perf_counter()
                box = (left, top, left + SIDE, top + SIDE)
                version = workspace.edit(number, version, box, [stroke % 2, SIDE * SIDE])["version"]
                seconds.append(time.perf_counter() - start)
                time.sleep(PAUSE)
    median, late = 1000 * statistics.median(seconds), 1000 * statistics.quantiles(seconds, n=20)[-1]
    of = f"bank of {0 if rows is None else len(rows)} rows, {len(seconds)} strokes"
    print(f"{processor()}, {of}: median {median:.0f} ms, 95th percentile {late:.0f} ms")


if __name__ == "__main__":
    sys.exit(tool(stroke_speed))
