"""Checkpoints from which an interrupted run goes on exactly, and which an interruption cannot destroy."""

import json
import os
import pathlib
import pickle
import shutil
import uuid
import warnings
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_sac_variants.common.checks.random_state import random_state, set_random_state
from sb3_sac_variants.common.persistence import env_state
from sb3_sac_variants.common.persistence.save_load import pickle_errors

#: names the folder of a checkpoint's current version; replacing this file is what makes a new version current
POINTER = "checkpoint.json"
#: beginning of the names of the folders of versions
VERSION = "version-"


def save_checkpoint(model: Any, path: str | pathlib.Path) -> None:
    """
    Save all that a run needs to go on.

    :param model: an algorithm
    :param path: folder of the checkpoint; made where there is none
    :raises ValueError: if the model has no environment, or the path is a file
    """
    if model.env is None:
        raise ValueError("env=None leaves nothing to resume: call set_env() first, or save() the model alone")
    folder = pathlib.Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path={str(path)!r} is a file: pass a folder, which the checkpoint fills with its files")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_versions(folder, but=_current_version(folder))
    version = folder / f"{VERSION}{model.num_timesteps}-{uuid.uuid4().hex[:8]}"
    version.mkdir()
    try:
        model.save(version / "model.zip")
        model.save_replay_buffer(version / "replay_buffer.pkl")
        (version / "state.pkl").write_bytes(cloudpickle.dumps(_run_state(model, model.env)))
        description = {"algorithm": model.algorithm_id, "num_timesteps": model.num_timesteps, "version": version.name}
        (version / POINTER).write_text(json.dumps(description))
        for file in version.iterdir():
            _flush_to_disk(file)
        os.replace(version / POINTER, folder / POINTER)
    except BaseException:
        _remove_versions(folder, but=_current_version(folder))
        raise
    _remove_versions(folder, but=version.name)


def load_checkpoint(cls: Any, path: str | pathlib.Path, env: GymEnv | str, device: th.device | str) -> Any:
    """
    Take up a run where :func:`save_checkpoint` left it.

    :param cls: the algorithm
    :param path: folder of the checkpoint
    :param env: environment built as that of the interrupted run, or its id
    :param device: device to load the model to
    :return: the model
    :raises FileNotFoundError: if there is no checkpoint in the folder
    :raises ValueError: if it is damaged, of another algorithm, or of an environment built otherwise
    """
    folder = pathlib.Path(path)
    version = _current_version(folder)
    if version is None:
        raise FileNotFoundError(f"path={str(path)!r} holds no checkpoint: pass a folder that save_checkpoint() wrote")
    files = folder / version
    if isinstance(env, str):
        env = maybe_make_env(env, verbose=0)
    with pickle_errors(files / "state.pkl"), open(files / "state.pkl", "rb") as file:
        state = pickle.load(file)
    model = cls.load(files / "model.zip", env, device, force_reset=not state["episode_goes_on"])
    model.load_replay_buffer(files / "replay_buffer.pkl", truncate_last_traj=not state["episode_goes_on"])
    _set_run_state(model, state)
    return model


def _run_state(model: Any, env: VecEnv) -> dict[str, Any]:
    """
    :param model: the model
    :param env: the environment
    :return: what of a run is neither in the saved model nor in the replay buffer
    """
    groups = env_state.layers(env)
    everything = [layer for group in groups for layer in group]
    problems = [] if model._between_rollouts else ["the training was stopped in the middle of a step"]
    states: list[bytes | None] = []
    for group in groups:
        try:
            states.append(env_state.get_state(group, everything))
        except env_state.EnvironmentStateError as error:
            states.append(None)
            problems.append(f"the state of an environment cannot be saved: {error}")
    if problems:
        warnings.warn(
            f"A run resumed from this checkpoint will begin a new episode, because {'; '.join(problems)}",
            stacklevel=3,
        )
    return {
        "episode_goes_on": not problems,
        "layers": [(env_state.names(group), state) for group, state in zip(groups, states, strict=True)],
        "random": {**random_state(model.device), **(model._state_before_rollout or {})},
        "action_space": model.action_space,
        "updater": model.updater.state(),
    }


def _set_run_state(model: Any, state: dict[str, Any]) -> None:
    """
    :param model: the model
    :param state: what :func:`_run_state` gave
    :raises ValueError: if the environment is not built as the one it is of
    """
    assert model.env is not None
    groups = env_state.layers(model.env)
    saved = [names for names, _ in state["layers"]]
    present = [env_state.names(group) for group in groups]
    # Environments whose state was not saved may differ: in another process, there is no telling
    comparable = saved if state["episode_goes_on"] else saved[:-1]
    if present[: len(comparable)] != comparable or len(present) != len(saved):
        raise ValueError(
            f"env={model.env} is built of {present}, but the checkpoint is of {saved}: build the environment as in "
            "the interrupted run"
        )
    everything = [layer for group in groups for layer in group]
    for group, (_, layer_state) in zip(groups, state["layers"], strict=True):
        if layer_state is not None and (state["episode_goes_on"] or group is not groups[-1]):
            env_state.set_state(group, everything, layer_state)
    if not state["episode_goes_on"] and model.seed is not None:
        # With the seed itself, the environments would repeat the episodes of the beginning
        model.env.seed(model.seed + model.num_timesteps)
    model.action_space = state["action_space"]
    model.updater.set_state(state["updater"])
    model._resumed = True
    set_random_state(state["random"], model.device)  # last: building the model drew random numbers


def _current_version(folder: pathlib.Path) -> str | None:
    """
    :param folder: of a checkpoint
    :return: name of the folder inside it that holds the current version, None if there is none
    :raises ValueError: if the checkpoint is damaged
    """
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    try:
        version = json.loads(pointer.read_text())["version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"path={str(folder)!r}: {POINTER} is damaged ({error}): load another checkpoint") from error
    return str(version)


def _remove_versions(folder: pathlib.Path, but: str | None) -> None:
    """
    :param folder: of a checkpoint
    :param but: version to keep
    """
    for version in folder.glob(f"{VERSION}*"):
        if version.name != but:
            shutil.rmtree(version, ignore_errors=True)


def _flush_to_disk(file: pathlib.Path) -> None:
    """
    :param file: what must have reached the disk before anything relies on it
    """
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
