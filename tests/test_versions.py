"""What was computed by another version of the feature code is never taken for features of this one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trees import class_tree, folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    BankRecipe,
    DataConfig,
    Dataset,
    FeatureConfig,
    FungiSegError,
    ImageFeatureConfig,
    InputConfig,
    LoadConfig,
    MemoryBank,
    PatchFeatures,
    RunConfig,
    Segmenter,
    build_bank,
    extract,
    open_dataset,
    open_images,
    provenance,
)
from fungi_seg.bank.manifest import MANIFEST, BankInfo, Manifest, read_manifest
from fungi_seg.datasets import ImageDataConfig
from fungi_seg.sweep.patch_cache import cached_patches

SIZE = InputConfig(size=None)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(folder_tree(tmp_path / "data")), split="train"))


@pytest.fixture
def bump(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The feature code is another one from now on."""
    return lambda: monkeypatch.setattr(provenance, "FEATURE_CODE", provenance.FEATURE_CODE + 1)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images whose features were computed."""
    done: list[str] = []
    compute = PatchFeatures.__call__

    def counted(self: PatchFeatures, images: Any, names: Any = None) -> Any:
        done.extend(names)
        return compute(self, images, names)

    monkeypatch.setattr(PatchFeatures, "__call__", counted)
    return done


def built(data: Dataset, backbone: Backbone, out: Path, **options: Any) -> MemoryBank:
    plain = FeatureConfig(kind="plain")
    recipe = BankRecipe(plain, SIZE, BankConfig(size=None))
    return build_bank(data, backbone, out, recipe, RunConfig(LoadConfig(1, 0)), **options)


def test_all_versions_that_features_depend_on() -> None:
    assert provenance.feature_code().keys() == {"feature code", "torch", "timm"}
    assert provenance.code_of(provenance.feature_code()) == str(provenance.FEATURE_CODE)
    assert provenance.code_of({"python": "3"}) == "1"


@pytest.mark.parametrize("library", [None, "torch", "timm"])
def test_the_cache_of_a_sweep_is_computed_anew(
    data: Dataset,
    tiny_backbone: Backbone,
    tmp_path: Path,
    bump: Callable[[], None],
    computed: list[str],
    library: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    features = PatchFeatures(tiny_backbone)

    def cache() -> list[str]:
        computed.clear()
        cached_patches(data, features, SIZE, tmp_path / "cache", np.float16, RunConfig(LoadConfig(2, 0), progress=True))
        return computed

    ids = [item.id for item in data.items]
    assert cache() == ids
    assert cache() == []
    if library:
        known = provenance.version
        monkeypatch.setattr(provenance, "version", lambda name: "0.0" if name == library else known(name))
    else:
        bump()
    capsys.readouterr()
    assert cache() == ids
    assert "the features there were made of other versions; computed anew" in capsys.readouterr().err
    assert cache() == []


def test_the_draft_of_a_build_is_thrown_away(
    data: Dataset,
    tiny_backbone: Backbone,
    tmp_path: Path,
    bump: Callable[[], None],
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop_after_two(monkeypatch: pytest.MonkeyPatch) -> None:
        prepare = PatchFeatures.fit_image
        monkeypatch.setattr(PatchFeatures, "fit_image", lambda *arguments: _stop(computed) or prepare(*arguments))
        with pytest.raises(KeyboardInterrupt):
            built(data, tiny_backbone, tmp_path / "bank")

    monkeypatch.setattr("fungi_seg.bank.draft.PART_ROWS", 1)
    ids = [item.id for item in data.items]
    with monkeypatch.context() as patch:
        stop_after_two(patch)
    assert computed == ids[:2]
    computed.clear()
    bump()
    built(data, tiny_backbone, tmp_path / "bank")
    assert computed == ids
    told = capsys.readouterr().err
    assert told.startswith(f"{tmp_path / 'bank' / '.draft'}: rows of a run with other images, settings or versions")


def _stop(computed: list[str]) -> None:
    if len(computed) == 2:
        raise KeyboardInterrupt


def test_a_bank_tells_and_refuses(
    data: Dataset, tiny_backbone: Backbone, tmp_path: Path, bump: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = built(data, tiny_backbone, tmp_path / "bank")
    assert bank.info.made_by["feature code"] == str(provenance.FEATURE_CODE)
    features = bank.patch_features(backbone=tiny_backbone)
    Segmenter(bank, features).predict(scene(0)[0])
    before = provenance.FEATURE_CODE
    bump()
    message = rf"built by version {before} of the feature code.*by version {before + 1}.*build the bank again"
    for ask in (
        lambda: bank.patch_features(backbone=tiny_backbone),
        lambda: Segmenter(bank, features),
        lambda: Segmenter(bank.path),
    ):
        with pytest.raises(BankError, match=message):
            ask()
    assert MemoryBank.open(bank.path).verify() == []  # what needs no new features still works
    assert len(bank.relabel({"red": "rot"})) == len(bank)


def test_a_bank_without_the_entry_counts_as_the_first(
    data: Dataset, tiny_backbone: Backbone, tmp_path: Path, bump: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = built(data, tiny_backbone, tmp_path / "bank")
    made_by = {name: told for name, told in bank.info.made_by.items() if name != "feature code"}
    old = _with(bank, replace(bank.info, made_by=made_by))
    monkeypatch.setattr(provenance, "FEATURE_CODE", 1)
    assert Segmenter(old, old.patch_features(backbone=tiny_backbone)).predict(scene(0)[0]).mask.any()
    bump()
    with pytest.raises(BankError, match="built by version 1 of the feature code"):
        old.patch_features(backbone=tiny_backbone)


def test_banks_of_two_versions_are_not_merged(
    data: Dataset, tiny_backbone: Backbone, tmp_path: Path, bump: Callable[[], None]
) -> None:
    first = built(replace(data, items=data.items[:2]), tiny_backbone, tmp_path / "first")
    bump()
    second = built(replace(data, items=data.items[2:]), tiny_backbone, tmp_path / "second")
    with pytest.raises(BankError, match="version of the feature code: 1 and 2"):
        first.merge(second)


def _with(bank: MemoryBank, info: BankInfo) -> MemoryBank:
    manifest: Manifest = replace(read_manifest(bank.path), info=info)
    (bank.path / MANIFEST).write_bytes(manifest.text())
    return MemoryBank.open(bank.path)


def test_extracted_features_are_not_gone_on_with(
    tiny_backbone: Backbone, tmp_path: Path, bump: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_images(ImageDataConfig(root=str(class_tree(tmp_path / "data"))))
    config, out = ImageFeatureConfig(("kl",)), tmp_path / "features"
    store = extract(data, tiny_backbone, out, config)
    assert extract(data, tiny_backbone, out, config).fingerprint == store.fingerprint
    bump()
    with pytest.raises(FungiSegError, match=r"version of feature code 1 \(here 2\)\. .*start anew with --overwrite"):
        extract(data, tiny_backbone, out, config)
    with pytest.raises(FungiSegError, match=r"version of feature code 1 \(here 2\)"):
        store.image_features(tiny_backbone)
    again = extract(data, tiny_backbone, out, config, overwrite=True)
    assert again.fingerprint != store.fingerprint
    again.image_features(tiny_backbone)


def test_another_library_is_enough_to_begin_an_extraction_anew_but_not_for_new_images(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves by two libraries may differ by more than rounding; new images may be compared with either."""
    data = open_images(ImageDataConfig(root=str(class_tree(tmp_path / "data"))))
    store = extract(data, tiny_backbone, tmp_path / "features", ImageFeatureConfig(("kl",)))
    known = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "0.0" if name == "timm" else known(name))
    with pytest.raises(FungiSegError, match=rf"version of timm {known('timm')} \(here 0\.0\)"):
        extract(data, tiny_backbone, tmp_path / "features", ImageFeatureConfig(("kl",)))
    store.image_features(tiny_backbone)


def test_extracted_features_without_the_entry(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bump: Callable[[], None]
) -> None:
    """They count as the first version for new images; how the rest of them was made isn't known."""
    data = open_images(ImageDataConfig(root=str(class_tree(tmp_path / "data"))))
    out, config = tmp_path / "features", ImageFeatureConfig(("kl",))
    store = extract(data, tiny_backbone, out, config)
    del store.settings["recipe"]["code"]
    monkeypatch.setattr(provenance, "FEATURE_CODE", 1)
    store.image_features(tiny_backbone)
    manifest = json.loads((out / "features.json").read_text())
    del manifest["settings"]["recipe"]["code"]
    (out / "features.json").write_text(json.dumps(manifest))
    with pytest.raises(FungiSegError, match=r"version of feature code None \(here 1\)"):
        extract(data, tiny_backbone, out, config)
    bump()
    with pytest.raises(FungiSegError, match=r"version of feature code 1 \(here 2\)"):
        store.image_features(tiny_backbone)
