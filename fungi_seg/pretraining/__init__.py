"""How the embedded backbone is made: patterns, scenes painted with them, crops, training, release."""

from fungi_seg.pretraining.release import release
from fungi_seg.pretraining.training import PretrainConfig, Stage, Training, pretrain

__all__ = ["PretrainConfig", "Stage", "Training", "pretrain", "release"]
