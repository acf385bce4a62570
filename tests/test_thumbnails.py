"""What the page shows of images: small ones with their masks, surroundings, and whole ones."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from fungi_seg import DataError
from fungi_seg.annotating import crop, picture, thumbnail
from fungi_seg.images import read_image, read_reduced, stretch_of, stretched, window_about

PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Light grey that rises to the right, by a little more downwards."""
    down, across = np.mgrid[:height, :width]
    shade = 60 + 130 * across / width + 40 * down / height
    return np.repeat(shade.round().astype(np.uint8)[..., None], 3, 2)


def saved(path: Path, image: np.ndarray, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif, quality=98)
    return path


def shown(data: bytes, kind: str = "JPEG") -> np.ndarray:
    picture = Image.open(BytesIO(data))
    assert picture.format == kind
    return np.asarray(picture).astype(int)


def near(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixel - colour) < 40).all())


@pytest.mark.parametrize(
    ("size", "expected"),
    [((600, 400), (256, 171)), ((300, 1200), (64, 256)), ((256, 10), (256, 10)), ((100, 120), (200, 240))],
)
def test_thumbnails_fit_into_their_square(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    path = saved(tmp_path / "a.png", smooth(*size))
    assert shown(thumbnail(path, PALETTE)).shape == (*expected, 3)


def test_a_thumbnail_shows_the_annotation_over_the_prediction(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", smooth(512, 512))
    prediction, annotation = np.zeros((512, 512), np.uint8), np.full((512, 512), -1, np.int16)
    prediction[100:300, 100:300] = 1
    prediction[:40] = 255  # unknown
    annotation[200:400, 200:400] = 2
    annotation[100:110, 300:310] = 0
    found = shown(thumbnail(path, PALETTE, prediction, annotation))
    plain = shown(thumbnail(path, PALETTE))
    assert near(found[75, 50], (255, 0, 0))  # the border of the prediction, and of the annotation
    assert near(found[150, 199], (0, 255, 0))
    assert near(found[125, 98], (255, 0, 0))
    assert near(found[125, 101], (0, 255, 0))  # within the prediction
    assert found[75, 75, 0] > plain[75, 75, 0] + 10  # a light fill
    assert found[75, 75, 1] < plain[75, 75, 1] - 10
    assert (np.abs(found[:15] - plain[:15]) < 6).all()
    assert (np.abs(found[220:] - plain[220:]) < 6).all()


def test_masks_may_be_smaller_than_their_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", smooth(512, 512))
    small = np.zeros((128, 128), np.uint8)
    small[32:64, 32:64] = 1
    large = small.repeat(4, 0).repeat(4, 1)
    assert thumbnail(path, PALETTE, small) == thumbnail(path, PALETTE, large)
    assert thumbnail(path, PALETTE, large, np.where(small == 1, 2, -1)) == thumbnail(path, PALETTE, 2 * large)


def test_dark_images_are_stretched(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", smooth(256, 256) // 8)
    assert stretch_of(read_image(path))
    assert shown(thumbnail(path, PALETTE)).max() > 240
    assert shown(crop(read_image(path), (100, 100, 116, 116))).max() > 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("side", "scale"), [(256, 4), (257, 2), (128, 8), (16, 8), (2000, 1)])
def test_large_jpegs_are_decoded_small(tmp_path: Path, side: int, scale: int, orientation: int) -> None:
    path = saved(tmp_path / "a.jpg", smooth(1024, 512), orientation)
    found, whole = read_reduced(path, side), read_image(path)
    assert found.shape == (whole.shape[0] // scale, whole.shape[1] // scale, 3)
    assert max(found.shape) >= min(side, 1024)
    expected = cv2.resize(whole, (found.shape[1], found.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - expected).max() <= 4


def test_other_formats_are_read_as_they_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", smooth(1024, 512))
    assert np.array_equal(read_reduced(path, 16), read_image(path))


def test_a_large_jpeg_is_not_decoded_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes, real = saved(tmp_path / "a.jpg", smooth(2048, 2048)), [], JpegImagePlugin.JpegImageFile.load

    def load(self: JpegImagePlugin.JpegImageFile) -> object:
        sizes.append(self.size)
        return real(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    thumbnail(path, PALETTE)
    assert set(sizes) == {(256, 256)}


@pytest.mark.parametrize("show", [lambda path: thumbnail(path, PALETTE), picture])
@pytest.mark.parametrize("data", [b"torn", b"\xff\xd8\xff\xe0torn"])
def test_files_that_are_no_images(tmp_path: Path, show: object, data: bytes) -> None:
    assert callable(show)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.jpg: can't be read as an image"):
        show(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"b\.jpg: no such image file"):
        show(tmp_path / "b.jpg")


def test_surroundings_of_a_patch() -> None:
    image = smooth(512, 512)
    image[200:216, 300:316] = (0, 0, 255)
    found = shown(crop(image, (300, 200, 316, 216)))
    assert found.shape == (96, 96, 3)
    blue = np.argwhere((found[..., 2] > 200) & (found[..., 0] < 60))
    assert np.abs(blue.mean(0) - 47.5).max() < 2  # in the middle
    left, top, right, bottom = window_about(image.shape, (0, 0, 16, 16))
    assert (left, top, right - left, bottom - top) == (0, 0, 176, 176)
    assert shown(crop(image[:40, :20], (0, 0, 16, 16))).shape == (96, 96, 3)


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("dark", [False, True])
def test_whole_images(tmp_path: Path, stretch: bool, dark: bool) -> None:
    image = smooth(300, 200) // (8 if dark else 1)
    expected = stretched(image, stretch_of(image)) if stretch else image
    assert (expected is image) == (not (stretch and dark))
    data, kind = picture(saved(tmp_path / "a.png", image, 6), stretch)
    assert kind == "image/png"
    assert shown(data, "PNG").tolist() == np.rot90(expected, -1).tolist()
    data, kind = picture(saved(tmp_path / "a.jpg", image, 6), stretch)
    assert kind == "image/jpeg"
    assert np.abs(shown(data) - np.rot90(expected, -1)).max() < (40 if stretch and dark else 6)


def test_colours_of_a_jpeg_stay_sharp(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::2] = (255, 0, 0)
    image[:, 1::2] = (0, 0, 255)
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, quality=98, subsampling=0)
    assert np.abs(shown(picture(path)[0]) - image).mean() < 8
