"""Addresses of object stores and hubs, and what fsspec reaches them by."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import platformdirs

from fungi_seg.errors import FungiSegError, MissingExtra, UsageError

ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)
SQUEEZED = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")  # what a Path makes of an address
CACHE = "FUNGI_SEG_CACHE"  # environment variable
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def is_address(place: str | Path) -> bool:
    """Whether a place is an address such as `s3://bucket/name`; otherwise it is a file or folder of this machine.

    Raises:
        UsageError: a `Path` that was made of an address, or an address of nothing.
    """
    if isinstance(place, Path):
        if SQUEEZED.match(str(place)):
            raise UsageError(f"{place}: a Path takes a slash out of an address; give it as text")
        return False
    found = ADDRESS.fullmatch(place)
    if found and not found[2].strip("/"):
        raise UsageError(f"{place}: names no place there; give an address such as {found[1]}://bucket/banks/name")
    return found is not None


def filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        MissingExtra: packages for it aren't installed.
        FungiSegError: nothing here knows such addresses.
    """
    import fsspec

    scheme = address.partition("://")[0]
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        if scheme in EXTRAS:
            raise MissingExtra(EXTRAS[scheme], error) from error
        raise FungiSegError(f"{address}: fsspec needs another package for such addresses ({error})") from error
    except ValueError as error:
        raise FungiSegError(
            f"{address}: not an address of an object store ({error}); s3://, gs:// and hf:// are such ones, and "
            f"others that fsspec knows"
        ) from error
    return system, str(path).rstrip("/")


def cache_folder() -> Path:
    """Where copies of what lies in stores are kept on this machine."""
    given = os.environ.get(CACHE)
    place = Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("fungi-seg", appauthor=False))
    return place.absolute()
