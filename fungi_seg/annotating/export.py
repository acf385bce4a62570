"""What the page hands out: masks and tables of all images, as files and as one, and the bank."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fungi_seg.annotating.settings import ExportConfig
from fungi_seg.bank import MemoryBank
from fungi_seg.errors import FungiSegError
from fungi_seg.evaluation import CocoConfig
from fungi_seg.files import stamp
from fungi_seg.images import RunConfig
from fungi_seg.results import Outcome, ResultsConfig, segment_to_folder
from fungi_seg.segmentation import MaskConfig, ObjectConfig, OverlayConfig, Segmenter

COCO = "coco.json"
COCO_FILES = (COCO, "coco_images.json")
CHUNK = 1 << 20
LAST = "images.csv"  # is written when all images are
OWN_FILES = ("run.jsonl",)  # a record that names folders of this machine


@dataclass(frozen=True)
class ExportedFile:
    """A file that was exported.

    Attributes:
        name: relative to the folder, with slashes.
        bytes: its size.
    """

    name: str
    bytes: int


def export_results(
    segmenter: Segmenter,
    images: Mapping[str, Path],
    corrections: Mapping[str, Path],
    out: Path,
    config: ExportConfig | None = None,
) -> Outcome:
    """Segment all images, and write masks and what else is wanted in place of what was exported before.

    Args:
        segmenter: bank, decoder and index.
        images: files by name.
        corrections: masks that were painted, by the names of images; labelled pixels take the place of predictions.
            Those of images that are no longer there are left out.
        out: a folder of exports alone.
        config: what is written.

    Returns:
        What came of it; images that can't be used are skipped, and named there.

    Raises:
        FungiSegError: see `segment_to_folder`; confidence is asked for of a bank that wasn't fitted.
    """
    config = config or ExportConfig()
    results = ResultsConfig(
        MaskConfig(config.masks),
        OverlayConfig(config.overlays),
        confidence=("png",) if config.confidence else (),
        objects=ObjectConfig() if config.objects else None,
        coco=CocoConfig(str(out / COCO)) if config.coco else CocoConfig(),
        report=False,
    )
    painted = {name: file for name, file in corrections.items() if name in images}
    found = segment_to_folder(segmenter, images, out, results, RunConfig(skip_bad=True), True, painted)
    if not config.coco:
        for name in COCO_FILES:  # of an earlier export
            (out / name).unlink(missing_ok=True)
    return found


def exported_files(out: Path) -> list[ExportedFile]:
    """The files in a folder of exports, by name; none before a first export was complete."""
    found: list[ExportedFile] = []
    if not (out / LAST).is_file():
        return found
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and name.as_posix() not in OWN_FILES and path.is_file() and not path.is_symlink():
            found.append(ExportedFile(name.as_posix(), path.stat().st_size))
    return found


def zipped(out: Path) -> Iterator[bytes]:
    """The files in a folder of exports as a zip archive, part by part, so that it is never held as a whole.

    They aren't compressed, as most are already.

    Raises:
        FungiSegError: another export ended meanwhile; the archive ends before its list of files, and can't be opened.
    """
    sink, before = _Sink(), _stamps(out)
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for file in exported_files(out):
            member = zipfile.ZipInfo.from_file(out / file.name, file.name, strict_timestamps=False)
            with (out / file.name).open("rb") as read, archive.open(member, "w") as write:
                while part := read.read(CHUNK):
                    write.write(part)
                    yield sink.taken()
            yield sink.taken()
        if _stamps(out) != before:
            raise FungiSegError(f"{out}: was exported anew while its files were read; ask for them again")
    yield sink.taken()


def _stamps(out: Path) -> dict[str, list[int]]:
    return {file.name: stamp(out / file.name) for file in exported_files(out)}


class _Sink:
    """What an archive writes to; it can't go back, so that sizes follow the files."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def taken(self) -> bytes:
        """What was written since the last time."""
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def bank_file(bank: MemoryBank) -> tuple[int, Iterator[bytes]]:
    """A bank as one file (see `MemoryBank.export`): its size, and its bytes part by part.

    It lies on disk until the last part was taken, or nobody holds the parts any more.

    Raises:
        BankError: the bank is damaged, or the file can't be written.
    """
    folder = TemporaryDirectory(prefix="fungi-seg-")
    try:
        file = Path(bank.export(Path(folder.name) / "bank.tar"))
    except BaseException:
        folder.cleanup()
        raise
    return file.stat().st_size, _parts(file, folder)


def _parts(file: Path, folder: TemporaryDirectory[str]) -> Iterator[bytes]:
    with folder, file.open("rb") as opened:
        while part := opened.read(CHUNK):
            yield part
