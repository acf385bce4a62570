"""The suites `segmentation`, `evaluation`, `build` and `audit` of benchmark.py: image to mask, and whole passes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_search import HELD_OUT, images_for, spread
from timing import Result, pairs, seconds, turns

from fungi_seg import (
    Backbone,
    BankConfig,
    BankRecipe,
    DataConfig,
    Dataset,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    LoadConfig,
    MemoryBank,
    PatchFeatures,
    RunConfig,
    Segmenter,
    build_bank,
    evaluate,
    open_dataset,
)
from fungi_seg.audit import audit_bank
from fungi_seg.bank import SourceImages
from fungi_seg.images.fitting import Fitted, fit_image, same_size_batches
from fungi_seg.progress import prefetch
from fungi_seg.segmentation import fit_decoder

EVERY_STEP = DecoderConfig(gradient_weight=0.15, class_share=0.25, refine=1.0, ridge="fourier", ridge_share=0.5)
VOC_SIDE = 504
AUDITED_IMAGES, AUDITED_ROWS = 10, 45_000
MEMORY_PROBE = """
import sys, torch
from pathlib import Path

def memory(key):
    return float(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1e3

torch.rand(64, 64) @ torch.rand(64, 64)
before = memory("VmRSS")
import numpy as np
from fungi_seg import Segmenter
segmenter, image = Segmenter(sys.argv[1], device="cpu", dtype=sys.argv[2]), np.load(sys.argv[3])
for _ in range(3):
    segmenter.predict(image)
print(memory("VmRSS") - before, memory("RssAnon"), memory("VmHWM") - before)
"""


def squared(input: InputConfig) -> InputConfig:
    """Squares of the side that `input` names."""
    if not isinstance(input.size, int):
        raise FungiSegError(f"input.size is {input.size}; the suite takes squares: give one number")
    return InputConfig(input.size, keep_aspect=False)


def measure_segmentation(
    backbone: Backbone, data: DataConfig, input: InputConfig, rows: int, repeats: int
) -> Iterator[Result]:
    """Image to mask with a bank of `rows` rows, and of images that aren't in it; and fitting that bank."""
    square, dataset = squared(input), open_dataset(data)
    part = spread(dataset, images_for(rows, backbone, dataset, square))
    with tempfile.TemporaryDirectory() as folder:
        recipe = BankRecipe(input=square, bank=BankConfig(rows))
        bank = build_bank(part, backbone, Path(folder) / "bank", recipe, RunConfig(progress=True))
        held_out = replace(dataset, items=dataset.items[-HELD_OUT:])
        fitted = [fit_image(sample.image, square, backbone.patch_size).image for sample in held_out]
        arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in fitted]
        features = PatchFeatures(backbone, bank.info.features)
        segmenters = {
            "auto": Segmenter(bank, features, DecoderConfig()),
            "exact": Segmenter(bank, features, DecoderConfig(), IndexConfig("flat")),
            "every step": Segmenter(bank, features, EVERY_STEP),
        }
        things: dict[str, Callable[[], Any]] = {"forward": partial(plain_forward, backbone, fitted[0][None])}
        things |= {name: partial(segmenter.predict, arrays[0]) for name, segmenter in segmenters.items()}
        times = turns(things, repeats)
        recall = float(np.mean([segmenters["auto"].recall(array) for array in arrays]))
        stages = {
            name: {stage: spent / (repeats + 2) for stage, spent in segmenter.seconds.items() if stage != "index"}
            for name, segmenter in segmenters.items()
        }
        facts = times.facts() | {"mean_stage_seconds": stages, "recall": recall, "width": bank.info.dim}
        auto, exact = times.ratio("auto", "forward"), times.ratio("exact", "forward")
        every = times.ratio("every step", "auto")
        what = f"{backbone.config.name}, {square.size}², bank of {len(bank)}"
        kind = segmenters["auto"].index.kind
        yield Result(f"image to mask with FUNGI, {what}",
                     f"{auto:.2f} × the plain forward ({times.median('forward'):.2f} s), recall {recall:.4f} ({kind})",
                     "≤ 2.0 ×, ≥ 0.98", auto <= 2 and recall >= 0.98, facts)  # fmt: skip
        yield Result("  the same, exact", f"{exact:.2f} × the plain forward", "≤ 3.0 ×", exact <= 3, {})
        yield Result("  with every step that can be fitted", f"{every:.3f} × the published decoder", "≤ 1.15 ×",
                     every <= 1.15, {"decoder": vars(EVERY_STEP)})  # fmt: skip
        yield measure_memory(bank, arrays[0], backbone.dtype, Path(folder))
        yield measure_fit(bank, data, features)


