"""A folder of an object store: its files come here and go there whole, and its errors are told in one way."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fungi_seg.errors import FungiSegError, StoreError, reason
from fungi_seg.storage.addresses import CACHE, filesystem

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HUB = "hf"
BUSY = (429, 500, 502, 503, 504)
PAUSES = (1.0, 4.0, 16.0)  # seconds before a file of the hub, whose library doesn't, is asked for again
KEYS = {
    "s3": "the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "the environment variable GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
    HUB: "the environment variable HF_TOKEN, or hf auth login",
}


class Store:
    """A folder of an object store.

    Attributes:
        address: such as `s3://bucket/banks/nuclei`.

    Raises:
        MissingExtra: packages for it aren't installed.
        FungiSegError: not an address of a store.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self._scheme = address.partition("://")[0]
        self._system, self._root = filesystem(self.address)

    @property
    def one_by_one(self) -> bool:
        """Whether files can be changed one by one; a hub takes commits of many."""
        return self._scheme != HUB

    def read(self, name: str) -> bytes | None:
        """All of a small file; none where there is no such one.

        Raises:
            StoreError: the store refuses, or can't be reached, or has no such bucket.
        """
        with self._telling(name):
            try:
                self._system.invalidate_cache()
                return bytes(self._system.cat_file(self._path(name)))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def replace(self, name: str, data: bytes, before: bytes | None) -> bool:
        """Put a small file in the place of what was there `before`; false, and nothing done, if that is something else.

        On S3 the store itself compares, so that of two who replace at once one is told.
        """
        with self._telling(name):
            path, terms = self._path(name), {}
            if before is None:
                terms = {"mode": "create"}
            elif self._scheme == "s3":
                with suppress(FileNotFoundError):
                    terms = {"IfMatch": self._system.info(path, refresh=True)["ETag"]}
            if self.read(name) != before:
                return False
            try:
                self._put(path, data, terms)
            except Exception:
                found = self.read(name)
                if found == before:
                    raise
                return found == data  # it arrived, but the answer to it didn't
            return True

    def fetch(self, name: str, file: Path) -> bool:
        """Copy a file of the store to `file`; false where there is no such one. It may come in part if this is killed.

        Raises:
            StoreError: the store refuses or can't be reached, or the disk here is full.
        """
        with self._telling(name):
            pauses = list(PAUSES)
            while True:
                try:
                    self._system.get_file(self._path(name), str(file))
                    return True
                except FileNotFoundError:
                    return False
                except Exception as error:
                    if not pauses or not _busy(error):
                        raise
                    time.sleep(pauses.pop(0))

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the store, to be read from its beginning to its end."""
        with self._telling(name), self._system.open(self._path(name), "rb") as file:
            yield file

    def send(self, file: Path, name: str) -> None:
        """Copy a file of this machine to the store, in the place of what is there."""
        with self._telling(name):
            self._system.put_file(str(file), self._path(name))

    def names(self) -> list[str]:
        """Names of what lies in the folder itself, files and folders."""
        with self._telling():
            return [path.rstrip("/").rpartition("/")[2] for path in self._found("ls")]

    def sizes(self) -> dict[str, int]:
        """Bytes of all files at any depth by name, such as `a/b.npy`."""
        with self._telling():
            start = self._root.lstrip("/") + "/"
            found = {path.lstrip("/"): info for path, info in self._found("find").items()}
            return {path[len(start) :]: int(info["size"]) for path, info in found.items() if path.startswith(start)}

    def age(self, name: str) -> float:
        """Seconds since a file was put there, by the clock of this machine."""
        with self._telling(name):
            modified = self._system.modified(self._path(name))
            return time.time() - float(modified.timestamp())

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already don't matter."""
        for name in names:
            with self._telling(name), suppress(FileNotFoundError):
                self._system.rm_file(self._path(name))

    def _found(self, way: str) -> dict[str, dict[str, Any]]:
        """What `ls` or `find` says of the folder, by path; nothing of one that isn't there."""
        self._system.invalidate_cache()
        try:
            found = getattr(self._system, way)(self._root, detail=True)
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise
            return {}
        return found if isinstance(found, dict) else {info["name"]: info for info in found}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, path: str, data: bytes, terms: Mapping[str, Any]) -> None:
        try:
            self._system.pipe_file(path, data, **terms)
        except OSError as error:
            if error.errno != errno.ENOSYS:  # a store that speaks S3, but doesn't compare
                raise
            self._system.pipe_file(path, data)

    @contextmanager
    def _telling(self, name: str = "") -> Iterator[None]:
        """Whatever a library raises inside becomes a StoreError."""
        where = f"{self.address}/{name}".rstrip("/")
        try:
            yield
        except FungiSegError:
            raise
        except Exception as error:  # each library has its own
            raise StoreError(f"{where}: {self._told(error)}") from error

    def _told(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in DISK:
            return (
                f"can't be copied to this machine, for the disk is full ({error}); free some space, or name a folder "
                f"of another disk with the environment variable {CACHE}"
            )
        if _code(error) == "NoSuchBucket":
            return f"no such bucket ({reason(error)}); make it first, or correct the address"
        if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            keys = KEYS.get(self._scheme, "its credentials")
            return f"access is refused ({reason(error)}); who you are is said by {keys}"
        return (
            f"the store can't be reached or doesn't do what it should ({reason(error)}); see whether its address and "
            f"the network are right, and call the same again later"
        )


def _busy(error: BaseException) -> bool:
    """Whether the hub answered that it can't now."""
    return getattr(getattr(error, "response", None), "status_code", None) in BUSY


def _code(error: BaseException) -> str:
    """What S3 calls an error, which s3fs keeps as its cause."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else ""
