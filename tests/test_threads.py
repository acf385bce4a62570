"""Threads that share a backbone, a segmenter or a bank get what one thread alone gets, bit by bit."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HALF, TINY
from joblib import Parallel, delayed
from torch import Tensor
from trees import folder_tree, picture, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    DataConfig,
    DecoderConfig,
    FeatureConfig,
    ImageFeatureConfig,
    ImageFeatures,
    IndexConfig,
    InputConfig,
    MemoryBank,
    NeighbourIndex,
    PatchFeatures,
    Segmenter,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.features.settings import OBJECTIVES
from fungi_seg.progress import Stopwatch
from fungi_seg.search.lists import CodedLists, encoded, train_coder
from fungi_seg.whole_images.transformer import FungiTransformer

THREADS, CALLS = 4, 50


@pytest.fixture(autouse=True)
def _restless() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def bits(result: Any) -> Any:
    """What can be compared with `==`, down to the last bit."""
    if isinstance(result, Tensor):
        result = result.numpy()
    return (result.shape, result.tobytes()) if isinstance(result, np.ndarray) else result


def assert_threads_agree(functions: Sequence[Callable[[], Any]], calls: int = CALLS) -> None:
    """Each of the threads calls all functions in turn, each thread beginning with another one."""
    expected = [bits(function()) for function in functions]
    ready = threading.Barrier(THREADS)

    def work(first: int) -> list[int]:
        ready.wait()
        numbers = [(first + call) % len(functions) for call in range(calls)]
        return [number for number in numbers if bits(functions[number]()) != expected[number]]

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [found for thread in pool.map(work, range(THREADS)) for found in thread]
    assert wrong == []


def images(count: int = 4) -> list[Tensor]:
    """Images of different sizes, so that what is another's doesn't even fit."""
    return [torch.from_numpy(scene(i, 32 + 8 * i, 40)[0].copy()).permute(2, 0, 1)[None] for i in range(count)]


@pytest.mark.parametrize(
    "config",
    [FeatureConfig(kind="plain"), FeatureConfig(), FeatureConfig(projection="dense"), FeatureConfig(negatives=2)],
    ids=["plain", "fungi", "dense", "negatives"],
)
def test_patch_features(tiny_backbone: Backbone, config: FeatureConfig) -> None:
    support = torch.nn.functional.normalize(torch.randn(50, TINY["embed_dim"], generator=torch.Generator()), dim=-1)
    features = PatchFeatures(tiny_backbone, config, support)
    assert_threads_agree([lambda image=image: features(image) for image in images()])


def test_patch_features_in_bfloat16(tiny_weights: Path) -> None:
    backbone = load_backbone("tiny", tiny_weights, dtype="bfloat16", device="cpu", model_args=TINY)
    features = PatchFeatures(backbone)
    assert_threads_agree([lambda image=image: features(image) for image in images()])


@pytest.fixture(scope="module")
def image_features(tiny_backbone: Backbone) -> ImageFeatures:
    """All objectives, fitted."""
    config = ImageFeatureConfig(OBJECTIVES, side=16, fast=True, clusters=2)
    return ImageFeatures(tiny_backbone, config).fit([picture(i, i % 2) for i in range(6)])


def test_image_features_of_all_objectives(image_features: ImageFeatures) -> None:
    pictures = [picture(i, i % 2, 30 + 5 * i) for i in range(4)]
    assert_threads_agree([lambda one=one: image_features([one]) for one in pictures])


def test_patches_and_whole_images_of_one_backbone(tiny_backbone: Backbone, image_features: ImageFeatures) -> None:
    """The one cuts the graph where the other keeps what passes, and a bare forward pass does neither."""
    patches, image = PatchFeatures(tiny_backbone), images()[0]

    def bare() -> Tensor:
        with torch.no_grad():
            return tiny_backbone.tokens(image)

    one = picture(0, 0)
    assert_threads_agree([lambda: patches(image), lambda: image_features([one]), bare])


@pytest.fixture(scope="module")
def bank(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    root = folder_tree(tmp_path_factory.mktemp("data") / "tree")
    data = open_dataset(DataConfig(root=str(root), split="train"))
    out = tmp_path_factory.mktemp("bank") / "bank"
    return build_bank(data, tiny_backbone, out, BankRecipe(input=InputConfig(size=None), bank=BankConfig(size=None)))


def segmenter_of(bank: MemoryBank, backbone: Backbone, kind: str = "auto", k: int = 30) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=backbone), DecoderConfig(k), IndexConfig(kind, device="cpu"))


def segmented(segmenter: Segmenter, image: np.ndarray) -> Any:
    found = segmenter.predict(image)
    return bits(found.mask), bits(found.patch_scores)


def explained(segmenter: Segmenter, image: np.ndarray) -> Any:
    found = segmenter.explain(image, region=(5, 5, 30, 20))
    return found.to_json(), bits(found.scores), [astuple(neighbour)[:-1] for neighbour in found.neighbours]


@pytest.mark.parametrize("kind", ["flat", "int8", "lists", "IVF4,Flat"])
def test_segmenter(bank: MemoryBank, tiny_backbone: Backbone, kind: str) -> None:
    segmenter = segmenter_of(bank, tiny_backbone, kind)
    scenes = [scene(i, 40 + 8 * i, 64)[0] for i in range(2)]
    tasks = [lambda one=one, task=task: task(segmenter, one) for one in scenes for task in (segmented, explained)]
    assert_threads_agree(tasks)


def test_two_segmenters_of_one_backbone(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    segmenters = [segmenter_of(bank, tiny_backbone, kind, k) for kind, k in (("flat", 30), ("lists", 5))]
    one = scene(7)[0]
    tasks = [lambda s=s, task=task: task(s, one) for s in segmenters for task in (segmented, explained)]
    assert_threads_agree(tasks)


def test_the_effort_of_a_search_is_that_of_its_call() -> None:
    keys = np.random.default_rng(0).normal(size=(2000, 24)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    coder = train_coder(keys, 32)
    lists, queries = CodedLists(coder, encoded(coder, keys)), keys[:40]
    efforts = (1, 4, 16, 32)
    found = [lists.candidates(queries, 200, nprobe) for nprobe in efforts]
    assert [int((rows >= 0).sum()) for rows in found] == sorted(int((rows >= 0).sum()) for rows in found)
    assert_threads_agree([lambda n=n: lists.candidates(queries, 200, n) for n in efforts])


def test_searches_of_one_index(bank: MemoryBank) -> None:
    index = NeighbourIndex(bank.rows.keys, IndexConfig("int8"))
    queries = [np.asarray(bank.rows.keys[start : start + 20], np.float32) for start in range(4)]
    assert_threads_agree([lambda q=q: bits(index.search(q, 10)[1]) for q in queries])


def test_joblib_threads_over_the_transformer(tiny_backbone: Backbone) -> None:
    pictures = [picture(i, i % 2) for i in range(6)]
    transformer = FungiTransformer(tiny_backbone, OBJECTIVES[:3], side=16, fast=True).fit(pictures)
    expected = [transformer.transform([one]) for one in pictures]
    found = Parallel(THREADS, backend="threading")(delayed(transformer.transform)([one]) for one in pictures * 8)
    assert all(np.array_equal(rows, expected[i % 6]) for i, rows in enumerate(found))


def test_random_weights_are_the_same_whoever_makes_them_at_the_same_time() -> None:
    arguments = {"model_args": TINY, "device": "cpu", "dtype": "float32", "mean": HALF, "std": HALF}
    state = torch.get_rng_state()
    assert_threads_agree([lambda: load_backbone("own", "random", **arguments).fingerprint], 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_time_is_lost() -> None:
    total, own = Stopwatch(), [Stopwatch() for _ in range(THREADS)]

    def work(clock: Stopwatch) -> None:
        for _ in range(500):
            with total("work", clock):
                pass

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, own))
    assert total.seconds["work"] == pytest.approx(sum(clock.seconds["work"] for clock in own), rel=1e-9)


def test_a_segmenters_seconds_and_those_of_a_call(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    segmenter, clock = segmenter_of(bank, tiny_backbone), Stopwatch()
    one = scene(3)[0]
    segmenter.predict(one)
    before = dict(segmenter.seconds)
    segmenter.predict_fitted([segmenter.fit(one)], [one], clock=clock)
    assert clock.seconds.keys() == {"features", "search", "decoding"}
    for stage, seconds in clock.seconds.items():
        assert segmenter.seconds[stage] - before[stage] == pytest.approx(seconds)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_cut_for_themselves(tiny_backbone: Backbone, duplicate: Callable[[Any], Any]) -> None:
    """A copy of a backbone, as joblib sends it to other processes, has taps of its own."""
    image = images()[0]
    expected = PatchFeatures(tiny_backbone)(image)
    (copied,) = duplicate([tiny_backbone])
    if copied is not tiny_backbone:  # a deep copy is the backbone itself
        assert copied.at_target is not tiny_backbone.at_target
        assert copied.at_target in copied.target._forward_hooks.values()
    assert torch.equal(PatchFeatures(copied)(image), expected)


def test_a_question_within_a_question(tiny_backbone: Backbone) -> None:
    """What was asked before is asked again afterwards."""
    heard: list[str] = []
    image = images()[0]
    with torch.no_grad(), tiny_backbone.at_target.asking(lambda *_: heard.append("outer")):
        with tiny_backbone.at_target.asking(lambda *_: heard.append("inner")):
            tiny_backbone.tokens(image)
        tiny_backbone.tokens(image)
    tiny_backbone.tokens(image)
    assert heard == ["inner", "outer"]
