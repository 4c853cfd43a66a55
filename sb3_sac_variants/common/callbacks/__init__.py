"""Checkpoints of runs and callbacks for training, under the path that user code and hyperparameter files name."""

from sb3_sac_variants.common.algorithm.any_algorithm import restore_checkpoint
from sb3_sac_variants.common.algorithm.callbacks import RunCheckpointCallback

__all__ = ["RunCheckpointCallback", "restore_checkpoint"]
