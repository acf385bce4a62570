"""Attacks: what reaches the server only to be refused, and what no answer tells."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from conftest import built
from fastapi import APIRouter
from PIL import Image
from served import SOON, app_of, ask, encoded, png, running
from trees import folder_tree

from fungi_seg import Backbone, BankConfig, DataConfig, InputConfig, MemoryBank, open_dataset
from fungi_seg.web import (
    LimitConfig,
    ServeConfig,
    Service,
    app as app_module,
    create_app,
    limits as limits_module,
    running as running_module,
)
from fungi_seg.web.guard import POLICY, SECURITY

SEGMENT = "/v1/segment"
PNG = {"content-type": "image/png"}
TOKEN = "a-token-of-the-test"
REMOTE = ServeConfig(host="0.0.0.0", token=TOKEN)
OUTSIDE = "http://192.0.2.7:8765"


@pytest.fixture(scope="module")
def app(bank: MemoryBank) -> Any:
    return app_of(bank.path)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An app with a page of two files, a link that leads out of them, and a route that changes something."""
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<title>page</title>")
    (static / "page.js").write_text("1;")
    (tmp_path / "secret.txt").write_text("secret")
    (static / "link.txt").symlink_to(tmp_path / "secret.txt")
    (static / "folder").symlink_to(tmp_path)
    monkeypatch.setattr(app_module, "STATIC", static)
    router = APIRouter(prefix="/ui/api")

    @router.post("/change")
    async def change() -> dict[str, bool]:
        return {"changed": True}

    @router.get("/fail")
    async def fail() -> None:
        raise RuntimeError("a secret of the code")

    return create_app(ServeConfig(), Service(None), page_router=router)


