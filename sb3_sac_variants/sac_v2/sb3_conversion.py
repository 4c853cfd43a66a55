"""Models of SACv2 from and to Stable-Baselines3's SAC."""

import copy
import io
import pathlib
import warnings
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces

from sb3_sac_variants.common.checks.replaced import is_of_user
from sb3_sac_variants.common.checks.validation import check_device, plain
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature
from sb3_sac_variants.common.persistence.files import Path, refuse
from sb3_sac_variants.common.persistence.model_file import ModelFile
from sb3_sac_variants.sac_v2.sb3_weights import (
    Named,
    freeze_as_here,
    freeze_as_sac,
    optimizer_state,
    parameters_of_sac,
    unstack_critics,
)

#: arguments that both classes take and keep under their names
SHARED_ARGUMENTS = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "tau",
    "gamma",
    "train_freq",
    "gradient_steps",
    "action_noise",
    "replay_buffer_class",
    "replay_buffer_kwargs",
    "optimize_memory_usage",
    "n_steps",
    "ent_coef",
    "target_update_interval",
    "target_entropy",
    "use_sde",
    "sde_sample_freq",
    "use_sde_at_warmup",
    "tensorboard_log",
    "policy_kwargs",
    "verbose",
    "seed",
)
#: how far a run has come
PROGRESS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
)


def from_sb3(
    cls: Any,
    sac_or_path: SAC | Path,
    env: GymEnv | str | None,
    device: th.device | str,
    trusted: bool,
    **kwargs: Any,
) -> Any:
    """Build a SACv2 from Stable-Baselines3's SAC; see :meth:`~sb3_sac_variants.sac_v2.sac_v2.SACv2.from_sb3`."""
    _refuse_other_networks(kwargs)
    check_device(device)
    env = maybe_make_env(env, verbose=0) if env is not None else None
    sac: SAC
    if isinstance(sac_or_path, SAC):
        sac = sac_or_path
    else:
        file = _find_sac(sac_or_path)
        variables = ("log_ent_coef", "ent_coef_tensor")
        with file.errors():
            replay = file.value("replay_buffer_class", trusted)
            hindsight = isinstance(replay, type) and issubclass(replay, HerReplayBuffer)
        if hindsight and env is None:
            raise ValueError(f"env=None does not go with {replay.__name__}, which asks it for rewards: pass env=...")
        # Its replay buffer is not wanted
        sac = file.load(SAC.load, SAC, None, trusted, variables, env=env, device=device, buffer_size=1)
        kwargs.setdefault("buffer_size", file.value("buffer_size", trusted))
        env = sac.get_env()
    policy = _counterpart(sac, SAC.policy_aliases, "SACv2")
    arguments = _shared_arguments(sac)
    if arguments["replay_buffer_class"] in (ReplayBuffer, DictReplayBuffer):
        arguments["replay_buffer_class"] = None
    elif arguments["replay_buffer_class"] is NStepReplayBuffer:
        # What counts there is the buffer's, whatever the arguments n_steps and gamma say
        buffer: Any = sac.replay_buffer
        own = {name: getattr(buffer, name) for name in ("n_steps", "gamma")}
        if own == {"n_steps": sac.n_steps, "gamma": sac.gamma}:
            arguments["replay_buffer_class"] = None
            for name in own:
                arguments["replay_buffer_kwargs"].pop(name, None)
        else:
            arguments |= {"n_steps": 1, "replay_buffer_kwargs": {**arguments["replay_buffer_kwargs"], **own}}
    if sac.log_ent_coef is None:
        # What SAC trains with is its tensor: the argument may have been set since, without effect
        used = sac.ent_coef_tensor
        if not th.equal(used, th.full_like(used, float(arguments["ent_coef"]))):
            arguments["ent_coef"] = used.item()
        arguments["target_entropy"] = "auto"  # of no use there either
    arguments |= {"update_order": "sb3", **kwargs}
    if isinstance(arguments["ent_coef"], str):
        arguments.setdefault("ent_coef_loss", "log_alpha")
    if arguments["target_update_interval"] != 1:
        warnings.warn(
            f"target_update_interval={arguments['target_update_interval']} counts gradient steps over the whole run "
            "here; Stable-Baselines3 begins anew in each call of train(), so that it has no effect there with "
            "gradient_steps=1. Pass target_update_interval=1 to go on as there",
            stacklevel=3,
        )
    model = _build(cls, policy, sac, sac.get_env() if env is None else env, device, arguments)

    freeze_as_sac(model.policy, sac.policy, model.critic.n_critics)
    state = parameters_of_sac(sac.get_parameters(), model)
    if model.temperature.learned and sac.log_ent_coef is not None and not _asks_for_temperature(kwargs):
        model.log_ent_coef.requires_grad_(sac.log_ent_coef.requires_grad)
        state["temperature"] = {"log_ent_coef": sac.log_ent_coef.detach()}
    else:  # a temperature that only one of the two learns, or that was asked for, stays as it was made
        state = {name: value for name, value in state.items() if not name.startswith("temperature")}
        state |= {name: value for name, value in model.get_parameters().items() if name.startswith("temperature")}
    _take_over(model, sac, state)
    return model


