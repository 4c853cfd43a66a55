"""Checks of arguments that are classes, and of arguments that have to go together."""

import inspect
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sac_variants.common.checks.observation_space import check_observation_space
from sb3_sac_variants.common.checks.validation import MOST, check_bool

#: arguments of a replay buffer that the algorithm passes itself
PASSED_TO_REPLAY_BUFFER = (
    "buffer_size",
    "observation_space",
    "action_space",
    "device",
    "n_envs",
    "optimize_memory_usage",
    "env",
)
#: how the names of modules begin that are ours or Stable-Baselines3's
LIBRARIES = (f"{__name__.partition('.')[0]}.", "stable_baselines3.")


def check_instance(name: str, value: Any, types: type | tuple[type, ...], wanted: str) -> None:
    """Raise a ``TypeError`` if an argument is of none of the ``types``, which ``wanted`` says in words."""
    if not isinstance(value, types):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}: pass {wanted}")


def check_subclass(name: str, value: Any, base: type, remedy: str = "pass one") -> None:
    """Raise a ``TypeError``, which ends with the ``remedy``, if an argument is no subclass of ``base``."""
    if not (isinstance(value, type) and issubclass(value, base)):
        raise TypeError(f"{name}={value!r} is no subclass of {base.__name__}: {remedy}")


def check_env(env: Any) -> None:
    """
    Check that an environment's observations are of a kind that SB3 can do.

    :raises TypeError: if it is no environment
    :raises ValueError: if its observations are of a kind that SB3 cannot do
    """
    check_is_env(env)
    check_observation_space(env.observation_space)


def check_is_env(env: Any) -> None:
    """Raise a ``TypeError`` if it is no environment that SB3 can take."""
    check_not_parallel_env(env)
    wanted = "a gymnasium environment, a VecEnv, or the id of an environment"
    if isinstance(env, gym.vector.VectorEnv):
        wanted = "one of Stable-Baselines3 in place of gymnasium's, as make_vec_env(id, n_envs=2) makes it"
    check_instance("env", env, (gym.Env, VecEnv), wanted)


def check_not_parallel_env(env: Any) -> None:
    """Raise a ``TypeError`` for a PettingZoo environment of several agents that is not wrapped."""
    if hasattr(env, "possible_agents") and not isinstance(env, (gym.Env, VecEnv)):
        raise TypeError(
            f"env={env!r} is a PettingZoo environment of several agents: pass "
            "sb3_sac_variants.envs.ParallelEnvAdapter(env) to MASAC, or to SACv1, SACv2 and SQL "
            "IndependentAgents(DummyVecEnv([lambda: ParallelEnvAdapter(env)]))"
        )


def check_train_freq(train_freq: Any) -> None:
    """
    Check how often the training is called.

    :param train_freq: a number of steps, or a tuple of a number and a unit
    :raises ValueError: if it has no meaning
    """
    remedy = "pass a number of steps of at least 1 and below 2**31, or (number, 'step'), or (number, 'episode')"
    if isinstance(train_freq, TrainFreq):
        frequency = train_freq.frequency
    elif isinstance(train_freq, tuple):
        if len(train_freq) != 2 or train_freq[1] not in ("step", "episode"):
            raise ValueError(f"train_freq={train_freq!r} is not known: {remedy}")
        frequency = train_freq[0]
    else:
        frequency = train_freq
    if not isinstance(frequency, int) or isinstance(frequency, bool) or not 1 <= frequency <= MOST:
        raise ValueError(f"train_freq={train_freq!r} is not allowed: {remedy}")


def check_whole_episodes(train_freq: Any, n_envs: int) -> None:
    """
    Check that environments can be trained in as often as was asked for.

    :param train_freq: as a model has it
    :param n_envs: number of environments
    :raises ValueError: if it is counted in episodes, of several environments
    """
    if isinstance(train_freq, TrainFreq) and train_freq.unit is TrainFrequencyUnit.EPISODE and n_envs > 1:
        raise ValueError(
            f"train_freq={(train_freq.frequency, train_freq.unit.value)} does not go with {n_envs} environments, whose "
            "episodes end at different times: pass a number of steps"
        )


