"""A build that is stopped goes on where it was, to the same bytes; and never with rows of something else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from conftest import HALF, TINY, built
from PIL import Image
from test_bank import change_byte, contents
from trees import folder_tree, save_palette, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    DataError,
    Dataset,
    FeatureConfig,
    InputConfig,
    LoadConfig,
    MemoryBank,
    PatchFeatures,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank import draft, writer as bank_writer
from fungi_seg.bank.build import append_images
from fungi_seg.datasets.masks import IndexMasks
from fungi_seg.images.settings import RunConfig

Make = Callable[..., MemoryBank]


class Stopped(BaseException):
    """As Ctrl-C is."""


@pytest.fixture(autouse=True)
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for every batch, and the same time in every record."""
    monkeypatch.setattr(draft, "PART_SECONDS", -1.0)
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 32)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder_tree(tmp_path / "data", train=6)


def train(data: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(data), split="train"))


@pytest.fixture
def make(data: Path, tiny_backbone: Backbone) -> Make:
    """Builds a bank in three batches of two images."""

    def build(out: Path, size: int | None = None, **options: Any) -> MemoryBank:
        options = {
            "features": FeatureConfig(),
            "input": InputConfig(size=None),
            "bank": BankConfig(size=size),
            "load": LoadConfig(2, 0),
        } | options
        return built(options.pop("dataset", None) or train(data), tiny_backbone, out, **options)

    return build


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Stops after so many batches; the list that it gives then counts the images of each."""
    compute = PatchFeatures.__call__

    def limit(number: int | None) -> list[int]:
        done: list[int] = []

        def stopping(self: PatchFeatures, images: Any, names: Any = None) -> Any:
            if number is not None and len(done) == number:
                raise Stopped
            done.append(len(images))
            return compute(self, images, names)

        monkeypatch.setattr(PatchFeatures, "__call__", stopping)
        return done

    return limit


Batches = Callable[[int | None], list[int]]

SETTINGS: list[dict[str, Any]] = [
    {},
    {"bank": BankConfig(size=50)},
    {"bank": BankConfig(size=50, sampling="uniform", key_dtype="int8")},
    {"bank": BankConfig(size=None, key_dtype="int4")},
    {"bank": BankConfig(size=70, epochs=2, augment=True), "input": InputConfig(size=32), "seed": 3},
    {"features": FeatureConfig(negatives=2, support_size=20)},
]


STOPS = [*((options, number) for options in SETTINGS for number in (1, 2)), *((o, 4) for o in SETTINGS[-2:])]


@pytest.mark.parametrize(("options", "number"), STOPS, ids=range(len(STOPS)))
def test_a_stopped_build_goes_on_to_the_same_bytes(
    make: Make, batches: Batches, tmp_path: Path, options: dict[str, Any], number: int
) -> None:
    expected = make(tmp_path / "undisturbed", **options)
    whole = batches(None)
    make(tmp_path / "again", **options)
    batches(number)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", **options)
    in_support_set = options == SETTINGS[-1] and number <= 3  # of which nothing is written down before it is complete
    assert {file.name for file in tmp_path.glob("bank/*")} == (set() if in_support_set else {".draft"})
    done = batches(None)
    made = make(tmp_path / "bank", **options)
    assert contents(made.path) == contents(expected.path)
    assert done == (whole if in_support_set else whole[number:])


def test_stopped_again_and_again(make: Make, batches: Batches, tmp_path: Path) -> None:
    expected = make(tmp_path / "undisturbed", 60)
    for _ in range(2):
        batches(1)
        with pytest.raises(Stopped):
            make(tmp_path / "bank", 60)
    batches(1)
    assert contents(make(tmp_path / "bank", 60).path) == contents(expected.path)


def test_with_a_reservoir_that_was_pruned(
    make: Make, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that were seen before count as they did."""
    monkeypatch.setattr("fungi_seg.bank.sampling.SLACK", 1.0)
    monkeypatch.setattr("fungi_seg.bank.sampling.max", lambda a, b: a, raising=False)
    expected = make(tmp_path / "undisturbed", 30)
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 30)
    batches(None)
    made = make(tmp_path / "bank", 30)
    assert contents(made.path) == contents(expected.path)
    assert made.info.build["available_rows"] == 6 * 48


