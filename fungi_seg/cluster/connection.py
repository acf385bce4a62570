"""A connection to Ray: a private one of this machine, or a cluster that runs already."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from fungi_seg.cluster.nodes import Node, ask_each, check_versions, living_nodes
from fungi_seg.errors import FungiSegError, MissingExtra, UsageError, reason
from fungi_seg.hardware import cores

LOCAL, AUTO, CLIENT = "local", "auto", "ray://"
ANSWER_SECONDS = 10.0  # within which whatever listens at an address must answer
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns of a change to come
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "5",
    "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "10",
}
# what a server of gRPC, which Ray's are, answers at once with a frame of its own settings
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SETTINGS = 4


@dataclass(frozen=True)
class Connection:
    """A Ray that this process is connected to.

    Attributes:
        address: as it was given.
        nodes: machines that take part, at the time of the connection.
    """

    address: str
    nodes: list[Node]

    @property
    def remote(self) -> bool:
        """Whether this process only talks to a Ray elsewhere (Ray Client), so that tasks must be given from there."""
        return self.address.startswith(CLIENT)

    @property
    def cpus(self) -> int:
        """Cores of all nodes together."""
        return sum(node.cpus for node in self.nodes)


@dataclass
class _Held:
    connection: Connection
    users: int
    environment: Mapping[str, str]


_LOCK = threading.Lock()
_HELD: list[_Held] = []  # the connection that this process started here, if any


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """Connect to a Ray, for as long as the block runs.

    Inside another such block for the same address, or where `ray.init` was called before for it, that connection
    serves; only what was started here is shut down.

    Args:
        address: `local` starts a private Ray with the cores of this machine; `auto` finds the one that runs on this
            machine or is named in `RAY_ADDRESS`; `host:port` and `ray://host:port` (Ray Client) are those of a head.

    Raises:
        MissingExtra: without Ray.
        UsageError: no such address is possible.
        FungiSegError: nobody answers there; another version of Ray or Python there, or of fungi_seg, its feature code,
            torch or timm on a node; this process is connected to another Ray.
    """
    connection = _join(address)
    try:
        yield connection
    finally:
        _leave(connection)


def check_shared(connection: Connection, folder: str | Path) -> None:
    """Raise unless each node sees the folder of this machine, by a file with a token that each of them must read.

    Raises:
        FungiSegError: naming the node and the folder.
    """
    folder = Path(folder).expanduser().absolute()
    token = folder / f".shared-{uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token.write_text(token.name, encoding="utf-8")
    except OSError as error:
        raise FungiSegError(f"{folder}: can't be written ({reason(error)})") from error
    try:
        for node, seen in ask_each(connection.nodes, _reader(), str(token)):
            if seen != token.name:
                raise FungiSegError(
                    f"{folder}: isn't the same folder on node {node.host} ({node.id[:8]}) as here "
                    f"({seen or 'no such file there'}); all nodes must see it under this path, such as by NFS"
                )
    finally:
        with suppress(OSError):
            token.unlink()


def check_seen(connection: Connection, paths: Sequence[Path]) -> None:
    """Raise unless each node has these files and folders, under the paths that they have here.

    Raises:
        FungiSegError: naming the node and the path.
    """
    there = [str(path.expanduser().absolute()) for path in paths]
    for node, missing in ask_each(connection.nodes, _looker(), there):
        if missing:
            raise FungiSegError(
                f"{missing[0]}: isn't there on node {node.host} ({node.id[:8]}); all nodes must see the same files "
                f"under the same paths, such as by NFS"
            )


def _looker() -> Any:
    def look(paths: list[str]) -> list[str]:
        import os

        return [path for path in paths if not os.path.exists(path)]

    return look


def _reader() -> Any:
    def read(path: str) -> str:  # pickled by value: needs nothing on the node
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(error)

    return read


def _join(address: str) -> Connection:
    try:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import ray
    except ImportError as error:
        raise MissingExtra("ray", error) from error
    with _LOCK:
        if _HELD and ray.is_initialized():
            held = _HELD[0]
            if held.connection.address != address:
                raise FungiSegError(
                    f"this process is connected to the Ray {held.connection.address} already, so that it can't use "
                    f"{address}; end the first one, or give the same address"
                )
            held.users += 1
            return held.connection
        _HELD.clear()
        if ray.is_initialized():
            return _joined(ray, address)
        given = _start(ray, address)
        try:
            connection = Connection(address, living_nodes())
            if address != LOCAL:
                check_versions(connection.nodes)
        except BaseException:
            ray.shutdown()
            _forget(given)
            raise
        _HELD.append(_Held(connection, 1, given))
        return connection


def _leave(connection: Connection) -> None:
    import ray

    with _LOCK:
        for held in _HELD:
            if held.connection is connection:
                held.users -= 1
                if not held.users:
                    _HELD.clear()
                    ray.shutdown()
                    _forget(held.environment)


def _joined(ray: Any, address: str) -> Connection:
    """The connection that somebody else made in this process."""
    found = "" if ray.util.client.ray.is_connected() else ray.get_runtime_context().gcs_address
    if address not in (AUTO, found):
        raise FungiSegError(
            f"this process is connected to the Ray {found or 'of a client'} already, so that it can't use {address}; "
            f"give {AUTO} to use it, or call ray.shutdown() before"
        )
    connection = Connection(address, living_nodes())
    check_versions(connection.nodes)
    return connection


def _start(ray: Any, address: str) -> Mapping[str, str]:
    """Connect; what the environment has got for as long as it lasts."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        given = _use_own_token()
        try:
            ray.init(LOCAL, num_cpus=cores(), include_dashboard=False, **quiet)
        except BaseException:
            _forget(given)
            raise
        return given
    if address != AUTO:
        _knock(address)
    try:
        ray.init(address, **quiet)
    except ConnectionError as error:
        if address == AUTO:
            raise FungiSegError(
                "no Ray runs on this machine, nor does RAY_ADDRESS name one; start one (ray start --head), "
                f"name its head (host:port), or give {LOCAL}"
            ) from error
        said = " ".join(str(error).split())
        raise FungiSegError(f"{address}: no Ray answers there ({said[-400:]})") from error
    except Exception as error:  # Ray's and gRPC's of many kinds
        raise FungiSegError(_refusal(address, error)) from error
    return {}


