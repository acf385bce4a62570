"""Test a bank by MMSegmentation: `python tools/mmseg_test.py configs/mmseg/voc12.py --bank BANK [options]`."""

from __future__ import annotations

import json as json_module
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.cli import tool
from fungi_seg.datasets.mmseg import read_config, rooted
from fungi_seg.errors import DataError, FungiSegError, reason
from fungi_seg.evaluation.metrics import intersection_over_union, mean_iou
from fungi_seg.files import replacing


def mmseg_test(
    config: str,
    bank: str | None = None,
    data_root: str | None = None,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    cfg_options: tuple[str, ...] = (),
    json: str | None = None,
) -> None:
    """Test a bank by MMSegmentation's own Runner and metric, and tell mIoU in full precision, by its rule and by ours.

    Args:
        config: a configuration whose model is a FungiSegmentor, such as configs/mmseg/voc12.py.
        bank: folder of the bank, in place of the configuration's.
        data_root: folder of the test data set, in place of the configuration's.
        work_dir: folder for MMSegmentation's logs.
        out: folder to write predicted masks to, as MMSegmentation does: class indices, one more with
            reduce_zero_label.
        show_dir: folder to draw truth and prediction of each image to.
        cfg_options: settings of the configuration to change, as model.decoder.k=10,log_level=WARNING.
        json: file to write the figures to.
    """
    settings = _settings(config, bank, data_root, work_dir, cfg_options)
    if out:
        _write_masks(settings, out)
    if show_dir:
        _draw(settings, show_dir)
    from fungi_seg.integrations.mmseg import PixelCounts  # also for configurations that don't import it

    runner, loop = _runner(settings, config)
    classes = loop.dataloader.dataset.metainfo["classes"]
    runner.model.use_classes(classes)  # for configurations without the hook
    void = [metric.ignore_index for metric in loop.evaluator.metrics if hasattr(metric, "ignore_index")]
    counts = PixelCounts(len(classes), *void[:1])
    runner.register_hook(counts)
    metrics = _tested(runner, config)
    figures = {
        "config": config,
        "bank": str(runner.model.bank.path),
        "index": runner.model.segmenter.index.factory,
        "decoder": vars(runner.model.segmenter.decoder),
        "images": counts.images,
        "mmseg": {name: float(value) for name, value in metrics.items()},
        **_figures(counts.matrix.counts, classes),
    }
    _tell(figures)
    if json:
        with replacing(Path(json).expanduser()) as draft:
            draft.write_text(json_module.dumps(figures, indent=1, ensure_ascii=False), encoding="utf-8")


def _settings(
    config: str, bank: str | None, data_root: str | None, work_dir: str | None, cfg_options: Sequence[str]
) -> Any:
    """The configuration, with what the command line changes in it."""
    path = Path(config).expanduser()
    if not path.is_file():
        raise DataError(f"config is {config!r}: no such file; there are some in configs/mmseg")
    settings = read_config(path)
    settings.merge_from_dict(_parsed(cfg_options))
    model = settings.get("model", {}).get("type")
    if model != "FungiSegmentor":
        raise FungiSegError(f"{config}: the model is of type {model!r}; it must be a FungiSegmentor")
    if not settings.get("test_dataloader"):
        raise FungiSegError(f"{config}: there is no test_dataloader; name the data set to test on")
    if bank:
        settings.model.bank = bank
    if data_root:
        settings.test_dataloader.dataset = rooted(settings.test_dataloader.dataset, data_root)
    settings.work_dir = work_dir or settings.get("work_dir") or f"outputs/mmseg/{path.stem}"
    return settings


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs by mmengine's rules; what has no `=` belongs to the value before."""
    from mmengine.config import DictAction

    pairs: list[str] = []
    for option in options:
        if "=" in option:
            pairs.append(option)
        elif pairs:
            pairs[-1] += f",{option}"
        else:
            raise FungiSegError(f"cfg_options begins with {option!r}; it must be like model.decoder.k=10")
    parser = ArgumentParser()
    parser.add_argument("--pairs", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--pairs", *pairs]).pairs


def _write_masks(settings: Any, out: str) -> None:
    evaluators: Any = settings.get("test_evaluator") or {}
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if evaluator.get("type") == "IoUMetric":
            evaluator.output_dir = out
            return
    raise FungiSegError(f"out is {out!r}, but test_evaluator has no IoUMetric, which would write the masks")


def _draw(settings: Any, folder: str) -> None:
    if "visualization" not in settings.get("default_hooks", {}) or "visualizer" not in settings:
        raise FungiSegError(
            f"show_dir is {folder!r}, but the configuration has no visualizer, or default_hooks no visualization"
        )
    settings.default_hooks.visualization.draw = True
    settings.visualizer.save_dir = folder


def _runner(settings: Any, config: str) -> tuple[Any, Any]:
    """mmengine's Runner and its test loop, whose data set is open."""
    from mmengine.runner import Runner

    try:
        runner = Runner.from_cfg(settings)
        return runner, runner.test_loop
    except FungiSegError:
        raise
    except Exception as error:  # as each data set and hook likes
        where = settings.test_dataloader.dataset.get("data_root", "in several places")
        raise FungiSegError(
            f"{config}: the test can't be set up ({reason(error)}). The data set's data_root is {where!r}; name "
            f"another one with --data_root"
        ) from error


def _tested(runner: Any, config: str) -> dict[str, float]:
    """What MMSegmentation measures."""
    try:
        found: dict[str, float] = runner.test()
    except AssertionError as error:  # how MMSegmentation refuses batches of images of several sizes
        raise FungiSegError(
            f"{config}: MMSegmentation stopped the test ({reason(error)}); where images differ in size, leave "
            f"test_dataloader.batch_size at 1"
        ) from error
    return found


def _figures(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """mIoU by both rules, and each class; nothing where no sample had a truth."""
    if not counts.any():
        return {"miou": {}, "classes": []}
    iou, truth, predicted = intersection_over_union(counts), counts.sum(1), counts.sum(0)
    found = zip(classes, iou, truth, predicted, strict=True)
    return {
        "miou": {"mmseg": mean_iou(counts, "predicted"), "native": mean_iou(counts)},
        "classes": [
            {
                "name": name.strip(),
                "iou": None if np.isnan(value) else float(value),
                "truth_pixels": int(there),
                "predicted_pixels": int(told),
            }
            for name, value, there, told in found
        ],
    }


def _tell(figures: dict[str, Any]) -> None:
    if not figures["miou"]:
        print(f"{figures['bank']}: no sample had a truth to compare with")
        return
    phantom = [one["name"] for one in figures["classes"] if one["predicted_pixels"] and not one["truth_pixels"]]
    print(f"{figures['bank']}: {figures['images']} images")
    print(f"mIoU {figures['miou']['mmseg'] * 100:.6f} % by MMSegmentation's rule, in full precision")
    print(
        f"mIoU {figures['miou']['native'] * 100:.6f} % by the native rule (classes without truth left out), index "
        f"{figures['index']}"
    )
    if phantom:
        print(
            f"{len(phantom)} classes are predicted, but have no pixel in the truth; they count as 0 by "
            f"MMSegmentation's rule, and not at all by the native one: {', '.join(phantom)}"
        )


if __name__ == "__main__":
    sys.exit(tool(mmseg_test))
