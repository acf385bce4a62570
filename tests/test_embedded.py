"""The backbone that comes with the package: its file, its card, and whether it has learnt something."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fungi_seg import Backbone, BackboneConfig, FeatureConfig, FungiSegError, PatchFeatures, load_backbone
from fungi_seg.features import embedded
from fungi_seg.pretraining.scenes import scene

UNSEEN = 987_654  # seed of scenes that it wasn't trained on


# Without the file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights are looked for; there is nothing yet."""
    monkeypatch.setattr(embedded, "FILE", tmp_path / "vit_embedded.safetensors")
    return tmp_path / "vit_embedded.safetensors"


def test_missing_weights(file: Path) -> None:
    message = rf"{file}: the weights of the embedded backbone are missing; install the package again"
    with pytest.raises(FungiSegError, match=message):
        embedded.weights_file()
    with pytest.raises(FungiSegError, match=message):
        load_backbone("embedded", device="cpu")
    file.mkdir()
    with pytest.raises(FungiSegError, match=message):
        embedded.weights_file()


def test_damaged_weights(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that differs, or one that is missing."""
    whole = bytes(range(256)) * 8
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(whole).hexdigest())
    message = rf"{file}: the weights of the embedded backbone are damaged .*install the package again, or name another"
    for content in (whole[:-1], b"\1" + whole[1:], b""):
        file.write_bytes(content)
        with pytest.raises(FungiSegError, match=message):
            embedded.weights_file()
        with pytest.raises(FungiSegError, match=message):
            load_backbone("embedded", device="cpu")
    file.write_bytes(whole)
    assert embedded.weights_file() == file


def test_random_weights_need_no_file(file: Path) -> None:
    backbone = load_backbone("embedded", "random", "cpu", "float32")
    assert (backbone.dim, backbone.patch_size, backbone.prefix_tokens) == (192, (8, 8), 1)
    assert (backbone.mean, backbone.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert backbone.config == BackboneConfig("embedded", "random", device="cpu", dtype="float32")
    assert backbone.tokens(torch.rand(1, 3, 40, 72)).shape == (1, 1 + 5 * 9, 192)
    assert load_backbone("embedded", "random", "cpu").fingerprint == backbone.fingerprint


def test_own_weights_under_its_name(file: Path, tmp_path: Path) -> None:
    """Such as those of another training; the shipped file isn't asked for."""
    torch.manual_seed(3)
    random = load_backbone("embedded", "random", "cpu", "float32")
    state = {name: tensor + 0.01 for name, tensor in random.model.state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    mine = load_backbone("embedded", tmp_path / "mine.pth", "cpu", "float32")
    assert mine.fingerprint != random.fingerprint
    torch.testing.assert_close(mine.model.pos_embed, state["pos_embed"])


def test_a_name_close_to_it() -> None:
    with pytest.raises(FungiSegError, match=r"backbone\.name is 'embeded'.*did you mean 'embedded'\?"):
        load_backbone("embeded", device="cpu")


# With it


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("embedded", device="cpu", dtype="float32")


def test_it_loads(backbone: Backbone) -> None:
    assert (backbone.dim, backbone.patch_size, backbone.prefix_tokens) == (192, (8, 8), 1)
    assert (backbone.mean, backbone.std) == (embedded.MEAN, embedded.STD)
    assert backbone.config.weights is None
    assert backbone.fingerprint != load_backbone("embedded", "random", "cpu", "float32").fingerprint
    for kind, dim in (("plain", 192), ("fungi", 384)):
        features = PatchFeatures(backbone, FeatureConfig(kind=kind))(torch.rand(2, 3, 48, 80))
        assert features.shape == (2, 60, dim)
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 60))


def test_the_file_is_small_and_sound() -> None:
    assert embedded.FILE.stat().st_size <= 12_000_000
    assert hashlib.sha256(embedded.FILE.read_bytes()).hexdigest() == embedded.SHA256
    state = load_file(embedded.FILE)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert not {name for name in state if name.startswith(("head", "mask", "place", "kind"))}


def test_the_card_beside_it() -> None:
    card = embedded.FILE.with_name("README.md").read_text(encoding="utf-8")
    assert f"SHA-256 `{embedded.SHA256}`" in card
    assert "Licence" in card
    for name in ("embed_dim", "depth", "num_heads", "patch_size", "img_size"):
        assert f"{name}={embedded.MODEL_ARGS[name]}" in " ".join(card.split())
    results = card.partition("<!-- begin results -->")[2].partition("<!-- end results -->")[0]
    assert "| embedded, FUNGI |" in results


def agreement(backbone: Backbone, count: int = 20, of_each: int = 12) -> float:
    """How often the nearest patch of another scene shows the same kind; patches of one kind alone."""
    rng, keys, kinds, scenes = np.random.default_rng(0), [], [], []
    features = PatchFeatures(backbone, FeatureConfig(kind="plain"))
    for number in range(count):
        image, shown = scene(UNSEEN, number, 96, 128)
        cells = shown.reshape(12, 8, 16, 8).transpose(0, 2, 1, 3).reshape(192, 64)
        pure = np.flatnonzero((cells == cells[:, :1]).all(1))
        for kind in np.unique(cells[pure, 0]):
            there = pure[cells[pure, 0] == kind]
            chosen = rng.permutation(there)[:of_each]
            found = features(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()
            keys.append(found[chosen])
            kinds.append(np.full(len(chosen), kind))
            scenes.append(np.full(len(chosen), number))
    all_keys, all_kinds, all_scenes = np.concatenate(keys), np.concatenate(kinds), np.concatenate(scenes)
    cosines = np.where(all_scenes[:, None] == all_scenes, -1, all_keys @ all_keys.T)
    return float((all_kinds[cosines.argmax(1)] == all_kinds).mean())


def test_it_tells_kinds_apart_better_than_the_baselines(backbone: Backbone) -> None:
    found = agreement(backbone)
    assert found > agreement(load_backbone("embedded", "random", "cpu", "float32")) + 0.05
    assert found > agreement(load_backbone("descriptor", device="cpu")) + 0.05