def _refusal(address: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "auth" in said.lower():
        return (
            f"{address}: the Ray there asks for a token that this process hasn't; set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, as its head has them"
        )
    if "ersion" in said and "Python" in said:
        return f"{address}: {said} Install the same Ray and Python here and there"
    return f"{address}: Ray can't be used there ({type(error).__name__}: {said[:400]})"


def _use_own_token() -> dict[str, str]:
    """Have a private Ray take nobody's work but this process's; what the environment got for it."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(given)
    _read_token()
    return given


def _forget(given: Mapping[str, str]) -> None:
    for name in given:
        os.environ.pop(name, None)
    if given:
        _read_token()


def _read_token() -> None:
    """Make Ray read its token from the environment again, which it otherwise does once in a process."""
    with suppress(ImportError, AttributeError):  # older ones have none
        inside = import_module("ray._raylet")
        inside.Config.initialize("")
        inside.AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Raise unless something that may be a Ray answers: Ray itself waits for minutes, and then ends the process."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--cluster is {address!r}; it must be {LOCAL}, {AUTO}, host:port or {CLIENT}host:port of a head "
            f"(such as 10.0.0.1:6379 or {CLIENT}10.0.0.1:10001)"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as line:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            line.sendall(HELLO)
            said = line.recv(4)
    except OSError as error:
        raise FungiSegError(
            f"{address}: no Ray answers there ({reason(error)}); is it up (ray status), and is the port open?"
        ) from error
    if len(said) < 4 or said[3] != SETTINGS:
        raise FungiSegError(f"{address}: what answers there isn't a Ray; give the address that ray start printed")