def check_normalization(env: VecEnv) -> None:
    """
    Check that the observations before ``VecNormalize``, which are stored, are of the kind that the networks see.

    :param env: an environment with all its wrappers
    :raises ValueError: if a wrapper outside of ``VecNormalize`` gives them another shape
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return
    stored, seen = (_shapes(each.observation_space) for each in (normalizer, env))
    if stored != seen:
        raise ValueError(
            f"VecNormalize gives observations of shape {stored}, of which a wrapper outside of it makes {seen}: put "
            "VecNormalize outside, for example VecNormalize(VecFrameStack(env, 4)), and images with the channels last "
            "in VecNormalize(VecTransposeImage(env)); in the RL Zoo leave normalize or frame_stack out"
        )


def _shapes(space: spaces.Space) -> Any:
    return {key: part.shape for key, part in space.items()} if isinstance(space, spaces.Dict) else space.shape


def constructor_arguments(cls: type, packages: tuple[str, ...] = ("",)) -> dict[str, inspect.Parameter]:
    """
    The arguments that the constructors of a class and of its bases have, by their names.

    :param packages: how the names of the modules begin whose classes count, by default all
    """
    bases = [base for base in cls.__mro__[:-1] if "__init__" in vars(base) and base.__module__.startswith(packages)]
    parameters = [inspect.signature(vars(base)["__init__"]).parameters for base in reversed(bases)]
    return {name: parameter for found in parameters for name, parameter in found.items()}


def check_switches(what: str, values: dict[str, Any], cls: type) -> None:
    """Check the arguments that are True or False by default; those of a user's own class may be what they like."""
    parameters = constructor_arguments(cls, LIBRARIES)
    for name, value in values.items():
        if name in parameters and isinstance(parameters[name].default, bool):
            check_bool(f"{what} {name}", value)


def check_replay_buffer(model: Any) -> None:
    """
    Check that the replay buffer of a model whose arguments are set goes with them and with the observations.

    :raises TypeError: if ``replay_buffer_class`` is no class of replay buffers
    :raises ValueError: if it does not go with the observations or with other arguments
    """
    buffer_class, observation_space = model.replay_buffer_class, model.observation_space
    if buffer_class is not None:
        check_subclass("replay_buffer_class", buffer_class, ReplayBuffer)
    default_class = model.default_replay_buffer_class if model.n_steps == 1 else NStepReplayBuffer
    _check_replay_buffer_kwargs(buffer_class or default_class, model.replay_buffer_kwargs)
    if buffer_class is None:
        return
    name = f"replay_buffer_class={buffer_class.__name__}"
    is_dict = isinstance(observation_space, spaces.Dict)
    if is_dict and buffer_class in (ReplayBuffer, NStepReplayBuffer):
        raise ValueError(
            f"{name} cannot store observation_space={observation_space}: leave it out, or pass DictReplayBuffer"
        )
    if issubclass(buffer_class, DictReplayBuffer) and not is_dict:
        raise ValueError(
            f"{name} needs dictionary observations, not observation_space={observation_space}: leave it out"
        )
    bootstraps = model.replay_buffer_kwargs.get("handle_timeout_termination", True)
    if buffer_class is ReplayBuffer and model.optimize_memory_usage and bootstraps:
        raise ValueError(
            f"optimize_memory_usage=True does not go with {name}, which then cannot bootstrap through time limits: "
            "leave replay_buffer_class out (the default replay buffer does both)"
        )
    if issubclass(buffer_class, DictReplayBuffer) and model.optimize_memory_usage:
        hindsight = issubclass(buffer_class, HerReplayBuffer)
        remedy = "optimize_memory_usage" if hindsight else "one of them (the default replay buffer does both)"
        raise ValueError(f"optimize_memory_usage=True does not go with {name}: leave {remedy} out")
    if not issubclass(buffer_class, HerReplayBuffer):
        return
    missing = sorted({"observation", "achieved_goal", "desired_goal"} - set(observation_space.spaces))
    if missing:
        raise ValueError(
            f"{name} needs a goal environment, and observation_space={observation_space} has no {missing}: leave it "
            "out, or pass an environment whose observations have these keys"
        )
    if model.env is None:
        raise ValueError(f"env=None does not go with {name}, which asks it for rewards: pass an environment")


def _check_replay_buffer_kwargs(buffer_class: type[ReplayBuffer], kwargs: dict[str, Any]) -> None:
    parameters = inspect.signature(buffer_class).parameters
    check_switches("replay_buffer_kwargs", kwargs, buffer_class)
    known = [name for name in parameters if name not in PASSED_TO_REPLAY_BUFFER]
    unknown = sorted(map(str, set(kwargs) - set(known)))
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        raise TypeError(
            f"replay_buffer_kwargs={kwargs} has the unknown arguments {unknown}: pass those of "
            f"{buffer_class.__name__} ({', '.join(known)})"
        )
