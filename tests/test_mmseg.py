"""MMSegmentation: a bank as its segmentor, its data sets as banks, and the command that tests by its Runner."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_cli import backbone_options
from trees import ade20k_tree, save_palette, scene, voc_tree

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    DataError,
    FungiSegError,
    InputConfig,
    MemoryBank,
    Segmenter,
    SourceImages,
    build_bank,
    evaluate,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import main
from fungi_seg.datasets.common import Dataset
from fungi_seg.datasets.mmseg import dataset_from_mmseg
from fungi_seg.images.reading import read_image
from fungi_seg.images.settings import VOID

pytest.importorskip("mmseg", reason='needs the extra mmseg: pip install "fungi-seg[mmseg]"')

from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.apis import inference_model, init_model, show_result_pyplot
from mmseg.datasets import ADE20KDataset, BaseSegDataset, PascalVOCDataset
from mmseg.models import SegDataPreProcessor
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample

from fungi_seg.integrations import mmseg_runner
from fungi_seg.integrations.mmseg import FungiSegmentor, PixelCounts

pytestmark = [
    pytest.mark.mmseg,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROOT = Path(__file__).parent.parent
VOC, ADE20K = ROOT / "configs" / "mmseg" / "voc12.py", ROOT / "configs" / "mmseg" / "ade20k.py"
DEVKIT = "VOCdevkit/VOC2012"
NATIVE = ROOT / "configs" / "protocols" / "native.yaml"
MEAN_AND_STD = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True}
READ, PACK = {"type": "LoadImageFromFile", "imdecode_backend": "pillow"}, {"type": "PackSegInputs"}
ANNOTATE = {"type": "LoadAnnotations"}
PLAIN_LOADER = {"num_workers": 0, "persistent_workers": False}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training and two validation images of 48×64, of three of the classes of Pascal VOC."""
    root = voc_tree(tmp_path_factory.mktemp("data") / "voc")
    lists = root / DEVKIT / "ImageSets" / "Segmentation"
    shutil.copy(lists / "trainaug.txt", lists / "train.txt")
    return root


@pytest.fixture(scope="module")
def bank(voc: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """All labelled patches of the training images; inputs of 44 pixels at the shorter side, padded to patches."""
    train = open_dataset(DataConfig("voc", str(voc)))
    input = InputConfig(size=44, fit="pad")
    return build_bank(train, tiny_backbone, tmp_path_factory.mktemp("banks") / "voc", BankRecipe(input=input))


@pytest.fixture(scope="module")
def segmenter(bank: MemoryBank, tiny_backbone: Backbone) -> Segmenter:
    return Segmenter(bank, bank.patch_features(backbone=tiny_backbone))


@pytest.fixture(scope="module")
def val(voc: Path) -> Dataset:
    return open_dataset(DataConfig("voc", str(voc), "val"))


class Collected(Hook):
    """What the model gave, image by image."""

    def __init__(self) -> None:
        self.samples: list[SegDataSample] = []

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.samples += outputs

    @property
    def masks(self) -> list[np.ndarray]:
        return [sample.pred_sem_seg.data.squeeze(0).numpy() for sample in self.samples]


Outcome = tuple[dict[str, float], Collected, float]


@pytest.fixture
def configured(voc: Path, bank: MemoryBank, tmp_path: Path) -> Callable[..., Config]:
    """The configuration that comes with the package, on the small tree, changed by `a.b=value`."""

    def configure(**changes: Any) -> Config:
        settings = Config.fromfile(str(VOC))
        root = {"dataset": {"data_root": str(voc / DEVKIT)}, **PLAIN_LOADER}
        loaders = {"test_dataloader": root, "val_dataloader": root}
        settings.merge_from_dict({**loaders, "work_dir": str(tmp_path / "work"), "experiment_name": tmp_path.name})
        settings.model.update(bank=str(bank.path), dtype="float32")
        settings.merge_from_dict({name.replace("__", "."): value for name, value in changes.items()})
        return settings

    return configure


def outcome(settings: Config) -> Outcome:
    """What mmengine's Runner gives: the metrics told, the samples, and the metric's own mIoU before it is rounded."""
    runner, collected, areas = Runner.from_cfg(settings), Collected(), []
    runner.register_hook(collected)
    metric = runner.test_loop.evaluator.metrics[0]
    compute = metric.compute_metrics
    metric.compute_metrics = lambda results: areas.extend(results) or compute(results)
    metrics = runner.test()
    sums = [sum(area.double() for area in kind) for kind in zip(*areas, strict=True)]
    exact = float(np.nanmean(metric.total_area_to_metrics(*sums)["IoU"])) if areas else np.nan
    return metrics, collected, exact


# A bank as a segmentor


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "preprocessor",
    [
        None,
        {"type": "SegDataPreProcessor", **MEAN_AND_STD},
        {"type": "SegDataPreProcessor", **MEAN_AND_STD, "pad_val": 7, "test_cfg": {"size_divisor": 40}},
        {"bgr_to_rgb": True, "test_cfg": {"size": (70, 80)}},
    ],
)
def test_the_runner_gives_what_evaluate_gives(
    configured: Callable[..., Config], segmenter: Segmenter, val: Dataset, batch: int, preprocessor: dict | None
) -> None:
    changes = {} if preprocessor is None else {"model__data_preprocessor": preprocessor}
    metrics, collected, exact = outcome(configured(test_dataloader__batch_size=batch, **changes))
    for sample, found in zip(val, collected.masks, strict=True):
        np.testing.assert_array_equal(found, segmenter.predict(sample.image).mask)
    report = evaluate(segmenter, val)
    assert {one["name"] for one in report.classes if one["predicted_pixels"]} == {"background", "aeroplane", "bicycle"}
    assert exact == pytest.approx(report.miou, abs=1e-6)
    assert metrics["mIoU"] == pytest.approx(report.miou * 100, abs=0.00501)
    assert metrics["aAcc"] == pytest.approx(report.pixel_accuracy * 100, abs=0.00501)


