"""How the embedded backbone is made: patterns, scenes painted with them, crops, training, release."""

from fungi_seg.pretraining.release import release
from fungi_seg.pretraining.settings import PretrainConfig, Stage
from fungi_seg.pretraining.training import Training, pretrain

__all__ = ["PretrainConfig", "Stage", "Training", "pretrain", "release"]
