"""Pairs of overlapping crops: which patches show the same place, and what kind of thing they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungi_seg.pretraining.scenes import UNKNOWN, Generator

Picture = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""`[H, W, 3]` uint8 RGB and the kinds `[H, W]` uint8, `UNKNOWN` where nobody knows."""


@dataclass
class Pairs:
    """Two crops of each of `B` pictures, `S` pixels a side, `g` patches a side.

    Attributes:
        images: `[2 B, 3, S, S]` float32, RGB in 0..1 after colour jitter; the first crops, then the second.
        kinds: `[2 B, g, g]` int64, the commonest kind of each patch; -1 where it is unknown or has no majority.
        where: `[B, g, g, 2]` float32, the place of each patch of the first crop in the second, x and y in -1..1 from
            edge to edge, beyond that outside.
    """

    images: Tensor
    kinds: Tensor
    where: Tensor

    def to(self, device: torch.device) -> Pairs:
        return Pairs(self.images.to(device), self.kinds.to(device), self.where.to(device))


def pairs(pictures: Sequence[Picture], size: int, patch: int, rng: Generator) -> Pairs:
    """Cut two overlapping crops of `size` pixels out of each picture."""
    g = size // patch
    count = len(pictures)
    images, kinds = np.empty((2, count, size, size, 3), np.uint8), np.empty((2, count, g, g), np.int64)
    where = np.empty((count, g, g, 2), np.float32)
    centres = (np.arange(g, dtype=np.float32) + 0.5) / g
    for i, (image, kind) in enumerate(pictures):
        h, w = kind.shape
        first = _window(h, w, size, rng)
        second = _window(h, w, size, rng, first)
        flips = rng.random(2) < 0.5
        for view, ((x, y, side), flip) in enumerate(zip((first, second), flips, strict=True)):
            part = np.s_[y : y + side, x : x + side]
            crop = cv2.resize(
                image[part], (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
            )
            label = cv2.resize(kind[part], (size // 2, size // 2), interpolation=cv2.INTER_NEAREST)
            if flip:
                crop, label = crop[:, ::-1], label[:, ::-1]
            images[view, i], kinds[view, i] = crop, majority(label, g)
        place = [(1 - centres) if flips[0] else centres, centres]
        for axis in (0, 1):
            inside = (first[axis] + place[axis] * first[2] - second[axis]) / second[2]
            inside = 1 - inside if axis == 0 and flips[1] else inside
            where[i, ..., axis] = (inside * 2 - 1)[None, :] if axis == 0 else (inside * 2 - 1)[:, None]
    pixels = torch.from_numpy(images.reshape(-1, size, size, 3)).permute(0, 3, 1, 2).float() / 255
    return Pairs(jitter(pixels, rng), torch.from_numpy(kinds.reshape(-1, g, g)), torch.from_numpy(where))


def _window(
    h: int, w: int, size: int, rng: Generator, near: tuple[int, int, int] | None = None
) -> tuple[int, int, int]:
    """Left, top and side of a square window; about the middle of `near` if that is given."""
    largest = min(h, w)
    side = int(np.clip(size * 2 ** rng.uniform(-0.9, 0.9), 32, largest))
    if near is None:
        return int(rng.integers(0, w - side + 1)), int(rng.integers(0, h - side + 1)), side
    shift = rng.uniform(-0.35, 0.35, 2) * max(side, near[2])
    x, y = (near[axis] + near[2] / 2 + shift[axis] - side / 2 for axis in (0, 1))
    return int(np.clip(x, 0, w - side)), int(np.clip(y, 0, h - side)), side


def majority(label: NDArray[np.uint8], g: int) -> NDArray[np.int64]:
    """The kind that more than half of a cell shows, for `g` × `g` cells of `label`; -1 where none does."""
    h, w = label.shape
    cells = np.sort(label.reshape(g, h // g, g, w // g).transpose(0, 2, 1, 3).reshape(g, g, -1), axis=-1)
    middle = cells[..., cells.shape[-1] // 2]
    enough = (cells == middle[..., None]).mean(-1) > 0.5
    return np.where(enough & (middle != UNKNOWN), middle.astype(np.int64), -1)


def jitter(images: Tensor, rng: Generator) -> Tensor:
    """Change brightness, contrast, saturation and the balance of colours, each image by its own draw."""
    count = len(images)

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, channels, 1, 1)).astype(np.float32))

    strength = torch.from_numpy((rng.random((count, 1, 1, 1)) < 0.8).astype(np.float32))
    grey = images.mean(1, keepdim=True)
    saturation = torch.where(torch.from_numpy(rng.random((count, 1, 1, 1)) < 0.08), 0.0, 1 + strength * draw(-0.3, 0.3))
    changed = grey + (images - grey) * saturation
    changed = changed * (1 + strength * (draw(-0.07, 0.07, 3)))
    mean = changed.mean((1, 2, 3), keepdim=True)
    changed = (changed - mean) * (1 + strength * draw(-0.25, 0.25)) + mean * (1 + strength * draw(-0.2, 0.2))
    return changed.clamp(0, 1)
