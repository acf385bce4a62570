"""Counts of objects and panoptic quality: against sets of pixels in plain Python."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from test_cli import Rejects, Run, bank, data, rejects, run  # noqa: F401

from fungi_seg.evaluation import CountQuality, ObjectTally, count_quality, count_rows
from fungi_seg.segmentation import ObjectConfig

SMALL = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)


def brute_force(truth: np.ndarray, found: np.ndarray, void: np.ndarray) -> CountQuality:
    """As the paper defines it: all pairs, sets of pixels, and the best of all ways to assign them one to one."""

    def pixels(labels: np.ndarray) -> list[set[tuple[int, int]]]:
        where: dict[int, set[tuple[int, int]]] = {}
        for place in np.ndindex(labels.shape):
            if labels[place]:
                where.setdefault(int(labels[place]), set()).add(place)
        return list(where.values())

    nothing = {place for place in np.ndindex(void.shape) if void[place]}
    wanted = [one - nothing for one in pixels(truth) if one - nothing]
    named = pixels(found)
    iou = [[Fraction(len(w & n), len(w | (n - nothing))) for n in named] for w in wanted]
    pairs = [(w, n) for w in range(len(wanted)) for n in range(len(named)) if iou[w][n] > Fraction(1, 2)]
    matchings = (set(c) for k in range(len(pairs) + 1) for c in itertools.combinations(pairs, k))
    one_to_one = [m for m in matchings if len({w for w, _ in m}) == len({n for _, n in m}) == len(m)]
    best = max(one_to_one, key=lambda m: (len(m), sum(iou[w][n] for w, n in m)))
    matched = {n for _, n in best}
    counted = [n for n, one in enumerate(named) if n in matched or 2 * len(one & nothing) <= len(one)]
    overlap = float(sum(iou[w][n] for w, n in best))
    off_by = abs(len(wanted) - len(counted))
    return CountQuality(1, len(wanted), len(counted), off_by, len(best), overlap)


def same(one: CountQuality, other: CountQuality) -> bool:
    return vars(one) == pytest.approx(vars(other))


@given(st.data(), SMALL, st.integers(1, 4))
def test_against_brute_force(data: st.DataObject, shape: tuple[int, int], most: int) -> None:  # noqa: F811
    """Objects need not be connected; the numbers need not be dense."""
    numbers = st.sampled_from([0, 3, 7, 8, 1000][: most + 1])
    truth, found = (data.draw(arrays.arrays(np.int32, shape, elements=numbers)) for _ in range(2))
    void = data.draw(arrays.arrays(bool, shape, elements=st.sampled_from([False, False, True])))
    assert same(count_quality(truth, found, void), brute_force(truth, found, void))
    nothing = np.zeros(shape, bool)
    assert same(count_quality(truth, found), brute_force(truth, found, nothing))
    renamed = np.where(found, 2000 - found, 0)
    assert count_quality(truth, renamed, void) == count_quality(truth, found, void)


def test_exactly_half_is_not_enough() -> None:
    truth = np.array([[1, 1, 1, 0, 2, 2, 2, 2]])
    found = np.array([[4, 4, 4, 4, 4, 4, 5, 5]])  # 3 of 6; 2 of 4
    assert count_quality(truth, found) == CountQuality(1, 2, 2, 0, 0, 0.0)
    found[0, 5] = 5
    assert same(count_quality(truth, found), CountQuality(1, 2, 2, 0, 2, 3 / 5 + 3 / 4))


def test_figures() -> None:
    """Two images: 3 of 4 found and one too many in the other, of which 2 are right."""
    whole = CountQuality(1, 4, 3, 1, 2, 1.5) + CountQuality(1, 1, 2, 1, 0, 0.0)
    facts = whole.facts()
    assert (facts["images"], facts["truth"], facts["found"]) == (2, 5, 5)
    assert (facts["mean_off_by"], facts["relative_off_by"], facts["mean_bias"]) == (1.0, 0.4, 0.0)
    assert facts["recognition_quality"] == 2 / (2 + 3 / 2 + 3 / 2)  # right / (right + wrong / 2 + missed / 2)
    assert facts["segmentation_quality"] == 0.75
    assert facts["panoptic_quality"] == pytest.approx(0.75 * 0.4)
    assert count_rows([{"name": "x", **facts}]) == [
        ("x", "5", "5", "1.00", "40.00", "+0.00", "30.00", "75.00", "40.00")
    ]


def test_nothing_to_count() -> None:
    empty = np.zeros((3, 3), int)
    facts = count_quality(empty, empty).facts()
    assert [key for key, value in facts.items() if value is None] == [
        "relative_off_by",
        "panoptic_quality",
        "segmentation_quality",
        "recognition_quality",
    ]
    assert count_rows([{"name": "x", **facts}])[0][3:] == ("0.00", "–", "+0.00", "–", "–", "–")


def test_classes_are_counted_apart_and_the_truth_is_not_split() -> None:
    """Two squares joined by a bridge are one object of the truth, and two once what was found is split."""
    truth = np.zeros((24, 60), np.int16)
    truth[4:20, 4:20] = truth[4:20, 30:46] = truth[11:13, 20:30] = 1
    truth[0:3, 50:58] = 2
    truth[20:, 50:] = -1
    found = truth.copy()
    found[20:, 50:] = 2  # void there: right of neither
    for split, expected in ((False, (1, 1, 1)), (True, (1, 2, 0))):
        tally = ObjectTally(("background", "cell", "scratch"), ObjectConfig(split=split))
        tally.add(truth, found)
        cell, scratch = tally.facts()
        assert (cell["truth"], cell["found"], cell["right"]) == expected
        assert (scratch["truth"], scratch["found"], scratch["right"]) == (1, 1, 1)
    tally = ObjectTally(("background", "cell", "scratch"), ObjectConfig(classes=("scratch",), min_area=25))
    tally.add(truth, found)
    assert [(one["name"], one["truth"]) for one in tally.facts()] == [("scratch", 0)]


def test_evaluate_counts_objects(run: Run, bank: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    """Of a bank and of predictions on disk alike; the report says so everywhere."""
    options = ["--data.root", data, "--data.split", "val"]
    files = [tmp_path / "bank.json", tmp_path / "disk.json"]
    command = ["evaluate", *options, "--objects", "--object.min_area", "9", "--markdown", tmp_path / "report.md"]
    code, out, _ = run(*command, "--bank", bank, "--json", files[0])
    assert code == 0
    assert "objects of" in out
    assert run("segment", data / "val" / "images", "--bank", bank, "--out", tmp_path / "out")[0] == 0
    assert run(*command, "--predictions", tmp_path / "out", "--json", files[1])[0] == 0
    reports = [json.loads(file.read_text()) for file in files]
    assert reports[0]["objects"] == reports[1]["objects"]
    assert [one["name"] for one in reports[0]["objects"]] == ["red", "green"]
    assert reports[0]["settings"]["object"]["min_area"] == 9
    assert "| objects of | in the truth |" in (tmp_path / "report.md").read_text()
    run("evaluate", *options, "--bank", bank, "--json", files[0])
    assert json.loads(files[0].read_text())["objects"] is None


def test_object_settings_without_objects(rejects: Rejects, bank: Path, data: Path) -> None:  # noqa: F811
    given = ["--bank", bank, "--data.root", data, "--object.split", "true"]
    rejects(["--object.… is of objects, which aren't asked for; add --objects"], "evaluate", *given)


def test_classes_that_are_not_there(rejects: Rejects, bank: Path, data: Path) -> None:  # noqa: F811
    given = ["--bank", bank, "--data.root", data, "--data.split", "val", "--objects", "--object.classes", "[gren]"]
    rejects(["object.classes names 'gren', which isn't a class of the bank; did you mean 'green'?"], "evaluate", *given)
