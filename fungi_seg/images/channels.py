"""Stored samples as pictures of 8 bits: which channels, and which values are black and white."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.images.depth import NOTHING, Ends, between
from fungi_seg.images.settings import InputConfig
from fungi_seg.images.spread import Spread, add_samples, collect, held_samples, spread_windows
from fungi_seg.rasters import Raster, RasterInfo, Window, open_raster, stamp_of

COLOURS = 3
EIGHT_BITS = 255.0
DATA_WINDOWS = 8  # of each image of a data set, at most, that are looked at

MOST_KNOWN = 256  # pictures whose limits are kept

Limits = tuple[float, ...]  # low, high of all channels, or of each; nothing where samples of 8 bits stay as they are

_KNOWN: dict[tuple[object, ...], Limits] = {}
_KNOWING = threading.Lock()


def chosen_channels(info: RasterInfo, input: InputConfig) -> tuple[int, ...]:
    """Numbers from 0 of the channels that are used.

    Raises:
        DataError: one isn't there, or nothing says which of many. The message doesn't name the file.
    """
    there = len(info.channels)
    if input.joined:
        return tuple(range(there))
    if input.channels:
        return tuple(_number_of(name, info.channels) for name in input.channels)
    if there == 1:
        return (0,)
    if there == COLOURS or (info.colours and there > COLOURS):
        return tuple(range(COLOURS))
    raise DataError(
        f"has {there} channels, and nothing says which are looked at: {_listed(info.channels)}; name one, or three as "
        f"red, green and blue, by --input.channels, or all, whose features are joined"
    )


def image_limits(raster: Raster, input: InputConfig) -> Limits:
    """What becomes black and white in a picture, found window by window; of very large ones in windows spread evenly.

    Raises:
        DataError: a channel isn't there, or no value counts.
        FungiSegError: limits of a data set aren't known.
    """
    try:
        told, chosen = _told(raster.info, input), chosen_channels(raster.info, input)
        if told is not None:
            _check_any(raster)
            return told
        spreads = _spreads(np.dtype(raster.info.dtype), len(chosen) if input.channels else 1)
        collect(raster, chosen, spreads)
        if any(not spread for spread in spreads):  # what was looked at holds nothing
            collect(raster, chosen, spreads, sys.maxsize)
        return _flat(spread.ends() for spread in spreads)
    except DataError as error:
        raise _about(raster.name, error) from error


def known_limits(path: Path, raster: Raster, input: InputConfig) -> Limits:
    """As `image_limits` of a picture that is opened often, looked for once while its file stays as it is.

    Args:
        path: of the file, or the address of a plane.
        raster: it, open.
        input: as of `image_limits`.
    """
    key = (str(path), *stamp_of(path), input.channels, input.limits, input.scaling, input.projection)
    with _KNOWING:
        if key in _KNOWN:
            return _KNOWN[key]
    found = image_limits(raster, input)
    with _KNOWING:
        while len(_KNOWN) >= MOST_KNOWN:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[key] = found
    return found


def channel_count(path: Path, input: InputConfig) -> int:
    """How many channels an image has.

    Raises:
        DataError: it can't be read.
    """
    with open_raster(path, input.projection) as raster:
        return len(raster.info.channels)


def data_limits(paths: Iterable[Path], input: InputConfig, skip_bad: bool = False) -> Limits:
    """What becomes black and white in all pictures of a data set: by the percentiles of all, a part of each read.

    Args:
        paths: of the pictures.
        input: which channels are used.
        skip_bad: leave pictures that can't be read out of account.

    Raises:
        DataError: one can't be read, or their samples are of several types.
    """
    spreads: list[Spread] = []
    first: tuple[Path, str] | None = None
    for path in paths:
        try:
            opened = open_raster(path, input.projection)
        except DataError:
            if skip_bad:
                continue
            raise
        with opened as raster:
            dtype = raster.info.dtype
            if first is not None and first[1] != dtype:
                raise DataError(
                    f"{path}: its samples are {dtype}, those of {first[0]} {first[1]}; input.scaling data puts the "
                    f"values of all images together, which must be of one type: use input.scaling image, or "
                    f"convert them"
                )
            first = first or (path, dtype)
            if dtype == "uint8":
                continue
            try:
                chosen = chosen_channels(raster.info, input)
            except DataError as error:
                raise _about(raster.name, error) from error
            count = len(chosen) if input.channels else 1
            if spreads and len(spreads) != count:
                raise DataError(
                    f"{path}: has {count} channels, the images before it {len(spreads)}; all must have as many"
                )
            spreads = spreads or _spreads(np.dtype(dtype), count)
            collect(raster, chosen, spreads, DATA_WINDOWS)
    return _flat(spread.ends() for spread in spreads) if spreads else (0.0, EIGHT_BITS)


def picture(
    samples: np.ndarray,
    info: RasterInfo,
    input: InputConfig,
    limits: Limits | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Stored samples as uint8 `[h, w, 3]`, or with all channels joined `[h, w, n]`.

    Args:
        samples: `[h, w, c]` of all channels.
        info: of the picture that they are a part of.
        input: which channels are used, and how they are scaled.
        limits: from `image_limits`; those of these samples where not given.
        valid: `[h, w]` bool, pixels that hold something.

    Raises:
        DataError: a channel isn't there, or no value counts. The message doesn't name the file.
        FungiSegError: limits of a data set aren't known.
    """
    return _scaled(samples[..., list(chosen_channels(info, input))], info, input, limits, valid)


