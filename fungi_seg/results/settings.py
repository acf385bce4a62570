"""What is written of each image."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.errors import FungiSegError, check_choice
from fungi_seg.evaluation import CocoConfig
from fungi_seg.segmentation import (
    CONFIDENCE,
    MaskConfig,
    ObjectConfig,
    OverlayConfig,
    check_pixel_size,
    check_unknown,
)

POLYGONS = ("gpkg", "geojson")
OUTPUTS = ("masks", "overlay", "both", "none")


@dataclass(frozen=True)
class VideoConfig:
    """What is made of a whole video, beside the results of its frames, and whether frames help each other.

    Args:
        output: `masks` (a TIFF stack of all), `overlay` (a video that shows them), `both`, or `none`.
        memory: sure patches of so many frames before vote beside the bank's rows, in videos and in stacks along t;
            0 leaves each frame to the bank alone.
    """

    output: str = "masks"
    memory: int = 0

    def __post_init__(self) -> None:
        check_choice("video.output", self.output, OUTPUTS)
        if self.memory < 0:
            raise FungiSegError(f"video.memory is {self.memory}; it must be a number of frames from 0")


@dataclass(frozen=True)
class ResultsConfig:
    """What is written of each image.

    Args:
        masks: how masks are written.
        overlays: how images are shown with their masks.
        scores: write class scores.
        confidence: write the probability that each pixel's class is right, as `png` and `tiff`.
        unknown: confidence, 0..1, below which pixels get no class.
        objects: which regions are counted as objects; none are where not given.
        pixel_size: width of a pixel in micrometres, for lengths and areas of objects.
        coco: predictions as COCO results.
        report: write the page.
        polygons: write masks as polygons, too: `gpkg` and `geojson`.
        video: what is made of whole videos.
    """

    masks: MaskConfig = MaskConfig()
    overlays: OverlayConfig = OverlayConfig()
    scores: bool = False
    confidence: tuple[str, ...] = ()
    unknown: float | None = None
    objects: ObjectConfig | None = None
    pixel_size: float | None = None
    coco: CocoConfig = CocoConfig()
    report: bool = True
    polygons: tuple[str, ...] = ()
    video: VideoConfig = VideoConfig()

    def __post_init__(self) -> None:
        for suffix in self.confidence:
            check_choice("confidence", suffix, CONFIDENCE)
        for suffix in self.polygons:
            check_choice("polygons", suffix, POLYGONS)
        if self.unknown is not None:
            check_unknown(self.unknown)
        if self.pixel_size is not None:
            check_pixel_size(self.pixel_size)
            if self.objects is None:
                raise FungiSegError("pixel_size is of objects, which aren't asked for; ask for objects, too")
        if self.objects and (self.coco.instances or self.coco.min_area):
            raise FungiSegError(
                "coco.instances and coco.min_area change nothing beside objects, of which each becomes an entry; "
                "leave them out, and set object.min_area"
            )
