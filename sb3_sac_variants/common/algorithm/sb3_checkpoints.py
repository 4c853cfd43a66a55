"""
Checkpoints of runs with algorithms that have none of their own: those of Stable-Baselines3, sb3-contrib and others.

They are written at the start of a rollout. There an algorithm that learns by ``OffPolicyAlgorithm`` or
``OnPolicyAlgorithm`` holds, beside its networks, optimisers and replay buffer, counters and other plain data. A run
goes on in a model made as its own was, by the constructor with the same arguments.
"""

import collections
import copy
import functools
import pathlib
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr, recursive_setattr

from sb3_sac_variants.common.algorithm.saving import MaxEntSaving
from sb3_sac_variants.common.checks.compatibility import constructor_arguments
from sb3_sac_variants.common.gradient_step.nested import map_leaves
from sb3_sac_variants.common.persistence import callback_state, replay_file, save_load
from sb3_sac_variants.common.persistence.allowed import classes_of, read_pickle
from sb3_sac_variants.common.persistence.checkpoint import (
    check_n_envs,
    own_versions,
    set_state_of_run,
    state_of_run,
    warn_that_a_run_begins_anew,
    write_state,
)
from sb3_sac_variants.common.persistence.checkpoint_folder import current_version, new_version
from sb3_sac_variants.common.persistence.files import file_errors, loading_errors
from sb3_sac_variants.common.persistence.optimizers import check_kind
from sb3_sac_variants.common.persistence.rebuild import name_of
from sb3_sac_variants.common.replay.trajectories import end_trajectory

#: where the episode under way is, and the last ones
_EPISODE = ("_last_obs", "_last_original_obs", "_last_episode_starts")
_LAST_EPISODES = ("ep_info_buffer", "ep_success_buffer")
#: attributes of SB3's loops, which are taken back whether they have changed since the start or not
_OF_LOOP = (*_EPISODE, *_LAST_EPISODES, "num_timesteps", "_episode_num", "_n_updates", "_current_progress_remaining")
#: objects that change: the noise of actions, and the memory of a recurrent policy
_OBJECTS = ("action_noise", "_last_lstm_states")


class Run:
    """What belongs to the run of a model that knows nothing of checkpoints. It must not hold the model."""

    #: versions of checkpoints that are of this run, by folder
    _checkpoints: dict[pathlib.Path, set[str | None]] | None = None
    #: what the model held at the start of its first ``learn()``
    start: dict[str, Any] | None = None
    #: the callback of the last ``learn()``
    callback: Callable[[], BaseCallback | None] = staticmethod(lambda: None)
    #: of the checkpoint that the next ``learn()`` goes on from
    restored_at: int | None = None
    #: gives the callback of the next ``learn()`` the state that it had
    restore_callbacks: Callable[[BaseCallback], None] = staticmethod(lambda _: None)
    #: the noise of the episode under way, which ``learn()`` resets, and a copy
    noises: tuple[ActionNoise | None, ActionNoise | None] = (None, None)


