from .bank import (
    BankConfig as BankConfig,
    BankRecipe as BankRecipe,
    MemoryBank as MemoryBank,
    SourceImages as SourceImages,
    append_images as append_images,
    build_bank as build_bank,
    replace_images as replace_images,
)
from .datasets import (
    DataConfig as DataConfig,
    Dataset as Dataset,
    ImageData as ImageData,
    ImageDataConfig as ImageDataConfig,
    ImageSet as ImageSet,
    LabelledImage as LabelledImage,
    Sample as Sample,
    open_dataset as open_dataset,
    open_images as open_images,
)
from .errors import BankError as BankError, DataError as DataError, FungiSegError as FungiSegError
from .evaluation import (
    CocoConfig as CocoConfig,
    CocoResults as CocoResults,
    MetricConfig as MetricConfig,
    Predictions as Predictions,
    Report as Report,
    evaluate as evaluate,
    evaluate_predictions as evaluate_predictions,
    open_predictions as open_predictions,
)
from .features import (
    Backbone as Backbone,
    BackboneConfig as BackboneConfig,
    FeatureConfig as FeatureConfig,
    ImageFeatureConfig as ImageFeatureConfig,
    ImageFeatures as ImageFeatures,
    PatchFeatures as PatchFeatures,
    load_backbone as load_backbone,
)
from .images import InputConfig as InputConfig, LoadConfig as LoadConfig, RunConfig as RunConfig
from .search import IndexConfig as IndexConfig, NeighbourIndex as NeighbourIndex
from .segmentation import (
    DecoderConfig as DecoderConfig,
    Explanation as Explanation,
    Neighbour as Neighbour,
    OverlayConfig as OverlayConfig,
    Segmentation as Segmentation,
    Segmenter as Segmenter,
    SourceShare as SourceShare,
)
from .whole_images import (
    ClassifyConfig as ClassifyConfig,
    FeatureStore as FeatureStore,
    ImageReport as ImageReport,
    evaluate_images as evaluate_images,
    extract as extract,
)

__version__: str
