"""What a folder of results calls its parts; nothing heavy is imported to know it."""

from __future__ import annotations

RECORD = "run.jsonl"  # settings of the run in the first line, then a line for each image
DRAFT, REPORT = ".draft", "report"
DRAFTS = ".large"  # what is known so far of images that are segmented piece by piece
STACKS, VIDEOS = "stacks", "videos"
FOLDERS = ("masks", "overlays", "scores", "confidence", "labels", "geojson", "rois", "polygons", STACKS, VIDEOS, REPORT)


def kinds_of_results() -> tuple[str, ...]:
    """The folders within a folder of results that hold no images to segment."""
    return (*FOLDERS, DRAFT)
