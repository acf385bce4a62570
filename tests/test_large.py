"""Images too large to be held as a whole: the same masks as in memory, piece by piece, whenever they are stopped."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    BankRecipe,
    DataConfig,
    DataError,
    DecoderConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    RunConfig,
    Segmenter,
    SourceImages,
    build_bank,
    open_dataset,
)
from fungi_seg.audit import audit_bank, write_audit
from fungi_seg.bank import pieces
from fungi_seg.bank.room import check_fit
from fungi_seg.images import Tiles, views
from fungi_seg.planning import calibrate
from fungi_seg.results import ResultsConfig, large, large_objects, segment_to_folder
from fungi_seg.results.large_draft import LargeDraft
from fungi_seg.results.names import DRAFTS
from fungi_seg.segmentation import MaskConfig, ObjectConfig, explanation_sheet, objects_of

INPUT = InputConfig(scale=1, tile=32)
DECODERS = {
    "vote": DecoderConfig(k=5),
    "edges": DecoderConfig(k=5, refine=1.0),
    "regression": DecoderConfig(k=5, refine=0.5, ridge="token", ridge_share=0.5),
}


def mosaic(height: int, width: int) -> np.ndarray:
    """`[height, width, 3]` uint8, scenes beside and below each other."""
    rows = [
        np.concatenate([scene(30 + 7 * i + j)[0] for j in range(-(-width // 64))], 1) for i in range(-(-height // 48))
    ]
    return np.ascontiguousarray(np.concatenate(rows)[:height, :width])


@pytest.fixture(scope="module")
def scaled(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """A bank whose images entered at their own scale."""
    root = tmp_path_factory.mktemp("scaled")
    dataset = open_dataset(DataConfig(root=str(folder_tree(root / "data")), split="train"))
    return build_bank(dataset, tiny_backbone, root / "bank", BankRecipe(input=INPUT, bank=BankConfig(None)))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than a few tiles counts as large."""
    monkeypatch.setattr(views, "LARGE_PIXELS", 100 * 100)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled TIFF of 213 by 331 pixels."""
    path = tmp_path_factory.mktemp("large") / "large.tif"
    tifffile.imwrite(path, mosaic(213, 331), tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def segmenter_of(bank: MemoryBank, backbone: Backbone, decoder: DecoderConfig) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=backbone), decoder)


def contents(folder: Path) -> dict[str, bytes]:
    """All files by name but those that tell the time that it took."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in ("run.jsonl", "images.csv", "index.html")}