def test_the_old_bank_stays_whole_meanwhile(make: Make, batches: Batches, tmp_path: Path) -> None:
    before = contents(make(tmp_path / "bank", 20).path)
    expected = make(tmp_path / "undisturbed", 60)
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 60, overwrite=True)
    found = contents(tmp_path / "bank")
    assert before.items() <= found.items()
    assert {name.partition("/")[0] for name in found.keys() - before.keys()} == {".draft"}
    assert not MemoryBank.open(tmp_path / "bank").verify()
    batches(1)
    assert contents(make(tmp_path / "bank", 60, overwrite=True).path) == contents(expected.path)


def test_nothing_is_left_if_nothing_was_written_down(
    make: Make, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "PART_SECONDS", 1000.0)
    before = set(tmp_path.iterdir())
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "deep" / "bank")
    assert set(tmp_path.iterdir()) == before


def other_mask(data: Path) -> dict[str, Any]:
    file = data / "train" / "masks" / "train_0.png"
    Image.fromarray(np.full((48, 64), 2, np.uint8)).save(file)
    os.utime(file, ns=(1, 1))
    return {}


def other_image(data: Path) -> dict[str, Any]:
    file = data / "train" / "images" / "train_1.png"
    Image.fromarray(scene(77)[0]).save(file)
    os.utime(file, ns=(1, 1))
    return {}


def one_more(data: Path) -> dict[str, Any]:
    for kind in ("images", "masks"):
        shutil.copy(data / "train" / kind / "train_0.png", data / "train" / kind / "train_7.png")
    return {}


def other_void(data: Path) -> dict[str, Any]:
    names, read = tuple(map(str, range(256))), IndexMasks(range(256), ())
    return {"dataset": replace(train(data), read=read, classes=names, palette=np.zeros((256, 3)))}


@pytest.mark.parametrize(
    "change",
    [
        other_mask,
        other_image,
        one_more,
        other_void,
        lambda _: {"seed": 1},
        lambda _: {"size": 59},
        lambda _: {"features": FeatureConfig(kind="plain")},
        lambda _: {"input": InputConfig(size=32)},
        lambda _: {"bank": BankConfig(60, key_dtype="int8")},
        lambda _: {"bank": BankConfig(60, void="background")},
        lambda _: {"bank": BankConfig(60, sampling="uniform")},
    ],
)
def test_rows_of_something_else_are_thrown_away(
    make: Make, batches: Batches, data: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]]
) -> None:
    """Other images, other settings: as if there had been nothing."""
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 60)
    options: dict[str, Any] = {"size": 60} | change(data)
    batches(None)
    made = make(tmp_path / "bank", **options)
    assert contents(made.path) == contents(make(tmp_path / "undisturbed", **options).path)


def test_another_backbone_throws_them_away(
    make: Make, batches: Batches, data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    other = load_backbone(
        "tiny", tiny_weights, dtype="float32", device="cpu", model_args=TINY, mean=HALF, std=(1, 1, 1)
    )
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 60)
    batches(None)
    options: dict[str, Any] = {"input": InputConfig(size=None), "bank": BankConfig(60), "load": LoadConfig(2, 0)}
    made = built(train(data), other, tmp_path / "bank", **options)
    assert contents(made.path) == contents(built(train(data), other, tmp_path / "other", **options).path)


@pytest.mark.parametrize("name", ["draft.json", "keys-00000.npy", "table-00001.safetensors"])
@pytest.mark.parametrize("damage", [change_byte, lambda file: file.write_bytes(b"{}"), Path.unlink], ids=range(3))
def test_a_damaged_draft_is_begun_anew(
    make: Make, batches: Batches, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    expected = make(tmp_path / "undisturbed", 60)
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 60)
    damage(tmp_path / "bank" / ".draft" / name)
    done = batches(None)
    assert contents(make(tmp_path / "bank", 60).path) == contents(expected.path)
    assert done == [2, 2, 2]


@pytest.mark.parametrize("state", ["[]", "{}", "null", '{"purpose": 1}'])
def test_nonsense_in_a_draft_is_begun_anew(make: Make, batches: Batches, tmp_path: Path, state: str) -> None:
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 60)
    (tmp_path / "bank" / ".draft" / "draft.json").write_text(state)
    done = batches(None)
    assert len(make(tmp_path / "bank", 60)) == 60
    assert done == [2, 2, 2]


