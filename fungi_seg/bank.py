"""The memory bank on disk: write, open, check. `memory_banks/README.md` describes the format."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fungi_seg.backbones import Backbone, BackboneConfig, load_backbone
from fungi_seg.config import from_dict
from fungi_seg.errors import BankError, FungiSegError, listing
from fungi_seg.features import FeatureConfig, PatchFeatures
from fungi_seg.files import sha256
from fungi_seg.images import InputConfig
from fungi_seg.labels import SparseLabels
from fungi_seg.sampling import Rows

FORMAT, VERSION = "fungi-seg memory bank", 1
MANIFEST = "bank.json"
SHARD_ROWS = 65_536
SHARD_TYPES = {
    "keys": ("f2",),
    "label_offsets": ("i8",),
    "label_ids": ("u1", "u2"),
    "label_weights": ("u1",),
    "source": ("i4",),
    "epoch": ("i2",),
    "box": ("f4",),
}


@dataclass(frozen=True)
class BankInfo:
    """What a bank says about itself, beside its rows.

    Attributes:
        classes: names; the index of a name is the class index.
        palette: `C` colours, RGB 0..255.
        sources: id of each image that rows may come from; `Rows.source` indexes it.
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


class MemoryBank:
    """Labelled patch features: what a new image is compared with.

    Attributes:
        path: where it lies.
        info: what it says about itself.
        rows: keys, labels and origin of its `M` rows.
        support: `[S, D]` float32 plain embeddings that the features are contrasted with, if they ask for it.
    """

    def __init__(self, path: Path, info: BankInfo, rows: Rows, support: np.ndarray | None = None):
        self.path, self.info, self.rows, self.support = path, info, rows, support

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def open(cls, path: str | Path) -> MemoryBank:
        """Open a bank and verify its format, the SHA-256 of every file, and that the contents agree with each other.

        Raises:
            BankError: no bank there, another format, or a damaged or incomplete file.
        """
        path = Path(path).expanduser()
        manifest = _read_manifest(path)
        try:
            info = _info_from_json(manifest["info"])
            parts = [_rows_from_arrays(cls._load(path, entry), info, path) for entry in manifest["shards"]]
            support = None
            if manifest.get("support"):
                support = cls._load(path, manifest["support"])["keys"].astype(np.float32)
            rows = Rows.concatenate(parts)
            expected = int(manifest["rows"])
        except BankError:
            raise
        except (FungiSegError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise BankError(
                f"{path / MANIFEST}: the manifest is incomplete or damaged ({error}); build the bank again"
            ) from error
        if len(rows) != expected:
            raise BankError(f"{path}: the shards hold {len(rows)} rows, the manifest says {expected}; build it again")
        return cls(path, info, rows, support)

    @staticmethod
    def _load(path: Path, entry: Mapping[str, str]) -> dict[str, np.ndarray]:
        file = path / _plain_name(entry["file"], path)
        if not file.is_file():
            raise BankError(f"{file}: a file of the bank is missing; copy the whole folder, or build it again")
        if sha256(file) != entry["sha256"]:
            raise BankError(f"{file}: damaged or cut off (its SHA-256 isn't the manifest's); copy or build it again")
        try:
            return load_file(file)
        except SafetensorError as error:
            raise BankError(f"{file}: not a safetensors file ({error}); build the bank again") from error

    def patch_features(
        self, weights: str | None = None, device: str = "auto", dtype: str = "auto", backbone: Backbone | None = None
    ) -> PatchFeatures:
        """The features this bank was built with, ready for new images.

        Args:
            weights: local weights file, where it isn't where it was when the bank was built.
            device, dtype: where and in which arithmetic.
            backbone: one that is loaded already.

        Raises:
            BankError: the backbone's weights aren't those of the bank, or its features have another width.
        """
        if backbone is None:
            recorded = self.info.backbone
            config = replace(recorded, weights=weights or recorded.weights, device=device, dtype=dtype)
            try:
                backbone = load_backbone(**vars(config))
            except FungiSegError as error:
                raise BankError(
                    f"{self.path}: the bank's backbone can't be loaded. {error}\nWhere its weights lie elsewhere now: "
                    f"--weights FILE, or weights=FILE"
                ) from error
        self._check_backbone(backbone)
        support = None if self.support is None else torch.from_numpy(self.support)
        features = PatchFeatures(backbone, self.info.features, support)
        self.check_features(features)
        return features

    def check_features(self, features: PatchFeatures) -> None:
        """Raise unless `features` are those the bank was built with.

        Raises:
            BankError: another backbone, other settings, or another width.
        """
        self._check_backbone(features.backbone)
        if features.config != self.info.features:
            raise BankError(
                f"{self.path}: the bank was built with {self.info.features}, these features are {features.config}; "
                f"use bank.patch_features()"
            )
        if features.dim != self.info.dim:
            raise BankError(f"{self.path}: the bank's keys are {self.info.dim} wide, the features {features.dim}")
        if (
            self.support is not None
            and features.config.needs_support
            and not np.array_equal(features.support.cpu().numpy(), self.support)
        ):
            raise BankError(
                f"{self.path}: the features have another support set than the bank; use bank.patch_features()"
            )

    def _check_backbone(self, backbone: Backbone) -> None:
        if backbone.fingerprint != self.info.fingerprint:
            raise BankError(
                f"{self.path}: the bank was built with another backbone: {self.info.backbone.name!r}, fingerprint "
                f"{self.info.fingerprint[:12]}…; this one is {backbone.config.name!r}, {backbone.fingerprint[:12]}…. "
                f"Load the bank's own weights, or build a bank with this backbone"
            )

    def class_rows(self) -> np.ndarray:
        """`[C]` number of rows that hold each class."""
        return np.bincount(self.rows.labels.ids, minlength=len(self.info.classes))


@contextlib.contextmanager
def writing(path: Path, overwrite: bool = False) -> Iterator[BankWriter]:
    """A writer for the bank at `path`; what it wrote counts once `commit` was called, otherwise it is removed.

    A bank that was there stays whole until then: shards have new names, and the manifest is replaced in one step.

    Raises:
        BankError: a bank is there and `overwrite` is false, something else is there, or the disk is full.
    """
    path = path.expanduser()
    check_target(path, overwrite)
    writer = BankWriter(path)
    try:
        yield writer
    except OSError as error:
        writer.abandon()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _disk_full(path, error) from error
        raise
    except BaseException:
        writer.abandon()
        raise


def check_target(path: Path, overwrite: bool) -> None:
    """Raise if a bank can't be written to `path`: a bank is there and may not be replaced, or something else is."""
    path = path.expanduser()
    if (path / MANIFEST).exists():
        if not overwrite:
            raise BankError(f"{path}: there is a bank already; name another folder, or replace it with --overwrite")
    elif path.exists() and (not path.is_dir() or any(not _of_a_bank(file) for file in path.iterdir())):
        raise BankError(f"{path}: there is something else already; a bank needs a new or empty folder")


class BankWriter:
    """Writes shards beside whatever bank there is, and makes them the bank in one step."""

    def __init__(self, path: Path):
        self.path = path
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        self._files: list[Path] = []
        self._draft: Path | None = None
        probe = path / f".probe-{uuid.uuid4().hex}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            self._mode = probe.stat().st_mode & 0o777
            probe.unlink()
        except OSError as error:
            self.abandon()
            raise BankError(f"{path}: can't write there ({error}); name another folder with --out") from error

    def commit(self, info: BankInfo, rows: Rows, support: np.ndarray | None = None) -> None:
        """Write `rows`, and the support set if any, as the bank; files of the bank before it are removed last."""
        tag = uuid.uuid4().hex[:12]
        entries = []
        for number, start in enumerate(range(0, len(rows), SHARD_ROWS)):
            part = rows.take(np.arange(start, min(start + SHARD_ROWS, len(rows))))
            entries.append(self._save(f"rows-{tag}-{number:05d}.safetensors", _arrays_from_rows(part)))
        support_entry = None
        if support is not None:
            support_entry = self._save(f"support-{tag}.safetensors", {"keys": support.astype(np.float16)})
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "rows": len(rows),
            "shards": entries,
            "support": support_entry,
            "info": asdict(info),
        }
        draft = self.path / f".{MANIFEST}-{tag}"
        self._files.append(draft)
        with draft.open("x", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, ensure_ascii=False)
            os.fsync(file.fileno())
        self._draft = draft
        os.replace(draft, self.path / MANIFEST)
        keep = {entry["file"] for entry in [*entries, *([support_entry] if support_entry else [])]}
        for old in self.path.iterdir():
            if old.name not in keep and _of_a_bank(old):
                with contextlib.suppress(OSError):
                    old.unlink()

    def abandon(self) -> None:
        """Remove what was written, unless it has become the bank."""
        if self._draft and not self._draft.exists():  # it has become the manifest
            return
        for file in self._files:
            file.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> dict[str, str]:
        file = self.path / name
        self._files.append(file)
        try:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file)
        except SafetensorError as error:  # how the library reports a failed write
            raise _disk_full(self.path, error) from error
        file.chmod(self._mode)  # the library makes files that only their owner may read
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
        return {"file": name, "sha256": sha256(file)}


