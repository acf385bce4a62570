"""The backend for Label Studio: its protocol, brushed regions, and which images it opens."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from served import app_of, ask, png

from fungi_seg import MemoryBank, Segmenter
from fungi_seg.datasets.brush import brush_runs, brushed
from fungi_seg.errors import DataError
from fungi_seg.web import LimitConfig, ServeConfig
from fungi_seg.web.label_studio import labelling_of
from fungi_seg.web.task_images import TaskImages

CONFIG = """<View>
  <Image name="image" value="$photo" zoom="true"/>
  <BrushLabels name="tag" toName="image">
    <Label value="red" background="#f00"/>
    <Label value="Green things" alias="green"/>
    <Label value="unheard of"/>
  </BrushLabels>
</View>"""
TASK: dict[str, Any] = {
    "meta": {},
    "created_at": "2026-11-28T20:52:27.863522Z",
    "updated_at": "2026-11-28T20:52:27.863548Z",
    "is_labeled": False,
    "overlap": 1,
    "inner_id": 1,
    "total_annotations": 0,
    "cancelled_annotations": 0,
    "total_predictions": 0,
    "comment_count": 0,
    "unresolved_comment_count": 0,
    "last_comment_updated_at": None,
    "project": 2,
    "updated_by": None,
    "file_upload": 2,
    "comment_authors": [],
    "annotations": [],
    "predictions": [],
}
DATA_ADDRESS = "data:image/png;base64," + base64.b64encode(png()).decode()


def asked(app: Any, path: str, body: Any) -> httpx.Response:
    return asyncio.run(ask(app, "POST", path, json=body))


def predict(app: Any, *addresses: Any, config: str = CONFIG) -> httpx.Response:
    """As Label Studio 1.23.2 sends it."""
    tasks = [TASK | {"id": 7 + n, "data": {"photo": address}} for n, address in enumerate(addresses)]
    params = {"login": None, "password": None, "context": None}
    body = {"tasks": tasks, "project": "2.1795899147", "label_config": config, "params": params}
    return asked(app, "/predict", body)


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank) -> Segmenter:
    return Segmenter(bank.path)


@pytest.fixture(scope="module")
def app(bank: MemoryBank) -> Any:
    return app_of(bank.path)


# Run lengths


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_masks_as_run_lengths(mask: np.ndarray) -> None:
    """Read again by the reader, which is held against what Label Studio's own writer gives."""
    np.testing.assert_array_equal(brushed(brush_runs(mask), mask.shape), mask)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 40000])
def test_runs_of_every_width(length: int) -> None:
    """At the ends of what 3, 4, 8 and 16 bits hold, a pixel being four values."""
    mask = np.zeros((1, length + 7), bool)
    mask[0, 3 : 3 + length] = True
    np.testing.assert_array_equal(brushed(brush_runs(mask), mask.shape), mask)


def test_the_very_bytes_of_label_studio() -> None:
    """Of label_studio_sdk 2.1.2: converter.brush.mask2rle(mask * 255)."""
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    mask[5, 8] = True
    ours = brush_runs(mask)
    assert MASK2RLE.startswith(ours)
    assert not any(MASK2RLE[len(ours) :])


MASK2RLE = bytes.fromhex("000000d8391bfe2b00c27ff7c0309ffdf00c27ff92c023ff00")


# The protocol


