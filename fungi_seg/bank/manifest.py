"""What a bank's folder holds: `bank.json` and the files it names. `memory_banks/README.md` describes the format."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load

from fungi_seg.bank.settings import KEY_DTYPES, MANIFEST
from fungi_seg.config import from_dict
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig
from fungi_seg.provenance import now, software

FORMAT, VERSION = "fungi-seg memory bank", 2
SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"\n}\n?\Z')
BLANK = "0" * 64
SHARD = "shard"  # in the record of how a bank was built: which part of another bank it holds the candidates of
HEADER = 1 << 16
NAME = re.compile(r"(keys|table|codes|support|index|ridge)-[0-9a-f]{16}\.(npy|safetensors)|revision-[0-9a-f]{16}\.json")
OF_SHARD = re.compile(r"shards/[0-9a-f]{12}/\d+-of-\d+/keys-[0-9a-f]{16}\.npy")
UNFINISHED = re.compile(r"\.new-[0-9a-f]+(\.\w+)?|\.tmp\w{6}")  # the latter: while safetensors writes
MOST_STORED = 2**31 - 1  # tables count stored keys in 32 bits


@dataclass(frozen=True)
class BankInfo:
    """What a bank says about itself, beside its rows.

    Attributes:
        classes: names; the index of a name is the class index.
        palette: `C` colours, RGB 0..255.
        sources: id of each image that rows may come from; `Rows.source` indexes it. Not those that were skipped:
            they are in `build` and in the history, and can be appended.
        backbone: what the features were computed with.
        fingerprint: of the backbone's weights.
        features, input: how.
        build: how the rows were chosen (size, epochs, seed, …) and from which data, for the record.
        dim: width of a key.
        created: time, ISO 8601, UTC.
        made_by: library versions.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    sources: tuple[str, ...]
    backbone: BackboneConfig
    fingerprint: str
    features: FeatureConfig
    input: InputConfig
    build: dict[str, Any]
    dim: int
    created: str
    made_by: dict[str, str]

    @property
    def token_width(self) -> int:
        """How many numbers of a key are the token; the others are the gradient, if there is one."""
        if self.features.kind == "plain":
            return self.dim
        return self.dim - ((self.features.projection_dim or 0) * (self.channels or 1) or self.dim // 2)

    @property
    def channels(self) -> int | None:
        """Channels that went through the backbone by themselves; none where images are RGB."""
        return int(self.build["channels"]) if self.input.joined else None


@dataclass(frozen=True)
class Entry:
    """A file of the bank: its name within the folder, its SHA-256 and its size in bytes."""

    file: str
    sha256: str
    bytes: int

    @property
    def alone(self) -> Entry:
        """The same file in a bank that has no shards."""
        return replace(self, file=self.file.rpartition("/")[2])


@dataclass(frozen=True)
class Segment:
    """Some rows of a bank.

    Attributes:
        keys: file with the keys, `[stored, …]`.
        table: file with the labels and origins of the rows that count, and which of the stored keys those are.
        rows: how many count.
        stored: how many keys the file holds.
        codes: file with the stored keys' codes for searching, if the bank carries an index.
    """

    keys: Entry
    table: Entry
    rows: int
    stored: int
    codes: Entry | None = None


@dataclass(frozen=True)
class Revision:
    """An earlier state of the bank that it can go back to.

    Attributes:
        number: how many entries the history had then.
        manifest: file with the manifest of that time; it names no revisions itself.
    """

    number: int
    manifest: Entry


@dataclass(frozen=True)
class Manifest:
    """All that `bank.json` says.

    Attributes:
        info: what the bank says about itself.
        keys: type of the keys that new rows get.
        segments: where the rows are, in order.
        support: file with the support set, if the features need one.
        index: file with what the codes are made with, its settings, if the bank carries an index.
        history: what was done with the bank, oldest first.
        class_pixels: labelled pixels of each class in the annotated images, before rows were chosen; none in banks from
            before they were counted.
        decoder: settings of the vote that were fitted on the bank, with what speaks for them, if any were.
        ridge: file with the normal equations of the regression that those settings name, if they name one.
        revisions: earlier states that are kept, oldest first.
        seal: SHA-256 of the text, hexadecimal.
    """

    info: BankInfo
    keys: str
    segments: tuple[Segment, ...]
    support: Entry | None = None
    index: Entry | None = None
    history: tuple[dict[str, Any], ...] = ()
    class_pixels: tuple[int, ...] | None = None
    decoder: dict[str, Any] | None = None
    ridge: Entry | None = None
    revisions: tuple[Revision, ...] = ()
    seal: str = field(default="", compare=False)

    def __len__(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def revision(self) -> int:
        """Number of this state of the bank: every change raises it by one, also one that goes back."""
        return len(self.history)

    def entries(self) -> Iterator[Entry]:
        """All files that this state of the bank is made of; those of earlier ones not."""
        for segment in self.segments:
            yield from (entry for entry in (segment.keys, segment.table, segment.codes) if entry)
        yield from (entry for entry in (self.support, self.index, self.ridge) if entry)

    def text(self) -> bytes:
        """What `bank.json` holds: JSON whose last member is the SHA-256 of the text with zeros in its place."""
        values = {"format": FORMAT, "version": VERSION, "rows": len(self)} | asdict(self) | {"sha256": BLANK}
        del values["seal"]
        blank = json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"
        before, after = blank.rsplit(BLANK.encode(), 1)
        return before + hashlib.sha256(blank).hexdigest().encode() + after


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bank at `path`.

    Raises:
        BankError: no bank there, another format, or a damaged manifest.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BankError(f"{path}: no memory bank there (no {MANIFEST}); make one with fungi-seg build --out {path}")
    try:
        text = file.read_bytes()
    except OSError as error:
        raise BankError(f"{file}: can't be read ({error})") from error
    return parse_manifest(text, file)


def parse_manifest(text: bytes, file: Path) -> Manifest:
    """The manifest in `text`; `file` is named in errors.

    Raises:
        BankError: another format, or damaged.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BankError(f"{file}: can't be read ({error}); build the bank again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise BankError(f"{file}: not the manifest of a memory bank")
    if values.get("version") != VERSION:
        raise BankError(
            f"{file}: format version {values.get('version')}; this release reads {VERSION}. "
            f"Open it with the release that made it, or build it again"
        )
    seal = SEAL.search(text)
    blank = text[: seal.start(1)] + BLANK.encode() + text[seal.end(1) :] if seal else b""
    if not seal or hashlib.sha256(blank).hexdigest().encode() != seal[1]:
        raise BankError(f"{file}: damaged or edited (its SHA-256 isn't the one it states); copy or build it again")
    try:
        manifest = Manifest(
            _info(values["info"]),
            _key_dtype(values["keys"]),
            tuple(_segment(value, file) for value in values["segments"]),
            _entry(values["support"], file),
            _entry(values["index"], file),
            tuple({**entry} for entry in values["history"]),
            _pixels(values.get("class_pixels"), len(values["info"]["classes"])),
            _record(values.get("decoder")),
            _entry(values.get("ridge"), file),
            _revisions(values.get("revisions", ()), len(values["history"]), file),
            seal[1].decode(),
        )
        expected = int(values["rows"])
    except BankError:
        raise
    except (FungiSegError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BankError(f"{file}: the manifest is incomplete or damaged ({error}); build the bank again") from error
    if len(manifest) != expected:
        raise BankError(f"{file}: its segments hold {len(manifest)} rows, the manifest says {expected}; build it again")
    if not expected and SHARD not in manifest.info.build:
        raise BankError(f"{file}: a bank without a row; build it again")
    return manifest


def _info(values: Mapping[str, Any]) -> BankInfo:
    nested = {"backbone": BackboneConfig, "features": FeatureConfig, "input": InputConfig}
    made = {k: from_dict(nested[k], v, k) if k in nested else v for k, v in values.items()}
    info = from_dict(BankInfo, made | {"palette": tuple(tuple(c) for c in values["palette"])}, "info")
    if not (isinstance(info.classes, tuple) and isinstance(info.sources, tuple) and isinstance(info.dim, int)):
        raise ValueError("classes and sources must be lists, dim a number")
    if not isinstance(info.build, dict):
        raise ValueError("build must hold settings by name")
    if info.input.joined and (type(info.build.get("channels")) is not int or info.dim % max(1, info.build["channels"])):
        raise ValueError("build must count the channels that are joined")
    if not all(isinstance(name, str) for name in (*info.classes, *info.sources)):
        raise ValueError("classes and sources must be names")
    colours = np.array(info.palette)
    if colours.shape != (len(info.classes), 3) or not ((colours >= 0) & (colours <= 255)).all():
        raise ValueError(f"palette must hold {len(info.classes)} colours")
    return info


def _key_dtype(value: Any) -> str:
    if value not in KEY_DTYPES:
        raise ValueError(f"keys must be one of {', '.join(KEY_DTYPES)}")
    return str(value)


def _pixels(values: Any, classes: int) -> tuple[int, ...] | None:
    if values is None:
        return None
    if len(values) != classes or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"class_pixels must be {classes} counts")
    return tuple(values)


def _record(values: Any) -> dict[str, Any] | None:
    if values is not None and not (isinstance(values, dict) and isinstance(values.get("settings"), dict)):
        raise ValueError("decoder must hold settings by name")
    return values


def _segment(values: Mapping[str, Any], file: Path) -> Segment:
    files = {key: _entry(values[key], file) for key in ("keys", "table", "codes")}
    segment = from_dict(Segment, {**values} | files, "segment")
    if not (segment.keys and segment.table and type(segment.rows) is type(segment.stored) is int):
        raise ValueError("a segment must name its keys and its table, and count their rows")
    if not 0 < segment.rows <= segment.stored <= MOST_STORED:
        raise ValueError(f"a segment can't have {segment.rows} rows of {segment.stored} stored keys")
    return segment


def _revisions(values: Any, present: int, file: Path) -> tuple[Revision, ...]:
    found = tuple(from_dict(Revision, {**v, "manifest": _entry(v["manifest"], file)}, "revision") for v in values)
    numbers = [revision.number for revision in found]
    sound = all(type(revision.number) is int and revision.manifest for revision in found)
    if not sound or sorted({*numbers}) != numbers:
        raise ValueError("revisions must be numbered, rising, each with its manifest")
    if numbers and not 0 <= numbers[0] <= numbers[-1] < present:
        raise ValueError(f"revisions must be earlier than {present}, the present one")
    return found


def _entry(values: Mapping[str, Any] | None, file: Path) -> Entry | None:
    if values is None:
        return None
    entry = from_dict(Entry, values, "file")
    if not isinstance(entry.file, str) or not (NAME.fullmatch(entry.file) or OF_SHARD.fullmatch(entry.file)):
        raise BankError(
            f"{file}: names the file {entry.file!r}, which is not a plain name within the bank such as "
            f"keys-0123456789abcdef.npy"
        )
    if not isinstance(entry.sha256, str) or type(entry.bytes) is not int:
        raise ValueError(f"{entry.file} needs a SHA-256 and a size")
    return entry


def of_a_bank(name: str) -> bool:
    """Whether a file name is one that only a writer of banks gives; none of them leads out of the folder."""
    return bool(NAME.fullmatch(name) or UNFINISHED.fullmatch(name))


class StoredFile:
    """A file of a bank, mapped into memory: it stays readable if a writer replaces the bank meanwhile."""

    def __init__(self, path: Path, entry: Entry):
        self.path, self.entry, self._checked = path / entry.file, entry, False
        try:
            if self.path.stat().st_size != entry.bytes:
                raise self._damaged()
            # torch keeps no file descriptor for a mapping: a bank may have more files than a process may have open
            mapped = torch.from_file(str(self.path), shared=False, size=entry.bytes, dtype=torch.uint8)
        except FileNotFoundError as error:
            raise BankError(
                f"{self.path}: a file of the bank is missing; copy the whole folder, or build it again"
            ) from error
        except (OSError, RuntimeError) as error:
            raise BankError(f"{self.path}: can't be read ({error}); copy or build it again") from error
        self._bytes: np.ndarray = mapped.numpy()
        self._bytes.setflags(write=False)

    def is_there(self) -> bool:
        """Whether a file of its name and size still lies where it was opened."""
        try:  # one look: between two, a writer may remove it
            return self.path.stat().st_size == self.entry.bytes
        except OSError:
            return False

    def check(self, again: bool = False) -> None:
        """Raise unless the contents are those that were written; done once, unless asked for `again`."""
        if again or not self._checked:
            if hashlib.sha256(self._bytes.data).hexdigest() != self.entry.sha256:
                raise self._damaged()
            self._checked = True

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a safetensors file, read into memory and checked."""
        self.check()
        try:
            return load(self._bytes.tobytes())
        except (SafetensorError, KeyError) as error:  # key: a type that numpy has not
            raise BankError(f"{self.path}: not a safetensors file of arrays ({error}); build the bank again") from error

    def array(self) -> np.ndarray:
        """The array of an npy file, on disk."""
        header = io.BytesIO(self._bytes[:HEADER].tobytes())
        try:
            if np.lib.format.read_magic(header) != (1, 0):
                raise ValueError("unknown version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
            if dtype.hasobject:
                raise ValueError("holds Python objects")
            return np.ndarray(shape, dtype, self._bytes, header.tell(), order="F" if fortran else "C")
        except Exception as error:  # whatever numpy's parser meets in a forged header
            raise BankError(f"{self.path}: not an npy file ({error}); build the bank again") from error

    def stream(self) -> IO[bytes]:
        """All its bytes, read into memory; they are those of the file that was opened, even if it is gone."""
        return io.BytesIO(self._bytes.data)

    def _damaged(self) -> BankError:
        return BankError(
            f"{self.path}: damaged or cut off (its size or SHA-256 isn't the manifest's); copy or build it again"
        )


def history_entry(action: str, rows: int, **details: Any) -> dict[str, Any]:
    """An entry of a bank's history: what was done, when, what came of it, and by which software."""
    return {"action": action, "time": now(), "rows": rows, **details, "made_by": software()}
