"""What the arguments of an algorithm may be, alone and together."""

import inspect
import os
import warnings
from typing import Any, Literal

from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_sac_variants.common.checks.compatibility import check_instance, check_replay_buffer, check_train_freq
from sb3_sac_variants.common.checks.policy_arguments import check_features_extractor, check_policy_kwargs
from sb3_sac_variants.common.checks.replaced import has_own, is_of_user
from sb3_sac_variants.common.checks.validation import (
    LARGEST,
    SMALLEST,
    check_action_noise,
    check_bool,
    check_choice,
    check_device,
    check_range,
    learning_rate_at,
    parse_ent_coef,
    plain,
)
from sb3_sac_variants.common.networks.policies import GAUSSIAN_ARGUMENTS

EngineName = Literal["auto", "eager", "compile", "cudagraph"]
PrecisionName = Literal["float32", "bfloat16"]
TrainFreqUnit = Literal["step", "episode"]


def check_constructor_arguments(verbose: Any, policy_kwargs: Any, replay_buffer_kwargs: Any, device: Any) -> None:
    """Check what constructors, and ``load``, use before :func:`check_arguments` could look at it."""
    check_range("verbose", int(verbose) if isinstance(verbose, bool) else verbose, 0, integer=True)
    check_device(device)
    for name, value in (("replay_buffer_kwargs", replay_buffer_kwargs), ("policy_kwargs", policy_kwargs)):
        check_instance(name, value, (dict, type(None)), "a dictionary of arguments, or None")


def check_arguments(model: Any) -> None:
    """
    Check the arguments that all algorithms share, and turn ``target_entropy`` into a number.

    :raises TypeError: if an argument is of a wrong type
    :raises ValueError: if an argument has no meaning; the message names it, its value and the remedy
    """
    if getattr(model, "observation_space", None) is None:
        raise ValueError("env=None says nothing about observations and actions: pass an environment, or its id")
    for name in ("use_sde", "optimize_memory_usage"):
        check_bool(name, getattr(model, name))
    for name, (value, reason) in model.unsupported_arguments.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"{name}={getattr(model, name)!r} has no effect on {type(model).__name__}, {reason}: pass "
                f"{name}={value!r}"
            )
    check_range("batch_size", model.batch_size, 1, integer=True)
    # What does not fit into memory is said when the first transition arrives
    check_range("buffer_size", model.buffer_size, 1, LARGEST, integer=True)
    check_range("n_steps", model.n_steps, 1, integer=True)
    check_range("stats_window_size", model._stats_window_size, 1, integer=True)
    if model.seed is not None:
        check_range("seed", model.seed, 0, 2**32 - 1, integer=True)
    wanted = "the path of a folder, or None"
    check_instance("tensorboard_log", model.tensorboard_log, (str, os.PathLike, type(None)), wanted)
    check_loop(model)
    check_settings(model)
    check_learning_rates(model)
    check_policy_kwargs(model.policy_class, model.policy_kwargs, model.policy_aliases)
    check_features_extractor(model.policy_class, model.policy_kwargs, model.observation_space)
    _check_n_steps(model)
    check_replay_buffer(model)


def check_loop(model: Any) -> None:
    """Check what says how to explore and when to update, because it may be changed before each ``learn()``."""
    if isinstance(model.learning_starts, float) and model.learning_starts.is_integer():
        model.learning_starts = int(model.learning_starts)  # people write 1e4
    check_range("learning_starts", model.learning_starts, 0, integer=True)
    check_range("gradient_steps", model.gradient_steps, -1, integer=True)  # -1: as many as there were steps
    check_train_freq(model.train_freq)
    check_bool("use_sde_at_warmup", model.use_sde_at_warmup)
    if model.sde_sample_freq != -1:
        check_range("sde_sample_freq", model.sde_sample_freq, 1, integer=True)
    actor = getattr(model, "actor", None)  # not yet there when the arguments are checked first
    made_with = model.use_sde if actor is None else getattr(actor, "use_sde", False)
    if made_with != model.use_sde:
        raise ValueError(
            f"use_sde={model.use_sde!r} has no effect on networks made with use_sde={made_with}: make a new model"
        )
    wanted = "an ActionNoise of Stable-Baselines3, or None"
    check_instance("action_noise", model.action_noise, (ActionNoise, type(None)), wanted)
    check_action_noise(model.action_noise, model.action_space)


