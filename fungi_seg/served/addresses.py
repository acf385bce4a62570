"""A Milvus server and what lies in it: addresses, and names of collections, which say whose rows they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from fungi_seg.errors import FungiSegError, MissingExtra, reason
from fungi_seg.search import without_password

SECONDS = 30.0  # within which a server must answer when it is first asked
ROW, KEY, IMAGE = "row", "key", "image"  # fields of a collection
LONGEST = 255 - 64 - 20  # characters of a name beside the seal and how rows are searched
FLAT, HNSW = "flat", "hnsw"


@dataclass(frozen=True)
class Address:
    """Where rows lie: `milvus://user:password@host:port/collection`, of which user and password may be left out.

    Attributes:
        uri: of the server, as pymilvus wants it.
        token: `user:password`, or that of `MILVUS_TOKEN`; empty where there is none.
        name: of the rows there, an alias of a collection.
    """

    uri: str
    token: str
    name: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Parse a URL.

        Raises:
            FungiSegError: it isn't one of Milvus.
        """
        wrong = FungiSegError(
            f"{without_password(url)!r} isn't an address of rows in Milvus, such as milvus://localhost:19530/nuclei; a "
            f"name is made of letters, digits and _, at most {LONGEST} of them, and begins with no digit"
        )
        try:
            found = urlsplit(url)
            port = found.port
        except ValueError as error:
            raise wrong from error
        name = found.path.removeprefix("/")
        if found.scheme != "milvus" or not (found.hostname and port) or found.query or found.fragment:
            raise wrong
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or len(name) > LONGEST:
            raise wrong
        user = f"{unquote(found.username)}:{unquote(found.password or '')}" if found.username else ""
        host = f"[{found.hostname}]" if ":" in found.hostname else found.hostname
        return cls(f"http://{host}:{port}", user or os.environ.get("MILVUS_TOKEN", ""), name)

    def __str__(self) -> str:
        return f"{self.uri.replace('http', 'milvus', 1)}/{self.name}"


@dataclass(frozen=True)
class Pushed:
    """A collection that holds all rows of one state of a bank; its own name says so, and an alias leads to it.

    Attributes:
        name: that of the alias.
        seal: of the bank's manifest.
        ef: rows that HNSW looks at for each query; 0 where all rows are compared.
    """

    name: str
    seal: str
    ef: int = 0

    @property
    def collection(self) -> str:
        """Its own name."""
        return f"{self.name}_{self.seal}_{f'{HNSW}{self.ef}' if self.ef else FLAT}"

    @classmethod
    def read(cls, name: str, collection: str) -> Pushed | None:
        """What a collection that the alias `name` leads to holds; none if it isn't one of these."""
        found = re.fullmatch(rf"{re.escape(name)}_([0-9a-f]{{64}})_(?:{FLAT}|{HNSW}([1-9][0-9]*))", collection)
        return cls(name, found[1], int(found[2] or 0)) if found else None


def client_of(address: Address) -> Any:
    """A client of the server.

    Raises:
        MissingExtra: no pymilvus.
        FungiSegError: nobody answers there, or not with this password.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise MissingExtra("milvus", error) from error
    with answered(address):
        return MilvusClient(address.uri, token=address.token, timeout=SECONDS)


@contextmanager
def answered(address: Address) -> Iterator[None]:
    """What the server refuses is an error that names it."""
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise FungiSegError(f"{address}: Milvus doesn't do what is asked ({reason(error)})") from error


def aliased(client: Any, address: Address) -> str | None:
    """The collection that the name of `address` leads to; none where there is no such name."""
    from pymilvus.exceptions import MilvusException

    with answered(address):
        if not client.has_collection(address.name):
            return None
        try:
            return str(client.describe_alias(address.name)["collection_name"])
        except MilvusException:
            if address.name in client.list_collections():  # somebody's own, and no alias
                return address.name
            raise
