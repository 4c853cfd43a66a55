"""Save all of a run, and take it up exactly."""

import functools
import pathlib
import struct
import warnings
from typing import Any

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv

from sb3_sac_variants.common.checks.random_state import RandomState, random_state, set_random_state
from sb3_sac_variants.common.persistence import callback_state, env_state
from sb3_sac_variants.common.persistence.allowed import read_pickle
from sb3_sac_variants.common.persistence.by_name import ByNamePickler
from sb3_sac_variants.common.persistence.checkpoint_folder import as_folder, claim, current_version, new_version
from sb3_sac_variants.common.persistence.files import Refusal, file_errors, written_whole
from sb3_sac_variants.common.persistence.rebuild import require


def save_checkpoint(model: Any, path: str | pathlib.Path) -> None:
    """Save a run, for the algorithm's ``save_checkpoint``."""
    if model.env is None:
        raise ValueError("env=None leaves nothing to resume: call set_env() first, or save() the model alone")
    own = own_versions(model, path)
    with new_version(pathlib.Path(path), model.algorithm_id, model.num_timesteps, own) as version:
        model.save(version / "model.zip")
        model.save_replay_buffer(version / "replay_buffer.pkl")
        problems = [] if model._between_rollouts else ["the training was stopped in the middle of a step"]
        state = {
            **state_of_run(model, problems, model._state_before_rollout),
            "updater": model.updater.state(),
            "callbacks": callback_state.get_state(model._callback),
        }
        if model._updates_unfinished:
            warnings.warn(
                "A run resumed from this checkpoint goes on without what is left of the updates that an error or "
                "Ctrl-C has interrupted",
                stacklevel=2,
            )
        write_state(version / "state.pkl", state)


def load_checkpoint(
    cls: Any, path: str | pathlib.Path, env: GymEnv | str, device: th.device | str, trusted: bool
) -> Any:
    """Take up a run, for the algorithm's ``load_checkpoint``."""
    if env is None:
        raise ValueError("env=None leaves nothing to go on in: pass an environment built as that of the run, or its id")
    with current_version(path, cls.algorithm_id) as files:
        if isinstance(env, str):
            env = maybe_make_env(env, verbose=0)
        with file_errors(files / "state.pkl", "load_checkpoint"):
            state = read_pickle((files / "state.pkl").read_bytes(), trusted)
            goes_on, n_envs = bool(state["episode_goes_on"]), state.get("n_envs")
        model = cls.load(files / "model.zip", env, device, force_reset=not goes_on, trusted=trusted)
        check_n_envs(model, path, n_envs)
        model.load_replay_buffer(files / "replay_buffer.pkl", truncate_last_traj=not goes_on, trusted=trusted)
        with file_errors(files / "state.pkl", "load_checkpoint"):
            model.updater.set_state(state["updater"])
            model._resumed = True
            set_state_of_run(model, state, trusted)
        model._restore_callbacks = functools.partial(
            callback_state.set_state, states=state["callbacks"], trusted=trusted, path=files / "state.pkl"
        )
        own_versions(model, path).add(files.name)
    return model


def write_state(path: pathlib.Path, state: dict[str, Any]) -> None:
    """Write what belongs to a run (numbers, names and tensors) to a file, classes of a script by their names."""
    with written_whole(path) as file:
        ByNamePickler(file).dump(state)


def check_n_envs(model: Any, path: str | pathlib.Path, n_envs: Any) -> None:
    """
    Check the number of a model's environments; ``n_envs`` is that of the checkpoint, None where it does not say.

    :raises ValueError: if it is another one
    """
    if n_envs not in (model.n_envs, None):
        raise ValueError(
            f"env={model.env} has {model.n_envs} environments, the checkpoint {str(path)!r} is of {n_envs}: build "
            f"it as in the interrupted run, by make_vec_env(..., n_envs={n_envs}) say"
        )


