"""The command that shows what a bank would take before it is built: plan."""

from __future__ import annotations

from pathlib import Path

from fungi_seg.bank import BankConfig, BankRecipe
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import DataError, UsageError, as_usage
from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig
from fungi_seg.planning import NodeConfig


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
    nodes: int | None = None,
    images: float | None = None,
    node: NodeConfig = NodeConfig(),
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
        nodes: tell what a cluster of so many machines would take, by a model of stages that are timed here, with 1, 2
            and 4 workers, in a minute or two.
        images: that there would be then, such as 100e6, like those of the data; by default as many as there are.
        node: what each machine of the cluster is like.
        json: file to write the plan to, as JSON (bytes, seconds); - prints it in place of a table.
    """
    with as_usage():
        recipe = BankRecipe(features, input, bank, seed)
    if nodes is None and (images is not None or node != NodeConfig()):
        raise UsageError("--images and --node.… are of a cluster; name how many machines it has with --nodes")
    if (nodes is not None and nodes < 1) or (images is not None and images < 1):
        raise UsageError(f"nodes is {nodes} and images {images}; both must be at least 1")
    from fungi_seg.bank import check_target, needs_of, refuse_unless_fits, room_at, shortages, survey
    from fungi_seg.commands.output import STANDARD_OUTPUT, print_table, write
    from fungi_seg.commands.plan_cluster import Cluster, cluster_facts, cluster_json, forecast_for
    from fungi_seg.commands.plan_facts import as_json, facts, verdict
    from fungi_seg.datasets import open_dataset
    from fungi_seg.features import load_backbone
    from fungi_seg.planning import calibrate as run_calibration

    if out:
        check_target(Path(out).expanduser(), overwrite)
    dataset, model, place = open_dataset(data, skip_bad, input), load_backbone(**vars(backbone)), out or "."
    seen = survey(dataset, recipe, model.patch_size)
    if not seen.sampled:
        raise DataError(
            f"data.root {data.root}: none of the images looked at can be read or is as large as a patch; the first is "
            f"{dataset.items[0].image}"
        )
    if nodes is not None:
        run = RunConfig(load, skip_bad)
        found = forecast_for(dataset, model, place, recipe, run, Cluster(nodes, node, images or len(dataset)), seen)
        write(json, cluster_json(found))
        if json != STANDARD_OUTPUT:
            print_table((f"plan for {nodes} nodes", out or "a bank"), list(cluster_facts(found)), "left")
        return
    ask, room = needs_of(seen, model, features), room_at(Path(place))
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
