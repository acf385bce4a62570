"""The suite `formats` of `tools/benchmark.py`: COCO files with many annotations."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from timing import Result, seconds

from fungi_seg import DataConfig, open_dataset

ANNOTATIONS, IMAGES, POINTS = 1_000_000, 100_000, 20
CROWD, SIDE = 5_000, 1000
PROBE = """
import json, sys, time
from pathlib import Path
from fungi_seg import DataConfig, open_dataset

def memory(key):
    return float(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1e3

before, start = memory("VmRSS"), time.perf_counter()
if sys.argv[1] == "open":
    opened = open_dataset(DataConfig("coco", sys.argv[2], "many"))
else:
    opened = json.loads(Path(sys.argv[2], "annotations", "instances_many.json").read_bytes())
print(json.dumps({"seconds": time.perf_counter() - start, "mb": memory("VmHWM") - before}))
"""


def measure_formats(scratch: str | None) -> Iterator[Result]:
    """A million annotations in one file, and thousands in one image."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder)
        half, whole = (_opened(root, count) for count in (ANNOTATIONS // 2, ANNOTATIONS))
        plain = _probe("json", root)
        size = (root / "annotations" / "instances_many.json").stat().st_size / 1e6
        yield Result(
            f"opening COCO, {ANNOTATIONS // 1_000_000} M annotations, {size:.0f} MB",
            f"{whole['seconds']:.1f} s, {whole['mb']:.0f} MB; {whole['seconds'] / half['seconds']:.2f} × the time of "
            f"half as many (json.loads: {plain['seconds']:.1f} s, {plain['mb']:.0f} MB)",
            "≤ 2.5 ×",
            whole["seconds"] <= 2.5 * half["seconds"],
            {"whole": whole, "half": half, "json": plain, "file_mb": size},
        )
        few, many = (_painted(root / str(count), count) for count in (CROWD // 2, CROWD))
        yield Result(f"painting {CROWD} instances in one {SIDE}×{SIDE} image",
                     f"{many:.2f} s, {many / few:.2f} × the time of half as many", "≤ 2.5 ×", many <= 2.5 * few,
                     {"whole": many, "half": few})  # fmt: skip


def _opened(root: Path, count: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    images = range(1, IMAGES * count // ANNOTATIONS + 1)
    (root / "many").mkdir(exist_ok=True)
    for number in images:
        (root / "many" / f"{number}.jpg").touch()
    owners = rng.integers(1, len(images) + 1, count)
    _write(root / "annotations" / "instances_many.json", [(i, 640, 480) for i in images], owners, 480, rng)
    return _probe("open", root)


def _painted(root: Path, count: int) -> float:
    (root / "crowd").mkdir(parents=True)
    Image.new("RGB", (SIDE, SIDE)).save(root / "crowd" / "1.jpg")
    rng = np.random.default_rng(0)
    _write(root / "annotations" / "instances_crowd.json", [(1, SIDE, SIDE)], np.ones(count, int), SIDE, rng)
    dataset = open_dataset(DataConfig("coco", str(root), "crowd"))
    return min(seconds(lambda: dataset[0]) for _ in range(3))


def _write(
    path: Path, images: list[tuple[int, int, int]], owners: np.ndarray, side: int, rng: np.random.Generator
) -> None:
    """Outlines of `POINTS` points around random places, radius 5 to 40 pixels, of 80 categories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": ')
        json.dump([{"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, w, h in images], file)
        file.write(', "categories": ')
        json.dump([{"id": i + 1, "name": f"class {i}"} for i in range(80)], file)
        file.write(', "annotations": [')
        for number, image in enumerate(owners.tolist(), 1):
            radius = rng.uniform(5, 40)
            centre = rng.uniform(radius, side - radius, 2)
            outline = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            annotation = {
                "id": number,
                "image_id": image,
                "category_id": int(rng.integers(1, 81)),
                "area": round(np.pi * radius**2, 2),
                "iscrowd": 0,
                "segmentation": [outline.round(2).ravel().tolist()],
            }
            file.write(("," if number > 1 else "") + json.dumps(annotation))
        file.write("]}")


def _probe(what: str, root: Path) -> dict[str, float]:
    """In a process of its own: seconds, and MB at the peak over what importing takes."""
    found = subprocess.run([sys.executable, "-c", PROBE, what, str(root)], capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(found.stdout)
    return measured
