"""SACv2.from_sb3 and to_sb3: nothing is lost on the way, and either goes on as the other would have."""

import copy
import inspect
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import DICTIONARY, IMAGE, SpacesEnv, n_episodes, n_updates
from sb3_pairs import (
    RATE,
    VARIANTS,
    Spaces,
    arguments_of,
    assert_same_weights,
    get_ready,
    train_pair,
    widen,
)
from stable_baselines3 import SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.sac_v2 import sb3_conversion
from sb3_sac_variants.sac_v2.sb3_weights import IMPLEMENTATION

TINY: dict[str, Any] = {"buffer_size": 50, "batch_size": 4, "learning_starts": 2, "device": "cpu", "seed": 0}


def make_sb3(**variant: Any) -> SAC:
    """A model of Stable-Baselines3 that has learned a little."""
    sac = SAC("MlpPolicy", Spaces(), **arguments_of(variant))
    get_ready(sac)
    sac.train(3, 16)
    return sac


def make_ours(**variant: Any) -> SACv2:
    kwargs = {"ent_coef_loss": "log_alpha", "engine": "eager", **arguments_of(variant)}
    model = SACv2("MlpPolicy", Spaces(), **kwargs)
    get_ready(model)
    model.train(3, 16)
    return model


def assert_same_state(one: Any, other: Any) -> None:
    """
    :param one: whatever ``get_parameters()`` gives: tensors and numbers in dictionaries and lists
    :param other: the same, bit for bit, but for options that say how an optimiser computes
    """
    assert type(one) is type(other)
    if isinstance(one, dict):
        one, other = ({k: v for k, v in each.items() if k not in IMPLEMENTATION} for each in (one, other))
        assert one.keys() == other.keys()
        for key in one:
            if key == "lr":  # a tensor where a graph may have been captured
                assert np.float32(one[key]) == np.float32(other[key])
            else:
                assert_same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same_state(left, right)
    elif isinstance(one, th.Tensor):
        assert one.dtype == other.dtype
        assert th.equal(one, other)
    else:
        assert one == other


# ---------------------------------------------------------------- numbers


@pytest.mark.thin(2)
@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_from_sb3_is_exact(variant):
    sac = make_sb3(**VARIANTS[variant])
    ours = SACv2.from_sb3(sac)
    assert_same_weights(sac, ours, atol=0)
    back = ours.to_sb3()
    assert_same_state(back.get_parameters(), sac.get_parameters())
    if sac.log_ent_coef is not None:
        assert th.equal(back.log_ent_coef, sac.log_ent_coef)
    else:
        assert th.equal(back.ent_coef_tensor, sac.ent_coef_tensor)
    for name in (*sb3_conversion.SHARED_ARGUMENTS, "_stats_window_size", *sb3_conversion.PROGRESS):
        assert getattr(back, name) == getattr(sac, name), name
    assert type(back.replay_buffer) is type(sac.replay_buffer)


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_from_here_is_exact(variant):
    ours = make_ours(**VARIANTS[variant])
    sac = ours.to_sb3()
    assert_same_weights(sac, ours, atol=0)
    back = SACv2.from_sb3(sac)
    assert_same_state(back.get_parameters(), ours.get_parameters())


