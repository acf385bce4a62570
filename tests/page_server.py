"""A small stand-in for the server of the annotation page, of which tests know and choose every answer.

It keeps the same routes with a trivial prediction: each pixel takes the class of the painted pixels whose mean colour
is nearest. Everything lies in memory.
"""

from __future__ import annotations

import io
import json
import mimetypes
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

STATIC = Path(__file__).parent.parent / "fungi_seg" / "web" / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
Json = dict[str, Any]


class Refused(Exception):
    def __init__(self, status: int, detail: str, reason: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.body = status, {"detail": detail, "reason": reason}


def runs_of(labels: np.ndarray) -> list[int]:
    """`[value, count, ...]` of a label map, row by row."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    counts = np.diff(np.r_[starts, flat.size])
    return [int(v) for pair in zip(flat[starts], counts, strict=True) for v in pair]


def labels_of(runs: list[int], shape: tuple[int, int]) -> np.ndarray:
    return np.repeat(np.array(runs[::2], np.int32), runs[1::2]).reshape(shape)


class Picture:
    """An image with its annotation and version."""

    def __init__(self, name: str, pixels: np.ndarray) -> None:
        self.name, self.pixels = name, pixels
        self.labels = np.full(pixels.shape[:2], -1, np.int32)
        self.version, self.status, self.looked, self.problem = 1, "none", False, None
        self.tabs: set[str] = set()

    def json(self, number: int) -> Json:
        height, width = self.labels.shape
        return {
            "id": number,
            "name": self.name,
            "status": self.status,
            "looked": self.looked,
            "in_bank": self.status == "saved",
            "width": width,
            "height": height,
            "doubt": round(1 / (2 + number % 17), 3),
            "areas": {"0": 0.75, "1": 0.25},
            "problem": self.problem,
            "stamp": f"{self.version}{self.status}",
        }


class PageServer:
    """Serves the page and answers it; `asked` lists what it was asked, `requests` counts by route."""

    def __init__(self, pictures: dict[str, np.ndarray], classes: list[tuple[str, str]]) -> None:
        self.pictures = [Picture(name, pixels) for name, pixels in pictures.items()]
        self.classes = classes
        self.saved, self.version = 0, 1
        self.jobs: dict[str, Json] = {}
        self.voters: list[Json] = []
        self.found: list[Json] = []
        self.exported: list[Json] = []
        self.lock = threading.Lock()
        self.asked: list[tuple[str, str, Any]] = []
        owner = self

        class Handler(_Handler):
            server_of = owner

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def state(self) -> Json:
        saved = [p for p in self.pictures if p.status == "saved"]
        return {
            "title": "A folder <b>of</b> images",
            "total": len(self.pictures),
            "annotated": len(saved),
            "drafts": sum(p.status == "draft" for p in self.pictures),
            "looked": sum(p.looked for p in self.pictures),
            "predicted": 0,
            "classes": [{"index": i, "name": n, "colour": c, "fixed": False} for i, (n, c) in enumerate(self.classes)],
            "bank": {"path": "bank", "rows": 10, "images": len(saved), "revision": self.saved, "fitted": False}
            if saved
            else None,
            "backbone": {"name": "tiny", "ready": True, "error": None},
            "jobs": list(self.jobs.values()),
            "doubt": [{"annotated": i + 1, "doubt": 0.5 / (i + 1), "images": 3} for i in range(self.saved)],
            "warnings": [],
            "version": self.version,
        }

    def prediction(self, picture: Picture) -> Json | None:
        means = {}
        for index in range(len(self.classes)):
            chosen = [p.pixels[p.labels == index] for p in self.pictures if (p.labels == index).any()]
            if chosen:
                means[index] = np.concatenate(chosen).mean(0)
        if not means:
            return None
        near = np.stack([np.square(picture.pixels - mean).sum(-1) for mean in means.values()]).argmin(0)
        mask = np.array(list(means))[near]
        return {"mask": as_runs(mask), "doubt": 0.25, "seconds": 0.12, "version": self.version}

    # routes: each takes the picture (or None), the query and the body

    def images(self, query: Json) -> Json:
        shown = list(enumerate(self.pictures))
        if query.get("filter") == "unlooked":
            shown = [(i, p) for i, p in shown if not p.looked]
        elif query.get("filter") in ("annotated", "open"):
            shown = [(i, p) for i, p in shown if (p.status != "none") == (query["filter"] == "annotated")]
        if query.get("sort", "doubt") == "doubt":
            shown.sort(key=lambda each: -each[1].json(each[0])["doubt"])
        first = int(query.get("offset", 0))
        page = shown[first : first + int(query.get("limit", 60))]
        return {"total": len(shown), "images": [p.json(i) for i, p in page]}

    def opened(self, number: int, tab: str) -> Json:
        picture = self.pictures[number]
        held = bool(picture.tabs - {tab})
        picture.looked = True
        picture.tabs.add(tab)
        extra = {"annotation": as_runs(picture.labels), "version": picture.version, "held": held}
        return {**picture.json(number), **extra, "note": "", "stretched": False}

    def edit(self, picture: Picture, body: Json) -> Json:
        left, top, right, bottom = body["box"]
        self.check(picture, body)
        picture.labels[top:bottom, left:right] = labels_of(body["runs"], (bottom - top, right - left))
        self.changed(picture, "draft")
        return {"version": picture.version, "status": "draft", "prediction": self.prediction(picture)}

    def accept(self, picture: Picture, body: Json) -> Json:
        self.check(picture, body)
        told = self.prediction(picture)
        if told is None:
            raise Refused(409, "Nothing is annotated yet.")
        mask = labels_of(told["mask"]["runs"], picture.labels.shape)
        picture.labels = np.where(picture.labels < 0, mask, picture.labels)
        self.changed(picture, "draft")
        return {"version": picture.version, "annotation": as_runs(picture.labels)}

    def save(self, picture: Picture, body: Json) -> Json:
        self.check(picture, body)
        self.saved += 1
        self.changed(picture, "saved")
        picture.version -= 1  # the labels are the same
        number = self.pictures.index(picture)
        return {"image": picture.json(number), "bank": self.state()["bank"], "seconds": 0.1}

    def hold(self, picture: Picture, body: Json) -> Json:
        picture.tabs.discard(body["tab"])
        held = bool(picture.tabs)
        if not body["release"]:
            picture.tabs.add(body["tab"])
        return {"held": held}

    def explain(self, picture: Picture, body: Json) -> Json:
        scores = {"0": 0.2, "1": 0.8}
        return {"class": 1, "scores": scores, "voters": self.voters}

    def check(self, picture: Picture, body: Json) -> None:
        if body["version"] != picture.version:
            raise Refused(409, f"Another tab changed {picture.name}.", "version")

    def changed(self, picture: Picture, status: str) -> None:
        picture.status = status
        picture.version += 1
        self.version += 1

    def set_classes(self, body: Json) -> Json:
        self.classes = [(each["name"], each["colour"]) for each in body["classes"]]
        self.version += 1
        return self.state()

    def start(self, kind: str, body: Json) -> Json:
        status = {"kind": kind, "status": "running", "what": f"{kind} of images", "done": 1, "total": 4}
        self.jobs[kind] = {**status, "message": "", "result": None}
        return self.jobs[kind]

    def finish(self, kind: str, status: str = "done", message: str = "Done.") -> Json:
        self.jobs[kind] = {**self.jobs[kind], "status": status, "message": message}
        return self.jobs[kind]

    def next(self) -> Json:
        left = [i for i, p in enumerate(self.pictures) if p.status != "saved"]
        if not left:
            return {"id": None, "why": "All images are annotated."}
        return {"id": left[-1], "why": "The most doubtful, and unlike those annotated."}

    def answer(self, method: str, path: str, query: Json, body: Any) -> Json | bytes:
        number = re.match(r"images/(\d+)", path)
        picture = self.pictures[int(number[1])] if number else None
        if path.endswith("/thumbnail") and picture:
            return encoded(Image.fromarray(picture.pixels).resize((128, 128)), "JPEG")
        if path.endswith("/picture") and picture:
            return encoded(Image.fromarray(picture.pixels), "PNG")
        if path == "crops":
            return encoded(Image.new("RGB", (96, 96), (90, 40, 120)), "JPEG")
        if path.startswith("jobs/") and method == "DELETE":
            return self.finish(path[5:], "cancelled", "Cancelled.")
        if path.startswith("jobs/"):
            return self.start(path[5:], body)
        if picture and method == "POST":
            acts: dict[str, Callable[[Picture, Json], Json]] = {
                "edits": self.edit,
                "accept": self.accept,
                "save": self.save,
                "hold": self.hold,
                "explain": self.explain,
            }
            return acts[path.split("/")[2]](picture, body)
        if path.endswith("/prediction") and picture:
            told = self.prediction(picture)
            if told is None:
                raise Refused(409, "Nothing is annotated yet.")
            return told
        if picture and number:
            return self.opened(int(number[1]), query.get("tab", ""))
        plain: dict[str, Callable[[], Json]] = {
            "state": self.state,
            "classes": lambda: self.set_classes(body),
            "images": lambda: self.images(query),
            "next": self.next,
            "doubtful": lambda: {"annotations": self.found, "of": 7 if self.found else 0},
            "files": lambda: {"files": self.exported, "zip": "/ui/api/files.zip"},
        }
        if path not in plain:
            raise Refused(404, "No such thing.")
        return plain[path]()


def as_runs(labels: np.ndarray) -> Json:
    return {"width": labels.shape[1], "height": labels.shape[0], "runs": runs_of(labels)}


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server_of: PageServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self) -> None:
        address = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length) if length else b""
        if not address.path.startswith("/ui/api/"):
            file = STATIC / (address.path.removeprefix("/static/") if address.path != "/" else "index.html")
            if not file.is_file():
                self.reply(404, b"{}", "application/json")
            else:
                self.reply(200, file.read_bytes(), mimetypes.guess_type(file.name)[0] or "text/plain")
            return
        path = unquote(address.path.removeprefix("/ui/api/"))
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        owner = self.server_of
        with owner.lock:
            try:
                if self.command != "GET":
                    assert self.headers["X-Fungi-Seg"] == "1"
                    assert self.headers["Content-Type"] == "application/json"
                body = json.loads(sent) if sent else None
                owner.asked.append((self.command, path, body))
                made = owner.answer(self.command, path, query, body)
            except Refused as refused:
                self.reply(refused.status, json.dumps(refused.body).encode(), "application/json")
                return
        if isinstance(made, bytes):
            self.reply(200, made, "image/png" if made[:4] == b"\x89PNG" else "image/jpeg")
        else:
            self.reply(200, json.dumps(made).encode(), "application/json")

    do_GET = do_POST = do_PUT = do_DELETE = handle_any