def test_what_the_samples_hold(configured: Callable[..., Config], segmenter: Segmenter, val: Dataset) -> None:
    _, collected, _ = outcome(configured())
    for sample, found in zip(val, collected.samples, strict=True):
        assert (found.pred_sem_seg.data.dtype, found.pred_sem_seg.data.shape) == (torch.int64, (1, 48, 64))
        assert (found.seg_logits.data.dtype, found.seg_logits.data.shape) == (torch.float32, (21, 48, 64))
        scores = segmenter.predict(sample.image).scores
        np.testing.assert_allclose(found.seg_logits.data.softmax(0).numpy(), scores, atol=1e-6)
        assert found.gt_sem_seg.data.shape == (1, 48, 64)


def test_masks_have_the_original_size_where_the_pipeline_resizes(
    configured: Callable[..., Config], segmenter: Segmenter, val: Dataset
) -> None:
    settings = configured()
    resize = {"type": "Resize", "scale": (96, 72), "keep_ratio": True}
    settings.test_dataloader.dataset.pipeline = [READ, resize, ANNOTATE, PACK]
    _, collected, _ = outcome(settings)
    for sample, mask in zip(val, collected.masks, strict=True):
        assert mask.shape == sample.mask.shape
        assert (mask == segmenter.predict(sample.image).mask).mean() > 0.8


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flips_are_undone(
    configured: Callable[..., Config], segmenter: Segmenter, val: Dataset, direction: str, axis: int
) -> None:
    settings = configured()
    flip = {"type": "RandomFlip", "prob": 1.0, "direction": direction}
    settings.test_dataloader.dataset.pipeline = [READ, flip, ANNOTATE, PACK]
    _, collected, _ = outcome(settings)
    for sample, found in zip(val, collected.samples, strict=True):
        result = segmenter.predict(np.flip(sample.image, axis).copy())
        np.testing.assert_array_equal(found.pred_sem_seg.data[0].numpy(), np.flip(result.mask, axis))
        scores = found.seg_logits.data.softmax(0).numpy()
        np.testing.assert_allclose(scores, np.flip(result.scores, axis + 1), atol=1e-6)


def test_flips_at_test_time_are_averaged(configured: Callable[..., Config], segmenter: Segmenter, val: Dataset) -> None:
    settings = configured()
    flips = [{"type": "RandomFlip", "prob": p, "direction": "horizontal"} for p in (0.0, 1.0)]
    augment = {"type": "TestTimeAug", "transforms": [flips, [ANNOTATE], [PACK]]}
    settings.test_dataloader.dataset.pipeline = [READ, augment]
    settings.model = {"type": "SegTTAModel", "module": settings.model}
    _, collected, _ = outcome(settings)
    for sample, found in zip(val, collected.samples, strict=True):
        flipped = segmenter.predict(sample.image[:, ::-1].copy()).scores[:, :, ::-1]
        scores = (segmenter.predict(sample.image).scores + flipped) / 2
        best = np.sort(scores, axis=0)
        clear = best[-1] - best[-2] > 1e-5
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(found.pred_sem_seg.data[0].numpy()[clear], scores.argmax(0)[clear])


