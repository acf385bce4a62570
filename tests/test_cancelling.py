"""Long work that is ended at any of its steps: nothing half-written stays, and others can follow it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_bank import contents
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankRecipe,
    DataConfig,
    Dataset,
    InputConfig,
    MemoryBank,
    Segmenter,
    build_bank,
    open_dataset,
)
from fungi_seg.audit import audit_bank
from fungi_seg.bank import append_images, replace_images
from fungi_seg.commands.fitting import fit_and_keep
from fungi_seg.errors import Cancelled
from fungi_seg.progress import Step, following
from fungi_seg.results import ResultsConfig, segment_to_folder
from fungi_seg.segmentation import Grid, fit

RECIPE = BankRecipe(input=InputConfig(size=None))
IMAGES = 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "data", train=IMAGES)


@pytest.fixture(scope="module")
def train(tree: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(tree), split="train"))


@pytest.fixture(scope="module")
def made(train: Dataset, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bank(train, tiny_backbone, tmp_path_factory.mktemp("bank") / "bank", RECIPE).path


@pytest.fixture
def own(made: Path, tmp_path: Path) -> MemoryBank:
    """A bank that a test may change."""
    return MemoryBank.open(shutil.copytree(made, tmp_path / "bank"))


@pytest.fixture
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((0.0,), (3,), (0.02,), (0.0,), (("token", 1.0),), (1e-2,), (0.5,), (0.0,))
    monkeypatch.setattr(fit, "Grid", lambda: grid)


def followed(work: Callable[[], Any]) -> list[Step]:
    """All steps of some work."""
    steps: list[Step] = []
    with following(steps.append):
        work()
    return steps


def ended_at(number: int, work: Callable[[], Any]) -> None:
    """Do some work, and end it at one of its steps."""
    left = iter(range(number))

    def listener(step: Step) -> None:
        if next(left, None) is None:
            raise Cancelled("enough")

    with following(listener), pytest.raises(Cancelled, match="enough"):
        work()


def some_of(steps: int) -> list[int]:
    return sorted({0, 1, steps // 2, steps - 1})


def test_a_build_that_is_ended_leaves_nothing(train: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    def build(name: str) -> MemoryBank:
        return build_bank(train, tiny_backbone, tmp_path / name, RECIPE)

    steps = followed(lambda: build("whole"))
    assert steps == [Step("memory bank", done, IMAGES, "images") for done in range(IMAGES + 1)]
    for number in some_of(len(steps)):
        ended_at(number, lambda: build("other"))
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.usefixtures("small_grid")
@pytest.mark.parametrize("what", ["build", "append", "replace", "fit", "audit"])
def test_a_bank_stays_as_it_was(
    tree: Path, train: Dataset, tiny_backbone: Backbone, own: MemoryBank, what: str
) -> None:
    new = open_dataset(DataConfig(root=str(tree), split="val"))
    features = own.patch_features(backbone=tiny_backbone)
    work: Callable[[], Any] = {
        "build": lambda: build_bank(new, tiny_backbone, own.path, RECIPE, overwrite=True),
        "append": lambda: append_images(own, new, tiny_backbone),
        "replace": lambda: replace_images(own, train, tiny_backbone),
        "fit": lambda: fit_and_keep(own, DataConfig(root=str(tree), split="train"), features, progress=False),
        "audit": lambda: audit_bank(own),
    }[what]
    before, copy = contents(own.path), shutil.copytree(own.path, own.path.with_name("copy"))
    steps = len(followed(work))
    assert (contents(own.path) == before) == (what == "audit")
    shutil.rmtree(own.path)
    shutil.copytree(copy, own.path)
    for number in some_of(steps):
        ended_at(number, work)
        assert contents(own.path) == before
    work()


@pytest.mark.usefixtures("small_grid")
def test_what_a_fit_and_an_audit_say_of_their_stages(tree: Path, own: MemoryBank, tiny_backbone: Backbone) -> None:
    features = own.patch_features(backbone=tiny_backbone)
    steps = followed(lambda: fit_and_keep(own, DataConfig(root=str(tree), split="train"), features, progress=False))
    assert list(dict.fromkeys(step.what for step in steps)) == [
        "neighbours in other images",
        "settings",
        "images to fit on",
        "regressions",
    ]
    steps = followed(lambda: audit_bank(own))
    assert list(dict.fromkeys(step.what for step in steps)) == [
        "neighbours in other images",
        "votes of the other images",
        "redundant images",
    ]


def test_results_stay_as_they_were(tree: Path, own: MemoryBank, tmp_path: Path) -> None:
    segmenter, out = Segmenter(own), tmp_path / "out"
    images = {path.stem: path for path in sorted((tree / "train" / "images").iterdir())}
    segment_to_folder(segmenter, images, out)
    before = contents(out)

    def again() -> object:
        return segment_to_folder(segmenter, images, out, ResultsConfig(scores=True), overwrite=True)

    for number in (0, 3, IMAGES):
        ended_at(number, again)
        shutil.rmtree(out / ".draft", ignore_errors=True)  # from which the next run would go on
        assert contents(out) == before
    again()
    assert (out / "scores" / "train_0.npy").is_file()
