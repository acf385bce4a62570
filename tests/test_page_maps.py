"""Label maps of the annotation page, held against numpy and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from page_server import runs_of
from page_tab import Opener, Tab, opened, server  # noqa: F401
from scipy import ndimage

pytestmark = pytest.mark.browser


def module(tab: Tab, body: str, given: Any = None) -> Any:
    """What a piece of script returns that has the functions of the page's label maps as `m`."""
    return tab.page.evaluate(f"async given => {{ const m = await import('/static/label_map.js'); {body} }}", given)


@pytest.fixture
def modules(opened: Opener) -> Tab:  # noqa: F811
    tab = opened()
    tab.open()
    return tab


def some_labels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A map of blocks, some of them unlabelled."""
    return np.kron(rng.integers(-1, 3, (height // 4, width // 4)), np.ones((4, 4), int))


def test_runs_are_those_of_numpy(modules: Tab) -> None:
    rng = np.random.default_rng(0)
    for box in ([0, 0, 40, 24], [3, 5, 31, 6], [39, 23, 40, 24], [0, 7, 40, 20]):
        labels = some_labels(rng, 24, 40)
        left, top, right, bottom = box
        given = {"labels": labels.ravel().tolist(), "box": box}
        runs = module(modules, "return m.encodeRuns(Int16Array.from(given.labels), 40, given.box)", given)
        assert runs == runs_of(labels[top:bottom, left:right])
        back = module(modules, "return [...m.decodeRuns(given, m.emptyMap(40, 24))]", runs_of(labels))
        assert back == labels.ravel().tolist()
    wrong = "try { m.decodeRuns([0, 5], m.emptyMap(2, 2)) } catch (error) { return error.message }"
    assert "5 pixels" in module(modules, wrong)


def capsule(shape: tuple[int, int], start: tuple[float, float], end: tuple[float, float], size: float) -> np.ndarray:
    """Pixels whose middle is within half the size of the line between the middles of two pixels."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    (x0, y0), (x1, y1) = ((np.floor(x) + 0.5, np.floor(y) + 0.5) for x, y in (start, end))
    length = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length, 0, 1) if length else 0
    distance = np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
    return distance - size / 2


def test_strokes_are_capsules(modules: Tab) -> None:
    rng = np.random.default_rng(1)
    body = """
        const labels = m.emptyMap(50, 30), log = [];
        const box = m.paintLine(labels, 50, 30, given.start, given.end, given.size, 2, log);
        const painted = [...labels];
        m.undoLog(labels, log);
        return { painted, box, clean: labels.every((value) => value === -1) };
    """
    for size in (1, 2, 3, 7, 16.0, 41):
        for start, end in (
            *rng.uniform((-9, -9), (59, 39), (8, 2, 2)).tolist(),
            [[9.2, 9.9], [9.2, 9.9]],
            [[3, 4], [30, 4]],
        ):
            told = module(modules, body, {"start": start, "end": end, "size": size})
            distance = capsule((30, 50), start, end, size)
            painted = np.reshape(told["painted"], (30, 50)) == 2
            sure = np.abs(distance) > 1e-6  # a pixel just on the rim may round either way
            assert np.array_equal(painted[sure], (distance < 0)[sure])
            assert told["clean"]
            if painted.any():
                rows, columns = np.nonzero(painted)
                assert told["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            else:
                assert told["box"] is None


def inside(shape: tuple[int, int], corners: list[list[float]]) -> np.ndarray:
    """Pixels whose middle has an odd number of edges to its right."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    crossed = np.zeros(shape, int)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if ay != by:
            x = ax + (rows - ay) / (by - ay) * (bx - ax)
            crossed += ((ay > rows) != (by > rows)) & (x > columns)
    return crossed % 2 == 1


def test_polygons_are_those_of_the_even_odd_rule(modules: Tab) -> None:
    rng = np.random.default_rng(2)
    body = """
        const labels = m.emptyMap(50, 30);
        m.paintPolygon(labels, 50, 30, given, 1, []);
        return [...labels];
    """
    star = [[25.1, 1.2], [33.3, 28.4], [5.7, 9.1], [44.9, 9.3], [14.2, 28.8]]
    for corners in (star, *(rng.uniform((-9, -9), (59, 39), (n, 2)).tolist() for n in (3, 4, 6, 9))):
        assert np.array_equal(np.reshape(module(modules, body, corners), (30, 50)) == 1, inside((30, 50), corners))


def test_regions_are_those_of_scipy(modules: Tab) -> None:
    rng = np.random.default_rng(3)
    body = """
        const spans = m.region(Int16Array.from(given.labels), 50, 30, given.seed, null, given.most);
        if (!spans) return null;
        const labels = m.emptyMap(50, 30);
        m.paintSpans(labels, 50, spans, 1, []);
        return [...labels];
    """
    for _ in range(12):
        labels = (
            rng.integers(0, 2, (30, 50))
            if rng.random() < 0.5
            else ndimage.zoom(rng.integers(0, 3, (6, 10)), 5, order=0)
        )
        seed = int(rng.integers(0, labels.size))
        same = ndimage.label(labels == labels.flat[seed])[0]
        wanted = same == same.flat[seed]
        given = {"labels": labels.ravel().tolist(), "seed": seed, "most": 2000}
        assert np.array_equal(np.reshape(module(modules, body, given), (30, 50)) == 1, wanted)
        assert (module(modules, body, {**given, "most": int(wanted.sum()) - 1})) is None


def test_changes_undo_repeat_and_invert(modules: Tab) -> None:
    rng = np.random.default_rng(4)
    body = """
        const labels = Int16Array.from(given.labels), log = [];
        m.paintLine(labels, 40, 24, [2, 3], [30, 20], 9, 2, log);
        m.paintPolygon(labels, 40, 24, [[1, 1], [30, 5], [12, 22]], -1, log);
        m.writeMap(labels, Int16Array.from(given.wanted), log);
        const made = [...labels];
        m.undoLog(labels, log);
        const undone = [...labels];
        m.redoLog(labels, log);
        const repeated = [...labels];
        m.redoLog(labels, m.inverseLog(log));
        return { made, undone, repeated, inverted: [...labels], box: m.boxOf([45, 3, -1, 1, 130, 2, 0, 1], 40) };
    """
    first, wanted = (some_labels(rng, 24, 40).ravel().tolist() for _ in range(2))
    told = module(modules, body, {"labels": first, "wanted": wanted})
    assert told["made"] == told["repeated"] == wanted
    assert told["undone"] == told["inverted"] == first
    assert told["box"] == [5, 1, 12, 4]
