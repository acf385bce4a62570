"""Segment images without training: patch features of a frozen vision transformer, a memory bank, and retrieval."""

from fungi_seg.backbones import Backbone, BackboneConfig, load_backbone
from fungi_seg.bank import MemoryBank
from fungi_seg.build import BankConfig, LoadConfig, build_bank
from fungi_seg.coco_results import CocoConfig, CocoResults
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
from fungi_seg.decoder import DecoderConfig
from fungi_seg.errors import BankError, DataError, FungiSegError
from fungi_seg.evaluation import MetricConfig, Report, evaluate, evaluate_predictions
from fungi_seg.explanation import Explanation, Neighbour, SourceShare
from fungi_seg.extraction import extract
from fungi_seg.feature_store import FeatureStore
from fungi_seg.features import FeatureConfig, PatchFeatures
from fungi_seg.image_evaluation import ClassifyConfig, evaluate_images
from fungi_seg.image_features import ImageFeatureConfig, ImageFeatures
from fungi_seg.image_report import ImageReport
from fungi_seg.images import InputConfig
from fungi_seg.index import IndexConfig, NeighbourIndex
from fungi_seg.predictions import Predictions, open_predictions
from fungi_seg.segmenter import Segmentation, Segmenter
from fungi_seg.sources import SourceImages

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
