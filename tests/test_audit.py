"""The audit: leave-one-image-out votes by brute force, planted wrong masks, images that can go, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankError,
    DataConfig,
    DecoderConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    MemoryBank,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.audit import other_images
from fungi_seg.audit.audit import Audit, audit_bank
from fungi_seg.audit.other_images import OtherImages, neighbour_lists, votes_of_others
from fungi_seg.audit.redundancy import CHANGED, COPY, Trial, redundant_images
from fungi_seg.audit.report import FILES, annotated, painted, suspicious_views, write_audit
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.bank.sources import SourceImages
from fungi_seg.cli import main
from fungi_seg.commands.demo import NUCLEI
from fungi_seg.images import displayed
from fungi_seg.search import top_columns
from fungi_seg.search.index import NeighbourIndex

K, TEMPERATURE = 7, 0.05
DECODER = DecoderConfig(K, TEMPERATURE)
CPU = IndexConfig(device="cpu")
Spoiler = Callable[[list[np.ndarray], int, np.random.Generator], np.ndarray]


def made(root: Path, backbone: Backbone, out: Path, size: int | None = None) -> MemoryBank:
    """A bank of all patches of `root/train`."""
    record = {"data": {"layout": "folder", "root": str(root), "split": "train", "file_list": None, "void": None}}
    dataset = open_dataset(DataConfig(root=str(root), split="train"))
    return build_bank(dataset, backbone, out, BankRecipe(input=InputConfig(size)), record=record)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("audit") / "tree", train=6, classes=4)


@pytest.fixture(scope="module")
def bank(tree: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """Six scenes, 48 patches each."""
    return made(tree, tiny_backbone, tmp_path_factory.mktemp("banks") / "bank")


@pytest.fixture(scope="module")
def found(bank: MemoryBank) -> Audit:
    return audit_bank(bank, DECODER, CPU)


def stand_in(keys: list[list[float]], labels: list[list[float]], source: list[int]) -> MemoryBank:
    """A bank whose rows are chosen by hand: directions of keys, label shares, images."""
    directions = np.array(keys, np.float32)
    unit = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float16)
    encoded = SparseLabels.from_histograms(np.rint(np.array(labels) * 255).astype(np.int64))
    boxes = np.zeros((len(keys), 4), np.float32)
    classes, names = tuple("abcdef"[: len(labels[0])]), tuple(f"image_{i}" for i in range(max(source) + 1))

    class Rows(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.source)

    class Bank(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.rows)

        def class_rows(self) -> np.ndarray:
            return np.bincount(encoded.ids, minlength=len(classes))

        def neighbour_index(self, config: IndexConfig | None = None) -> NeighbourIndex:
            return NeighbourIndex(unit, config)

    rows = Rows(keys=unit, labels=encoded, source=np.array(source, np.int32), box=boxes)
    info = SimpleNamespace(classes=classes, sources=names, palette=((9, 9, 9),) * len(classes))
    return Bank(rows=rows, contents=SimpleNamespace(parts=()), info=info, path=Path("bank"))  # type: ignore[return-value]


def brute_force(bank: MemoryBank, removed: set[int] = frozenset(), copies: bool = False) -> np.ndarray:  # type: ignore[assignment]
    """`[M, C]` votes of the rows of other images, a row at a time.

    Of images `removed`, rows have no vote; with `copies`, those that are the query's copy pass theirs to the query
    if its own image stays.
    """
    keys = np.asarray(bank.rows.keys).astype(np.float64)
    labels, source = bank.rows.labels.dense(len(bank.info.classes)).astype(np.float64), bank.rows.source.tolist()
    scores = np.zeros((len(keys), labels.shape[1]))
    for query, key in enumerate(keys):
        voters = []
        for row in range(len(keys)):
            similarity, gone = float(key @ keys[row]), source[row] in removed
            copy = copies and gone and similarity >= COPY and source[query] not in removed
            if source[row] != source[query] and (not gone or copy):
                voters.append((similarity, query if copy else row))
        nearest = sorted(voters, reverse=True)[:K]
        weights = np.exp([(similarity - nearest[0][0]) / TEMPERATURE for similarity, _ in nearest])
        for weight, (_, row) in zip(weights / weights.sum(), nearest, strict=True):
            scores[query] += weight * labels[row]
    return scores


# Votes of the other images


def test_votes_are_those_of_brute_force(bank: MemoryBank) -> None:
    scores, winners = votes_of_others(bank, OtherImages(bank, CPU), DECODER)
    expected = brute_force(bank)
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    clear = np.sort(expected, 1)[:, -1] - np.sort(expected, 1)[:, -2] > 1e-4
    np.testing.assert_array_equal(winners[clear], expected.argmax(1)[clear])
    assert clear.mean() > 0.9
    assert len(set(winners[clear].tolist())) > 1


@pytest.mark.parametrize(("widest", "kind"), [(8, "flat"), (64, "flat"), (2048, "IVF24,Flat"), (16, "IVF24,Flat")])
def test_all_rows_are_looked_through_where_the_index_gives_too_few(
    bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, widest: int, kind: str
) -> None:
    """Of an index that stops early, or finds rows of the query's own list alone."""
    monkeypatch.setattr(other_images, "WIDEST", widest)
    monkeypatch.setattr(other_images, "SCAN_ROWS", 100)
    others = OtherImages(bank, IndexConfig(kind, nprobe=None if kind == "flat" else 1, device="cpu"))
    queries, k = np.arange(0, len(bank), 5), 60
    similarities, rows = others.search(queries, k)
    keys = np.asarray(bank.rows.keys).astype(np.float32)
    expected = keys[queries] @ keys.T
    expected[bank.rows.source[None] == bank.rows.source[queries][:, None]] = -np.inf
    assert (bank.rows.source[rows] != bank.rows.source[queries][:, None]).all()
    np.testing.assert_allclose(similarities, np.take_along_axis(expected, rows, 1), atol=1e-5)
    if kind == "flat":
        np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :k], atol=1e-5)


