"""A folder of results: a stopped run goes on where it was, and another run's results are never half replaced."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

from fungi_seg.errors import FungiSegError, listing
from fungi_seg.files import replacing
from fungi_seg.images import image_sha256
from fungi_seg.progress import pausing
from fungi_seg.results.names import DRAFT, DRAFTS, FOLDERS, RECORD
from fungi_seg.results.records import ImageRecord
from fungi_seg.results.tables import IMAGES, OBJECTS

FORMAT = 1
COMPLETE, LOCK = "complete.json", ".segment.lock"
FILES = ("classes.txt", IMAGES, OBJECTS, "index.html", RECORD)


class ResultsFolder:
    """The results of many images in one folder; a context manager, of one process at a time.

    Where the folder holds results of the same settings, those images are done already. With `overwrite` a new run is
    written beside the old one, whose place it takes at the end.

    Args:
        out: the folder.
        settings: everything that the results depend on, as JSON can hold it.
        overwrite: what is there is replaced once all is done.

    Attributes:
        folder: where files are written until the end.

    Raises:
        FungiSegError: results of other settings, or what isn't a run's results at all; another process at work.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], overwrite: bool = False):
        self._out, self._settings, self._overwrite = out, json.loads(json.dumps(settings)), overwrite
        self.folder = out
        self._record: IO[bytes] | None = None
        self._known: dict[str, tuple[str, int]] = {}  # by name: the image's file, place in the record

    def __enter__(self) -> ResultsFolder:
        with self._errors():
            self._made = [path for path in (self._out, *self._out.parents) if not path.exists()]
            self._out.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._out / LOCK, timeout=0)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise FungiSegError(
                    f"{self._out}: another process is writing results there; wait, or name another folder"
                ) from error
        try:
            self._choose()
            self._open()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """Nothing stays of a run without a result."""
        if self._record:
            self._record.close()
        with suppress(OSError):
            (self._out / LOCK).unlink()
        self._lock.release()
        with suppress(OSError):  # a folder that holds something
            for folder in self._made:
                folder.rmdir()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def images(self) -> dict[str, Path]:
        """The files of all images in the folder, by name."""
        return {name: Path(self._known[name][0]) for name in sorted(self._known)}

    def missing(self, images: Mapping[str, Path], corrections: Mapping[str, Path] | None = None) -> dict[str, Path]:
        """Those of some images, by name, whose results aren't there.

        Args:
            images: files.
            corrections: mask files that take the place of predictions, by name.

        Raises:
            FungiSegError: results of another image of that name are there, or with another correction; what was to
                replace older results is made anew instead.
        """
        changed: list[str] = []
        recorrected: list[str] = []
        todo = {}
        for name, path in pausing(images.items()):
            if name not in self._known:
                todo[name] = path
                continue
            record = self._read(self._known[name][1])
            image, correction = image_sha256(path), digest_of((corrections or {}).get(name))
            if (image, correction) != (record.sha256, record.correction) and self.folder != self._out:
                todo[name] = path
            elif image != record.sha256:
                changed.append(f"{name!r}: of {record.file}, which isn't {path} as it is now")
            elif correction != record.correction:
                then, now = map(_of_correction, (record.correction, correction))
                recorrected.append(f"{name!r}: {then} then, {now} now")
            elif record.lost(self.folder):
                todo[name] = path
        for what, images_of in (("other images of the same name", changed), ("other corrections", recorrected)):
            if images_of:
                raise FungiSegError(
                    f"{self._out}: holds results of {what}:\n{listing(images_of)}\n"
                    f"--overwrite makes all results anew and then takes their place; or name another folder"
                )
        return todo

    def add(self, record: ImageRecord) -> None:
        """Keep the record of an image whose files are written."""
        with self._errors():
            sizes = tuple((self.folder / file).stat().st_size for file in record.files)
            record = replace(record, sizes=sizes)
            if not self._record:
                head = {"format": FORMAT, "settings": self._settings}
                self.folder.mkdir(exist_ok=True)
                self._record = (self.folder / RECORD).open("w+b")
                self._record.write(json.dumps(head, ensure_ascii=False).encode() + b"\n")
            place = self._record.seek(0, os.SEEK_END)
            self._record.write(record.to_json().encode() + b"\n")
            self._record.flush()
        self._known[record.name] = record.file, place

    def records(self) -> Iterator[ImageRecord]:
        """The records of all images in the folder, by name, one read after another."""
        for name in sorted(self._known):
            yield self._read(self._known[name][1])

    def lost(self) -> list[str]:
        """Files that are no longer there as they were written."""
        return [file for record in self.records() for file in record.lost(self.folder)]

    def finish(self) -> None:
        """All is written: where it was beside older results, take their place."""
        if self.folder == self._out:
            return
        if self._record:
            self._record.close()
        there = [name for name in (*FOLDERS, *FILES) if (self.folder / name).exists()]
        with replacing(self.folder / COMPLETE) as draft:
            draft.write_text(json.dumps(there), encoding="utf-8")
        self._take_place()
        self.folder = self._out

    def _take_place(self) -> None:
        """Move a complete draft into the place of older results; where that was stopped, the rest of it."""
        draft = self._out / DRAFT
        there = json.loads((draft / COMPLETE).read_text("utf-8"))
        for name in (*FOLDERS, *FILES):
            if name not in there or (draft / name).exists():  # else it was moved before
                _remove(self._out / name)
            if (draft / name).exists():
                os.replace(draft / name, self._out / name)
        _remove(self._out / DRAFTS)  # of the older run, if that was stopped
        shutil.rmtree(draft)

    def _choose(self) -> None:
        """Decide whether to begin, to go on, or to write beside what is there."""
        draft = self._out / DRAFT
        if (draft / COMPLETE).is_file():
            self._take_place()
        there = _settings_of(self._out / RECORD)
        if there is None:
            strange = [name for name in (*FOLDERS, *FILES) if name != RECORD and (self._out / name).exists()]
            if strange:
                raise FungiSegError(
                    f"{self._out}: holds {', '.join(strange)}, but no {RECORD}, so that these aren't known to be "
                    f"results of this command (or are those of an older release); name another folder, or move them"
                )
        elif self._overwrite:
            self.folder = draft
            if _settings_of(draft / RECORD) != self._settings:
                _remove(draft)
        elif there != self._settings:
            raise FungiSegError(
                f"{self._out}: holds results of other settings:\n{listing(_differences(there, self._settings))}\n"
                f"--overwrite makes all results anew and then takes their place; or name another folder"
            )

    def _open(self) -> None:
        """Read which images are done."""
        if not (self.folder / RECORD).is_file():
            return
        self._record = (self.folder / RECORD).open("r+b")
        self._record.readline()
        end = self._record.tell()
        for line in self._record:
            if not line.endswith(b"\n"):  # cut off when the run was stopped
                break
            with suppress(ValueError, FungiSegError):  # damaged: the image is segmented again
                record = ImageRecord.from_json(line)
                self._known[record.name] = record.file, end
            end += len(line)
        self._record.truncate(end)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FungiSegError(
                f"{self._out}: can't be written ({error}); free some space, or name another folder"
            ) from error

    def _read(self, place: int) -> ImageRecord:
        assert self._record is not None
        self._record.seek(place)
        return ImageRecord.from_json(self._record.readline())


def digest_of(correction: Path | None) -> str:
    """What a record keeps of a correction: its SHA-256, or nothing without one."""
    return image_sha256(correction) if correction else ""


def _of_correction(digest: str) -> str:
    return f"corrected by a mask of SHA-256 {digest[:8]}…" if digest else "not corrected"


def _settings_of(file: Path) -> Any:
    """The settings of the run that wrote a record; none where there is no record.

    Raises:
        FungiSegError: a file that isn't one, or of a later release.
    """
    try:
        with file.open("rb") as opened:
            head = json.loads(opened.readline())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FungiSegError(f"{file}: isn't the record of a run ({error}); name another folder, or move it") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT or "settings" not in head:
        raise FungiSegError(f"{file}: is the record of another release's run; name another folder, or move it")
    return head["settings"]


def _differences(there: Any, now: Any) -> list[str]:
    old, new = dict(_flat(there)), dict(_flat(now))
    names = [name for name in (*old, *(n for n in new if n not in old)) if old.get(name) != new.get(name)]
    said = [{name: str(value) for name, value in one.items()} for one in (old, new)]
    return [f"{name}: {said[0].get(name, 'nothing')} there, {said[1].get(name, 'nothing')} now" for name in names]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
