"""Keys on disk: what their encodings keep, and that reading rows of them is reading rows of one array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fungi_seg.bank.keys import Keys, Part, decode, encode, is_stored_as, key_dtype_of, stored_width
from fungi_seg.bank.settings import KEY_DTYPES

COSINES = {"float16": 0.999999, "int8": 0.9999, "int4": 0.985}


def directions(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    keys = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KEY_DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 7, 48, 385])
def test_directions_survive(kind: str, dim: int) -> None:
    keys = directions(200, dim)
    stored = encode(keys, kind)
    found = decode(stored, dim)
    assert found.dtype == np.float16
    assert found.shape == keys.shape
    assert key_dtype_of(stored) == kind
    assert is_stored_as(stored, dim)
    assert stored.nbytes == 200 * stored_width(dim, kind)
    found = found.astype(np.float64)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)
    cosines = (found * keys).sum(1) / lengths
    assert cosines.min() > (COSINES[kind] if dim > 2 else 0.9)
    if dim > 2:
        assert cosines.mean() > {"int4": 0.99}.get(kind, COSINES[kind])


@pytest.mark.parametrize("kind", KEY_DTYPES)
def test_a_spike_among_small_numbers_survives(kind: str) -> None:
    keys = np.full((1, 49), 0.01, np.float32)
    keys[0, 48] = 1
    keys /= np.linalg.norm(keys)
    assert decode(encode(keys, kind), 49).astype(float)[0] @ keys[0] > {"int4": 0.9}.get(kind, 0.998)


def test_int4_is_16_levels_two_a_byte_even_columns_low() -> None:
    """Decoded by hand, number by number."""
    keys = directions(20, 7, seed=1)
    stored = encode(keys, "int4")
    assert (stored.shape, stored.dtype) == ((20, 4), np.uint8)
    for row, found in zip(stored, decode(stored, 7), strict=True):
        levels = [byte >> 4 * half & 15 for byte in row.tolist() for half in (0, 1)][:7]
        centred = np.array(levels) - 7.5
        np.testing.assert_allclose(found, centred / np.linalg.norm(centred), atol=1e-3)


def test_int8_is_steps_of_the_largest() -> None:
    keys = directions(20, 7, seed=1)
    stored = encode(keys, "int8")
    assert (np.abs(stored.astype(int)).max(1) == 127).all()
    np.testing.assert_allclose(stored / 127, keys / np.abs(keys).max(1, keepdims=True), atol=0.5 / 127 + 1e-6)


@pytest.mark.parametrize("kind", KEY_DTYPES)
def test_encoding_again_changes_nothing_more(kind: str) -> None:
    """What compacting a bank twice does."""
    once = decode(encode(directions(100, 33), kind), 33)
    again = decode(encode(once, kind), 33)
    np.testing.assert_allclose(again, once, atol={"int4": 0.1}.get(kind, 2e-3))


@pytest.mark.parametrize("kind", KEY_DTYPES)
def test_no_rows(kind: str) -> None:
    stored = encode(np.zeros((0, 5), np.float32), kind)
    assert decode(stored, 5).shape == (0, 5)
    assert is_stored_as(stored, 5)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_row_of_zeros_is_finite(kind: str) -> None:
    assert np.isfinite(decode(encode(np.zeros((2, 6), np.float32), kind), 6)).all()


@pytest.mark.parametrize(
    ("stored", "dim"),
    [
        (np.zeros((3, 4), np.float32), 4),
        (np.zeros((3, 4), ">f2"), 4),
        (np.zeros((3, 4), np.float16), 5),
        (np.zeros((3, 4), np.int8), 5),
        (np.zeros((3, 4), np.uint8), 9),
        (np.zeros((3, 4), np.uint8), 4),
        (np.zeros(3, np.float16), 3),
    ],
)
def test_what_cannot_hold_keys(stored: np.ndarray, dim: int) -> None:
    assert not is_stored_as(stored, dim)


def keys_of(seed: int, kinds: list[str], dim: int = 5) -> tuple[Keys, np.ndarray]:
    """Keys in several parts, of some of which only some rows count, and all of them as one array."""
    generator = np.random.default_rng(seed)
    parts, arrays = [], []
    for number, kind in enumerate(kinds):
        stored = encode(directions(int(generator.integers(0, 9)), dim, seed + number), kind)
        rows = None
        if generator.random() < 0.5:
            rows = np.flatnonzero(generator.random(len(stored)) < 0.6)
        parts.append(Part(stored, rows))
        arrays.append(decode(stored if rows is None else stored[rows], dim))
    return Keys(parts, dim), np.concatenate([np.empty((0, dim), np.float16), *arrays])


kinds_of_parts = st.lists(st.sampled_from(KEY_DTYPES), max_size=5)
ends = st.one_of(st.none(), st.integers(-30, 30))
steps = st.one_of(st.none(), st.integers(-4, 4).filter(bool))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), kinds_of_parts, st.builds(slice, ends, ends, steps))
def test_slices_are_those_of_one_array(seed: int, kinds: list[str], rows: slice) -> None:
    keys, expected = keys_of(seed, kinds)
    assert (len(keys), keys.shape, keys.dtype) == (len(expected), expected.shape, np.float16)
    np.testing.assert_array_equal(keys[rows], expected[rows])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), kinds_of_parts, st.data())
def test_chosen_rows_are_those_of_one_array(seed: int, kinds: list[str], data: st.DataObject) -> None:
    """Any order, with repeats, from either end; masks; single rows; tables of rows."""
    keys, expected = keys_of(seed, kinds)
    size = len(expected)
    if size:
        rows = np.array(data.draw(st.lists(st.integers(-size, size - 1), max_size=30)), np.int64)
        np.testing.assert_array_equal(keys[rows], expected[rows])
        np.testing.assert_array_equal(keys[rows.astype(np.int32)[:, None]], expected[rows[:, None]])
        one = data.draw(st.integers(-size, size - 1))
        np.testing.assert_array_equal(keys[one], expected[one])
        np.testing.assert_array_equal(keys[rows.tolist()], expected[rows])
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    np.testing.assert_array_equal(keys[mask], expected[mask])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), kinds_of_parts, st.integers(1, 9))
def test_chunks_are_all_keys_in_order(seed: int, kinds: list[str], rows: int) -> None:
    keys, expected = keys_of(seed, kinds)
    chunks = list(keys.chunks(rows))
    assert all(1 <= len(chunk) <= rows and chunk.dtype == np.float16 for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate([expected[:0], *chunks]), expected)


def test_all_of_them() -> None:
    keys, expected = keys_of(3, ["float16", "int4", "int8"])
    np.testing.assert_array_equal(np.asarray(keys), expected)
    np.testing.assert_array_equal(np.asarray(keys, np.float64), expected.astype(np.float64))
    np.testing.assert_array_equal(keys.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("rows", [[4], [-5], [0, 4, 1], np.ones(3, bool), np.ones(5, bool), np.ones((4, 1), bool)])
def test_rows_that_are_not_there(rows: Any) -> None:
    keys = Keys([Part(np.zeros((1, 2), np.float16)), Part(np.zeros((3, 2), np.float16))], 2)
    with pytest.raises(IndexError):
        keys[rows]


@pytest.mark.parametrize(
    "read", [lambda keys: next(keys.chunks()), np.asarray, lambda keys: keys.astype(np.float32)], ids=range(3)
)
def test_a_file_is_checked_before_all_of_it_is_read(read: Callable[[Keys], object]) -> None:
    def refuse() -> None:
        raise ValueError("damaged")

    keys = Keys([Part(np.zeros((3, 2), np.float16), None, refuse)], 2)
    with pytest.raises(ValueError, match="damaged"):
        read(keys)
    assert keys[:1].shape == (1, 2)