@pytest.fixture(scope="module")
def undisturbed(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What is written of the image with edges."""
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(views, "LARGE_PIXELS", 100 * 100)
        segment_to_folder(segmenter_of(scaled, tiny_backbone, DECODERS["edges"]), {"large": image}, out)
    return contents(out)


def record_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.jsonl").read_text().splitlines()[1])
    return found


@pytest.mark.parametrize("decoder", DECODERS)
def test_as_in_memory(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, tmp_path: Path, decoder: str, small_limits: None
) -> None:
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS[decoder])
    whole = segmenter.predict(image)
    outcome = segment_to_folder(segmenter, {"large": image}, tmp_path)
    assert (outcome.segmented, outcome.skipped) == (1, [])
    found = tifffile.imread(tmp_path / "masks" / "large.tif")
    assert found.shape == (213, 331)
    assert found.dtype == np.uint8
    assert (found == whole.mask).mean() >= 0.9999
    record = record_in(tmp_path)
    assert record["pixels"] == [[int(i), int((found == i).sum())] for i in np.unique(found)]
    assert sum(record["histogram"]) == found.size
    assert record["sure"] == pytest.approx(whole.sure.mean(), abs=2e-3)
    assert [name for name, _ in record["voters"]] == [name for name, _ in whole.voters]
    assert not (tmp_path / DRAFTS).exists()


def test_no_seams(scaled: MemoryBank, tiny_backbone: Backbone) -> None:
    """Scores change no more between patches where a tile ends than elsewhere."""
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["vote"])
    picture = np.tile(scene(3, void=False)[0], (8, 8, 1))
    fitted = segmenter.fit(picture)
    assert fitted.tiles is not None
    assert len(fitted.tiles) > 20
    scores = segmenter.predict(picture).patch_scores.numpy()
    steps = np.abs(np.diff(scores, axis=2)).mean((0, 1))
    ends = {t.columns.stop - 1 for t in fitted.tiles.row(0)[:-1]} | {
        t.columns.start - 1 for t in fitted.tiles.row(0)[1:]
    }
    inner = np.delete(steps, sorted(ends))
    assert steps[sorted(ends)].mean() < inner.mean() + 2 * inner.std()


def test_whole_where_the_scale_makes_it_small(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, tmp_path: Path, small_limits: None
) -> None:
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["vote"]).entering(InputConfig(scale=0.25, tile=32))
    assert (
        segmenter.fit(mosaic(213, 331)).tiles == segmenter.features.fit_image(mosaic(213, 331), segmenter.input).tiles
    )
    whole = segmenter.predict(image)
    segment_to_folder(segmenter, {"large": image}, tmp_path)
    assert (tifffile.imread(tmp_path / "masks" / "large.tif") == whole.mask).all()


def test_the_draft_holds_the_rows_of_tiles_at_work(
    scaled: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_limits: None
) -> None:
    kept: list[int] = []
    forget, path = LargeDraft.forget, tmp_path / "tall.tif"
    tifffile.imwrite(path, mosaic(600, 130), photometric="rgb")

    def counting(self: LargeDraft, number: int) -> None:
        forget(self, number)
        kept.append(len(list(self.folder.glob("tiles-*"))))

    monkeypatch.setattr(LargeDraft, "forget", counting)
    segment_to_folder(segmenter_of(scaled, tiny_backbone, DECODERS["edges"]), {"tall": path}, tmp_path / "out")
    assert len(kept) > 20
    assert max(kept) <= 5


class Stopped(Exception):
    """Raised where a run is to end."""


@pytest.mark.parametrize("step", ["add", "write", "forget", "_put", "_save"])
@pytest.mark.parametrize("time", [1, 4])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_limits: None,
    undisturbed: dict[str, bytes],
    step: str,
    time: int,
) -> None:
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["edges"])
    stopped_at(step, time, segmenter, {"large": image}, tmp_path / "stopped")
    scored: list[int] = []
    monkeypatch.setattr(LargeDraft, "add", counted(LargeDraft.add, scored))
    segment_to_folder(segmenter, {"large": image}, tmp_path / "stopped")
    if time == 4:
        assert len(scored) < 9
    assert contents(tmp_path / "stopped") == undisturbed


def counted(function: Any, calls: list[int]) -> Any:
    def called(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return called


KILLED = """
import os, signal, sys
from fungi_seg import DecoderConfig, MemoryBank, Segmenter, load_backbone
from fungi_seg.images import Tiles, views
from fungi_seg.planning import calibrate
from fungi_seg.results import segment_to_folder
from fungi_seg.results.large_draft import LargeDraft
from fungi_seg.results.names import DRAFTS
from fungi_seg.results.names import DRAFTS
from pathlib import Path
views.LARGE_PIXELS = 100
bank, image, out, number = sys.argv[1:]
put, seen = LargeDraft._put, [0]
def killing(*arguments):
    seen[0] += 1
    if seen[0] == int(number):
        arguments[0].write(b"x" * 7)
        arguments[0].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    put(*arguments)
LargeDraft._put = staticmethod(killing)
segmenter = Segmenter(bank, decoder=DecoderConfig(k=5, refine=1.0), dtype="float32", device="cpu")
segment_to_folder(segmenter, {"large": Path(image)}, out)
"""


@pytest.mark.parametrize("number", [3, 17])
def test_killed_it_goes_on_to_the_same_bytes(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    image: Path,
    tmp_path: Path,
    small_limits: None,
    undisturbed: dict[str, bytes],
    number: int,
) -> None:
    command = [sys.executable, "-c", KILLED, str(scaled.path), str(image), str(tmp_path / "killed"), str(number)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["edges"])
    segment_to_folder(segmenter, {"large": image}, tmp_path / "killed")
    assert contents(tmp_path / "killed") == undisturbed


def stopped_at(step: str, time: int, segmenter: Segmenter, images: dict[str, Path], out: Path, **options: Any) -> None:
    """A run that ends where a step is taken for the given time."""
    plain, times = getattr(LargeDraft, step), iter(range(1, 100))

    def stopping(*arguments: Any) -> Any:
        if next(times) == time:
            raise Stopped
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LargeDraft, step, staticmethod(stopping) if step == "_put" else stopping)
        with pytest.raises(Stopped):
            segment_to_folder(segmenter, images, out, **options)


@pytest.mark.parametrize("pattern", ["mask.raw", "levels.raw", "best.raw", "unlike.raw", "preview.raw", "tiles-*"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_draft_is_told(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    image: Path,
    tmp_path: Path,
    small_limits: None,
    undisturbed: dict[str, bytes],
    pattern: str,
    gone: bool,
) -> None:
    segmenter, out = segmenter_of(scaled, tiny_backbone, DECODERS["edges"]), tmp_path / "out"
    stopped_at("add", 5, segmenter, {"large": image}, out)
    (draft,) = (out / DRAFTS).iterdir()
    for path in draft.glob(pattern):
        data = path.read_bytes()
        path.unlink()
        if not gone:
            path.write_bytes(data[:-1])
    with pytest.raises(FungiSegError, match=r"what an earlier run kept is damaged .* to begin this image anew"):
        segment_to_folder(segmenter, {"large": image}, out)
    shutil.rmtree(draft)
    segment_to_folder(segmenter, {"large": image}, out)
    assert contents(out) == undisturbed


def test_names_have_drafts_of_their_own(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, tmp_path: Path, small_limits: None
) -> None:
    segmenter, out = segmenter_of(scaled, tiny_backbone, DECODERS["vote"]), tmp_path / "out"
    names = ["a/b", "a_b", "/".join(["a rather long name of a folder"] * 9)]
    for name in names:
        stopped_at("add", 3, segmenter, {name: image}, out)
    assert len(list((out / DRAFTS).iterdir())) == len(names)
    segment_to_folder(segmenter, dict.fromkeys(names, image), out)
    assert not (out / DRAFTS).exists()


def test_drafts_go_with_the_results_that_they_were_of(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, tmp_path: Path, small_limits: None
) -> None:
    out = tmp_path / "out"
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["edges"])
    segment_to_folder(segmenter, {"a": image}, out)
    stopped_at("add", 3, segmenter, {"a": image, "b": image}, out)
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["vote"])
    stopped_at("add", 3, segmenter, {"a": image}, out, overwrite=True)
    assert (out / DRAFTS).exists()
    segment_to_folder(segmenter, {"a": image}, out, overwrite=True)
    assert not (out / DRAFTS).exists()


def test_another_image_or_setting_begins_anew(
    scaled: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_limits: None
) -> None:
    segmenter, path = segmenter_of(scaled, tiny_backbone, DECODERS["vote"]), tmp_path / "a.tif"
    tifffile.imwrite(path, mosaic(120, 130), photometric="rgb")
    with monkeypatch.context() as patched:
        patched.setattr(large, "write_mask", stop)
        with pytest.raises(Stopped):
            segment_to_folder(segmenter, {"a": path}, tmp_path / "out")
    tifffile.imwrite(path, mosaic(120, 130)[::-1], photometric="rgb")
    segment_to_folder(segmenter, {"a": path}, tmp_path / "out")
    assert (tifffile.imread(tmp_path / "out" / "masks" / "a.tif") == segmenter.predict(path).mask).all()


def stop(*_: Any) -> None:
    raise Stopped


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (ResultsConfig(scores=True), "--scores"),
        (ResultsConfig(masks=MaskConfig("palette")), "--masks.format palette"),
    ],
)
def test_what_cannot_be_made_is_told(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    image: Path,
    tmp_path: Path,
    small_limits: None,
    config: ResultsConfig,
    named: str,
) -> None:
    with pytest.raises(FungiSegError, match=f"has 213×331 pixels .* of which {named}.* can't be made; leave that out"):
        segment_to_folder(segmenter_of(scaled, tiny_backbone, DECODERS["vote"]), {"large": image}, tmp_path, config)
    assert not (tmp_path / "masks").exists()


def test_damage_is_told_and_skipped(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, tmp_path: Path, small_limits: None
) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["vote"])
    with pytest.raises(DataError, match=r"broken\.tif"):
        segment_to_folder(segmenter, {"broken": broken}, tmp_path / "out")
    images = {"broken": broken, "large": image}
    outcome = segment_to_folder(segmenter, images, tmp_path / "out", run=RunConfig(skip_bad=True))
    assert outcome.segmented == 1
    assert "broken.tif" in outcome.skipped[0]


@pytest.fixture
def large_data(tmp_path: Path) -> DataConfig:
    """Two annotated TIFFs, one of which is large."""
    root = folder_tree(tmp_path / "data", train=1)
    mask = np.tile(scene(7)[1], (4, 5))
    tifffile.imwrite(root / "train" / "images" / "big.tif", np.tile(scene(7)[0], (4, 5, 1)), photometric="rgb")
    tifffile.imwrite(root / "train" / "masks" / "big.tif", mask)
    return DataConfig(root=str(root), split="train")


def test_rows_of_pieces_keep_their_place(
    tiny_backbone: Backbone, large_data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_limits: None
) -> None:
    """All patches of a large image are rows, where they lie in it, with the labels that they have there."""
    monkeypatch.setattr(pieces, "SIDE", 2)
    recipe = BankRecipe(input=INPUT, bank=BankConfig(None))
    bank = build_bank(open_dataset(large_data), tiny_backbone, tmp_path / "bank", recipe)
    number = bank.info.sources.index("big")
    rows = np.flatnonzero(np.asarray(bank.rows.source) == number)
    boxes, mask = bank.rows.box[rows], np.tile(scene(7)[1], (4, 5))
    assert len(np.unique(boxes, axis=0)) == len(rows)
    labels = bank.rows.labels.take(rows)
    dense = np.zeros((len(rows), 3))
    owner, entries = labels.entries(np.arange(len(rows)))
    dense[owner, labels.ids[entries]] = labels.weights[entries] / 255
    for (left, top, right, bottom), found in zip(boxes.astype(int), dense, strict=True):
        there = mask[top:bottom, left:right]
        counts = np.bincount(there[there < 255], minlength=3)
        np.testing.assert_allclose(found, counts / counts.sum(), atol=0.01)
    patches = [mask[y : y + 8, x : x + 8] for y in range(0, 192, 8) for x in range(0, 320, 8)]
    assert len(rows) == sum((patch < 255).any() for patch in patches)


def test_time_is_planned_from_tiles_of_a_piece(
    tiny_backbone: Backbone, large_data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_limits: None
) -> None:
    """All of it takes what its tiles take, those that overlap too; no bank is built for it."""
    clock = iter(range(1000))
    monkeypatch.setattr("fungi_seg.planning.calibration.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("fungi_seg.planning.calibration.build_bank", stop)
    monkeypatch.setattr(pieces, "SIDE", 3)
    dataset, recipe = open_dataset(large_data), BankRecipe(input=INPUT, bank=BankConfig(None))
    needs = check_fit(dataset, tiny_backbone, tmp_path / "bank", recipe, RunConfig().load)
    timing = calibrate(dataset, tiny_backbone, tmp_path / "bank", needs, recipe, RunConfig())
    assert needs.patches == (24 * 40 + 6 * 8)
    tiles = Tiles((12, 12), (4, 4))
    assert timing.build == pytest.approx((1 + len(tiles)) / 144 * needs.patches)


def test_a_part_that_is_read_in_strips_is_the_same(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with views.opened_view(image, InputConfig(scale=0.3, tile=32), (8, 8)) as view:
        whole = view.part(range(64), range(100))
        monkeypatch.setattr(views, "LARGE_PIXELS", 331 * 20)
        np.testing.assert_array_equal(view.part(range(64), range(100)), whole)


def test_a_huge_image_at_a_size_enters_whole(
    tiny_backbone: Backbone, large_data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows, and its mask, are nearly those of the image in memory, resampled in another way."""
    recipe = BankRecipe(input=InputConfig(64), bank=BankConfig(None))
    banks = []
    for name, most in (("memory", 2**29), ("strips", 100)):
        monkeypatch.setattr(views, "MOST_PIXELS", most)
        banks.append(build_bank(open_dataset(large_data), tiny_backbone, tmp_path / name, recipe))
    assert [len(bank) for bank in banks] == [len(banks[0])] * 2
    similarities = (np.asarray(banks[0].rows.keys[:], np.float32) * np.asarray(banks[1].rows.keys[:], np.float32)).sum(
        1
    )
    assert np.median(similarities) > 0.99


def test_augmented_copies_of_large_images_are_refused(
    tiny_backbone: Backbone, large_data: DataConfig, tmp_path: Path, small_limits: None
) -> None:
    recipe = BankRecipe(input=INPUT, bank=BankConfig(augment=True))
    with pytest.raises(DataError, match=r"big\.tif: is worked on in pieces, which bank\.augment"):
        build_bank(open_dataset(large_data), tiny_backbone, tmp_path / "bank", recipe)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written without waiting for the disk."""
    monkeypatch.setattr("os.fsync", lambda number: None)


@pytest.mark.parametrize("at", [(5, 5), (170, 100), (330, 212)])
def test_explained_as_in_memory(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int]
) -> None:
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["regression"])
    whole = segmenter.explain(image, at)
    monkeypatch.setattr(views, "LARGE_PIXELS", 100 * 100)
    part = segmenter.explain(image, at)
    assert part.image.size < whole.image.size
    told, expected = json.loads(part.to_json()), json.loads(whole.to_json())
    assert {n["row"] for n in told["neighbours"]} == {n["row"] for n in expected["neighbours"]}
    for name in ("at", "bounds", "pixels", "class"):
        assert told[name] == expected[name]
    assert part.what == whole.what == f"pixel ({at[0]}, {at[1]})"
    np.testing.assert_allclose(told["boxes"], expected["boxes"], atol=0.01)
    np.testing.assert_allclose(part.scores, whole.scores, atol=1e-5)


def test_a_region_of_a_large_image(
    scaled: MemoryBank, tiny_backbone: Backbone, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter, region = segmenter_of(scaled, tiny_backbone, DECODERS["vote"]), (40, 60, 150, 120)
    whole = segmenter.explain(image, region=region)
    monkeypatch.setattr(views, "LARGE_PIXELS", 100 * 100)
    part = segmenter.explain(image, region=region)
    assert part.bounds == whole.bounds == region
    np.testing.assert_allclose(part.scores, whole.scores, atol=1e-5)
    with pytest.raises(FungiSegError, match="isn't in the image, which is 331×213"):
        segmenter.explain(image, at=(331, 5))
    monkeypatch.setattr("fungi_seg.segmentation.nearby.MOST", 4)
    with pytest.raises(FungiSegError, match=r"large\.tif: the region \(40, 60, 150, 120\) is .* name a smaller region"):
        segmenter.explain(image, region=region)


def test_large_annotated_images_are_shown_smaller(
    tiny_backbone: Backbone, large_data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_limits: None
) -> None:
    """Patches keep their place in them, on sheets and pages of explanations and audits too."""
    recipe = BankRecipe(input=INPUT, bank=BankConfig(None))
    record = {"data": asdict(large_data)}
    bank = build_bank(open_dataset(large_data), tiny_backbone, tmp_path / "bank", recipe, record=record)
    monkeypatch.setattr("fungi_seg.bank.sources.SHOWN_PIXELS", 192 * 320 // 4)
    image, mask = np.tile(scene(7)[0], (4, 5, 1)), np.tile(scene(7)[1], (4, 5)).astype(np.int16)
    mask[mask == 255] = -1
    sample = SourceImages(bank)["big"]
    assert sample.shrunk == 2
    np.testing.assert_array_equal(sample.mask, mask[1::2, 1::2])
    means = image.reshape(96, 2, 160, 2, 3).mean((1, 3))
    assert np.abs(sample.image - means).max() <= 0.5
    np.testing.assert_array_equal(sample.placed(np.array([16, 8, 24, 16])), [8, 4, 12, 8])
    path = tmp_path / "data" / "train" / "images" / "big.tif"
    segmenter = segmenter_of(bank, tiny_backbone, DECODERS["vote"])
    found = segmenter.explain(path, at=(300, 100))
    images = {source: SourceImages(bank)[source] for source in bank.info.sources}
    assert explanation_sheet(found, images).size[0] > 100
    audit = audit_bank(bank)
    files = write_audit(audit, bank, SourceImages(bank), tmp_path / "audit", 2)
    assert all(file.stat().st_size > 100 for file in files)


@pytest.mark.parametrize("config", [ObjectConfig(), ObjectConfig(min_area=20, fill_holes=True, split=True)])
def test_objects_as_in_memory(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_limits: None,
    config: ObjectConfig,
) -> None:
    monkeypatch.setattr(large_objects, "CORE", 50)
    monkeypatch.setattr(large_objects, "MARGIN", 120)
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["edges"])
    outcome = segment_to_folder(segmenter, {"large": image}, tmp_path, ResultsConfig(objects=config))
    mask = tifffile.imread(tmp_path / "masks" / "large.tif")
    expected = objects_of(mask, scaled.info.classes, config).found
    assert outcome.objects == len(expected) > 5
    rows = list(csv.DictReader((tmp_path / "objects.csv").open()))
    key = sorted((one.area, *one.box[:2], one.centroid[0], one.eccentricity) for one in expected)
    names = ("area_px", "left_px", "top_px", "centroid_x_px", "eccentricity")
    np.testing.assert_allclose(sorted(tuple(float(row[name]) for name in names) for row in rows), key, atol=1e-3)


def test_objects_larger_than_a_margin_are_told(
    scaled: MemoryBank,
    tiny_backbone: Backbone,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    small_limits: None,
) -> None:
    monkeypatch.setattr(large_objects, "CORE", 16)
    monkeypatch.setattr(large_objects, "MARGIN", 2)
    segmenter = segmenter_of(scaled, tiny_backbone, DECODERS["edges"])
    segment_to_folder(segmenter, {"large": image}, tmp_path, ResultsConfig(objects=ObjectConfig()))
    assert "may be counted by their parts" in caplog.text
    assert "may be counted by their parts" in record_in(tmp_path)["note"]