_RUNS: weakref.WeakKeyDictionary[BaseAlgorithm, Run] = weakref.WeakKeyDictionary()


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
    if model.num_timesteps and model.num_timesteps == run.restored_at:
        run.restore_callbacks(callback)
        if model.action_noise is run.noises[0]:
            model.action_noise = run.noises[1]
    elif run.restored_at is not None and not model.num_timesteps:
        warn_that_a_run_begins_anew(run.restored_at)
    if run.start is None:
        run.start = copy.deepcopy(
            {name: value for name, value in _plain(model).items() if callback_state.is_small(value)}
        )
    run.callback, run.restored_at, run.noises = weakref.ref(callback), None, (None, None)
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
    start = run.start or {}
    with new_version(pathlib.Path(path), name_of(model), model.num_timesteps, own_versions(run, path)) as version:
        save_load.save_model(model, model.save, version / "model.zip", None, None)
        if getattr(model, "replay_buffer", None) is None:
            (version / "replay_buffer.pkl").touch()
        else:
            filled = types.SimpleNamespace(replay_buffer=_filled_part(model.replay_buffer))
            replay_file.save_replay_buffer(filled, version / "replay_buffer.pkl")
        plain = _plain(model)
        lost = [name for name in _OF_LOOP if name in vars(model) and name not in plain]
        if last := [name for name in lost if name in _LAST_EPISODES]:
            warnings.warn(
                f"{type(model).__name__} of a run resumed from this checkpoint will begin anew with {last}, which hold "
                "other than plain data: have the environment's Monitor keep numbers (info_keywords)",
                stacklevel=2,
            )
        problems = [f"{name} is a {type(vars(model)[name]).__name__}" for name in lost if name in _EPISODE]
        state = {
            **state_of_run(model, problems),
            "start": start,
            "attributes": {name: value for name, value in plain.items() if _has_changed(name, value, start)},
            "objects": {name: vars(model)[name] for name in _OBJECTS if name in vars(model)},
            "callbacks": callback_state.get_state(run.callback()),
        }
        write_state(version / "state.pkl", state)


def restore_checkpoint(model: Any, path: str | pathlib.Path, trusted: bool = False) -> None:
    """
    Put a model of Stable-Baselines3, say, where the run was of which ``RunCheckpointCallback`` saved a checkpoint.

    ``learn()`` then wants the steps that are left, and callbacks built as those of the run, that one among them::

        model = SAC("MlpPolicy", env, seed=1)  # as in the interrupted run
        restore_checkpoint(model, "run")
        model.learn(max(total_timesteps - model.num_timesteps, 0), reset_num_timesteps=False, callback=callbacks)

    No code in the files is run. After an error the model is of no use: make it anew. Algorithms of this package have
    ``load_checkpoint()``.

    :param model: made as that of the interrupted run, by the same arguments, on an environment built as its own
    :param path: folder of the checkpoint
    :param trusted: whether to build whatever the files describe, which may run code
    :raises TypeError: if the algorithm is one of this package
    :raises FileNotFoundError: if there is no checkpoint in the folder
    :raises ValueError: if the model has no environment; if the checkpoint is damaged, of another algorithm, of other
        networks or of an environment built otherwise, or needs to be trusted
    """
    name, call = type(model).__name__, "restore_checkpoint"
    if isinstance(model, MaxEntSaving):
        raise TypeError(f"model={name} has checkpoints of its own: use {name}.load_checkpoint({str(path)!r}, env)")
    if model.env is None:
        raise ValueError(f"model={name} has no environment: make it on one that is built as that of the run")
    with current_version(path, name_of(model)) as files:
        with file_errors(files / "state.pkl", call):
            known = classes_of([vars(model)[name] for name in _OBJECTS if name in vars(model)])
            state = read_pickle((files / "state.pkl").read_bytes(), trusted, classes=known)
            goes_on, n_envs, callbacks = bool(state["episode_goes_on"]), state["n_envs"], state["callbacks"]
        check_n_envs(model, path, n_envs)
        with loading_errors(files / "model.zip", call, "path"):
            _set_networks(model, files / "model.zip")
        if getattr(model, "replay_buffer", None) is not None:
            made = model.replay_buffer
            replay_file.load_replay_buffer(model, files / "replay_buffer.pkl", not goes_on, trusted)
            found = model.replay_buffer.buffer_size
            if found != made.buffer_size:
                raise ValueError(
                    f"buffer_size={made.buffer_size} is not that of the checkpoint {str(path)!r}: make the model with "
                    f"{found}"
                )
            with file_errors(files / "replay_buffer.pkl", call):
                _fill_up(model.replay_buffer, made)
        with file_errors(files / "state.pkl", call):
            _set_attributes(model, state)
            if not goes_on:
                model._last_obs = None  # learn() begins with a reset
                if getattr(model, "replay_buffer", None) is not None:
                    end_trajectory(model.replay_buffer)
            set_state_of_run(model, state, trusted)
        run = run_of(model)
        run.restored_at, run.start = model.num_timesteps, state["start"]
        run.noises = (model.action_noise, copy.deepcopy(model.action_noise)) if goes_on else (None, None)
        run.restore_callbacks = functools.partial(
            callback_state.set_state, states=callbacks, trusted=trusted, path=files / "state.pkl", call=call
        )
        own_versions(run, path).add(files.name)