def test_masks_are_written_without_a_truth(
    configured: Callable[..., Config], segmenter: Segmenter, val: Dataset, tmp_path: Path
) -> None:
    settings = configured()
    settings.test_evaluator.update(format_only=True, output_dir=str(tmp_path / "masks"))
    settings.test_dataloader.dataset.pipeline = [READ, PACK]
    metrics, _, _ = outcome(settings)
    assert metrics == {}
    for item, sample in zip(val.items, val, strict=True):
        with Image.open(tmp_path / "masks" / f"{item.id}.png") as written:
            np.testing.assert_array_equal(np.asarray(written), segmenter.predict(sample.image).mask)


def test_inference_and_its_picture(
    configured: Callable[..., Config], segmenter: Segmenter, val: Dataset, tmp_path: Path
) -> None:
    model = init_model(configured(), device="cpu")
    path = val.items[0].image
    expected = segmenter.predict(path).mask
    found = inference_model(model, str(path))
    np.testing.assert_array_equal(found.pred_sem_seg.data[0].numpy(), expected)
    out = tmp_path / "shown.png"
    show_result_pyplot(model, str(path), found, opacity=1.0, with_labels=False, show=False, out_file=str(out))
    np.testing.assert_array_equal(read_image(out), np.array(segmenter.bank.info.palette, np.uint8)[expected])
    several = inference_model(model, [val[0].image[..., ::-1], val[1].image[..., ::-1]])  # BGR, as OpenCV reads
    for sample, one in zip(val, several, strict=True):
        np.testing.assert_array_equal(one.pred_sem_seg.data[0].numpy(), segmenter.predict(sample.image).mask)


def test_modes_of_the_model(bank: MemoryBank, segmenter: Segmenter, val: Dataset) -> None:
    model = FungiSegmentor(bank, dtype="float32", decoder={"k": 5, "temperature": 0.05}, index={"kind": "flat"})
    images = torch.stack([torch.from_numpy(sample.image.copy()).permute(2, 0, 1) for sample in val]).float()
    own = Segmenter(bank, segmenter.features, model.segmenter.decoder)
    assert (own.decoder.k, own.decoder.temperature, model.segmenter.index.kind) == (5, 0.05, "flat")
    scores = np.stack([own.predict(sample.image).scores for sample in val])
    np.testing.assert_allclose(model(images, mode="tensor").softmax(1).numpy(), scores, atol=1e-6)
    predicted = model(images, mode="predict")
    assert [tuple(one.pred_sem_seg.data.shape) for one in predicted] == [(1, 48, 64)] * 2
    fitted = torch.stack([own.fit(sample.image).image for sample in val]).float() / 255
    torch.testing.assert_close(model.extract_feat(images), own.features(fitted))
    with pytest.raises(FungiSegError, match="isn't trained and has no loss"):
        model(images, predicted, mode="loss")
    assert (model.state_dict(), list(model.parameters())) == ({}, [])


