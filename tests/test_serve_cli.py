"""`fungi-seg serve` from its start to its end, and every mistake that its user can make."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import SOON, png
from test_cli import Run, run  # noqa: F401

from fungi_seg import MemoryBank
from fungi_seg.annotating.folder import images_within
from fungi_seg.commands import serving
from fungi_seg.commands.serving import address_of
from fungi_seg.errors import DataError
from fungi_seg.web import ServeConfig

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "torchvision", "timm", "faiss", "scipy", "sklearn", "matplotlib"}
STARTED = re.compile(r"Open (http://\S+)  \(Ctrl-C ends it\)\n")


@contextlib.contextmanager
def serving_process(*options: object, code: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and the address that it printed."""
    start = f"{code}\nimport sys\nfrom fungi_seg.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", start, "serve", *map(str, options), "--port", "0", "--browser", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = process.stdout.readline()
        found = STARTED.fullmatch(told)
        if not found:
            process.kill()
            raise AssertionError((told, process.communicate()[1]))
        try:
            yield process, found[1]
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_from_start_to_end(bank: MemoryBank) -> None:
    with serving_process("--bank", bank.path) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert process.stderr
        assert process.stderr.readline() == f"serving {bank.path}, revision {bank.revision}\n"
        assert httpx.get(f"{address}ready").json() == {"ready": True, "revision": bank.revision}
        answer = httpx.post(f"{address}v1/segment", content=png(), headers={"content-type": "image/png"}, timeout=SOON)
        assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SOON)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_it_listens_before_anything_heavy_is_imported(bank: MemoryBank, photo: Path) -> None:
    """So that the first view is there at once; the bank is loaded meanwhile."""
    spy = "import fungi_seg.web.running as r, sys; old = r._Server.startup\n"
    spy += "async def startup(self, sockets=None):\n    await old(self, sockets)\n"
    spy += "    print(*sys.modules, file=sys.stderr)\n"
    spy += "r._Server.startup = startup\nimport fungi_seg.web.service as s; s.Service.start = lambda self: None\n"
    spy += "from fungi_seg.annotating import Workspace; Workspace.start = lambda self: None\n"
    with serving_process(photo.parent, "--bank", bank.path, code=spy) as (process, address):
        assert httpx.get(f"{address}health").status_code == 200
        process.terminate()
        _, err = process.communicate(timeout=SOON)
    assert not HEAVY & {name.partition(".")[0] for name in err.split()}
    assert "fastapi" in err.split()


def test_with_a_token(bank: MemoryBank) -> None:
    with serving_process("--bank", bank.path, "--host", "0.0.0.0") as (_, address):
        token = re.fullmatch(r"http://\S+:(\d+)/\?token=([\w-]{40,})", address)
        assert token
        here = f"http://127.0.0.1:{token[1]}"
        assert httpx.get(f"{here}/v1/bank").status_code == 401
        entered = httpx.get(f"{here}/?token={token[2]}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert httpx.get(f"{here}/metrics", headers={"cookie": entered.headers["set-cookie"]}).status_code == 200
        assert httpx.get(f"{here}/metrics", headers={"authorization": f"Bearer {token[2]}"}).status_code == 200


def test_the_browser_is_opened(bank: MemoryBank, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Now:
        def __init__(self, target: Any, args: tuple[str], daemon: bool):
            self.work = lambda: target(*args)

        def start(self) -> None:
            self.work()

    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(serving.threading, "Thread", Now)
    serving._tell(ServeConfig(), 1234, browser=False)
    serving._tell(ServeConfig(), 1234, browser=True)
    assert opened == ["http://127.0.0.1:1234/"]


@pytest.mark.parametrize(
    ("host", "own", "expected"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80/"),
        ("::1", False, "http://[::1]:80/"),
        ("0.0.0.0", True, "http://localhost:80/?token=t"),
        ("0.0.0.0", False, f"http://{socket.gethostname()}:80/?token=t"),
        ("192.0.2.7", False, "http://192.0.2.7:80/?token=t"),
    ],
)
def test_addresses(host: str, own: bool, expected: str) -> None:
    token = "t" if "token" in expected else None
    assert address_of(ServeConfig(host=host, token=token), 80, own) == expected


# Mistakes


def test_a_port_that_is_taken(run: Run, bank: MemoryBank) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = run("serve", "--bank", bank.path, "--port", port)
    assert (code, out) == (1, "")
    taken_by = "is taken, by another server or one of yours"
    assert re.search(rf"error: port {port} {taken_by}; port (\d+) is free: --port \1\n", err)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--bank gone", 2, "nothing to serve: there is no bank at gone; name one with --bank, or a folder of images"),
        ("gone", 1, "'gone': no such folder"),
        ("empty", 1, "no such image, folder with images"),
        ("links", 1, "links that lead out of"),
        ("photo.png", 1, "'photo.png': no such folder"),
        ("images --port 70000", 2, "port is 70000; it must be 0 to 65535"),
        ("images --host 192.0.2.7", 1, "host is '192.0.2.7', which isn't an address of this machine"),
        ("images --host not.a.name.invalid", 1, "which isn't an address of this machine"),
        ("images --limits.queue -1", 2, "limits.queue is -1"),
        ("images --label_studio localhost:8080", 2, "'localhost:8080' is no address such as http://localhost:8080"),
        ("images --prot 1", 2, "did you mean '--port'?"),
        ("images more", 2, "more"),
    ],
)
def test_mistakes(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "images", "links"):
        (tmp_path / folder).mkdir()
    (tmp_path / "photo.png").write_bytes(png())
    shutil.copy(tmp_path / "photo.png", tmp_path / "images")
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "photo.png")
    found = run("serve", *options.split(), "--browser", "false")
    assert (found[0], found[1]) == (code, ""), found
    assert words in found[2]


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_without_the_extra(bank: MemoryBank, package: str) -> None:
    start = f"import sys; sys.modules[{package!r}] = None; from fungi_seg.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "serve", "--bank", str(bank.path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)
    assert done.returncode == 1
    assert 'pip install "fungi-seg[web]"' in done.stderr
    assert package in done.stderr
    assert "Traceback" not in done.stderr


def test_links_that_lead_out_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png())
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "in" / "c.png").symlink_to(tmp_path / "in" / "a.png")
    (tmp_path / "again").symlink_to(tmp_path / "in")
    for folder in ("in", "again"):
        caplog.clear()
        remarks: list[str] = []
        assert set(images_within(tmp_path / folder, remarks)) == {"a", "c"}
        assert "1 images left out: links that lead out of" in remarks[0]
    with pytest.raises(DataError, match="no such folder"):
        images_within(tmp_path / "gone", [])


# Many clients


@pytest.mark.slow
def test_fifty_clients_for_a_minute(bank: MemoryBank, tmp_path: Path) -> None:
    """Every mask is the serial one, whoever is sent away is told when to come again, and memory stays flat."""
    for seed in range(6):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    options = ["--bank", bank.path, "--clients", 50, "--seconds", 60, "--warm", 20, "--json", tmp_path / "load.json"]
    command = [sys.executable, ROOT / "tools" / "serve_load.py", tmp_path, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "load.json").read_text())
    assert figures["answers"]["200"] > 50
    assert figures["wrong masks"] == 0