def measure_fit(bank: MemoryBank, data: DataConfig, features: PatchFeatures) -> Result:
    """Fitting the vote on a bank and its images, and keeping what was found."""

    def fit() -> None:
        bank.keep_decoder(fit_decoder(bank, images=SourceImages(bank, data), features=features).record())

    spent = seconds(fit)
    what = f"fitting a bank of {len(bank)} rows × {bank.info.dim}"
    return Result(what, f"{spent:.1f} s", "≤ 60 s", spent <= 60, {})


def measure_memory(bank: MemoryBank, image: np.ndarray, dtype: torch.dtype, folder: Path) -> Result:
    """Resident memory of image to mask in a process of its own, over what PyTorch has after its first product."""
    np.save(folder / "image.npy", image)
    name = str(dtype).removeprefix("torch.")
    command = [sys.executable, "-c", MEMORY_PROBE, str(bank.path), name, str(folder / "image.npy")]
    probe = subprocess.run(command, capture_output=True, text=True, check=False)
    if probe.returncode:
        raise FungiSegError(f"the memory probe of {bank.path} failed:\n{probe.stderr}")
    extra, anonymous, peak = map(float, probe.stdout.split()[-3:])
    return Result(
        "  resident memory over PyTorch's own",
        f"{extra:.0f} MB ({peak:.0f} MB at the peak; {anonymous:.0f} MB of all are no files)",
        "≤ 1000 MB", extra <= 1000, {"extra_mb": extra, "anonymous_mb": anonymous, "peak_mb": peak},
    )  # fmt: skip


def measure_evaluation(backbone: Backbone, rows: int) -> Result:
    """Where the time of an evaluation on Pascal VOC goes, protocol `native`."""
    data = DataConfig("voc", str(Path(os.environ.get("FUNGI_SEG_DATA", ".")) / "voc"), "trainaug")
    with tempfile.TemporaryDirectory() as folder:
        recipe = BankRecipe(input=InputConfig(VOC_SIDE, keep_aspect=False), bank=BankConfig(rows))
        bank = build_bank(open_dataset(data), backbone, Path(folder) / "bank", recipe, RunConfig(progress=True))
        segmenter = Segmenter(bank, PatchFeatures(backbone, bank.info.features), DecoderConfig())
        report = evaluate(segmenter, open_dataset(replace(data, split="val")), run=RunConfig(progress=True))
    share = report.seconds["search"] / report.seconds["total"]
    return Result(
        f"evaluation on {report.images} VOC images, {VOC_SIDE}², bank of {len(bank)}",
        f"{share:.0%} of {report.seconds['total']:.0f} s is search ({segmenter.index.kind})", "≤ 30 %", share <= 0.3,
        {"seconds": report.seconds, "miou": report.miou},
    )  # fmt: skip


def measure_build(backbone: Backbone, dataset: Dataset, input: InputConfig, rows: int) -> Result:
    """Building a FUNGI bank and its index against a plain forward pass over the same images, decoding included."""
    plain, load = PatchFeatures(backbone, FeatureConfig(kind="plain")), LoadConfig()

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
            bank.neighbour_index()

    times = pairs(forward, build, 3, warm_up=False)
    return Result(
        f"FUNGI bank of {len(dataset)} images with its index, {backbone.config.name}",
        f"{times['ratio']:.2f} × a plain forward over them", "≤ 1.3 ×", times["ratio"] <= 1.3, times,
    )  # fmt: skip


def measure_audit(backbone: Backbone, dataset: Dataset) -> Result:
    """An audit of a few large images."""
    side = backbone.patch_size[0] * round((AUDITED_ROWS / AUDITED_IMAGES) ** 0.5 + 1)
    with tempfile.TemporaryDirectory() as folder:
        recipe = BankRecipe(input=InputConfig(side, keep_aspect=False), bank=BankConfig(AUDITED_ROWS))
        bank = build_bank(spread(dataset, AUDITED_IMAGES), backbone, Path(folder) / "bank", recipe)
        spent = seconds(lambda: audit_bank(bank))
    return Result(
        f"audit of {AUDITED_IMAGES} images, {len(bank)} rows × {bank.info.dim}, {backbone.config.name}",
        f"{spent:.1f} s", "≤ 20 s", spent <= 20, {},
    )  # fmt: skip


def plain_forward(backbone: Backbone, image: torch.Tensor) -> None:
    """The bare forward pass, without a graph."""
    with torch.inference_mode():
        synchronised(backbone.tokens, image)


def synchronised(function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> None:
    """Call and wait until a GPU is done."""
    if function(image).is_cuda:
        torch.cuda.synchronize()
