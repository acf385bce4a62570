"""Who voted for a pixel or a region, held against counting by hand; annotated images found again; the sheet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import backbone_options
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    DataConfig,
    DataError,
    DecoderConfig,
    Explanation,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    MemoryBank,
    Neighbour,
    Sample,
    Segmenter,
    SourceImages,
    SourceShare,
    build_bank,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import main
from fungi_seg.images.pictures import ABSENT, GAP, MARK, PAPER, TILE
from fungi_seg.segmentation import explanation_sheet
from fungi_seg.segmentation.explanation import Votes, by_source, heaviest, votes_of, without_duplicates
from fungi_seg.segmentation.gallery import WIDE, first_patches, shown_sources

PATCH, K, TEMPERATURE = 8, 9, 0.02


def make_bank(root: Path, backbone: Backbone, out: Path, input: InputConfig, record: bool = True) -> MemoryBank:
    data = DataConfig(root=str(root), split="train")
    kept = {"data": asdict(data)} if record else None
    return build_bank(
        open_dataset(data),
        backbone,
        out,
        BankRecipe(FeatureConfig(kind="plain"), input, BankConfig(size=None)),
        record=kept,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training images of 48×64."""
    return folder_tree(tmp_path_factory.mktemp("data") / "tree")


@pytest.fixture(scope="module")
def bank(root: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """All 192 patches at their own size; inputs that aren't multiples of the patch are padded."""
    return make_bank(root, tiny_backbone, tmp_path_factory.mktemp("banks") / "bank", InputConfig(None, fit="pad"))


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank, tiny_backbone: Backbone) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=tiny_backbone), DecoderConfig(K, TEMPERATURE))


