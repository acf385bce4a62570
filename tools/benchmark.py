"""Measure speed, memory and recall: `python tools/benchmark.py [configs/benchmark.yaml] [options]`.

Ratios come from pairs run one after another in one process; medians of several. Run it alone on the machine.
"""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from benchmark_bank import measure_bank
from benchmark_formats import measure_formats
from benchmark_search import measure_search
from benchmark_segmentation import (
    measure_audit,
    measure_build,
    measure_evaluation,
    measure_segmentation,
    plain_forward,
    synchronised,
)
from machine import machine
from rich.console import Console
from rich.table import Table
from timing import Result, pairs, seconds
from torchvision.transforms import v2

from fungi_seg import (
    Backbone,
    BackboneConfig,
    DataConfig,
    FungiSegError,
    ImageFeatureConfig,
    ImageFeatures,
    InputConfig,
    PatchFeatures,
    load_backbone,
    open_dataset,
)
from fungi_seg.cli import tool
from fungi_seg.features.views import SlidingPatches
from fungi_seg.files import replacing

SUITES = ("features", "segmentation", "evaluation", "search", "build", "audit", "images", "formats", "bank")
OF_ONE_BACKBONE = {"segmentation", "evaluation", "search", "build", "audit", "bank"}
SIDE = 512
WIDE = 768
MEMORY_PROBE = """
import sys, torch
from pathlib import Path
from fungi_seg import FeatureConfig, PatchFeatures, load_backbone
from fungi_seg.evaluation.evaluation import peak_memory
backbone = load_backbone(sys.argv[1], "random", sys.argv[2], sys.argv[3])
features = PatchFeatures(backbone, FeatureConfig(kind=sys.argv[4]))
image = torch.rand(1, 3, 1024, 1024)
status = Path("/proc/self/status")
if status.exists():
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
for _ in range(2):
    features(image)
peak = peak_memory(backbone.device)
if status.exists():
    peak["process"] = float(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
print(peak.get("gpu", peak.get("process")))
"""
IMAGE_MEMORY_PROBE = """
import sys, torch
from pathlib import Path
from fungi_seg import ImageFeatures, load_backbone
from fungi_seg.evaluation.evaluation import peak_memory
backbone = load_backbone(sys.argv[1], "random", sys.argv[2], sys.argv[3])
support = {"simclr": torch.randn(256, 49, backbone.dim)}
features = ImageFeatures(backbone, support=support)
prepared = [features.prepare(torch.rand(3, 300, 400)) for _ in range(int(sys.argv[4]))]
features.from_views(prepared[:1])
status = Path("/proc/self/status")
before = float(status.read_text().split("VmRSS:")[1].split()[0]) / 1e3
Path("/proc/self/clear_refs").write_text("5")
features.from_views(prepared)
print(float(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3 - before)
"""
VIEW_SIDE = 224
BATCHES = (4, 8, 16, 31, 62)


def benchmark(
    data: DataConfig = DataConfig(),
    backbone: BackboneConfig = BackboneConfig(),
    input: InputConfig = InputConfig(),
    models: tuple[str, ...] = ("vit_small_patch16_224.dino", "vit_base_patch16_224.dino"),
    suites: tuple[str, ...] = SUITES,
    rows: int = 102_400,
    repeats: int = 9,
    huge: bool = False,
    scratch: str | None = None,
    json: str | None = None,
) -> None:
    """Measure speed, memory and recall, and print a table.

    Args:
        data: annotated images for the banks; by default CamVid's training images below $FUNGI_SEG_DATA.
        backbone: for all suites but features, images and formats: their results depend on what the features are.
        input: how images enter that backbone; the suite segmentation makes squares of them.
        models: timm names for the suites features and images (the first of them), with random weights: speed doesn't
            depend on them.
        suites: features, segmentation, evaluation, search, build, audit, images, formats, bank; bank takes some minutes
            and 5 GB of disk, formats 0.5 GB; evaluation takes Pascal VOC below $FUNGI_SEG_DATA.
        rows: of the banks.
        repeats: pairs measured.
        huge: in the suite bank, a bank of 10 240 000 rows as well: 20 GB of disk.
        scratch: folder for the files of the suites bank and formats; the system's by default.
        json: file to write the results to.
    """
    unknown = set(suites) - set(SUITES)
    if unknown:
        raise FungiSegError(f"suites has {', '.join(sorted(unknown))}; known: {', '.join(SUITES)}")
    if not data.root:
        root = str(Path(os.environ.get("FUNGI_SEG_DATA", ".")) / "camvid")
        data = replace(data, layout="folder", root=root, split="train", void=11)
    results: list[Result] = []
    for result in measured(data, backbone, input, models, set(suites), rows, repeats, (huge, scratch)):
        print(f"{result.work}: {result.measured}", file=sys.stderr)
        results.append(result)
    where = machine(backbone.device)
    table = Table("work", "measured", "wanted", "reached")
    for result in results:
        table.add_row(result.work, result.measured, result.wanted, "yes" if result.reached else "NO")
    console = Console()
    console.print(table)
    console.print(where)
    if json:
        report = {"machine": where, "results": [vars(result) for result in results]}
        with replacing(Path(json)) as draft:
            draft.write_text(json_module.dumps(report, indent=1), encoding="utf-8")


