"""Settings of bank, search and vote measured in every combination, on features that are computed once."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import faiss
import numpy as np
import torch

from fungi_seg.bank import SAMPLING, BalancedReservoir, SparseLabels, random_generator
from fungi_seg.datasets import Dataset, check_void
from fungi_seg.errors import DataError, FungiSegError, listing, reason
from fungi_seg.evaluation import pixel_counts
from fungi_seg.features import Backbone, FeatureConfig, PatchFeatures
from fungi_seg.images import InputConfig, RunConfig
from fungi_seg.progress import Stopwatch, prefetch, track
from fungi_seg.provenance import software
from fungi_seg.search import EXACT_KINDS, LISTS, IndexConfig, NeighbourIndex
from fungi_seg.segmentation import label_map, vote
from fungi_seg.sweep.patch_cache import PatchCache, cached_patches
from fungi_seg.sweep.report import Measured, SweepReport, summarise
from fungi_seg.sweep.settings import DIMENSIONS, Setting, SweepConfig

FEW_IMAGES = 20
Bank = tuple[int | None, str, str, int]  # size, sampling, index, seed


def sweep(
    train: Dataset,
    val: Dataset,
    backbone: Backbone,
    out: str | Path,
    config: SweepConfig | None = None,
    features: FeatureConfig | None = None,
    input: InputConfig | None = None,
    run: RunConfig | None = None,
) -> SweepReport:
    """Measure every combination of `config` as `build_bank` and `evaluate` would, from features computed once.

    Features and label histograms stay in `out/cache`, and serve until backbone, features, input or images change.

    Args:
        train, val: images for the banks, and to measure on: other images of the same classes.
        backbone: a frozen ViT.
        out: folder of the cache.
        config: which settings.
        features, input: what a patch feature is, how images enter.
        run: batch size, reading threads and progress.

    Raises:
        DataError: an image or mask can't be used, no pixel is labelled, void seems to be a class, or the data sets
            share images.
        FungiSegError: other classes, features that need a support set, more neighbours than rows, an unknown index.
    """
    config, features = config or SweepConfig(), features or FeatureConfig()
    input, run = input or InputConfig(), run or RunConfig()
    _check_data(train, val)
    check_void(train, run.load.workers)
    _check_features(features)
    extractor = PatchFeatures(backbone, features)
    _check_index(config.index, extractor.dim)
    clock, cache = Stopwatch(), Path(out).expanduser() / "cache"
    with clock("features"):
        annotated = cached_patches(train, extractor, input, cache / "train", np.float16, run)
        # a segmenter searches with features in float32, a bank holds float16
        queries = cached_patches(val, extractor, input, cache / "val", np.float32, run)
    available = sum(int(annotated.histograms[part].any(1).sum()) for part in annotated.images())
    if not available:
        raise DataError(f"no labelled patch in {len(train)} training images; check data.void and the masks")
    config.check_rows(available)
    if not any(queries.histograms[part].any() for part in queries.images()):
        raise DataError(f"every pixel of the {len(val)} validation masks is void; check data.void and val_split")
    measured = _Sweep(annotated, queries, val, config, run, backbone.device.type == "cpu", clock).measure(available)
    with clock("intervals"):
        results = summarise(measured, config.reference)
    settings = {
        "sweep": asdict(config),
        "data": {"train_images": len(train), "val_images": len(val), "labelled_patches": available},
        "backbone": {"name": backbone.config.name, "fingerprint": backbone.fingerprint, "dtype": str(backbone.dtype)},
        "features": asdict(features),
        "input": asdict(input),
        "software": software(),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }
    labelled = int(measured[config.reference].counts[0, :, 1].any(-1).sum())
    notes = _notes(config, available, labelled)
    return SweepReport(results, asdict(config.reference), settings, notes, dict(clock.seconds))


def choose_rows(patches: PatchCache, size: int | None, sampling: str, seed: int) -> tuple[np.ndarray, SparseLabels]:
    """The patches that `build_bank` would keep, in its order: `[M]` int64 rows of `patches`, and their labels."""
    reservoir, candidates = BalancedReservoir(size, sampling), []
    for source, part in enumerate(patches.images()):
        generator = random_generator(seed, 0, source, SAMPLING)
        chosen, priorities = reservoir.choose(patches.histograms[part], generator)
        reservoir.add(priorities)
        candidates.append((part.start + chosen, priorities))
    limit = reservoir.limit()
    kept = [rows[priorities <= limit] for rows, priorities in candidates]
    labels = [SparseLabels.from_histograms(patches.histograms[rows]) for rows in kept if len(rows)]
    return np.concatenate(kept), SparseLabels.concatenate(labels)


@dataclass(frozen=True)
class _Sweep:
    """What all banks of a sweep have in common."""

    annotated: PatchCache
    queries: PatchCache
    val: Dataset
    config: SweepConfig
    run: RunConfig
    on_cpu: bool
    clock: Stopwatch

    def measure(self, available: int) -> dict[Setting, Measured]:
        """Every setting; a bank that keeps all patches is measured once for all sizes, samplings and seeds."""
        config = self.config

        def bank(size: int | None, sampling: str, kind: str, seed: int) -> Bank:
            drawn = size is not None and size < available
            return (size, sampling, kind, seed) if drawn else (None, config.sampling[0], kind, config.seeds[0])

        wanted = (bank(*values) for values in product(config.size, config.sampling, config.index, config.seeds))
        banks = list(dict.fromkeys(wanted))
        found = {one: self._bank(one, f"bank {number}/{len(banks)}") for number, one in enumerate(banks, 1)}
        measured = {}
        for setting in (Setting(*values) for values in product(*(getattr(config, name) for name in DIMENSIONS))):
            by_seed = [found[bank(setting.size, setting.sampling, setting.index, seed)] for seed in config.seeds]
            counts = np.stack([counts[setting.k, setting.temperature] for _, _, counts in by_seed])
            measured[setting] = Measured(*by_seed[0][:2], counts)
        return measured

    def _bank(self, bank: Bank, what: str) -> tuple[int, str, dict[tuple[int, float], np.ndarray]]:
        """Its rows, its FAISS index, and by `(k, temperature)` what `Measured.counts` says of one seed."""
        size, sampling, kind, seed = bank
        with self.clock("index"):
            rows, labels = choose_rows(self.annotated, size, sampling, seed)
            config = IndexConfig(kind, device="cpu" if self.on_cpu else "auto")
            index = NeighbourIndex(self.annotated.keys[rows], config)
        counts: dict[tuple[int, float], list[np.ndarray]] = {}
        samples = prefetch(self.val.__getitem__, range(len(self.val)), self.run.load.workers)
        shown = track(samples, len(self.val), f"{what}, {len(rows)} rows, {index.kind}", show=self.run.progress)
        for number, (sample, part) in enumerate(zip(shown, self.queries.images(), strict=True)):
            for k, similarities, found in self._neighbours(index, self.queries.keys[part]):
                for temperature in self.config.temperature:
                    with self.clock("decoding"):
                        votes = vote(similarities, found, labels, len(self.val.classes), temperature)
                        mask = self._mask(votes, number, sample.mask.shape)
                    with self.clock("metric"):
                        counts.setdefault((k, temperature), []).append(pixel_counts(sample.mask, mask, votes.shape[1]))
        return len(rows), index.kind, {cell: np.stack(images) for cell, images in counts.items()}

    def _neighbours(self, index: NeighbourIndex, queries: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """`k`, similarities and rows `[Q, k]` for each `k`, as a search for it alone finds them.

        An exact index is searched once, for the largest; how many candidates an approximate one looks at depends on k.
        """
        ks = self.config.k
        with self.clock("search"):
            if index.kind not in EXACT_KINDS:
                return [(k, *index.search(queries, k)) for k in ks]
            similarities, rows = index.search(queries, max(ks))
            return [(k, similarities[:, :k], rows[:, :k]) for k in ks]

    def _mask(self, votes: np.ndarray, image: int, size: tuple[int, ...]) -> np.ndarray:
        """`[Q, C]` votes to class indices of `size`."""
        (h, w), content, (ph, pw) = self.queries.grids[image], self.queries.contents[image], self.queries.patch
        grid = torch.from_numpy(votes).view(h, w, -1).permute(2, 0, 1).contiguous()
        return label_map(grid, (size[0], size[1]), (content[0] / ph, content[1] / pw))


def _check_data(train: Dataset, val: Dataset) -> None:
    if train.classes != val.classes:
        pairs = enumerate(zip(train.classes, val.classes, strict=False))
        apart = [f"{i}: training {a!r}, validation {b!r}" for i, (a, b) in pairs if a != b]
        raise FungiSegError(
            f"the training images have {len(train.classes)} classes, the validation images {len(val.classes)}; they "
            f"must be the same, in the same order:\n{listing(apart) or '  (one list is longer)'}"
        )
    shared = sorted({item.image for item in train.items} & {item.image for item in val.items})
    if shared:
        raise DataError(
            f"{len(shared)} of {len(val)} validation images are training images too, whose patches would find "
            f"themselves; name another val_split, data.split or data.file_list:\n{listing(shared)}"
        )


def _check_features(features: FeatureConfig) -> None:
    if features.needs_support:
        raise FungiSegError(
            f"features.negatives is {features.negatives}: such features are contrasted with a support set that differs "
            f"from seed to seed, so that they can't be computed once; set features.negatives to 0, or measure them "
            f"with fungi-seg build and evaluate"
        )


def _check_index(kinds: Sequence[str], dim: int) -> None:
    for kind in (kind for kind in kinds if kind not in ("auto", LISTS, *EXACT_KINDS)):
        try:
            faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise FungiSegError(
                f"index holds {kind!r}, which FAISS can't make for {dim} dimensions ({reason(error)}); use auto, flat, "
                f"int8, lists, or a factory string, one with a comma in quotes and brackets: '[\"IVF512,Flat\"]'"
            ) from error


def _notes(config: SweepConfig, available: int, labelled: int) -> list[str]:
    notes = []
    if any(size is None or size >= available for size in config.size):
        notes.append(
            f"a bank of all {available} labelled patches is the same for every sampling and seed, and measured once"
        )
    if labelled == 1:
        notes.append(f"one labelled validation image gives no interval: it takes two, better {FEW_IMAGES} or more")
    elif labelled < FEW_IMAGES:
        notes.append(f"{labelled} labelled validation images are few: the intervals are rough")
    return notes