def all_votes(segmenter: Segmenter, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every patch its nearest rows and their weights, `[N, K]` each, by brute force."""
    queries = segmenter.features(segmenter.fit(image).image[None].float() / 255)[0].numpy().astype(np.float64)
    cosines = queries @ np.asarray(segmenter.bank.rows.keys).astype(np.float64).T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :K]
    exponents = np.exp(np.take_along_axis(cosines, nearest, 1) / TEMPERATURE)
    return nearest, exponents / exponents.sum(1, keepdims=True)


def count_by_hand(segmenter: Segmenter, image: np.ndarray, region: np.ndarray) -> tuple[dict, dict, np.ndarray]:
    """Weight of each row, share of each image, and class scores, pixel by pixel; for inputs of their own size."""
    nearest, weights = all_votes(segmenter, image)
    across = -(-image.shape[1] // PATCH)
    info, rows = segmenter.bank.info, segmenter.bank.rows
    labels = rows.labels.dense(len(info.classes))
    by_row: dict[int, float] = {}
    by_image: dict[str, float] = {}
    scores = np.zeros(len(info.classes))
    pixels = list(zip(*np.nonzero(region), strict=True))
    for y, x in pixels:
        patch = y // PATCH * across + x // PATCH
        for row, weight in zip(nearest[patch], weights[patch] / len(pixels), strict=True):
            source = info.sources[rows.source[row]]
            by_row[int(row)] = by_row.get(int(row), 0) + weight
            by_image[source] = by_image.get(source, 0) + weight
            scores += weight * labels[row]
    return by_row, by_image, scores


def rectangle(shape: tuple[int, ...], left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(shape[:2], bool)
    mask[top:bottom, left:right] = True
    return mask


# Votes


@pytest.mark.parametrize("at", [(0, 0), (63, 47), (20, 31), (50, 8)])
def test_a_pixel(segmenter: Segmenter, at: tuple[int, int]) -> None:
    """The K nearest rows by brute force, their weights, and the scores that predicting gives."""
    image = scene(100)[0]
    found = segmenter.explain(image, at=at)
    by_row, by_image, scores = count_by_hand(segmenter, image, found.region)
    assert found.region.sum() == 1
    assert found.region[at[1], at[0]]
    assert found.at == at
    assert {n.row: pytest.approx(n.weight, abs=1e-4) for n in found.neighbours} == by_row
    assert len(found.neighbours) == K
    assert {s.source: pytest.approx(s.share, abs=1e-4) for s in found.sources} == by_image
    assert sum(s.votes for s in found.sources) == K
    patch_scores = segmenter.predict(image).patch_scores[:, at[1] // PATCH, at[0] // PATCH]
    np.testing.assert_allclose(found.scores, patch_scores, atol=1e-5)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    assert (found.predicted, found.score) == (int(scores.argmax()), pytest.approx(scores.max(), abs=1e-4))
    corner = at[0] // PATCH * PATCH, at[1] // PATCH * PATCH
    np.testing.assert_array_equal(found.boxes, [[*corner, corner[0] + PATCH, corner[1] + PATCH]])
    listed = segmenter.neighbours(image, *at)
    assert [n.row for n in listed] == [n.row for n in found.neighbours]


REGIONS = {
    "within a patch": (9, 9, 14, 12),
    "over borders of patches": (3, 5, 41, 30),
    "a column": (7, 0, 9, 45),
    "the whole, padding left out": (0, 0, 61, 45),
}


@pytest.mark.parametrize("case", REGIONS)
def test_a_rectangle(segmenter: Segmenter, case: str) -> None:
    image = scene(100, 45, 61)[0]
    found = segmenter.explain(image, region=REGIONS[case])
    mask = rectangle(image.shape, *REGIONS[case])
    by_row, by_image, scores = count_by_hand(segmenter, image, mask)
    np.testing.assert_array_equal(found.region, mask)
    assert (found.at, found.bounds) == (None, REGIONS[case])
    assert sum(s.share for s in found.sources) == pytest.approx(1, abs=1e-9)
    assert {s.source: pytest.approx(s.share, abs=1e-4) for s in found.sources} == by_image
    assert sum(s.votes for s in found.sources) == K * len(found.boxes)
    assert (np.diff([s.share for s in found.sources]) <= 0).all()
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_allclose(sum(s.share * s.labels for s in found.sources), scores, atol=1e-4)
    assert len(found.neighbours) == min(K, len(by_row))
    heaviest_by_hand = sorted(by_row.values(), reverse=True)[:K]
    np.testing.assert_allclose([n.weight for n in found.neighbours], heaviest_by_hand, atol=1e-4)
    np.testing.assert_allclose(
        [n.weight for n in found.neighbours], [by_row[n.row] for n in found.neighbours], atol=1e-4
    )
    covered = np.zeros(image.shape[:2], bool)
    for left, top, right, bottom in found.boxes.astype(int):
        assert found.region[top:bottom, left:right].any()
        covered[top:bottom, left:right] = True
    assert covered[found.region].all()


def test_a_region_of_any_shape(segmenter: Segmenter) -> None:
    """Two far corners and nothing between; a mask that is a rectangle is that rectangle."""
    image = scene(100)[0]
    mask = rectangle(image.shape, 0, 0, 3, 2) | rectangle(image.shape, 60, 40, 64, 48)
    found = segmenter.explain(image, region=mask)
    _, by_image, scores = count_by_hand(segmenter, image, mask)
    assert {s.source: pytest.approx(s.share, abs=1e-4) for s in found.sources} == by_image
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 8, 8], [56, 40, 64, 48]])
    same = segmenter.explain(image, region=rectangle(image.shape, 5, 6, 30, 20))
    assert same.to_json() == segmenter.explain(image, region=[5, 6, 30, 20]).to_json()


def test_boxes_of_a_source_are_its_patches(segmenter: Segmenter) -> None:
    image = scene(100)[0]
    found = segmenter.explain(image, region=(0, 0, 40, 40))
    by_row, _, _ = count_by_hand(segmenter, image, found.region)
    rows, info = segmenter.bank.rows, segmenter.bank.info
    for source in found.sources:
        own = [row for row in by_row if info.sources[rows.source[row]] == source.source]
        assert {tuple(box) for box in source.boxes.tolist()} == {tuple(rows.box[row].tolist()) for row in own}
        assert len(source.boxes) == len(own)
    first = next(n for n in found.neighbours if n.source == found.sources[0].source)
    assert tuple(found.sources[0].boxes[0]) == first.box


def test_boxes_where_the_input_is_scaled(root: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """96×128 enters as 24×32: a patch is 32 pixels of the image."""
    bank = make_bank(root, tiny_backbone, tmp_path / "bank", InputConfig(24))
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone), DecoderConfig(4))
    found = segmenter.explain(scene(100, 96, 128)[0], at=(127, 50))
    np.testing.assert_array_equal(found.boxes, [[96, 32, 128, 64]])


def test_votes_that_were_not_found(bank: MemoryBank) -> None:
    """−inf casts no vote; a row that votes for two patches is one neighbour with both weights."""
    similarities = np.array([[0.9, 0.8, -np.inf], [0.95, -np.inf, -np.inf]], np.float32)
    votes = votes_of(similarities, np.array([[5, 7, 0], [7, 0, 0]]), np.array([0.25, 0.75]), 0.1)
    assert len(votes.rows) == 3
    one = 0.25 / (1 + np.exp(-1.0))
    joined = without_duplicates(votes)
    assert joined.rows.tolist() == [7, 5]
    np.testing.assert_allclose(joined.weights, [0.75 + 0.25 - one, one], atol=1e-6)
    np.testing.assert_allclose(joined.similarities, [0.95, 0.9], atol=1e-6)
    nothing = Votes(np.array([], np.int64), np.array([], np.float32), np.array([]))
    assert heaviest(nothing, bank.rows, bank.info.sources, 3, 5) == ()
    assert by_source(nothing, bank.rows, bank.info.sources, 3) == ()


def test_a_vote_without_weight_divides_nothing(bank: MemoryBank) -> None:
    votes = Votes(np.array([0, 191]), np.array([1.0, -1.0]), np.array([1.0, 0.0]))
    shares = by_source(votes, bank.rows, bank.info.sources, 3)
    assert [(s.source, s.share, s.votes) for s in shares] == [("train_0", 1.0, 1), ("train_3", 0.0, 1)]
    assert (shares[1].labels == 0).all()
    assert shares[0].labels.sum() == pytest.approx(1)


def test_an_approximate_index(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    """One of 16 lists holds fewer rows than asked for: the search goes on until all are there."""
    features = bank.patch_features(backbone=tiny_backbone)
    segmenter = Segmenter(bank, features, DecoderConfig(100), IndexConfig("IVF16,Flat", nprobe=1))
    found = segmenter.explain(scene(100)[0], region=(0, 0, 64, 48))
    assert sum(s.share for s in found.sources) == pytest.approx(1)
    assert sum(s.votes for s in found.sources) == 100 * len(found.boxes)


def test_json(segmenter: Segmenter) -> None:
    found = segmenter.explain(scene(100)[0], region=(3, 5, 41, 30))
    values = json.loads(found.to_json())
    assert (values["at"], values["bounds"], values["pixels"]) == (None, [3, 5, 41, 30], 38 * 25)
    assert (values["class"], values["score"]) == (found.classes[found.predicted], pytest.approx(found.score))
    assert sum(values["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert list(values["scores"].values()) == sorted(values["scores"].values(), reverse=True)
    assert [n["row"] for n in values["neighbours"]] == [n.row for n in found.neighbours]
    assert [s["share"] for s in values["sources"]] == [s.share for s in found.sources]
    assert values["neighbours"][0]["labels"].keys() <= {"background", "red", "green"}


MISTAKES = [
    ({}, "neither of at and region given"),
    ({"at": (1, 2), "region": (0, 0, 2, 2)}, "both of at and region given"),
    ({"at": (64, 0)}, r"the pixel \(64, 0\) isn't in the image, which is 64×48"),
    ({"at": (0, -1)}, r"the pixel \(0, -1\) isn't in the image"),
    ({"at": (1, 2, 3)}, r"at is \(1, 2, 3\); it must be \(x, y\) in whole pixels"),
    ({"at": (1.5, 2)}, r"at is \(1.5, 2\); it must be"),
    ({"at": 7}, "at is 7; it must be"),
    ({"region": (0, 0, 65, 2)}, r"the region \(0, 0, 65, 2\) isn't in the image, which is 64×48"),
    ({"region": (-1, 0, 5, 2)}, r"the region \(-1, 0, 5, 2\) isn't in the image"),
    ({"region": (0, 47, 5, 49)}, r"isn't in the image"),
    ({"region": (5, 5, 5, 9)}, r"region is \(5, 5, 5, 9\), which is empty"),
    ({"region": (5, 9, 8, 5)}, r"region is \(5, 9, 8, 5\), which is empty"),
    ({"region": (1, 2)}, r"region is \(1, 2\); it must be \(left, top, right, bottom\).*or a \[H, W\] bool array"),
    ({"region": "all"}, "region is 'all'; it must be"),
    ({"region": np.ones((48, 64), np.uint8)}, "region is an array of uint8, 48×64 .*it must be bool"),
    ({"region": np.ones((64, 48), bool)}, "region is an array of bool, 64×48 .*image's size, 48×64"),
    ({"region": np.zeros((48, 64), bool)}, "region has no pixel that is true"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_mistakes(segmenter: Segmenter, given: dict, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        segmenter.explain(scene(100)[0], **given)


# Source images


@pytest.fixture
def copied(root: Path, bank: MemoryBank, tmp_path: Path) -> tuple[Path, MemoryBank]:
    """A data set of its own and a bank that says so."""
    moved = Path(shutil.copytree(root, tmp_path / "data"))
    return moved, with_record(bank, {"data": asdict(DataConfig(root=str(moved), split="train"))})


def with_record(bank: MemoryBank, record: dict) -> MemoryBank:
    changed = MemoryBank.open(bank.path)
    changed.info, changed.history = replace(bank.info, build=record), ()
    return changed


def test_recorded_place(bank: MemoryBank, root: Path) -> None:
    images = SourceImages(bank)
    for sample in open_dataset(DataConfig(root=str(root), split="train")):
        np.testing.assert_array_equal(images[sample.id].image, sample.image)
        np.testing.assert_array_equal(images[sample.id].mask, sample.mask)


def test_an_unknown_id(bank: MemoryBank, root: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)'train_77' of the bank .*tree \(.*split train\): not among.*--data\.root DIR"
    ):
        SourceImages(bank)["train_77"]


def test_moved_root(copied: tuple[Path, MemoryBank], tmp_path: Path) -> None:
    """The root alone is enough, the recorded split stays; other settings replace the recorded ones."""
    root, bank = copied
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"(?s)'train_1'.*data: no such folder|no such folder.*--data\.root"):
        SourceImages(bank)["train_1"]
    moved = str(tmp_path / "elsewhere")
    for data in (DataConfig(root=moved), DataConfig(root=moved, split="train")):
        assert SourceImages(bank, data)["train_1"].id == "train_1"
    assert SourceImages(bank, DataConfig(root=moved, split="val"))["val_1"].id == "val_1"
    with pytest.raises(
        DataError, match=r"(?s)'train_1'.*split val\): not among its images.*split train\): .*no such folder"
    ):
        SourceImages(bank, DataConfig(root=moved, split="val"))["train_1"]


def test_images_added_later_are_found(copied: tuple[Path, MemoryBank]) -> None:
    """Of a bank with a history, each record is looked at, merged banks' too; other places are found as recorded."""
    root, bank = copied
    added = {"data": asdict(DataConfig(root=str(root), split="val"))}
    for history in [({"action": "remove"}, added), ({"action": "merge", "merged": [{"history": [added]}]},)]:
        bank.history = history
        assert SourceImages(bank)["val_0"].id == "val_0"
        assert SourceImages(bank)["train_0"].id == "train_0"
        assert SourceImages(bank, DataConfig(root="nowhere"))["val_0"].id == "val_0"


def test_images_that_were_replaced_are_the_later_ones(copied: tuple[Path, MemoryBank], tmp_path: Path) -> None:
    root, bank = copied
    later = Path(shutil.copytree(root, tmp_path / "corrected"))
    image = np.zeros((48, 64, 3), np.uint8)
    Image.fromarray(image).save(later / "train" / "images" / "train_0.png")
    bank.history = ({"action": "replace", "data": asdict(DataConfig(root=str(later), split="train"))},)
    np.testing.assert_array_equal(SourceImages(bank)["train_0"].image, image)


def test_removed_images_are_not_taken_for_others_of_their_id(copied: tuple[Path, MemoryBank], tmp_path: Path) -> None:
    """A bank that was merged into this one had another `train_0`, which was removed from it before."""
    root, bank = copied
    other = Path(shutil.copytree(root, tmp_path / "other"))
    for number in range(2):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(other / "train" / "images" / f"train_{number}.png")
    added = {"action": "build", "data": asdict(DataConfig(root=str(other), split="train"))}
    removed = {"action": "remove", "images": ["train_0"], "classes": []}
    bank.history = ({"action": "merge", "merged": [{"history": [added, removed]}]},)
    moved = DataConfig(root=str(shutil.copytree(root, tmp_path / "moved")))
    for data in (None, DataConfig(root=str(other)), DataConfig(root=str(other), split="train")):
        images = SourceImages(bank, data)
        assert images["train_0"].image.any()
        assert not images["train_1"].image.any()
    assert SourceImages(bank, moved)["train_0"].image.any()
    bank.history = (added, removed, added)
    assert not SourceImages(bank)["train_0"].image.any()


def test_masks_have_the_names_of_before(bank: MemoryBank, root: Path, tmp_path: Path) -> None:
    """Classes that were renamed, fused and dropped since; images that came later have the new names already."""
    before = SourceImages(bank)["train_2"].mask
    assert set(np.unique(before)) == {-1, 0, 1, 2}
    changed = MemoryBank.open(shutil.copytree(bank.path, tmp_path / "bank"))
    changed = changed.relabel(rename={"red": "rouge"}, fuse={"rest": ["green", "background"]})
    assert changed.info.classes == ("rest", "rouge")
    for data in (None, DataConfig(root=str(root)), DataConfig(root=str(root), split="train")):
        np.testing.assert_array_equal(SourceImages(changed, data)["train_2"].mask, np.array([0, 1, 0, -1])[before])
    later = Path(shutil.copytree(root, tmp_path / "later"))
    (later / "classes.txt").write_text("rest\nred\nrouge\n")
    replaced = {"action": "replace", "data": asdict(DataConfig(root=str(later), split="train"))}
    changed.history = (*changed.history, replaced)
    np.testing.assert_array_equal(SourceImages(changed)["train_2"].mask, np.array([0, -1, 1, -1])[before])
    dropped = MemoryBank.open(changed.path).relabel(rename={"rouge": "red"}, drop=["rest"])
    np.testing.assert_array_equal(SourceImages(dropped)["train_2"].mask, np.array([-1, 0, -1, -1])[before])


def test_a_list_of_ids_that_is_gone(copied: tuple[Path, MemoryBank], tmp_path: Path) -> None:
    root, bank = copied
    data = DataConfig(root=str(root), split="train", file_list=str(tmp_path / "gone.txt"))
    assert SourceImages(with_record(bank, {"data": asdict(data)}))["train_2"].id == "train_2"


def test_a_bank_without_record(copied: tuple[Path, MemoryBank]) -> None:
    root, bank = copied
    bare = with_record(bank, {"data": "my images"})
    with pytest.raises(DataError, match=r"(?s)'train_0'.*no record of its data set.*data=DataConfig"):
        SourceImages(bare)["train_0"]
    data = DataConfig(root=str(root / "train"))
    shutil.copy(root / "classes.txt", root / "train")
    assert SourceImages(bare, data)["train_0"].id == "train_0"


def test_other_order_of_classes(copied: tuple[Path, MemoryBank]) -> None:
    """Mask values 0, 1, 2 are now green, other, background: the bank's 2, void, 0; void stays."""
    root, bank = copied
    before = SourceImages(bank)["train_2"].mask
    (root / "classes.txt").write_text("green\nother\nbackground\n")
    expected = np.array([2, -1, 0, -1])[before]
    np.testing.assert_array_equal(SourceImages(bank)["train_2"].mask, expected)
    assert set(np.unique(before)) == {-1, 0, 1, 2}


def test_bad_files_matter_only_when_asked_for(copied: tuple[Path, MemoryBank]) -> None:
    root, bank = copied
    (root / "train" / "images" / "train_0.png").write_bytes(b"no image")
    (root / "train" / "masks" / "train_2.png").unlink()
    images = SourceImages(bank)
    assert images["train_1"].id == "train_1"
    with pytest.raises(DataError, match=r"train_0\.png: can't be read as an image"):
        images["train_0"]
    with pytest.raises(DataError, match=r"'train_2' .* wasn't found"):
        images["train_2"]


# The contact sheet

PALETTE = np.array([[0, 0, 0], [0, 250, 0], [250, 0, 0]], np.uint8)
COLOURS = [(20 * i + 10, 200 - 15 * i, 30) for i in range(12)]


def drawn(
    votes: int, at: tuple[int, int] | None = (40, 24), named: Callable[[int], str] = "image_{}".format
) -> Explanation:
    """An explanation of a grey image whose neighbours come from an image each."""
    labels = np.array([0, 1, 0], np.float32)
    box = (32.0, 16.0, 40.0, 24.0)
    neighbours = tuple(Neighbour(i, named(i), box, 0.9, 1 / votes, labels) for i in range(votes))
    sources = tuple(SourceShare(named(i), 1 / votes, 1, np.array([box], np.float32), labels) for i in range(votes))
    image = np.full((48, 64, 3), 120, np.uint8)
    region = rectangle(image.shape, 40, 24, 41, 25) if at else rectangle(image.shape, 8, 8, 40, 24)
    classes = ("ground", "thing", "other")
    boxes = np.array([[40, 24, 48, 32]], np.float32)
    return Explanation(image, at, region, boxes, classes, PALETTE, labels, neighbours, sources)


def plain_samples(count: int) -> dict[str, Sample]:
    """Images of one colour each; class 0, which is black, everywhere but in the upper left corner."""
    mask = np.zeros((48, 64), np.int16)
    mask[:8, :8] = 1
    return {
        f"image_{i}": Sample(f"image_{i}", np.full((48, 64, 3), colour, np.uint8), mask)
        for i, colour in enumerate(COLOURS[:count])
    }


def grey_tiles(sheet: np.ndarray | Image.Image) -> float:
    """How many tiles' area has the colour of a missing image; text on them takes some of it, and has some of it."""
    return (np.asarray(sheet) == ABSENT).all(2).sum() / TILE**2


def tiles(sheet: np.ndarray) -> list[tuple[int, ...]]:
    """The colour in the middle of each tile below the patches' header, but for the frame: a few pixels above it."""
    header = 3 * GAP + 21 + 18
    left, step = 3 * GAP + WIDE, TILE + 7 + 3 * 18 + 4 + GAP
    places = [(header + r * step + TILE // 4, left + c * (TILE + GAP) + TILE // 2) for r in range(3) for c in range(4)]
    return [tuple(int(v) for v in sheet[y, x]) if y < len(sheet) else PAPER for y, x in places]


@pytest.mark.parametrize("votes", [1, 4, 5, 12])
def test_patches_are_in_order(votes: int) -> None:
    sheet = np.asarray(explanation_sheet(drawn(votes), plain_samples(votes)))
    assert tiles(sheet)[:votes] == COLOURS[:votes]
    assert all(colour == PAPER for colour in tiles(sheet)[votes:])
    assert (sheet == MARK).all(2).any()


def test_no_more_than_twelve_patches_are_shown() -> None:
    many = drawn(30)
    assert shown_sources(many) == [f"image_{i}" for i in range(12)]
    assert shown_sources(replace(many, at=None, sources=many.sources[::-1]))[-4:] == [
        f"image_{i}" for i in (29, 28, 27, 26)
    ]
    assert explanation_sheet(many, plain_samples(12)).size == explanation_sheet(drawn(12), plain_samples(12)).size


def test_few_patches_of_one_image_are_shown() -> None:
    """Twelve tiles of one image say little; what isn't shown is counted on the image's last tile."""
    names = [*["image_0"] * 5, "image_1", *["image_0"] * 4, *["image_2"] * 3, *["image_3"] * 4]
    some = drawn(len(names), named=lambda i: names[i])
    found = first_patches(some)
    assert [(rank, one.source, len(others)) for rank, one, others in found] == [
        (1, "image_0", 0),
        (2, "image_0", 0),
        (3, "image_0", 6),
        (6, "image_1", 0),
        *((rank, "image_2", 0) for rank in (11, 12, 13)),
        (14, "image_3", 0),
        (15, "image_3", 0),
        (16, "image_3", 1),
    ]
    assert len(shown_sources(some)) == 4
    sheet = np.asarray(explanation_sheet(some, plain_samples(4)))
    assert tiles(sheet)[:4] == [COLOURS[0]] * 3 + [COLOURS[1]]
    alone = drawn(30, named=lambda _: "image_0")
    assert [(rank, len(others)) for rank, _, others in first_patches(alone)] == [(1, 0), (2, 0), (3, 27)]


def test_dark_images_are_stretched_and_named() -> None:
    """The annotated image and the explained one; the sheet gets a line that says so."""
    samples = plain_samples(1)
    dark = np.random.default_rng(0).integers(0, 31, (48, 64, 3), np.uint8)
    stretched = {"image_0": replace(samples["image_0"], image=dark)}
    usual, changed = explanation_sheet(drawn(1), samples), explanation_sheet(drawn(1), stretched)
    assert changed.height == usual.height + 18 + GAP
    tile = np.asarray(changed)[3 * GAP + 21 + 18 :, 3 * GAP + WIDE :][:TILE, :TILE]
    assert np.percentile(tile, 95) > 150
    assert explanation_sheet(replace(drawn(1), image=dark), samples).height == usual.height + 18 + GAP


def test_a_missing_image_is_a_grey_tile() -> None:
    """Of a mapping without it, and of source images that can't be read; with text on it."""

    class Unreadable(dict):
        def __missing__(self, key: str) -> Sample:
            raise DataError(f"{key} can't be read, for reasons that take a very long line to tell " * 20)

    samples = plain_samples(4)
    del samples["image_2"]
    for images in (samples, Unreadable(samples)):
        for at in ((40, 24), None):
            sheet = explanation_sheet(drawn(4, at), images)
            assert 0.5 < grey_tiles(sheet) / (1 if at else 2) < 1
    sheet = np.asarray(explanation_sheet(drawn(4), samples))
    assert [tiles(sheet)[i] for i in (0, 1, 3)] == [COLOURS[0], COLOURS[1], COLOURS[3]]


def test_the_annotation_lies_over_the_patch() -> None:
    """A corner of class 1 is greener than the image; the black class leaves it; nothing is taken from void."""
    samples = plain_samples(1)
    near = replace(drawn(1).neighbours[0], box=(0.0, 0.0, 8.0, 8.0))
    sheet = np.asarray(explanation_sheet(replace(drawn(1), neighbours=(near,)), samples))
    top, left = 3 * GAP + 21 + 18, 3 * GAP + WIDE
    inside, outside = sheet[top + 14, left + 14].astype(int), sheet[top + 100, left + 100].astype(int)
    assert tuple(outside) == COLOURS[0]
    assert inside[1] > outside[1]
    assert inside[0] < outside[0]


def test_a_region_is_outlined() -> None:
    """The outline's corners in the whole image, which is drawn as many times its size as fit into `WIDE`."""
    sheet = np.asarray(explanation_sheet(drawn(4, None), plain_samples(4)))
    scale = WIDE // 64
    whole = sheet[3 * GAP + 21 + 18 :, GAP : GAP + WIDE][: round(48 * scale)]
    ys, xs = np.nonzero((whole == MARK).all(2))
    np.testing.assert_allclose([xs.min(), ys.min(), xs.max(), ys.max()], np.array([8, 8, 40, 24]) * scale, atol=3)


@pytest.mark.parametrize("shape", [(8, 8), (9, 300), (300, 9)])
def test_images_of_odd_shapes(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    image = scene(3, *shape, void=False)[0]
    for found in (
        segmenter.explain(image, at=(shape[1] - 1, 0)),
        segmenter.explain(image, region=(0, 0, *shape[::-1])),
    ):
        sheet = explanation_sheet(found, SourceImages(segmenter.bank))
        assert sheet.mode == "RGB"
        assert grey_tiles(sheet) < 0.1


def test_strange_and_long_names() -> None:
    strange = drawn(2, None, lambda i: f"{'очень/длинное ' * 20}<b>{i}")
    assert explanation_sheet(strange, {}).width == explanation_sheet(drawn(2, None), {}).width


def test_nothing_voted() -> None:
    empty = replace(drawn(1), neighbours=(), sources=(), scores=np.zeros(3, np.float32))
    assert explanation_sheet(empty, {}).width > WIDE


# The command

Output = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    def call(*arguments: object) -> Output:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture(scope="module")
def built(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and `bank` built from it by the command line."""
    base = tmp_path_factory.mktemp("built")
    folder_tree(base / "data")
    options = ["--data.root", base / "data", "--data.split", "train", "--input.size", "null", "--out", base / "bank"]
    assert main(["build", *map(str, options), *backbone_options(tiny_weights)]) == 0
    return base


def test_command_with_a_pixel(run: Callable[..., Output], built: Path, tmp_path: Path) -> None:
    photo = built / "data" / "val" / "images" / "val_0.png"
    code, out, err = run(
        "explain", photo, "--bank", built / "bank", "--out", tmp_path, "--at", "20,30", "--decoder.k", 6
    )
    assert (code, err) == (0, "")
    expected = Segmenter(built / "bank", decoder=DecoderConfig(6)).explain(photo, at=(20, 30))
    assert (tmp_path / "explanation.json").read_text(encoding="utf-8") == expected.to_json()
    first = expected.neighbours[0]
    for text in ("pixel (20, 30)", "rank", first.source, f"{100 * first.weight:.1f}", f"{first.similarity:.3f}"):
        assert text in out
    assert len([line for line in out.splitlines() if "train_" in line]) == 6
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        shown = np.asarray(sheet)
    np.testing.assert_array_equal(shown, explanation_sheet(expected, SourceImages(MemoryBank.open(built / "bank"))))
    assert grey_tiles(shown) < 0.1


def test_command_with_a_region(run: Callable[..., Output], built: Path, tmp_path: Path) -> None:
    photo = built / "data" / "val" / "images" / "val_0.png"
    options = ["--bank", built / "bank", "--out", tmp_path, "--region=8,8,40,40"]
    code, out, _ = run("explain", photo, *options)
    assert code == 0
    expected = Segmenter(built / "bank").explain(photo, region=(8, 8, 40, 40))
    lines = [line for line in out.splitlines() if "train_" in line]
    assert len(lines) == len(expected.sources)
    for line, source in zip(lines, expected.sources, strict=True):
        assert all(text in line for text in (source.source, f"{100 * source.share:.1f}", str(source.votes)))
    code, out, _ = run("explain", photo, *options, "--json", "-")
    assert (code, json.loads(out)) == (0, json.loads(expected.to_json()))


def test_command_without_the_annotated_images(run: Callable[..., Output], built: Path, tmp_path: Path) -> None:
    """Grey tiles, and on standard error what to do; which helps."""
    base = Path(shutil.copytree(built, tmp_path / "copy"))
    photo = base / "data" / "val" / "images" / "val_0.png"
    (built / "data").rename(built / "moved")
    try:
        options = ["--bank", base / "bank", "--out", tmp_path / "out", "--at=20,30"]
        code, _, err = run("explain", photo, *options)
        assert code == 0
        assert "annotated images can't be shown: the annotated image 'train_" in err
        assert "--data.root DIR" in err
        with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
            assert grey_tiles(sheet) > 6
        code, _, err = run("explain", photo, *options, "--data.root", base / "data")
        assert (code, err) == (0, "")
        with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
            assert grey_tiles(sheet) < 0.1
    finally:
        (built / "moved").rename(built / "data")


@pytest.mark.parametrize(
    ("options", "message", "expected"),
    [
        ([], "neither of at and region", 2),
        (["--at=1,1", "--region=0,0,4,4"], "both of at and region", 2),
        (["--at", "-3,2"], "the pixel (-3, 2) isn't in the image, which is 64×48", 1),
        (["--at", "64,2"], "the pixel (64, 2) isn't in the image", 1),
        (["--region", "4,4,4,9"], "region is (4, 4, 4, 9), which is empty", 1),
    ],
)
def test_mistakes_with_the_command(
    run: Callable[..., Output], built: Path, tmp_path: Path, options: list[str], message: str, expected: int
) -> None:
    photo = built / "data" / "val" / "images" / "val_0.png"
    code, _, err = run("explain", photo, "--bank", built / "bank", "--out", tmp_path / "out", *options)
    assert (code, message in err) == (expected, True), err
    assert not (tmp_path / "out").exists()


def test_a_value_of_another_kind(run: Callable[..., Output], built: Path, tmp_path: Path) -> None:
    for value in ("3", "3,x"):
        code, _, err = run("explain", "a.png", "--bank", built / "bank", "--out", tmp_path, "--at", value)
        assert (code, '"at"' in err) == (2, True), err


def test_recipe_of_the_command(run: Callable[..., Output], built: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"explain: {{bank: {built / 'bank'}, at: [20, 30], decoder: {{k: 3}}}}")
    photo = built / "data" / "val" / "images" / "val_0.png"
    options = ["--config", recipe, "--out", tmp_path / "out"]
    assert run("explain", photo, *options)[0] == 0
    assert len(json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))["neighbours"]) == 3
    code, _, _ = run("explain", photo, *options, "--at", "null", "--region", "[0,0,8,8]")
    assert code == 0
