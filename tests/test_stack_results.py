"""From a stack of which a few planes are annotated to masks of all, and a stack of masks."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import ome_types
import pytest
from clips import write_clip
from conftest import built
from PIL import Image
from stacks import CLASSES, save_mask, scenes, stack_tree, write_stack, zarr_of
from tifffile import TiffFile, imread, imwrite

from fungi_seg import (
    Backbone,
    DataConfig,
    DataError,
    FungiSegError,
    InputConfig,
    MemoryBank,
    OverlayConfig,
    RunConfig,
    Segmenter,
    SourceImages,
    evaluate,
    evaluate_predictions,
    open_dataset,
    open_predictions,
)
from fungi_seg.bank import BankConfig
from fungi_seg.cli import main
from fungi_seg.evaluation import CocoConfig
from fungi_seg.images import read_image, read_mask
from fungi_seg.rasters import opened_clip, planes_of, stamp_of
from fungi_seg.results import ResultsConfig, VideoConfig, find_corrections, find_images, segment_to_folder
from fungi_seg.results.stacks import PlaneMask, Stack

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
    for mask, path in zip(stored_masks(tmp_path, images), images.values(), strict=True):
        assert (mask == segmenter.predict(read_image(path)).mask).all()
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


def stored_masks(out: Path, images: dict[str, Path]) -> np.ndarray:
    """The planes' own masks, files of their image's kind."""
    files = [out / "masks" / f"{name}{suffix}" for name in images for suffix in (".png", ".tif", ".zarr")]
    return np.stack([read_mask(file) for file in files if file.exists()])


def test_masks_come_back_as_a_stack_of_the_same_axes(stack: Path, stack_bank: MemoryBank, tmp_path: Path) -> None:
    images = find_images([str(stack / "images")])
    outcome = segment_to_folder(Segmenter(stack_bank), images, tmp_path, QUIET)
    assert outcome.whole == ["stacks/cells.tif"]
    path = tmp_path / "stacks" / "cells.tif"
    with TiffFile(path) as tiff:
        assert (tiff.is_ome, tiff.series[0].axes, tiff.series[0].shape) == (True, "TZYX", (2, 3, 48, 64))
        assert (tiff.asarray().reshape(6, 48, 64) == stored_masks(tmp_path, images)).all()
    described = ome_types.from_tiff(path).images[0]
    assert (described.name, described.pixels.size_t, described.pixels.size_z) == ("cells", 2, 3)
    assert [plane.name for plane in planes_of(path)] == [path.name for path in images.values()]


def test_the_width_of_a_pixel_is_kept(stack_bank: MemoryBank, tmp_path: Path) -> None:
    planes = scenes(3)[0]
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    imwrite(tmp_path / "cells.tif", planes, photometric="rgb", ome=True, metadata={"axes": "ZYXS", **size})
    images = find_images([str(tmp_path / "cells.tif")])
    segment_to_folder(Segmenter(stack_bank), images, tmp_path / "out", QUIET)
    pixels = ome_types.from_tiff(tmp_path / "out" / "stacks" / "cells.tif").images[0].pixels
    assert (pixels.physical_size_x, pixels.physical_size_x_unit.value) == (0.25, "µm")


def test_pages_come_back_as_pages(stack_bank: MemoryBank, tmp_path: Path) -> None:
    images = find_images([str(write_stack(tmp_path / "a.tif", scenes(4)[0]))])
    segment_to_folder(Segmenter(stack_bank), images, tmp_path / "out", QUIET)
    path = tmp_path / "out" / "stacks" / "a.tif"
    assert [plane.name for plane in planes_of(path)] == [f"a.tif[page={page}]" for page in range(4)]
    assert (imread(path) == stored_masks(tmp_path / "out", images)).all()


def test_planes_put_together_leave_their_axis_out(stack: Path, stack_bank: MemoryBank, tmp_path: Path) -> None:
    input = replace(stack_bank.info.input, projection="max")
    images = find_images([str(stack / "images")], input=input)
    segment_to_folder(Segmenter(stack_bank).entering(input), images, tmp_path, QUIET)
    with TiffFile(tmp_path / "stacks" / "cells.tif") as tiff:
        assert (tiff.series[0].axes, tiff.series[0].shape[0]) == ("TYX", 2)


def test_a_stack_is_written_again_only_where_a_mask_is_newer(
    stack: Path, stack_bank: MemoryBank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, segmenter = find_images([str(stack / "images")]), Segmenter(stack_bank)
    some = dict(list(images.items())[:4])
    segment_to_folder(segmenter, some, tmp_path, QUIET)
    path = tmp_path / "stacks" / "cells.tif"
    assert "cells.tif: 2 of its 6 planes have no mask, and are void in" in caplog.text
    assert (imread(path).reshape(6, 48, 64)[4:] == 255).all()
    before = path.read_bytes()
    assert segment_to_folder(segmenter, some, tmp_path, QUIET).whole == ["stacks/cells.tif"]
    assert path.read_bytes() == before
    segment_to_folder(segmenter, images, tmp_path, QUIET)
    assert (imread(path).reshape(6, 48, 64) == stored_masks(tmp_path, images)).all()


def test_axes_that_no_tiff_names_are_told(
    stack_bank: MemoryBank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = {"axes": "PTYXS"}
    imwrite(tmp_path / "a.tif", scenes(2, 2)[0], photometric="rgb", metadata=metadata)
    images = find_images([str(tmp_path / "a.tif")])
    outcome = segment_to_folder(Segmenter(stack_bank), images, tmp_path / "out", QUIET)
    assert (outcome.segmented, outcome.whole) == (4, [])
    assert "a.tif: no stack of its masks is written, for an OME-TIFF has no axis p" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ([(48, 64), (48, 60)], "a.tif: its planes have 2 sizes, so that no stack of masks is written"),
        ([(20_000, 20_000)] * 2, "a.tif: a plane has 20000×20000 pixels .height×width., more than the 268435456 that"),
    ],
)
def test_sizes_that_make_no_stack(tmp_path: Path, sizes: list[tuple[int, int]], why: str) -> None:
    planes = planes_of(write_stack(tmp_path / "a.tif", scenes(2)[0]))
    masks = {plane: PlaneMask(plane, size) for plane, size in zip(planes, sizes, strict=True)}
    with pytest.raises(DataError, match=why):
        _ = Stack("a", tmp_path / "a.tif", planes, masks).size


def test_planes_of_a_zarr(stack_bank: MemoryBank, tmp_path: Path) -> None:
    planes = scenes(3)[0][..., 0]
    images = find_images([str(zarr_of(tmp_path / "cells.ome.zarr", planes, "zyx"))])
    segmenter = Segmenter(stack_bank)
    assert segment_to_folder(segmenter, images, tmp_path / "out", QUIET).whole == ["stacks/cells.ome.tif"]
    assert (imread(tmp_path / "out" / "stacks" / "cells.ome.tif") == stored_masks(tmp_path / "out", images)).all()
    assert segment_to_folder(segmenter, images, tmp_path / "out", QUIET).segmented == 0


def test_masks_of_planes_are_held_against_their_truth(stack: Path, stack_bank: MemoryBank, tmp_path: Path) -> None:
    """As a folder of masks, and as COCO results."""
    dataset = open_dataset(DataConfig(root=str(stack)))
    segmenter = Segmenter(stack_bank)
    images = find_images([str(stack / "images")])
    config = replace(QUIET, coco=CocoConfig(str(tmp_path / "coco.json")))
    segment_to_folder(segmenter, images, tmp_path / "out", config)
    expected = evaluate(segmenter, dataset).miou
    assert evaluate_predictions(open_predictions(tmp_path / "out", dataset), dataset).miou == expected
    assert evaluate_predictions(open_predictions(tmp_path / "coco.json", dataset), dataset).miou == pytest.approx(
        expected
    )
    listed = json.loads((tmp_path / "coco_images.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == [f"{name}.tif" for name in images]


def test_stacks_of_masks_are_predictions_and_corrections(stack: Path, stack_bank: MemoryBank, tmp_path: Path) -> None:
    """What segment put together can be measured, and after some was painted over segmented anew."""
    dataset, segmenter = open_dataset(DataConfig(root=str(stack))), Segmenter(stack_bank)
    images = find_images([str(stack / "images")])
    segment_to_folder(segmenter, images, tmp_path / "out", QUIET)
    shutil.copy(tmp_path / "out" / "classes.txt", tmp_path / "out" / "stacks")
    found = evaluate_predictions(open_predictions(tmp_path / "out" / "stacks", dataset), dataset)
    assert found.miou == evaluate(segmenter, dataset).miou
    painted = np.full((2, 3, 48, 64), 255, np.uint8)
    painted[1, 1, 5:9, 7:30] = 2
    write_stack(tmp_path / "painted" / "cells.tif", painted, "TZ")
    corrections = find_corrections(tmp_path / "painted", images, stack_bank.info.classes)
    segment_to_folder(segmenter, images, tmp_path / "new", QUIET, corrections=corrections)
    before, after = (imread(tmp_path / run / "stacks" / "cells.tif") for run in ("out", "new"))
    assert (after == np.where(painted == 255, before, painted)).all()
    again = segment_to_folder(segmenter, images, tmp_path / "new", QUIET, corrections=corrections)
    assert again.segmented == 0


def clip_of(path: Path, frames: int, **options: object) -> Path:
    return write_clip(path, list(scenes(frames, first=40)[0]), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output", "files"),
    [
        ("masks", ["stacks/clip.tif"]),
        ("overlay", ["videos/clip.mp4"]),
        ("both", ["stacks/clip.tif", "videos/clip.mp4"]),
        ("none", []),
    ],
)
def test_what_is_made_of_a_video(stack_bank: MemoryBank, tmp_path: Path, output: str, files: list[str]) -> None:
    times = [0, 1, 2, 5, 6]
    clip = clip_of(tmp_path / "clip.mkv", 5, times=times)
    images = find_images([str(clip)])
    config = replace(QUIET, video=VideoConfig(output))
    outcome = segment_to_folder(Segmenter(stack_bank), images, tmp_path / "out", config)
    assert outcome.whole == files
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for f in files for p in [tmp_path / "out" / f]) == files
    if "stacks/clip.tif" in files:
        assert (imread(tmp_path / "out" / "stacks" / "clip.tif") == stored_masks(tmp_path / "out", images)).all()
    if "videos/clip.mp4" in files:
        shown = opened_clip(tmp_path / "out" / "videos" / "clip.mp4")
        assert (len(shown), shown.size) == (5, (48, 64))
        assert shown.times == pytest.approx([time / 10 for time in times], abs=1e-4)
        for number in range(5):
            with Image.open(tmp_path / "out" / "overlays" / f"clip[t={number}].jpg") as picture:
                apart = np.abs(shown.read(number).astype(int) - np.asarray(picture))
            assert apart.mean() < 12  # colours are of half the resolution in the video


def test_an_overlay_video_is_left_where_nothing_is_new(stack_bank: MemoryBank, tmp_path: Path) -> None:
    images, segmenter = find_images([str(clip_of(tmp_path / "clip.mkv", 4))]), Segmenter(stack_bank)
    config = replace(QUIET, overlays=OverlayConfig("none"), video=VideoConfig("overlay"))
    segment_to_folder(segmenter, dict(list(images.items())[:3]), tmp_path / "out", config)
    path = tmp_path / "out" / "videos" / "clip.mp4"
    before = path.read_bytes()
    segment_to_folder(segmenter, dict(list(images.items())[:3]), tmp_path / "out", config)
    assert path.read_bytes() == before
    segment_to_folder(segmenter, images, tmp_path / "out", config)
    assert path.read_bytes() != before
    assert not (tmp_path / "out" / "overlays").exists()


def test_another_output_of_the_same_masks(stack_bank: MemoryBank, tmp_path: Path) -> None:
    images, segmenter = find_images([str(clip_of(tmp_path / "clip.mkv", 3))]), Segmenter(stack_bank)
    segment_to_folder(segmenter, images, tmp_path / "out", QUIET)
    outcome = segment_to_folder(segmenter, images, tmp_path / "out", replace(QUIET, video=VideoConfig("both")))
    assert (outcome.segmented, outcome.whole) == (0, ["stacks/clip.tif", "videos/clip.mp4"])


def test_annotated_frames_serve_the_rest(tiny_backbone: Backbone, tmp_path: Path) -> None:
    frames, masks = scenes(5)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.txt").write_text(CLASSES)
    clip = write_clip(tmp_path / "images" / "clip.mkv", list(frames))
    for number in (0, 3):
        save_mask(tmp_path / "masks" / f"clip[t={number}].png", masks[number])
    dataset = open_dataset(DataConfig(root=str(tmp_path)))
    assert (dataset[1].image == frames[3]).all()
    bank = built(dataset, tiny_backbone, tmp_path / "bank", input=InputConfig(size=None), bank=BankConfig(size=None))
    assert bank.info.sources == ("clip[t=0]", "clip[t=3]")
    assert segment_to_folder(Segmenter(bank), find_images([str(clip)]), tmp_path / "out", QUIET).segmented == 5


def test_a_damaged_frame_is_skipped_and_void_in_the_stack(
    stack_bank: MemoryBank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = clip_of(tmp_path / "clip.mkv", 5, g=1)
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data, (place, size) = bytearray(clip.read_bytes()), packets[2]
    for number in range(place + size // 2, place + size):
        data[number] ^= 0x5A
    clip.write_bytes(data)
    images = find_images([str(clip)])
    with pytest.raises(DataError, match=r"clip\.mkv\[t=2\]: can't be decoded"):
        segment_to_folder(Segmenter(stack_bank), images, tmp_path / "refused", QUIET)
    outcome = segment_to_folder(Segmenter(stack_bank), images, tmp_path / "out", QUIET, RunConfig(skip_bad=True))
    assert len(outcome.skipped) == 1
    found = imread(tmp_path / "out" / "stacks" / "clip.tif")
    assert [bool((plane == 255).all()) for plane in found] == [False, False, True, False, False]


def test_a_video_that_cannot_be_written_is_told_first(
    stack_bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = find_images([str(clip_of(tmp_path / "clip.mkv", 3))])
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(FungiSegError, match="none of the encoders"):
        segment_to_folder(Segmenter(stack_bank), images, tmp_path / "out", replace(QUIET, video=VideoConfig("overlay")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "memory", "why"),
    [("video", 0, "video.output is 'video'; it must be one of masks"), ("masks", -1, "video.memory is -1")],
)
def test_settings_that_cannot_be(output: str, memory: int, why: str) -> None:
    with pytest.raises(FungiSegError, match=why):
        VideoConfig(output, memory)


def test_by_the_program(stack: Path, tmp_path: Path) -> None:
    small = ["--backbone.name", "embedded", "--input.size", "64", "--bank.size", "null"]
    main(["build", "--data.root", str(stack), *small, "--out", str(tmp_path / "bank")])
    main(["segment", str(stack / "images"), "--bank", str(tmp_path / "bank"), "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 6
