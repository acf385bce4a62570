"""Settings of bank, search and vote measured in every combination, on features that are computed once."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import faiss
import numpy as np
import torch

from fungi_seg.bank import SAMPLING, BalancedReservoir, SparseLabels, half_weights, random_generator
from fungi_seg.datasets import Dataset, check_void
from fungi_seg.errors import DataError, FungiSegError, listing, nearest, reason, where_lists_differ
from fungi_seg.evaluation import pixel_counts
from fungi_seg.features import Backbone, FeatureConfig, PatchFeatures
from fungi_seg.images import InputConfig, RunConfig
from fungi_seg.progress import Stopwatch, prefetch, track
from fungi_seg.provenance import software
from fungi_seg.search import EXACT_KINDS, LISTS, IndexConfig, NeighbourIndex
from fungi_seg.segmentation import label_map, vote
from fungi_seg.sweep.kept_counts import Cell, KeptCounts
from fungi_seg.sweep.patch_cache import PatchCache, cached_patches
from fungi_seg.sweep.report import Measured, SweepReport, summarise
from fungi_seg.sweep.settings import Setting, SweepConfig

FEW_IMAGES = 20
Bank = tuple[int | None, str, str, int, float | None]  # size, sampling, index, seed, weight of the gradient

log = logging.getLogger(__name__)


def sweep(
    train: Dataset,
    val: Dataset,
    backbone: Backbone | Mapping[str, Backbone],
    out: str | Path,
    config: SweepConfig | None = None,
    features: FeatureConfig | None = None,
    input: InputConfig | None = None,
    run: RunConfig | None = None,
) -> SweepReport:
    """Measure every combination of `config` as `build_bank` and `evaluate` would, from features computed once.

    Features, label histograms, and what each bank counted stay in `out/cache`, and serve until backbone, features,
    input or images change: a sweep that was interrupted goes on from there, and one that asks for more measures what is
    new.

    Args:
        train, val: images for the banks, and to measure on: other images of the same classes.
        backbone: a frozen ViT; or several by name, those that `config` names or all.
        out: folder of the cache.
        config: which settings.
        features, input: what a patch feature is, how images enter. Where `config` names kinds of features, these are
            the settings of those that aren't plain.
        run: batch size, reading threads and progress.

    Raises:
        DataError: an image or mask can't be used, no pixel is labelled, void seems to be a class, or the data sets
            share images.
        FungiSegError: other classes, features that need a support set, more neighbours than rows, an unknown index, no
            backbone of a name, or one without gradients where no other kind of features is asked for.
    """
    config, features = config or SweepConfig(), features or FeatureConfig()
    input, run = input or InputConfig(), run or RunConfig()
    backbones = backbone if isinstance(backbone, Mapping) else {backbone.config.name: backbone}
    config = replace(config, kind=config.kind or (features.kind,), backbone=config.backbone or tuple(backbones))
    _check_data(train, val)
    train = train.entering(input)
    input = train.input
    val = val.entering(input)
    check_void(train, run.load.workers)
    _check_features(features)
    extractors, notes = _extractors(config, backbones, features, train.channels)
    for extractor in extractors.values():
        _check_index(config.index, extractor.dim)
    clock, cache = Stopwatch(), Path(out).expanduser() / "cache"
    wanted = [one for one in config.settings() if (one.backbone, one.kind) in extractors]
    measured: dict[Setting, Measured] = {}
    available = {}
    for place, extractor in extractors.items():
        folder = cache / f"{extractor.backbone.fingerprint[:12]}-{extractor.config.kind}"
        with clock("features"):
            annotated = cached_patches(train, extractor, input, folder / "train", np.float16, run)
            # a segmenter searches with features in float32, a bank holds float16
            queries = cached_patches(val, extractor, input, folder / "val", np.float32, run)
        rows = _check_labels(annotated, queries, train, val, config)
        available[place[0]] = rows
        here = [one for one in wanted if (one.backbone, one.kind) == place]
        measured |= _Sweep(annotated, queries, val, config, run, extractor, folder, clock).measure(here, rows)
    reference = config.reference if config.reference in measured else wanted[0]
    with clock("intervals"):
        results = summarise({one: measured[one] for one in wanted}, reference)
    settings = {
        "sweep": asdict(config),
        "data": {"train_images": len(train), "val_images": len(val), "labelled_patches": available},
        "backbone": {
            name: {"name": one.config.name, "fingerprint": one.fingerprint, "dtype": str(one.dtype)}
            for name, one in backbones.items()
            if name in config.backbone
        },
        "features": asdict(features),
        "input": asdict(input),
        "software": software(),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }
    labelled = int(measured[reference].counts[0, :, 1].any(-1).sum())
    notes += _notes(config, available, labelled)
    return SweepReport(results, asdict(reference), settings, notes, dict(clock.seconds))


def _extractors(
    config: SweepConfig, backbones: Mapping[str, Backbone], features: FeatureConfig, channels: int | None
) -> tuple[dict[tuple[str, str], PatchFeatures], list[str]]:
    """Features by backbone and kind, and notes on what a backbone doesn't have."""
    unknown = [name for name in config.backbone if name not in backbones]
    if unknown:
        raise FungiSegError(f"backbone holds {unknown[0]!r}{nearest(unknown[0], backbones)}; given: {list(backbones)}")
    found, notes = {}, []
    for name, kind in product(config.backbone, config.kind):
        if kind == "fungi" and not backbones[name].has_gradients and len(config.kind) > 1:
            notes.append(f"{name} has no gradients, so that it is measured with plain features alone")
            continue
        wanted = features if features.kind == kind else FeatureConfig(kind=kind)
        found[name, kind] = PatchFeatures(backbones[name], wanted, None, channels)
    return found, notes