def test_what_was_passed_over_is_remembered(make: Make, batches: Batches, data: Path, tmp_path: Path) -> None:
    for name in ("train_0", "train_3"):
        (data / "train" / "images" / f"{name}.png").write_bytes(b"nothing")
    expected = make(tmp_path / "undisturbed", skip_bad=True)
    batches(1)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", skip_bad=True)
    batches(None)
    made = make(tmp_path / "bank", skip_bad=True)
    assert contents(made.path) == contents(expected.path)
    assert [("train_0" in line, "train_3" in line) for line in made.info.build["skipped"]] == [
        (True, False),
        (False, True),
    ]


def test_images_without_a_labelled_patch_are_remembered(
    make: Make, batches: Batches, data: Path, tmp_path: Path
) -> None:
    for name in ("train_0", "train_4"):
        save_palette(np.full((48, 64), 255, np.uint8), data / "train" / "masks" / f"{name}.png")
    expected = make(tmp_path / "undisturbed")
    batches(1)
    with pytest.raises(Stopped):
        make(tmp_path / "bank")
    batches(None)
    made = make(tmp_path / "bank")
    assert contents(made.path) == contents(expected.path)
    assert [line.split(":")[0] for line in made.info.build["skipped"]] == ["train_0", "train_4"]
    assert not {"train_0", "train_4"} & set(made.info.sources)


def test_a_bad_image_that_was_mended(make: Make, data: Path, tmp_path: Path) -> None:
    """The build goes on behind what was sound."""
    file = data / "train" / "images" / "train_4.png"
    sound = file.read_bytes()
    expected = make(tmp_path / "undisturbed")
    file.write_bytes(sound[:100])
    with pytest.raises(DataError, match="train_4"):
        make(tmp_path / "bank")
    assert not (tmp_path / "bank" / "bank.json").exists()
    file.write_bytes(sound)
    assert contents(make(tmp_path / "bank").path) == contents(expected.path)


@pytest.fixture
def more(tmp_path: Path) -> Dataset:
    """Four images to append."""
    folder_tree(tmp_path / "more", train=1, val=4)
    return open_dataset(DataConfig(root=str(tmp_path / "more"), split="val"))