def _of_a_bank(file: Path) -> bool:
    """Whether a file has a name that only a writer of banks gives, such as what a killed build left."""
    return file.name.startswith((f".{MANIFEST}-", ".probe-")) or (
        file.suffix == ".safetensors" and file.name.startswith(("rows-", "support-"))
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).is_file():
        raise BankError(f"{path}: no memory bank there (no {MANIFEST}); make one with fungi-seg build --out {path}")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BankError(f"{path / MANIFEST}: can't be read ({error}); build the bank again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BankError(f"{path / MANIFEST}: not the manifest of a memory bank")
    if manifest.get("version") != VERSION:
        raise BankError(
            f"{path / MANIFEST}: format version {manifest.get('version')}; this release reads {VERSION}. "
            f"Open it with the release that made it, or build it again"
        )
    return manifest


def _info_from_json(values: Mapping[str, Any]) -> BankInfo:
    nested = {"backbone": BackboneConfig, "features": FeatureConfig, "input": InputConfig}
    made = {k: from_dict(nested[k], v, k) if k in nested else v for k, v in values.items()}
    info = from_dict(BankInfo, made | {"palette": tuple(tuple(c) for c in values["palette"])}, "info")
    if not (isinstance(info.classes, tuple) and isinstance(info.sources, tuple) and isinstance(info.dim, int)):
        raise ValueError("classes and sources must be lists, dim a number")
    if np.array(info.palette).shape != (len(info.classes), 3):
        raise ValueError(f"palette must hold {len(info.classes)} colours")
    return info


def _plain_name(name: str, path: Path) -> str:
    """A file name that can't lead out of the bank's folder."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise BankError(f"{path / MANIFEST}: names the file {name!r}, which is not a plain name within the bank")
    return name


def _rows_from_arrays(arrays: dict[str, np.ndarray], info: BankInfo, path: Path) -> Rows:
    for name, kinds in SHARD_TYPES.items():
        if name not in arrays or arrays[name].dtype.str[1:] not in kinds:
            raise BankError(f"{path}: a shard lacks {name!r} or holds it in another type; build the bank again")
    labels = SparseLabels(arrays["label_offsets"], arrays["label_ids"], arrays["label_weights"])
    rows = Rows(arrays["keys"], labels, arrays["source"], arrays["epoch"], arrays["box"])
    count, entries = len(rows.source), len(labels.ids)
    shapes = {"keys": (count, info.dim), "label_offsets": (count + 1,), "label_weights": (entries,),
              "epoch": (count,), "box": (count, 4)}  # fmt: skip
    odd = [
        f"{name} is {list(arrays[name].shape)}, not {list(s)}" for name, s in shapes.items() if arrays[name].shape != s
    ]
    if not odd and (labels.offsets[0] != 0 or labels.offsets[-1] != entries or (np.diff(labels.offsets) < 1).any()):
        odd.append("label_offsets don't fit label_ids")
    if entries and labels.ids.max() >= len(info.classes):
        odd.append(f"class id {labels.ids.max()} of {len(info.classes)} classes")
    if count and (rows.source.min() < 0 or rows.source.max() >= len(info.sources)):
        odd.append("a row names an image that isn't listed")
    if odd:
        raise BankError(f"{path}: the columns of a shard don't fit each other:\n{listing(odd)}\nBuild the bank again")
    return rows


def _arrays_from_rows(rows: Rows) -> dict[str, np.ndarray]:
    return {
        "keys": rows.keys,
        "label_offsets": rows.labels.offsets,
        "label_ids": rows.labels.ids,
        "label_weights": rows.labels.weights,
        "source": rows.source,
        "epoch": rows.epoch,
        "box": rows.box,
    }


def _disk_full(path: Path, error: Exception) -> BankError:
    return BankError(
        f"{path}: the bank can't be written ({error}). Free some space, lower bank.size, or name another "
        f"disk with --out; a bank that was there is unchanged"
    )
