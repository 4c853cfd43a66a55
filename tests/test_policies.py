"""The networks: architectures, features extractors, sharing, images, training and evaluation mode."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    DICTIONARY,
    GAUSSIAN,
    IMAGE,
    VECTOR,
    NormalizingExtractor,
    SpacesEnv,
    every_algorithm,
    every_gaussian_algorithm,
    flat_parameters,
    make,
)
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.vec_env import VecTransposeImage, is_vecenv_wrapped
from stable_baselines3.sac.policies import Actor
from torch import nn

from sb3_sac_variants import SACv2
from sb3_sac_variants.common.networks.critics import stacked_mlp
from sb3_sac_variants.sac_v2.policies import SACv2Policy


def critic_like(model: Any) -> list[Any]:
    """
    :param model: a model
    :return: its learned networks other than the actor
    """
    return [getattr(model, name) for name in model.policy.learned_networks if name != "actor"]


def targets(model: Any) -> list[tuple[Any, Any]]:
    """
    :param model: a model
    :return: pairs of an online network and its target
    """
    return [(getattr(model, online), getattr(model, target)) for online, target in model.tracked_networks.items()]


def weights(network: nn.Module) -> list[tuple[int, ...]]:
    """
    :param network: any network
    :return: shapes of its matrices
    """
    return [tuple(parameter.shape) for name, parameter in network.named_parameters() if name.endswith("weight")]


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    ("net_arch", "actor", "critic"),
    [
        ([8, 6], [(8, 3), (6, 8)], [(2, 5, 8), (2, 8, 6), (2, 6, 1)]),
        ([], [], [(2, 5, 1)]),
        ({"pi": [7], "qf": [9, 4]}, [(7, 3)], [(2, 5, 9), (2, 9, 4), (2, 4, 1)]),
        ({"pi": [], "qf": [4]}, [], [(2, 5, 4), (2, 4, 1)]),
        ({"pi": [4], "qf": []}, [(4, 3)], [(2, 5, 1)]),
        (None, [(256, 3), (256, 256)], [(2, 5, 256), (2, 256, 256), (2, 256, 1)]),
    ],
    ids=str,
)
@every_algorithm
def test_hidden_layers(algorithm: type, net_arch: Any, actor: list[Any], critic: list[Any]) -> None:
    model = make(algorithm, net_arch=net_arch)
    if algorithm in GAUSSIAN:
        assert weights(model.actor.latent_pi) == actor
        assert weights(model.actor.mu) == [(2, actor[-1][0] if actor else 3)]
    assert weights(model.critic) == critic
    for online, target in targets(model):
        assert weights(online) == weights(target)
    model.learn(8)
    model.predict(VECTOR.sample())


@pytest.mark.parametrize("n_critics", [1, 2, 3])
@every_algorithm
def test_number_of_critics(algorithm: type, n_critics: int) -> None:
    model = make(algorithm, policy_kwargs={"n_critics": n_critics}).learn(10)
    observations, actions = th.randn(5, 3), th.rand(5, 2) * 2 - 1
    values = model.critic(observations, actions)
    assert isinstance(values, tuple)
    assert [value.shape for value in values] == [(5, 1)] * n_critics
    assert th.equal(model.critic.q1_forward(observations, actions), values[0])
    assert all(not th.allclose(values[0], other) for other in values[1:])
    # What is shown for analysis is the minimum
    least = th.stack(values).amin(dim=0).squeeze(1).detach().numpy()
    np.testing.assert_allclose(model.q_value(observations.numpy(), actions.numpy()), least, rtol=1e-5)


@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.ELU, nn.ReLU])
@every_algorithm
def test_activations(algorithm: type, activation_fn: type[nn.Module]) -> None:
    model = make(algorithm, net_arch=[8, 8], policy_kwargs={"activation_fn": activation_fn})
    kinds = {nn.Tanh, nn.ELU, nn.ReLU}
    for network in (model.actor, *critic_like(model)):
        found = [type(module) for module in network.modules() if type(module) in kinds]
        assert found == [activation_fn] * 2


@pytest.mark.parametrize(
    "activation_fn",
    [
        nn.Softmax,
        nn.Softmin,
        nn.LogSoftmax,
        partial(nn.Softmax, dim=1),
    ],
)
@every_algorithm
def test_activations_that_would_mix_critics(algorithm: type, activation_fn: Any) -> None:
    with pytest.raises(ValueError, match=r"activation_fn=.* would mix networks or observations.*dim=-1"):
        make(algorithm, net_arch=[8], policy_kwargs={"activation_fn": activation_fn})


@pytest.mark.parametrize(
    "activation_fn",
    [
        *(partial(nn.Softmax, dim=-1), nn.RReLU, nn.Dropout, nn.PReLU, partial(nn.PReLU, 8)),
        *(partial(nn.LayerNorm, 8), partial(nn.BatchNorm1d, 8)),
    ],
)
def test_activations_that_keep_critics_apart(activation_fn: Any) -> None:
    model = make(SACv2, net_arch=[8], policy_kwargs={"activation_fn": activation_fn}).learn(8)
    model.policy.set_training_mode(False)
    observations, actions = th.randn(5, 3), th.rand(5, 2)
    inputs = th.cat([observations, actions], dim=1)
    single = th.stack([network.eval()(inputs) for network in model.critic.q_networks])
    th.testing.assert_close(model.critic.evaluate(observations, actions), single)


def test_each_critic_has_an_activation_with_parameters_of_its_own() -> None:
    model = make(SACv2, net_arch=[8], policy_kwargs={"activation_fn": nn.PReLU}).learn(20)
    slopes = [network[1].weight for network in model.critic.q_networks]
    assert slopes[0] is not slopes[1]
    assert len({slope.item() for slope in [*slopes, model.actor.latent_pi[1].weight]}) == 3  # all have learned
    assert len(model.critic.q_networks[:]) == 2
    th.testing.assert_close(model.critic.q_networks[0:1][0](th.ones(1, 5)), model.critic.qf0(th.ones(1, 5)))


# ---------------------------------------------------------------- features extractors


class Scaled(BaseFeaturesExtractor):
    """
    A linear layer after a factor.

    :param observation_space: observation space
    :param features_dim: number of features
    :param factor: what the observations are multiplied by
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 6, factor: float = 1.0):
        super().__init__(observation_space, features_dim)
        self.factor = factor
        self.layer = nn.Linear(observation_space.shape[0], features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(self.factor * observations)


@every_algorithm
def test_extractor_of_the_user(algorithm: type) -> None:
    kwargs = {"features_extractor_class": Scaled, "features_extractor_kwargs": {"features_dim": 5, "factor": 3.0}}
    model = make(algorithm, policy_kwargs=kwargs)
    for network in (model.actor, *critic_like(model), *(target for _, target in targets(model))):
        assert isinstance(network.features_extractor, Scaled)
        assert (network.features_extractor.factor, network.features_extractor.features_dim) == (3.0, 5)
    before = flat_parameters(model)
    model.learn(15)
    after = flat_parameters(model)
    layers = [name for name in before if name.endswith("features_extractor.layer.weight") and "optimizer" not in name]
    assert len(layers) == 1 + len(critic_like(model)) + len(targets(model))
    assert all(not th.equal(before[name], after[name]) for name in layers)


@every_algorithm
def test_shared_extractor_learns_from_the_actor_alone(algorithm: type) -> None:
    kwargs = {"features_extractor_class": Scaled, "share_features_extractor": True}
    model = make(algorithm, policy_kwargs=kwargs)
    shared = model.actor.features_extractor
    assert model.critic.features_extractor is shared
    learned = {id(parameter) for group in model.critic.optimizer.param_groups for parameter in group["params"]}
    assert not learned & {id(parameter) for parameter in shared.parameters()}
    values = model.critic.evaluate(th.randn(4, 3), th.zeros(4, 2))
    assert th.autograd.grad(values.sum(), list(shared.parameters()), allow_unused=True) == (None, None)
    for _, target in targets(model):
        assert target.features_extractor is not shared
    before = shared.layer.weight.detach().clone()
    model.learn(15)
    assert not th.equal(before, shared.layer.weight)
    assert model.critic.features_extractor is model.actor.features_extractor


@every_algorithm
def test_extractors_are_not_shared_unless_asked_for(algorithm: type) -> None:
    model = make(algorithm, policy_kwargs={"features_extractor_class": Scaled})
    extractors = [network.features_extractor for network in (model.actor, *critic_like(model))]
    assert len({id(extractor) for extractor in extractors}) == len(extractors)


BACKBONE = nn.Linear(3, 4)


class OneBackbone(BaseFeaturesExtractor):
    """Extractors that all have the same layer."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 4)
        self.layer = BACKBONE

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


@every_gaussian_algorithm
def test_a_layer_that_extractors_share_by_themselves_is_warned_of(algorithm: type) -> None:
    policy_kwargs: dict[str, Any] = {"net_arch": [8], "features_extractor_class": OneBackbone}
    with pytest.warns(UserWarning, match=r"share_features_extractor=False, but actor and critics share parameters"):
        make(algorithm, policy_kwargs={**policy_kwargs, "share_features_extractor": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(algorithm, policy_kwargs={**policy_kwargs, "share_features_extractor": True})
        BACKBONE.requires_grad_(False)
        make(algorithm, policy_kwargs={**policy_kwargs, "share_features_extractor": False})
    BACKBONE.requires_grad_(True)


@every_algorithm
def test_hooks_on_layers_see_what_the_layers_gave(algorithm: type) -> None:
    model, seen, called = make(algorithm), [], []
    for layer in model.critic.q_networks.layers:
        layer.register_full_backward_hook(lambda *_: called.append(0))
    linear, activation = list(model.critic.q_networks.layers)[:2]
    linear.register_forward_hook(lambda _, __, output: seen.append(output))
    activation.register_forward_hook(lambda *_: seen.append(None))
    model.critic.register_full_backward_hook(lambda *_: called.append(1))
    model.learn(8)
    assert min(output.min() for output in seen if output is not None) < 0
    assert {*called} == {0, 1}


@every_algorithm
def test_default_extractors(algorithm: type) -> None:
    for policy, space, expected in (
        ("MlpPolicy", VECTOR, FlattenExtractor),
        ("CnnPolicy", IMAGE, NatureCNN),
        ("MultiInputPolicy", DICTIONARY, CombinedExtractor),
    ):
        assert isinstance(make(algorithm, SpacesEnv(space), policy).actor.features_extractor, expected)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("shape", [(1, 36, 36), (3, 40, 36), (36, 40, 3)], ids=str)
@every_algorithm
def test_images(algorithm: type, shape: tuple[int, ...], share: bool) -> None:
    env = SpacesEnv(spaces.Box(0, 255, shape, dtype=np.uint8))
    kwargs = {"share_features_extractor": share, "features_extractor_kwargs": {"features_dim": 16}}
    model = make(algorithm, env, "CnnPolicy", policy_kwargs=kwargs).learn(9)
    last = shape[-1] == 3
    assert is_vecenv_wrapped(model.env, VecTransposeImage) == last
    channels_first = (shape[-1], *shape[:2]) if last else shape
    assert model.observation_space.shape == channels_first
    assert model.replay_buffer.sample(2).observations.shape == (2, *channels_first)
    assert model.replay_buffer.sample(2).observations.dtype == th.uint8
    # predict() takes images as the environment gives them, one or several
    image = env.observation_space.sample()
    one, _ = model.predict(image, deterministic=True)
    several, _ = model.predict(np.stack([image, image]), deterministic=True)
    assert (one.shape, several.shape) == ((2,), (2, 2))
    np.testing.assert_allclose(several, [one, one], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@every_algorithm
def test_images_are_divided_by_255_once(algorithm: type, dtype: type) -> None:
    space = spaces.Box(0, 255 if dtype is np.uint8 else 1, (1, 36, 36), dtype=dtype)
    kwargs = {"normalize_images": dtype is np.uint8, "features_extractor_kwargs": {"features_dim": 4}}
    model = make(algorithm, SpacesEnv(space), "CnnPolicy", policy_kwargs=kwargs)
    assert is_image_space(space, normalized_image=dtype is np.float32)
    seen = []
    for network in (model.actor, *critic_like(model)):
        network.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.learn(9)
    assert len(seen) >= 20
    assert 0.9 < max(images.max().item() for images in seen) <= 1


@pytest.mark.parametrize("share", [False, True])
@every_algorithm
def test_images_and_vectors(algorithm: type, share: bool) -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8),
            "vector": VECTOR,
            "mode": spaces.Discrete(4),
            "buttons": spaces.MultiBinary(2),
        }
    )
    kwargs = {"share_features_extractor": share, "features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = make(algorithm, SpacesEnv(space), "MultiInputPolicy", policy_kwargs=kwargs).learn(9)
    assert model.actor.features_extractor.features_dim == 8 + 3 + 4 + 2
    batch = model.replay_buffer.sample(3)
    shapes = {"camera": (3, 3, 36, 36), "vector": (3, 3), "mode": (3, 1), "buttons": (3, 2)}
    assert {key: tuple(value.shape) for key, value in batch.observations.items()} == shapes
    assert model.predict(space.sample())[0].shape == (2,)
    assert model.predict({key: np.stack([value] * 3) for key, value in space.sample().items()})[0].shape == (3, 2)


# ---------------------------------------------------------------- training and evaluation mode


@every_algorithm
def test_batch_norm_and_dropout_know_what_is_training(algorithm: type) -> None:
    kwargs = {"features_extractor_class": NormalizingExtractor}
    model = make(algorithm, SpacesEnv(spaces.Box(5, 9, (3,))), policy_kwargs=kwargs)
    online = [model.actor, *critic_like(model)]
    modes: dict[str, set[Any]] = {"rollout": set(), "training": set(), "targets": set()}
    for network in online:
        network.features_extractor.register_forward_pre_hook(
            lambda module, inputs: modes["rollout" if len(inputs[0]) == 1 else "training"].add(module.training)
        )
    for _, target in targets(model):
        target.features_extractor.register_forward_pre_hook(lambda module, _: modes["targets"].add(module.training))
    model.learn(20)
    assert modes == {"rollout": {False}, "training": {True}, "targets": {False}}
    for network in online:
        statistics = network.features_extractor.layers[1]
        assert statistics.num_batches_tracked > 0
        assert statistics.running_mean.abs().sum() > 0
    for network, target in targets(model):
        # Running statistics are copied, whatever tau is
        ours, theirs = (each.features_extractor.layers[1] for each in (target, network))
        assert th.equal(ours.running_mean, theirs.running_mean)
        assert th.equal(ours.running_var, theirs.running_var)


@every_algorithm
def test_predict_leaves_dropout_out(algorithm: type) -> None:
    kwargs = {"features_extractor_class": NormalizingExtractor, "features_extractor_kwargs": {"dropout": 0.9}}
    model = make(algorithm, policy_kwargs=kwargs).learn(10)
    model.policy.set_training_mode(True)
    observation = VECTOR.sample()
    actions = [model.predict(observation, deterministic=True)[0] for _ in range(5)]
    np.testing.assert_array_equal(actions, [actions[0]] * 5)
    values = [model.q_value(observation, np.zeros((1, 2))) for _ in range(5)]
    np.testing.assert_array_equal(values, [values[0]] * 5)


@every_algorithm
def test_module_with_a_mode_of_its_own(algorithm: type) -> None:
    class Frozen(Scaled):
        """Features that a user wants to stay in evaluation mode."""

        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    model = make(algorithm, policy_kwargs={"features_extractor_class": Frozen})
    model.policy.set_training_mode(True)
    assert model.actor.training
    assert not model.actor.features_extractor.training
    assert not model.actor.features_extractor.layer.training


# ---------------------------------------------------------------- policies by themselves


@every_algorithm
def test_policy_class_of_the_user(algorithm: type) -> None:
    class Wide(algorithm.policy_aliases["MlpPolicy"]):  # type: ignore[name-defined,misc]
        def __init__(self, *args: Any, width: int, **kwargs: Any):
            super().__init__(*args, net_arch=[width], **kwargs)

    model = algorithm(Wide, SpacesEnv(), policy_kwargs={"width": 24}, engine="eager", device="cpu", learning_starts=2)
    model.learn(5)
    assert weights(model.critic) == [(2, 5, 24), (2, 24, 1)]


@pytest.mark.parametrize("kwargs", [{}, {"n_critics": 3, "share_features_extractor": True}], ids=str)
@every_algorithm
def test_saved_policy(algorithm: type, kwargs: dict[str, Any], tmp_path: Any) -> None:
    model = make(algorithm, policy_kwargs=kwargs).learn(10)
    model.policy.save(tmp_path / "policy.pkl")
    loaded = algorithm.policy_aliases["MlpPolicy"].load(tmp_path / "policy.pkl", device="cpu")
    observations = np.stack([VECTOR.sample() for _ in range(4)])
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(loaded.state_dict()[name], tensor)


@every_algorithm
def test_targets_start_as_copies_without_gradients(algorithm: type) -> None:
    model = make(algorithm)
    for online, target in targets(model):
        for ours, theirs in zip(target.parameters(), online.parameters(), strict=True):
            assert th.equal(ours, theirs)
            assert ours is not theirs
            assert not ours.requires_grad
    for network in (model.actor, *critic_like(model)):
        assert all(parameter.requires_grad for parameter in network.parameters())


@every_algorithm
@pytest.mark.parametrize("name", ["policy", "critic"])
def test_a_vector_of_parameters_is_loaded_into_the_memory_there_is(algorithm: type, name: str) -> None:
    network = getattr(make(algorithm), name)
    places = [parameter.data_ptr() for parameter in network.parameters()]
    vector = network.parameters_to_vector()
    network.load_from_vector(2.0 * vector)
    np.testing.assert_array_equal(network.parameters_to_vector(), 2.0 * vector)
    assert [parameter.data_ptr() for parameter in network.parameters()] == places
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        network.load_from_vector(vector[1:])


class Counting(nn.Module):
    """Counts its calls, and draws a random number in each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        self.calls += 1
        return inputs + 0.0 * th.rand(())


def test_trying_an_activation_leaves_no_trace() -> None:
    def weights(activation_fn: type[nn.Module]) -> th.Tensor:
        th.manual_seed(0)
        layers = stacked_mlp(2, 3, 1, [4, 4], activation_fn)
        assert not any(layer.calls for layer in layers.modules() if isinstance(layer, Counting))
        return nn.utils.parameters_to_vector(layers.parameters())

    assert th.equal(weights(Counting), weights(nn.Tanh))


# ---------------------------------------------------------------- export


class Deterministic(nn.Module):
    """
    A policy from one argument to one result, as docs/onnx.md has it.

    :param policy: the policy
    """

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy

    def forward(self, observation: Any) -> th.Tensor:
        return self.policy(observation, deterministic=True)


OBSERVATIONS = {
    "vector": VECTOR,
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
    "dictionary": spaces.Dict({"vector": VECTOR, "mode": spaces.Discrete(3)}),
}


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", OBSERVATIONS)
@every_algorithm
def test_exported_policies_take_any_number_of_observations(algorithm: type, kind: str) -> None:
    space = OBSERVATIONS[kind]
    model = make(algorithm, SpacesEnv(space), "MultiInputPolicy" if kind == "dictionary" else "MlpPolicy")
    space.seed(0)
    samples = [model.policy.obs_to_tensor(space.sample())[0] for _ in range(5)]

    def batch(count: int) -> Any:
        if kind == "dictionary":
            return {key: th.cat([sample[key] for sample in samples[:count]]) for key in space}
        return th.cat(samples[:count])

    dynamic: Any = {0: th.export.Dim("batch")}
    shapes = dict.fromkeys(space, dynamic) if kind == "dictionary" else dynamic
    policy = Deterministic(model.policy).eval()
    exported = th.export.export(policy, (batch(2),), dynamic_shapes=(shapes,)).module()
    th.testing.assert_close(exported(batch(5)), policy(batch(5)))


@every_algorithm
def test_traced_policies_take_any_number_of_observations(algorithm: type) -> None:
    policy = Deterministic(make(algorithm).policy).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("error", th.jit.TracerWarning)
        traced = th.jit.trace(policy, th.randn(1, 3), check_trace=False)
    observations = th.randn(50, 3)
    th.testing.assert_close(traced(observations), policy(observations))


# ---------------------------------------------------------------- policies of the user's own


@pytest.mark.parametrize(("method", "network"), [("make_actor", Actor), ("make_critic", ContinuousCritic)])
def test_networks_of_sb3_in_a_policy_are_refused(method: str, network: type) -> None:
    def make_network(self: Any, features_extractor: Any = None) -> Any:
        kwargs = self.actor_kwargs if network is Actor else self.critic_kwargs
        return network(**self._update_features_extractor(kwargs, features_extractor)).to(self.device)

    policy = type("Mine", (SACv2Policy,), {method: make_network})
    with pytest.raises(TypeError, match=rf"Mine\.{method}\(\) gave a {network.__name__} without .*super\(\)\.{method}"):
        SACv2(policy, SpacesEnv())
