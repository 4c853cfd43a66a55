"""
Checkpoints of runs with algorithms that have none of their own: those of Stable-Baselines3, sb3-contrib and others.

They are written at the start of a rollout. There an algorithm that learns by ``OffPolicyAlgorithm`` or
``OnPolicyAlgorithm`` holds, beside its networks, optimisers and replay buffer, nothing but counters and other plain
data. A run goes on in a model made as its own was, by the constructor with the same arguments.
"""

import copy
import functools
import inspect
import pathlib
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr

from sb3_sac_variants.common.persistence import callback_state, replay_file, save_load
from sb3_sac_variants.common.persistence.allowed import classes_of, read_pickle
from sb3_sac_variants.common.persistence.checkpoint import own_versions, set_state_of_run, state_of_run
from sb3_sac_variants.common.persistence.checkpoint_folder import current_version, new_version
from sb3_sac_variants.common.persistence.files import file_errors, loading_errors, written_whole

#: objects among a model's attributes that change while it trains, as far as it has them: the noise of its actions, and
#: the memory of a recurrent policy
_CHANGING = ("action_noise", "_last_lstm_states")


class Run:
    """What belongs to the run of a model that knows nothing of checkpoints."""

    #: versions of checkpoints that are of this run, by folder
    _checkpoints: dict[pathlib.Path, set[str | None]] | None = None
    #: the callback of the last ``learn()``
    callback: BaseCallback | None = None
    #: gives the callback of the next ``learn()`` the state that it had
    restore_callbacks: Callable[[BaseCallback], None] | None = None
    #: that of the episode under way, which ``learn()`` resets
    action_noise: ActionNoise | None = None


_RUNS: weakref.WeakKeyDictionary[BaseAlgorithm, Run] = weakref.WeakKeyDictionary()


def has_own_checkpoints(algorithm: Any) -> bool:
    """Whether an algorithm, or a model, is one of this package. A method of the same name says nothing."""
    return hasattr(algorithm, "_can_go_on_exactly")


def run_of(model: BaseAlgorithm) -> Run:
    """
    What is known of the run of a model.

    :param model: a model without checkpoints of its own
    :return: the same at each call
    """
    return _RUNS.setdefault(model, Run())


def begin(model: BaseAlgorithm, callback: BaseCallback) -> None:
    """
    Note the callback of a ``learn()`` that begins, and give it back what it remembered in a run that goes on.

    :param model: a model without checkpoints of its own
    :param callback: the callback with all that are inside it
    """
    run = run_of(model)
    callback_state.note_start(callback)
    if run.restore_callbacks is not None and model.num_timesteps:
        run.restore_callbacks(callback)
        model.action_noise = run.action_noise
    run.callback, run.restore_callbacks, run.action_noise = callback, None, None
    if getattr(model, "use_sde", False):
        warnings.warn(
            "A run with use_sde=True resumed from a checkpoint goes on with another exploration noise: "
            f"{type(model).__name__} has drawn it when the checkpoint is saved",
            stacklevel=2,
        )


def save_checkpoint(model: Any, path: str | pathlib.Path) -> None:
    """
    Save all that a run needs to go on; to be called at the start of a rollout.

    :param model: a model without checkpoints of its own, in the ``learn()`` that :func:`begin` was told of
    :param path: folder of the checkpoint; made where there is none
    :raises ValueError: if the path is a file
    :raises RuntimeError: if another run writes to the folder
    """
    run = run_of(model)
    with new_version(pathlib.Path(path), _id(type(model)), model.num_timesteps, own_versions(run, path)) as version:
        save_load.save_model(model, model.save, version / "model.zip", None, None)
        if getattr(model, "replay_buffer", None) is None:
            (version / "replay_buffer.pkl").touch()
        else:
            replay_file.save_replay_buffer(model, version / "replay_buffer.pkl")
        state = {
            **state_of_run(model, []),
            "attributes": _attributes(model),
            "callbacks": callback_state.get_state(run.callback),
        }
        with written_whole(version / "state.pkl") as file:
            file.write(cloudpickle.dumps(state))


def restore_checkpoint(model: Any, path: str | pathlib.Path, trusted: bool = False) -> None:
    """
    Put a model of Stable-Baselines3, say, where the run was of which ``RunCheckpointCallback`` saved a checkpoint.

    ``learn()`` then wants the steps that are left::

        model = SAC("MlpPolicy", env, seed=1)  # as in the interrupted run
        restore_checkpoint(model, "run")
        model.learn(max(total_timesteps - model.num_timesteps, 0), reset_num_timesteps=False, callback=callback)

    No code in the files is run. Algorithms of this package have ``load_checkpoint()``.

    :param model: made as that of the interrupted run, by the same arguments, on an environment built as its own
    :param path: folder of the checkpoint
    :param trusted: whether to build whatever the files describe, which may run code
    :raises TypeError: if the algorithm is one of this package
    :raises FileNotFoundError: if there is no checkpoint in the folder
    :raises ValueError: if it is damaged, of another algorithm, of other networks or of an environment built otherwise,
        or needs to be trusted
    """
    name = type(model).__name__
    if has_own_checkpoints(model):
        raise TypeError(f"model={name} has checkpoints of its own: use {name}.load_checkpoint({str(path)!r}, env)")
    with current_version(path, _id(type(model))) as files:
        with loading_errors(files / "model.zip", "restore_checkpoint", "path"):
            _, parameters, tensors = load_from_zip_file(files / "model.zip", device=model.device, load_data=False)
            model.set_parameters(parameters, exact_match=True, device=model.device)
            for name in model._get_torch_save_params()[1]:
                recursive_setattr(model, f"{name}.data", (tensors or {})[name].data)
        with file_errors(files / "state.pkl", "restore_checkpoint"):
            changing = [vars(model)[name] for name in _CHANGING if name in vars(model)]
            state = read_pickle((files / "state.pkl").read_bytes(), trusted, classes=classes_of(changing))
            goes_on = bool(state["episode_goes_on"])
            known = _attributes(model)
            vars(model).update({name: value for name, value in state["attributes"].items() if name in known})
            if not goes_on:
                model._last_obs = None  # learn() begins with a reset
        if getattr(model, "replay_buffer", None) is not None:
            replay_file.load_replay_buffer(model, files / "replay_buffer.pkl", not goes_on, trusted)
        with file_errors(files / "state.pkl", "restore_checkpoint"):
            set_state_of_run(model, state, trusted)
        run = run_of(model)
        run.restore_callbacks = functools.partial(
            callback_state.set_state, states=state["callbacks"], trusted=trusted, path=files / "state.pkl"
        )
        run.action_noise = copy.deepcopy(model.action_noise) if goes_on else model.action_noise
        own_versions(run, path).add(files.name)


def _id(algorithm: type) -> str:
    return f"{algorithm.__module__}.{algorithm.__qualname__}"


def _attributes(model: Any) -> dict[str, Any]:
    """What changes among the attributes of a model while it trains, beside what its own ``save()`` keeps as tensors."""
    constructors = [vars(cls)["__init__"] for cls in type(model).__mro__[:-1] if "__init__" in vars(cls)]
    arguments = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    built = {*arguments, *model._excluded_save_params()}
    return {
        name: value
        for name, value in vars(model).items()
        if name in _CHANGING or (name not in built and callback_state.is_plain(value))
    }