def test_a_stopped_append_goes_on_to_the_same_bytes(
    make: Make, batches: Batches, more: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    old = make(tmp_path / "bank", 60)
    shutil.copytree(old.path, tmp_path / "undisturbed")
    expected = append_images(
        MemoryBank.open(tmp_path / "undisturbed"), more, tiny_backbone, run=RunConfig(LoadConfig(2, 0))
    )
    batches(1)
    with pytest.raises(Stopped):
        append_images(old, more, tiny_backbone, run=RunConfig(LoadConfig(2, 0)))
    assert (old.path / ".draft").is_dir()
    assert not MemoryBank.open(old.path).verify()
    done = batches(None)
    both = append_images(old, more, tiny_backbone, run=RunConfig(LoadConfig(2, 0)))
    assert contents(both.path) == contents(expected.path)
    assert done == [2]


def test_a_stopped_append_begins_anew_if_the_bank_was_changed_meanwhile(
    make: Make, batches: Batches, more: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    old = make(tmp_path / "bank", 60)
    batches(1)
    with pytest.raises(Stopped):
        append_images(old, more, tiny_backbone, run=RunConfig(LoadConfig(2, 0)))
    changed = MemoryBank.open(old.path).remove(["train_0"])
    shutil.copytree(old.path, tmp_path / "undisturbed", ignore=shutil.ignore_patterns(".draft"))
    done = batches(None)
    both = append_images(changed, more, tiny_backbone, run=RunConfig(LoadConfig(2, 0)))
    assert done == [2, 2]
    expected = append_images(
        MemoryBank.open(tmp_path / "undisturbed"), more, tiny_backbone, run=RunConfig(LoadConfig(2, 0))
    )
    assert contents(both.path) == contents(expected.path)


def test_a_stopped_build_is_not_taken_for_something_else(make: Make, batches: Batches, tmp_path: Path) -> None:
    """Opening says that there is no bank yet; a build to the folder needs no --overwrite."""
    batches(2)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", 60)
    with pytest.raises(BankError, match="no memory bank there"):
        MemoryBank.open(tmp_path / "bank")
    batches(None)
    assert len(make(tmp_path / "bank", 60)) == 60


def test_a_build_stopped_while_its_index_is_made_goes_on(
    make: Make, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one bank in the end, with its index, and never one without."""

    def stop(*_: object) -> NoReturn:
        raise Stopped

    monkeypatch.setattr("fungi_seg.bank.build.INDEXED_FROM", 288)
    expected = make(tmp_path / "undisturbed")
    assert expected.manifest.index is not None
    assert [entry["action"] for entry in expected.history] == ["build", "index"]
    assert expected.history[1].keys() == expected.make_index().history[-1].keys()
    assert {entry["rows"] for entry in expected.history} == {288}
    expected = make(tmp_path / "undisturbed", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr("fungi_seg.bank.stored_index.tune", stop)
        with pytest.raises(Stopped):
            make(tmp_path / "bank")
    assert {file.name for file in tmp_path.glob("bank/*")} == {".draft"}
    done = batches(None)
    made = make(tmp_path / "bank")
    assert done == []
    assert contents(made.path) == contents(expected.path)
    assert made.verify() == []


def test_smaller_banks_carry_no_index(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fungi_seg.bank.build.INDEXED_FROM", 289)
    made = make(tmp_path / "bank")
    assert (len(made), made.manifest.index, len(made.history)) == (288, None, 1)


def test_what_was_passed_over_is_not_passed_over_silently(
    make: Make, batches: Batches, data: Path, tmp_path: Path
) -> None:
    """Without --skip-bad; with it, the rows so far are still there."""
    (data / "train" / "images" / "train_1.png").write_bytes(b"nothing")
    expected = make(tmp_path / "undisturbed", skip_bad=True)
    batches(1)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", skip_bad=True)
    with pytest.raises(DataError, match=r"skipped 1 images:\n.*train_1\.png.*\n.*--skip-bad.*remove .*\.draft"):
        make(tmp_path / "bank")
    done = batches(None)
    assert contents(make(tmp_path / "bank", skip_bad=True).path) == contents(expected.path)
    assert done == [2, 2]  # runs of two images, the bad one left out of the first


def test_a_run_that_met_a_bad_image_goes_on_with_skip_bad(
    make: Make, batches: Batches, data: Path, tmp_path: Path
) -> None:
    (data / "train" / "images" / "train_4.png").write_bytes(b"nothing")
    expected = make(tmp_path / "undisturbed", skip_bad=True)
    with pytest.raises(DataError, match="train_4"):
        make(tmp_path / "bank")
    done = batches(None)
    assert contents(make(tmp_path / "bank", skip_bad=True).path) == contents(expected.path)
    assert sum(done) < 5


@pytest.mark.parametrize("damage", [change_byte, lambda file: file.write_bytes(b"x"), Path.unlink], ids=range(3))
def test_a_damaged_support_set_is_made_again(
    make: Make, batches: Batches, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    options = SETTINGS[-1]
    expected = make(tmp_path / "undisturbed", **options)
    batches(4)
    with pytest.raises(Stopped):
        make(tmp_path / "bank", **options)
    damage(tmp_path / "bank" / ".draft" / "support.npy")
    done = batches(None)
    assert contents(make(tmp_path / "bank", **options).path) == contents(expected.path)
    assert done == [2] * 6


@pytest.mark.parametrize("link", [True, False])
def test_nothing_is_written_through_a_link(make: Make, tmp_path: Path, link: bool) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "bank"
    for made in (elsewhere, folder):
        made.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (folder / ".draft").symlink_to(elsewhere) if link else (folder / ".draft").write_text("mine")
    with pytest.raises(BankError, match=r"\.draft: is a link or a file.*; remove it"):
        make(folder)
    assert contents(elsewhere).keys() == {"mine.txt"}
    assert [file.name for file in folder.iterdir()] == [".draft"]


def test_rows_of_another_run_are_not_thrown_away_silently(
    make: Make,
    batches: Batches,
    more: Dataset,
    tiny_backbone: Backbone,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = make(tmp_path / "bank", 60)
    batches(1)
    with pytest.raises(Stopped):
        make(old.path, 70, overwrite=True)
    batches(1)
    assert caplog.messages == []
    with pytest.raises(Stopped):
        append_images(old, more, tiny_backbone, run=RunConfig(LoadConfig(2, 0)))
    told = (
        f"{old.path / '.draft'}: rows of a run with other images, settings or versions (of the feature code, torch or "
        f"timm) are thrown away"
    )
    assert caplog.messages == [told]
    batches(None)
    append_images(old, more, tiny_backbone, run=RunConfig(LoadConfig(2, 0)))
    assert caplog.messages == [told]
