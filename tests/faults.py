"""Changes a small bank in processes that are killed or run out of disk; `test_bank_faults.py` starts it.

`faults.py FOLDER WEIGHTS MOMENTS` works in FOLDER and prints, as JSON, what was wrong and how often what was seen.
One interpreter imports everything; its forks do the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import HALF, TINY
from PIL import Image
from trees import scene

from fungi_seg import (
    BankConfig,
    BankError,
    BankRecipe,
    DataConfig,
    Dataset,
    FeatureConfig,
    InputConfig,
    LoadConfig,
    MemoryBank,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank import build, draft, writer as bank_writer
from fungi_seg.bank.build import append_images
from fungi_seg.bank.edits import after
from fungi_seg.images.settings import RunConfig

CLASSES = ("background", "red", "green")
FULL = 3
Operation = Callable[[Path], object]


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fork(work: Callable[[], object], log: Path) -> int:
    """A process that does `work`: exit code 0, 3 if a bank refused, or 1 with a traceback in `log`."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            code = 0
        except BankError as error:
            log.write_text(str(error))
            code = FULL
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def images(root: Path, count: int, first: int) -> Dataset:
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    for i in range(first, first + count):
        for array, kind in zip(scene(i, 32, 48), ("images", "masks"), strict=True):
            Image.fromarray(array).save(root / "train" / kind / f"{i}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return open_dataset(DataConfig(root=str(root), split="train"))


class Faults:
    """The operations, the states they start from, and what was found."""

    def __init__(self, folder: Path, weights: Path):
        self.folder, self.log = folder, folder / "log.txt"
        self.backbone = load_backbone(
            "tiny", weights, dtype="float32", device="cpu", model_args=TINY, mean=HALF, std=HALF
        )
        self.one, self.two = images(folder / "one", 12, 0), images(folder / "two", 6, 20)
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()
        self.generator = np.random.default_rng(5)
        self.starts, self.other = folder / "starts", folder / "other"
        self.done(self.prepare)
        self.operations: dict[str, tuple[str, Operation]] = {
            "build": ("plain", partial(self.build, self.one, overwrite=True)),
            "new": ("nothing", partial(self.build, self.one)),
            "append": (
                "plain",
                lambda path: append_images(
                    MemoryBank.open(path), self.two, self.backbone, run=RunConfig(LoadConfig(2, 0))
                ),
            ),
            "remove": ("plain", lambda path: MemoryBank.open(path).remove(["40", "42"], ["green"])),
            "merge": ("plain", lambda path: MemoryBank.open(path).merge(self.other)),
            "index": ("plain", lambda path: MemoryBank.open(path).make_index(lists=4)),
            "undo": ("gaps", lambda path: MemoryBank.open(path).undo()),
            "compact": ("indexed", lambda path: MemoryBank.open(path).compact("int8")),
        }

    def build(self, dataset: Dataset, path: Path, **options: Any) -> MemoryBank:
        features, load = FeatureConfig(negatives=2, support_size=20), LoadConfig(2, 0)
        recipe = BankRecipe(features, InputConfig(size=None), BankConfig(200))
        return build_bank(dataset, self.backbone, path, recipe, RunConfig(load), **options)

    def prepare(self) -> None:
        self.starts.mkdir()
        self.build(images(self.folder / "three", 8, 40), self.starts / "plain")
        shutil.copytree(self.starts / "plain", self.starts / "gaps")
        MemoryBank.open(self.starts / "gaps").remove(["41"], ["red"])
        shutil.copytree(self.starts / "gaps", self.starts / "indexed")
        MemoryBank.open(self.starts / "indexed").make_index(lists=4)
        shutil.copytree(self.starts / "plain", self.other)
        ids = tuple(f"other{i}" for i in range(8))
        bank = MemoryBank.open(self.other)
        with bank_writer.changing(self.other) as writer:
            info = replace(bank.info, sources=ids)
            writer.commit(after(bank.contents, info, bank.manifest.segments, "rename"))

    def done(self, work: Callable[[], object]) -> None:
        """Do something in a process of its own, which must succeed."""
        if ended(fork(work, self.log)):
            raise RuntimeError(self.log.read_text())

    def start(self, name: str, folder: Path | None = None) -> Path:
        """A fresh copy of the state that an operation starts from."""
        bank, start = (folder or self.folder) / "bank", self.starts / self.operations[name][0]
        shutil.rmtree(bank, ignore_errors=True)
        if start.exists():
            shutil.copytree(start, bank)
        return bank

    def undisturbed(self, name: str) -> tuple[dict[str, str], dict[str, str], dict[str, str], float]:
        """Files before, after, and after a further change; seconds that it takes."""
        operation, took = self.operations[name][1], []
        for _ in range(2):
            bank = self.start(name)
            before, begin = contents(bank), time.monotonic()
            self.done(partial(operation, bank))
            took.append(time.monotonic() - begin)
        after = contents(bank)
        self.done(partial(self.further, bank))
        return before, after, contents(bank), min(took)

    @staticmethod
    def further(bank: Path) -> None:
        MemoryBank.open(bank).relabel({"red": "rot"})

    def problem(self, name: str, line: str) -> None:
        self.problems.append(f"{name}: {line}")

    def killed(self, name: str, moments: int) -> None:
        """At so many random moments of an operation."""
        before, after, further, seconds = self.undisturbed(name)
        for moment in self.generator.uniform(0, seconds, moments):
            bank = self.start(name)
            child = fork(partial(self.operations[name][1], bank), self.log)
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
            self.seen[f"{name} killed"] += ended(child) == -signal.SIGKILL
            self.resumed(f"{name} killed after {moment:.4f} s", name, bank, before, after, further)

    def resumed(
        self, what: str, name: str, bank: Path, before: dict[str, str], after: dict[str, str], further: dict[str, str]
    ) -> None:
        """It must be the old bank, and calling the same again lead to the new one; or it is the new one already."""
        found = contents(bank)
        state = next((n for n, files in (("new", after), ("old", before)) if files.items() <= found.items()), "broken")
        if state == "old" and not before and "bank.json" in found:
            state = "broken"
        self.seen[f"{name} {state}"] += 1
        self.seen[f"{name} resumable"] += ".draft/draft.json" in found
        extra = found.keys() - (before if state == "old" else after).keys()
        if any(not bank_writer._ours(Path(file).parts[0]) for file in extra):
            self.problem(what, f"left {sorted(extra)}")
        if state == "broken":
            self.problem(what, f"neither the old nor the new bank: {sorted(found)}")
            return
        if "bank.json" in found and MemoryBank.open(bank).verify():
            self.problem(what, "not sound")
        self.done(partial(self.operations[name][1] if state == "old" else self.further, bank))
        found = contents(bank)
        if state == "new":
            found = {file: digest for file, digest in found.items() if not file.startswith(".draft/")}
        if found != (after if state == "old" else further):
            wrong = sorted(found.items() ^ (after if state == "old" else further).items())
            self.problem(what, f"from the {state} state it came to something else: {wrong}")

    def limited(self, name: str, count: int) -> None:
        """With files that may not be longer than a random size, which fails as a full disk does."""
        before, after, further, _ = self.undisturbed(name)
        largest = max((self.folder / "bank" / file).stat().st_size for file in contents(self.folder / "bank"))
        for limit in self.generator.integers(1000, largest, count).tolist():  # the log is a file as well
            bank = self.start(name)
            code = ended(fork(partial(self.with_limit, limit, name, bank), self.log))
            self.told(f"{name} with files of {limit} bytes", name, code, bank)
            self.resumed(f"{name} with files of {limit} bytes", name, bank, before, after, further)

    def with_limit(self, limit: int, name: str, bank: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        self.operations[name][1](bank)

    def without_room(self, name: str, count: int) -> None:
        """On a disk that is too small, and grows afterwards."""
        before, after, further, _ = self.undisturbed(name)
        disk, start = self.folder / "disk", self.starts / self.operations[name][0]
        disk.mkdir(exist_ok=True)
        pages = sum(-(-file.stat().st_size // 4096) for file in start.glob("*")) if start.exists() else 0
        for room in range(1, count + 1):
            mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 * (pages + 2 * room)}", "tmpfs", str(disk)]
            subprocess.run(mount, check=True)
            bank = self.start(name, disk)
            code = ended(fork(partial(self.operations[name][1], bank), self.log))
            self.told(f"{name} with room for {2 * room} pages", name, code, bank)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            self.resumed(f"{name} with room for {2 * room} pages", name, bank, before, after, further)
            subprocess.run(["umount", str(disk)], check=True)

    def told(self, what: str, name: str, code: int, bank: Path) -> None:
        self.seen[f"{name} full"] += code == FULL
        text = self.log.read_text() if code else ""
        if code not in (0, FULL) or (code == FULL and f"{bank}: the bank can't be written" not in text):
            self.problem(what, f"ended with {code}: {text}")
        left = set(contents(bank)) & {bank_writer.LOCK, bank_writer.OWNER}
        if left or list(bank.glob(".new-*")):
            self.problem(what, f"left {left or list(bank.glob('.new-*'))}")

    def writers(self) -> None:
        """Three at once, each adding an image of its own whenever it gets a turn."""
        bank = self.start("append")
        parts = [replace(self.two, items=(item,)) for item in self.two.items[:3]]
        children = [fork(partial(self.add, part, bank), self.log) for part in parts]
        if sum(map(ended, children)):
            self.problem("writers", self.log.read_text())
        found = MemoryBank.open(bank)
        if sorted(found.info.sources) != sorted(i.id for i in (*images_of(bank, self), *self.two.items[:3])):
            self.problem("writers", f"came to {found.info.sources}")
        if found.verify() or {Path(file).name for file in contents(bank)} & {bank_writer.LOCK, bank_writer.OWNER}:
            self.problem("writers", "left something")

    def add(self, part: Dataset, bank: Path) -> None:
        while True:
            try:
                append_images(MemoryBank.open(bank), part, self.backbone, run=RunConfig(LoadConfig(1, 0)))
                return
            except BankError as error:
                if "is being changed by" not in str(error):
                    raise

    def readers(self, changes: int) -> None:
        """Two that open the bank again and again while it is changed."""
        bank = self.start("append")
        stop = self.folder / "stop"
        children = [fork(partial(self.read, bank, stop), self.folder / f"reader{i}") for i in range(2)]
        writer = ended(fork(partial(self.change, bank, changes), self.log))
        stop.touch()
        if writer + sum(map(ended, children)):
            logs = [
                file.read_text()
                for file in (self.log, self.folder / "reader0", self.folder / "reader1")
                if file.exists()
            ]
            self.problem("readers", "\n".join(logs))
        self.seen["openings"] += sum(int(file.read_text()) for file in self.folder.glob("opened*"))

    def change(self, bank: Path, changes: int) -> None:
        part = replace(self.two, items=self.two.items[:1])
        for number in range(changes):
            opened = MemoryBank.open(bank)
            if number % 3 == 0:
                append_images(opened, part, self.backbone, run=RunConfig(LoadConfig(1, 0)))
            elif number % 3 == 1:
                opened.remove([item.id for item in part.items])
            else:
                opened.compact(("int8", "int4", "float16")[number // 3 % 3])

    def read(self, bank: Path, stop: Path) -> None:
        number = 0
        while not stop.exists():
            opened = MemoryBank.open(bank)
            if opened.verify() or len(np.asarray(opened.rows.keys)) != len(opened):
                raise RuntimeError(f"opening {number}: {opened.verify()}")
            number += 1
        (self.folder / f"opened{os.getpid()}").write_text(str(number))


def images_of(bank: Path, faults: Faults) -> tuple[Any, ...]:
    """The images that the bank started with."""
    return tuple(open_dataset(DataConfig(root=str(faults.folder / "three"), split="train")).items)


def main(folder: str, weights: str, moments: str, namespace: str) -> None:
    """`moments` of killing in all, over all operations; a tenth as many full disks of either kind."""
    os.environ["SOURCE_DATE_EPOCH"] = "86400"
    torch.set_num_threads(1)
    bank_writer.SHARD_ROWS = draft.PART_ROWS = 64
    draft.PART_SECONDS = 0
    build.check_fit = lambda *_, **__: None  # the disk is filled by others, after it was found to have room
    faults = Faults(Path(folder), Path(weights))
    for name in faults.operations:
        faults.killed(name, -(-int(moments) // len(faults.operations)))
        faults.limited(name, max(2, int(moments) // 20))
        if namespace == "yes":
            faults.without_room(name, max(3, int(moments) // 20))
    faults.writers()
    faults.readers(30)
    print(json.dumps({"problems": faults.problems, "seen": faults.seen}))


if __name__ == "__main__":
    main(*sys.argv[1:])
