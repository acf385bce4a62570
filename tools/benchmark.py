"""Measure speed, memory and recall: `python tools/benchmark.py [configs/benchmark.yaml] [options]`.

Ratios come from pairs run one after another in one process; medians of several. Run it alone on the machine.
"""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from benchmark_bank import measure_bank, split_off, wide
from benchmark_formats import measure_formats
from rich.console import Console
from rich.table import Table
from timing import NEIGHBOURS, Result, pairs, processor, seconds
from torchvision.transforms import v2

from fungi_seg import (
    Backbone,
    BackboneConfig,
    BankConfig,
    DataConfig,
    Dataset,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    ImageFeatureConfig,
    ImageFeatures,
    IndexConfig,
    InputConfig,
    LoadConfig,
    NeighbourIndex,
    PatchFeatures,
    Segmenter,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import tool
from fungi_seg.features.views import SlidingPatches
from fungi_seg.files import replacing
from fungi_seg.images.fitting import Fitted, fit_image, same_size_batches
from fungi_seg.images.settings import RunConfig
from fungi_seg.progress import prefetch

SUITES = ("features", "segmentation", "search", "build", "images", "formats", "bank")
SIDE = 512
EVERY_STEP = DecoderConfig(gradient_weight=0.15, class_share=0.25, refine=1.0, ridge="fourier", ridge_share=0.5)
MEMORY_PROBE = """
import sys, torch
from pathlib import Path
from fungi_seg import FeatureConfig, PatchFeatures, load_backbone
from fungi_seg.evaluation.evaluation import peak_memory
backbone = load_backbone(sys.argv[1], "random", sys.argv[2], sys.argv[3])
features = PatchFeatures(backbone, FeatureConfig(kind=sys.argv[4]))
image = torch.rand(1, 3, 512, 512)
status = Path("/proc/self/status")
if status.exists():
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
for _ in range(5):
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
        backbone: for the suites search, build and bank, whose results depend on what the features are.
        input: how images enter that backbone.
        models: timm names for the suites features, segmentation and images (the first of them), with random weights:
            speed doesn't depend on them.
        suites: features, segmentation, search, build, images, formats, bank; bank takes some minutes and 2 GB of disk,
            formats 0.5 GB.
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
    if "images" in suites:
        results += measure_images(models[0], backbone, repeats)
    if "formats" in suites:
        results += measure_formats(scratch)
    dataset = open_dataset(data) if set(suites) & {"segmentation", "search", "build", "bank"} else None
    if "features" in suites:
        for model in models:
            results += measure_features(model, backbone, repeats)
    if dataset and "segmentation" in suites:
        results += measure_segmentation(models[0], backbone, dataset, rows, repeats)
    if dataset and {"search", "build", "bank"} & set(suites):
        loaded = load_backbone(**vars(backbone))
        if "build" in suites:
            results.append(measure_build(loaded, dataset, input, rows))
        if "search" in suites:
            results.append(measure_search(loaded, dataset, input, rows, repeats))
        if "bank" in suites:
            val = replace(data, split="val")
            for result in measure_bank(loaded, dataset, val, input, rows, repeats, huge, scratch):
                print(f"{result.work}: {result.measured}", file=sys.stderr)
                results.append(result)
    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": backbone.device if backbone.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "faiss": faiss.__version__,
    }
    table = Table("work", "measured", "wanted", "reached")
    for result in results:
        table.add_row(result.work, result.measured, result.wanted, "yes" if result.reached else "NO")
    console = Console()
    console.print(table)
    console.print(machine)
    if json:
        report = {"machine": machine, "results": [vars(result) for result in results]}
        with replacing(Path(json)) as draft:
            draft.write_text(json_module.dumps(report, indent=1), encoding="utf-8")


def measure_features(model: str, run: BackboneConfig, repeats: int) -> list[Result]:
    """Time and peak memory of FUNGI patch features against the plain forward pass, one 512² image."""
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
    return [
        Result(f"FUNGI features, {model}, {SIDE}², {name_of(backbone.dtype)}",
               f"{times['ratio']:.3f} × the plain forward", "≤ 1.15 ×", times["ratio"] <= 1.15, times),
        Result("  peak memory over the plain forward", f"{extra:.0f} MB", "≤ 200 MB", extra <= 200,
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


def measure_segmentation(model: str, run: BackboneConfig, dataset: Dataset, rows: int, repeats: int) -> list[Result]:
    """Image to mask with a bank of `rows` rows: against the plain forward pass, and with all that fitting can choose.

    One 512² image.
    """
    backbone = load_backbone(model, "random", run.device, run.dtype)
    square = InputConfig(SIDE, keep_aspect=False)
    needed = -(-rows // (SIDE // backbone.patch_size[0]) ** 2) + 8
    part = replace(dataset, items=dataset.items[:needed])
    with tempfile.TemporaryDirectory() as folder:
        bank = build_bank(
            part,
            backbone,
            Path(folder) / "bank",
            BankRecipe(input=square, bank=BankConfig(rows)),
            RunConfig(progress=True),
        )
    segmenter = Segmenter(bank, PatchFeatures(backbone, bank.info.features), DecoderConfig())
    fitted = fit_image(dataset[len(dataset) - 1].image, square, backbone.patch_size).image
    array = np.ascontiguousarray(fitted.permute(1, 2, 0).numpy())
    image = fitted[None]
    times = pairs(lambda: plain_forward(backbone, image), lambda: segmenter.predict(array), repeats)
    stages = {stage: seconds / (repeats + 2) for stage, seconds in segmenter.seconds.items() if stage != "index"}
    fully = Segmenter(bank, segmenter.features, EVERY_STEP)
    against = pairs(lambda: segmenter.predict(array), lambda: fully.predict(array), repeats)
    return [
        Result(f"whole FUNGI segmentation, {model}, {SIDE}², bank of {len(bank)}",
               f"{times['ratio']:.2f} × the plain forward", "≤ 2.5 ×", times["ratio"] <= 2.5,
               times | {"index": segmenter.index.kind, "mean_stage_seconds": stages,
                        "recall": segmenter.recall(array), "width": bank.info.dim}),
        Result("  with every step that can be fitted", f"{against['ratio']:.3f} × the published decoder", "≤ 1.15 ×",
               against["ratio"] <= 1.15, against | {"decoder": vars(EVERY_STEP), "recall": fully.recall(array)}),
    ]  # fmt: skip


def measure_build(backbone: Backbone, dataset: Dataset, input: InputConfig, rows: int) -> Result:
    """Building a FUNGI bank and its index against a plain forward pass over the same images, decoding included."""
    plain = PatchFeatures(backbone, FeatureConfig(kind="plain"))

    load = LoadConfig()

    def read(index: int) -> Fitted:
        return fit_image(dataset[index].image, input, backbone.patch_size)

    def forward() -> None:
        images = prefetch(read, range(len(dataset)), load.workers)
        for batch in same_size_batches(images, load.batch_size, lambda fitted: fitted):
            plain(torch.stack([fitted.image for fitted in batch]))

    def build() -> None:
        with tempfile.TemporaryDirectory() as folder:
            recipe = BankRecipe(input=input, bank=BankConfig(rows))
            bank = build_bank(dataset, backbone, Path(folder) / "bank", recipe, RunConfig(load, progress=True))
        NeighbourIndex(bank.rows.keys)

    times = pairs(forward, build, 3, warm_up=False)
    return Result(
        f"FUNGI bank of {len(dataset)} images with its index, {backbone.config.name}",
        f"{times['ratio']:.2f} × a plain forward over them", "≤ 2 ×", times["ratio"] <= 2, times,
    )  # fmt: skip


def measure_search(backbone: Backbone, dataset: Dataset, input: InputConfig, rows: int, repeats: int) -> Result:
    """The index that `auto` chooses against exact search, 1024 held-out patches, 768 dimensions, K = 30, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        part, queries = split_off(backbone, dataset, input)
        bank = build_bank(
            part,
            backbone,
            Path(folder) / "bank",
            BankRecipe(wide(backbone), input, BankConfig(rows)),
            RunConfig(progress=True),
        )
        keys = np.asarray(bank.rows.keys)
    started = time.perf_counter()
    fast = NeighbourIndex(keys, IndexConfig(device="cpu"))
    made = time.perf_counter() - started
    exact = NeighbourIndex(keys, IndexConfig("flat", device="cpu"))
    times = pairs(lambda: fast.search(queries, NEIGHBOURS), lambda: exact.search(queries, NEIGHBOURS), repeats)
    truth, rows_found = exact.search(queries, NEIGHBOURS)[1], fast.search(queries, NEIGHBOURS)[1]
    recall = float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, rows_found, strict=True)]))
    return Result(
        f"search {len(queries)} × {len(keys)} × {keys.shape[1]}, K = {NEIGHBOURS}, {backbone.config.name}",
        f"{times['ratio']:.1f} × IndexFlatIP's speed, recall {recall:.4f}", "≥ 4 ×, ≥ 0.98",
        times["ratio"] >= 4 and recall >= 0.98, times | {"index": fast.kind, "index_seconds": made},
    )  # fmt: skip


def plain_forward(backbone: Backbone, image: torch.Tensor) -> None:
    """The bare forward pass, without a graph."""
    with torch.inference_mode():
        synchronised(backbone.tokens, image)


def synchronised(function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> None:
    """Call and wait until a GPU is done."""
    if function(image).is_cuda:
        torch.cuda.synchronize()


def name_of(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(tool(benchmark))