def asked(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    return asyncio.run(ask(app, method, path, **options))


def refused(response: httpx.Response, status: int, words: str = "") -> None:
    """An answer of one sentence, with all headers of security, and no word of the code."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"detail"}
    assert words in response.json()["detail"]
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text
    for name, value in SECURITY.items():
        assert response.headers[name] == value


# By which name, from which page


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.7:8765"),
        *("", "127.0.0.1:8765@evil.example", "127.0.0.1:99999999", "[::1", "evil.example, 127.0.0.1", "127.0.0.1/x"),
    ],
)
def test_another_name(app: Any, host: str) -> None:
    """A page whose name leads to this machine asks by that name."""
    for path in ("/", "/health", "/v1/bank", "/metrics", "/openapi.json", "/nothing"):
        refused(asked(app, "GET", path, headers={"host": host}), 403, "the server isn't called")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:9000", "LocalHost:8765", "[::1]:8765"])
def test_own_names(app: Any, host: str) -> None:
    own = host.lower()
    assert asked(app, "GET", "/health", headers={"host": own}).status_code == 200


def test_two_names(app: Any) -> None:
    headers = [("host", "127.0.0.1"), ("host", "evil.example")]
    refused(asked(app, "GET", "/health", headers=headers), 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8766"},
        {"origin": "http://127.0.0.1"},
        {"origin": "file://127.0.0.1:8765"},
        {"origin": "http://[broken"},
        {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_origin(page: Any, app: Any, headers: dict[str, str]) -> None:
    """A form or script of another page, in browsers that tell it by either header."""
    form = {"data": {"a": "b"}, "headers": headers}
    refused(asked(app, "POST", SEGMENT, **form), 403, "pages of other origins can't change anything here")
    own = headers | {"x-fungi-seg": "1", "content-type": "application/json"}
    refused(asked(page, "POST", "/ui/api/change", headers=own), 403, "pages of other origins")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8765", "https://127.0.0.1:8765"])
def test_the_own_origin(app: Any, origin: str) -> None:
    headers = PNG | {"origin": origin, "sec-fetch-site": "same-origin"}
    assert asked(app, "POST", SEGMENT, content=png(), headers=headers).status_code == 200


def test_pictures_and_scripts_for_other_pages(app: Any) -> None:
    for site in ("cross-site", "same-site"):
        refused(asked(app, "GET", "/v1/bank", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}), 403)
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert asked(app, "GET", "/v1/bank", headers=followed).status_code == 200


def test_the_page_shows_that_it_is_the_page(page: Any) -> None:
    own = {"x-fungi-seg": "1", "content-type": "application/json"}
    assert asked(page, "POST", "/ui/api/change", headers=own).json() == {"changed": True}
    refused(asked(page, "POST", "/ui/api/change", headers={"content-type": "application/json"}), 403, "X-Fungi-Seg")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"):
        wrong = {"x-fungi-seg": "1", "content-type": kind}
        refused(asked(page, "POST", "/ui/api/change", headers=wrong), 403, "Content-Type")


# The token


@pytest.fixture(scope="module")
def remote(bank: MemoryBank) -> Any:
    return app_of(bank.path, REMOTE)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": "Bearer "},
        {"authorization": f"Digest {TOKEN}"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + base64.b64encode(b"user:wrong").decode()},
        {"authorization": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()},
        {"cookie": "fungi_seg_8765=wrong"},
        {"cookie": "fungi_seg_8765="},
        {"cookie": f"other={TOKEN}"},
        {"cookie": '\x01"=;;;,'},
        {"x-fungi-seg": "1"},
    ],
)
def test_without_the_token(remote: Any, headers: dict[str, str]) -> None:
    for path in ("/v1/bank", "/metrics", "/openapi.json", "/nothing", "/", "/?token=wrong", f"/v1/bank?token={TOKEN}"):
        response = asked(remote, "GET", f"{OUTSIDE}{path}", headers=headers)
        refused(response, 401, "a token is needed")
        assert response.headers["www-authenticate"] == "Bearer"
    refused(asked(remote, "POST", f"{OUTSIDE}{SEGMENT}", content=png(), headers=PNG | headers), 401)


def test_with_the_token(remote: Any) -> None:
    """Programs show it; browsers get a cookie, and an address without it, once they opened what was printed."""
    for shown in (f"Bearer {TOKEN}", f"bearer {TOKEN}", "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()):
        assert asked(remote, "GET", f"{OUTSIDE}/v1/bank", headers={"authorization": shown}).status_code == 200
    entered = asked(remote, "GET", f"{OUTSIDE}/?a=1&token={TOKEN}&b=%26")
    assert (entered.status_code, entered.headers["location"]) == (303, "/?a=1&b=%26")
    parts = entered.headers["set-cookie"].split("; ")
    assert set(parts[1:]) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert asked(remote, "GET", f"{OUTSIDE}/v1/bank", headers={"cookie": parts[0]}).status_code == 200
    assert asked(remote, "GET", f"{OUTSIDE}/?token={TOKEN}").headers["location"] == "/"
    assert TOKEN not in entered.text


def test_the_redirect_leads_nowhere_else(remote: Any) -> None:
    for path in (f"//evil.example/?token={TOKEN}", f"/\\evil.example?token={TOKEN}", f"/x?token={TOKEN}"):
        response = asked(remote, "GET", OUTSIDE + path)
        assert response.status_code == 401
        assert "location" not in response.headers


def test_the_token_of_a_page_of_another_origin(remote: Any) -> None:
    headers = PNG | {"cookie": f"fungi_seg_8765={TOKEN}", "origin": "http://evil.example"}
    refused(asked(remote, "POST", f"{OUTSIDE}{SEGMENT}", content=png(), headers=headers), 403, "pages of other origins")


def test_what_watches_a_server_knows_no_token(remote: Any) -> None:
    assert asked(remote, "GET", f"{OUTSIDE}/health").status_code == 200
    assert asked(remote, "GET", f"{OUTSIDE}/ready").status_code == 200


def test_strangers_are_told_no_paths(tmp_path: Path) -> None:
    app = app_of(tmp_path / "hidden", REMOTE)
    shown = {"authorization": f"Bearer {TOKEN}"}
    refused(asked(app, "GET", f"{OUTSIDE}/ready"), 503, "no bank is loaded")
    refused(asked(app, "GET", f"{OUTSIDE}/ready", headers=shown), 503, "hidden")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "bank.json").write_text("{}")
    app = app_of(tmp_path / "hidden", REMOTE)
    assert asked(app, "GET", f"{OUTSIDE}/health").json()["problem"] is None
    assert "hidden" in asked(app, "GET", f"{OUTSIDE}/health", headers=shown).json()["problem"]


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/%2e%2e%2f%2e%2e%2fsecret.txt",
        "/static/..%5c..%5csecret.txt",
        "/static/....//....//secret.txt",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/link.txt",
        "/static/folder/secret.txt",
        "/static/%00",
        "/static/page.js%00.png",
        "/static/" + "a" * 10_000,
        "/static/%ff%fe",
        "/../secret.txt",
        "/secret.txt",
        "/v1/%00",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_paths_that_lead_out(page: Any, path: str) -> None:
    """As they stand: clients would resolve them."""

    async def sent() -> tuple[int, dict[bytes, bytes], bytes]:
        scope = {
            "type": "http",
            "method": "GET",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1")],
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
        }
        told: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            told.append(message)

        await page(scope, receive, send)
        return told[0]["status"], dict(told[0]["headers"]), b"".join(m.get("body", b"") for m in told[1:])

    status, headers, body = asyncio.run(sent())
    assert status == 404, body
    assert set(json.loads(body)) == {"detail"}
    assert b"secret" not in body
    assert headers[b"content-security-policy"] == POLICY.encode()


def test_the_page_itself(page: Any) -> None:
    for path, kind, text in (("/", "text/html", "<title>page</title>"), ("/static/page.js", "javascript", "1;")):
        response = asked(page, "GET", path)
        assert (response.status_code, response.text) == (200, text)
        assert kind in response.headers["content-type"]
        assert response.headers["cache-control"] == "no-cache"
        for name, value in SECURITY.items():
            assert response.headers[name] == value


def test_without_a_page(app: Any) -> None:
    assert asked(app, "GET", "/").json()["status"] == "UP"
    refused(asked(app, "GET", "/docs"), 404)


def test_a_mistake_of_ours_is_told_without_where(page: Any) -> None:
    refused(asked(page, "GET", "/ui/api/fail"), 500, "the server made a mistake; its log says more")


# Bodies


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large(bank: MemoryBank, declared: bool) -> None:
    """By what it says of itself, or as it arrives; nobody waits for the rest of it."""
    app = app_of(bank.path, ServeConfig(limits=LimitConfig(megabytes=1)))
    parts = [b"x" * (1 << 18)] * 5
    read: list[int] = []

    async def body() -> Any:
        for part in parts:
            read.append(len(part))
            yield part

    headers = PNG | ({"content-length": str(5 << 18)} if declared else {})
    for path in (SEGMENT, "/v1/explain?x=0&y=0", "/predict"):
        read.clear()
        response = asked(app, "POST", path, content=body(), headers=headers)
        refused(response, 413, "larger than 1 MiB")
        assert response.headers["connection"] == "close"
    form = {"files": {"file": ("a.png", b"x" * (5 << 18), "image/png")}}
    refused(asked(app, "POST", SEGMENT, **form), 413)


def test_a_form_of_too_many_parts(app: Any) -> None:
    refused(asked(app, "POST", SEGMENT, files=[("file", ("a", b"x"))] * 3), 400)
    refused(asked(app, "POST", SEGMENT, data={str(n): "x" for n in range(50)}, files={"file": ("a", b"x")}), 400)


def conversation(address: tuple[str, int], *parts: bytes) -> bytes:
    """What a server says to these bytes, until it ends the connection."""
    with socket.create_connection(address, SOON) as sock:
        for part in parts:
            try:
                sock.sendall(part)
            except OSError:  # it was ended already
                break
        found = b""
        try:
            while part := sock.recv(65536):
                found += part
        except ConnectionResetError:
            pass
        return found


def request(path: str, length: int, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: image/png", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(scope="module")
def hasty(bank: MemoryBank) -> Iterator[tuple[str, int]]:
    """A server that waits for nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_module, "HEAD_SECONDS", 0.2)
        config = ServeConfig(port=0, limits=LimitConfig(megabytes=1, upload_seconds=0.2))
        with running(app_of(bank.path, config), config) as address:
            yield address


