"""The elements of the lists in a JSON file of any length, of which no more is held than what is being parsed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fungi_seg.errors import DataError

CHUNK = 1 << 20  # bytes
MARGIN = 64  # an error so near to the end of what is held may be due to what isn't yet
BLANK = " \t\n\r"
BOM = b"\xef\xbb\xbf"
DECODER = json.JSONDecoder()


class Element(NamedTuple):
    """An element of a list.

    Attributes:
        key: the list's name.
        start: its first byte in the file.
        length: its bytes.
        value: the element itself.
    """

    key: str
    start: int
    length: int
    value: Any


def elements_of(path: Path, lists: Collection[str]) -> Iterator[Element]:
    """The elements of `lists`, members of the object that a JSON file holds, in the order of the file.

    Raises:
        DataError: not readable, no JSON, cut off, or a list that is missing.
    """
    try:
        with path.open("rb") as file:
            yield from _Text(path, file).elements(lists)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from error


class _Text:
    """The part of a file that is being parsed: a character stands for a byte, so that positions are bytes."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self._text, self._at, self._before, self._over = "", 0, 0, False
        self._fill()
        self._at = len(BOM) if self._text.startswith(BOM.decode("latin-1")) else 0

    def elements(self, lists: Collection[str]) -> Iterator[Element]:
        if self._peek() != "{":
            found = f"begins with {self._peek()!r}" if self._peek() else "is empty"
            raise DataError(f"{self._path}: must hold a JSON object, {{…}}, but {found}")
        self._take("{")
        seen = set()
        more = True
        while more:
            key = self._value()[2]
            self._take(":")
            if key in lists:
                seen.add(key)
                yield from self._list(key)
            else:
                self._value()
            more = self._take(",}") == ","
        if self._peek():
            raise self._fault(self._before + self._at, "more follows where it should end")
        missing = [key for key in lists if key not in seen]
        if missing:
            raise DataError(f"{self._path}: has no list called {', '.join(missing)}; it needs {', '.join(lists)}")

    def _list(self, key: str) -> Iterator[Element]:
        if self._peek() not in ("[", ""):
            raise DataError(f"{self._path}: {key!r} must be a list, but begins with {self._peek()!r}")
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        more = True
        while more:
            yield Element(key, *self._value())
            more = self._take(",]") == ","

    def _peek(self) -> str:
        """The next character that isn't blank, nothing at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in BLANK:
                    return self._text[self._at]
                self._at += 1
            if self._over:
                return ""
            self._fill()

    def _take(self, wanted: str) -> str:
        found = self._peek()
        if not found or found not in wanted:
            raise self._fault(self._before + self._at, f"{' or '.join(map(repr, wanted))} expected")
        self._at += 1
        return found

    def _value(self) -> tuple[int, int, Any]:
        """First byte, length and value of what comes next."""
        self._peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                if self._over or end + MARGIN <= len(self._text):
                    break
            except (ValueError, RecursionError) as error:
                at, what = getattr(error, "pos", self._at), getattr(error, "msg", str(error))
                if what.startswith("Unterminated string"):
                    at = len(self._text)
                if self._over or at + MARGIN <= len(self._text):
                    raise self._fault(self._before + at, what) from error
            self._fill()
        start, raw = self._before + self._at, self._text[self._at : end]
        self._at = end
        return start, len(raw), value if raw.isascii() else self._decoded(raw, start)

    def _decoded(self, raw: str, start: int) -> Any:
        try:
            return json.loads(raw.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._fault(start + error.start, "a text that isn't UTF-8") from error

    def _fill(self) -> None:
        """Drop what was parsed and read on, as much again as is left, so that long elements aren't begun too often."""
        new = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._text = self._text[self._at :] + new.decode("latin-1")
        self._before, self._at, self._over = self._before + self._at, 0, not new

    def _fault(self, at: int, what: str) -> DataError:
        """`what` is wrong at byte `at`, or the file ends too early."""
        size = self._file.seek(0, 2)
        self._file.seek(max(0, size - CHUNK))
        last = self._file.read().rstrip()
        if not last.endswith(b"}") or at >= size:
            return DataError(f"{self._path}: cut off at byte {size}; download or export it again")
        self._file.seek(0)
        read = self._file.read(at)
        line, column = read.count(b"\n") + 1, at - read.rfind(b"\n")
        return DataError(f"{self._path}: not JSON: {what}, line {line}, column {column} (byte {at}); export it again")
