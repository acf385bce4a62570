"""Segment images without training: patch features of a frozen vision transformer, a memory bank, and retrieval."""

from fungi_seg.backbones import Backbone, BackboneConfig, load_backbone
from fungi_seg.bank import MemoryBank
from fungi_seg.build import BankConfig, LoadConfig, build_bank
from fungi_seg.datasets import DataConfig, Dataset, Sample, open_dataset
from fungi_seg.decoder import DecoderConfig
from fungi_seg.errors import BankError, DataError, FungiSegError
from fungi_seg.evaluation import MetricConfig, Report, evaluate
from fungi_seg.features import FeatureConfig, PatchFeatures
from fungi_seg.images import InputConfig
from fungi_seg.index import IndexConfig, NeighbourIndex
from fungi_seg.segmenter import Neighbour, Segmentation, Segmenter

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BankConfig",
    "BankError",
    "DataConfig",
    "DataError",
    "Dataset",
    "DecoderConfig",
    "FeatureConfig",
    "FungiSegError",
    "IndexConfig",
    "InputConfig",
    "LoadConfig",
    "MemoryBank",
    "MetricConfig",
    "Neighbour",
    "NeighbourIndex",
    "PatchFeatures",
    "Report",
    "Sample",
    "Segmentation",
    "Segmenter",
    "build_bank",
    "evaluate",
    "load_backbone",
    "open_dataset",
]
