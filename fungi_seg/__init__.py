"""Segment images without training: patch features of a frozen vision transformer, a memory bank, and retrieval."""

from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.build import build_bank
from fungi_seg.bank.settings import BankConfig
from fungi_seg.bank.sources import SourceImages
from fungi_seg.datasets import (
    DataConfig,
    Dataset,
    ImageData,
    ImageDataConfig,
    ImageSet,
    LabelledImage,
    Sample,
    open_dataset,
    open_images,
)
from fungi_seg.errors import BankError, DataError, FungiSegError
from fungi_seg.evaluation.coco_results import CocoResults
from fungi_seg.evaluation.evaluation import Report, evaluate, evaluate_predictions
from fungi_seg.evaluation.predictions import Predictions, open_predictions
from fungi_seg.evaluation.settings import CocoConfig, MetricConfig
from fungi_seg.features.backbones import Backbone, load_backbone
from fungi_seg.features.patches import PatchFeatures
from fungi_seg.features.settings import BackboneConfig, FeatureConfig, ImageFeatureConfig
from fungi_seg.features.whole import ImageFeatures
from fungi_seg.images.settings import InputConfig, LoadConfig
from fungi_seg.search.index import NeighbourIndex
from fungi_seg.search.settings import IndexConfig
from fungi_seg.segmentation.explanation import Explanation, Neighbour, SourceShare
from fungi_seg.segmentation.segmenter import Segmentation, Segmenter
from fungi_seg.segmentation.settings import DecoderConfig
from fungi_seg.whole_images.evaluation import evaluate_images
from fungi_seg.whole_images.extraction import extract
from fungi_seg.whole_images.report import ImageReport
from fungi_seg.whole_images.settings import ClassifyConfig
from fungi_seg.whole_images.store import FeatureStore

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BankConfig",
    "BankError",
    "ClassifyConfig",
    "CocoConfig",
    "CocoResults",
    "DataConfig",
    "DataError",
    "Dataset",
    "DecoderConfig",
    "Explanation",
    "FeatureConfig",
    "FeatureStore",
    "FungiSegError",
    "ImageData",
    "ImageDataConfig",
    "ImageFeatureConfig",
    "ImageFeatures",
    "ImageReport",
    "ImageSet",
    "IndexConfig",
    "InputConfig",
    "LabelledImage",
    "LoadConfig",
    "MemoryBank",
    "MetricConfig",
    "Neighbour",
    "NeighbourIndex",
    "PatchFeatures",
    "Predictions",
    "Report",
    "Sample",
    "Segmentation",
    "Segmenter",
    "SourceImages",
    "SourceShare",
    "build_bank",
    "evaluate",
    "evaluate_images",
    "evaluate_predictions",
    "extract",
    "load_backbone",
    "open_dataset",
    "open_images",
    "open_predictions",
]
