"""Planes of a stack and frames of a video are annotated on the page as images are."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from clips import write_clip
from stacks import scenes, write_stack
from test_workspace import THREE, map_of, paint

from fungi_seg import BackboneConfig, InputConfig, MemoryBank, open_dataset
from fungi_seg.annotating import Workspace, WorkspaceConfig
from fungi_seg.annotating.folder import images_within
from fungi_seg.bank import SourceImages


def test_a_plane_and_a_frame_are_painted_and_kept(tiny_config: BackboneConfig, tmp_path: Path) -> None:
    images, masks = scenes(3)
    write_stack(tmp_path / "images" / "cells.tif", images, "Z")
    write_clip(tmp_path / "images" / "clip.mkv", list(images))
    config = WorkspaceConfig(tiny_config, input=InputConfig(None))
    with closing(Workspace(tmp_path / "images", tmp_path / "bank", config)) as workspace:
        names = [one["name"] for one in workspace.list_images()["images"]]
        assert names == [*(f"cells[z={z}]" for z in range(3)), *(f"clip[t={t}]" for t in range(3))]
        workspace.set_classes(THREE)
        for number in (1, 5):
            labels = masks[number % 3].astype(np.int16)
            workspace.save(number, paint(workspace, number, labels)["version"])
        assert (map_of(workspace.prediction(4)["mask"]) == masks[1]).mean() > 0.8  # the frame is the plane painted
        bank = MemoryBank.open(tmp_path / "bank")
        assert bank.info.sources == ("cells[z=1]", "clip[t=2]")
        assert (SourceImages(bank)["clip[t=2]"].image == images[2]).all()
        assert [item.id for item in open_dataset(workspace.store.data).items] == list(bank.info.sources)
    with closing(Workspace(tmp_path / "images", tmp_path / "bank", config)) as again:
        assert [one["status"] for one in again.list_images()["images"]].count("saved") == 2


def test_planes_put_together_are_one_image_on_the_page(tiny_config: BackboneConfig, tmp_path: Path) -> None:
    images, masks = scenes(2, 3)
    write_stack(tmp_path / "images" / "cells.tif", images, "TZ")
    config = WorkspaceConfig(tiny_config, input=InputConfig(None, projection="1"))
    with closing(Workspace(tmp_path / "images", tmp_path / "bank", config)) as workspace:
        assert list(workspace.files) == ["cells[t=0]", "cells[t=1]"]
        workspace.set_classes(THREE)
        workspace.save(0, paint(workspace, 0, masks[0, 1].astype(np.int16))["version"])
    with closing(Workspace(tmp_path / "images", tmp_path / "bank", WorkspaceConfig(tiny_config))) as again:
        assert list(again.files) == ["cells[t=0]", "cells[t=1]"]  # as the bank's images are read
        assert (SourceImages(MemoryBank.open(tmp_path / "bank"))["cells[t=0]"].image == images[0, 1]).all()


def test_stacks_that_a_link_leads_out_to_are_left_out(tmp_path: Path) -> None:
    write_stack(tmp_path / "elsewhere" / "cells.tif", scenes(3)[0], "Z")
    write_stack(tmp_path / "images" / "own.tif", scenes(2)[0], "Z")
    (tmp_path / "images" / "cells.tif").symlink_to(tmp_path / "elsewhere" / "cells.tif")
    remarks: list[str] = []
    assert list(images_within(tmp_path / "images", remarks)) == ["own[z=0]", "own[z=1]"]
    assert remarks[-1].startswith("3 images left out: links that lead out of")