def _asks_for_temperature(kwargs: dict[str, Any]) -> bool:
    """Whether arguments name a temperature to begin with; "auto" goes on with the one that was learned."""
    return kwargs.get("ent_coef", "auto") != "auto"


def to_sb3(model: Any, exact: bool, **kwargs: Any) -> SAC:
    """Build Stable-Baselines3's SAC from a SACv2; see :meth:`~sb3_sac_variants.sac_v2.sac_v2.SACv2.to_sb3`."""
    _refuse_other_networks(kwargs)
    if not isinstance(model.action_space, spaces.Box):
        raise ValueError(f"action_space={model.action_space} is not known to Stable-Baselines3's SAC: it needs a Box")
    policy = _counterpart(model, model.policy_aliases, "Stable-Baselines3's SAC")
    obstacles = _obstacles(model)
    if exact and obstacles:
        raise ValueError(
            f"Stable-Baselines3's SAC has no counterpart of {'; '.join(obstacles)}. Pass exact=False to hand over the "
            "networks all the same: the policy is then the same, but goes on learning differently"
        )
    model._note_ent_coef()
    arguments = {**_shared_arguments(model), **kwargs}
    bootstraps = arguments["replay_buffer_kwargs"].get("handle_timeout_termination", True)
    if arguments["optimize_memory_usage"] and arguments["replay_buffer_class"] is None and bootstraps:
        raise ValueError(
            "optimize_memory_usage=True: Stable-Baselines3's replay buffer cannot store observations once and "
            "bootstrap through truncation. Pass to_sb3(optimize_memory_usage=False)"
        )
    sac = _build(SAC, policy, model, model.get_env(), model.device, arguments)

    def unstack(stacked: Named) -> Named:
        return unstack_critics(stacked, model.critic.n_critics)

    freeze_as_here(sac.policy, model.policy, model.critic.n_critics)
    rate = model.lr_schedule(model._current_progress_remaining)
    state = {"policy": unstack(model.policy.state_dict())}
    for name in ("actor", "critic"):
        own, theirs = getattr(model, name), getattr(sac, name)
        state[f"{name}.optimizer"] = optimizer_state(
            own.optimizer, own.named_parameters(), theirs.optimizer, theirs.named_parameters(), unstack, rate
        )
    temperature = model.temperature
    if sac.log_ent_coef is not None:
        assert sac.ent_coef_optimizer is not None
        state["ent_coef_optimizer"] = sac.ent_coef_optimizer.state_dict()
        if isinstance(temperature, LearnedTemperature) and not _asks_for_temperature(kwargs):
            sac.log_ent_coef.data.copy_(temperature.log_ent_coef.data)
            sac.log_ent_coef.requires_grad_(temperature.log_ent_coef.requires_grad)
            state["ent_coef_optimizer"] = optimizer_state(
                temperature.optimizer,
                temperature.named_parameters(),
                sac.ent_coef_optimizer,
                [("log_ent_coef", sac.log_ent_coef)],
                unstack,
                rate,
            )
    _take_over(sac, model, state)
    return sac


