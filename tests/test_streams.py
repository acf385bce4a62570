"""Programs without standard streams: services, pythonw, `2>&-`; and what names of files can't be told."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from trees import scene

from fungi_seg import (
    MemoryBank,
)
from fungi_seg.cli import main
from fungi_seg.errors import DataError
from fungi_seg.progress import StandardError, track
from fungi_seg.results import find_images


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Takes standard streams away."""

    def close(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(sys, name, None)

    yield close
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if getattr(stream, "name", None) == os.devnull:
            stream.close()


def test_progress_and_messages_to_nobody(closed: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    closed("stderr")
    assert list(track(range(3), 3, "memory bank")) == [0, 1, 2]
    logger = logging.getLogger("test_streams")
    logger.addHandler(StandardError())
    logger.warning("hello")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("names", [("stderr",), ("stdout",), ("stdin", "stdout", "stderr")])
def test_segment_without_streams(
    bank: MemoryBank, photo: Path, tmp_path: Path, closed: Callable[..., None], names: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    closed(*names)
    assert main(["segment", str(photo), "--bank", str(bank.path), "--out", str(out), "--index.kind=flat"]) == 0
    assert (out / "masks" / "photo.png").exists()
    assert (out / "overlays" / "photo.jpg").exists()


def test_explain_asks_a_terminal_that_is_not_there_for_its_width(
    bank: MemoryBank, photo: Path, tmp_path: Path, closed: Callable[..., None]
) -> None:
    closed("stdout", "stderr")
    assert main(["explain", str(photo), "--bank", str(bank.path), "--out", str(tmp_path / "why"), "--at=5,5"]) == 0
    assert (tmp_path / "why" / "explanation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["--help"], 0), (["segmnt"], 2), (["bank", "inspect", "--bank=nowhere"], 1)]
)
def test_the_exit_code_tells_what_nobody_reads(closed: Callable[..., None], arguments: list[str], code: int) -> None:
    closed("stdout", "stderr")
    assert main(arguments) == code


def test_errors_do_not_stray_to_standard_output(
    closed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    closed("stderr")
    assert main(["bank", "inspect", "--bank=nowhere", "--json", "-"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(os.name == "nt", reason="the shell closes streams")
def test_no_file_gets_the_number_of_a_closed_stream(bank: MemoryBank) -> None:
    """Otherwise what a library prints to standard error would end up in one of our files."""
    program = (
        "import os, sys; from fungi_seg.cli import main;"
        "code = main(['bank', 'inspect', '--bank', sys.argv[1], '--json', '-']);"
        "sys.exit(code or os.path.samestat(os.fstat(2), os.stat(os.devnull)) - 1)"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" "$2" 2>&-', sys.executable, program, str(bank.path)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["rows"] == len(bank)


# Names


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """An image of an old disc: its name is in Latin-1."""
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    try:
        Path(os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    Image.fromarray(scene(1)[0]).save(Path(os.fsdecode(name)))
    return Path(os.fsdecode(name))


@pytest.mark.parametrize("pattern", [lambda path: path, lambda path: path.parent, lambda path: path.parent / "*.png"])
def test_names_that_are_not_utf_8_are_refused_when_they_are_found(latin: Path, pattern: Callable[[Path], Path]) -> None:
    Image.fromarray(scene(1)[0]).save(latin.parent / "a.png")
    with pytest.raises(DataError, match=r"caf\\udce9.png': the name isn't UTF-8.*rename it"):
        find_images([str(pattern(latin))])


def test_nothing_is_segmented_before_it_is_refused(
    latin: Path, photo: Path, bank: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["segment", str(photo), str(latin), "--bank", str(bank.path), "--out", str(out)]
    assert main([*arguments, "--coco.file", str(tmp_path / "r.json")]) == 1
    assert "the name isn't UTF-8" in capsys.readouterr().err
    assert not out.exists()