@pytest.mark.thin(2)
@pytest.mark.parametrize("direction", ["from_sb3", "to_sb3"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_goes_on_with_the_numbers_of_the_other(monkeypatch, variant, direction):
    if direction == "from_sb3":
        sac = make_sb3(**VARIANTS[variant])
        ours = SACv2.from_sb3(sac)
        get_ready(ours)
    else:
        ours = make_ours(**VARIANTS[variant])
        sac = ours.to_sb3()
        get_ready(sac)
    widen(sac, ours)
    for call in range(3):
        train_pair(monkeypatch, sac, ours, 2, seed=call, atol=1e-9)
    assert_same_weights(sac, ours, atol=1e-9)
    assert n_updates(sac) == n_updates(ours) == 9


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("algorithm", [SACv1, SQL])
def test_other_algorithms_say_who_takes_the_parameters(algorithm: type, saved: bool, tmp_path: Path) -> None:
    sac = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, buffer_size=10, device="cpu")
    sac.save(tmp_path / "sac")
    model = algorithm("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, buffer_size=10, device="cpu")
    with pytest.raises(ValueError, match=r"only SACv2 takes those of Stable-Baselines3's SAC \(SACv2.from_sb3\)$"):
        model.set_parameters(tmp_path / "sac" if saved else sac.get_parameters())


@pytest.mark.parametrize("direction", ["from_sb3", "to_sb3", "set_parameters"])
def test_the_two_models_share_no_memory(direction):
    source = make_ours() if direction == "to_sb3" else make_sb3()
    if direction == "set_parameters":
        taken_over = make_ours()
        taken_over.set_parameters(source.get_parameters())
    else:
        taken_over = SACv2.from_sb3(source) if direction == "from_sb3" else source.to_sb3()
    before = copy.deepcopy(source.get_parameters())
    temperature = source.log_ent_coef.clone()
    get_ready(taken_over)
    taken_over.train(2, 16)
    assert_same_state(source.get_parameters(), before)
    assert th.equal(source.log_ent_coef, temperature)


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
def test_models_that_have_not_learned_yet(monkeypatch, optimizer):
    kwargs = {"policy_kwargs": {"optimizer_class": getattr(th.optim, optimizer)}}
    for direction in ("from_sb3", "to_sb3"):
        if direction == "from_sb3":
            sac = SAC("MlpPolicy", Spaces(), **arguments_of(kwargs))
            ours = SACv2.from_sb3(sac)
        else:
            ours = SACv2("MlpPolicy", Spaces(), ent_coef_loss="log_alpha", **arguments_of(kwargs))
            sac = ours.to_sb3()
        get_ready(sac, ours)
        widen(sac, ours)
        train_pair(monkeypatch, sac, ours, 3, seed=0, atol=1e-9)
        assert_same_weights(sac, ours, atol=1e-9)


@pytest.mark.parametrize("use_sde", [False, True])
def test_policies_and_critics_are_the_same_functions(use_sde):
    sac = make_sb3(use_sde=use_sde)
    ours = SACv2.from_sb3(sac)
    if use_sde:  # the rollout explores with the noise that was learned, not the initial one
        sac.actor.log_std.data += 1
        ours = SACv2.from_sb3(sac)
        for model in (ours, ours.to_sb3()):
            assert th.equal(model.actor.action_dist.weights_dist.scale, sac.actor.get_std())
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    actions, _ = sac.predict(obs, deterministic=True)
    np.testing.assert_array_equal(ours.predict(obs, deterministic=True)[0], actions)
    with th.no_grad():
        q_values = th.cat(sac.critic(th.tensor(obs), th.tensor(actions)), dim=1).amin(dim=1)
    np.testing.assert_allclose(ours.q_value(obs, actions), q_values.numpy(), rtol=1e-5, atol=1e-6)
    played, _ = ours.to_sb3(buffer_size=1).predict(obs, deterministic=True)
    np.testing.assert_array_equal(played, actions)


# ---------------------------------------------------------------- arguments


def test_all_arguments_of_sac_are_taken_over():
    taken = {*sb3_conversion.SHARED_ARGUMENTS, "stats_window_size"}
    given = {"self", "policy", "env", "device", "_init_setup_model"}
    assert set(inspect.signature(SAC.__init__).parameters) == taken | given


def test_arguments_and_progress_are_taken_over():
    arguments = {
        "learning_rate": 1e-4,
        "buffer_size": 77,
        "learning_starts": 11,
        "batch_size": 13,
        "tau": 0.25,
        "gamma": 0.5,
        "train_freq": (3, "step"),
        "gradient_steps": 2,
        "action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2)),
        "ent_coef": "auto_0.3",
        "target_entropy": -1.25,
        "sde_sample_freq": 5,
        "stats_window_size": 9,
        "tensorboard_log": None,
        "policy_kwargs": {"net_arch": [4], "n_critics": 3},
        "verbose": 0,
        "seed": 21,
    }
    sac = SAC("MlpPolicy", SpacesEnv(), device="cpu", **arguments)
    sac.learn(15)
    ours = SACv2.from_sb3(sac)
    for name, value in arguments.items():
        own = getattr(ours, {"stats_window_size": "_stats_window_size"}.get(name, name))
        if name == "train_freq":
            assert own == TrainFreq(3, sac.train_freq.unit)
        elif name == "action_noise":
            assert repr(own) == repr(value)
            assert own is not value
        elif name == "policy_kwargs":
            assert own == {**value, "use_sde": False}
        else:
            assert own == value, name
    assert ours.num_timesteps == sac.num_timesteps == 15
    assert n_updates(ours) == n_updates(sac) > 0
    assert n_episodes(ours) == n_episodes(sac)
    assert ours.update_order == "sb3"
    assert ours.ent_coef_loss == "log_alpha"
    assert isinstance(ours.replay_buffer, TensorReplayBuffer)
    assert ours.replay_buffer_class is None  # left to the class, not fixed
    assert ours.get_env() is sac.get_env()


@pytest.mark.parametrize("direction", ["from_sb3", "to_sb3"])
def test_learning_goes_on_in_the_environment(direction):
    env = SpacesEnv()
    arguments = {**TINY, "policy_kwargs": {"net_arch": [4]}}
    if direction == "from_sb3":
        source = SAC("MlpPolicy", env, **arguments).learn(20)
        taken_over = SACv2.from_sb3(source, engine="eager")
    else:
        source = SACv2("MlpPolicy", env, ent_coef_loss="log_alpha", engine="eager", **arguments).learn(20)
        taken_over = source.to_sb3()
    taken_over.learn(10, reset_num_timesteps=False)
    assert taken_over.num_timesteps == 30
    assert n_updates(taken_over) > n_updates(source) > 0


def test_arguments_can_be_changed_on_the_way():
    ours = SACv2.from_sb3(
        make_sb3(), engine="eager", reward_scale=2.0, ent_coef_loss="alpha", update_order="paper", learning_rate=0.5
    )
    assert (ours.engine, ours.reward_scale, ours.learning_rate) == ("eager", 2.0, 0.5)
    assert (ours.ent_coef_loss, ours.update_order) == ("alpha", "paper")
    fixed = SACv2.from_sb3(make_sb3(), ent_coef=0.5)
    assert fixed.log_ent_coef is None
    assert fixed.temperature.value.item() == 0.5
    learned = SACv2.from_sb3(make_sb3(ent_coef=0.5), ent_coef="auto_0.25")
    assert learned.log_ent_coef.exp().item() == pytest.approx(0.25)
    other = SACv2.from_sb3(make_sb3(ent_coef="auto_0.1"), ent_coef="auto_0.25")
    assert other.log_ent_coef.exp().item() == pytest.approx(0.25)
    same = SACv2.from_sb3(make_sb3(ent_coef="auto_0.1"), ent_coef="auto")
    assert same.log_ent_coef.exp().item() == pytest.approx(0.1, rel=0.05)  # it has learned a little
    assert make_ours(ent_coef="auto_0.25").to_sb3(ent_coef="auto_0.5").log_ent_coef.exp().item() == pytest.approx(0.5)
    assert make_ours().to_sb3(ent_coef=0.125).ent_coef_tensor.item() == 0.125
    assert make_ours(ent_coef=0.125).to_sb3(ent_coef="auto_0.5").log_ent_coef.exp().item() == pytest.approx(0.5)


def test_unknown_arguments_and_other_networks_are_refused():
    sac = make_sb3()
    with pytest.raises(TypeError, match="no_such_argument"):
        SACv2.from_sb3(sac, no_such_argument=1)
    with pytest.raises(ValueError, match=r"policy_kwargs=\{'net_arch': \[3\]\} cannot be changed"):
        SACv2.from_sb3(sac, policy_kwargs={"net_arch": [3]})
    with pytest.raises(ValueError, match=r"policy_kwargs=\{'net_arch': \[3\]\} cannot be changed"):
        make_ours().to_sb3(policy_kwargs={"net_arch": [3]})
    with pytest.raises(ValueError, match="Action spaces do not match"):
        SACv2.from_sb3(sac, env=SpacesEnv(action_space=gym.spaces.Box(-1, 1, (3,))))


def test_n_step_returns_and_replay_buffers():
    ours = SACv2.from_sb3(make_sb3(n_steps=3))
    assert ours.replay_buffer_class is None
    assert ours.replay_buffer_kwargs == {}
    assert type(ours.replay_buffer) is NStepReplayBuffer
    assert ours.replay_buffer.n_steps == 3
    frugal = make_sb3(optimize_memory_usage=True, replay_buffer_kwargs={"handle_timeout_termination": False})
    taken_over = SACv2.from_sb3(frugal)
    assert taken_over.replay_buffer.optimize_memory_usage
    assert not taken_over.replay_buffer.handle_timeout_termination
    assert taken_over.to_sb3().replay_buffer.optimize_memory_usage


def test_hindsight_replay():
    env = BitFlippingEnv(n_bits=3, continuous=True)
    sac = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, policy_kwargs={"net_arch": [4]}, **TINY)
    sac.learn(20)
    ours = SACv2.from_sb3(sac, engine="eager")
    ours.learn(10)
    assert type(ours.replay_buffer) is HerReplayBuffer
    assert type(ours.to_sb3().replay_buffer) is HerReplayBuffer


def test_hindsight_replay_of_a_file_needs_an_environment(tmp_path):
    env = BitFlippingEnv(n_bits=3, continuous=True)
    sac = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, policy_kwargs={"net_arch": [4]}, **TINY)
    sac.save(tmp_path / "sac")
    with pytest.raises(ValueError, match=r"env=None does not go with HerReplayBuffer, .*: pass env=\.\.\."):
        SACv2.from_sb3(tmp_path / "sac")
    assert type(SACv2.from_sb3(tmp_path / "sac", env).replay_buffer) is HerReplayBuffer