def check_learning_rates(model: Any) -> None:
    """Check the arguments that are learning rates."""
    for name in ("learning_rate", "qf_learning_rate", "ent_coef_learning_rate"):
        rate = plain(getattr(model, name))
        if rate is not None or name == "learning_rate":
            learning_rate_at(1.0, name, rate)
        setattr(model, name, rate)
    if model.ent_coef_learning_rate is not None and not parse_ent_coef(model.ent_coef)[1]:
        raise ValueError(
            f"ent_coef_learning_rate={model.ent_coef_learning_rate} has no effect on the fixed ent_coef="
            f"{model.ent_coef!r}: leave it out, or pass ent_coef='auto'"
        )


def check_settings(model: Any) -> None:
    """Check what updates read at each call of ``train()``, because a callback may change it."""
    for name in ("tau", "gamma", "target_update_interval", "reward_scale"):
        setattr(model, name, plain(getattr(model, name)))  # a compiler takes scalars of NumPy for data
    check_range("tau", model.tau, 0, 1)
    check_range("gamma", model.gamma, 0, 1)
    check_range("target_update_interval", model.target_update_interval, 1, integer=True)
    check_range("reward_scale", model.reward_scale, 0, LARGEST, low_open=True)
    check_range("reward_scale", model.reward_scale, SMALLEST)  # smaller ones make rewards zero
    check_n_steps_unchanged(model)
    check_gamma_unchanged(model)
    check_overrides(model)
    model.target_entropy = model._parse_target_entropy()
    for name, choices in model.choices.items():
        check_choice(name, getattr(model, name), choices)


def check_overrides(model: Any) -> None:
    """
    Refuse methods of a user's that SB3 calls in updates, and this package does not.

    :param model: an algorithm
    :raises TypeError: if a method would have no effect
    """
    if is_of_user(model, "train"):  # which may call what it likes
        return
    if has_own(model, OffPolicyAlgorithm, "_update_learning_rate"):
        raise TypeError(
            f"{type(model).__name__}._update_learning_rate() would have no effect: pass learning_rate, "
            "qf_learning_rate or ent_coef_learning_rate, numbers or functions of the remaining progress"
        )
    actor = getattr(model, "actor", None)
    if is_of_user(actor, "action_log_prob") and not is_of_user(actor, "sample"):
        raise TypeError(
            f"{type(actor).__name__}.action_log_prob() would have no effect: updates call sample(obs, noise), so "
            "override that, too (action_log_prob() of this package calls it)"
        )


def check_n_steps_unchanged(model: Any) -> None:
    """
    Check that the replay buffer, once it is made, gives the n-step returns that the model is asked for.

    :raises ValueError: if ``n_steps`` was set since
    """
    buffer = getattr(model, "replay_buffer", None)
    made_with = getattr(buffer, "n_steps", 1)
    # A NStepReplayBuffer that was passed may have steps of its own
    asked = model.n_steps > 1 or model.replay_buffer_class is None
    if buffer is not None and asked and made_with != model.n_steps:
        raise ValueError(
            f"n_steps={model.n_steps} has no effect on a replay buffer made with {made_with}: make a new model, or "
            f"load a saved one with n_steps={model.n_steps}"
        )


def check_gamma_unchanged(model: Any) -> None:
    """
    Check that a discount set later is not held up by one that the replay buffer was given.

    :raises ValueError: if it would have no effect
    """
    buffer, given = getattr(model, "replay_buffer", None), model.replay_buffer_kwargs
    changed = model._gamma_at_setup not in (None, model.gamma)
    if isinstance(buffer, NStepReplayBuffer) and "gamma" in given and changed and buffer.gamma != model.gamma:
        raise ValueError(
            f"gamma={model.gamma} has no effect on n-step returns of replay_buffer_kwargs={given}: set "
            "model.replay_buffer.gamma, too, or make the model without gamma in them"
        )


