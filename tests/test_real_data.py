"""On real photographs: the numbers of `build` and `evaluate` equal a naive recomputation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier
from torchvision.transforms import v2

from fungi_seg import MemoryBank, Segmenter, load_backbone
from fungi_seg.cli import main

pytestmark = pytest.mark.data

MODEL = {"img_size": 96, "patch_size": 8, "embed_dim": 192, "depth": 8, "num_heads": 3}
K, TEMPERATURE = 30, 0.02
Subset = tuple[list[str], list[str], list[str], list[tuple[Path, Path]], int]


@pytest.fixture(scope="module")
def dev_weights(real_data: Path) -> Path:
    """The development backbone that lies beside the real data."""
    path = real_data.parent / "weights" / "dev_vit.safetensors"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    return path


def camvid(root: Path, lists: Path) -> Subset:
    """Options of both commands, of build, of evaluate, validation files, and the void value."""
    base = root / "camvid"
    train = sorted(path.stem for path in (base / "train" / "images").iterdir())[:16]
    val = sorted(path.stem for path in (base / "val" / "images").iterdir())[:6]
    files = [(base / "val" / "images" / f"{i}.jpg", base / "val" / "masks" / f"{i}.png") for i in val]
    write_lists(lists, train, val)
    both = ["--data.layout", "folder", "--data.root", str(base), "--data.void", "11"]
    return both, ["--data.split", "train"], ["--data.split", "val"], files, 11


def voc(root: Path, lists: Path) -> Subset:
    base = root / "voc" / "VOCdevkit" / "VOC2012"
    train, val = (
        (base / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()[:count]
        for name, count in (("trainaug", 16), ("val", 6))
    )
    files = [(base / "JPEGImages" / f"{i}.jpg", base / "SegmentationClass" / f"{i}.png") for i in val]
    write_lists(lists, train, val)
    both = ["--data.layout", "voc", "--data.root", str(root / "voc")]
    return both, ["--data.split", "trainaug"], ["--data.split", "val"], files, 255


def write_lists(folder: Path, train: list[str], val: list[str]) -> None:
    for name, ids in (("train", train), ("val", val)):
        (folder / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))


def naive_masks(bank: MemoryBank, images: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Masks by a matrix product with all keys, dense labels, and torch's own interpolation."""
    segmenter = Segmenter(bank, dtype="float32")  # for features and input size alone
    keys, labels = bank.rows.keys.astype(np.float32), bank.rows.labels
    dense = np.zeros((len(keys), len(bank.info.classes)))
    for row in range(len(keys)):
        entries = slice(labels.offsets[row], labels.offsets[row + 1])
        dense[row, labels.ids[entries]] = labels.weights[entries] / 255
    for image in images:
        fitted = segmenter.fit(image).image
        queries = segmenter.features(fitted[None].float() / 255)[0].cpu().numpy()
        similarities = queries @ keys.T
        nearest = np.argpartition(-similarities, K - 1, axis=1)[:, :K]
        exponents = np.exp(np.take_along_axis(similarities, nearest, 1).astype(np.float64) / TEMPERATURE)
        weights = exponents / exponents.sum(1, keepdims=True)
        votes = (weights[:, :, None] * dense[nearest]).sum(1)
        grid = torch.from_numpy(votes.T.reshape(1, -1, fitted.shape[1] // 8, fitted.shape[2] // 8))
        size = (image.shape[0], image.shape[1])
        yield F.interpolate(grid, size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def naive_miou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, void: int) -> float:
    found = []
    for c in range(classes):
        both = sum(int(((truth == c) & (mask == c)).sum()) for truth, mask in pairs)
        either = sum(int((((truth == c) | (mask == c)) & (truth != void)).sum()) for truth, mask in pairs)
        if any((truth == c).any() for truth, _ in pairs):
            found.append(both / either)
    return float(np.mean(found))


@pytest.mark.parametrize("kind", ["plain", "fungi"])
@pytest.mark.parametrize("layout", [camvid, voc])
def test_miou_is_that_of_a_naive_recomputation(
    real_data: Path, dev_weights: Path, tmp_path: Path, layout: Callable[[Path, Path], Subset], kind: str
) -> None:
    both, build, evaluate, files, void = layout(real_data, tmp_path)
    out, report = tmp_path / "bank", tmp_path / "report.json"
    backbone = [
        "--backbone.name=dev",
        f"--backbone.weights={dev_weights}",
        f"--backbone.model_args={json.dumps(MODEL)}",
    ]
    backbone += ["--backbone.mean=[0.5,0.5,0.5]", "--backbone.std=[0.5,0.5,0.5]", "--backbone.dtype=float32"]
    options = ["--input.size=192", f"--features.kind={kind}", "--data.file_list", str(tmp_path / "train.txt")]
    assert main(["build", "--out", str(out), *both, *build, *backbone, *options]) == 0
    options = ["--data.file_list", str(tmp_path / "val.txt"), "--backbone.dtype=float32", "--json", str(report)]
    options += ["--protocol=native", f"--decoder.k={K}", f"--decoder.temperature={TEMPERATURE}"]
    assert main(["evaluate", "--bank", str(out), *both, *evaluate, *options]) == 0
    values = json.loads(report.read_text(encoding="utf-8"))
    bank = MemoryBank.open(out)
    images = [np.asarray(Image.open(image).convert("RGB")) for image, _ in files]
    truths = [np.asarray(Image.open(mask)).astype(int) for _, mask in files]
    pairs = list(zip(truths, naive_masks(bank, images), strict=True))
    assert values["images"] == 6
    assert sum(map(sum, values["confusion"])) == sum(int((truth != void).sum()) for truth in truths)
    assert values["miou"] == pytest.approx(naive_miou(pairs, len(bank.info.classes), void), abs=1e-4)
    assert values["miou"] > 0.05


def test_classification_is_that_of_scikit_learn(real_data: Path, tmp_path: Path) -> None:
    """Six classes of photographs: the embedding by timm's own forward, its neighbours by scikit-learn."""
    data = tmp_path / "data"
    for split, count in (("train", 10), ("val", 6)):
        for source in sorted((real_data / "caltech101_25" / split).iterdir())[:6]:
            (data / split / source.name).mkdir(parents=True)
            for file in sorted(source.iterdir())[:count]:
                (data / split / source.name / file.name).symlink_to(file)
    out, report = tmp_path / "features", tmp_path / "report.json"
    options = ["--data.root", str(data), "--backbone.name", "embedded", "--backbone.dtype", "float32", "--fast"]
    assert main(["extract", "--out", str(out), *options]) == 0
    assert main(["classify", str(out), "--k", "5", "--methods", "knn_weighted,knn", "--json", str(report)]) == 0
    found = {
        (r["features"], r["method"]): r["mean"]
        for r in json.loads(report.read_text(encoding="utf-8"))["results"]
        if r["metric"] == "top1"
    }
    model = load_backbone("embedded", dtype="float32", device="cpu").model
    crop = v2.Compose([v2.Resize(110, v2.InterpolationMode.BICUBIC), v2.CenterCrop(96)])
    rows, labels = [], []
    for split in ("train", "val"):
        files = sorted((data / split).rglob("*.jpg"))
        images = [crop(Image.open(file).convert("RGB")) for file in files]
        pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])
        with torch.no_grad():
            rows.append(F.normalize(model(pixels), dim=-1).numpy())
        labels.append([file.parent.name for file in files])

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    classifier = KNeighborsClassifier(5, metric="cosine", weights=weights).fit(rows[0], labels[0])
    assert found["embedding", "knn_weighted"] == pytest.approx(classifier.score(rows[1], labels[1]), abs=1.01 / 36)
    assert found["embedding+kl+dino+simclr", "knn"] > 2 / 6
    assert len(found) == 30