@pytest.mark.parametrize(("policy", "space"), [("CnnPolicy", IMAGE), ("MultiInputPolicy", DICTIONARY)])
@pytest.mark.parametrize("share_features_extractor", [False, True])
def test_images_and_dictionaries(policy, space, share_features_extractor):
    kwargs = {"net_arch": [4], "share_features_extractor": share_features_extractor}
    sac = SAC(policy, SpacesEnv(space), policy_kwargs=kwargs, **TINY).learn(6)
    ours = SACv2.from_sb3(sac, engine="eager")
    assert type(ours.policy) is SACv2.policy_aliases[policy]
    assert_same_state(ours.to_sb3().get_parameters(), sac.get_parameters())
    ours.learn(6)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("with_env", [False, True])
def test_from_a_saved_model(tmp_path, with_env):
    sac = make_sb3(learning_rate=lambda progress: progress * RATE)
    sac.save(tmp_path / "sac")
    env = VecNormalize(DummyVecEnv([Spaces])) if with_env else None
    ours = SACv2.from_sb3(tmp_path / "sac", env=env, device="cpu", trusted=True)
    assert_same_weights(sac, ours, atol=0)
    assert ours.get_env() is env
    assert ours.get_vec_normalize_env() is env
    assert ours.buffer_size == 1000
    assert ours.lr_schedule(0.5) == RATE / 2
    assert_same_state(ours.to_sb3().get_parameters(), sac.get_parameters())
    # And our own file of it
    ours.save(tmp_path / "ours")
    loaded = SACv2.load(tmp_path / "ours", device="cpu", trusted=True)
    assert_same_state(loaded.to_sb3().get_parameters(), sac.get_parameters())