def measured(
    data: DataConfig,
    backbone: BackboneConfig,
    input: InputConfig,
    models: tuple[str, ...],
    suites: set[str],
    rows: int,
    repeats: int,
    large: tuple[bool, str | None],
) -> Iterator[Result]:
    """The results of `suites`, one after another; `large` is `huge` and `scratch`."""
    huge, scratch = large
    if "images" in suites:
        yield from measure_images(models[0], backbone, repeats)
    if "formats" in suites:
        yield from measure_formats(scratch)
    if "features" in suites:
        for model in models:
            yield from measure_features(model, backbone, repeats)
    if not suites & OF_ONE_BACKBONE:
        return
    loaded = load_backbone(**vars(backbone))
    if "evaluation" in suites:
        yield measure_evaluation(loaded, rows)
    if suites == {"evaluation"}:
        return
    dataset = open_dataset(data)
    if "segmentation" in suites:
        yield from measure_segmentation(loaded, data, input, rows, repeats)
    if "build" in suites:
        yield measure_build(loaded, dataset, input, rows)
    if "audit" in suites:
        yield measure_audit(loaded, dataset)
    if "search" in suites:
        yield from measure_search(loaded, dataset, input, rows, repeats)
    if "bank" in suites:
        yield from measure_bank(loaded, dataset, replace(data, split="val"), input, rows, repeats, huge, scratch)


def measure_features(model: str, run: BackboneConfig, repeats: int) -> list[Result]:
    """Time of FUNGI patch features against the plain forward pass, one 512² image; peak memory, one of 1024²."""
    backbone = load_backbone(model, "random", run.device, run.dtype)
    features = PatchFeatures(backbone)
    image = torch.rand(1, 3, SIDE, SIDE)
    times = pairs(lambda: plain_forward(backbone, image), lambda: synchronised(features, image), repeats)
    peaks = {}
    for kind in ("plain", "fungi"):
        command = [sys.executable, "-c", MEMORY_PROBE, model, str(backbone.device), run.dtype, kind]
        probe = subprocess.run(command, capture_output=True, text=True, check=False)
        if probe.returncode:
            raise FungiSegError(f"the memory probe of {model} failed:\n{probe.stderr}")
        peaks[kind] = float(probe.stdout.split()[-1])
    extra = peaks["fungi"] - peaks["plain"]
    wanted = 1.08 if backbone.dim >= WIDE else 1.12  # the wider the backbone, the less of it the gradients are
    return [
        Result(f"FUNGI features, {model}, {SIDE}², {name_of(backbone.dtype)}",
               f"{times['ratio']:.3f} × the plain forward", f"≤ {wanted} ×", times["ratio"] <= wanted, times),
        Result("  peak memory over the plain forward, 4096 patches", f"{extra:.0f} MB", "≤ 60 MB", extra <= 60,
               {f"{kind}_mb": peak for kind, peak in peaks.items()}),
    ]  # fmt: skip


