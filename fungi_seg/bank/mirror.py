"""Banks in object stores: each has a copy on this machine, the mirror, which is brought up to date and published."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from fungi_seg.bank.manifest import Entry, Manifest, of_a_bank, parse_manifest
from fungi_seg.bank.revisions import files_of
from fungi_seg.bank.settings import MANIFEST
from fungi_seg.errors import BankError, FungiSegError, copy_of, listing
from fungi_seg.files import replacing, sha256
from fungi_seg.hardware import size_text
from fungi_seg.progress import prefetch
from fungi_seg.storage import Store, cache_folder, is_address

ADDRESS = "address.txt"
LOCK = "fetching.lock"
PART = re.compile(rf"shards/[^/]+/\d+-of-\d+/{re.escape(MANIFEST)}")
UNFINISHED = ".get-"
ATTEMPTS = 5
AT_ONCE = 8  # files on their way
LEFT_BEHIND = 86_400  # seconds after which a file that no bank names was left by a writer that was killed

log = logging.getLogger(__name__)


def local(place: str | Path) -> Path:
    """The folder on this machine for a bank: that folder itself, or the mirror of an address (`file://` has none).

    Raises:
        UsageError: an address that was made a `Path`.
    """
    if not is_address(place):
        return Path(place).expanduser()
    address = str(place).rstrip("/")
    if address.startswith("file://"):
        return Path(address[len("file://") :])
    name = re.sub(r"[^\w.-]", "_", address.rpartition("/")[2]).lstrip(".") or "bank"
    folder = _mirrors() / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    copy_of(str(folder), address)
    if not (folder.parent / ADDRESS).is_file():
        with replacing(folder.parent / ADDRESS) as draft:
            draft.write_text(address, encoding="utf-8")
    return folder


def mirror_at(folder: Path) -> Mirror | None:
    """The mirror in a folder; none where it is a folder like any other."""
    if folder.parent.parent != _mirrors():
        return None
    try:
        address = (folder.parent / ADDRESS).read_text(encoding="utf-8")
    except OSError:
        return None
    return Mirror(folder, Store(address)) if local(address) == folder else None


def _mirrors() -> Path:
    return cache_folder() / "banks"


class Mirror:
    """A copy of a bank that lies in a store; its files have the names they have there.

    Attributes:
        folder: the copy.
        store: where the bank is.
    """

    def __init__(self, folder: Path, store: Store):
        self.folder, self.store = folder, store

    def refresh(self) -> None:
        """Make the folder what the store holds now; only files that aren't here are fetched, each checked.

        Raises:
            StoreError: the store can't be reached.
            BankError: a file of the bank is missing there, or damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.parent / LOCK):  # of the processes here one fetches
            for attempt in range(ATTEMPTS):
                text = self.published()
                try:
                    self._become(text)
                    return
                except BankError:
                    if attempt == ATTEMPTS - 1 or self.published() == text:
                        raise  # otherwise it was changed while it was being fetched

    def published(self) -> bytes | None:
        """The manifest in the store; none where there is no bank."""
        return self.store.read(MANIFEST)

    def drop_damaged(self) -> bool:
        """Remove the files here that aren't what the manifest says; whether there were any."""
        with suppress(BankError, OSError):
            manifest = parse_manifest((self.folder / MANIFEST).read_bytes(), self.folder / MANIFEST)
            damaged = [e for e in manifest.entries() if self._is_here(e) and sha256(self._file(e)) != e.sha256]
            for entry in damaged:
                log.warning("%s: damaged on this disk; it is fetched again", self._file(entry))
                self._file(entry).unlink()
            return bool(damaged)
        return False

    def check_writable(self) -> None:
        """Raise unless files of the store can be replaced one by one."""
        if not self.store.one_by_one:
            raise BankError(
                f"{self.store.address}: a bank on a hub isn't changed in its place; fetch it with fungi-seg bank pull, "
                f"change that one, and publish it with fungi-seg bank push"
            )

    def publish(self, manifest: Manifest, base: bytes | None) -> None:
        """Put the bank of `manifest`, whose new files lie in the folder, into the store, its manifest last.

        What no state of the bank names any more is removed there at the end.

        Args:
            manifest: the changed bank.
            base: the published manifest that it was changed from; none of a new bank.

        Raises:
            BankError: the bank in the store isn't that of `base` any more, or files of it are gone. It is unchanged.
            StoreError: the store can't be reached. The bank there is unchanged.
        """
        before, after = self._named(base), files_of(self.folder, manifest)
        self._send([entry for name, entry in after.items() if name not in before and self._is_here(entry)])
        there = self.store.sizes()
        missing = [name for name, entry in after.items() if there.get(name) != entry.bytes]
        if missing and self.published() == base:
            raise BankError(f"{self.folder}: files of the bank are gone from the store:\n{listing(missing)}")
        if missing or not self.store.replace(MANIFEST, manifest.text(), base):
            raise BankError(
                f"{self.folder}: the bank was changed by someone else meanwhile, whose change stays; call the same "
                f"again, and it is made to the bank as it is now"
            )
        self._tidy(there, before, after)

    def fetch_manifest(self) -> bool:
        """Fetch the manifest alone; false where there is no bank."""
        text = self.published()
        if text is not None:
            with replacing(self.folder / MANIFEST) as draft:
                draft.write_bytes(text)
        return text is not None

    def fetch_parts(self) -> None:
        """Fetch what there is to know of all shards in the store, beside their keys, which stay there."""
        there = [name for name in self.store.sizes() if PART.fullmatch(name)]
        for file in self.folder.glob(f"shards/*/*/{MANIFEST}"):
            if file.relative_to(self.folder).as_posix() not in there:
                file.unlink()
        for name in there:
            part = Mirror((self.folder / name).parent, Store(f"{self.store.address}/{name.rpartition('/')[0]}"))
            text = part.published()
            if text is None:
                continue
            manifest = parse_manifest(text, part.folder / MANIFEST)
            tables = [segment.table for segment in manifest.segments]
            part._fetch([*tables, *([manifest.support] if manifest.support else [])])
            part.fetch_manifest()

    def problems(self) -> list[str]:
        """What is wrong with the files in the store, a line each; all of them are read."""
        found, there = [], self.store.sizes()
        for name, entry in sorted(self._named(self.published()).items()):
            if name not in there:
                found.append(f"{self.store.address}/{name}: missing in the store; put it there again")
                continue
            with self.store.opened(name) as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                found.append(f"{self.store.address}/{name}: damaged or cut off in the store; put it there again")
        return found

    def _become(self, text: bytes | None) -> None:
        here = self.folder / MANIFEST
        old = here.read_bytes() if here.is_file() else None
        before = self._here(old)
        if text is None:
            here.unlink(missing_ok=True)
        else:
            manifest = parse_manifest(text, here)
            self._fetch(manifest.entries())
            self._fetch_earlier(manifest)
            if text != old:
                with replacing(here) as draft:
                    draft.write_bytes(text)
        after = self._here(text)
        for name in before - after:
            (self.folder / name).unlink(missing_ok=True)

    def _here(self, text: bytes | None) -> set[str]:
        """Names of the files of a bank, as far as this folder knows them."""
        if text is None:
            return set()
        with suppress(BankError):
            return set(files_of(self.folder, parse_manifest(text, self.folder / MANIFEST)))
        return set()

    def _named(self, text: bytes | None) -> dict[str, Entry]:
        """All files of the bank in the store, of earlier states too."""
        if text is None:
            return {}
        manifest = parse_manifest(text, self.folder / MANIFEST)
        self._fetch(revision.manifest for revision in manifest.revisions)
        return files_of(self.folder, manifest)

    def _fetch_earlier(self, manifest: Manifest) -> None:
        """Files of the states that the bank can go back to; without them it can't, but it is whole."""
        for revision in manifest.revisions:
            try:
                self._fetch([revision.manifest])
                alone = parse_manifest(self._file(revision.manifest).read_bytes(), self._file(revision.manifest))
                self._fetch(alone.entries())
            except BankError as error:
                log.warning("%s; the bank can't go back to revision %d", error, revision.number)

    def _fetch(self, entries: Iterable[Entry]) -> None:
        wanted = list({entry.file: entry for entry in entries if not self._is_here(entry)}.values())
        if wanted:
            size = size_text(sum(entry.bytes for entry in wanted))
            log.info("%s: fetching %d files, %s", self.store.address, len(wanted), size)
        for _ in prefetch(self._fetch_one, wanted, AT_ONCE):
            pass

    def _fetch_one(self, entry: Entry) -> None:
        file = self._file(entry)
        draft = file.with_name(UNFINISHED + file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not self.store.fetch(entry.file, draft):
                raise BankError(f"{file}: a file of the bank is missing in the store; copy or build the bank again")
            if draft.stat().st_size != entry.bytes or sha256(draft) != entry.sha256:
                raise BankError(
                    f"{file}: damaged or cut off in the store (its size or SHA-256 isn't the manifest's); copy or "
                    f"build the bank again"
                )
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)

    def _send(self, entries: list[Entry]) -> None:
        if entries:
            size = size_text(sum(entry.bytes for entry in entries))
            log.info("%s: sending %d files, %s", self.store.address, len(entries), size)
        for _ in prefetch(lambda entry: self.store.send(self._file(entry), entry.file), entries, AT_ONCE):
            pass

    def _tidy(self, there: Iterable[str], before: Iterable[str], after: Iterable[str]) -> None:
        """Remove what the bank named until now, and what killed writers left; another's new files stay."""
        named, gone = set(after), set(before) - set(after)
        shards = _folders(before) - _folders(after)
        gone |= {name for name in there if name.rpartition("/")[0] in shards}
        try:
            unknown = [name for name in set(there) - named - gone if of_a_bank(name)]
            left = [name for name in unknown if self.store.age(name) > LEFT_BEHIND]
            self.store.remove([*sorted(gone), *left])
        except FungiSegError as error:
            log.warning("the bank is changed, but files that it doesn't need any more stay in the store: %s", error)

    def _file(self, entry: Entry) -> Path:
        return self.folder / entry.file

    def _is_here(self, entry: Entry) -> bool:
        file = self._file(entry)
        return file.is_file() and file.stat().st_size == entry.bytes


def _folders(names: Iterable[str]) -> set[str]:
    """The folders of shards that files lie in."""
    return {name.rpartition("/")[0] for name in names} - {""}
