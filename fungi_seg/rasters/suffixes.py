"""Files and folders that are known by their suffixes, beside those of pictures."""

from __future__ import annotations

SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu")
ZARR_SUFFIXES = (".zarr",)
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")  # the last three of BigTIFFs
