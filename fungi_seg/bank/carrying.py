"""A bank carried elsewhere and brought back: as one file, or as a folder of an object store."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fungi_seg.bank import bundle
from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.manifest import Entry, Manifest, parse_manifest
from fungi_seg.bank.mirror import AT_ONCE, local
from fungi_seg.bank.settings import MANIFEST
from fungi_seg.bank.writer import BankWriter, changing, check_target
from fungi_seg.errors import BankError
from fungi_seg.progress import prefetch
from fungi_seg.storage import Store, cache_folder, is_address

ONE_FILE = ".tar"


def exported(bank: BankContents, place: str | Path) -> Path | str:
    """See `MemoryBank.export`."""
    bank.check_files()
    if not is_address(place) or str(place).startswith("file://"):
        return bundle.pack(bank.manifest, bank.files, local(place))
    address = str(place).rstrip("/")
    if address.endswith(ONE_FILE):
        folder, _, name = address.rpartition("/")
        store = Store(folder)
        if name in store.names():
            raise BankError(f"{address}: is there already; name another file")
        with _folder() as own:
            store.send(bundle.pack(bank.manifest, bank.files, own / name), name)
        return address
    _copied(bank, Store(address))
    return address


def imported(source: str | Path, place: str | Path) -> Path:
    """See `MemoryBank.import_file`; the folder of the bank that was made."""
    path = local(place)
    if not is_address(source) or str(source).startswith("file://"):
        bundle.unpack(local(source), path, lambda manifest: _check(path, manifest))
        return path
    address = str(source).rstrip("/")
    if address.endswith(ONE_FILE):
        folder, _, name = address.rpartition("/")
        with _folder() as own:
            if not Store(folder).fetch(name, own / name):
                raise BankError(f"{address}: no such file; make one with fungi-seg bank export")
            bundle.unpack(own / name, path, lambda manifest: _check(path, manifest))
        return path
    _taken(address, path)
    return path


def _copied(bank: BankContents, store: Store) -> None:
    """The bank as a folder of a store, its manifest last; earlier states stay behind."""
    check_target(store.address, overwrite=False)
    for _ in prefetch(lambda file: store.send(file.path, file.entry.alone.file), bank.files.values(), AT_ONCE):
        pass
    if not store.replace(MANIFEST, bank.manifest.alone.text(), None):
        raise BankError(f"{store.address}: there is a bank already; name another folder")


def _taken(address: str, path: Path) -> None:
    """The bank in a folder of a store as one at `path`, each file checked; earlier states stay behind."""
    check_target(path, overwrite=False)
    store = Store(address)
    text = store.read(MANIFEST)
    if text is None:
        raise BankError(f"{address}: no memory bank there (no {MANIFEST})")
    manifest = parse_manifest(text, local(address) / MANIFEST)
    with changing(path) as writer:
        check_target(path, overwrite=False)  # once more: another process may have been faster
        for entry in {entry.file: entry for entry in manifest.entries()}.values():
            _take(store, entry, writer)
        _check(path, manifest.alone)
        writer.commit(manifest.alone)


def _take(store: Store, entry: Entry, writer: BankWriter) -> None:
    draft = writer.path / f".new-{uuid.uuid4().hex}"
    try:
        if not store.fetch(entry.file, draft):
            raise BankError(f"{store.address}/{entry.file}: a file of the bank is missing there; put it there again")
        with draft.open("rb") as source:
            if writer.stream(entry, source) != entry.alone:
                raise BankError(f"{store.address}/{entry.file}: damaged or cut off in the store; put it there again")
    finally:
        draft.unlink(missing_ok=True)


def _check(path: Path, manifest: Manifest) -> None:
    BankContents(path, manifest).check_files()


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder of the disk that copies lie on, removed in the end."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="file-", dir=cache_folder()) as own:
        yield Path(own)
