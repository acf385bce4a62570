"""A server that is killed while somebody paints: every stroke that was answered is there, and the bank opens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from trees import scene

from fungi_seg import MemoryBank
from fungi_seg.annotating.runs import from_runs, to_runs
from fungi_seg.images import read_mask

SOON = 60
SIZE = (48, 64)
HEADERS = {"X-Fungi-Seg": "1"}
CLASSES = [{"name": "ground", "colour": "#000000"}, {"name": "red", "colour": "#e69f00"}]
# one process that has imported everything forks a server for each line that it reads: starting anew takes seconds
FORKING = """
import os, sys
import fungi_seg.annotating.engine, fungi_seg.web.app, fungi_seg.web.page_api, fungi_seg.web.running
from fungi_seg.cli import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.exit(main(line.split("\\t")[:-1]))
    print("child", child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


class Server:
    """A server that is killed and started again on the same folders."""

    def __init__(self, arguments: list[str]):
        self._arguments = arguments
        self._parent = subprocess.Popen(
            [sys.executable, "-c", FORKING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self) -> tuple[int, str]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        print("\t".join([*self._arguments, ""]), file=self._parent.stdin, flush=True)
        number = address = None
        while number is None or address is None:
            words = self._parent.stdout.readline().split()
            assert words, "the server ended"
            number = int(words[1]) if words[0] == "child" else number
            address = words[1] if words[0] == "Open" else address
        return number, address

    def dead(self) -> None:
        assert self._parent.stdout is not None
        while self._parent.stdout.readline().strip() != "dead":
            pass

    def end(self) -> None:
        os.killpg(self._parent.pid, signal.SIGKILL)  # servers too
        self._parent.communicate()


def paint_until_it_is_dead(
    address: str, known: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paints and saves; the label map as it was last answered for, and as it was last asked for."""
    asked = known.copy()
    with httpx.Client(base_url=address, headers=HEADERS, timeout=SOON) as client:
        try:
            client.put("/ui/api/classes", json={"classes": CLASSES}).raise_for_status()
            version = client.get("/ui/api/images/0?tab=a").raise_for_status().json()["version"]
            while True:
                top, left = int(generator.integers(0, 40)), int(generator.integers(0, 56))
                asked = known.copy()
                asked[top : top + 8, left : left + 8] = generator.integers(0, 2)
                runs = to_runs(asked[top : top + 8, left : left + 8])
                body = {"tab": "a", "version": version, "box": [left, top, left + 8, top + 8], "runs": runs}
                version = client.post("/ui/api/images/0/edits", json=body).raise_for_status().json()["version"]
                known = asked
                if generator.random() < 0.2:
                    saved = client.post("/ui/api/images/0/save", json={"tab": "a", "version": version})
                    version = saved.raise_for_status().json()["version"]
        except httpx.TransportError:
            return known, asked


def check(known: np.ndarray, asked: np.ndarray, folder: Path, address: str) -> np.ndarray:
    """The label map that the next server knows."""
    with httpx.Client(base_url=address, headers=HEADERS, timeout=SOON) as client:
        told = client.get("/ui/api/images/0?tab=a").raise_for_status().json()["annotation"]
    found = from_runs(told["runs"], SIZE, 2)
    assert (found == known).all() or (found == asked).all()
    if (folder / "bank").is_dir():
        bank = MemoryBank.open(folder / "bank")
        assert bank.verify() == []
        values = read_mask(folder / "bank.annotations" / "masks" / "0.png")
        assert values.shape == SIZE
    return found


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_every_stroke_that_was_answered_is_there(kills: int, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(scene(0)[0]).save(tmp_path / "images" / "0.png")
    arguments = [
        "serve",
        str(tmp_path / "images"),
        "--bank",
        str(tmp_path / "bank"),
        "--port",
        "0",
        "--browser",
        "false",
    ]
    server, generator = Server([*arguments, "--input.size", "null"]), np.random.default_rng(kills)
    known = asked = np.full(SIZE, -1, np.int16)
    painted = 0
    try:
        for _ in range(kills):
            number, address = server.start()
            known = check(known, asked, tmp_path, address)
            timer = threading.Timer(0.3 + 2 * generator.random(), os.kill, (number, signal.SIGKILL))
            timer.start()
            before = known
            known, asked = paint_until_it_is_dead(address, known, generator)
            painted += int((known != before).any())
            server.dead()
        _, address = server.start()
        check(known, asked, tmp_path, address)
    finally:
        server.end()
    assert painted
