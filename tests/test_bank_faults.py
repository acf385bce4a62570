"""Killed processes, full disks, several processes at one bank, and every kind of damage to its bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bank import contents
from test_faults import NAMESPACE, namespaces_work
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    FeatureConfig,
    InputConfig,
    MemoryBank,
    build_bank,
    open_dataset,
)
from fungi_seg.bank import contents as bank_module, writer as bank_writer
from fungi_seg.bank.settings import BankRecipe

OPERATIONS = ("build", "new", "append", "remove", "merge", "index", "undo", "compact")
MOMENTS = 40


def run_faults(folder: Path, weights: Path, moments: int) -> dict[str, Any]:
    """What `faults.py` found, and whether small disks could be mounted."""
    mounts = namespaces_work()
    command = [sys.executable, str(Path(__file__).parent / "faults.py"), str(folder), str(weights), str(moments)]
    command = [*NAMESPACE, 'exec "$@"', "sh", *command, "yes"] if mounts else [*command, "no"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> dict[str, Any]:
    return run_faults(tmp_path_factory.mktemp("faults"), tiny_weights, MOMENTS)


def check(faults: dict[str, Any], operation: str) -> None:
    assert [line for line in faults["problems"] if line.startswith(f"{operation} ")] == []
    assert faults["seen"][f"{operation} full"] > 0
    assert faults["seen"][f"{operation} old"] > 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_happens_it_is_the_old_bank_or_the_new_one(faults: dict[str, Any], operation: str) -> None:
    """Killed at random moments, or out of disk: and the same command then comes to the same bytes as undisturbed."""
    check(faults, operation)


def test_processes_were_killed_at_work_and_left_something_to_go_on_with(faults: dict[str, Any]) -> None:
    seen = faults["seen"]
    assert sum(seen[f"{operation} killed"] for operation in OPERATIONS) > MOMENTS // 8
    assert all(seen[f"{operation} resumable"] for operation in ("build", "new", "append"))


def test_two_writers_and_many_readers(faults: dict[str, Any]) -> None:
    assert [line for line in faults["problems"] if line.startswith(("writers:", "readers:"))] == []
    assert faults["seen"]["openings"] > 30


@pytest.mark.slow
def test_two_hundred_moments(tmp_path: Path, tiny_weights: Path) -> None:
    found = run_faults(tmp_path, tiny_weights, 40 * len(OPERATIONS))
    assert found["problems"] == []
    for operation in OPERATIONS:
        check(found, operation)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Backbone) -> Iterator[Path]:
    """A bank that was built of images, with a support set, three shards, and rows that were removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_writer, "SHARD_ROWS", 24)
        data = folder_tree(tmp_path_factory.mktemp("data") / "tree", train=3)
        dataset = open_dataset(DataConfig(root=str(data), split="train"))
        features = FeatureConfig(negatives=2, support_size=8)
        path = tmp_path_factory.mktemp("banks") / "bank"
        made = build_bank(
            dataset, tiny_backbone, path, BankRecipe(features, InputConfig(size=None), BankConfig(size=60))
        )
        archive = made.remove(["train_1"]).export(path.parent / "bank.tar")  # without the state before that
        shutil.rmtree(path)
        assert len(MemoryBank.import_file(archive, path).manifest.segments) == 3
    before = contents(path)
    yield path
    assert contents(path) == before


def changed_bits(bank: Path, count: int, seed: int) -> Iterator[tuple[Path, int]]:
    """So many places of all files of the bank, with a bit changed there while it is looked at."""
    generator = np.random.default_rng(seed)
    files = sorted(bank.iterdir())
    sizes = np.array([file.stat().st_size for file in files])
    manifest = files.index(bank / "bank.json")
    chances = np.where(np.arange(len(files)) == manifest, sizes.sum(), sizes) / (2 * sizes.sum() - sizes[manifest])
    for number in generator.choice(len(files), count, p=chances):
        whole = files[number].read_bytes()
        data = bytearray(whole)
        place = int(generator.integers(len(data)))
        data[place] ^= 1 << int(generator.integers(8))
        files[number].write_bytes(data)
        try:
            yield files[number], place
        finally:
            files[number].write_bytes(whole)


def test_every_changed_bit_is_found(bank: Path) -> None:
    """At opening, as for all banks that aren't large."""
    seen = set()
    for file, place in changed_bits(bank, 500, 0):
        seen.add(file.name)
        with pytest.raises(BankError):
            pytest.fail(f"byte {place} of {file.name} was changed, and the bank opened with {MemoryBank.open(bank)}")
    assert len(seen) == len(list(bank.iterdir()))
    assert MemoryBank.open(bank).verify() == []


def test_every_changed_bit_of_a_large_bank_is_found(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At opening or by `verify`; and what holds it is refused before anything of it is used."""
    monkeypatch.setattr(bank_module, "CHECK_AT_OPEN", 0)
    for file, place in changed_bits(bank, 500, 1):
        if file.name == "bank.json":
            with pytest.raises(BankError):
                MemoryBank.open(bank)
            continue
        opened = MemoryBank.open(bank)
        assert any(str(file) in line for line in opened.verify()), (file.name, place)
        again = MemoryBank.open(bank)
        with pytest.raises(BankError, match=file.name):
            list(again.support if file.name.startswith("support") else again.rows.keys.chunks())


def test_a_large_bank_is_checked_before_it_is_searched(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "CHECK_AT_OPEN", 0)
    for file, _ in changed_bits(bank, 40, 3):
        if file.name.startswith("keys"):
            with pytest.raises(BankError, match=file.name):
                MemoryBank.open(bank).neighbour_index()
    assert MemoryBank.open(bank).neighbour_index().rows == len(MemoryBank.open(bank))


@pytest.mark.parametrize("limit", [1 << 29, 0])
def test_cut_off_or_longer_files_are_found_at_opening(bank: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(bank_module, "CHECK_AT_OPEN", limit)
    generator = np.random.default_rng(2)
    for file in sorted(bank.iterdir()):
        whole = file.read_bytes()
        cuts = [0, len(whole) - 1, *generator.integers(1, len(whole) - 1, 5).tolist()]
        for data in (*(whole[:cut] for cut in cuts), whole + b"x"):
            file.write_bytes(data)
            with pytest.raises(BankError, match=file.name):
                MemoryBank.open(bank)
        file.unlink()
        with pytest.raises(BankError, match=file.name):
            MemoryBank.open(bank)
        file.write_bytes(whole)


def test_files_that_changed_places_are_found(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one size, each sound by itself."""
    monkeypatch.setattr(bank_module, "CHECK_AT_OPEN", 0)
    shutil.copytree(bank, tmp_path / "bank")
    keys = sorted(tmp_path.glob("bank/keys-*"), key=lambda file: -file.stat().st_size)[:2]
    first, second = (file.read_bytes() for file in keys)
    assert len(first) == len(second)
    keys[0].write_bytes(second)
    keys[1].write_bytes(first)
    assert len(MemoryBank.open(tmp_path / "bank").verify()) == 2
