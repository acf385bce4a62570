"""Planning a bank: rows, disk and memory before anything is built, against banks that are built for real."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import HALF, TINY
from PIL import Image
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    DataError,
    Dataset,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    LoadConfig,
    RunConfig,
    bank as door,
    build_bank,
    open_dataset,
)
from fungi_seg.bank import room as planned
from fungi_seg.bank.draft import Draft
from fungi_seg.bank.room import Room, candidates, check_fit, existing, room_at, size_text, survey
from fungi_seg.bank.sampling import BalancedReservoir
from fungi_seg.bank.settings import KEY_DTYPES, BankRecipe
from fungi_seg.cli import main
from fungi_seg.planning import Load, NodeConfig, Stages, forecast
from fungi_seg.planning.calibration import calibrate, excerpt
from fungi_seg.search.index import EXACT, LISTS

OWN = InputConfig(size=None)
PLAIN, FUNGI = FeatureConfig(kind="plain"), FeatureConfig()
PATCHES = 48  # of an image of 48×64 at patch 8
AMPLE = Room(disk=10**15, memory=10**15, all_memory=10**15)
Output = tuple[int, str, str]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty training images of 48×64, each of which has labelled pixels in all patches."""
    return folder_tree(tmp_path_factory.mktemp("data") / "tree", train=40)


@pytest.fixture(scope="module")
def dataset(tree: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(tree), split="train"))


@pytest.fixture(scope="module")
def many(dataset: Dataset) -> Dataset:
    """Ten thousand images of 48×64."""
    return replace(dataset, items=dataset.items * 250)


