"""Bad input is refused with an error that names the argument, its value and the remedy."""

import functools
import inspect
import io
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION, ALGORITHMS, DICTIONARY, VECTOR, SpacesEnv, goal_env, make, refused
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2

NAN, INF = float("nan"), float("inf")

#: argument: values without a meaning, and what the error advises
RANGES: dict[str, tuple[list[Any], str]] = {
    "learning_rate": ([-1e-3, NAN, "fast", None, 10**400, 1e300, object, print], "pass a number at least 0"),
    "qf_learning_rate": ([-1e-3, INF, "fast", 1e300, len], "pass a number at least 0"),
    "buffer_size": ([0, -1, 1e6, NAN, None, 10**400], "pass an integer at least 1"),
    "learning_starts": ([-1, 0.5, "soon", 10**400], "pass an integer at least 0"),
    "batch_size": ([0, -4, 2.5, True, None, 10**30], "pass an integer at least 1"),
    "tau": ([-0.1, 1.001, NAN, "0.5", None, 10**400], "pass a number at least 0 and at most 1"),
    "gamma": ([-0.1, 1.1, NAN, None], "pass a number at least 0 and at most 1"),
    "gradient_steps": ([-2, 1.5, None, 10**400], "pass an integer at least -1"),
    "n_steps": ([0, -1, 2.5, None, 10**30], "pass an integer at least 1"),
    "target_update_interval": ([0, -1, 1.5, None, 10**30], "pass an integer at least 1"),
    "reward_scale": ([0, -5, NAN, INF, "large", 1e39], "pass a number greater than 0"),
    "sde_sample_freq": ([0, -2, 1.5], "pass an integer at least 1"),
    "stats_window_size": ([0, -1, 1.5, 10**30], "pass an integer at least 1"),
    "verbose": ([-1, 1.5, "loud"], "pass an integer at least 0"),
    "seed": ([-1, 2**32, 1.5, "luck"], "pass an integer at least 0 and at most"),
    "use_sde": (["no", "False", 1, None], "pass True or False"),
    "use_sde_at_warmup": (["no", 0], "pass True or False"),
    "optimize_memory_usage": (["no", "False", 1, None], "pass True or False"),
    "ent_coef": (
        [True, 10**400, -0.1, NAN, INF, "automatic", "auto_", "auto_0", "auto_-1", "autofoo", [1.0], "warm"],
        "pass a number of at least 0, 'auto', or 'auto_<initial value>'",
    ),
    "target_entropy": ([NAN, INF, 10**400, "automatic", "auto_", [1.0]], "pass"),
    "device": (["nope", None, 1.5], "pass 'auto', 'cpu'"),
    "engine": (["fast", None, 3], "pass one of 'auto', 'eager', 'compile', 'cudagraph'"),
    "precision": (["bf16", "float16", None], "pass one of 'float32', 'bfloat16'"),
    "train_freq": (
        [
            0,
            -1,
            1.5,
            "often",
            None,
            (1, "day"),
            (0, "episode"),
            (1.5, "step"),
            (1,),
            (1, "step", 2),
            [1, "step"],
            True,
            2**31,
        ],
        "pass a number of steps of at least 1 and below 2**31, or (number, 'step'), or (number, 'episode')",
    ),
    "policy": (["MLP", "", "LstmPolicy"], "pass one of 'MlpPolicy', 'CnnPolicy', 'MultiInputPolicy'"),
}

OWN_CHOICES = [
    (SACv1, "policy_gradient", ["score", None], "pass one of 'reparameterized', 'likelihood_ratio'"),
    (SACv1, "policy_q", ["mean", 1], "pass one of 'min', 'q1'"),
    (SACv2, "ent_coef_loss", ["log", None], "pass one of 'alpha', 'log_alpha'"),
    (SACv2, "update_order", ["random", None], "pass one of 'paper', 'sb3'"),
]

TYPES = [
    ("policy", SACPolicy, "derive it from sb3_sac_variants."),
    ("policy", 3, "derive it from sb3_sac_variants."),
    ("replay_buffer_class", dict, "no subclass of ReplayBuffer: pass one"),
    ("replay_buffer_class", "TensorReplayBuffer", "no subclass of ReplayBuffer: pass one"),
    ("replay_buffer_kwargs", [1], "pass a dictionary"),
    ("replay_buffer_kwargs", {"a": 1}, "pass those of TensorReplayBuffer (handle_timeout_termination)"),
    ("replay_buffer_kwargs", {"buffer_size": 1}, "pass those of TensorReplayBuffer"),
    ("tensorboard_log", 3, "pass the path of a folder, or None"),
    ("policy_kwargs", "small", "pass a dictionary"),
    ("action_noise", 0.1, "pass an ActionNoise"),
]