def test_lists_that_are_known_vote_as_those_that_are_looked_for(bank: MemoryBank) -> None:
    others = OtherImages(bank, CPU)
    lists = neighbour_lists(others, np.arange(1, len(bank), 3), DECODER.k + 5)
    asked: list[int] = []
    counting = SimpleNamespace(search=lambda queries, k: asked.extend(queries.tolist()) or others.search(queries, k))
    found = votes_of_others(bank, counting, DECODER, known=lists)  # type: ignore[arg-type]
    for mine, whole in zip(found, votes_of_others(bank, others, DECODER), strict=True):
        np.testing.assert_array_equal(mine, whole)
    assert sorted([*asked, *lists.queries.tolist()]) == list(range(len(bank)))


@pytest.mark.parametrize("block", [7, 64, 200])
def test_all_rows_of_a_small_bank_are_looked_through(
    bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(other_images, "SCAN_ROWS", block)
    monkeypatch.setattr(other_images, "SCAN_QUERIES", 5)
    others = OtherImages(bank, CPU)
    assert others.kind == "flat"
    queries, k = np.arange(0, len(bank), 3), 9
    similarities, rows = others.search(queries, k)
    keys = np.asarray(bank.rows.keys).astype(np.float32)
    expected = keys[queries] @ keys.T
    expected[bank.rows.source[None] == bank.rows.source[queries][:, None]] = -np.inf
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :k], atol=1e-5)
    np.testing.assert_allclose(similarities, np.take_along_axis(expected, rows, 1), atol=1e-5)
    assert all(len(set(line)) == k for line in rows.tolist())