@pytest.fixture
def with_room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the machine other figures."""

    def give(**figures: int | None) -> None:
        for module in (door, planned):  # the door first: it finds what is in the module
            monkeypatch.setattr(module, "room_at", lambda out: replace(AMPLE, **figures))

    return give


def ask(dataset: Dataset, backbone: Backbone, features: FeatureConfig = PLAIN, **bank: Any) -> planned.Needs:
    return check_fit(dataset, backbone, ".", BankRecipe(features, OWN, BankConfig(**bank)), LoadConfig())


# Rows


@pytest.mark.parametrize("size", [None, 100, 5000])
def test_rows_are_those_of_the_bank(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, size: int | None
) -> None:
    needs = ask(dataset, tiny_backbone, size=size)
    bank = build_bank(dataset, tiny_backbone, tmp_path / "bank", BankRecipe(PLAIN, OWN, BankConfig(size)))
    assert needs.rows == len(bank) == min(size or 5000, 40 * PATCHES)
    assert needs.dim == bank.info.dim == 24
    assert needs.patches == bank.info.build["available_rows"] == 40 * PATCHES


def test_epochs_multiply_the_patches_of_crops(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = BankConfig(None, epochs=3, augment=True)
    bank = build_bank(dataset, tiny_backbone, tmp_path / "bank", BankRecipe(PLAIN, OWN, config))
    needs = check_fit(dataset, tiny_backbone, tmp_path, BankRecipe(PLAIN, OWN, config), LoadConfig())
    assert needs.rows == pytest.approx(len(bank), rel=0.1)
    assert needs.rows < 3 * 40 * PATCHES  # crops are smaller than their image


def test_survey_takes_images_evenly_and_passes_over_what_cannot_be_read(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "tree", train=100)
    small, mask = scene(1, 24, 32)
    for i in range(0, 100, 2):
        Image.fromarray(small).save(root / "train" / "images" / f"train_{i}.png")
        Image.fromarray(mask).save(root / "train" / "masks" / f"train_{i}.png")
    (root / "train" / "images" / "train_17.png").write_bytes(b"no image")
    seen = survey(open_dataset(DataConfig(root=str(root), split="train")), BankRecipe(input=OWN), (8, 8))
    assert (seen.images, seen.largest, seen.pixels, seen.classes) == (100, PATCHES, 48 * 64, 3)
    assert 62 <= seen.sampled <= 64
    assert not seen.complete
    assert seen.patches == pytest.approx((PATCHES + 12) / 2, rel=0.1)
    none = survey(open_dataset(DataConfig(root=str(root), split="train")), BankRecipe(input=OWN), (99, 99))
    assert (none.sampled, none.patches) == (0, 0)


def test_size_of_an_image_whose_header_pillow_does_not_know(tmp_path: Path) -> None:
    import cv2

    deep = np.random.default_rng(0).integers(0, 2**16, (16, 24, 3)).astype(np.float32)
    cv2.imwrite(str(tmp_path / "deep.tif"), deep)
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tmp_path / "deep.tif")
    assert planned._size(tmp_path / "deep.tif") == (16, 24)


# Disk


@pytest.mark.parametrize("keys", KEY_DTYPES)
@pytest.mark.parametrize("features", [PLAIN, FUNGI, FeatureConfig(negatives=2, support_size=200)])
def test_disk_is_that_of_a_real_bank(
    dataset: Dataset,
    tiny_backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: str,
    features: FeatureConfig,
) -> None:
    drafts = []

    def measured(draft: Draft) -> None:
        drafts.append(sum(file.stat().st_size for file in draft.folder.glob("*")))
        removed(draft)

    removed = Draft._remove
    monkeypatch.setattr(Draft, "_remove", measured)
    build_bank(dataset, tiny_backbone, tmp_path / "bank", BankRecipe(features, OWN, BankConfig(key_dtype=keys)))
    needs = ask(dataset, tiny_backbone, features, key_dtype=keys)
    written = sum(file.stat().st_size for file in (tmp_path / "bank").iterdir() if file.is_file())
    assert needs.bank == pytest.approx(written, rel=0.1)
    assert needs.draft == pytest.approx(max(drafts), rel=0.1)
    assert needs.disk == needs.bank + needs.draft


def test_disk_of_a_bank_that_gets_an_index(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = ask(dataset, tiny_backbone)
    for module in ("room", "build"):
        monkeypatch.setattr(f"fungi_seg.bank.{module}.INDEXED_FROM", without.rows)
    bank = build_bank(dataset, tiny_backbone, tmp_path / "bank", BankRecipe(PLAIN, OWN))
    written = sum(entry.bytes for entry in bank.manifest.entries())
    codes = sum(file.stat().st_size for name in ("codes", "index") for file in bank.path.glob(f"{name}-*"))
    needs = ask(dataset, tiny_backbone)
    assert needs.bank - without.bank == pytest.approx(codes, rel=0.02)
    assert needs.bank == pytest.approx(written, rel=0.1)
    assert ask(dataset, tiny_backbone, size=without.rows - 1).bank < without.bank


@pytest.mark.parametrize(
    ("size", "images", "each"), [(3000, 400, 60), (40_000, 300, 1000), (500, 3, 100), (None, 4, 9)]
)
def test_candidates_are_those_a_reservoir_takes(size: int | None, images: int, each: int) -> None:
    reservoir, generator, taken = BalancedReservoir(size), np.random.default_rng(0), 0
    for _ in range(images):
        _, priorities = reservoir.choose(np.ones((each, 1), int), generator)
        reservoir.add(priorities)
        taken += len(priorities)
    assert candidates(images * each, size) == pytest.approx(taken, rel=0.05)


def test_an_own_draft_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    (tmp_path / "bank" / ".draft").mkdir(parents=True)
    assert room_at(tmp_path / "bank").disk == 1000
    (tmp_path / "bank" / ".draft" / "keys-00000.npy").write_bytes(bytes(234))
    assert room_at(tmp_path / "bank").disk == 1234


def test_files_of_a_killed_build_count_as_free(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that no bank holds; of a bank whose manifest is damaged, none."""
    monkeypatch.setattr(planned.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    out = tmp_path / "bank"
    out.mkdir()
    (out / f"keys-{'0' * 16}.npy").write_bytes(bytes(200))
    (out / ".new-0a.npy").write_bytes(bytes(30))
    (out / "notes.txt").write_bytes(bytes(7))
    assert room_at(out).disk == 1230
    monkeypatch.undo()
    build_bank(dataset, tiny_backbone, tmp_path / "whole", BankRecipe(PLAIN, OWN, BankConfig(9)))
    monkeypatch.setattr(planned.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert room_at(tmp_path / "whole").disk == 1000
    (tmp_path / "whole" / ".new-0a.npy").write_bytes(bytes(30))
    assert room_at(tmp_path / "whole").disk == 1030
    (tmp_path / "whole" / "bank.json").write_text("{}")
    assert room_at(tmp_path / "whole").disk == 1000


def test_room_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    room = room_at(tmp_path / "a" / "b")
    assert room.disk > 0
    assert room.memory is None or 0 < room.memory < (room.all_memory or math.inf)


# Fit


def test_a_bank_that_fits_is_not_refused(
    dataset: Dataset, tiny_backbone: Backbone, with_room: Callable[..., None]
) -> None:
    needs = ask(dataset, tiny_backbone)
    with_room(disk=needs.disk, memory=needs.build_memory, all_memory=needs.search_memory)
    assert ask(dataset, tiny_backbone) == needs
    with_room(memory=None, all_memory=None)
    assert ask(dataset, tiny_backbone) == needs


@pytest.mark.parametrize(("share", "keys"), [(0.9, "int8"), (0.6, "int4"), (0.2, None)])
def test_too_small_a_disk_is_refused_with_settings_that_fit(
    many: Dataset, tiny_backbone: Backbone, with_room: Callable[..., None], share: float, keys: str | None
) -> None:
    disk = round(ask(many, tiny_backbone, FUNGI).disk * share)
    with_room(disk=disk)
    with pytest.raises(BankError, match="a bank of up to 102400 rows of 48 doesn't fit") as refused:
        ask(many, tiny_backbone, FUNGI)
    told = str(refused.value)
    assert f"{size_text(disk)} free" in told
    assert "--out on another disk" in told
    size = int(told.split("bank.size ")[1].split()[0])
    assert ask(many, tiny_backbone, FUNGI, size=size).disk <= disk
    step = 10 ** (len(str(size)) - 2)
    assert size % step == 0
    with pytest.raises(BankError):
        ask(many, tiny_backbone, FUNGI, size=size + step)
    assert ("bank.key_dtype" in told) == (keys is not None)
    if keys:
        assert f"bank.key_dtype {keys}" in told
        ask(many, tiny_backbone, FUNGI, key_dtype=keys)


def test_candidates_of_a_small_bank_do_not_shrink_with_it(
    dataset: Dataset, tiny_backbone: Backbone, with_room: Callable[..., None]
) -> None:
    with_room(disk=100_000)
    with pytest.raises(BankError, match="--out on another disk") as refused:
        ask(dataset, tiny_backbone)
    assert "bank.size" not in str(refused.value)


def test_too_little_memory_to_search_is_refused(
    dataset: Dataset, tiny_backbone: Backbone, with_room: Callable[..., None]
) -> None:
    needs = ask(dataset, tiny_backbone)
    with_room(all_memory=needs.search_memory - 1)
    with pytest.raises(BankError, match="memory to search it") as refused:
        ask(dataset, tiny_backbone)
    assert "another disk" not in str(refused.value)
    ask(dataset, tiny_backbone, size=int(str(refused.value).split("bank.size ")[1]))


def test_too_little_memory_to_build_is_refused(
    dataset: Dataset, tiny_backbone: Backbone, with_room: Callable[..., None]
) -> None:
    seen = survey(dataset, BankRecipe(input=OWN), (8, 8))
    needs = planned.needs_of(seen, tiny_backbone, PLAIN)
    four, one = (needs(BankConfig(), LoadConfig(batch_size=n)).build_memory for n in (4, 1))
    with_room(memory=(four + one) // 2)
    with pytest.raises(BankError, match="memory to build it") as refused:
        ask(dataset, tiny_backbone)
    assert "load.batch_size 1" in str(refused.value)
    with_room(memory=1000)
    with pytest.raises(BankError, match=r"would do:\n  a smaller input\.size$"):
        ask(dataset, tiny_backbone)


def test_memory_grows_with_what_is_held(dataset: Dataset, tiny_backbone: Backbone) -> None:
    seen = survey(dataset, BankRecipe(input=OWN), (8, 8))

    def needs(seen: planned.Survey, features: FeatureConfig, **bank: Any) -> planned.Needs:
        return planned.needs_of(seen, tiny_backbone, features)(BankConfig(**bank), LoadConfig())

    plain = needs(seen, PLAIN)
    large = replace(seen, largest=4096)
    gradients = needs(large, FUNGI).build_memory - needs(large, PLAIN).build_memory
    assert 4 * 2**19 < gradients < 4 * 4096**2  # a chunk of similarities, not those of all patches
    many = needs(replace(seen, images=10**6), PLAIN, size=10_000)
    lists = needs(replace(seen, images=10**6), PLAIN, size=10**6)
    assert (plain.index, lists.index) == (EXACT, LISTS)
    assert many.search_memory - plain.search_memory >= (10_000 - 1920) * 24
    assert lists.search_memory - plain.search_memory >= 10**6 * 24 // 8
    dense = needs(seen, FeatureConfig(projection="dense")).build_memory - needs(seen, FUNGI).build_memory
    assert dense == 24 * 24 * 25


@pytest.mark.parametrize(("size", "text"), [(12, "12 bytes"), (1234, "1.23 kB"), (999_600, "1 MB"), (3.2e9, "3.2 GB")])
def test_sizes_are_told_for_people(size: float, text: str) -> None:
    assert size_text(int(size)) == text


# Time


def test_excerpt_takes_runs_at_even_distances(dataset: Dataset) -> None:
    ids = [item.id for item in dataset.items]

    def places(count: int, run: int) -> list[int]:
        return [ids.index(item.id) for item in excerpt(dataset, count, run).items]

    assert places(8, 4) == [8, 9, 10, 11, 28, 29, 30, 31]
    assert places(1, 4) == [18]
    assert places(40, 4) == list(range(40))
    for count in range(1, 41):
        assert len(set(places(count, 3))) == count


def test_time_is_that_of_the_fastest_trial(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def build(part: Dataset, *_: Any, **__: Any) -> None:
        tried.append(len(part))
        clock[0] += 0.5 * len(part) * (2 if len(tried) == 3 else 1)

    clock = [0.0]
    monkeypatch.setattr("fungi_seg.planning.calibration.build_bank", build)
    monkeypatch.setattr("fungi_seg.planning.calibration.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("fungi_seg.planning.calibration.build_seconds", lambda rows, dim, kind: 7.0)
    needs = ask(dataset, tiny_backbone, size=None)
    arguments = (tiny_backbone, tmp_path / "bank", needs, BankRecipe(PLAIN, OWN, BankConfig(None)), RunConfig())
    timing = calibrate(dataset, *arguments)
    assert tried == [1, 1, 4, 4]  # warmed up, measured, and long enough, the first time disturbed
    assert timing.build == pytest.approx(0.5 * 40)
    assert timing.slowest == timing.range[1] == pytest.approx(2 * 0.5 * 40)
    assert timing.range[0] < timing.build
    assert (timing.index, timing.images) == (7.0, 4)
    tried.clear()
    assert calibrate(dataset.evenly(2), *arguments).build == pytest.approx(0.5 * 40)
    assert tried == [1, 1, 2, 2]


def test_calibration_leaves_nothing_and_takes_images_without_labels(tiny_backbone: Backbone, tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "tree", train=2)
    for i in range(2):
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(root / "train" / "masks" / f"train_{i}.png")
    data = open_dataset(DataConfig(root=str(root), split="train"))
    (tmp_path / "out").mkdir()
    needs = ask(data, tiny_backbone)
    arguments = (tiny_backbone, tmp_path / "out" / "bank", needs, BankRecipe(PLAIN, OWN), RunConfig())
    assert calibrate(data, *arguments).build > 0
    assert not list((tmp_path / "out").iterdir())
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(root / "train" / "masks" / "train_1.png")
    with pytest.raises(DataError, match="class ids outside"):
        calibrate(data, *arguments)
    assert not list((tmp_path / "out").iterdir())


def test_calibration_tells_where_it_cannot_write(dataset: Dataset, tiny_backbone: Backbone) -> None:
    needs = ask(dataset, tiny_backbone)
    with pytest.raises(BankError, match=r"/proc/bank: can't write there .* name another folder"):
        calibrate(dataset, tiny_backbone, "/proc/bank", needs, BankRecipe(PLAIN, OWN), RunConfig())


# The command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run a command in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> Output:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture
def recipe(tree: Path, tiny_weights: Path, tmp_path: Path) -> Path:
    """A recipe that builds from the tree with the tiny backbone."""
    backbone = {"name": "tiny", "weights": str(tiny_weights), "model_args": TINY, "mean": list(HALF), "std": list(HALF)}
    settings = {
        "build": {
            "data": {"layout": "folder", "root": str(tree), "split": "train"},
            "backbone": backbone | {"dtype": "float32"},
            "input": {"size": None},
            "bank": {"size": 1000},
            "out": str(tmp_path / "bank"),
        }
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_plan_then_build_with_one_recipe(run: Callable[..., Output], recipe: Path, tmp_path: Path) -> None:
    code, out, _ = run("plan", recipe, "--json", tmp_path / "plan.json")
    assert code == 0
    assert "It fits: up to 1000 rows" in out
    assert not (tmp_path / "bank").exists()
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["fits"], plan["needs"]["rows"], plan["needs"]["dim"], plan["images"]["images"]) == (True, 1000, 48, 40)
    assert plan["timing"]["range"][0] < plan["timing"]["build"] < plan["timing"]["range"][1]
    code, out, _ = run("build", "--config", recipe)
    assert code == 0
    assert "1000 rows of 48 from 40 images" in out
    code, _, err = run("plan", recipe, "--calibrate=false")
    assert code == 1
    assert "there is a bank already" in err


def test_plan_takes_its_section_after_that_of_build(run: Callable[..., Output], recipe: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(recipe.read_text())
    settings["plan"] = {"bank": {"size": 70}, "calibrate": False, "json": str(tmp_path / "plan.json")}
    recipe.write_text(yaml.safe_dump(settings))
    assert run("plan", f"--config={recipe}")[0] == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["needs"]["rows"], plan["timing"]) == (70, None)
    assert run("plan", recipe, "--bank.size", 60, "--protocol", "fungi")[0] == 0
    assert json.loads((tmp_path / "plan.json").read_text())["needs"]["rows"] == 60
    assert run("build", recipe, "--protocol", "native")[1].startswith(f"{tmp_path / 'bank'}: 1000 rows")


def test_plan_refuses_what_does_not_fit(
    run: Callable[..., Output], recipe: Path, tmp_path: Path, with_room: Callable[..., None]
) -> None:
    with_room(disk=200_000)
    code, out, err = run("plan", recipe, "--json", tmp_path / "plan.json")
    assert code == 1
    assert "beside it while it is built" in out
    assert "time to build" not in out
    assert "bank.key_dtype int4" in err
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is False
    assert run("plan", recipe, "--bank.key_dtype", "int4", "--calibrate=false")[0] == 0


def test_plan_of_images_that_cannot_be_read(run: Callable[..., Output], recipe: Path) -> None:
    code, _, err = run("plan", recipe, "--input.size", 4)
    assert code == 1
    assert "none of the images looked at can be read or is as large as a patch" in err


# Many machines

STAGES = Stages(start=5, part=0.5, image=0.25, busy=0.8, joining=1e-6, item=1000, errors={})
LOAD = Load(images=1e6, listed=1e6, read=1e5, rows=10**7, dim=384, candidates=5e7, row=800, worker=1e9)
NODE = NodeConfig(cores=10, memory=64, network=8, storage=1)


def test_time_of_workers_on_one_machine() -> None:
    """Parts in turns; a core is slower the more of them are busy, and workers without one of their own wait."""
    assert STAGES.build(40, 4, 1, 2) == pytest.approx(4 * 0.5 + 40 * 0.25)
    assert STAGES.build(40, 4, 2, 2) == pytest.approx((2 * 0.5 + 20 * 0.25) / 0.8)
    assert STAGES.build(40, 4, 4, 2) == pytest.approx((0.5 + 10 * 0.25) * 2 / 0.8)
    assert [STAGES.speed(used, 5) for used in (1, 3, 5)] == pytest.approx([1, 0.9, 0.8])


def test_what_a_cluster_takes() -> None:
    """Against sums by hand: ten cores of a node take 32 images a second, 1 GB a second passes the storage."""
    found = forecast(LOAD, STAGES, 4, NODE)
    assert found.compute == pytest.approx(1e6 / (4 * 32) + 4 * 0.5)
    assert (found.reading, found.writing, found.joining) == pytest.approx((1e11 / 1e9, 4e10 / 1e9, 50))
    assert found.build == pytest.approx(5 + found.compute + 50)
    assert found.driver == pytest.approx(1e9 + 3 * 1e9 + planned.MEMORY_OF_ROW * 1e7)
    assert (found.node, found.missing) == (10e9, ())
    assert found.limits[:5] == (
        "network: never; 7143 images a second pass a node's, which computes 32",
        "shared storage, reading images: from 312 nodes on",
        "shared storage, writing rows: from 781 nodes on",
        "joining by one process takes longer than computing: from 625 nodes on",
        "memory to build: a node has room for 64 workers",
    )
    small = forecast(LOAD, STAGES, 4, replace(NODE, memory=4))
    assert [line.split(":")[0] for line in small.missing][:2] == ["memory to build", "memory of the driver"]
    assert forecast(LOAD, STAGES, 4, replace(NODE, images_per_second=320)).compute == pytest.approx(1e6 / 1280 + 2)


@pytest.mark.parametrize("name", ["cores", "memory", "network", "storage", "images_per_second"])
def test_a_node_has_more_than_nothing(name: str) -> None:
    with pytest.raises(FungiSegError, match=rf"node\.{name} is 0; it must be above 0"):
        NodeConfig(**{name: 0})


def test_what_is_of_a_cluster_needs_one(run: Callable[..., Output], recipe: str) -> None:
    for option, value in (("--images", "1e6"), ("--node.cores", 4)):
        code, _, err = run("plan", recipe, option, value)
        assert (code, "are of a cluster; name how many machines it has with --nodes" in err) == (2, True)
    assert "nodes is 0 and images None; both must be at least 1" in run("plan", recipe, "--nodes", 0)[2]


@pytest.mark.slow
def test_stages_are_timed_and_taken_to_a_cluster(run: Callable[..., Output], recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    code, out, _ = run("plan", recipe, "--nodes", 8, "--images", "1e6", "--node.memory", 64, "--json", file)
    assert code == 0
    assert "plan for 8 nodes" in out
    plan = json.loads(file.read_text())
    assert plan["load"]["images"] == 1e6
    assert plan["stages"]["errors"].keys() == {"1", "2", "4"}
    assert 0 < plan["stages"]["busy"] <= 1
    assert plan["forecast"]["build"] > plan["forecast"]["compute"] > 0
    assert not list(tmp_path.rglob(".plan-*"))