def warn_that_a_run_begins_anew(steps: int) -> None:
    """Warn that ``learn()`` counts a run from zero that was taken up after some steps."""
    if steps:
        warnings.warn(
            f"learn() counts from 0 what was taken up after {steps} steps, and checkpoints in the same folder replace "
            "that one: pass reset_num_timesteps=False to go on with the run",
            stacklevel=5,
        )


def claim_folder(model: Any, path: str | pathlib.Path) -> None:
    """
    Make sure, before a run begins, that it will find no checkpoint of another one in its way.

    :raises RuntimeError: if a checkpoint is there that this model neither wrote nor loaded
    """
    claim(pathlib.Path(path), own_versions(model, path))


def own_versions(model: Any, path: str | pathlib.Path) -> set[str | None]:
    """The versions in a folder that a model wrote, loaded or agreed to replace, None for none."""
    if model._checkpoints is None:
        model._checkpoints = {}
    return model._checkpoints.setdefault(as_folder(path).resolve(), set())


def state_of_run(model: Any, problems: list[str], before_rollout: RandomState | None = None) -> dict[str, Any]:
    """
    Take the state of a model's environment and of the random number generators.

    :param model: the model
    :param problems: why the episode under way cannot go on, as far as is known
    :param before_rollout: random states to go on with in place of those of now
    :return: numbers, names and tensors
    """
    env = model.env
    groups = env_state.layers(env)
    everything = [layer for group in groups for layer in group]
    problems = list(problems)
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
        "n_envs": model.n_envs,
        "layers": [(env_state.names(group), state) for group, state in zip(groups, states, strict=True)],
        "random": {**random_state(model.device), **(before_rollout or {})},
        "action_space": model.action_space,
        "action_space_of_env": model.action_space is env.action_space,
    }


def set_state_of_run(model: Any, state: dict[str, Any], trusted: bool) -> None:
    """
    Put a model's environment where it was, and then the random number generators, from which making both has drawn.

    :param model: the model
    :param state: what :func:`state_of_run` gave
    :param trusted: whether to build whatever it describes
    :raises ValueError: if the environment is not built as the one it is of
    """
    assert model.env is not None
    legacy = state["random"]["numpy"]  # NumPy would read beyond its table
    require(isinstance(legacy, tuple) and type(legacy[2]) is int and 0 <= legacy[2] <= 624, "numpy.random.set_state")
    legacy = state["random"]["torch"]  # so would torch
    require(isinstance(legacy, th.Tensor) and legacy.dtype == th.uint8 and legacy.dim() == 1, "torch.set_rng_state")
    _, left, _, position = struct.unpack_from("=QiiQ", bytes(legacy[:24].tolist()))
    # It draws left - 1 numbers from there on before it makes new ones
    require(left > 0 and position + left - 1 <= 624, "torch.set_rng_state")
    groups = env_state.layers(model.env)
    saved = [names for names, _ in state["layers"]]
    present = [env_state.names(group) for group in groups]
    # Environments whose state was not saved may differ: in another process, there is no telling
    comparable = saved if state["episode_goes_on"] else saved[:-1]
    if len(present) != len(saved) or not all(map(env_state.same_layers, present, comparable)):
        raise Refusal(
            f"env={model.env} is built of {present}, but the checkpoint is of {saved}: build the environment as in "
            "the interrupted run"
        )
    everything = [layer for group in groups for layer in group]
    for group, (_, layer_state) in zip(groups, state["layers"], strict=True):
        if layer_state is not None and (state["episode_goes_on"] or group is not groups[-1]):
            env_state.set_state(group, everything, layer_state, trusted)
    if not state["episode_goes_on"] and model.seed is not None:
        # With the seed itself, the environments would repeat the episodes of the beginning
        model.env.seed(model.seed + model.num_timesteps)
    model.action_space = state["action_space"]
    if state["action_space_of_env"]:
        model.action_space = env_state.restored_space(model.env.action_space, model.action_space)
    set_random_state(state["random"], model.device)