@pytest.mark.parametrize("path", [SEGMENT, "/v1/explain?x=1&y=1", "/predict"])
def test_a_body_that_does_not_arrive(hasty: tuple[str, int], path: str) -> None:
    said = conversation(hasty, request(path, 1000), b"only this")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'{"detail":"the request\'s body didn\'t arrive within 0.2 seconds"}' in said
    assert b"connection: close" in said.lower()


@pytest.mark.parametrize("start", [b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_request_that_never_begins(hasty: tuple[str, int], start: bytes) -> None:
    assert conversation(hasty, start) == b""


def test_a_second_request_that_never_begins(hasty: tuple[str, int]) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    said = conversation(hasty, first, b"GET /health HTT")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "lines",
    [
        "X-Long: " + "a" * 200_000,
        "\r\n".join(f"X-{n}: {'b' * 1000}" for n in range(200)),
        "Content-Length: -1",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: nonsense",
        "Bad Header: 1",
    ],
)
def test_heads_that_are_too_large_or_no_heads(hasty: tuple[str, int], lines: str) -> None:
    said = conversation(hasty, f"POST {SEGMENT} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode())
    assert said.split(b" ")[1] in (b"400", b"413", b"415", b"501")
    assert b"Traceback" not in said


def test_a_body_that_says_it_is_too_large_is_not_waited_for(hasty: tuple[str, int]) -> None:
    assert conversation(hasty, request(SEGMENT, 2 << 20)).startswith(b"HTTP/1.1 413 ")
    assert conversation(hasty, request(SEGMENT, 2 << 20, "Expect: 100-continue")).startswith(b"HTTP/1.1 413 ")


def test_an_answer_that_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and goes to sleep is let go."""
    monkeypatch.setattr(running_module, "READ_SECONDS", 0.2)
    ended = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for moment in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{moment}.complete"})
            return
        await receive()
        left = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.done():
            await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
            await asyncio.sleep(0)
        assert left.result()["type"] == "http.disconnect"
        ended.set()

    with running(endless) as address, socket.create_connection(address, SOON) as sock:  # type: ignore[arg-type]
        sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert ended.wait(SOON)


def test_more_requests_than_fit(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MOST_AT_ONCE", 0)
    response = asked(app, "GET", "/health")
    refused(response, 503, "0 requests are being answered; come again")
    assert response.headers["retry-after"] == "1"


# Images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG that says it has `side`² pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10_000_000)) + chunk(b"IEND", b"")


def test_a_bomb(app: Any) -> None:
    """Refused by its header: nothing is decoded."""
    refused(asked(app, "POST", SEGMENT, content=bomb(20_000), headers=PNG), 422, "20000×20000 pixels")
    refused(asked(app, "POST", SEGMENT, content=bomb(2**31 - 1), headers=PNG), 422)
    tiff = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(tiff, "TIFF", compression="group4")
    refused(asked(app, "POST", SEGMENT, content=tiff.getvalue(), headers=PNG), 422, "20000×20000 pixels")
    jpeg = encoded(np.zeros((8, 8, 3), np.uint8), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    large = jpeg[:size] + struct.pack(">HH", 60_000, 60_000) + jpeg[size + 4 :]
    refused(asked(app, "POST", SEGMENT, content=large, headers=PNG), 422, "60000×60000 pixels")


def test_a_bomb_of_text(app: Any) -> None:
    """Compressed text beside the picture, which some libraries unpack."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 20_000_000))
    picture = png()
    refused(asked(app, "POST", SEGMENT, content=picture[:33] + text + picture[33:], headers=PNG), 422)


@pytest.mark.parametrize(
    "body",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) run\n%%EOF\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n" + b"\x02\x02\x00\x04" * 16,
        b"%PDF-1.4\n",
    ],
)
def test_formats_that_nobody_sends(app: Any, body: bytes) -> None:
    refused(asked(app, "POST", SEGMENT, content=body, headers=PNG), 422)


