"""The arguments all algorithms take, and what is checked about them."""

import inspect
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_sac_variants.common.checks.compatibility import (
    check_features_extractor,
    check_instance,
    check_policy,
    check_policy_kwargs,
    check_replay_buffer,
    check_train_freq,
)
from sb3_sac_variants.common.checks.validation import check_choice, check_range, check_sde, parse_ent_coef
from sb3_sac_variants.common.gradient_step.precision import TORCH_PRECISION, warn_if_ignored
from sb3_sac_variants.common.gradient_step.target_entropy import parse_target_entropy
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.persistence.checkpoint import Resumable


def whole_signature(cls: type) -> inspect.Signature:
    """
    :param cls: a class whose constructor hands on to those of its bases what it does not name
    :return: all arguments that can be passed
    """
    parameters: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        named = [one for one in own if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        parameters = {**{one.name: one for one in named}, **parameters}
        if len(named) == len(own):
            break
    # The order of the last base, whose arguments may be passed by position; what subclasses add is keyword-only
    return inspect.Signature(sorted(parameters.values(), key=lambda one: one.kind))


class MaxEntArguments(Resumable):
    """
    Arguments not described otherwise are those of SB3's ``SAC``, with its names, order and defaults.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a policy class
    :param env: the environment, or its id
    :param learning_rate: of all networks, a number or a function of the remaining progress (from 1 to 0)
    :param buffer_size: transitions to keep
    :param learning_starts: steps to collect (with random actions) before learning starts
    :param batch_size: transitions in a gradient step
    :param tau: coefficient of the targets' moving average, in (0, 1]; 1 copies
    :param gamma: discount factor, in [0, 1]
    :param train_freq: environment steps (or episodes) from one call of the training to the next
    :param gradient_steps: gradient steps in each; -1 for as many as there were environment steps, 0 to collect only
    :param action_noise: noise added to the action in training
    :param replay_buffer_class: by default :class:`~sb3_sac_variants.common.replay.buffers.TensorReplayBuffer`
    :param replay_buffer_kwargs: its arguments
    :param optimize_memory_usage: whether to store each observation once
    :param n_steps: n of n-step returns
    :param ent_coef: temperature alpha: a number of at least 0, "auto" (learned), or "auto_0.1" (learned, from 0.1);
        None for the paper's
    :param target_update_interval: gradient steps, over the whole run, from one update of the targets to the next
    :param target_entropy: H of the learned temperature in nats: "auto" for -dim(A), or 0.7 log|A| on discrete actions;
        or a number; or, on discrete actions, "auto_0.9" for that fraction of log|A|
    :param use_sde: whether to explore with gSDE
    :param sde_sample_freq: steps from one exploration matrix to the next; -1: once a rollout
    :param use_sde_at_warmup: whether gSDE, not random actions, before learning starts
    :param stats_window_size: episodes the reported means run over
    :param tensorboard_log: folder for TensorBoard
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 silent, 1 information, 2 debugging
    :param seed: of all random generators
    :param device: where to train
    :param _init_setup_model: whether to build the networks now
    :param engine: how an update runs: "auto", "eager", "compile", "cudagraph"
    :param precision: of the operands of matrix products in an update, "float32" or "bfloat16", which is faster on
        processors that have it; not of convolutions
        (:func:`~sb3_sac_variants.common.gradient_step.precision.matmul_precision`)
    :param reward_scale: multiplies the rewards inside the loss (logged returns stay raw), 1/alpha of the 2018 paper
    :param qf_learning_rate: learning rate of the critics (and value networks), by default ``learning_rate``
    :param ent_coef_learning_rate: learning rate of the temperature, by default ``learning_rate``
    :raises ValueError: if an argument has no meaning; the message names it, its value and the remedy
    """

    #: id in the zoo and in saved models
    algorithm_id: ClassVar[str]
    default_ent_coef: ClassVar[str | float] = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What help() and completion show; the constructors of subclasses pass on what is not theirs
        cls.__signature__ = whole_signature(cls)  # type: ignore[attr-defined]

    def __init__(
        self,
        policy: str | type[MaxEntPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float | None = None,
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        engine: str = "auto",
        precision: str = "float32",
        reward_scale: float = 1.0,
        qf_learning_rate: float | Schedule | None = None,
        ent_coef_learning_rate: float | Schedule | None = None,
    ):
        check_range("verbose", verbose, 0, 2, integer=True)
        if isinstance(env, str):
            env = maybe_make_env(env, verbose)
        self._check_env(env)
        if env is not None:
            check_sde(use_sde, env.action_space)
        check_policy(policy, self.policy_aliases)
        for name, value in (("replay_buffer_kwargs", replay_buffer_kwargs), ("policy_kwargs", policy_kwargs)):
            check_instance(name, value, (dict, type(None)), "a dictionary of arguments, or None")
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=dict(replay_buffer_kwargs or {}),
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            supported_action_spaces=self.supported_action_spaces,
            support_multi_env=True,
        )
        self.algorithm = self.algorithm_id  # saved with the model: a zip knows what it is
        self.ent_coef = self.default_ent_coef if ent_coef is None else ent_coef
        self.target_update_interval = target_update_interval
        self.target_entropy: Any = target_entropy  # a number once the model is set up
        self.engine = engine
        self.precision = precision
        self.reward_scale = reward_scale
        self.qf_learning_rate = qf_learning_rate
        self.ent_coef_learning_rate = ent_coef_learning_rate

        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        """
        :raises ValueError: if an argument has no meaning
        """
        if getattr(self, "observation_space", None) is None:
            raise ValueError("env=None says nothing about observations and actions: pass an environment, or its id")
        check_range("tau", self.tau, 0, 1, low_open=True)
        check_range("gamma", self.gamma, 0, 1)
        check_range("batch_size", self.batch_size, 1, integer=True)
        check_range("buffer_size", self.buffer_size, 1, integer=True)
        check_range("learning_starts", self.learning_starts, 0, integer=True)
        check_range("n_steps", self.n_steps, 1, integer=True)
        check_range("target_update_interval", self.target_update_interval, 1, integer=True)
        check_range("reward_scale", self.reward_scale, 0, low_open=True)
        check_range("stats_window_size", self._stats_window_size, 1, integer=True)
        if self.sde_sample_freq != -1:
            check_range("sde_sample_freq", self.sde_sample_freq, 1, integer=True)
        if self.seed is not None:
            check_range("seed", self.seed, 0, 2**32 - 1, integer=True)
        if self.gradient_steps != -1:
            check_range("gradient_steps", self.gradient_steps, 0, integer=True)
        check_choice("engine", self.engine, ("auto", "eager", "compile", "cudagraph"))
        check_choice("precision", self.precision, tuple(TORCH_PRECISION))
        warn_if_ignored(self.precision, self.device)
        for name in ("learning_rate", "qf_learning_rate", "ent_coef_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not callable(rate):
                check_range(name, rate, 0)
        _, learned = parse_ent_coef(self.ent_coef)
        if not learned and self.ent_coef_learning_rate is not None:
            raise ValueError(
                f"ent_coef_learning_rate={self.ent_coef_learning_rate} has no effect on the fixed ent_coef="
                f"{self.ent_coef!r}: leave it out, or pass ent_coef='auto'"
            )
        self.target_entropy = parse_target_entropy(self.target_entropy, self.action_space)
        check_train_freq(self.train_freq, self.n_envs)
        check_policy_kwargs(self.policy_class, self.policy_kwargs, self.policy_aliases)
        check_features_extractor(self.policy_class, self.policy_kwargs, self.observation_space)
        self._check_n_steps()
        check_replay_buffer(self)
        self._check_exploration()

    def _check_exploration(self) -> None:
        check_instance(
            "action_noise", self.action_noise, (ActionNoise, type(None)), "an ActionNoise of Stable-Baselines3, or None"
        )
        if isinstance(self.action_space, spaces.Box):
            return
        if self.action_noise is not None:
            raise ValueError(
                f"action_noise={self.action_noise} cannot be added to actions of {self.action_space}: leave it out, "
                "the policy explores by itself"
            )
        check_sde(self.use_sde, self.action_space)

    def _check_n_steps(self) -> None:
        if self.n_steps == 1:
            return
        if self.replay_buffer_class is not None and not issubclass(self.replay_buffer_class, NStepReplayBuffer):
            raise ValueError(
                f"n_steps={self.n_steps} does not go with replay_buffer_class={self.replay_buffer_class.__name__}, "
                "which would ignore it: pass n_steps=1, or leave replay_buffer_class out"
            )
        if isinstance(self.observation_space, spaces.Dict):
            raise ValueError(
                f"n_steps={self.n_steps} is not supported for dictionary observations: pass n_steps=1, or flatten them "
                "with gymnasium.wrappers.FlattenObservation"
            )
