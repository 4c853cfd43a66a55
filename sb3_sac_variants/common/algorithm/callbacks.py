"""Callbacks for training."""

import pathlib
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_sac_variants.common.algorithm import sb3_checkpoints
from sb3_sac_variants.common.algorithm.saving import MaxEntSaving
from sb3_sac_variants.common.checks.validation import check_range
from sb3_sac_variants.common.persistence.checkpoint import claim_folder


class RunCheckpointCallback(BaseCallback):
    """
    Saves checkpoints from which an interrupted run goes on exactly.

    One is saved whenever at least ``save_freq`` steps have passed, and at the end. The last is kept;
    ``load_checkpoint()`` of the algorithm takes it up. With an algorithm of Stable-Baselines3 or sb3-contrib none is
    saved at the end, and ``restore_checkpoint()``, which lies beside this class, takes up the last. Where the folder
    holds one of another run, training does not begin. In a list of callbacks it is called first, wherever it stands:
    what others do at the start of a rollout follows the checkpoint, so that a resumed run does it once. Inside an
    ``EventCallback`` it is refused: it would not be told where rollouts begin. Named in a ``callback:`` entry of the
    RL Zoo it needs no path, and ``python -m sb3_sac_variants.zoo resume FOLDER`` goes on with the run in that folder.

    :param path: folder of the checkpoint; in the zoo by default ``checkpoint`` in the folder of the run
    :param save_freq: environment steps from one to the next
    :param verbose: from 1 on, say when one is saved
    :raises TypeError: when training begins, if the algorithm learns by neither of SB3's loops, off-policy or on-policy
    :raises ValueError: if ``save_freq`` is below 1; when training begins, if there is no path, or it is inside another
        callback
    :raises RuntimeError: when training begins, if the folder holds the checkpoint of another run
    """

    def __init__(self, path: str | pathlib.Path | None = None, save_freq: int = 10_000, verbose: int = 0):
        super().__init__(verbose)
        check_range("save_freq", save_freq, 1, integer=True)
        self.path, self.save_freq = path, save_freq
        self._saved_at: int | None = None  # before training

    def _init_callback(self) -> None:
        if self.path is None:
            raise ValueError("path=None is known in runs of the RL Zoo only: pass the folder for the checkpoint")

    def _on_training_start(self) -> None:
        assert self.path is not None
        model: Any = self.model
        if not isinstance(model, OffPolicyAlgorithm | OnPolicyAlgorithm):
            raise TypeError(
                f"RunCheckpointCallback does not know the loop of {type(model).__name__}, which is neither SB3's "
                "OffPolicyAlgorithm nor its OnPolicyAlgorithm: train it without"
            )
        # SB3's learn() knows its callback by this name; a loop of a user's own may not
        root = getattr(model, "_callback", None) or self.locals["callback"]
        if not self._put_first(root):
            raise ValueError(
                "RunCheckpointCallback would save nothing inside another callback, which does not tell it where "
                "rollouts begin: pass it to learn() by itself, or in a list of callbacks"
            )
        if isinstance(model, MaxEntSaving):
            claim_folder(model, self.path)
        else:
            sb3_checkpoints.begin(model, root)
            claim_folder(sb3_checkpoints.run_of(model), self.path)
        self._saved_at = model.num_timesteps

    def _put_first(self, callback: BaseCallback) -> bool:
        """Have this callback called before the others of a list, which may hold lists; say whether it is in there."""
        if not isinstance(callback, CallbackList):
            return callback is self
        ours = [id(inner) for inner in callback.callbacks if self._put_first(inner)]
        callback.callbacks = sorted(callback.callbacks, key=lambda inner: id(inner) not in ours)
        return bool(ours)

    def _on_rollout_start(self) -> None:
        assert self._saved_at is not None
        if self.model.num_timesteps - self._saved_at >= self.save_freq:
            self._save()

    def _on_training_end(self) -> None:
        # The zoo calls this after Ctrl-C and errors, too, even those before training. Where a step or the updates are
        # half done, the last checkpoint goes on exactly. Other algorithms than ours do not say where they are
        if self._saved_at is None or self.model.num_timesteps <= self._saved_at:
            return
        if isinstance(self.model, MaxEntSaving) and self.model._can_go_on_exactly:
            self._save()

    def _save(self) -> None:
        assert self.path is not None
        if isinstance(self.model, MaxEntSaving):
            self.model.save_checkpoint(self.path)
        else:
            sb3_checkpoints.save_checkpoint(self.model, self.path)
        self._saved_at = self.model.num_timesteps
        if self.verbose >= 1:
            print(f"Saved a checkpoint of step {self._saved_at} to {self.path}")

    def _on_step(self) -> bool:
        return True
