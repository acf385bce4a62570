"""The command that tests a bank by MMSegmentation: mmseg-test."""

from __future__ import annotations

import json as json_module
from typing import Any

from fungi_seg.commands.settings import Root


def mmseg_test(
    configuration: str,
    bank: str | None = None,
    data: Root = Root(),
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    cfg_options: tuple[str, ...] = (),
    json: str | None = None,
) -> None:
    """Test a bank by MMSegmentation's own Runner and metric, and print mIoU in full precision, by its rule and by ours.

    Args:
        configuration: one whose model is a FungiSegmentor: voc12, ade20k, or the path of a .py file.
        bank: folder of the bank, in place of the configuration's.
        data: the test data set, in place of the configuration's.
        work_dir: folder for MMSegmentation's logs.
        out: folder to write predicted masks to, as MMSegmentation does: class indices, one more with
            reduce_zero_label.
        show_dir: folder to draw truth and prediction of each image to.
        cfg_options: settings of the configuration to change, as model.decoder.k=10,log_level=WARNING.
        json: file to write the figures to, as JSON; - prints them in place of sentences.
    """
    from fungi_seg.commands.output import STANDARD_OUTPUT, write
    from fungi_seg.integrations import run_test

    figures = run_test(configuration, bank, data.root, work_dir, out, show_dir, cfg_options)
    if json != STANDARD_OUTPUT:
        _tell(figures)
    write(json, json_module.dumps(figures, indent=1, ensure_ascii=False))


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
