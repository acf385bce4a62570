"""TIFF files that several planes are read from: opened once, for what is in them takes long to list."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tifffile import TiffFile, TiffFrame, TiffPage

from fungi_seg.files import stamp
from fungi_seg.rasters.segments import Source
from fungi_seg.rasters.tiff_contents import contents

KEPT = 4  # files that stay open although nothing is read from them


class SharedTiff:
    """An open file.

    Args:
        path: of the file.

    Attributes:
        tiff: the file.
        contents: which pictures it holds.
        lock: held while the file is asked for pages.
        users: how many read from it.
    """

    def __init__(self, path: Path):
        self.tiff, self.lock, self.users = TiffFile(path), threading.RLock(), 0
        self._sources: dict[str, Source] = {}
        self._others: dict[str, TiffFile] = {}
        try:
            self.contents = contents(self.tiff)
        except BaseException:
            self.tiff.close()
            raise

    def own(self, page: TiffPage | TiffFrame) -> TiffPage | TiffFrame:
        """A page that can be read: itself, or that of another file that belongs to this one, which is opened."""
        if page.parent is self.tiff:
            return page
        path = page.parent.filehandle.path
        if path not in self._others:
            self._others[path] = TiffFile(path)
        return self._others[path].pages[page.index].aspage()

    def source(self, path: str) -> Source:
        """Bytes of the file, or of another that belongs to it."""
        with self.lock:
            if path not in self._sources:
                self._sources[path] = Source(Path(path))
            return self._sources[path]

    def rest(self) -> None:
        """Keep nothing that is decoded."""
        for source in self._sources.values():
            source.forget()

    def close(self) -> None:
        """End reading."""
        for file in (self.tiff, *self._others.values()):
            file.close()
        for source in self._sources.values():
            source.close()


_open: dict[tuple[object, ...], SharedTiff] = {}
_opening = threading.Lock()


@contextmanager
def shared_tiff(path: Path) -> Iterator[SharedTiff]:
    """A file that is open, the same for all who ask while it stays as it is.

    Raises:
        DataError: its axes can't be told. The message doesn't name the file.
        OSError and others: missing or damaged.
    """
    key = (path.absolute(), *stamp(path))
    with _opening:
        found = _open.pop(key, None) or SharedTiff(path)
        _open[key] = found
        found.users += 1
    try:
        yield found
    finally:
        with _opening:
            found.users -= 1
            if not found.users:
                found.rest()
            idle = [key for key, one in _open.items() if not one.users]
            for key in idle[: max(0, len(idle) - KEPT)]:
                _open.pop(key).close()
