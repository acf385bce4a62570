"""A bank in parts: the same rows as one build gives, whatever the parts, and clear words where parts don't fit."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import Rejects, Run, build_of, data, rejects, run  # noqa: F401
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    BankRecipe,
    DataConfig,
    DataError,
    Dataset,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    LoadConfig,
    MemoryBank,
    RunConfig,
    build_bank,
    open_dataset,
)
from fungi_seg.bank import ShardedBuild, Share, TooFewCandidates, join_shards, stored_index

OWN = InputConfig(size=None)
IMAGES = 11
PLAIN = FeatureConfig(kind="plain")
CASES: dict[str, dict[str, Any]] = {
    "all rows": {"bank": BankConfig(size=None)},
    "balanced": {"bank": BankConfig(size=100)},
    "uniform": {"bank": BankConfig(size=100, sampling="uniform")},
    "one row": {"bank": BankConfig(size=1)},
    "as many as there are": {"bank": BankConfig(size=480)},
    "epochs": {"bank": BankConfig(size=150, epochs=3, augment=True), "input": InputConfig(size=48), "seed": 3},
    "int4": {"bank": BankConfig(size=100, key_dtype="int4")},
    "fungi": {"bank": BankConfig(size=100), "features": FeatureConfig()},
    "support": {"bank": BankConfig(size=100), "features": FeatureConfig(negatives=2, support_size=40)},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven training images; one holds nothing but void, one is no image."""
    root = folder_tree(tmp_path_factory.mktemp("data") / "tree", IMAGES)
    void = root / "train" / "masks" / "train_3.png"
    Image.fromarray(np.full_like(np.array(Image.open(void)), 255)).save(void)
    (root / "train" / "images" / "train_7.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def dataset(tree: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(tree), split="train"))


def recipe_of(case: str) -> BankRecipe:
    return replace(BankRecipe(input=OWN, features=PLAIN), **CASES[case])


def run_of(batch: int = 2) -> RunConfig:
    return RunConfig(LoadConfig(batch, 0), skip_bad=True)


def sharded(dataset: Dataset, backbone: Backbone, out: Path, count: int, recipe: BankRecipe, batch: int = 2) -> None:
    """Each part by a build of its own, in any order."""
    numbers = list(range(1, count + 1))
    random.Random(count).shuffle(numbers)
    for number in numbers:
        ShardedBuild(dataset, backbone, out, count, recipe, run_of(batch), {"data": {"split": "train"}}).write(number)


def assert_same_bank(one: MemoryBank, other: MemoryBank) -> None:
    """Bit for bit: keys as they are stored, labels, origins; and all that the bank says of itself but the times."""
    stored = [np.concatenate([part.take(slice(None)) for part in bank.contents.parts]) for bank in (one, other)]
    assert stored[0].dtype == stored[1].dtype
    assert stored[0].tobytes() == stored[1].tobytes()
    for name in ("source", "epoch", "box"):
        assert getattr(one.rows, name).tobytes() == getattr(other.rows, name).tobytes()
    for name in ("offsets", "ids", "weights"):
        assert getattr(one.rows.labels, name).tobytes() == getattr(other.rows.labels, name).tobytes()
    assert replace(one.info, created="") == replace(other.info, created="")
    assert one.manifest.class_pixels == other.manifest.class_pixels
    if one.support is not None:
        np.testing.assert_array_equal(one.support, other.support)


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_shards_gives_the_rows_of_one_build(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, case: str
) -> None:
    recipe = recipe_of(case)
    whole = build_bank(
        dataset, tiny_backbone, tmp_path / "whole", recipe, run_of(), record={"data": {"split": "train"}}
    )
    assert len(whole.info.build["skipped"]) == 2
    for count in (1, 2, 7, 64) if case == "balanced" else (3,):
        sharded(dataset, tiny_backbone, tmp_path / str(count), count, recipe)
        joined = join_shards(tmp_path / str(count))
        assert_same_bank(whole, joined)
        assert not joined.verify()
        assert [entry["action"] for entry in joined.history] == ["build"]


def test_keys_stay_where_they_are(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    sharded(dataset, tiny_backbone, tmp_path, 3, recipe_of("balanced"))
    bank = join_shards(tmp_path)
    assert not list(tmp_path.glob("keys-*"))
    for segment in bank.manifest.segments:
        assert segment.keys.file.startswith("shards/")
        assert (tmp_path / segment.keys.file).stat().st_size == segment.keys.bytes


def test_edits_export_and_compaction_of_a_joined_bank(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    whole = build_bank(dataset, tiny_backbone, tmp_path / "whole", recipe_of("balanced"), run_of())
    sharded(dataset, tiny_backbone, tmp_path / "bank", 3, recipe_of("balanced"))
    bank = join_shards(tmp_path / "bank")
    left = [b.remove(["train_0", "train_9"]) for b in (whole, bank)]
    assert np.asarray(left[0].rows.keys).tobytes() == np.asarray(left[1].rows.keys).tobytes()
    assert np.asarray(left[1].undo().rows.keys).tobytes() == np.asarray(whole.rows.keys).tobytes()
    left[1].export(tmp_path / "bank.tar")
    carried = MemoryBank.import_file(tmp_path / "bank.tar", tmp_path / "carried")
    assert not (tmp_path / "carried" / "shards").exists()
    assert not carried.verify()
    small = MemoryBank.open(tmp_path / "bank").compact()
    assert not list((tmp_path / "bank" / "shards").glob("*/*-of-*"))  # nothing names their keys any more
    assert not small.verify()
    assert np.asarray(small.rows.keys).tobytes() == np.asarray(whole.rows.keys).tobytes()
    other = build_bank(dataset, tiny_backbone, tmp_path / "other", recipe_of("balanced"), run_of())
    sharded(dataset, tiny_backbone, tmp_path / "again", 2, recipe_of("balanced"))
    with pytest.raises(BankError, match="of its images are in"):
        other.merge(join_shards(tmp_path / "again"))
    merged = other.remove([*other.info.sources[1:]]).merge(
        join_shards(tmp_path / "again", overwrite=True).remove([other.info.sources[0]])
    )
    assert not merged.verify()
    assert not (tmp_path / "other" / "shards").exists()


def test_a_large_joined_bank_carries_an_index(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fungi_seg.bank.build.INDEXED_FROM", 100)
    monkeypatch.setattr(stored_index, "train_coder", lambda keys, lists, seed: _coder(keys, 4))
    sharded(dataset, tiny_backbone, tmp_path, 3, recipe_of("balanced"))
    bank = join_shards(tmp_path)
    assert bank.manifest.index
    assert not bank.verify()


def _coder(keys: Any, lists: int) -> Any:
    from fungi_seg.search import train_coder

    return train_coder(keys, lists, seed=0)


def test_a_shard_that_is_complete_is_not_built_again(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    build = ShardedBuild(dataset, tiny_backbone, tmp_path, 2, recipe_of("balanced"), run_of())
    folder = build.write(1)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert build.write(1) == build.part(1).attempt(build.part(1).features(tiny_backbone)) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert build.is_done(1)
    assert not build.is_done(2)


def test_two_attempts_at_one_shard(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one finds the other's folder there only at its end; both give the same part."""
    job = ShardedBuild(dataset, tiny_backbone, tmp_path, 2, recipe_of("balanced"), run_of()).part(1)
    features = job.features(tiny_backbone)
    real = os.rename

    def overtaken(old: Path, new: Path) -> None:
        monkeypatch.setattr(os, "rename", real)
        assert pickle.loads(pickle.dumps(job)).attempt(features) == new  # as another process does it
        real(old, new)

    monkeypatch.setattr(os, "rename", overtaken)
    assert job.attempt(features) == job.folder
    assert [file.name for file in job.parent.iterdir()] == ["0001-of-0002"]
    assert not MemoryBank.open(job.folder).verify()


def test_parts_keep_what_may_stay(tree: Path, dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Of a small bank few candidates; where most images are void that may be too few, which isn't passed over."""
    few = replace(recipe_of("balanced"), bank=BankConfig(size=20))
    sharded(dataset, tiny_backbone, tmp_path / "few", 3, few)
    kept = sum(len(MemoryBank.open(folder)) for folder in (tmp_path / "few" / "shards").glob("*/*-of-*"))
    assert kept < 9 * 10 < 432  # 4 × 20 / 11 + 2 of each image, which has 48
    whole = build_bank(dataset, tiny_backbone, tmp_path / "whole", few, run_of(), record={"data": {"split": "train"}})
    assert_same_bank(whole, join_shards(tmp_path / "few"))
    root = Path(shutil.copytree(tree, tmp_path / "tree"))
    for mask in sorted((root / "train" / "masks").iterdir())[1:]:
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(mask)
    void = open_dataset(DataConfig(root=str(root), split="train"))
    recipe = replace(recipe_of("balanced"), bank=BankConfig(size=40))
    sharded(void, tiny_backbone, tmp_path / "void", 2, recipe)
    with pytest.raises(
        TooFewCandidates, match=r"the shards kept 1\d candidates, too few for the 40 rows.*--spare null"
    ):
        join_shards(tmp_path / "void")
    shutil.rmtree(tmp_path / "void")
    for number in (1, 2):
        ShardedBuild(void, tiny_backbone, tmp_path / "void", 2, recipe, run_of(), spare=None).write(number)
    assert len(join_shards(tmp_path / "void")) == 40


def test_a_stopped_shard_goes_on(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fungi_seg.bank import draft as drafts
    from fungi_seg.features import PatchFeatures

    monkeypatch.setattr(drafts, "PART_SECONDS", 0)
    recipe, seen = recipe_of("all rows"), list[int]()
    real = PatchFeatures.of

    def stopping(self: PatchFeatures, fitted: Any, names: Any = None) -> Any:
        seen.append(len(fitted))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, fitted, names)

    monkeypatch.setattr(PatchFeatures, "of", stopping)
    with pytest.raises(KeyboardInterrupt):
        ShardedBuild(dataset, tiny_backbone, tmp_path / "a", 2, recipe, run_of()).write(1)
    done = len(seen)
    ShardedBuild(dataset, tiny_backbone, tmp_path / "a", 2, recipe, run_of()).write(1)
    assert sum(seen[done:]) < 6  # of the six images of the first part, those done before aren't done again
    ShardedBuild(dataset, tiny_backbone, tmp_path / "a", 2, recipe, run_of()).write(2)
    assert_same_bank(
        build_bank(dataset, tiny_backbone, tmp_path / "whole", recipe, run_of()), join_shards(tmp_path / "a")
    )


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "1/2/3", "a/b", "-1/2", "", "1 /2"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(FungiSegError, match=r"shard is .*such as 3/64"):
        Share.of(text)


@pytest.mark.parametrize(("total", "count", "batch"), [(1, 64, 8), (367, 64, 8), (367, 7, 8), (16, 2, 8), (5, 3, 1)])
def test_shares_cover_all_images_once_in_whole_batches(total: int, count: int, batch: int) -> None:
    parts = [Share(number, count).images(total, batch) for number in range(1, count + 1)]
    assert [index for part in parts for index in part] == list(range(total))
    assert all(part.start % batch == 0 for part in parts if len(part))


def test_parts_that_are_missing_are_named(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(BankError, match=r"no shards there; build them with fungi-seg build --shard 1/2"):
        join_shards(tmp_path)
    build = ShardedBuild(dataset, tiny_backbone, tmp_path, 4, recipe_of("balanced"), run_of())
    build.write(2)
    with pytest.raises(BankError, match=r"3 of 4 are missing: --shard 1/4, --shard 3/4, --shard 4/4"):
        join_shards(tmp_path)
    assert not (tmp_path / "bank.json").exists()


def test_parts_of_two_builds(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    sharded(dataset, tiny_backbone, tmp_path, 2, recipe_of("balanced"))
    sharded(dataset, tiny_backbone, tmp_path, 3, recipe_of("balanced"))
    with pytest.raises(BankError, match=r"the shards of 2 builds are complete; remove those of all but one"):
        join_shards(tmp_path)
    three = next(folder for folder in (tmp_path / "shards").iterdir() if (folder / "0001-of-0003").exists())
    shutil.rmtree(three / "0002-of-0003")
    assert len(join_shards(tmp_path)) == 100


def test_a_bank_that_is_there_stays(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    first = build_bank(dataset, tiny_backbone, tmp_path, recipe_of("balanced"), run_of())
    sharded(dataset, tiny_backbone, tmp_path, 2, recipe_of("uniform"))
    with pytest.raises(BankError, match="there is a bank already"):
        join_shards(tmp_path)
    assert MemoryBank.open(tmp_path).manifest.seal == first.manifest.seal
    joined = join_shards(tmp_path, overwrite=True)
    assert joined.info.build["sampling"] == "uniform"
    assert not joined.verify()


def test_damaged_and_changed_parts(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    build = ShardedBuild(dataset, tiny_backbone, tmp_path, 2, recipe_of("balanced"), run_of())
    first = build.write(1)
    build.write(2)
    table = next(first.glob("table-*"))
    whole = table.read_bytes()
    table.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BankError, match="damaged or cut off"):
        join_shards(tmp_path)
    table.write_bytes(whole)
    keys = next(first.glob("keys-*"))
    os.truncate(keys, keys.stat().st_size - 1)
    with pytest.raises(BankError, match="damaged or cut off"):
        join_shards(tmp_path)
    shutil.rmtree(first)
    build.write(1)
    MemoryBank.open(first).remove([MemoryBank.open(first).info.sources[0]])
    with pytest.raises(BankError, match="was changed since it was built"):
        join_shards(tmp_path)
    shutil.rmtree(first)
    shutil.copytree(build.write(2), first)
    with pytest.raises(BankError, match="isn't the shard that its name says"):
        join_shards(tmp_path)
    assert not (tmp_path / "bank.json").exists()


def test_nothing_labelled_anywhere(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("train_3\n")
    only_void = open_dataset(DataConfig(root=str(tree), split="train", file_list=str(tmp_path / "ids.txt")))
    sharded(only_void, tiny_backbone, tmp_path / "bank", 2, recipe_of("balanced"))
    with pytest.raises(DataError, match="no labelled patch in any of the 2 shards"):
        join_shards(tmp_path / "bank")


def test_an_image_that_cannot_be_used(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """It ends its own part alone, and no folder of a part is taken for one."""
    build = ShardedBuild(dataset, tiny_backbone, tmp_path, 6, recipe_of("balanced"), RunConfig(LoadConfig(2, 0)))
    bad = next(number for number in range(1, 7) if any(dataset.items[i].id == "train_7" for i in build.images(number)))
    for number in range(1, 7):
        if number == bad:
            with pytest.raises(DataError, match="train_7"):
                build.write(number)
        else:
            build.write(number)
    with pytest.raises(BankError, match=f"1 of 6 are missing: --shard {bad}/6"):
        join_shards(tmp_path)


def test_from_the_command_line(run: Run, data: Path, tiny_weights: Path, tmp_path: Path) -> None:  # noqa: F811
    assert run(*build_of(data, tiny_weights, tmp_path / "whole"), "--fit=false")[0] == 0
    out = tmp_path / "bank"
    for number in (2, 1):
        code, told, _ = run(*build_of(data, tiny_weights, out), "--shard", f"{number}/2", "--load.batch_size=2")
        assert code == 0
        assert "96 candidate rows of 2 images" in told
        assert f"when all 2 are there: fungi-seg bank merge --sharded --bank {out}" in told
    code, told, _ = run("bank", "merge", "--sharded", "--bank", out)
    assert (code, told.splitlines()[0]) == (0, f"{out}: 192 rows of 48 from 4 images")
    assert_same_bank(MemoryBank.open(tmp_path / "whole"), MemoryBank.open(out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "0/2"], "shard is 0/2; the first number must be between 1 and the second"),
        (["--spare", "2"], "spare is 2.0, but it is of a part; name which one with --shard"),
        (["--shard", "1/2", "--spare", "0.5"], "spare is 0.5; it must be at least 1, or null for all candidates"),
        (["--shard", "half"], "shard is 'half'; it must be which part of how many, such as 3/64"),
    ],
)
def test_wrong_shares_are_wrong_usage(
    rejects: Rejects,  # noqa: F811
    data: Path,  # noqa: F811
    tiny_weights: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    rejects([message], *build_of(data, tiny_weights, tmp_path / "bank"), *arguments)


def test_what_merge_is_asked_for(rejects: Rejects, tmp_path: Path) -> None:  # noqa: F811
    rejects(["neither others nor --sharded is given"], "bank", "merge", "--bank", tmp_path / "a")
    rejects(["others are b and sharded is true"], "bank", "merge", "b", "--bank", tmp_path / "a", "--sharded")
    rejects(["--overwrite is of --sharded"], "bank", "merge", "b", "--bank", tmp_path / "a", "--overwrite")
    rejects(["no shards there"], "bank", "merge", "--bank", tmp_path / "a", "--sharded")