def test_connecting(app: Any, bank: MemoryBank) -> None:
    health = asyncio.run(ask(app, "GET", "/health")).json()
    assert (health["status"], health["model_class"]) == ("UP", "Segmenter")
    body = {"project": "2.1795899147", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
    body |= {"extra_params": None}
    response = asked(app, "/setup", body)
    assert response.json() == {"model_version": f"fungi-seg bank revision {bank.revision}"}


def test_a_prediction(app: Any, segmenter: Segmenter, bank: MemoryBank) -> None:
    response = predict(app, DATA_ADDRESS)
    assert response.status_code == 200, response.text
    told, mask = response.json(), segmenter.predict(png()).mask
    (prediction,) = told["results"]
    assert prediction["model_version"] == told["model_version"] == f"fungi-seg bank revision {bank.revision}"
    assert 0 < prediction["score"] <= 1
    found = {region["value"]["brushlabels"][0]: region for region in prediction["result"]}
    assert found.keys() == {name for name in ("red", "green") if (mask == bank.info.classes.index(name)).any()} != set()
    for name, region in found.items():
        assert {k: region[k] for k in ("from_name", "to_name", "type", "image_rotation")} == {
            "from_name": "tag",
            "to_name": "image",
            "type": "brushlabels",
            "image_rotation": 0,
        }
        assert (region["original_width"], region["original_height"]) == mask.shape[::-1]
        assert region["value"]["format"] == "rle"
        np.testing.assert_array_equal(
            brushed(bytes(region["value"]["rle"]), mask.shape), mask == bank.info.classes.index(name)
        )
        assert 0 < region["score"] <= 1


def test_several_tasks_in_order(app: Any, segmenter: Segmenter) -> None:
    images = [png(seed) for seed in range(3)]
    response = predict(app, *("data:image/png;base64," + base64.b64encode(image).decode() for image in images))
    for prediction, image in zip(response.json()["results"], images, strict=True):
        mask = segmenter.predict(image).mask
        whole = sum(brushed(bytes(r["value"]["rle"]), mask.shape).sum() for r in prediction["result"])
        assert whole == (mask > 0).sum()


def test_without_a_bank(tmp_path: Path) -> None:
    app = app_of(tmp_path / "none")
    assert predict(app, DATA_ADDRESS).status_code == 503
    assert asked(app, "/setup", {"schema": CONFIG}).status_code == 503


CLASSES = ("background", "red", "green")


def test_labels_by_value_and_alias() -> None:
    found = labelling_of(CONFIG, CLASSES)
    assert (found.from_name, found.to_name, found.key) == ("tag", "image", "photo")
    assert found.labels == {1: "red", 2: "green"}
    swapped = CONFIG.replace('alias="green"', 'alias="other"').replace("Green things", "green")
    assert labelling_of(swapped, CLASSES).labels == {1: "red", 2: "other"}


def test_the_brushes_that_know_a_class() -> None:
    other = '<BrushLabels name="first" toName="image"><Label value="cat"/></BrushLabels></View>'
    assert labelling_of(CONFIG.replace("</View>", other), CLASSES).from_name == "tag"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("<View", "isn't XML"),
        ("", "isn't XML"),
        ("a\0b", "isn't XML"),
        ("<View/>", "has no <BrushLabels>"),
        ('<View><RectangleLabels name="a" toName="b"/></View>', "has no <BrushLabels>"),
        (CONFIG.replace("red", "cat").replace("green", "dog"), "is a class of the bank"),
        (CONFIG.replace('value="$photo"', 'valueList="$photos"'), "on an <Image> of one value"),
        (CONFIG.replace('toName="image"', 'toName="other"'), "on an <Image> of one value"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "declares a document type"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><View/>', "declares a document type"),
    ],
)
def test_configurations_that_are_of_no_use(app: Any, config: str, words: str) -> None:
    for path, body in (
        ("/setup", {"schema": config}),
        ("/predict", {"label_config": config, "tasks": [{"id": 1, "data": {"photo": DATA_ADDRESS}}]}),
    ):
        response = asked(app, path, body)
        assert response.status_code == 422
        assert words in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "tasks"),
        ({"tasks": 3, "label_config": CONFIG}, "tasks"),
        ({"tasks": [{"id": 1}], "label_config": CONFIG}, "data"),
        ({"tasks": [{"id": 1, "data": {}}], "label_config": CONFIG}, "task 1: its data has no address"),
        ({"tasks": [{"data": {"photo": 3}}], "label_config": CONFIG}, "task 0: its data has no address"),
        ({"tasks": [{"id": 1, "data": {"photo": "x.png"}}], "label_config": CONFIG}, "no folder of images is served"),
        ({"tasks": [], "label_config": "x" * 2_000_000}, "label_config"),
    ],
)
def test_requests_that_are_of_no_use(app: Any, body: Any, words: str) -> None:
    response = asked(app, "/predict", body)
    assert response.status_code == 422
    assert words in response.json()["detail"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("data:text/html;base64,PGI+", "isn't data:image"),
        ("data:image/png,abc", "isn't data:image"),
        ("data:image/png;base64,%%%", "can't be decoded"),
        ("data:image/png;base64,aGVsbG8=", "no format that is read"),
    ],
)
def test_images_in_the_request_that_are_none(app: Any, address: str, words: str) -> None:
    response = predict(app, address)
    assert response.status_code == 422
    assert "task 7: " in response.json()["detail"]
    assert words in response.json()["detail"]


# Images below the folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, and beside the folder one that links lead to."""
    inside = tmp_path / "images"
    (inside / "deep").mkdir(parents=True)
    (inside / "a b.png").write_bytes(png(1))
    (inside / "deep" / "c.png").write_bytes(png(2))
    (tmp_path / "secret.png").write_bytes(png(9))
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    return inside


@pytest.mark.parametrize(
    ("address", "seed"),
    [
        ("/data/local-files/?d=images/a%20b.png", 1),
        ("/data/local-files/?d=images/deep/c.png", 2),
        ("/data/upload/3/0a1b2c3d-a_b.png", 1),
        ("/data/upload/3/0a1b2c3d-c.png", 2),
        ("a b.png", 1),
    ],
)
def test_images_of_the_folder(folder: Path, address: str, seed: int) -> None:
    with TaskImages(folder, ServeConfig()).open(address) as file:
        assert file.read() == png(seed)


