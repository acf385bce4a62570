"""What tiles do to masks: `python tools/tiles_against_whole.py --data.root DIR --data.split val --bank B`."""

from __future__ import annotations

import sys

import numpy as np
from machine import processor

from fungi_seg import DataConfig, InputConfig, Segmenter, open_dataset
from fungi_seg.cli import tool

BORDER = 16  # pixels that are left out where masks are compared


def tiles_against_whole(
    bank: str,
    data: DataConfig = DataConfig(),
    scale: float = 1.0,
    tiles: list[int] | None = None,
    images: int = 12,
) -> None:
    """Segment images in one pass and in tiles; print mIoU of both, and how many pixels get the same class.

    Args:
        bank: folder of the bank.
        data: the annotated images.
        scale: at which they enter.
        tiles: sides of tiles, in pixels of the input; 128, 256 and 384 where not given.
        images: how many, at even distances.
    """
    dataset, segmenter = open_dataset(data).evenly(images), Segmenter(bank)
    classes = len(segmenter.bank.info.classes)
    print(f"{processor()}, {images} images of {data.root}, scale {scale}, bank {segmenter.bank.path}")
    whole: list[np.ndarray] = []
    for tile in (None, *(tiles or [128, 256, 384])):
        counts, same, number = np.zeros((classes, classes)), [], []
        for index in range(images):
            sample = dataset[index]
            side = tile or int(2 * max(sample.mask.shape) * scale)
            entering = segmenter.entering(InputConfig(scale=scale, tile=side))
            mask = entering.predict(sample.image).mask
            number.append(len(entering.fit(sample.image).tiles or ()))
            labelled = sample.mask >= 0
            pairs = sample.mask[labelled].astype(int) * classes + mask[labelled]
            counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
            if tile is None:
                whole.append(mask)
            same.append((mask == whole[index])[BORDER:-BORDER, BORDER:-BORDER].mean())
        there = counts.sum(1) > 0
        iou = (np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts)))[there].mean()
        what = f"tiles of {tile}, {np.mean(number):.0f} an image" if tile else "one pass"
        print(f"{what}: mIoU {100 * iou:.2f}, {100 * np.mean(same):.1f} % of pixels as in one pass", flush=True)


if __name__ == "__main__":
    sys.exit(tool(tiles_against_whole))