def measure_images(model: str, run: BackboneConfig, repeats: int) -> list[Result]:
    """FUNGI features of a whole image against its 62 views through the bare forward; `fast`; cutting; memory."""
    backbone = load_backbone(model, "random", run.device, run.dtype)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    makers = {}
    for fast in (False, True):
        makers[fast] = ImageFeatures(backbone, ImageFeatureConfig(fast=fast))
        views = makers[fast].objectives[-1].views.count
        makers[fast].use_support({"simclr": torch.randn(256, views, backbone.dim, generator=torch.Generator())})
    views_of_all = torch.cat(list(makers[False].prepare(pixels).values()))
    alone = {size: min(seconds(partial(bare, backbone, views_of_all, size)) for _ in range(3)) for size in BATCHES}
    batch = min(alone, key=lambda size: alone[size])
    against_bare = pairs(partial(bare, backbone, views_of_all, batch), lambda: makers[False]([pixels]), repeats)
    against_fast = pairs(lambda: makers[True]([pixels]), lambda: makers[False]([pixels]), repeats)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    cutting = pairs(lambda: cut_together(image, backbone), lambda: cut_one_by_one(image, backbone), 10 * repeats)
    extra = {count: image_memory(model, run, count) for count in (1, 4, 16)}
    a_view = (extra[16] - extra[1]) / 15 / len(views_of_all)
    what = f"{model}, {VIEW_SIDE}², {name_of(backbone.dtype)}"
    return [
        Result(f"KL, DINO and SimCLR of one image, {what}",
               f"{against_bare['ratio']:.3f} × its {len(views_of_all)} views, bare, {batch} at once", "≤ 1.15 ×",
               against_bare["ratio"] <= 1.15, against_bare | {"bare_seconds_by_batch": alone}),
        Result("  the same with fast", f"{against_fast['ratio']:.2f} × faster", "≥ 4 ×", against_fast["ratio"] >= 4,
               against_fast),
        Result("  cutting 49 overlapping views, resized and normalised",
               f"{cutting['ratio']:.1f} × faster than torchvision one by one", "≥ 5 ×", cutting["ratio"] >= 5, cutting),
        Result("  memory of a batch of 16 images over that of 1", f"{a_view:.2f} MB a view",
               "below a gradient", a_view * 1e6 < 4 * backbone.dim**2, {"extra_mb_by_images": extra}),
    ]  # fmt: skip


def bare(backbone: Backbone, views: torch.Tensor, batch: int) -> None:
    """All views through the bare forward pass, `batch` at once."""
    with torch.inference_mode():
        for part in views.split(batch):
            synchronised(backbone.tokens, part)


def cut_together(image: torch.Tensor, backbone: Backbone) -> list[torch.Tensor]:
    """49 normalised views as the package makes them: cut, then normalised in the chunks that go into the backbone."""
    views = SlidingPatches(VIEW_SIDE)(image, np.random.default_rng(0))
    return [backbone.normalise(part) for part in views.split(8)]


def cut_one_by_one(image: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """49 normalised views, each by torchvision's transforms."""
    bicubic = v2.InterpolationMode.BICUBIC
    patch = VIEW_SIDE // 2
    first = v2.Compose([v2.Resize((VIEW_SIDE, VIEW_SIDE), bicubic), v2.ToDtype(torch.float32, scale=True)])
    then = v2.Compose([v2.Resize((VIEW_SIDE, VIEW_SIDE), bicubic), v2.Normalize(backbone.mean, backbone.std)])
    square = first(image)
    starts = [round(i * patch / 6) for i in range(7)]
    return torch.stack([then(square[:, y : y + patch, x : x + patch]) for y in starts for x in starts])


def image_memory(model: str, run: BackboneConfig, images: int) -> float:
    """MB that the features of so many images need at the peak, over what is held before, in a process of its own."""
    command = [sys.executable, "-c", IMAGE_MEMORY_PROBE, model, "cpu", run.dtype, str(images)]
    probe = subprocess.run(command, capture_output=True, text=True, check=False)
    if probe.returncode:
        raise FungiSegError(f"the memory probe of {model} failed:\n{probe.stderr}")
    return float(probe.stdout.split()[-1])


def name_of(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(tool(benchmark))