def read_part(
    raster: Raster, window: Window, input: InputConfig, level: int = 0, limits: Limits | None = None
) -> np.ndarray:
    """A window of a picture as `picture` makes it; only the channels that are used are read.

    Args:
        raster: the picture.
        window: within the level.
        input: which channels are used, and how they are scaled.
        level: number of the smaller copy.
        limits: from `image_limits`; those of the window where not given.

    Raises:
        DataError: as of `picture`, or damaged there.
    """
    try:
        samples = raster.read(window, level, chosen_channels(raster.info, input))
        return _scaled(samples, raster.info, input, limits, raster.valid(window, level))
    except DataError as error:
        raise _about(raster.name, error) from error


def viewable(image: np.ndarray) -> np.ndarray:
    """`[H, W, n]` as `[H, W, 3]`, to be looked at: the first three channels, or the first as grey."""
    if image.shape[2] == COLOURS:
        return image
    return np.ascontiguousarray(image[..., :COLOURS] if image.shape[2] > COLOURS else image[..., [0, 0, 0]])


def _scaled(
    samples: np.ndarray, info: RasterInfo, input: InputConfig, limits: Limits | None, valid: np.ndarray | None
) -> np.ndarray:
    """Samples of the channels that are used, as uint8."""
    limits = _told(info, input) if limits is None else limits
    held = held_samples(samples, info.nodata, valid)
    if limits is None:
        spreads = _spreads(samples.dtype, samples.shape[2] if input.channels else 1)
        add_samples(spreads, samples, held)
        limits = _flat(spread.ends() for spread in spreads)
    if not limits:
        shown = samples if held is None else np.where(held, samples, 0)
    elif len(limits) == 2:
        shown = between(samples, (limits[0], limits[1]), held)
    else:
        _check_pairs(limits, samples.shape[2])
        each = [
            between(samples[..., n], (limits[2 * n], limits[2 * n + 1]), None if held is None else held[..., n])
            for n in range(samples.shape[2])
        ]
        shown = np.stack(each, axis=2)
    if shown.shape[2] == 1 and not input.joined:
        shown = np.repeat(shown, COLOURS, axis=2)
    return np.ascontiguousarray(shown)


def _check_any(raster: Raster) -> None:
    """Refuse a picture of which no pixel holds anything; mostly a look at its first part."""
    for window in spread_windows(raster.info.size, sys.maxsize):
        valid = raster.valid(window)
        if valid is None or valid.any():
            return
    raise DataError(NOTHING)


def _told(info: RasterInfo, input: InputConfig) -> Limits | None:
    """Limits that needn't be looked for: those that are given, and those of 8 bits; nothing where they must be."""
    eight = info.dtype == "uint8"
    if input.scaling == "data" and not input.limits:
        raise FungiSegError(
            "input.scaling is data, but input.limits is empty: build finds the limits of a data set and keeps them in "
            "the bank; give input.limits, or use input.scaling image"
        )
    if input.limits and eight and max(input.limits) > EIGHT_BITS:
        raise DataError(
            f"its samples are of 8 bits, up to 255, but input.limits reaches to {max(input.limits):g}: it would be "
            f"dark; give files of the same type as those the limits are of"
        )
    if input.scaling == "data" and not eight and input.limits == (0.0, EIGHT_BITS):
        raise DataError(
            f"its samples are {info.dtype}, those of the data set that the limits are of 8 bits: it would be white; "
            f"give files of the same type"
        )
    return input.limits or (() if eight else None)


def _spreads(dtype: np.dtype, count: int) -> list[Spread]:
    return [Spread(dtype) for _ in range(count)]


def _flat(pairs: Iterable[Ends]) -> Limits:
    return tuple(value for pair in pairs for value in pair)


def _check_pairs(limits: Limits, count: int) -> None:
    if len(limits) != 2 * count:
        raise DataError(
            f"input.limits has {len(limits) // 2} pairs of low and high, and {count} channels are used; give one pair, "
            f"or one for each"
        )


def _number_of(name: str, there: Sequence[str]) -> int:
    """From 0, of a channel's name, in small letters or large, or its number from 1."""
    by_name = [number for number, one in enumerate(there) if one.lower() == name.lower()]
    by_number = [int(name) - 1] if name.isdecimal() and 1 <= int(name) <= len(there) else []
    found = sorted({*by_name, *by_number})
    if not found:
        raise DataError(f"has no channel {name!r}; its channels are {_listed(there)}")
    if len(found) > 1:
        raise DataError(
            f"has several channels that {name!r} may mean, {', '.join(str(n + 1) for n in found)} of {_listed(there)}; "
            f"name another way to say which"
        )
    return found[0]


def _listed(channels: Sequence[str]) -> str:
    return ", ".join(
        name if name == str(number) else f"{number} {name}" for number, name in enumerate(channels[:40], 1)
    ) + (", …" if len(channels) > 40 else "")


def _about(name: str, error: DataError) -> DataError:
    return error if str(error).startswith(name) else DataError(f"{name}: {error}")
