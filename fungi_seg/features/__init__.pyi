from .backbones import Backbone as Backbone, load_backbone as load_backbone
from .descriptor import WIDTH as WIDTH, patch_statistics as patch_statistics
from .embedded import FILE as FILE, MEAN as MEAN, STD as STD
from .kept import FeatureFiles as FeatureFiles, KeptFeatures as KeptFeatures
from .memory import patch_memory as patch_memory
from .objectives import (
    KL as KL,
    DeepCluster as DeepCluster,
    Dino as Dino,
    Objective as Objective,
    SimCLR as SimCLR,
    describe as describe,
)
from .patches import PatchFeatures as PatchFeatures
from .settings import (
    BackboneConfig as BackboneConfig,
    FeatureConfig as FeatureConfig,
    ImageFeatureConfig as ImageFeatureConfig,
    PlacementConfig as PlacementConfig,
)
from .views import CentreCrop as CentreCrop, MultiCrop as MultiCrop, SlidingPatches as SlidingPatches
from .whole import (
    ImageFeatures as ImageFeatures,
    Prepared as Prepared,
    check_finite as check_finite,
    checksum as checksum,
)