def warn_of_idle_arguments(given: dict[str, Any], model: Any) -> None:
    """
    Warn of arguments that others leave without effect.

    No error, as it is none in SB3's ``SAC``; and in the zoo the one may be of a file, the other of the command line.

    :param given: arguments as they were passed, by name
    :param model: an algorithm that is set up
    """
    fixed = not model.temperature.learned
    policy_kwargs = given.get("policy_kwargs") or {}
    for name, usual in GAUSSIAN_ARGUMENTS.items() if isinstance(model.action_space, spaces.Box) else ():
        if not model.use_sde and policy_kwargs.get(name, usual) != usual:
            warnings.warn(
                f"policy_kwargs {name}={policy_kwargs[name]!r} has no effect without use_sde=True, an argument of the "
                "algorithm: leave it out",
                stacklevel=4,
            )
    on_fixed = f"on the fixed ent_coef={model.ent_coef!r}"
    for name, default, idle, cause, remedy in (
        ("target_entropy", "auto", fixed, on_fixed, ", or pass 'auto', its default"),
        ("ent_coef_loss", "alpha", fixed, on_fixed, ""),
        ("sde_sample_freq", -1, not model.use_sde, "without use_sde=True", ""),
        ("use_sde_at_warmup", False, not model.use_sde, "without use_sde=True", ""),
    ):
        if idle and given.get(name, default) != default:
            warnings.warn(f"{name}={given[name]!r} has no effect {cause}: leave it out{remedy}", stacklevel=4)


def _check_n_steps(model: OffPolicyAlgorithm) -> None:
    buffer_class, kwargs = model.replay_buffer_class, model.replay_buffer_kwargs
    n_step_class = isinstance(buffer_class, type) and issubclass(buffer_class, NStepReplayBuffer)
    if model.n_steps == 1 and not n_step_class:
        return
    if buffer_class is not None and not n_step_class:
        raise ValueError(
            f"n_steps={model.n_steps} does not go with replay_buffer_class={buffer_class.__name__}, "
            "which would ignore it: pass n_steps=1, or leave replay_buffer_class out"
        )
    # Of two that differ SB3 takes one, and says nothing
    taken = {name: kwargs[name] for name in ("n_steps", "gamma") if name in kwargs}
    if buffer_class is not None:  # it takes what it is given, whatever the model's own are, or else its defaults
        known = inspect.signature(buffer_class).parameters
        taken = {name: known[name].default for name in ("n_steps", "gamma") if name in known and name not in kwargs}
        if "n_steps" in kwargs and model.n_steps > 1:
            taken["n_steps"] = kwargs["n_steps"]
        elif model.n_steps == 1:
            taken.pop("n_steps", None)
    for name, value in taken.items():
        if value != getattr(model, name):
            raise ValueError(
                f"{name}={getattr(model, name)} and {value} of the replay buffer contradict each other: pass n_steps "
                "and gamma, and leave replay_buffer_class and replay_buffer_kwargs out"
            )
    if model.optimize_memory_usage:
        raise ValueError("optimize_memory_usage=True does not go with n-step returns: leave it out, or pass n_steps=1")
    if isinstance(model.observation_space, spaces.Dict):
        raise ValueError(
            f"n_steps={model.n_steps} is not supported for dictionary observations: pass n_steps=1, or flatten them "
            "with gymnasium.wrappers.FlattenObservation"
        )


def check_ent_coef_change(model: Any, ent_coef: str | float) -> None:
    """Refuse another temperature in place of a learned one, and a learned one in place of a fixed one."""
    learned = parse_ent_coef(ent_coef)[1]
    if learned != model.temperature.learned or (learned and ent_coef != model.ent_coef):
        raise ValueError(
            f"ent_coef={ent_coef!r} cannot take the place of ent_coef={model.ent_coef!r}: set a learned temperature "
            "with model.log_ent_coef.data.fill_(math.log(value)), or make a new model and give its policy the "
            "state_dict of this one's"
        )
