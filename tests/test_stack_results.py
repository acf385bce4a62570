"""From a stack of which a few planes are annotated to masks of all, and a stack of masks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import built
from PIL import Image
from stacks import scenes, stack_tree, write_stack

from fungi_seg import Backbone, DataConfig, InputConfig, MemoryBank, Segmenter, SourceImages, open_dataset
from fungi_seg.bank import BankConfig
from fungi_seg.cli import main
from fungi_seg.images import read_image
from fungi_seg.rasters import stamp_of
from fungi_seg.results import ResultsConfig, find_images, segment_to_folder

QUIET = ResultsConfig(report=False)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one stack, t 2 and z 3, of which two planes are annotated."""
    images, masks = scenes(2, 3)
    root = stack_tree(tmp_path_factory.mktemp("stack") / "data", images, "TZ")
    kept = np.full_like(masks, 255)
    kept[0, 1], kept[1, 2] = masks[0, 1], masks[1, 2]
    write_stack(root / "masks" / "cells.tif", kept, "TZ")
    return root


@pytest.fixture(scope="session")
def stack_bank(stack: Path, tiny_backbone: Backbone) -> MemoryBank:
    data = DataConfig(root=str(stack))
    recipe = {"input": InputConfig(size=None), "bank": BankConfig(size=None)}
    return built(open_dataset(data), tiny_backbone, stack.parent / "bank", record={"data": asdict(data)}, **recipe)


def test_annotated_planes_serve_the_rest(stack: Path, stack_bank: MemoryBank, tmp_path: Path) -> None:
    assert stack_bank.info.sources == ("cells[t=0,z=1]", "cells[t=1,z=2]")
    images = find_images([str(stack / "images")])
    segmenter = Segmenter(stack_bank)
    outcome = segment_to_folder(segmenter, images, tmp_path, QUIET)
    assert (outcome.segmented, outcome.total) == (6, 6)
    for name, path in images.items():
        with Image.open(tmp_path / "masks" / f"{name}.png") as mask:
            assert (np.asarray(mask) == segmenter.predict(read_image(path)).mask).all()
    again = segment_to_folder(segmenter, images, tmp_path, QUIET)
    assert (again.segmented, again.total) == (0, 6)


def test_annotated_planes_are_found_again(stack: Path, stack_bank: MemoryBank) -> None:
    sample = SourceImages(stack_bank)["cells[t=1,z=2]"]
    images, masks = scenes(2, 3)
    assert (sample.image == images[1, 2]).all()
    assert (sample.mask == masks[1, 2]).all()


def test_a_stopped_build_notices_a_changed_stack(stack: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Planes count as changed where their file is."""
    before = stamp_of(stack / "images" / "cells.tif[t=0,z=1]")
    assert before == stamp_of(stack / "images" / "cells.tif") != []


def test_by_the_program(stack: Path, tmp_path: Path) -> None:
    small = ["--backbone.name", "embedded", "--input.size", "64", "--bank.size", "null"]
    main(["build", "--data.root", str(stack), *small, "--out", str(tmp_path / "bank")])
    main(["segment", str(stack / "images"), "--bank", str(tmp_path / "bank"), "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 6