@pytest.mark.parametrize(("rows", "k"), [(1, 1), (3, 5), (40, 30), (160, 9), (175, 3), (1000, 30)])
def test_the_highest_of_groups(rows: int, k: int) -> None:
    products = torch.randn(4, rows, generator=torch.Generator().manual_seed(rows))
    products[1, : rows // 2] = -torch.inf
    best, places = top_columns(products, k)
    torch.testing.assert_close(best, products.gather(1, places))
    wanted = min(k, rows)
    torch.testing.assert_close(best.sort(descending=True).values[:, :wanted], products.topk(wanted).values)
    assert all(len(set(line)) == len(line) for line in places.tolist())


def test_an_index_is_used_where_it_is_named_or_the_bank_is_large(
    bank: MemoryBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert OtherImages(bank, IndexConfig("IVF2,Flat", device="cpu")).kind == "IVF2,Flat"
    monkeypatch.setattr(other_images, "SCANNED", len(bank) - 1)
    others = OtherImages(bank, CPU)
    monkeypatch.setattr(others, "_scan", None)
    similarities, _ = others.search(np.arange(3), 2)
    assert np.isfinite(similarities).all()


def test_a_large_bank_is_checked_before_its_rows_vote(
    bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it carries an index, so that the keys aren't read to make one."""
    indexed = MemoryBank.open(shutil.copytree(bank.path, tmp_path / "bank")).make_index()
    monkeypatch.setattr("fungi_seg.bank.contents.CHECK_AT_OPEN", 0)
    assert OtherImages(MemoryBank.open(indexed.path), IndexConfig("lists")).kind == "lists"
    file = next(indexed.path.glob("keys-*"))
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    with pytest.raises(BankError, match=f"{file.name}: damaged"):
        OtherImages(MemoryBank.open(indexed.path), IndexConfig("lists"))


def test_fewer_rows_than_neighbours_all_vote() -> None:
    """K of 30 and one row of another image, or two: those vote alone."""
    bank = stand_in([[1, 0], [0.8, 0.6], [0.6, 0.8]], [[1, 0], [1, 0], [0, 1]], [0, 1, 1])
    others = OtherImages(bank, CPU)
    similarities, rows = others.search(np.arange(3), 30)
    assert np.isfinite(similarities).sum(1).tolist() == [2, 1, 1]
    assert (rows[0, :2].tolist(), rows[1, 0], rows[2, 0]) == ([1, 2], 0, 0)
    scores, winners = votes_of_others(bank, others, DecoderConfig(30, 0.2))
    first = 1 / (1 + np.exp(-1.0))  # cosines 0.8 and 0.6
    np.testing.assert_allclose(scores, [[first, 1 - first], [1, 0], [1, 0]], atol=2e-3)
    assert winners.tolist() == [0, 0, 0]


# Images and classes


def test_agreement_is_that_of_brute_force(bank: MemoryBank, found: Audit) -> None:
    expected = brute_force(bank)
    annotated = bank.rows.labels.dense(len(bank.info.classes))
    assert {image["id"] for image in found.images} == set(bank.info.sources)
    for image in found.images:
        rows = bank.rows.source == bank.info.sources.index(image["id"])
        assert image["rows"] == rows.sum()
        shared = sum(min(pair) for pair in zip(annotated[rows].flat, expected[rows].flat, strict=True))
        assert image["agreement"] == pytest.approx(shared / rows.sum(), abs=2e-3)
        same = (annotated[rows].argmax(1) == expected[rows].argmax(1)).mean()
        assert image["same_class"] == pytest.approx(same, abs=0.03)  # near ties


def test_classes_are_counted(bank: MemoryBank, found: Audit) -> None:
    expected, annotated = brute_force(bank), bank.rows.labels.dense(4)
    for index, told in enumerate(found.classes):
        holds = annotated[:, index] > 0
        assert (told["rows"], told["images"]) == (holds.sum(), len(set(bank.rows.source[holds].tolist())))
        hit = np.minimum(annotated[:, index], expected[:, index]).sum()
        assert told["agreement"] == pytest.approx(hit / annotated[:, index].sum(), abs=3e-3)
        union = annotated[:, index].sum() + expected[:, index].sum() - hit
        assert told["iou"] == pytest.approx(hit / union, abs=3e-3)


def test_a_class_is_confused_with_what_the_others_say() -> None:
    """Rows of `a` and `b` lie together, those of `c` apart; of image 2, `a` is named `b`."""
    keys = [[1, 0, 0], [0, 0, 1]] * 4
    labels = [[1, 0, 0], [0, 0, 1]] * 4
    labels[4] = [0, 1, 0]
    found = audit_bank(stand_in(keys, labels, [0, 0, 1, 1, 2, 2, 3, 3]), DecoderConfig(1, 0.1), CPU)
    by_name = {c["name"]: c for c in found.classes}
    assert (by_name["b"]["agreement"], by_name["b"]["confused_with"], by_name["b"]["confused"]) == (0, "a", 1)
    assert (by_name["c"]["agreement"], by_name["c"]["confused_with"], by_name["c"]["iou"]) == (1, None, 1)
    first = found.images[0]
    assert (first["id"], first["annotated"], first["voted"], first["disputed_rows"]) == ("image_2", "b", "a", 1)


def test_thin_and_absent_classes() -> None:
    """`a` in all images, `b` with too few rows, `c` in two images, `d` nowhere."""
    generator = np.random.default_rng(0)
    keys = generator.normal(size=(48, 8)).tolist()
    labels = [[1.0, 0, 0, 0] for _ in keys]
    for row in (0, 12, 24):
        labels[row] = [0, 1, 0, 0]
    for row in (1, 2, 3, 4, 13, 14, 15, 16):
        labels[row] = [0, 0, 1, 0]
    found = audit_bank(stand_in(keys, labels, np.repeat(range(4), 12).tolist()), DecoderConfig(5), CPU)
    thin = {c["name"]: c["thin"] for c in found.classes}
    assert thin["a"] is None
    assert thin["b"] == "3 rows, fewer than the 5 neighbours that vote"
    assert thin["c"] == "in 2 images, fewer than 3"
    assert thin["d"] == "in 0 images, fewer than 3"
    assert (found.classes[3]["agreement"], found.classes[3]["iou"]) == (None, None)
    assert "c (in 2 images, fewer than 3)" in found.to_markdown()


# Wrong masks


def of_another(masks: list[np.ndarray], at: int, generator: np.random.Generator) -> np.ndarray:
    other = masks[int(generator.choice([i for i in range(len(masks)) if i != at]))]
    return np.asarray(Image.fromarray(other).resize(masks[at].shape[::-1], Image.Resampling.NEAREST))


def swapped(masks: list[np.ndarray], at: int, generator: np.random.Generator) -> np.ndarray:
    ids, counts = np.unique(masks[at][masks[at] != 255], return_counts=True)
    one, other = ids[np.argsort(-counts)[:2]]
    places = np.arange(256, dtype=np.uint8)
    places[one], places[other] = other, one
    return places[masks[at]]


def flipped(masks: list[np.ndarray], at: int, generator: np.random.Generator) -> np.ndarray:
    return masks[at][:, ::-1]


def shifted(masks: list[np.ndarray], at: int, generator: np.random.Generator) -> np.ndarray:
    return np.roll(masks[at], masks[at].shape[1] // 4, axis=1)


def without_largest(masks: list[np.ndarray], at: int, generator: np.random.Generator) -> np.ndarray:
    """The largest class but one is missing: it became the largest."""
    ids, counts = np.unique(masks[at][masks[at] != 255], return_counts=True)
    largest, second = ids[np.argsort(-counts)[:2]]
    return np.where(masks[at] == second, largest, masks[at])


def spoilt_copy(source: Path, out: Path, count: int, wrong: int, spoilers: list[Spoiler], seed: int) -> set[str]:
    """A data set of the first `count` images of `source`, `wrong` of them with masks spoilt by each in turn."""
    for folder in ("images", "masks"):
        (out / "train" / folder).mkdir(parents=True)
    shutil.copy(source / "classes.txt", out)
    files = sorted((source / "train" / "masks").iterdir())[:count]
    masks = [np.asarray(Image.open(file)) for file in files]
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(files), wrong, replace=False).tolist()
    for number, (file, mask) in enumerate(zip(files, masks, strict=True)):
        if number in chosen:
            mask = spoilers[chosen.index(number) % len(spoilers)](masks, number, generator)
        Image.fromarray(np.ascontiguousarray(mask)).save(out / "train" / "masks" / file.name)
        image = next((source / "train" / "images").glob(f"{file.stem}.*"))
        shutil.copy(image, out / "train" / "images")
    return {files[number].stem for number in chosen}


def test_wrong_masks_come_first(tmp_path: Path) -> None:
    """Three of the 24 annotated images that come with the package, each wrong in its own way."""
    wrong = spoilt_copy(NUCLEI, tmp_path / "data", 24, 3, [of_another, swapped, flipped], seed=2)
    bank = made(tmp_path / "data", load_backbone("embedded", device="cpu"), tmp_path / "bank", size=128)
    found = audit_bank(bank, index=CPU)
    assert wrong <= {image["id"] for image in found.images[:4]}


@pytest.mark.data
def test_wrong_masks_come_first_on_real_photographs(real_data: Path, tmp_path: Path) -> None:
    """Ten of 100 street scenes, spoilt in five ways."""
    spoilers = [of_another, swapped, flipped, shifted, without_largest]
    wrong = spoilt_copy(real_data / "camvid", tmp_path / "data", 100, 10, spoilers, seed=2)
    dataset = open_dataset(DataConfig(root=str(tmp_path / "data"), split="train", void=11))
    backbone = load_backbone("embedded", device="cpu")
    bank = build_bank(dataset, backbone, tmp_path / "bank", BankRecipe(input=InputConfig(128)))
    found = audit_bank(bank, index=CPU)
    assert len(wrong & {image["id"] for image in found.images[:15]}) >= 8
    assert {image["id"] for image in found.images[:3]} <= wrong


def test_a_hard_image_is_not_suspicious() -> None:
    """Rows of image 0 lie between two classes and are annotated as either; image 1 names a clear class wrongly."""
    generator = np.random.default_rng(3)
    centres = {0: [1, 0, 0], 1: [0, 1, 0], None: [1, 1, 0]}
    keys, labels, source = [], [], []
    for image in range(8):
        for number in range(24):
            kind = None if image in (0, 5, 6, 7) else number % 2
            keys.append((np.array(centres[kind]) + generator.normal(scale=0.1, size=3)).tolist())
            label = int(generator.integers(2)) if kind is None else kind
            labels.append(np.eye(2)[1 - label if image == 1 and number < 6 else label].tolist())
            source.append(image)
    found = audit_bank(stand_in(keys, labels, source), DECODER, CPU)
    by_id = {image["id"]: image for image in found.images}
    assert by_id["image_0"]["same_class"] < by_id["image_1"]["same_class"]
    assert found.images[0]["id"] == "image_1"
    assert by_id["image_0"]["suspicion"] < by_id["image_1"]["suspicion"] / 2


# Images that can go


@pytest.fixture(scope="module")
def doubled(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """Six scenes, each of them twice."""
    root = folder_tree(tmp_path_factory.mktemp("doubled") / "tree", train=6)
    for kind in ("images", "masks"):
        for file in sorted((root / "train" / kind).iterdir()):
            shutil.copy(file, file.with_stem(f"{file.stem}_again"))
    return made(root, tiny_backbone, root.parent / "bank")


def test_what_can_go_changes_as_little_as_is_told(doubled: MemoryBank) -> None:
    """Brute force without those images says what the audit says."""
    found = audit_bank(doubled, DECODER, CPU)
    gone = [image["id"] for image in found.redundant]
    assert len({name.removesuffix("_again") for name in gone}) >= 4
    removed = {doubled.info.sources.index(name) for name in gone}
    before, after = (brute_force(doubled, r, copies=True).argmax(1) for r in (set(), removed))
    assert (found.redundancy["queries"], found.redundancy["images"]) == (len(doubled), 12)
    assert found.redundancy["changed"] == pytest.approx((before != after).mean(), abs=0.005)
    assert found.redundancy["changed"] <= 2 * CHANGED
    assert f"{len(gone)} of 12 images can go" in found.redundant_line()


def test_of_equal_images_one_stays() -> None:
    """Six images that nothing else is like, with labels that nobody could guess, each of them twice."""
    generator = np.random.default_rng(5)
    keys, labels = generator.normal(size=(72, 16)).tolist(), np.eye(2)[generator.integers(2, size=72)].tolist()
    source = np.repeat(range(6), 12)
    bank = stand_in(keys * 2, labels * 2, [*source, *(source + 6)])
    chosen = redundant_images(bank, OtherImages(bank, CPU), DecoderConfig(1), np.ones(12))
    assert sorted(image % 6 for image in chosen.images) == list(range(6))
    assert chosen.changed == 0


def test_votes_that_a_removal_changes_are_counted(bank: MemoryBank) -> None:
    """An image alone, then three together, against brute force."""
    trial = Trial(bank, OtherImages(bank, CPU), DECODER)
    whole = brute_force(bank).argmax(1)
    for image in (0, 3):
        expected = (brute_force(bank, {image}, copies=True).argmax(1) != whole).sum()
        assert trial.changes(image) == pytest.approx(expected, abs=2)
    gone = [0, 1, 3]
    for image in gone:
        trial.remove(image)
    expected = (brute_force(bank, set(gone), copies=True).argmax(1) != whole).sum()
    assert expected > 3
    assert trial.verified(gone) == pytest.approx(expected / len(bank), abs=2 / len(bank))
    assert trial.changed == pytest.approx(expected, abs=2)


def test_queries_of_very_many_images_are_told_apart() -> None:
    """Image and query are one number of more than 31 bits meanwhile."""
    count, images = 16_384, 140_000
    source = np.zeros(count, np.int32)
    source[-1] = images - 1
    bank = stand_in([[1, 0]] * count, [[1, 0]] * count, source.tolist())
    others = SimpleNamespace(
        source=source,
        search=lambda part, k, usable: (np.ones((len(part), 1), np.float32), np.full((len(part), 1), count - 1)),
    )
    touching = Trial(bank, others, DecoderConfig(1))._touching  # type: ignore[arg-type]
    np.testing.assert_array_equal(touching[0], np.arange(count - 1))
    np.testing.assert_array_equal(touching[-1], np.arange(count))
    assert not any(map(len, touching[1:-1]))


def test_the_last_images_of_a_class_stay() -> None:
    """Eight equal images: all could go but for their classes, of which three images must be left."""
    keys, labels = [[1, 0], [0, 1]] * 8, [[1, 0], [0, 1]] * 8
    bank = stand_in(keys, labels, np.repeat(range(8), 2).tolist())
    chosen = redundant_images(bank, OtherImages(bank, CPU), DecoderConfig(1), np.ones(8))
    assert len(chosen.images) == 5
    assert (chosen.changed, chosen.alone) == (0, (0,) * 5)


def test_images_that_the_others_segment_badly_stay() -> None:
    """Nobody votes with image 0, but nobody segments it either."""
    keys = [[0, 0, 1], [0, 0, 1]] + [[1, 0, 0], [0, 1, 0]] * 7
    labels = [[1, 0], [0, 1]] * 8
    bank = stand_in(keys, labels, np.repeat(range(8), 2).tolist())
    agreement = np.array([0.5] + [1.0] * 7)
    assert 0 not in redundant_images(bank, OtherImages(bank, CPU), DecoderConfig(1), agreement).images
    assert 0 in redundant_images(bank, OtherImages(bank, CPU), DecoderConfig(1), np.ones(8)).images


# The report


def test_json_holds_all_figures(found: Audit) -> None:
    values = json.loads(found.to_json())
    assert values.keys() == {"images", "classes", "redundant", "redundancy", "settings", "seconds"}
    assert values["images"] == found.images
    assert values["settings"]["decoder"] == asdict(DecoderConfig(K, TEMPERATURE))
    suspicion = [image["suspicion"] for image in values["images"]]
    assert suspicion == sorted(suspicion, reverse=True)


@pytest.mark.parametrize(
    ("suspicion", "words"),
    [
        ((0.099, 0.0, -0.2), "Nothing is suspicious: no image reaches a suspicion of 0.1."),
        ((0.4, 0.1, 0.09), "2 of 3 images reach a suspicion of 0.1; look at image 0, image 1."),
        (
            (0.5,) * 12,
            "12 of 12 images reach a suspicion of 0.1; look at image 0, image 1, image 2, image 3, image 4, "
            "image 5, image 6, image 7, image 8, image 9, and 2 more.",
        ),
    ],
)
def test_it_says_plainly_whether_anything_is_suspicious(
    found: Audit, bank: MemoryBank, tmp_path: Path, suspicion: tuple[float, ...], words: str
) -> None:
    images = [found.images[0] | {"id": f"image {i}", "suspicion": value} for i, value in enumerate(suspicion)]
    told = replace(found, images=images)
    assert told.verdict() == words
    assert words in told.to_markdown()
    known = replace(found, images=[found.images[0] | {"suspicion": suspicion[0]}])
    page = write_audit(known, bank, SourceImages(bank), tmp_path, 1)[0].read_text(encoding="utf-8")
    assert ("<p>Nothing is suspicious:" in page) == words.startswith("Nothing")


def test_patches_are_painted_where_they_lie() -> None:
    boxes = np.array([[0, 0, 2, 1], [2, 1, 4, 3]], np.float32)
    expected = [[5, 5, -1, -1], [-1, -1, 6, 6], [-1, -1, 6, 6]]
    assert painted(boxes, np.array([5, 6]), (3, 4)).tolist() == expected


def test_views_of_an_image(bank: MemoryBank, found: Audit) -> None:
    """Red where the others say another class, and only there."""
    name = found.images[0]["id"]
    sample = SourceImages(bank)[name]
    views = suspicious_views(found, bank, sample, displayed(sample.image, max(sample.mask.shape)))
    rows = np.flatnonzero(bank.rows.source == bank.info.sources.index(name))
    annotated = bank.rows.labels.take(rows).dense(4).argmax(1)
    image, red = np.asarray(views["image"]), np.asarray(views["where they disagree"])
    wrong = 0
    for box, same in zip(bank.rows.box[rows].astype(int), found.winners[rows] == annotated, strict=True):
        patch = (slice(box[1], box[3]), slice(box[0], box[2]))
        assert np.array_equal(image[patch], red[patch]) == same
        wrong += not same
    assert 0 < wrong < len(rows)


def call(*arguments: object) -> int:
    return main(["bank", "audit", *map(str, arguments), "--index.device", "cpu"])


def test_command(bank: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--bank", bank.path, "--out", tmp_path / "new" / "out", "--top", 2, "--decoder.k", K)
    assert call(*options) == 0
    told = capsys.readouterr().out
    assert "Redundant images:" in told
    assert "suspicio" in told
    out = tmp_path / "new" / "out"
    assert {file.name for file in out.iterdir()} == set(FILES)
    values = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    names = [image["id"] for image in values["images"]]
    assert len(names) == 6
    assert [name in told for name in names[:2]] == [True, True]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 8
    assert page.index(f"<h2>{names[0]}</h2>") < page.index(f"<h2>{names[1]}</h2>")
    with Image.open(out / "suspicious.png") as sheet:
        assert sheet.mode == "RGB"
    assert f"| {names[5]} |" in (out / "audit.md").read_text(encoding="utf-8")


def test_command_without_a_report_writes_nothing(bank: MemoryBank, tmp_path: Path) -> None:
    before = sorted(bank.path.iterdir())
    assert call("--bank", bank.path) == 0
    assert sorted(bank.path.iterdir()) == before


def test_images_that_are_gone_are_grey(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """The bank's own labels then stand for the annotation."""
    bank = made(folder_tree(tmp_path / "tree", train=3), tiny_backbone, tmp_path / "bank")
    shutil.rmtree(tmp_path / "tree")
    sample, remark = annotated(bank, SourceImages(bank), "train_0")
    assert "wasn't found" in remark
    views = suspicious_views(audit_bank(bank, DECODER, CPU), bank, sample, displayed(sample.image, 64))
    assert views["image"].size == (64, 48)
    assert np.unique(np.asarray(views["image"])).tolist() == [205]
    assert len(np.unique(np.asarray(views["annotation"]).reshape(-1, 3), axis=0)) > 2


# Errors


def test_a_bank_of_one_image_is_refused(
    tiny_backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = made(folder_tree(tmp_path / "tree", train=1), tiny_backbone, tmp_path / "bank")
    with pytest.raises(BankError, match=r"rows come from one image.*at\s+least 2"):
        audit_bank(bank)
    assert call("--bank", bank.path) == 1
    assert "Build the bank from more images" in capsys.readouterr().err


def test_nothing_to_show_is_refused(bank: MemoryBank, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--bank", bank.path, "--top", 0) == 2
    assert "top is 0; at least 1 image must be shown" in capsys.readouterr().err


def test_no_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--bank", tmp_path) == 1
    assert "no memory bank there" in capsys.readouterr().err


def test_settings_that_an_audit_does_not_use(bank: MemoryBank) -> None:
    with pytest.raises(FungiSegError, match=r"decoder\.refine is 1\.0, but an audit asks neighbours alone"):
        audit_bank(bank, DecoderConfig(refine=1.0), CPU)


def test_an_index_that_cannot_be_made(bank: MemoryBank) -> None:
    with pytest.raises(FungiSegError, match=r"index\.kind is 'Nonsense'"):
        audit_bank(bank, DECODER, IndexConfig("Nonsense", device="cpu"))