def test_from_an_open_file_with_an_environment_by_name(tmp_path):
    sac = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, **TINY)
    sac.save(tmp_path / "sac.zip")
    with open(tmp_path / "sac.zip", "rb") as file:
        ours = SACv2.from_sb3(file, env="Pendulum-v1", device="cpu", buffer_size=12)
    assert ours.get_env().num_envs == 1
    assert ours.buffer_size == 12
    assert_same_weights(sac, ours, atol=0)


def test_files_of_other_models_are_refused(tmp_path):
    kwargs = {"policy_kwargs": {"net_arch": [4]}, **TINY}
    TD3("MlpPolicy", Spaces(), **kwargs).save(tmp_path / "td3")
    with pytest.raises(ValueError, match=r"td3.* of stable_baselines3\.td3\.policies: load it with the class"):
        SACv2.from_sb3(tmp_path / "td3")
    SACv1("MlpPolicy", Spaces(), **kwargs).save(tmp_path / "sac_v1")
    with pytest.raises(ValueError, match=r"sac_v1.* of sac_v1"):
        SACv2.from_sb3(tmp_path / "sac_v1")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SACv2.from_sb3(tmp_path / "nowhere")
    (tmp_path / "damaged.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="damaged"):
        SACv2.from_sb3(tmp_path / "damaged.zip")
    with pytest.raises(TypeError, match=r"sac_or_path=3 is neither"):
        SACv2.from_sb3(3)
    with pytest.raises(TypeError, match="neither"):
        SACv2.from_sb3(TD3("MlpPolicy", Spaces(), **kwargs))


# ---------------------------------------------------------------- what has no counterpart


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reward_scale": 5.0}, r"reward_scale=5\.0"),
        ({"precision": "bfloat16"}, r"precision='bfloat16'"),
        ({"ent_coef_loss": "alpha"}, "ent_coef_loss='alpha'"),
        ({"qf_learning_rate": 1e-3}, r"qf_learning_rate=0\.001"),
        ({"ent_coef_learning_rate": 1e-3}, r"ent_coef_learning_rate=0\.001"),
        ({"target_update_interval": 4}, "target_update_interval=4"),
    ],
)
def test_options_sb3_does_not_know_are_refused_unless_asked_for(options, named):
    ours = make_ours(**options)
    with pytest.raises(ValueError, match=f"{named}.*exact=False"):
        ours.to_sb3()
    assert_same_weights(ours.to_sb3(exact=False), ours, atol=0)


