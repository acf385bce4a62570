"""Many clients of one server: `python tools/serve_load.py FOLDER --bank B`.

A server of its own is started on this machine. Every mask is held against the one that the same server gives when
nobody else asks; answers but 200 must be 429 or 503 with Retry-After, which the clients obey. The server's memory is
read every second; it counts as flat if it stays within 5 % of its median after the warm-up.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from machine import processor

from fungi_seg.cli import tool
from fungi_seg.errors import FungiSegError
from fungi_seg.results import find_images

SEGMENT, TYPE = "/v1/segment", {"Content-Type": "image/png"}
AGAIN = (429, 503)
FLAT = 0.05
PATIENCE = 300  # seconds for one answer


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        status: answers by status.
        seconds: of each answer with a mask.
        wrong: masks that weren't the expected ones.
        bare: answers that told to come again, but not when.
    """

    status: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    bare: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sound(self) -> bool:
        """Whether nothing was as it mustn't be."""
        return not self.wrong and not self.bare and set(self.status) <= {200, *AGAIN}


def serve_load(
    bank: str, images: list[str], clients: int = 50, seconds: float = 600.0, warm: float = 60.0, json: str | None = None
) -> None:
    """Ask a server for masks from many clients at once.

    Args:
        bank: folder of the bank.
        images: image files, folders (searched through) and quoted glob patterns, sent in turn.
        clients: at once.
        seconds: how long they ask.
        warm: seconds of it in which memory may still grow.
        json: file to write the figures to.
    """
    bodies = [path.read_bytes() for path in find_images(images).values()]
    command = [sys.executable, "-m", "fungi_seg", "serve", "--bank", bank, "--port", "0", "--browser", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = _port(server.stdout, server.stderr)
            expected = [_ask(port, body)[2] for body in bodies]
            seen, memory = _crowd(port, server.pid, bodies, expected, clients, seconds)
        finally:
            server.terminate()
    after = [rss for moment, rss in memory if moment >= warm] or [rss for _, rss in memory]
    middle = statistics.median(after)
    spread = max(max(after) - middle, middle - min(after)) / middle
    figures = {
        "processor": processor(),
        "clients": clients,
        "seconds": seconds,
        "answers": {str(status): count for status, count in sorted(seen.status.items())},
        "wrong masks": seen.wrong,
        "without Retry-After": seen.bare,
        "masks a second": len(seen.seconds) / seconds,
        "median seconds": statistics.median(seen.seconds),
        "95th percentile": statistics.quantiles(seen.seconds, n=20)[-1],
        "memory in MiB": middle / 2**20,
        "memory within": spread,
    }
    _tell(figures, json)
    if not seen.sound or spread > FLAT:
        raise FungiSegError("not as it must be: a wrong mask, another status, or memory that isn't flat; see above")


def _port(out: IO[str] | None, err: IO[str] | None) -> int:
    """Of a server that was started, once its bank is loaded."""
    assert out
    assert err
    told = re.search(r":(\d+)/", out.readline())
    loaded = err.readline()
    if told is None or not loaded.startswith("serving "):
        raise FungiSegError(f"the server didn't start: {loaded}{err.read()}")
    threading.Thread(target=err.read, daemon=True).start()  # or it would wait for a reader
    return int(told[1])


def _ask(port: int, body: bytes) -> tuple[int, str | None, bytes]:
    """Status, Retry-After and body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", SEGMENT, body, TYPE)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read()
    finally:
        connection.close()


def _crowd(
    port: int, pid: int, bodies: list[bytes], expected: list[bytes], clients: int, seconds: float
) -> tuple[Seen, list[tuple[float, int]]]:
    """What many clients saw, and the server's memory by the second."""
    seen, memory, start = Seen(), list[tuple[float, int]](), time.monotonic()

    def client(number: int) -> None:
        place = number
        while time.monotonic() - start < seconds:
            began = time.monotonic()
            status, again, answer = _ask(port, bodies[place % len(bodies)])
            with seen.lock:
                seen.status[status] += 1
                if status == 200:
                    seen.seconds.append(time.monotonic() - began)
                    seen.wrong += answer != expected[place % len(bodies)]
                seen.bare += status in AGAIN and not (again or "").isdigit()
            if status in AGAIN:
                time.sleep(min(float(again or 1), max(0.0, start + seconds - time.monotonic())))
            else:
                place += 1

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        while any(not one.done() for one in running):
            memory.append((time.monotonic() - start, _rss(pid)))
            time.sleep(1)
        for one in running:
            one.result()
    return seen, memory


def _rss(pid: int) -> int:
    """Bytes of a process in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) << 10


def _tell(figures: dict[str, object], file: str | None) -> None:
    text = json.dumps(figures, indent=1)
    print(text)
    if file:
        Path(file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(tool(serve_load))
