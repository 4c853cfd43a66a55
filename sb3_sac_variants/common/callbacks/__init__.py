"""Checkpoints of runs and callbacks for training, under the path that user code and hyperparameter files name."""

from sb3_sac_variants.common.algorithm.callbacks import RunCheckpointCallback
from sb3_sac_variants.common.algorithm.sb3_checkpoints import restore_checkpoint

__all__ = ["RunCheckpointCallback", "restore_checkpoint"]