def _refuse_other_networks(kwargs: Named) -> None:
    """Refuse arguments that would build other networks."""
    for name in ("policy_kwargs", "use_sde"):
        if name in kwargs:
            raise ValueError(
                f"{name}={kwargs[name]!r} cannot be changed here, it belongs to the networks that are taken over: "
                "leave it out"
            )


def _find_sac(path: Path) -> ModelFile:
    """Look at a saved model of Stable-Baselines3's SAC, and refuse any other."""
    if not isinstance(path, str | pathlib.Path | io.BufferedIOBase):
        raise TypeError(
            f"sac_or_path={path!r} is neither a model of stable_baselines3.SAC nor a path to one: pass one of these"
        )
    file = ModelFile(path, "from_sb3", "sac_or_path")
    if not file.origin.startswith("stable_baselines3.sac"):
        refuse(
            path,
            f"holds no model of Stable-Baselines3's SAC, but of {file.origin}: load it with the class it was saved "
            "with",
            file.name,
        )
    return file


def _counterpart(model: Any, aliases: dict[str, Any], other: str) -> str:
    """Name of a model's policy in its class, which the ``other`` class knows too, unless it is the user's own."""
    for name, policy_class in aliases.items():
        if policy_class is model.policy_class:
            return name
    raise ValueError(f"policy={model.policy_class.__name__} has no counterpart in {other}: use one of {list(aliases)}")


def _shared_arguments(model: Any) -> Named:
    """Copy the arguments that both classes know, and refuse one that makes networks that differ."""
    activation_fn = model.policy.net_args["activation_fn"]
    if activation_fn().state_dict():
        raise ValueError(
            f"policy_kwargs activation_fn={getattr(activation_fn, '__name__', activation_fn)} cannot be taken over: it "
            "has parameters, and only those of linear layers are converted. Train with one without parameters"
        )
    arguments = {name: plain(copy.deepcopy(getattr(model, name))) for name in SHARED_ARGUMENTS}
    return {**arguments, "stats_window_size": model._stats_window_size}


def _obstacles(model: Any) -> list[str]:
    """List the options that Stable-Baselines3's SAC cannot learn with."""
    obstacles = []
    if model.reward_scale != 1:
        obstacles.append(f"reward_scale={model.reward_scale} (give SAC ent_coef=1/reward_scale instead)")
    if model.precision != "float32":
        obstacles.append(f"precision={model.precision!r} (SAC's is 'float32')")
    if model.log_ent_coef is not None and model.ent_coef_loss != "log_alpha":
        obstacles.append(f"ent_coef_loss={model.ent_coef_loss!r} (SAC's is 'log_alpha')")
    methods = ("update", "bootstrap_q", "actor_q", "critic_loss")
    own = [name for name in methods if is_of_user(model, name)]
    if own:
        obstacles.append(f"the {' and '.join(own)} of {type(model).__name__}")
    if hasattr(model.replay_buffer, "update_priorities"):
        obstacles.append(f"replay_buffer_class={type(model.replay_buffer).__name__} (SAC draws all transitions alike)")
    for name in ("qf_learning_rate", "ent_coef_learning_rate"):
        if getattr(model, name) is not None:
            obstacles.append(f"{name}={getattr(model, name)!r} (SAC has one rate for all)")
    if model.target_update_interval != 1:
        obstacles.append(f"target_update_interval={model.target_update_interval} (SAC counts anew in each train())")
    return obstacles


def _build(cls: Any, policy: str, source: Any, env: GymEnv | None, device: Any, arguments: Named) -> Any:
    """Build the new model on the spaces of the old one."""
    model = cls(policy, env, device=device, _init_setup_model=False, **arguments)
    if model.env is None:
        model.observation_space, model.action_space = source.observation_space, source.action_space
        model.n_envs = source.n_envs
    else:
        check_for_correct_spaces(model.env, source.observation_space, source.action_space)
    model._setup_model()
    return model


def _take_over(model: Any, source: Any, state: Named) -> None:
    """Load parameters, and go on from the old model's counters."""
    model.set_parameters(state, exact_match=True, device=model.device)
    for name in PROGRESS:
        setattr(model, name, getattr(source, name))
    if model.use_sde:
        model.policy.reset_noise()
