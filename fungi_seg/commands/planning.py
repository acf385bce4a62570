"""The command that shows what a bank would take before it is built: plan."""

from __future__ import annotations

from fungi_seg.bank import BankConfig, BankRecipe
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import DataError, as_usage
from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig


def plan(
    out: str | None = None,
    data: DataConfig = DataConfig(),
    backbone: BackboneConfig = BackboneConfig(),
    features: FeatureConfig = FeatureConfig(),
    input: InputConfig = InputConfig(),
    bank: BankConfig = BankConfig(),
    load: LoadConfig = LoadConfig(),
    seed: int = 0,
    skip_bad: bool = False,
    overwrite: bool = False,
    protocol: str | None = None,
    fit: bool = True,
    calibrate: bool = True,
    json: str | None = None,
) -> None:
    """Tell what a memory bank would take, before it is built: rows, disk, memory, time.

    Takes the options of build and the same section of a recipe. A bank that can't fit is refused, with settings that
    would.

    Args:
        out: folder of the bank; its disk is asked for space, that of the current folder if none is given.
        data: the annotated images.
        backbone: the frozen vision transformer.
        features: what a patch feature is made of.
        input: how an image becomes the backbone's input.
        bank: which patches are kept.
        load: how images are worked through.
        seed: fixes sampling and augmentation.
        skip_bad: skip images and masks that can't be used.
        overwrite: the bank that is at --out may be replaced.
        protocol: take the build settings of native, best, hbird-v2, fungi, dip, or a .yaml file.
        fit: as of build; the time told is without it.
        calibrate: time a build of some of the images, about ten seconds.
        json: file to write the plan to, as JSON (bytes, seconds); - prints it in place of a table.
    """
    with as_usage():
        recipe = BankRecipe(features, input, bank, seed)
    from fungi_seg.bank import check_target, needs_of, refuse_unless_fits, room_at, shortages, survey
    from fungi_seg.commands.output import STANDARD_OUTPUT, print_table, write
    from fungi_seg.commands.plan_facts import as_json, facts, verdict
    from fungi_seg.datasets import open_dataset
    from fungi_seg.features import load_backbone
    from fungi_seg.planning import calibrate as run_calibration

    if out:
        check_target(out, overwrite)
    dataset, model, place = open_dataset(data, skip_bad, input), load_backbone(**vars(backbone)), out or "."
    seen = survey(dataset, recipe, model.patch_size)
    if not seen.sampled:
        raise DataError(
            f"data.root {data.root}: none of the images looked at can be read or is as large as a patch; the first is "
            f"{dataset.items[0].image}"
        )
    ask, room = needs_of(seen, model, features), room_at(place)
    needs = ask(bank, load)
    missing, timing = shortages(needs, room), None
    if calibrate and not missing:
        timing = run_calibration(dataset, model, place, needs, recipe, RunConfig(load, skip_bad))
    write(json, as_json(seen, needs, room, timing, missing))
    if json != STANDARD_OUTPUT:
        print_table(("plan", out or "a bank"), list(facts(seen, needs, room, timing, bank)), "left")
    refuse_unless_fits(ask, bank, load, room, place)
    if json != STANDARD_OUTPUT:
        print(verdict(needs, room, timing))
