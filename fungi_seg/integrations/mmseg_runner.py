"""A bank tested by MMSegmentation's own Runner and metric."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

import numpy as np

from fungi_seg.config import find
from fungi_seg.datasets import read_config, rooted
from fungi_seg.errors import DataError, FungiSegError, UsageError, reason
from fungi_seg.evaluation import intersection_over_union, mean_iou


def run_test(
    config: str,
    bank: str | None = None,
    root: str | None = None,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    cfg_options: Sequence[str] = (),
) -> dict[str, Any]:
    """What MMSegmentation measures, and mIoU in full precision, by its rule (`mmseg`) and by ours (`native`).

    Args:
        config: a configuration whose model is a FungiSegmentor, or the name of one that comes with the package.
        bank: folder of the bank, in place of the configuration's.
        root: folder of the test data set, in place of the configuration's.
        work_dir: folder for MMSegmentation's logs.
        out: folder to write predicted masks to.
        show_dir: folder to draw truth and prediction of each image to.
        cfg_options: settings of the configuration to change, as `key=value`.
    """
    settings = _settings(config, bank, root, work_dir, cfg_options)
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
    return {
        "config": config,
        "bank": runner.model.bank.place,
        "index": runner.model.segmenter.index.kind,
        "decoder": vars(runner.model.segmenter.decoder),
        "images": counts.images,
        "mmseg": {name: float(value) for name, value in metrics.items()},
        **_figures(counts.matrix.counts, classes),
    }


def _settings(config: str, bank: str | None, root: str | None, work_dir: str | None, cfg_options: Sequence[str]) -> Any:
    """The configuration, with what the command line changes in it."""
    path = find("the configuration", config, "mmseg", ".py")
    if not path.is_file():
        raise DataError(f"the configuration is {config!r}: no such file; give its path, or voc12 or ade20k")
    settings = read_config(path)
    settings.merge_from_dict(_parsed(cfg_options))
    model = settings.get("model", {}).get("type")
    if model != "FungiSegmentor":
        raise FungiSegError(f"{config}: the model is of type {model!r}; it must be a FungiSegmentor")
    if not settings.get("test_dataloader"):
        raise FungiSegError(f"{config}: there is no test_dataloader; name the data set to test on")
    if bank:
        settings.model.bank = bank
    if root:
        settings.test_dataloader.dataset = rooted(settings.test_dataloader.dataset, root)
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
            raise UsageError(f"cfg_options begins with {option!r}; it must be like model.decoder.k=10")
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
                "predicted_pixels": int(predicted),
            }
            for name, value, there, predicted in found
        ],
    }
