"""MMSegmentation: a memory bank as a segmentor, `model = dict(type="FungiSegmentor", bank="memory_banks/own")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fungi_seg.bank import MemoryBank
from fungi_seg.config import from_dict
from fungi_seg.datasets import IndexMasks
from fungi_seg.errors import FungiSegError, MissingExtra, listing, nearest
from fungi_seg.evaluation import ConfusionMatrix
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig, Segmentation, Segmenter, upsample

try:
    from mmengine.hooks import Hook
    from mmengine.structures import PixelData
    from mmengine.visualization import Visualizer
    from mmseg.models import BaseSegmentor, SegDataPreProcessor
    from mmseg.registry import HOOKS, MODELS
    from mmseg.structures import SegDataSample
except ImportError as error:
    raise MissingExtra("mmseg", error) from error

FLIPPED_AXES = {"horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}
NO_PADDING = (0, 0, 0, 0)
LEAST = float(np.finfo(np.float32).tiny)
SETTINGS = ("bank", "decoder", "index", "weights", "device", "dtype", "data_preprocessor")
UNREAD = ("pretrained", "train_cfg", "test_cfg", "init_cfg")


@MODELS.register_module()
class FungiSegmentor(BaseSegmentor):
    """Segments by retrieval from a memory bank; nothing is trained, and no checkpoint is needed.

    The backbone isn't a submodule: `state_dict()` is empty, and `to(device)` loads it there when it is next needed.

    Args:
        bank: an open bank, or the folder of one.
        decoder: `k` and `temperature`, see `DecoderConfig`.
        index: how neighbours are searched, see `IndexConfig`.
        weights: local weights file, where it isn't where it was when the bank was built.
        device: of the backbone; by default the one that the model is moved to.
        dtype: auto, bfloat16 or float32.
        data_preprocessor: must turn BGR to RGB; its padding and normalisation are undone. By default it does nothing
            but turn BGR to RGB.
        unread: `pretrained`, `train_cfg`, `test_cfg` and `init_cfg`, which MMSegmentation gives to every segmentor.

    Attributes:
        dataset_meta: `classes` and `palette` of the predictions: those of the bank, in the order of `use_classes`.

    Raises:
        BankError: no or a damaged bank; a backbone that isn't the bank's, once it is needed.
        FungiSegError: unknown or unfit settings, or a preprocessor that leaves images in BGR.
    """

    def __init__(
        self,
        bank: MemoryBank | str | Path,
        decoder: Mapping[str, Any] | None = None,
        index: Mapping[str, Any] | None = None,
        weights: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        **unread: None,
    ):
        odd = [name for name in unread if name not in UNREAD]
        if odd:
            raise FungiSegError(
                f"model has the unknown key {odd[0]!r}{nearest(odd[0], SETTINGS)}; known: {', '.join(SETTINGS)}"
            )
        super().__init__(_preprocessor(data_preprocessor))
        self.bank = bank if isinstance(bank, MemoryBank) else MemoryBank.open(bank)
        self._decoder = from_dict(DecoderConfig, decoder or {}, "model.decoder")
        self._index = from_dict(IndexConfig, index or {}, "model.index")
        self._weights, self._device, self._dtype = weights, device, dtype
        self._loaded: tuple[str, Segmenter] | None = None
        self.out_channels = len(self.bank.info.classes)  # SegTTAModel asks for it
        self._classes_given = False
        self._order_as(self.bank.info.classes)

    @property
    def segmenter(self) -> Segmenter:
        """Bank, backbone and search, on the device that the model was moved to."""
        device = self._device or str(self.data_preprocessor.device)
        if self._loaded is None or self._loaded[0] != device:
            self._loaded = (
                device,
                Segmenter(self.bank, None, self._decoder, self._index, self._weights, device, self._dtype),
            )
        return self._loaded[1]

    def use_classes(self, classes: Sequence[str]) -> None:
        """Predict in the order of `classes` from now on; spaces around names don't count.

        Raises:
            FungiSegError: they aren't the bank's classes.
        """
        self._order_as(classes)
        self._classes_given = True

    def _order_as(self, classes: Sequence[str]) -> None:
        wanted, own = [name.strip() for name in classes], [name.strip() for name in self.bank.info.classes]
        if sorted(wanted) != sorted(own):
            different = [f"only in the data set: {name}" for name in wanted if name not in own]
            different += [f"only in the bank: {name}" for name in own if name not in wanted]
            raise FungiSegError(
                f"{self.bank.path}: the bank has {len(own)} classes, the data set {len(wanted)}; they must be the "
                f"same, in any order:\n{listing(different)}\n"
                f"Build a bank from a data set of these classes: fungi-seg build --data.layout mmseg, for example"
            )
        self._order = [own.index(name) for name in wanted]
        self._places = np.argsort(self._order)
        palette = [list(self.bank.info.palette[index]) for index in self._order]
        self.dataset_meta = {"classes": tuple(classes), "palette": palette}

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Segment images as the preprocessor gives them.

        Unless `use_classes` gave their order (see the hook `UseClasses`), predictions for samples with a ground truth
        take that of the data set that mmengine's latest Runner evaluates on.

        Args:
            inputs: `[B, 3, H, W]` RGB, 0..255 or normalised.
            data_samples: hold padding, flip and original size; new ones by default.

        Returns:
            The samples, with `pred_sem_seg` `[1, H, W]` int64 and `seg_logits` `[C, H, W]` float32, at the original
            size. The softmax of the logits are the class scores.
        """
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        if not self._classes_given and any("gt_sem_seg" in sample for sample in samples):
            self._order_as(_classes_under_test() or self.bank.info.classes)
        metas = [sample.metainfo for sample in samples]
        for sample, meta, found in zip(samples, metas, self._segmented(inputs, metas), strict=True):
            mask = torch.from_numpy(self._places[found.mask])[None]
            axes = FLIPPED_AXES[meta["flip_direction"]] if meta.get("flip") else ()
            maps = {"pred_sem_seg": mask, "seg_logits": self._logits(found)}
            sample.set_data({name: PixelData(data=one.flip(axes).to(inputs.device)) for name, one in maps.items()})
        return samples

    def encode_decode(self, inputs: Tensor, batch_data_samples: Any = None) -> Tensor:
        """`[B, C, H, W]` float32 logits of images `[B, 3, H, W]` as they come, padded and flipped ones too."""
        found = self._segmented(inputs, [{}] * len(inputs))
        return torch.stack([self._logits(one) for one in found]).to(inputs.device)

    def _forward(self, inputs: Tensor, data_samples: Any = None) -> Tensor:
        """`forward` with mode `tensor`."""
        return self.encode_decode(inputs)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """`[B, N, D]` float32 patch features of images `[B, 3, H, W]`, at the bank's input size."""
        return self.segmenter.features.of([self.segmenter.fit(self._image(one, {})) for one in inputs])

    def loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """Nothing is trained.

        Raises:
            FungiSegError: always.
        """
        raise FungiSegError(
            "a FungiSegmentor isn't trained and has no loss; what it knows is its bank: build one with fungi-seg "
            "build, or add images with fungi-seg bank append"
        )

    def _segmented(self, inputs: Tensor, metas: Sequence[Mapping[str, Any]]) -> list[Segmentation]:
        """What the bank says of images, at their original size, flipped as they are."""
        images = [self._image(one, meta) for one, meta in zip(inputs, metas, strict=True)]
        sizes = [meta.get("ori_shape", image.shape)[:2] for image, meta in zip(images, metas, strict=True)]
        grounds = [np.broadcast_to(np.uint8(0), (*size, 3)) for size in sizes]
        return self.segmenter.predict_fitted([self.segmenter.fit(image) for image in images], grounds)

    def _image(self, prepared: Tensor, meta: Mapping[str, Any]) -> np.ndarray:
        """`[H, W, 3]` uint8 RGB of what the preprocessor made of it: not normalised, and without padding."""
        left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", NO_PADDING))
        height, width = prepared.shape[1:]
        image = prepared[:, top : height - bottom, left : width - right]
        mean = getattr(self.data_preprocessor, "mean", None)
        if mean is not None:
            image = image * self.data_preprocessor.std + mean
        return image.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()

    def _logits(self, found: Segmentation) -> Tensor:
        """`[C, H, W]` float32, the logarithm of the class scores."""
        scores = found.patch_scores[self._order]
        return upsample(scores, (found.mask.shape[0], found.mask.shape[1]), found.covered).clamp_(min=LEAST).log_()