def test_a_picture_of_a_format_that_names_other_files(app: Any) -> None:
    for kind in ("PCX", "TGA", "SGI", "ICO"):
        body = encoded(np.zeros((64, 64, 3), np.uint8), kind)
        refused(asked(app, "POST", SEGMENT, content=body, headers=PNG), 422, f"it is {kind} inside")


def test_names_of_files_that_are_sent_lead_nowhere(app: Any, tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "a" * 10_000, "<script>", "a\0b", "'; DROP TABLE banks; --"):
        response = asked(app, "POST", SEGMENT, files={"file": (name, png(), "image/png")})
        assert response.status_code in (200, 400), response.text
        assert "DROP" not in response.text


# Names of classes


NAMES = ("<script>alert(1)</script>", "'; DROP TABLE rows; --", "a\r\nSet-Cookie: x=1", "é" * 10_000)


@pytest.fixture(scope="module")
def named(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """A bank whose classes are called to do harm."""
    folder = tmp_path_factory.mktemp("named")
    root = folder_tree(folder / "data", classes=3)
    data = open_dataset(DataConfig(root=str(root), split="train"))
    options = {"input": InputConfig(size=None), "bank": BankConfig(size=None)}
    bank = built(data, tiny_backbone, folder / "bank", **options)
    return bank.relabel(rename=dict(zip(bank.info.classes, NAMES, strict=False)))


def test_harmful_names_stay_names(named: MemoryBank) -> None:
    app = app_of(named.path)
    told = asked(app, "GET", "/v1/bank")
    assert told.headers["content-type"] == "application/json"
    assert [c["name"] for c in told.json()["classes"]] == list(NAMES[:3])
    mask = asked(app, "POST", SEGMENT, content=png(), headers=PNG)
    assert mask.status_code == 200
    assert json.loads(mask.headers["x-fungi-seg-classes"]) == list(NAMES[:3])
    assert "set-cookie" not in mask.headers
    assert asked(app, "POST", f"{SEGMENT}?output=rle", content=png(), headers=PNG).json()["classes"] == list(NAMES[:3])


def test_a_name_of_ten_thousand_characters(named: MemoryBank) -> None:
    long = named.relabel(rename={NAMES[0]: NAMES[3]})
    mask = asked(app_of(long.path), "POST", SEGMENT, content=png(), headers=PNG)
    assert mask.status_code == 200
    assert "x-fungi-seg-classes" not in mask.headers