def _check_labels(annotated: PatchCache, queries: PatchCache, train: Dataset, val: Dataset, config: SweepConfig) -> int:
    """How many labelled patches there are; raise unless they are enough, and there is something to measure."""
    available = sum(int(annotated.histograms[part].any(1).sum()) for part in annotated.images())
    if not available:
        raise DataError(f"no labelled patch in {len(train)} training images; check data.void and the masks")
    config.check_rows(available)
    if not any(queries.histograms[part].any() for part in queries.images()):
        raise DataError(f"every pixel of the {len(val)} validation masks is void; check data.void and val_split")
    return available


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
    """What all banks of one kind of features have in common."""

    annotated: PatchCache
    queries: PatchCache
    val: Dataset
    config: SweepConfig
    run: RunConfig
    extractor: PatchFeatures
    folder: Path
    clock: Stopwatch

    def measure(self, settings: Sequence[Setting], available: int) -> dict[Setting, Measured]:
        """Each setting; a bank that keeps all patches is measured once for all sizes, samplings and seeds."""
        config = self.config

        def bank(setting: Setting, seed: int) -> Bank:
            drawn = setting.size is not None and setting.size < available
            rows = (setting.size, setting.sampling) if drawn else (None, config.sampling[0])
            return (*rows, setting.index, seed if drawn else config.seeds[0], setting.gradient_weight)

        banks = list(dict.fromkeys(bank(setting, seed) for setting in settings for seed in config.seeds))
        found = {one: self._bank(one, f"bank {number}/{len(banks)}") for number, one in enumerate(banks, 1)}
        measured = {}
        for setting in settings:
            by_seed = [found[bank(setting, seed)] for seed in config.seeds]
            counts = np.stack([counts[setting.k, setting.temperature] for _, _, counts in by_seed])
            measured[setting] = Measured(*by_seed[0][:2], counts)
        return measured

    def _bank(self, bank: Bank, what: str) -> tuple[int, str, dict[Cell, np.ndarray]]:
        """Its rows, its kind of index, and by `(k, temperature)` what `Measured.counts` says of one seed."""
        on_cpu = self.extractor.backbone.device.type == "cpu"
        made_of = [self.annotated.made_of, self.queries.made_of, list(bank), on_cpu, software()]
        kept = KeptCounts(self.folder, {"made of": made_of})
        facts, there = kept.read()
        cells = list(product(self.config.k, self.config.temperature))
        if not all(cell in there for cell in cells):
            rows, kind, found = self._measured(bank, what, on_cpu)
            facts, there = {"rows": rows, "built": kind}, there | found
            kept.write(facts, there)
        else:
            log.info("%s, %d rows, %s: was measured before", what, facts["rows"], facts["built"])
        return facts["rows"], facts["built"], {cell: there[cell] for cell in cells}

    def _measured(self, bank: Bank, what: str, on_cpu: bool) -> tuple[int, str, dict[Cell, np.ndarray]]:
        size, sampling, kind, seed, weight = bank
        with self.clock("index"):
            rows, labels = choose_rows(self.annotated, size, sampling, seed)
            config = IndexConfig(kind, device="cpu" if on_cpu else "auto")
            scale = None if weight is None else half_weights(weight, self.extractor.backbone.dim, self.extractor.dim)
            images = np.searchsorted([part.stop for part in self.annotated.images()], rows, side="right")
            index = NeighbourIndex(self.annotated.keys[rows], config, scale=scale, groups=images)
        counts: dict[Cell, list[np.ndarray]] = {}
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
        apart = where_lists_differ(train.classes, val.classes, ("training", "validation"))
        raise FungiSegError(
            f"the training images have {len(train.classes)} classes, the validation images {len(val.classes)}; they "
            f"must be the same, in the same order:\n{apart}"
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


def _notes(config: SweepConfig, available: Mapping[str, int], labelled: int) -> list[str]:
    notes = []
    smallest = min(available.values())
    if any(size is None or size >= smallest for size in config.size):
        rows = " or ".join(map(str, dict.fromkeys(available.values())))
        notes.append(
            f"a bank of all {rows} labelled patches is the same for every sampling and seed, and measured once"
        )
    if labelled == 1:
        notes.append(f"one labelled validation image gives no interval: it takes two, better {FEW_IMAGES} or more")
    elif labelled < FEW_IMAGES:
        notes.append(f"{labelled} labelled validation images are few: the intervals are rough")
    return notes
