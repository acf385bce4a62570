"""Stacks and videos: an image a plane, annotated wholly, in part, or in the wrong way."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import grey_frames, write_clip
from stacks import save_mask, scenes, stack_tree, write_stack, zarr_of

from fungi_seg import DataConfig, Dataset, InputConfig, open_dataset
from fungi_seg.datasets.stacks import paired_planes
from fungi_seg.errors import DataError, MissingExtra
from fungi_seg.files import files_below, sha256, stamp
from fungi_seg.images import bare, image_sha256, images_of
from fungi_seg.rasters import stamp_of, video
from fungi_seg.results import find_images


def opened(root: Path, projection: str | None = None, skip_bad: bool = False, **options: object) -> Dataset:
    input = InputConfig(projection=projection)
    return open_dataset(DataConfig(root=str(root), **options), skip_bad, input)  # type: ignore[arg-type]


def test_a_stack_is_an_image_a_plane(tmp_path: Path) -> None:
    images, _ = scenes(2, 3)
    path = write_stack(tmp_path / "in" / "cells.ome.tif", images, "TZ")
    found = find_images([str(tmp_path / "in")])
    assert list(found) == [f"cells.ome[t={t},z={z}]" for t in range(2) for z in range(3)]
    assert found["cells.ome[t=1,z=2]"] == path.with_name("cells.ome.tif[t=1,z=2]")
    assert find_images([str(path)]) == find_images([str(tmp_path / "in" / "*.tif")]) == found


def test_one_plane_may_be_named(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", scenes(3)[0])
    named = path.with_name("cells.tif[page=1]")
    assert find_images([str(named)]) == {"cells[page=1]": named}


def test_planes_along_z_put_together_are_one_image(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", scenes(2, 3)[0], "TZ")
    found = find_images([str(tmp_path)], input=InputConfig(projection="max"))
    assert found == {f"cells[t={t}]": path.with_name(f"cells.tif[t={t}]") for t in range(2)}
    one = write_stack(tmp_path / "one" / "cells.tif", scenes(3)[0], "Z")
    assert find_images([str(one)], input=InputConfig(projection="mean")) == {"cells": one}


def test_frames_of_a_video_are_images(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", grey_frames(3))
    assert find_images([str(tmp_path)]) == {f"clip[t={t}]": path.with_name(f"clip.mkv[t={t}]") for t in range(3)}


def test_a_zarr_is_one_file(tmp_path: Path) -> None:
    path = zarr_of(tmp_path / "in" / "cells.ome.zarr", np.zeros((3, 16, 16), np.uint8), "zyx")
    assert files_below(tmp_path / "in") == [path]
    for pattern in (path, path.parent, path.parent / "*.zarr", tmp_path / "**" / "*"):
        assert list(find_images([str(pattern)])) == [f"cells.ome[z={z}]" for z in range(3)]


def test_digests_of_folders(tmp_path: Path) -> None:
    path = zarr_of(tmp_path / "a.zarr", np.ones((3, 16, 16), np.uint8), "zyx")
    other = shutil.copytree(path, tmp_path / "b.zarr")
    assert sha256(path) == sha256(other) == image_sha256(other.with_name("b.zarr[z=1]"))
    before = stamp(other)
    chunk = next(file for file in files_below(other / "0") if not file.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes() + b"1")
    assert sha256(path) != sha256(other) == image_sha256(other.with_name("b.zarr[z=1]"))
    assert stamp_of(other.with_name("b.zarr[z=0]")) == stamp(other) != before
    chunk.rename(chunk.with_name("other"))
    assert sha256(other) not in (sha256(path), before)


def test_a_file_of_the_name_of_an_address_is_a_file(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", scenes(3)[0])
    odd = path.with_name("cells.tif[page=1]")
    odd.write_bytes(b"something else")
    assert images_of(odd) == (odd,)
    assert bare(odd) == tmp_path / "cells"


def test_files_that_cannot_be_opened_stay_one_image(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    path.write_bytes(b"II*\0 nothing")
    assert find_images([str(tmp_path)]) == {"cells": path}


def test_kinds_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> None:
        raise MissingExtra("video", ImportError("No module named 'av'", name="av"))

    monkeypatch.setattr(video, "_clip", lambda path, stamp: missing(path))
    path = write_clip(tmp_path / "in" / "clip.mkv", grey_frames(3)) if (tmp_path / "in").mkdir() is None else None
    save_mask(tmp_path / "in" / "photo.png", np.zeros((16, 16), np.uint8))
    remarks: list[str] = []
    assert list(find_images([str(tmp_path / "in")], remarks)) == ["photo"]
    assert any("1 files left out: av can't be imported" in line and "fungi-seg[video]" in line for line in remarks)
    with pytest.raises(MissingExtra):
        find_images([str(path)])


@pytest.mark.parametrize("axes", ["TZ", None])
def test_masks_of_the_same_axes(tmp_path: Path, axes: str | None) -> None:
    images, masks = scenes(2, 3)
    root = stack_tree(tmp_path, images, axes)
    write_stack(root / "masks" / "cells.tif", masks, axes)
    dataset = opened(root)
    names = [f"t={t},z={z}" for t in range(2) for z in range(3)] if axes else [f"page={p}" for p in range(6)]
    assert [item.id for item in dataset.items] == [f"cells[{name}]" for name in names]
    for item, mask in zip(dataset.items, masks.reshape(6, *masks.shape[2:]), strict=True):
        assert (dataset.read(item, mask.shape) == mask).all()
    assert not dataset.remarks


def test_masks_of_pages_in_the_order_of_one_axis(tmp_path: Path) -> None:
    images, masks = scenes(4)
    root = stack_tree(tmp_path, images, "Z")
    write_stack(root / "masks" / "cells.tif", masks)
    dataset = opened(root)
    assert [(item.image.name, item.mask.name) for item in dataset.items] == [
        (f"cells.tif[z={z}]", f"cells.tif[page={z}]") for z in range(4)
    ]


def test_planes_that_are_void_all_over_are_not_annotated(tmp_path: Path) -> None:
    images, masks = scenes(5)
    masks[[0, 2, 3]] = 255
    root = stack_tree(tmp_path, images, "Z")
    write_stack(root / "masks" / "cells.tif", masks, "Z")
    dataset = opened(root)
    assert [item.id for item in dataset.items] == ["cells[z=1]", "cells[z=4]"]
    assert dataset.remarks == (f"{root}/images/cells.tif: 3 of its 5 planes aren't annotated, and left out",)


def test_masks_of_some_planes(tmp_path: Path) -> None:
    images, masks = scenes(2, 3)
    root = stack_tree(tmp_path, images, "TZ")
    save_mask(root / "masks" / "cells[t=1,z=0].png", masks[1, 0])
    save_mask(root / "masks" / "cells[z=2,t=0].png", masks[0, 2])  # axes in another order
    dataset = opened(root)
    assert [item.id for item in dataset.items] == ["cells[t=0,z=2]", "cells[t=1,z=0]"]
    assert (dataset.read(dataset.items[0], masks.shape[2:]) == masks[0, 2]).all()
    assert dataset.remarks == (f"{root}/images/cells.tif: 4 of its 6 planes aren't annotated, and left out",)


def test_masks_of_some_frames(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep").mkdir()
    write_clip(tmp_path / "images" / "deep" / "clip.mkv", grey_frames(7))
    (tmp_path / "classes.txt").write_text("ground\n")
    for number in (0, 5):
        save_mask(tmp_path / "masks" / "deep" / f"clip[t={number}].png", np.zeros((32, 48), np.uint8))
    dataset = opened(tmp_path)
    assert [item.id for item in dataset.items] == ["deep/clip[t=0]", "deep/clip[t=5]"]


def test_a_projection_takes_the_z_of_masks_too(tmp_path: Path) -> None:
    images, masks = scenes(2, 3)
    root = stack_tree(tmp_path, images, "TZ")
    write_stack(root / "masks" / "cells.tif", masks[:, 0], "T")
    assert [item.id for item in opened(root, "max").items] == ["cells[t=0]", "cells[t=1]"]


def test_a_file_list_of_planes(tmp_path: Path) -> None:
    images, masks = scenes(2, 3)
    root = stack_tree(tmp_path, images, "TZ")
    write_stack(root / "masks" / "cells.tif", masks, "TZ")
    (tmp_path / "list.txt").write_text("cells[t=1,z=2]\ncells[t=0,z=0]\n")
    dataset = opened(root, file_list=str(tmp_path / "list.txt"))
    assert [item.id for item in dataset.items] == ["cells[t=1,z=2]", "cells[t=0,z=0]"]


def test_negative_images_may_be_stacks(tmp_path: Path) -> None:
    write_stack(tmp_path / "cells.tif", scenes(3)[0], "Z")
    dataset = opened(tmp_path, layout="negative")
    assert [item.id for item in dataset.items] == [f"cells[z={z}]" for z in range(3)]


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda folder, masks: save_mask(folder / "cells.png", masks[0, 0]),
         r"cells\.png: is a mask of one picture, but its image cells\.tif holds 6, t 2, z 3; write a mask file of the "
         r"same axes, name the mask as the plane that it is of, cells\[t=0,z=0\]\.png, or .*--input\.projection"),
        (lambda folder, masks: write_stack(folder / "cells.tif", masks.swapaxes(0, 1), "TZ"),
         r"cells\.tif: its axes are t 3, z 2, but those of its image cells\.tif t 2, z 3; write the mask with"),
        (lambda folder, masks: write_stack(folder / "cells.tif", masks),
         r"cells\.tif: its axes are page 6, but those of its image cells\.tif t 2, z 3"),
        (lambda folder, masks: write_stack(folder / "cells.tif", masks[:, :2], "TZ"),
         r"cells\.tif: its axes are t 2, z 2, but those"),
        (lambda folder, masks: save_mask(folder / "cells[t=1,z=3].png", masks[0, 0]),
         r"cells\[t=1,z=3\]\.png: mask without image"),
        (lambda folder, masks: (write_stack(folder / "cells.tif", masks, "TZ"),
                                save_mask(folder / "cells[t=1,z=1].png", masks[0, 0])),
         r"cells\[t=1,z=1\]\.png: annotates a plane that cells\.tif does, too"),
        (lambda folder, masks: None,
         r"cells\.tif: image without mask; it holds 6 planes, t 2, z 3: .* such as cells\[t=0,z=0\]\.png, or"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(tmp_path: Path, write: object, why: str) -> None:
    images, masks = scenes(2, 3)
    root = stack_tree(tmp_path, images, "TZ")
    write(root / "masks", masks)  # type: ignore[operator]
    with pytest.raises(DataError, match=why):
        opened(root)
    save_mask(root / "masks" / "photo.png", masks[0, 0])
    write_stack(root / "images" / "photo.tif", images[0, 0])
    kept = opened(root, skip_bad=True)
    assert [item.id for item in kept.items] == ["photo"]
    assert kept.problems


def test_a_mask_of_several_planes_for_one_picture(tmp_path: Path) -> None:
    images, masks = scenes(3)
    root = stack_tree(tmp_path, images[0], None)
    write_stack(root / "masks" / "cells.tif", masks, "Z")
    with pytest.raises(DataError, match=r"cells\.tif: a mask of z 3, but its image cells\.tif is one picture"):
        opened(root)


def test_planes_of_masks_that_change_class_ids(tmp_path: Path) -> None:
    from tifffile import imwrite

    images, masks = scenes(3)
    root = stack_tree(tmp_path, images, None)
    imwrite(root / "masks" / "cells.tif", masks, compression="jpeg", photometric="minisblack")
    dataset = opened(root)
    with pytest.raises(DataError, match=r"cells\.tif\[page=0\]: its values are changed by JPEG compression"):
        dataset.read(dataset.items[0], masks.shape[1:])
    write_stack(root / "masks" / "cells.tif", np.repeat(masks[..., None], 3, axis=3))
    with pytest.raises(DataError, match=r"cells\.tif\[page=0\]: the mask has 3 channels; an index mask is expected"):
        dataset.read(dataset.items[0], masks.shape[1:])
    write_stack(root / "masks" / "cells.tif", masks.astype(np.float32))
    with pytest.raises(DataError, match=r"cells\.tif\[page=0\]: the mask holds float32 values"):
        dataset.read(dataset.items[0], masks.shape[1:])
    write_stack(root / "masks" / "cells.tif", masks.astype(np.uint32) + 2**31)
    with pytest.raises(DataError, match=r"cells\.tif\[page=0\]: the mask holds the value 2147483648"):
        dataset.read(dataset.items[0], masks.shape[1:])


def test_frames_of_videos_are_no_masks(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", grey_frames(3))
    found = paired_planes({"clip": path}, {"clip": path}, None, (255,))
    from fungi_seg.images import read_mask

    with pytest.raises(DataError, match=r"clip\.mkv\[t=0\]: is a frame of a video, which changes class ids"):
        read_mask(found.masks["clip[t=0]"])