def test_the_backbone_follows_the_model(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with one device: what would be loaded, and when."""
    loaded: list[str] = []
    monkeypatch.setattr("fungi_seg.integrations.mmseg.Segmenter", lambda *given: loaded.append(given[5]) or object())
    model = FungiSegmentor(bank)
    assert loaded == []
    assert model.segmenter is model.segmenter
    model._set_device(torch.device("cuda:1"))  # what `model.to` calls first
    assert model.segmenter is model.segmenter
    assert loaded == ["cpu", "cuda:1"]
    fixed = FungiSegmentor(bank, device="cpu")
    fixed._set_device(torch.device("cuda:1"))
    assert fixed.segmenter
    assert loaded == ["cpu", "cuda:1", "cpu"]


# Classes


def test_classes_in_another_order(configured: Callable[..., Config], segmenter: Segmenter, val: Dataset) -> None:
    classes = PascalVOCDataset.METAINFO["classes"]
    turned = [*classes[7:], *classes[:7]]
    settings = configured()
    settings.test_dataloader.dataset.metainfo = {"classes": turned}
    _, collected, exact = outcome(settings)
    assert exact == pytest.approx(evaluate(segmenter, val).miou, abs=1e-6)
    for sample, found in zip(val, collected.samples, strict=True):
        result = segmenter.predict(sample.image)
        own, mask = np.array(classes), found.pred_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(np.array(turned)[mask], own[result.mask])
        scores = found.seg_logits.data.softmax(0).numpy()
        np.testing.assert_allclose(scores[turned.index("aeroplane")], result.scores[1], atol=1e-6)


def test_the_order_of_classes_by_hand(bank: MemoryBank) -> None:
    model, classes = FungiSegmentor(bank), bank.info.classes
    assert model.dataset_meta == {"classes": classes, "palette": [list(colour) for colour in bank.info.palette]}
    model.use_classes([f"{name} " for name in reversed(classes)])
    assert model.dataset_meta["classes"][0] == "tvmonitor "
    assert model.dataset_meta["palette"] == [list(colour) for colour in reversed(bank.info.palette)]


def test_the_hook_tells_each_model_the_classes_of_its_own_runner(configured: Callable[..., Config]) -> None:
    classes = list(PascalVOCDataset.METAINFO["classes"])
    runners = []
    for names in (classes, classes[::-1]):  # the second one is mmengine's latest Runner
        settings = configured()
        settings.custom_hooks = [{"type": "UseClasses"}]
        settings.test_dataloader.dataset.metainfo = {"classes": names}
        settings.experiment_name = f"first is {names[0]}"
        runners.append(Runner.from_cfg(settings))
        assert runners[-1].test_loop
    first, second = (runner.test()["mIoU"] for runner in runners)
    assert first == second > 0
    assert runners[0].model.dataset_meta["classes"] == tuple(classes)


@pytest.mark.parametrize("path", [VOC, ADE20K])
def test_configurations_search_as_the_native_protocol_does(path: Path) -> None:
    settings = Config.fromfile(str(path))
    assert settings.model["index"] == {"kind": yaml.safe_load(NATIVE.read_text())["evaluate"]["index"]["kind"]}
    assert settings.custom_hooks == [{"type": "UseClasses"}]


def test_more_classes_than_mmsegmentation_reads(voc: Path) -> None:
    names = [f"class {i}" for i in range(300)]
    folders = {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"}
    settings = {"type": "BaseSegDataset", "data_root": str(voc / DEVKIT), "metainfo": {"classes": names}}
    with pytest.raises(DataError, match=r"300 classes, but MMSegmentation reads masks in 8 bits(.|\n)*layout folder"):
        dataset_from_mmseg(DATASETS.build(settings | {"data_prefix": folders}))


def test_other_classes_are_refused(configured: Callable[..., Config]) -> None:
    settings = configured()
    settings.test_dataloader.dataset.update(type="BaseSegDataset", metainfo={"classes": ["background", "unicorn"]})
    with pytest.raises(FungiSegError, match=r"21 classes, the data set 2; (.|\n)*only in the data set: unicorn"):
        outcome(settings)


# Mistakes


def test_mistakes_in_the_model(bank: MemoryBank, tmp_path: Path) -> None:
    with pytest.raises(BankError, match=str(tmp_path / "none")):
        FungiSegmentor(tmp_path / "none")
    with pytest.raises(FungiSegError, match=r"model.decoder has the unknown key 'kk'"):
        FungiSegmentor(bank, decoder={"kk": 3})
    with pytest.raises(FungiSegError, match="leaves images in BGR"):
        FungiSegmentor(bank, data_preprocessor={"type": "SegDataPreProcessor"})
    with pytest.raises(FungiSegError, match="leaves images in BGR"):
        FungiSegmentor(bank, data_preprocessor=SegDataPreProcessor())
    with pytest.raises(FungiSegError, match=r"decoder.k is 100000, but the bank"):
        FungiSegmentor(bank, decoder={"k": 100_000}).predict(torch.zeros(1, 3, 48, 64))


def test_values_that_are_no_class_arent_counted() -> None:
    def given(truth: list[int]) -> SegDataSample:
        maps = {"gt_sem_seg": torch.tensor([[truth]]), "pred_sem_seg": torch.tensor([[[0, 1, 1]]])}
        sample = SegDataSample(metainfo={"img_path": "a.jpg", "seg_map_path": "a.png"})
        sample.set_data({name: PixelData(data=data) for name, data in maps.items()})
        return sample

    counts = PixelCounts(2, ignore_index=9)
    counts.after_test_iter(None, 0, outputs=[given([0, 0, 9])])
    assert (counts.images, counts.matrix.counts.tolist()) == (1, [[1, 1], [0, 0]])
    with pytest.raises(DataError, match=r"a.png: class ids outside the 2 known classes: 7"):
        counts.after_test_iter(None, 1, outputs=[given([0, 7, 1])])


# Its data sets as banks


def rows_of(bank: MemoryBank) -> dict[str, np.ndarray]:
    rows = bank.rows
    labels = rows.labels.dense(len(bank.info.classes))
    return {"keys": np.asarray(rows.keys), "labels": labels, "source": rows.source, "box": rows.box}


def assert_same_bank(bank: MemoryBank, expected: MemoryBank) -> None:
    for (name, found), wanted in zip(rows_of(bank).items(), rows_of(expected).values(), strict=True):
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    for name in ("classes", "palette", "sources"):
        assert getattr(bank.info, name) == getattr(expected.info, name)


def test_a_bank_by_the_command_line(voc: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Built from the configuration, it has the rows of one built from the layout."""
    plain = ["--data.layout", "voc", "--data.root", str(voc), "--data.split", "train"]
    by_config = ["--data.layout", "mmseg", "--data.annotations", str(VOC), "--data.root", str(voc / DEVKIT)]
    for name, options in (("plain", plain), ("mmseg", by_config)):
        size = ["--bank.size", "100", "--input.size", "48", "--out", str(tmp_path / name)]
        assert main(["build", *options, *size, *backbone_options(tiny_weights)]) == 0
    assert_same_bank(MemoryBank.open(tmp_path / "mmseg"), MemoryBank.open(tmp_path / "plain"))
    report = tmp_path / "report.json"
    options = ["--bank", str(tmp_path / "mmseg"), "--json", str(report), *by_config, "--data.split", "val"]
    assert main(["evaluate", *options]) == 0
    by_layout = open_dataset(DataConfig("voc", str(voc), "val"))
    miou = evaluate(Segmenter(tmp_path / "plain", dtype="auto"), by_layout).miou
    assert json.loads(report.read_text())["miou"] == pytest.approx(miou, abs=1e-9)


def test_a_bank_of_a_built_data_set(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """ADE20K: zero is void, one is class 0."""
    root = ade20k_tree(tmp_path / "ade")
    folders = {"img_path": "images/training", "seg_map_path": "annotations/training"}
    built = ADE20KDataset(data_root=str(root / "ADEChallengeData2016"), data_prefix=folders)
    own = open_dataset(DataConfig("ade20k", str(root)))
    banks = [
        build_bank(
            dataset, tiny_backbone, tmp_path / name, BankRecipe(input=InputConfig(None), bank=BankConfig(size=None))
        )
        for name, dataset in (("mmseg", dataset_from_mmseg(built)), ("own", own))
    ]
    assert_same_bank(*banks)
    settings = DataConfig("mmseg", str(root / "ADEChallengeData2016"), "val", annotations=str(ADE20K))
    found, wanted = open_dataset(settings), open_dataset(DataConfig("ade20k", str(root), "val"))
    assert [sample.id for sample in found] == [sample.id for sample in wanted]
    for sample, expected in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(sample.mask, expected.mask)
        np.testing.assert_array_equal(sample.image, expected.image)


def small(root: Path, seeds: Sequence[int] = (1, 2), **given: Any) -> BaseSegDataset:
    """A data set of MMSegmentation of its own: `root/images`, `root/masks`, three classes."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        image, mask = scene(seed)
        Image.fromarray(image).save(root / "images" / f"{seed}.jpg")
        save_palette(mask, root / "masks" / f"{seed}.png")
    meta = {"classes": ("ground", "red", "green"), "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    settings: dict[str, Any] = {"metainfo": meta, "data_prefix": {"img_path": "images", "seg_map_path": "masks"}}
    return BaseSegDataset(data_root=str(root), **{**settings, **given})


def test_what_a_data_set_gives(tmp_path: Path) -> None:
    dataset = dataset_from_mmseg(small(tmp_path / "a", (3, 1)))
    assert [item.id for item in dataset.items] == ["1", "3"]
    assert dataset.classes == ("ground", "red", "green")
    assert dataset.palette.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    mask = scene(1)[1]
    np.testing.assert_array_equal(dataset[0].mask, np.where(mask == 255, VOID, mask.astype(np.int16)))
    np.testing.assert_array_equal(dataset[0].image, read_image(tmp_path / "a" / "images" / "1.jpg"))
    assert len(repr(dataset.read)) < 400
    assert repr(dataset.read) == repr(dataset_from_mmseg(small(tmp_path / "a", (3, 1))).read)


def test_fewer_classes_and_another_void(voc: Path) -> None:
    folders = {"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"}
    built = PascalVOCDataset(
        "ImageSets/Segmentation/val.txt",
        data_root=str(voc / DEVKIT),
        data_prefix=folders,
        metainfo={"classes": ["bicycle", "background"]},
        ignore_index=1,
    )
    dataset = dataset_from_mmseg(built)
    assert (dataset.classes, dataset.palette.tolist()) == (("bicycle", "background"), [[0, 128, 0], [0, 0, 0]])
    _, mask = scene(10)
    expected = np.full(mask.shape, VOID)
    expected[mask == 2] = 0
    np.testing.assert_array_equal(dataset[0].mask, expected)  # background has become 1, which is void


def test_wrapped_data_sets(tmp_path: Path) -> None:
    both = ConcatDataset([small(tmp_path / "a", (1, 2)), small(tmp_path / "b", (2, 3))])
    dataset = dataset_from_mmseg(both)
    assert [item.id for item in dataset.items] == ["a/images/1", "a/images/2", "b/images/2", "b/images/3"]
    twice = ConcatDataset([small(tmp_path / "a", (1, 2)), small(tmp_path / "a", (1, 2))])
    assert [item.id for item in dataset_from_mmseg(twice).items] == ["1", "2"]
    repeated = RepeatDataset(small(tmp_path / "a", (1, 2)), 3)
    assert [item.id for item in dataset_from_mmseg(repeated).items] == ["1", "2"]


def test_parts_that_dont_go_together(tmp_path: Path) -> None:
    parts = [small(tmp_path / "a"), small(tmp_path / "b", ignore_index=7)]
    with pytest.raises(DataError, match="2 data sets put together are read differently"):
        dataset_from_mmseg(ConcatDataset(parts))
    shutil.copytree(tmp_path / "a" / "masks", tmp_path / "a" / "others")
    others = small(tmp_path / "a", data_prefix={"img_path": "images", "seg_map_path": "others"})
    with pytest.raises(DataError, match="have the same id '1'"):
        dataset_from_mmseg(ConcatDataset([parts[0], others]))


def test_data_sets_that_dont_serve(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dataset is a list; it must be a data set of MMSegmentation"):
        dataset_from_mmseg([1, 2])
    with pytest.raises(DataError, match="names no classes"):
        dataset_from_mmseg(small(tmp_path / "a", metainfo=None))
    with pytest.raises(DataError, match="has no annotations"):
        dataset_from_mmseg(small(tmp_path / "a", data_prefix={"img_path": "images"}))


def test_files_that_arent_there(tmp_path: Path) -> None:
    listed = tmp_path / "listed.txt"
    listed.write_text("2\n9\n1\n3\n")
    small(tmp_path / "a", (1, 2, 3))
    (tmp_path / "a" / "masks" / "3.png").unlink()
    built = small(tmp_path / "a", (1, 2), ann_file=str(listed))
    with pytest.raises(DataError, match=r"2 of 4 entries are not complete:\n.*3.jpg: image without mask\n.*9.jpg"):
        dataset_from_mmseg(built)
    dataset = dataset_from_mmseg(built, skip_bad=True)
    assert [item.id for item in dataset.items] == ["2", "1"]
    assert len(dataset.problems) == 2
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("1\n")
    assert [item.id for item in dataset_from_mmseg(small(tmp_path / "a"), chosen, True).items] == ["1"]


def test_masks_that_cant_be_used(tmp_path: Path) -> None:
    dataset = dataset_from_mmseg(small(tmp_path / "a", (1, 2, 3)))
    masks = tmp_path / "a" / "masks"
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(masks / "1.png")
    (masks / "2.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(masks / "3.png")
    for number, message in enumerate(
        ("77 .3072 pixels.; ids must be 0..2", "can't read this mask", "has shape .48, 64")
    ):
        with pytest.raises(DataError, match=message) as caught:
            dataset[number]
        assert str(masks / f"{number + 1}.png") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("x = 1", {}, "data.split is 'train', but there is no train_dataloader .* for: nothing"),
        ("val_dataloader = dict(dataset=dict())", {}, "there are loaders for: val"),
        ("x = 1", {"split": "trainaug"}, "data.split is 'trainaug'; it must be one of train, val, test"),
        ("x = 1", {"void": 3}, "data.void is 3; with layout mmseg"),
        ("x = 1", {"root": "nowhere"}, "data.root is 'nowhere': no such folder"),
        ("x = (", {}, "can't be read as a configuration of MMSegmentation"),
        ("x = 1 / 0", {}, "can't be read as a configuration of MMSegmentation .ZeroDivisionError"),
        ("train_dataloader = dict(dataset=dict(type='NoSuch'))", {}, "can't be opened .KeyError"),
        (
            "train_dataloader = dict(dataset=dict(type='PascalVOCDataset', ann_file='a', data_root='lost'))",
            {},
            "can't be opened (.|\n)* data_root is 'lost'",
        ),
    ],
)
def test_configurations_that_dont_serve(tmp_path: Path, text: str, given: dict[str, Any], message: str) -> None:
    config = tmp_path / "config.py"
    config.write_text(text)
    with pytest.raises(FungiSegError, match=message):
        open_dataset(DataConfig("mmseg", annotations=str(config), **given))


def test_the_configuration_must_be_named() -> None:
    with pytest.raises(DataError, match=r"data.annotations is empty; layout mmseg needs a configuration"):
        open_dataset(DataConfig("mmseg"))
    with pytest.raises(DataError, match=r"data.annotations is 'lost.py'"):
        open_dataset(DataConfig("mmseg", annotations="lost.py"))


def test_a_wrapped_data_set_in_a_configuration(voc: Path, tmp_path: Path) -> None:
    """The root given counts for all parts; classes can be chosen as in every layout."""
    part = "dict(type='PascalVOCDataset', ann_file='ImageSets/Segmentation/{}.txt', data_prefix=folders)"
    text = "folders = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')\n"
    text += f"parts = [{part.format('train')}, {part.format('val')}]\n"
    text += "repeated = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=parts))\n"
    (tmp_path / "config.py").write_text(text + "train_dataloader = dict(dataset=repeated)\n")
    data = DataConfig("mmseg", str(voc / DEVKIT), annotations=str(tmp_path / "config.py"), classes=("bicycle",))
    dataset = open_dataset(data)
    assert (len(dataset), dataset.classes) == (5, ("background", "bicycle"))
    assert set(np.unique(dataset[0].mask)) == {VOID, 0, 1}


def test_a_banks_record_starts_no_program(voc: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """The annotated images are found again where the configuration is named, not where a record names it."""
    config, trace = tmp_path / "config.py", tmp_path / "trace"
    config.write_text(f"_base_ = {str(VOC)!r}\nopen({str(trace)!r}, 'w').close()\n")
    data = DataConfig("mmseg", str(voc / DEVKIT), annotations=str(config))
    dataset = open_dataset(data)
    trace.unlink()
    made = build_bank(dataset, tiny_backbone, tmp_path / "bank", record={"data": asdict(data)})
    for given in (None, DataConfig(root=str(voc / DEVKIT))):
        with pytest.raises(DataError, match="which a bank's record doesn't start"):
            SourceImages(made, given)[dataset.items[0].id]
        assert not trace.exists()
    found = SourceImages(made, data)[dataset.items[0].id]
    np.testing.assert_array_equal(found.mask, dataset[0].mask)


# The command


def test_the_command(voc: Path, bank: MemoryBank, segmenter: Segmenter, val: Dataset, tmp_path: Path) -> None:
    """Run as a user runs it; a truth without a class which is predicted parts the two rules."""
    root = shutil.copytree(voc / DEVKIT, tmp_path / "VOC2012")
    for item in val.items:
        mask = root / "SegmentationClass" / item.mask.name
        with Image.open(mask) as opened:
            values = np.asarray(opened).copy()
        values[values == 2] = 255
        values[20:30, 20:40] = 0
        save_palette(values, mask)
    options = [
        VOC,
        "--bank",
        bank.path,
        "--data.root",
        root,
        "--work-dir",
        tmp_path / "work",
        "--out",
        tmp_path / "out",
    ]
    options += ["--show-dir", tmp_path / "shown", "--json", tmp_path / "figures.json", "--cfg-options"]
    changes = "test_dataloader.num_workers=0,test_dataloader.persistent_workers=False,model.dtype=float32"
    command = [sys.executable, "-m", "fungi_seg", "mmseg-test", *options, changes]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = evaluate(segmenter, open_dataset(DataConfig("voc", str(root), "val")))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["miou"]["native"] == pytest.approx(expected.miou, abs=1e-6)
    ious = [c["iou"] for c in expected.classes if not c["absent"]]
    phantom = [c["name"] for c in expected.classes if c["absent"] and c["predicted_pixels"]]
    assert phantom == ["bicycle"]
    assert figures["miou"]["mmseg"] == pytest.approx(sum(ious) / (len(ious) + 1), abs=1e-6)
    assert figures["mmseg"]["mIoU"] == pytest.approx(figures["miou"]["mmseg"] * 100, abs=0.00501)
    assert [c["truth_pixels"] for c in figures["classes"]] == [c["truth_pixels"] for c in expected.classes]
    assert f"mIoU {figures['miou']['mmseg'] * 100:.6f} % by MMSegmentation's rule" in done.stdout
    assert f"mIoU {figures['miou']['native'] * 100:.6f} % by the native rule" in done.stdout
    assert "1 classes are predicted, but have no pixel in the truth" in done.stdout
    assert "bicycle" in done.stdout + done.stderr
    for item, sample in zip(val.items, val, strict=True):
        written = read_image(tmp_path / "out" / f"{item.id}.png")[..., 0]
        np.testing.assert_array_equal(written, segmenter.predict(sample.image).mask)
    assert len(list((tmp_path / "shown").rglob("*.png"))) == 2


def test_mistakes_of_the_command(
    voc: Path,
    bank: MemoryBank,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*options: object) -> str:
        work = ["--work-dir", tmp_path / "work", "--cfg-options", f"experiment_name={tmp_path.name}"]
        capsys.readouterr()
        assert main(["mmseg-test", *map(str, [*options, *work])]) in (1, 2)
        return capsys.readouterr().err

    assert "configuration is 'lost.py': no such file" in run("lost.py")
    other, without = tmp_path / "other.py", tmp_path / "without.py"
    other.write_text("model = dict(type='EncoderDecoder')\n")
    assert "the model is of type 'EncoderDecoder'; it must be a FungiSegmentor" in run(other)
    without.write_text("model = dict(type='FungiSegmentor')\n")
    assert "there is no test_dataloader" in run(without)
    assert str(tmp_path / "none") in run(VOC, "--bank", tmp_path / "none", "--data.root", voc / DEVKIT)
    assert f"data_root is '{tmp_path}'" in run(VOC, "--bank", bank.path, "--data.root", tmp_path)
    assert "has no IoUMetric" in run(_changed(tmp_path, "test_evaluator = dict(_delete_=True, type='M')"), "--out", "o")
    changed = _changed(tmp_path, "default_hooks = dict(_delete_=True)")
    assert "default_hooks no visualization" in run(changed, "--show_dir", "s")
    assert "unknown option --bnak; did you mean '--bank'" in run(VOC, "--bnak", "x")


def _changed(folder: Path, line: str) -> Path:
    path = folder / "changed.py"
    path.write_text(f"_base_ = {str(VOC)!r}\n{line}\n")
    return path


def test_settings_that_the_command_changes() -> None:
    parsed = mmseg_runner._parsed(["a.b=[1", "2]", "c=3.5", "d=x", "e=(4", "5)"])
    assert parsed == {"a.b": [1, 2], "c": 3.5, "d": "x", "e": (4, 5)}
    with pytest.raises(FungiSegError, match="cfg_options begins with 'batch_size'"):
        mmseg_runner._parsed(["batch_size"])


# Real images


@pytest.mark.data
def test_real_images_give_the_same_by_both(real_data: Path, tmp_path: Path) -> None:
    """A subset of Pascal VOC: what is missing in the truth and is predicted counts only by MMSegmentation's rule."""
    root = real_data / "voc"
    train = open_dataset(DataConfig("voc", str(root))).evenly(60)
    made = build_bank(
        train, load_backbone("embedded", dtype="float32"), tmp_path / "bank", BankRecipe(input=InputConfig(96))
    )
    val = open_dataset(DataConfig("voc", str(root), "val")).evenly(20)
    (tmp_path / "val.txt").write_text("".join(f"{item.id}\n" for item in val.items))
    settings = Config.fromfile(str(VOC))
    settings.model.update(bank=str(made.path), dtype="float32")
    settings.test_dataloader.update(PLAIN_LOADER)
    settings.test_dataloader.dataset.update(data_root=str(root / DEVKIT), ann_file=str(tmp_path / "val.txt"))
    settings.merge_from_dict({"work_dir": str(tmp_path / "work"), "experiment_name": "real"})
    _, collected, exact = outcome(settings)
    segmenter = Segmenter(made, dtype="float32")
    for sample, mask in zip(val, collected.masks, strict=True):
        np.testing.assert_array_equal(mask, segmenter.predict(sample.image).mask)
    report = evaluate(segmenter, val)
    figures = mmseg_runner._figures(np.array(report.confusion), made.info.classes)["miou"]
    assert figures["native"] == pytest.approx(report.miou, abs=1e-9)
    assert exact == pytest.approx(figures["mmseg"], abs=1e-6)
    assert figures["mmseg"] < figures["native"]