def _preprocessor(given: Mapping[str, Any] | nn.Module | None) -> nn.Module:
    if given is None:
        return SegDataPreProcessor(bgr_to_rgb=True)
    built = given if isinstance(given, nn.Module) else MODELS.build({"type": "SegDataPreProcessor", **given})
    if not getattr(built, "_channel_conversion", True):
        raise FungiSegError(
            "model.data_preprocessor leaves images in BGR, as MMSegmentation reads them; give it bgr_to_rgb=True"
        )
    return built


def _classes_under_test() -> tuple[str, ...]:
    """Classes of the data set that mmengine's Runner evaluates on, where one does.

    It gives them to its evaluator and its visualizer, never the model. What a visualizer takes for classes before it is
    doesn't say `reduce_zero_label`.
    """
    try:
        meta = Visualizer.get_current_instance().dataset_meta or {}
    except RuntimeError:  # there is none
        return ()
    return tuple(meta["classes"]) if "reduce_zero_label" in meta else ()


@HOOKS.register_module()
class UseClasses(Hook):
    """Tells a `FungiSegmentor` the classes of the data set that mmengine's Runner tests or validates on."""

    def before_test(self, runner: Any) -> None:
        """Take the classes of the test data set."""
        self._tell(runner.model, runner.test_loop)

    def before_val(self, runner: Any) -> None:
        """Take the classes of the validation data set."""
        self._tell(runner.model, runner.val_loop)

    def _tell(self, model: Any, loop: Any) -> None:
        getattr(model, "module", model).use_classes(loop.dataloader.dataset.metainfo["classes"])


class PixelCounts(Hook):
    """Counts pixels while mmengine's Runner tests, for figures in full precision; samples without truth don't count.

    Args:
        classes: `C`.
        ignore_index: the value of void in the truth.

    Attributes:
        matrix: what was counted so far.
        images: how many were counted.
    """

    def __init__(self, classes: int, ignore_index: int = 255):
        self.matrix, self.images = ConfusionMatrix(classes), 0
        advice = "Give the data set all classes, or the void value as ignore_index"
        self._truth = IndexMasks(range(classes), (ignore_index,), advice)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count a batch of `SegDataSample`.

        Raises:
            DataError: a value in the truth that is neither a class nor void.
        """
        for sample in outputs:
            if "gt_sem_seg" in sample:
                truth, predicted = (
                    one.data.squeeze(0).cpu().numpy() for one in (sample.gt_sem_seg, sample.pred_sem_seg)
                )
                path = Path(sample.metainfo.get("seg_map_path") or sample.metainfo["img_path"])
                self.matrix.add(self._truth.class_indices(truth, path), predicted)
                self.images += 1