def test_images_that_are_added(folder: Path) -> None:
    images = TaskImages(folder, ServeConfig())
    with pytest.raises(DataError, match="isn't below"):
        images.open("new.png")
    shutil.copy(folder / "a b.png", folder / "new.png")
    with images.open("new.png") as file:
        assert file.read() == png(1)


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=../secret.png",
        "/data/local-files/?d=/etc/passwd",
        "/data/local-files/?d=..%2f..%2fsecret.png",
        "../secret.png",
        "file:///etc/passwd",
        "/data/local-files/?d=link.png",
        "link.png",
        "a\0b.png",
        "a" * 10_000 + ".png",
        "",
        "/data/local-files/?d=",
    ],
)
def test_what_lies_outside_the_folder(folder: Path, address: str) -> None:
    with pytest.raises(DataError, match="isn't below"):
        TaskImages(folder, ServeConfig()).open(address)


def test_a_file_that_is_too_large(folder: Path) -> None:
    (folder / "large.png").write_bytes(b"x" * (1 << 20) + b"x")
    with pytest.raises(DataError, match="is larger than 1 MiB"):
        TaskImages(folder, ServeConfig(limits=LimitConfig(megabytes=1))).open("large.png")


# Images of one other server


@pytest.fixture
def studio() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A server like Label Studio: its address, and what it was asked."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            here = f"http://127.0.0.1:{self.server.server_address[1]}"
            moved = {"/away": "http://evil.example/x.png", "/file": "file:///etc/passwd", "/moved": f"{here}/image.png"}
            if self.path in moved:
                self.send_response(302)
                self.send_header("Location", moved[self.path])
                self.end_headers()
                return
            if self.path == "/private":
                self.send_error(401)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (3 << 20) if self.path == "/large" else png(4))

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            seen.append((self.path, json.loads(self.rfile.read(length))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"access": "short-lived"}')

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def images_of(home: str, key: str | None = None) -> TaskImages:
    return TaskImages(None, ServeConfig(label_studio=home, label_studio_key=key, limits=LimitConfig(megabytes=1)))


@pytest.mark.parametrize("address", ["/image.png", "/data/upload/1/x.png", "{home}/image.png", "/moved"])
def test_images_that_are_fetched(studio: Any, address: str) -> None:
    home, seen = studio
    with images_of(home, "key").open(address.format(home=home)) as file:
        assert file.read() == png(4)
    assert all(headers["authorization"] == "Token key" for _, headers in seen)


def test_a_key_that_is_exchanged(studio: Any) -> None:
    home, seen = studio
    with images_of(home, "head.body.sign").open("/image.png") as file:
        assert file.read() == png(4)
    assert seen[0] == ("/api/token/refresh", {"refresh": "head.body.sign"})
    assert seen[1][1]["authorization"] == "Bearer short-lived"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://evil.example/x.png", "lies at another server"),
        ("http://169.254.169.254/latest/meta-data", "lies at another server"),
        ("{home}.evil.example/x.png", "lies at another server"),
        ("{home}@evil.example/x.png", "lies at another server"),
        ("http://localhost/x.png", "lies at another server"),
        ("https{rest}/x.png", "lies at another server"),
        ("//evil.example/x.png", None),
        ("file:///etc/passwd", "lies at another server"),
        ("ftp://evil.example/x", "lies at another server"),
        ("s3://bucket/x.png", "lies at another server"),
        ("/away", "lies at another server"),
        ("/file", "can't be fetched"),
        ("/private", "status 401; set LABEL_STUDIO_API_KEY"),
        ("/large", "is larger than 1 MiB"),
    ],
)
def test_no_other_server_is_asked(studio: Any, address: str, words: str | None) -> None:
    home, seen = studio
    rest = home.removeprefix("http")
    if words is None:  # it stays here
        images_of(home).open(address).close()
    else:
        with pytest.raises(DataError, match=words):
            images_of(home, "key").open(address.format(home=home, rest=rest))
    assert all("evil" not in headers.get("host", "") for _, headers in seen)
    assert all(path in ("/away", "/file", "/private", "/large", "/evil.example/x.png") for path, _ in seen)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(DataError, match="can't be fetched"):
        images_of("http://127.0.0.1:9").open("/image.png")


def test_without_a_server() -> None:
    with pytest.raises(DataError, match=r"no other server is asked; start with --label_studio URL"):
        TaskImages(None, ServeConfig()).open("http://localhost:8080/x.png")