def _set_networks(model: Any, file: pathlib.Path) -> None:
    """Take over networks, optimisers and what else is learned. A fixed temperature is an argument and stays."""
    _, parameters, tensors = load_from_zip_file(file, device=model.device, load_data=False)
    state_dicts, names = model._get_torch_save_params()
    for name in state_dicts:
        if isinstance(optimizer := recursive_getattr(model, name), th.optim.Optimizer):
            check_kind(name, optimizer, parameters[name])
    model.set_parameters(parameters, exact_match=True, device=model.device)
    for name in names:
        if recursive_getattr(model, name).requires_grad:
            recursive_setattr(model, f"{name}.data", (tensors or {})[name].data)


def _filled_part(buffer: Any) -> Any:
    """One of SB3's replay buffers without the rows that are empty, which are most of them for long."""
    if type(buffer) not in (ReplayBuffer, NStepReplayBuffer, HerReplayBuffer) or buffer.full:
        return buffer
    part = copy.copy(buffer)
    for name, array in _arrays(buffer).items():
        vars(part)[name] = array[: buffer.pos + 1]  # with the memory-saving layout, one more observation
    return part


def _fill_up(buffer: Any, made: Any) -> None:
    """
    Add the empty rows that :func:`_filled_part` has left out.

    :param buffer: as it was loaded
    :param made: the one that the model was made with, which says how long each array is
    """
    for name, array in _arrays(made).items():
        found = vars(buffer)[name]
        if len(found) < len(array):
            vars(buffer)[name] = np.zeros(array.shape, array.dtype)
            vars(buffer)[name][: len(found)] = found


def _arrays(buffer: Any) -> dict[str, np.ndarray]:
    """The arrays of numbers with a row for each transition."""
    return {
        name: value
        for name, value in vars(buffer).items()
        if isinstance(value, np.ndarray) and value.shape[:1] == (buffer.buffer_size,) and not value.dtype.hasobject
    }


def _plain(model: Any) -> dict[str, Any]:
    """The plain data among a model's attributes, but for its arguments, and for texts, which may name a file."""
    built = {*constructor_arguments(type(model)), *model._excluded_save_params(), "n_envs"}
    return {
        name: value
        for name, value in vars(model).items()
        if name not in built and callback_state.is_plain(value) and not isinstance(value, str | bytes)
    }


def _has_changed(name: str, value: Any, start: dict[str, Any]) -> bool:
    return name in _OF_LOOP or name not in start or not callback_state.same(start[name], value)


def _set_attributes(model: Any, state: dict[str, Any]) -> None:
    """Take over what has changed since the start, where the model was made as that of the run: other arguments stay."""
    present, start = _plain(model), state["start"]
    for name, value in state["attributes"].items():
        as_then = name not in start or callback_state.same(start[name], present.get(name))
        if callback_state.is_plain(value) and (name in _OF_LOOP or (name in present and as_then)):
            vars(model)[name] = collections.deque(value, model._stats_window_size) if name in _LAST_EPISODES else value

    def to_device(leaf: Any) -> Any:
        return leaf.to(model.device) if isinstance(leaf, th.Tensor) else leaf

    for name in _OBJECTS:
        if name in vars(model):
            # The memory of a recurrent policy is a named tuple of tuples of tensors
            vars(model)[name] = map_leaves(to_device, state["objects"][name])