POLICY_KWARGS = [
    ("net_arch", [True], "pass the sizes of the hidden layers"),
    ("net_arch", [0], "pass the sizes of the hidden layers"),
    ("net_arch", [16.5], "pass the sizes of the hidden layers"),
    ("net_arch", 64, "pass the sizes of the hidden layers"),
    ("net_arch", (8, 8), "pass the sizes of the hidden layers as a list"),
    ("net_arch", {"pi": [8]}, "pass the sizes of the hidden layers"),
    ("net_arch", {"pi": [8], "vf": [8]}, "pass the sizes of the hidden layers"),
    ("n_critics", 0, "pass an integer at least 1"),
    ("n_critics", 1.5, "pass an integer at least 1"),
    ("activation_fn", "relu", "no subclass of Module: pass one"),
    ("activation_fn", nn.ReLU(), "no subclass of Module: pass one"),
    ("activation_fn", nn.LayerNorm, "pass a class that needs no arguments, or functools.partial with them"),
    ("activation_fn", functools.partial(dict), "makes no module: pass a class of torch.nn"),
    ("activation_fn", nn.GLU, "pass one that keeps their number"),
    ("log_std_init", "small", "pass a number"),
    ("use_expln", "no", "pass True or False"),
    ("normalize_images", "False", "pass True or False"),
    ("share_features_extractor", "no", "pass True or False"),
    ("features_extractor_kwargs", 3, "pass a dictionary of arguments"),
    ("features_extractor_kwargs", {"foo": 1}, "does not go with FlattenExtractor"),
    ("optimizer_kwargs", [1], "pass a dictionary of arguments"),
    ("optimizer_kwargs", {"lr": 1e-3}, "pass learning_rate"),
    ("optimizer_kwargs", {"foo": 1}, "pass arguments that it takes"),
    ("optimizer_kwargs", {"betas": (0.9,)}, "pass arguments that it takes"),
    ("optimizer_kwargs", {"differentiable": True}, "leave it out"),
    ("optimizer_class", "adam", "no subclass of Optimizer: pass one"),
    ("features_extractor_class", nn.Linear, "no subclass of BaseFeaturesExtractor: pass one"),
    ("net_arhc", [8], "has the unknown arguments ['net_arhc']: pass those of"),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in RANGES for value in RANGES[name][0]])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_without_a_meaning(algorithm: type, name: str, value: Any) -> None:
    with refused(ValueError, name, value, RANGES[name][1]):
        make(algorithm, **{name: value})


@pytest.mark.parametrize(
    ("algorithm", "name", "value", "remedy"),
    [(algorithm, name, value, remedy) for algorithm, name, values, remedy in OWN_CHOICES for value in values],
)
def test_unknown_choices(algorithm: type, name: str, value: Any, remedy: str) -> None:
    with refused(ValueError, name, value, remedy):
        make(algorithm, **{name: value})


