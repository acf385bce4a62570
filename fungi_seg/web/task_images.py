"""The images that Label Studio's tasks name: in the request itself, below one folder, or at one server."""

from __future__ import annotations

import base64
import binascii
import json
import time
from http.client import HTTPException as ProtocolError
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fungi_seg.datasets import ImageFiles
from fungi_seg.errors import DataError, FungiSegError, reason
from fungi_seg.web.settings import ServeConfig, origin_of

CHUNK = 1 << 16
SECONDS = 10.0  # that the other server may be silent
REFRESH = "/api/token/refresh"


class TaskImages:
    """Opens images of tasks, and nothing else on this machine or its network.

    Args:
        folder: the images lie below it; none where there is no folder.
        config: names the Label Studio that images may be fetched from, and how large they may be.
    """

    def __init__(self, folder: Path | None, config: ServeConfig):
        self._folder, self._config, self._files = folder, config, None if folder is None else ImageFiles(folder)

    def open(self, address: str) -> BinaryIO:
        """The file of an image.

        Args:
            address: `data:image/…`, one of this machine's Label Studio (`/data/…`), or its full one.

        Raises:
            DataError: it isn't there, or leads elsewhere, or is too large.
        """
        if address.startswith("data:"):
            return BytesIO(_included(address))
        found = self._below_folder(address)
        if found is not None:
            if found.stat().st_size > self._config.limits.bytes:
                raise DataError(f"{found} is larger than {self._config.limits.megabytes} MiB")
            return found.open("rb")
        return BytesIO(self._fetched(address))

    def _below_folder(self, address: str) -> Path | None:
        """The file of that name below the folder; links that lead out of it don't count."""
        if self._folder is None:
            return None
        for again in (False, True):  # files may have been added
            self._files = ImageFiles(self._folder) if again or self._files is None else self._files
            try:
                found = self._files.find(address, suggest=False).resolve()
            except (DataError, ValueError, OSError):
                continue
            if found.is_relative_to(self._folder.resolve()):
                return found
        return None

    def _fetched(self, address: str) -> bytes:
        home = self._config.label_studio
        if home is None:
            where = f"below {self._folder}" if self._folder else "here, for no folder of images is served"
            raise DataError(
                f"the image {address!r:.200} isn't {where}, and no other server is asked; start with --label_studio "
                f"URL to have it fetched from there"
            )
        full = address if urlsplit(address).scheme else urljoin(f"{home.rstrip('/')}/", address.lstrip("/"))
        _check_origin(full, home)
        headers = {}
        if self._config.label_studio_key:
            headers["Authorization"] = self._authorization(home, self._config.label_studio_key)
        return self._read(Request(full, headers=headers), home)

    def _authorization(self, home: str, key: str) -> str:
        """Older keys are shown as they are; newer ones are exchanged for one of a few minutes."""
        if key.count(".") != 2:
            return f"Token {key}"
        body = json.dumps({"refresh": key}).encode()
        asked = Request(f"{home.rstrip('/')}{REFRESH}", body, {"Content-Type": "application/json"})
        try:
            return f"Bearer {json.loads(self._read(asked, home))['access']}"
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{home} doesn't take the key in LABEL_STUDIO_API_KEY") from error

    def _read(self, asked: Request, home: str) -> bytes:
        limit, until = self._config.limits.bytes, time.monotonic() + self._config.limits.upload_seconds
        body = bytearray()
        try:
            with build_opener(_StayingHome(home)).open(asked, timeout=SECONDS) as answer:
                while part := answer.read(CHUNK):
                    body += part
                    if len(body) > limit:
                        raise DataError(f"{asked.full_url:.200} is larger than {self._config.limits.megabytes} MiB")
                    if time.monotonic() > until:
                        raise DataError(f"{asked.full_url:.200} took too long to arrive")
        except HTTPError as error:
            hint = "; set LABEL_STUDIO_API_KEY to a key of its API" if error.code in (401, 403) else ""
            raise DataError(f"{asked.full_url:.200} can't be fetched: status {error.code}{hint}") from error
        except (URLError, OSError, ProtocolError, ValueError) as error:
            raise DataError(f"{asked.full_url:.200} can't be fetched ({reason(error)})") from error
        return bytes(body)


class _StayingHome(HTTPRedirectHandler):
    """Follows no answer that leads to another server."""

    def __init__(self, home: str):
        self._home = home

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        _check_origin(newurl, self._home)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_origin(address: str, home: str) -> None:
    try:
        same = origin_of(address) == origin_of(home)
    except FungiSegError:
        same = False
    if not same:
        raise DataError(f"the image {address!r:.200} lies at another server than {home}; no other one is asked")


def _included(address: str) -> bytes:
    """What a `data:` address holds."""
    head, comma, body = address.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise DataError(f"{address[:60]!r}… isn't data:image/…;base64,…")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the image in the request can't be decoded ({error})") from error
