"""A Milvus Lite server in an environment of its own: it needs faiss-cpu, which can't be installed beside faiss-gpu."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

SERVER = "milvus-lite==3.2.2"
SOON = 120.0


def environment(folder: Path) -> Path:
    """The folder of programs of the server's environment, which is made when it isn't there."""
    wanted = f"{SERVER} pymilvus=={version('pymilvus')} python=={sys.version.split()[0]}"
    ready, programs = folder / "ready", folder / "env" / "bin"
    if not ready.is_file() or ready.read_text(encoding="ascii") != wanted:
        shutil.rmtree(folder / "env", ignore_errors=True)
        venv.create(folder / "env", with_pip=True)
        install = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*install, *wanted.split()[:2]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"Milvus Lite can't be installed:\n{done.stderr}"
        ready.write_text(wanted, encoding="ascii")
    return programs


@contextmanager
def serving(programs: Path, data: Path) -> Iterator[str]:
    """The address, `milvus://host:port`, of a server that runs meanwhile."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = data.with_suffix(".log")
    command = [programs / "milvus-lite", "server", "--data-dir", data, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        until = time.monotonic() + SOON
        while True:
            ended = process.poll() is not None or time.monotonic() > until
            assert not ended, log.read_text(encoding="utf-8")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"milvus://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