@pytest.mark.parametrize(("name", "value", "remedy"), TYPES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_of_a_wrong_type(algorithm: type, name: str, value: Any, remedy: str) -> None:
    arguments = {"policy": "MlpPolicy", "env": SpacesEnv(), "engine": "eager", name: value}
    with refused(TypeError, name, value, remedy):
        algorithm(**arguments)


@pytest.mark.parametrize(("name", "value", "remedy"), POLICY_KWARGS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_arguments(algorithm: type, name: str, value: Any, remedy: str) -> None:
    own_message = name == "net_arhc" or "pass arguments that it takes" in remedy
    with refused((ValueError, TypeError), name if own_message else f"policy_kwargs {name}", value, remedy):
        make(algorithm, policy_kwargs={name: value})


def test_a_switch_of_a_users_own_policy_may_be_what_it_likes() -> None:
    class Own(SACv2.policy_aliases["MlpPolicy"]):
        def __init__(self, *args: Any, norm: Any = False, **kwargs: Any):
            self.norm = norm
            super().__init__(*args, **kwargs)

    assert make(SACv2, policy=Own, policy_kwargs={"norm": "layer"}).policy.norm == "layer"
    with refused(ValueError, "policy_kwargs use_expln", "no", "pass True or False"):
        make(SACv2, policy=Own, policy_kwargs={"use_expln": "no"})


@pytest.mark.parametrize("optimizer_class", [th.optim.LBFGS, th.optim.SparseAdam])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_optimizers_that_no_update_can_use(algorithm: type, optimizer_class: type) -> None:
    with pytest.raises(ValueError, match=rf"policy_kwargs optimizer_class={optimizer_class.__name__} .*: pass "):
        make(algorithm, policy_kwargs={"optimizer_class": optimizer_class})


def test_a_size_of_features_without_meaning() -> None:
    space = spaces.Box(0, 255, (3, 40, 40), np.uint8)
    with refused(ValueError, "policy_kwargs features_extractor_kwargs features_dim", 0, "pass an integer at least 1"):
        make(SACv2, SpacesEnv(space), "CnnPolicy", policy_kwargs={"features_extractor_kwargs": {"features_dim": 0}})


def test_a_reward_scale_that_makes_rewards_zero() -> None:
    with refused(ValueError, "reward_scale", 1e-50, "pass a number at least 1.17549e-38"):
        make(SACv2, reward_scale=1e-50)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_switch_of_the_replay_buffer(algorithm: type) -> None:
    with refused(ValueError, "replay_buffer_kwargs handle_timeout_termination", "no", "pass True or False"):
        make(algorithm, replay_buffer_kwargs={"handle_timeout_termination": "no"})


def test_a_good_value_at_each_bound() -> None:
    bounds = {"tau": 1, "gamma": 1.0, "batch_size": 1, "buffer_size": 1, "learning_starts": 0, "ent_coef": 0}
    make(SACv1, **bounds, gradient_steps=-1, train_freq=(1, "episode"), learning_rate=0.0, seed=2**32 - 1).learn(12)
    make(SACv2, gradient_steps=0, policy_kwargs={"activation_fn": functools.partial(nn.LeakyReLU, 0.2)}).learn(12)
    make(SACv2, gamma=0, ent_coef="auto_1e-8", target_entropy=0, batch_size=np.int64(4)).learn(8)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_argument_with_no_effect(algorithm: type) -> None:
    with refused(ValueError, "ent_coef_learning_rate", 0.1, "leave it out, or pass ent_coef='auto'"):
        make(algorithm, ent_coef=0.5, ent_coef_learning_rate=0.1)
    with refused(ValueError, "ent_coef_learning_rate", -0.1, "pass a number at least 0"):
        make(SACv2, ent_coef_learning_rate=-0.1)


# ---------------------------------------------------------------- arguments that do not go together


@pytest.mark.parametrize("n_components", [0, -1, 1.5, "many"])
def test_number_of_mixture_components(n_components: Any) -> None:
    with refused(ValueError, "n_components", n_components, "pass an integer at least 1"):
        make(SACv1, policy_gradient="likelihood_ratio", policy_kwargs={"n_components": n_components})


def test_mixture_needs_the_likelihood_ratio() -> None:
    with refused(ValueError, "n_components", 4, "pass policy_gradient='likelihood_ratio'"):
        make(SACv1, policy_kwargs={"n_components": 4})
    with refused(ValueError, "n_components", 4, "use_sde=True: choose one of the two"):
        make(SACv1, policy_kwargs={"n_components": 4}, policy_gradient="likelihood_ratio", use_sde=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_n_step_returns_with_buffers_that_ignore_them(algorithm: type) -> None:
    with refused(
        ValueError, "n_steps", 3, "replay_buffer_class=HerReplayBuffer, which would ignore it: pass n_steps=1"
    ):
        make(algorithm, goal_env(), "MultiInputPolicy", n_steps=3, replay_buffer_class=HerReplayBuffer)
    with refused(ValueError, "n_steps", 3, "replay_buffer_class=ReplayBuffer, which would ignore it: pass n_steps=1"):
        make(algorithm, n_steps=3, replay_buffer_class=ReplayBuffer)
    with refused(ValueError, "n_steps", 3, "not supported for dictionary observations: pass n_steps=1, or flatten"):
        make(algorithm, SpacesEnv(DICTIONARY), "MultiInputPolicy", n_steps=3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_replay_buffers_that_do_not_fit(algorithm: type, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"replay_buffer_class=ReplayBuffer cannot store observation_space=Dict.*pass Di"
    ):
        make(algorithm, SpacesEnv(DICTIONARY), "MultiInputPolicy", replay_buffer_class=ReplayBuffer)
    with pytest.raises(ValueError, match=r"replay_buffer_class=DictReplayBuffer needs dict.*Box.*: leave it out"):
        make(algorithm, replay_buffer_class=DictReplayBuffer)
    with pytest.raises(ValueError, match=r"=HerReplayBuffer needs a goal environment.*\['achieved_goal', 'de.*: leave"):
        make(algorithm, SpacesEnv(DICTIONARY), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer)
    with pytest.raises(ValueError, match=r"optimize_memory_usage=True does not go with .*=HerReplayBuffer: leave opt"):
        make(
            algorithm,
            goal_env(),
            "MultiInputPolicy",
            replay_buffer_class=HerReplayBuffer,
            optimize_memory_usage=True,
        )
    with pytest.raises(
        ValueError, match=r"buffer_size=3 holds less than two steps of 2 environments.*raise buffer_size"
    ):
        make(algorithm, make_vec_env(SpacesEnv, 2), buffer_size=3, optimize_memory_usage=True, gradient_steps=-1)
    make(algorithm, goal_env(), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer).save(tmp_path / "her")
    with pytest.raises(
        ValueError, match=r"env=None does not go with replay_buffer_class=HerReplayBuffer.*: pass an env"
    ):
        algorithm.load(tmp_path / "her")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policies_for_other_observations(algorithm: type) -> None:
    with pytest.raises(ValueError, match=r"CnnPolicy.*needs images, not observation_space=Box.*: pass 'MlpPolicy'"):
        make(algorithm, policy="CnnPolicy")
    with pytest.raises(ValueError, match=r"CnnPolicy.*needs images.*normalize_images=False"):
        make(algorithm, SpacesEnv(spaces.Box(0, 1, (1, 36, 36))), "CnnPolicy")
    with pytest.raises(ValueError, match=r"MultiInputPolicy.*needs dictionary obs.*not observation_space=Box.*'MlpPo"):
        make(algorithm, policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=r"You must use `MultiInputPolicy` when working with dict.* not MlpPolicy"):
        make(algorithm, SpacesEnv(DICTIONARY))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whole_episodes_with_several_environments(algorithm: type) -> None:
    with refused(
        ValueError, "train_freq", (1, "episode"), "2 environments, whose episodes end at different times: pass"
    ):
        make(algorithm, make_vec_env(SpacesEnv, 2), train_freq=(1, "episode"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_trained_by_whole_episodes_may_play_in_several_environments(algorithm: type, tmp_path: Path) -> None:
    make(algorithm, train_freq=(1, "episode")).save(tmp_path / "model")
    env = make_vec_env(SpacesEnv, 2)
    model = algorithm.load(tmp_path / "model", env=env, device="cpu")
    assert len(model.predict(env.reset())[0]) == 2
    with refused(ValueError, "train_freq", (1, "episode"), "2 environments"):
        model.learn(5)


# ---------------------------------------------------------------- environments


@pytest.mark.parametrize("env", [3, object, spaces.Box(0, 1)], ids=["number", "class", "space"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_no_environment(algorithm: type, env: Any) -> None:
    with refused(TypeError, "env", env, "pass a gymnasium environment, a VecEnv, or the id"):
        make(algorithm, env)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_environment(algorithm: type) -> None:
    with refused(ValueError, "env", None, "pass an environment, or its id"):
        algorithm("MlpPolicy", None)
    with pytest.raises(gym.error.NameNotFound):
        algorithm("MlpPolicy", "NoSuchEnvironment-v0")


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(3), spaces.Dict({"a": ACTION}), spaces.Tuple([ACTION])]
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unsupported_actions(algorithm: type, space: spaces.Space) -> None:
    with refused(ValueError, "action_space", space, "Wrap the environment"):
        make(algorithm, SpacesEnv(action_space=space))


@pytest.mark.parametrize("bounds", [(-INF, INF), (0, INF), (-INF, 1)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unbounded_actions(algorithm: type, bounds: tuple[float, float]) -> None:
    space = spaces.Box(*bounds, (2,))
    for env in (SpacesEnv(action_space=space), make_vec_env(SpacesEnv, 2, env_kwargs={"action_space": space})):
        with refused(ValueError, "action_space", space, "bound it, for example with gymnasium.wrappers.") as error:
            make(algorithm, env)
    remedy = str(error.value).partition("for example with ")[2]
    low, high = np.clip(bounds, -3, 3)
    bounded = eval(remedy, {"gymnasium": gym, "env": SpacesEnv(action_space=space), "low": low, "high": high})
    action, _ = make(algorithm, bounded).predict(bounded.reset()[0])
    assert space.contains(bounded.action(action))


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (-3e38, 3e38)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_actions_without_room_to_scale(algorithm: type, bounds: tuple[float, float]) -> None:
    space = spaces.Box(np.float32([-1, bounds[0]]), np.float32([1, bounds[1]]))
    with refused(ValueError, "action_space", space, "leave out actions that do nothing, or bound them"):
        make(algorithm, SpacesEnv(action_space=space))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bounds_further_apart_than_their_type_can_say(algorithm: type) -> None:
    env = SpacesEnv(action_space=spaces.Box(-128, 127, (2,), np.int8))
    model = make(algorithm, env)
    model.learn(30)
    actions = np.array(env.actions)
    assert ((actions >= -128) & (actions <= 127)).all()
    assert model.replay_buffer.draw(100).actions.abs().max() <= 1.0


@pytest.mark.parametrize(
    ("space", "remedy"),
    [
        (spaces.Tuple([VECTOR, VECTOR]), "FlattenObservation"),
        (spaces.Dict({"a": VECTOR, "b": spaces.Dict({"c": VECTOR})}), "FlattenObservation"),
        (spaces.Discrete(4, start=2), "lambda x: x - 2"),
        (spaces.MultiDiscrete([[2, 2], [3, 3]]), "FlattenObservation"),
    ],
    ids=["tuple", "nested", "start", "matrix"],
)
def test_unsupported_observations(space: spaces.Space, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)observation_space.*: wrap the environment.*{re.escape(remedy)}"):
        make(SACv2, SpacesEnv(space), "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy")


class Faulty(SpacesEnv):
    """
    An environment that one day gives something infinite.

    :param step: when, counted over episodes; 0 is the first observation
    :param what: "reward", "observation" or "last observation"
    :param value: that something
    :param kwargs: as :class:`SpacesEnv`
    """

    def __init__(self, step: int, what: str, value: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.fault, self.what, self.value = step, what, value
        self.count = -1

    def spoil(self, observation: Any) -> Any:
        part = observation["vector"] if isinstance(observation, dict) else observation
        part[-1] = self.value
        return observation

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        self.count += self.count < 0
        return (self.spoil(observation) if self.fault == 0 else observation), info

    def step(self, action: np.ndarray) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.count += 1
        if self.count == self.fault:
            if self.what == "reward":
                reward = self.value
            elif self.what == "observation" or terminated or truncated:
                observation = self.spoil(observation)
        return observation, reward, terminated, truncated, info


@pytest.mark.thin(4)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("what", ["reward", "observation", "last observation"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_not_finite_stays_out_of_the_replay_buffer(algorithm: type, what: str, value: float) -> None:
    fault = 20 if what == "last observation" else 13
    envs = [SpacesEnv, lambda: Faulty(fault, what, value), SpacesEnv]
    model = make(algorithm, make_vec_env(lambda: envs.pop(0)(), 3), gradient_steps=-1)
    name = {"last observation": "terminal observation"}.get(what, what)
    with pytest.raises(
        ValueError, match=rf"^{name} of environment 1 at step {3 * fault} is not finite: .*(nan|inf).*Fix "
    ):
        model.learn(100)
    assert model.replay_buffer.pos == fault - 1
    batch = model.replay_buffer.sample(256)
    assert all(tensor.isfinite().all() for tensor in batch if tensor is not None)


def test_first_observation_is_looked_at() -> None:
    with pytest.raises(ValueError, match=r"^observation of environment 0 at step 0 is not finite: .*nan.*Fix the env"):
        make(SACv2, Faulty(0, "observation", NAN)).learn(10)


def test_dictionary_observations_are_looked_at() -> None:
    env = Faulty(7, "observation", INF, observation_space=DICTIONARY)
    with pytest.raises(ValueError, match=r"^observation\['vector'\] of environment 0 at step 7 is not finite: .*inf"):
        make(SACv2, env, "MultiInputPolicy", learning_starts=50).learn(20)
    env = Faulty(10, "last observation", NAN, observation_space=DICTIONARY)
    with pytest.raises(ValueError, match=r"^terminal observation\['vector'\] of environment 0 at step 10 is not fin"):
        make(SACv2, env, "MultiInputPolicy", learning_starts=50).learn(20)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [NAN, INF])
def test_normalisation_hides_nothing(what: str, value: float, training: bool) -> None:
    # VecNormalize clips an infinite value to a harmless one; or, if it is training, its running mean is lost
    env = VecNormalize(make_vec_env(lambda: Faulty(7, what, value), 1), training=training)
    with pytest.raises(ValueError, match=f"^{what} of environment 0 at step 7 is not finite"):
        make(SACv1, env).learn(20)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e39])
@pytest.mark.parametrize(("what", "wrapper"), [("reward", "TransformReward"), ("observation", "TransformObservation")])
def test_what_is_not_finite_has_a_remedy_of_its_own(what: str, wrapper: str, value: float) -> None:
    assert_mended(rf"{what} .* or wrap it: gymnasium\.wrappers\.{wrapper}\(env", lambda: Faulty(7, what, value))


def assert_mended(message: str, make_env: Any, policy: str = "MlpPolicy") -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        make(SACv2, make_env(), policy).learn(20)
    wrapper = str(caught.value).partition("or wrap it: ")[2].partition(" makes finite")[0]
    mended = eval(wrapper, {"env": make_env(), "gymnasium": gym, "numpy": np})
    make(SACv2, mended, policy).learn(20)


def test_what_is_not_finite_in_a_part_has_a_remedy_of_its_own() -> None:
    for value in (NAN, INF):
        assert_mended(
            r"observation\['vector'\] .* or wrap it: gymnasium\.wrappers\.",
            lambda value=value: Faulty(7, "observation", value, observation_space=DICTIONARY),
            "MultiInputPolicy",
        )


def test_what_single_precision_cannot_hold_is_not_finite() -> None:
    env = Faulty(7, "observation", 1e39, observation_space=spaces.Box(-INF, INF, (3,), dtype=np.float64))
    with pytest.raises(ValueError, match=r"^observation of environment 0 at step 7 is not finite: .*e\+39"):
        make(SACv1, env).learn(20)


@pytest.mark.parametrize("total_timesteps", [-1, NAN, "many", None])
def test_length_of_the_training(total_timesteps: Any) -> None:
    with refused(ValueError, "total_timesteps", total_timesteps, "pass a number at least 0"):
        make(SACv1).learn(total_timesteps)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, MASAC])
def test_all_arguments_are_shown(algorithm: type) -> None:
    shown = inspect.signature(algorithm).parameters
    assert list(shown)[:3] == ["policy", "env", "learning_rate"]
    assert set(inspect.signature(SAC).parameters) <= set(shown)
    assert {"engine", "precision", "reward_scale"} <= set(shown)
    assert not {"args", "kwargs"} & set(shown)
    own = {SACv1: "policy_q", SACv2: "update_order", SQL: "n_value_particles", MASAC: "ce_coef"}
    assert shown[own[algorithm]].kind is inspect.Parameter.KEYWORD_ONLY
    assert shown["gamma"].default == 0.99


# ---------------------------------------------------------------- spaces without numbers, small images


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_boxes_without_numbers(algorithm: type, shape: tuple[int, ...]) -> None:
    space = spaces.Box(-1, 1, shape)
    with refused(ValueError, "observation_space", space, "TransformObservation" if shape else "ReshapeObservation"):
        make(algorithm, SpacesEnv(space))
    with refused(ValueError, "observation_space['a']", space, "TransformObservation" if shape else "Flatten"):
        make(algorithm, SpacesEnv(spaces.Dict({"a": space})), "MultiInputPolicy")
    with refused(ValueError, "action_space", space, "TransformAction"):
        make(algorithm, SpacesEnv(action_space=space))


@pytest.mark.parametrize("shape", [(1, 35, 40), (40, 35, 3), (3, 8, 8)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_images_too_small_for_the_network(algorithm: type, shape: tuple[int, ...]) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    with pytest.raises(
        ValueError, match=r"observation_space=Box.*smaller than the 36x36.*give larger ones, or .*Flatten"
    ):
        make(algorithm, SpacesEnv(space), "CnnPolicy")
    with pytest.raises(ValueError, match=r"observation_space\['image'\]=Box.*smaller than the 36x36"):
        make(algorithm, SpacesEnv(spaces.Dict({"image": space, "vector": VECTOR})), "MultiInputPolicy")


def test_float_images_with_channels_last() -> None:
    space = spaces.Box(0.0, 1.0, (84, 84, 3))
    kwargs = {"policy_kwargs": {"normalize_images": False}}
    with refused(ValueError, "observation_space", space, "lambda x: x.transpose(2, 0, 1), gymnasium.spaces.Box"):
        make(SACv2, SpacesEnv(space), "CnnPolicy", **kwargs)
    both = spaces.Dict({"image": space, "vector": VECTOR})
    with refused(ValueError, "observation_space['image']", space, "has its channels last"):
        make(SACv2, SpacesEnv(both), "MultiInputPolicy", **kwargs)


class Opaque(spaces.Space[Any]):
    """A space of another library, of which gymnasium cannot make an array."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return "text"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


@pytest.mark.parametrize("among_others", [False, True], ids=["alone", "among others"])
@pytest.mark.parametrize(
    "part",
    [
        Opaque(),
        spaces.Text(3),
        spaces.Tuple([VECTOR, VECTOR]),
        spaces.Dict({"c": VECTOR}),
        spaces.Sequence(VECTOR),
        spaces.Box(-1, 1, ()),
        spaces.Box(-1, 1, (0,)),
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([[2, 2], [3, 3]]),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Box(0.0, 1.0, (84, 84, 3)),
        spaces.Box(-INF, INF, (40, 40, 1)),
        spaces.MultiDiscrete(np.zeros(0, np.int64)),
    ],
    ids=lambda space: f"{type(space).__name__}{space.shape or ''}",
)
def test_wrappers_that_are_named_for_a_part_mend_it(part: spaces.Space, among_others: bool) -> None:
    space = spaces.Dict({"part": part} | ({"vector": VECTOR} if among_others else {}))
    kwargs = {"policy_kwargs": {"normalize_images": False}} if part.dtype == np.float32 else {}
    with pytest.raises(ValueError, match=r"observation_space\['part'\]=") as caught:
        make(SACv2, SpacesEnv(space), "MultiInputPolicy", **kwargs)
    named = re.findall(r"gymnasium\.wrappers\.\w+\(env.*?\)(?=$|, which|, or)", str(caught.value))
    names = {wrapper.split(".")[2].split("(")[0] for wrapper in named}
    hopeless = isinstance(part, Opaque | spaces.Sequence)
    if "TransformObservation" not in names:
        kept = {"FilterObservation"} if among_others else set()
        assert names == kept | (
            set() if hopeless or (part.shape == (0,) and not among_others) else {"FlattenObservation"}
        )
    for wrapper in named:
        env = eval(wrapper, {"env": SpacesEnv(space), "gymnasium": gym, "numpy": np})
        policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
        make(SACv2, env, policy, **kwargs).learn(20)


def test_an_image_without_channels() -> None:
    wrapper = "gymnasium.wrappers.ReshapeObservation(env, (1, 40, 36))"
    for space in (spaces.Box(0, 255, (40, 36), np.uint8), spaces.Box(0.0, 1.0, (40, 36))):
        with refused(ValueError, "observation_space", space, wrapper):
            make(SACv2, SpacesEnv(space), "CnnPolicy")
        kwargs = {"policy_kwargs": {"normalize_images": False}} if space.dtype == np.float32 else {}
        make(SACv2, eval(wrapper, {"env": SpacesEnv(space), "gymnasium": gym}), "CnnPolicy", **kwargs).learn(20)


@pytest.mark.parametrize("key", ["observation.image", "", "keys", 1])
def test_parts_whose_extractor_cannot_have_their_name(key: Any) -> None:
    space = spaces.Dict({key: VECTOR, "other": VECTOR})
    with refused(ValueError, "observation_space", space, f"has a part named {key!r}"):
        make(SACv2, SpacesEnv(space), "MultiInputPolicy")


def test_only_parts_that_can_be_observed_are_named_to_be_kept() -> None:
    others = {"b": Opaque(), "c": spaces.Discrete(3, start=1), "d": spaces.Dict({"e": VECTOR})}
    space = spaces.Dict({"a": spaces.Text(3), "": VECTOR, 2: VECTOR} | others)
    with pytest.raises(ValueError, match=r"observation_space\['a'\].*with gymnasium.wrappers.TransformObservation, so"):
        make(SACv2, SpacesEnv(space), "MultiInputPolicy")
    del space.spaces[2]
    with pytest.raises(
        ValueError, match=r"observation_space\['a'\].*FilterObservation\(env, \[''\]\), which leaves it"
    ):
        make(SACv2, SpacesEnv(space), "MultiInputPolicy")
    one = spaces.Dict({"": spaces.Discrete(3, start=1), "b": VECTOR})
    with pytest.raises(ValueError, match=r"observation_space\[''\].*lambda x: x \| {'': x\[''\] - 1}"):
        make(SACv2, SpacesEnv(one), "MultiInputPolicy")


def test_what_is_no_space_at_all() -> None:
    env = SpacesEnv()
    env.observation_space = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="observation_space=None is not supported: wrap the environment"):
        make(SACv2, env)


def test_a_vectorised_environment_of_gymnasium(tmp_path: Path) -> None:
    env, model = gym.make_vec("Pendulum-v1", num_envs=2), make(SACv2, "Pendulum-v1").learn(5)
    model.save(tmp_path / "model")
    model.save_checkpoint(tmp_path / "checkpoint")
    for use in (
        lambda: make(SACv2, env),
        lambda: model.set_env(env),
        lambda: SACv2.load(tmp_path / "model", env),
        lambda: SACv2.load_checkpoint(tmp_path / "checkpoint", env),
    ):
        with refused(TypeError, "env", env, "make_vec_env(id, n_envs=2)"):
            use()


def test_actions_of_several_agents() -> None:
    hint = "for those of several agents take MASAC, or sb3_sac_variants.envs.IndependentAgents"
    with refused(ValueError, "action_space", spaces.MultiDiscrete([3, 3]), hint):
        make(SACv2, SpacesEnv(action_space=spaces.MultiDiscrete([3, 3])))
    with pytest.raises(ValueError, match=r"^SACv2 does not support .*are of that kind$"):
        make(SACv2, SpacesEnv(action_space=spaces.MultiDiscrete([3, 4])))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_observations_without_parts(algorithm: type) -> None:
    with pytest.raises(ValueError, match=r"^observation_space=Dict\(\) has no parts: let the environment observe"):
        make(algorithm, SpacesEnv(spaces.Dict({})), "MultiInputPolicy")


# ---------------------------------------------------------------- arguments of methods


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_observations_that_have_no_value(algorithm: type) -> None:
    model, observation = make(algorithm), np.array([0, NAN, 0], np.float32)
    for call in (lambda: model.soft_value(observation), lambda: model.q_value(observation, np.zeros(2))):
        with refused(ValueError, "observation", observation, "is not finite: pass finite numbers"):
            call()


@pytest.mark.parametrize("log_interval", [0, -1, 1.5, "often"])
def test_log_interval(log_interval: Any) -> None:
    with refused(ValueError, "log_interval", log_interval, "pass an integer at least 1"):
        make(SACv2).learn(30, log_interval=log_interval)


@pytest.mark.parametrize("name", ["exclude", "include"])
def test_one_name_in_the_place_of_several(name: str) -> None:
    with refused(TypeError, name, "gamma", f"pass a list, as {name}=['gamma']"):
        make(SACv2).save(io.BytesIO(), **{name: "gamma"})


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((3, 2)), np.full(2, np.nan), [2.0, 0.0], "left", None])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_actions_that_do_not_exist(algorithm: type, action: Any) -> None:
    model = make(algorithm)
    with pytest.raises(ValueError, match=r"(?s)action=.*pass one action of Box"):
        model.q_value(np.zeros(3, np.float32), action)
    assert model.q_value(np.zeros((3, 3), np.float32), np.ones((3, 2))).shape == (3,)


@pytest.mark.parametrize("action", [2, -1, 0.5, [0, 1], np.nan, "left"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_discrete_actions_that_do_not_exist(algorithm: type, action: Any) -> None:
    model = make(algorithm, "CartPole-v1")
    with pytest.raises(ValueError, match=r"(?s)action=.*pass one action of Discrete"):
        model.q_value(np.zeros(4, np.float32), action)
    for good in (1, np.array([1]), np.array([[1]])):
        assert model.q_value(np.zeros(4, np.float32), good).shape == (1,)
