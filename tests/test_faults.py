"""What happens when a build is interrupted or the disk is full: the bank that was there stays."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HALF, TINY
from trees import folder_tree

from fungi_seg import Backbone, BankConfig, DataConfig, FeatureConfig, InputConfig, MemoryBank, build_bank, open_dataset
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import main

# A line of progress for every image, in place of one every ten seconds
CHATTY = "import sys, fungi_seg.progress as p; p.LINE_SECONDS = 0; from fungi_seg.cli import main; sys.exit(main())"
# As above, and rows are written down after every batch
NOTING = CHATTY.replace(
    "p.LINE_SECONDS = 0;", "p.LINE_SECONDS = 0; import fungi_seg.bank.draft as d; d.PART_SECONDS = 0;"
)
# As the first, and the disk is filled by others, after it was found to have room
CROWDED = CHATTY.replace("from", "import fungi_seg.bank.build as b; b.check_fit = lambda *_, **__: None; from", 1)
FILE_LIMIT = 10_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "tree")


@pytest.fixture
def old(data: Path, tiny_backbone: Backbone, tmp_path: Path) -> Path:
    """A bank of 12 rows."""
    dataset = open_dataset(DataConfig(root=str(data), split="train"))
    build_bank(
        dataset, tiny_backbone, tmp_path / "bank", BankRecipe(FeatureConfig(), InputConfig(size=None), BankConfig(12))
    )
    return tmp_path / "bank"


def build_command(data: Path, weights: Path, out: Path, *options: str, code: str = CHATTY) -> list[str]:
    """A build that writes well over `FILE_LIMIT` bytes: 192 rows of 48 numbers for each epoch."""
    return [
        sys.executable,
        "-c",
        code,
        "build",
        *("--out", str(out), "--data.root", str(data), "--data.split", "train", "--input.size", "48"),
        *("--backbone.name", "tiny", "--backbone.weights", str(weights), "--backbone.model_args", json.dumps(TINY)),
        *(f"--backbone.mean={list(HALF)}", f"--backbone.std={list(HALF)}", "--overwrite", *options),
    ]


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def interrupt_at_work(command: list[str], line_of_progress: str = "/40000 images") -> tuple[int, str]:
    """Ctrl-C as soon as a line of progress came; exit code and all of standard error."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line_of_progress in line:
                break
        process.send_signal(signal.SIGINT)
        lines += process.stderr.readlines()
        return process.wait(timeout=120), "".join(lines)
    finally:
        process.kill()
        process.wait()


LONG = ("--bank.augment", "--bank.epochs=10000", "--bank.size=300")


def test_interrupted_build_keeps_the_old_bank(data: Path, tiny_weights: Path, old: Path) -> None:
    before = contents(old.parent)
    code, err = interrupt_at_work(build_command(data, tiny_weights, old, *LONG))
    assert code == 130
    assert "memory bank: 1/40000 images" in err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "Warning" not in err
    assert contents(old.parent) == before
    assert len(MemoryBank.open(old)) == 12


def test_interrupted_build_leaves_nothing(data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """During the first of two passes, into a folder that wasn't there."""
    options = [*LONG, "--features.negatives=2", "--load.workers=0"]
    code, err = interrupt_at_work(build_command(data, tiny_weights, tmp_path / "new" / "bank", *options))
    assert code == 130
    assert "support set: 1/40000 images" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_interrupted_build_goes_on_where_it_was(
    data: Path,
    tiny_weights: Path,
    old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the same bytes as one that wasn't interrupted; the old bank stays whole until then."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    before, options = contents(old), ("--bank.augment", "--bank.epochs=20", "--bank.size=100", "--load.workers=0")
    command = build_command(data, tiny_weights, old, *options, code=NOTING)
    code, err = interrupt_at_work(command, " 12/80 images")
    assert code == 130, err
    found = contents(old)
    assert before.items() <= found.items()
    assert {name.partition("/")[0] for name in found.keys() - before.keys()} == {".draft"}
    done = json.loads((old / ".draft" / "draft.json").read_text())["progress"]["passes"]
    assert 8 <= done < 80
    assert main(command[3:]) == 0
    assert f"memory bank: {80 - done}/{80 - done} images" in capsys.readouterr().err
    assert main(build_command(data, tiny_weights, tmp_path / "whole", *options)[3:]) == 0
    assert contents(old) == contents(tmp_path / "whole")


def test_full_disk_keeps_the_old_bank(data: Path, tiny_weights: Path, old: Path) -> None:
    """The largest file allowed is smaller than the new bank, which fails as a full disk does."""
    before = contents(old.parent)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))

    command = build_command(data, tiny_weights, old, "--bank.size=null")
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False)
    assert ended.returncode == 1
    assert f"error: {old}: the bank can't be written" in ended.stderr
    assert "Free some space" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert contents(old.parent) == before
    assert len(MemoryBank.open(old)) == 12


# In a mount namespace of its own: a disk of 64 KiB that the old bank fits on and the new one doesn't
SMALL_DISK = """
set -e
disk=$1; found=$2
mount -t tmpfs -o size=64k tmpfs "$disk"
cp -r "$3" "$disk/bank"
shift 3
code=0
"$@" || code=$?
cp -r "$disk" "$found"
exit $code
"""
NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "mount -t tmpfs -o size=64k tmpfs /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_disk_without_room_keeps_the_old_bank(data: Path, tiny_weights: Path, old: Path, tmp_path: Path) -> None:
    if not namespaces_work():
        pytest.skip("no small disk can be mounted here")
    disk, found = tmp_path / "disk", tmp_path / "found"
    disk.mkdir()
    options = ("--bank.augment", "--bank.epochs=5", "--bank.size=null")
    build = build_command(data, tiny_weights, disk / "bank", *options, code=CROWDED)
    command = [*NAMESPACE, SMALL_DISK, "sh", str(disk), str(found), str(old), *build]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr
    assert f"error: {disk / 'bank'}: the bank can't be written" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert contents(found / "bank") == contents(old)
    assert [path.name for path in found.iterdir()] == ["bank"]