def test_all_obstacles_are_named_at_once():
    ours = make_ours(reward_scale=2.0, ent_coef_loss="alpha")
    with pytest.raises(ValueError, match=r"reward_scale=2\.0 .*; ent_coef_loss='alpha'"):
        ours.to_sb3()


class OtherTargets(SACv2):
    """An algorithm of one's own."""

    def bootstrap_q(self, *args):
        return super().bootstrap_q(*args)

    def critic_loss(self, *args):
        return super().critic_loss(*args)


class Prioritized(TensorReplayBuffer):
    """A replay that is told the errors of its transitions."""

    def update_priorities(self, indices, errors):
        pass


def test_algorithms_and_replays_of_ones_own_are_obstacles():
    ours = OtherTargets("MlpPolicy", SpacesEnv(), ent_coef=0.1, buffer_size=100)
    with pytest.raises(
        ValueError, match=r"no counterpart of the bootstrap_q and critic_loss of OtherTargets.*exact=False"
    ):
        ours.to_sb3()
    with pytest.raises(ValueError, match=r"replay_buffer_class=Prioritized \(SAC draws all transitions alike\)"):
        make_ours(ent_coef=0.1, replay_buffer_class=Prioritized).to_sb3()


def test_the_fixed_temperature_is_that_which_sac_trains_with(tmp_path):
    sac = SAC("MlpPolicy", SpacesEnv(), ent_coef=0.2, buffer_size=100, target_entropy=5.0)
    assert SACv2.from_sb3(sac).ent_coef == 0.2
    sac.ent_coef = 0.9  # without effect there
    assert SACv2.from_sb3(sac).ent_coef == pytest.approx(0.2)
    sac.ent_coef_tensor = th.tensor(0.05)
    sac.save(tmp_path / "sac")
    for source in (sac, tmp_path / "sac"):
        assert SACv2.from_sb3(source).ent_coef == pytest.approx(0.05)
    assert SACv2.from_sb3(sac, ent_coef=0.3).ent_coef == 0.3


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        (None, (3, 0.99)),
        ({"n_steps": 4, "gamma": 0.9}, (4, 0.9)),
        ({"n_steps": 3}, (3, 0.99)),
    ],
)
def test_an_n_step_buffer_that_was_passed_is_taken_over(kwargs, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sac = SAC(
            "MlpPolicy",
            SpacesEnv(),
            n_steps=3,
            replay_buffer_class=NStepReplayBuffer,
            replay_buffer_kwargs=kwargs,
            buffer_size=100,
        )
    buffer = SACv2.from_sb3(sac).replay_buffer
    assert (buffer.n_steps, buffer.gamma) == expected == (sac.replay_buffer.n_steps, sac.replay_buffer.gamma)


def test_use_sde_belongs_to_the_networks():
    with pytest.raises(ValueError, match="use_sde=True cannot be changed here"):
        SACv2.from_sb3(SAC("MlpPolicy", SpacesEnv(), buffer_size=100), use_sde=True)


def test_options_that_change_no_number_are_no_obstacle():
    make_ours(ent_coef=0.1, ent_coef_loss="alpha", update_order="paper").to_sb3()


def test_frugal_replay_that_bootstraps_is_refused():
    ours = make_ours(optimize_memory_usage=True)
    with pytest.raises(ValueError, match=r"optimize_memory_usage=True.*to_sb3\(optimize_memory_usage=False\)"):
        ours.to_sb3()
    assert not ours.to_sb3(optimize_memory_usage=False).optimize_memory_usage


def test_discrete_actions_are_refused():
    env = SpacesEnv(action_space=gym.spaces.Discrete(3))
    ours = SACv2("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, **TINY)
    with pytest.raises(ValueError, match=r"action_space=Discrete\(3\).*Box"):
        ours.to_sb3()


def test_policies_of_their_own_kind_are_refused():
    class OwnPolicy(SACPolicy):
        pass

    sac = SAC(OwnPolicy, Spaces(), policy_kwargs={"net_arch": [4]}, **TINY)
    with pytest.raises(ValueError, match=r"policy=OwnPolicy has no counterpart.*MlpPolicy"):
        SACv2.from_sb3(sac)
    sac = SAC("MlpPolicy", Spaces(), policy_kwargs={"net_arch": [4], "activation_fn": th.nn.PReLU}, **TINY)
    with pytest.raises(ValueError, match="activation_fn=PReLU"):
        SACv2.from_sb3(sac)


def test_what_is_frozen_stays_frozen():
    sac = SAC("MlpPolicy", Spaces(), **arguments_of({"ent_coef": "auto"}))
    sac.actor.latent_pi[0].requires_grad_(False)
    for network in sac.critic.q_networks:
        network[2].weight.requires_grad_(False)
    sac.log_ent_coef.requires_grad_(False)
    get_ready(sac)
    ours = SACv2.from_sb3(sac)
    back = ours.to_sb3()
    frozen = {"actor.latent_pi.0.weight", "actor.latent_pi.0.bias", "critic.qf0.2.weight", "critic.qf1.2.weight"}
    for model in (sac, back):
        names = {name for name, one in model.policy.named_parameters() if not one.requires_grad}
        assert {name for name in names if "target" not in name} == frozen
        assert not model.log_ent_coef.requires_grad
    before = {name: one.clone() for name, one in ours.policy.named_parameters()}
    temperature = ours.log_ent_coef.clone()
    get_ready(ours)
    ours.train(3, 16)
    still = {name for name, one in ours.policy.named_parameters() if th.equal(one, before[name])}
    frozen = {"actor.latent_pi.0.weight", "actor.latent_pi.0.bias", "critic.q_networks.2.weight"}
    assert {name for name in still if "target" not in name} == frozen
    assert not any(parameter.requires_grad for parameter in ours.critic_target.parameters())
    assert all(parameter.requires_grad for parameter in back.critic_target.parameters())
    assert th.equal(ours.log_ent_coef, temperature)
    sac.critic.qf0[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"q_networks.* cannot be frozen for some critics and not for others"):
        SACv2.from_sb3(sac)


def test_optimizers_that_are_not_element_by_element_are_refused():
    kwargs = {"optimizer_class": th.optim.Adafactor}
    with pytest.raises(ValueError, match="optimizer_class=Adafactor"):
        SACv2.from_sb3(make_sb3(policy_kwargs=kwargs))


def test_the_target_interval_counts_otherwise_here():
    sac = make_sb3(target_update_interval=2)
    with pytest.warns(UserWarning, match="target_update_interval=2 counts gradient steps over the whole run"):
        assert SACv2.from_sb3(sac).target_update_interval == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SACv2.from_sb3(sac, target_update_interval=1).target_update_interval == 1
