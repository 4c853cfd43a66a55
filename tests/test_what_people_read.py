"""What people's code reads and sets on SB3's SAC, with its meaning there."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    ALGORITHMS,
    DICTIONARY,
    IMAGE,
    VECTOR,
    SpacesEnv,
    assert_same_parameters,
    every_algorithm,
    every_gaussian_algorithm,
    flat_parameters,
    make,
    n_updates,
    several,
    several_agents,
)
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2

READINGS = ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "cpu")


class Recorder(KVWriter):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        assert sorted(key_values) == sorted(key_excluded)
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


class Reads(BaseCallback):
    """Reads losses at each step, in one of the ways people do."""

    def __init__(self, way: str):
        super().__init__()
        self.way = way
        self.found: list[float] = []

    def _on_step(self) -> bool:
        values, name = self.logger.name_to_value, "train/critic_loss"
        if self.num_timesteps > 6:  # learning starts after 5
            present = {
                "get": lambda: name in values and values.get(name),
                "index": lambda: values[name],
                "items": lambda: dict(values.items())[name],
                "copy": lambda: {**values}[name],
                "iterate": lambda: next(values[key] for key in values if key == name),
            }[self.way]()
            self.found.append(float(present))
        return True


@pytest.mark.parametrize("way", ["get", "index", "items", "copy", "iterate"])
@every_algorithm
def test_losses_in_a_callback(algorithm: type, way: str) -> None:
    callback = Reads(way)
    make(algorithm).learn(20, callback=callback, log_interval=None)
    assert len(callback.found) == 14
    assert np.all(np.array(callback.found) > 0)
    assert len(set(callback.found)) == 14


def test_losses_of_agents_in_a_callback() -> None:
    callback = Reads("index")
    make(MASAC, several_agents()).learn(20, callback=callback)
    assert np.all(np.array(callback.found) > 0)


@every_algorithm
def test_losses_whenever_the_logger_writes(algorithm: type) -> None:
    writer = Recorder()
    model = make(algorithm)
    model.set_logger(Logger(None, [writer]))
    evaluation = EvalCallback(several(1), eval_freq=8, verbose=0, n_eval_episodes=1)
    model.learn(40, callback=evaluation, log_interval=1)
    evaluated = [row for row in writer.rows if "eval/mean_reward" in row]
    assert len(evaluated) == 5
    assert all(row["train/critic_loss"] > 0 for row in evaluated)
    assert [row["train/n_updates"] for row in evaluated] == [2, 10, 18, 26, 34]
    # Episodes end at steps 10, 20, 30, 40, the last together with an evaluation, which leaves no update to tell of
    others = [row for row in writer.rows if "eval/mean_reward" not in row]
    assert ["train/critic_loss" in row for row in others] == [True, True, True, False]


def test_a_mean_since_the_last_writing(tmp_path: Any) -> None:
    model = make(SACv2)
    model.set_logger(Logger(str(tmp_path), [CSVOutputFormat(str(tmp_path / "log.csv"))]))
    model.learn(10)
    losses = []
    update = model.update

    def kept(*args: Any) -> Any:
        metrics = update(*args)
        losses.append(float(metrics["critic_loss"]))
        return metrics

    model.update = kept
    model.logger.dump()
    assert "train/critic_loss" not in model.logger.name_to_value
    for count in (1, 2, 3):
        model.train(1, 4)
        assert model.logger.name_to_value["train/critic_loss"] == pytest.approx(np.mean(losses[:count]))
    model.logger.dump()
    model.train(1, 4)
    assert model.logger.name_to_value["train/critic_loss"] == pytest.approx(losses[3])


class Corrects(BaseCallback):
    """Records a loss of its own after each training."""

    def _on_rollout_start(self) -> None:
        if self.num_timesteps > 5:
            self.logger.record("train/critic_loss", -1.0, exclude="csv")

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("read_before", [False, True])
def test_what_is_recorded_after_a_training_counts(read_before: bool) -> None:
    """SB3 has recorded its own losses by then."""
    writer, model = Recorder(), make(SACv2)
    model.set_logger(Logger(None, [writer]))
    corrects, reads = Corrects(), Reads("get")
    model.learn(20, callback=[reads, corrects] if read_before else corrects, log_interval=1)
    assert [row["train/critic_loss"] for row in writer.rows] == [-1.0, -1.0]
    assert all(row["train/actor_loss"] != -1.0 for row in writer.rows)
    assert reads.found == [-1.0] * 14 * read_before
    model.train(1, 4)  # after which it is the training's again
    assert model.logger.name_to_value["train/critic_loss"] > 0


@pytest.mark.parametrize("own_logger", [False, True])
def test_a_dictionary_that_somebody_keeps_has_the_losses(own_logger: bool) -> None:
    class Keeps(BaseCallback):
        def _on_training_start(self) -> None:
            self.values = self.logger.name_to_value

        def _on_step(self) -> bool:
            return True

    model, callback = make(SACv2), Keeps()
    if own_logger:
        model.set_logger(configure(None, []))
        values = model.logger.name_to_value
    model.learn(12, callback=callback, log_interval=None)
    assert callback.values["train/critic_loss"] > 0
    assert not own_logger or values is callback.values


def test_nothing_is_read_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading waits for the device."""
    model = make(SACv2, ent_coef="auto").learn(20)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a tensor was read")

    for name in READINGS:
        monkeypatch.setattr(th.Tensor, name, refuse)
    for _ in range(3):
        model.train(2, 4)
        model.logger.record("custom/value", 1.0)
    assert model.logger.name_to_value["custom/value"] == 1.0
    with pytest.raises(AssertionError, match="was read"):
        model.logger.name_to_value["train/critic_loss"]


def test_a_copied_model_logs_its_own_losses() -> None:
    model = make(SACv2).learn(20)
    twin = copy.deepcopy(model)
    twin.set_logger(configure(None, []))
    twin.train(1, 4)
    assert twin.logger.name_to_value["train/critic_loss"] > 0


# ---------------------------------------------------------------- the temperature


@every_algorithm
def test_a_fixed_temperature_set_later(algorithm: type) -> None:
    model = make(algorithm, ent_coef=0.5)
    model.ent_coef = 0.02
    model.learn(30, log_interval=None)
    reference = make(algorithm, ent_coef=0.02).learn(30)
    for one, other in zip(model.policy.parameters(), reference.policy.parameters(), strict=True):
        assert th.equal(one, other)
    assert model.logger.name_to_value["train/ent_coef"] == pytest.approx(0.02)
    assert model.ent_coef == 0.02
    model.ent_coef_tensor = th.tensor(0.3)
    assert model.ent_coef == pytest.approx(0.3)
    model.train(1, 4)
    assert float(model.ent_coef_tensor) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"ent_coef=-1.*not a temperature"):
        model.ent_coef = -1


@pytest.mark.slow
def test_a_fixed_temperature_in_a_compiled_update() -> None:
    models = []
    for engine in ("compile", "eager"):
        models.append(make(SACv2, ent_coef=0.5, engine=engine).learn(10))
        models[-1].ent_coef = 0.02
        models[-1].learn(30)
    model, reference = models
    for left, right in zip(model.policy.parameters(), reference.policy.parameters(), strict=True):
        th.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)


def test_softmax_policies_act_by_the_temperature_set_later() -> None:
    model = make(SQL, "CartPole-v1", ent_coef=0.5)
    before = model.actor.log_prob(th.ones(1, 4))
    model.ent_coef = 0.01
    assert (model.actor.log_prob(th.ones(1, 4)) - before).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"ent_coef=0.*greater than 0"):
        model.ent_coef = 0


@every_gaussian_algorithm
def test_a_learned_temperature_cannot_be_fixed_later(algorithm: type) -> None:
    model = make(algorithm, ent_coef="auto")
    model.ent_coef = "auto"
    for value in (0.02, "auto_0.3"):
        with pytest.raises(ValueError, match=rf"ent_coef={value!r} cannot .*log_ent_coef.data.fill_"):
            model.ent_coef = value
    with pytest.raises(ValueError, match="log_ent_coef"):
        model.ent_coef_tensor = 0.02
    assert not hasattr(model, "ent_coef_tensor")
    with pytest.raises(ValueError, match=r"ent_coef='auto' cannot"):
        make(algorithm, ent_coef=0.1).ent_coef = "auto"


def test_optimizer_of_the_temperature() -> None:
    model = make(SACv2, ent_coef="auto")
    assert isinstance(model.ent_coef_optimizer, th.optim.Adam)
    assert model.ent_coef_optimizer.param_groups[0]["params"] == [model.log_ent_coef]
    assert make(SACv2, ent_coef=0.1).ent_coef_optimizer is None
    before = model.log_ent_coef.item()
    model.learn(20)
    assert model.log_ent_coef.item() != before


def test_a_learned_temperature_is_set_as_in_sb3() -> None:
    model = make(SACv2, ent_coef="auto")
    parameter = model.log_ent_coef
    model.log_ent_coef = th.log(th.ones(1) * 0.5).requires_grad_(True)
    model.ent_coef_optimizer = th.optim.Adam([model.log_ent_coef], lr=1e-3)
    assert model.log_ent_coef is parameter
    assert model.temperature.value.item() == pytest.approx(0.5)
    model.learn(20)
    assert 0 < abs(model.temperature.value.item() - 0.5) < 0.1
    for value in (th.zeros(2), th.tensor(float("nan"))):
        with pytest.raises(ValueError, match=r"log_ent_coef=.* must be 1 finite"):
            model.log_ent_coef = value
    with pytest.raises(AttributeError, match=r"ent_coef=0.1 is fixed: set ent_coef"):
        make(SACv2, ent_coef=0.1).log_ent_coef = th.zeros(1)


def test_saved_and_loaded_with_its_temperature(tmp_path: Any) -> None:
    model = make(SACv1, ent_coef=0.5)
    model.ent_coef = 0.02
    model.save(tmp_path / "model")
    loaded = SACv1.load(tmp_path / "model", SpacesEnv())
    assert (loaded.ent_coef, float(loaded.ent_coef_tensor)) == (0.02, pytest.approx(0.02))


@every_algorithm
def test_a_fixed_temperature_changed_in_place_is_saved(algorithm: type, tmp_path: Path) -> None:
    model = make(algorithm, ent_coef=0.5).learn(10)
    model.ent_coef_tensor.data.fill_(0.03)
    model.save_checkpoint(tmp_path / "checkpoint")
    resumed = algorithm.load_checkpoint(tmp_path / "checkpoint", SpacesEnv())
    model.ent_coef_tensor.data.mul_(0.5)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", SpacesEnv())
    assert float(resumed.ent_coef_tensor) == np.float32(0.03)
    assert loaded.ent_coef == float(loaded.ent_coef_tensor) == np.float32(0.03) / 2
    if algorithm is SACv2:
        assert float(model.to_sb3(exact=False).ent_coef_tensor) == np.float32(0.03) / 2
    model.ent_coef_tensor.data.fill_(-1.0)
    with pytest.warns(UserWarning, match=r"ent_coef=-1.0 is not a temperature.* What is saved is ent_coef=0.0149"):
        model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model").ent_coef == loaded.ent_coef


# ---------------------------------------------------------------- arguments


@every_algorithm
def test_targets_that_stay(algorithm: type) -> None:
    model = make(algorithm, tau=0)
    target = model.policy.get_submodule("value_net_target" if algorithm is SACv1 else "critic_target")
    before = copy.deepcopy(target.state_dict())
    model.learn(20)
    for name, value in target.state_dict().items():
        assert th.equal(value, before[name])


@every_algorithm
def test_scalars_of_numpy(algorithm: type, tmp_path: Any) -> None:
    kwargs = {
        "learning_rate": 1e-3,
        "qf_learning_rate": 1e-3,
        "seed": 3,
        "stats_window_size": 5,
        "buffer_size": 50,
        "batch_size": 4,
        "gamma": 0.5,
        "tau": 0.25,
        "ent_coef": 0.5,
        "reward_scale": 2.0,
        "learning_starts": 3,
        "train_freq": 2,
        "gradient_steps": 2,
    }
    scalars = {
        name: np.float64(value) if isinstance(value, float) else np.int32(value) for name, value in kwargs.items()
    }
    scalars["gamma"] = np.float32(0.5)
    model, reference = make(algorithm, **scalars).learn(20), make(algorithm, **kwargs).learn(20)
    for one, other in zip(model.policy.parameters(), reference.policy.parameters(), strict=True):
        assert th.equal(one, other)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", SpacesEnv()).learn(10)
    assert loaded.num_timesteps == 10


class Lazy(BaseFeaturesExtractor):
    """Finds out its size by itself."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU())

    def forward(self, observations: Any) -> th.Tensor:
        if isinstance(observations, dict):
            observations = th.cat([value.flatten(1) for value in observations.values()], dim=1)
        return self.layers(observations)


@pytest.mark.parametrize("space", [VECTOR, spaces.Discrete(4), DICTIONARY], ids=["vector", "discrete", "dictionary"])
@every_algorithm
def test_lazy_layers(algorithm: type, space: spaces.Space) -> None:
    policy = "MultiInputPolicy" if space is DICTIONARY else "MlpPolicy"
    model = make(algorithm, SpacesEnv(space), policy, policy_kwargs={"features_extractor_class": Lazy})
    before = [parameter.clone() for parameter in model.actor.features_extractor.parameters()]
    model.learn(20)
    assert not all(map(th.equal, before, model.actor.features_extractor.parameters()))
    assert model.predict(space.sample())[0].shape == (2,)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("env", "policy"),
    [
        (SpacesEnv, "MlpPolicy"),
        ("CartPole-v1", "MlpPolicy"),
        (lambda: SpacesEnv(IMAGE), "CnnPolicy"),
        (lambda: SpacesEnv(DICTIONARY), "MultiInputPolicy"),
    ],
    ids=["continuous", "discrete", "image", "dictionary"],
)
@every_algorithm
def test_double_precision(algorithm: type, env: Any, policy: str) -> None:
    th.set_default_dtype(th.float64)
    try:
        model = make(algorithm, make_vec_env(env), policy).learn(20)
        obs, actions = model.observation_space.sample(), model.action_space.sample()
        assert model.predict(obs)[0].dtype == model.action_space.dtype
        assert model.q_value(obs, actions).dtype == model.soft_value(obs).dtype == np.float64
    finally:
        th.set_default_dtype(th.float32)
    assert all(parameter.dtype == th.float64 for parameter in model.policy.parameters())


@pytest.mark.parametrize(
    ("algorithm", "env", "kwargs"),
    [
        *[(algorithm, SpacesEnv, {}) for algorithm in ALGORITHMS],
        (SACv1, SpacesEnv, {"policy_kwargs": {"n_components": 2}, "policy_gradient": "likelihood_ratio"}),
        (SQL, "CartPole-v1", {}),
        (MASAC, "SimpleSpread-v3", {}),
    ],
)
def test_a_default_type_that_changes_after_construction(algorithm: type, env: Any, kwargs: dict[str, Any]) -> None:
    if algorithm is MASAC:
        pytest.importorskip("mpe2")
    models = []
    for dtype in (th.float32, th.float64):
        model = make(algorithm, make_vec_env(env, seed=0), **kwargs)
        th.set_default_dtype(dtype)
        try:
            model.learn(20)
            assert model.soft_value(model.observation_space.sample()).dtype == np.float32
        finally:
            th.set_default_dtype(th.float32)
        models.append(model)
    assert_same_parameters(*models)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("algorithm", [SACv1, SACv2])
def test_log_prob_of_an_action_is_that_of_training(algorithm: type) -> None:
    actor = make(algorithm).actor
    with th.no_grad():
        actor.mu.bias.fill_(12.0)
        th.manual_seed(0)
        actions, log_prob = actor.action_log_prob(th.zeros(4, 3))
        th.manual_seed(0)
        sample = actor.sample(th.zeros(4, 3), th.randn(4, 2))
    assert log_prob.shape == (4,)
    th.testing.assert_close(log_prob, sample.log_prob[:, 0])
    th.testing.assert_close(actions, sample.actions)
    assert (log_prob > 30).all()  # 1e-6 inside the logarithm keeps it below


@every_algorithm
def test_all_layers_can_be_drawn_anew(algorithm: type) -> None:
    model = make(algorithm, net_arch=[8, 4])
    before = flat_parameters(model)
    for module in model.policy.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    after = flat_parameters(model)
    weights = [name for name in before if name.endswith("weight")]
    assert weights
    assert not any(th.equal(before[name], after[name]) for name in weights)


@every_algorithm
def test_actions_in_another_shape_have_no_value(algorithm: type) -> None:
    model = make(algorithm)
    observations, actions = np.zeros((3, 3), np.float32), np.zeros((3, 2), np.float32)
    assert model.q_value(observations, actions).shape == (3,)
    assert model.q_value(observations[0], actions[0]).shape == model.q_value(observations[0], actions[:1]).shape == (1,)
    for wrong in (actions.T, actions.flatten(), actions[:2]):
        with pytest.raises(ValueError, match=r"has not the shape \(3, 2\)"):
            model.q_value(observations, wrong)


@every_algorithm
def test_single_critics_are_those_of_sb3(algorithm: type) -> None:
    model = make(algorithm, net_arch=[8, 4], policy_kwargs={"n_critics": 3})
    obs, actions = th.randn(5, 3), th.randn(5, 2)
    inputs = th.cat([obs, actions], dim=1)
    assert len(model.critic.q_networks) == 3
    for index, (value, network) in enumerate(zip(model.critic(obs, actions), model.critic.q_networks, strict=True)):
        th.testing.assert_close(network(inputs), value)
        th.testing.assert_close(getattr(model.critic, f"qf{index}")(inputs), value)
        assert [layer.weight.shape for layer in network if isinstance(layer, nn.Linear)] == [(8, 5), (4, 8), (1, 4)]
    with pytest.raises(AttributeError, match="qf3"):
        _ = model.critic.qf3
    with pytest.raises(IndexError):
        _ = model.critic.q_networks[3]
    assert list(model.critic.state_dict())[:2] == ["q_networks.0.weight", "q_networks.0.bias"]


def test_single_critics_are_views() -> None:
    model = make(SACv2)
    stacked = model.critic.q_networks.layers[0]
    model.critic.qf1(th.randn(4, 5)).sum().backward()
    assert stacked.weight.grad[1].any()
    assert not stacked.weight.grad[0].any()
    with th.no_grad():
        model.critic.qf1[0].weight.zero_()
    assert not stacked.weight[1].any()
    assert stacked.weight[0].any()
    model.critic.qf0.load_state_dict(model.critic.qf1.state_dict())
    assert th.equal(stacked.weight[0], stacked.weight[1])
    assert [name for name, _ in model.critic.qf0.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_what_takes_the_place_of_a_view_is_refused() -> None:
    model = make(SACv2)
    before = copy.deepcopy(model.critic.state_dict())
    with pytest.raises(AttributeError, match=r"^weight is a view of the stacked critics.*weight.data.copy_\(value\)"):
        model.critic.qf0[0].weight = nn.Parameter(th.ones(8, 5))
    with pytest.raises(AttributeError, match=r"^layer -1 is a view of the stacked critics.*layer.load_state_dict"):
        model.critic.q_networks[1][-1] = nn.Linear(8, 1)
    with pytest.raises(AttributeError, match=r"^weight is a view of the stacked critics"):
        nn.utils.parametrizations.spectral_norm(model.critic.qf0[0])
    layer = model.critic.qf0[0]
    layer.note = "of the user"
    del layer.note
    with th.no_grad():
        model.critic.qf1[0].weight *= 0.5
        before["q_networks.0.weight"][1] *= 0.5
    model.critic.qf2 = nn.Linear(5, 1)
    del model.critic.qf2
    with pytest.raises(AttributeError, match=r"^qf0 is a view of the stacked critics.*critic.qf0.load_state_dict"):
        model.critic.qf0 = model.critic.qf1
    assert all(th.equal(value, before[name]) for name, value in model.critic.state_dict().items())
    model.learn(20)


@pytest.mark.parametrize("share_features_extractor", [False, True])
def test_parameters_of_sac(share_features_extractor: bool) -> None:
    policy_kwargs = {"net_arch": [16], "share_features_extractor": share_features_extractor}
    sac = SAC("MlpPolicy", SpacesEnv(), policy_kwargs=policy_kwargs, learning_starts=5, device="cpu").learn(30)
    kwargs: dict[str, Any] = {"ent_coef": "auto", "update_order": "sb3", "ent_coef_loss": "log_alpha"}
    model = make(SACv2, policy_kwargs=policy_kwargs, **kwargs)
    model.policy.load_state_dict(sac.policy.state_dict())
    obs, inputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), th.randn(4, 5)
    for _ in range(2):
        np.testing.assert_allclose(
            model.predict(obs, deterministic=True)[0], sac.predict(obs, deterministic=True)[0], atol=1e-6
        )
        for name in ("critic", "critic_target"):
            for mine, theirs in zip(getattr(model, name).q_networks, getattr(sac, name).q_networks, strict=True):
                th.testing.assert_close(mine(inputs), theirs(inputs))
        model = make(SACv2, policy_kwargs=policy_kwargs, **kwargs)
        model.set_parameters(sac.get_parameters())
    mine = model.critic.optimizer.state[model.critic.q_networks.layers[2].weight]
    for index, network in enumerate(sac.critic.q_networks):
        theirs = sac.critic.optimizer.state[network[2].weight]
        for key in ("exp_avg", "exp_avg_sq"):
            assert th.equal(mine[key][index].T, theirs[key])
        assert float(mine["step"]) == float(theirs["step"])
    model.learn(20)


@every_algorithm
def test_learning_rates_of_the_optimisers_are_numbers(algorithm: type) -> None:
    """A logger takes a tensor for text, or for a histogram."""
    model = make(algorithm, learning_rate=lambda progress: 1e-3 * progress).learn(20)
    optimizers = [getattr(model, name).optimizer for name in model.policy.learned_networks]
    for optimizer in [*optimizers, *([model.ent_coef_optimizer] if model.ent_coef_optimizer else [])]:
        assert [type(group["lr"]) for group in optimizer.param_groups] == [float]


def test_losses_that_are_printed_or_taken_out() -> None:
    class Looks(BaseCallback):
        def _on_step(self) -> bool:
            values = self.logger.name_to_value
            if self.num_timesteps == 10:
                assert "train/critic_loss" in repr(values)
            if self.num_timesteps == 12:
                assert values.pop("train/actor_loss") != values.pop("train/no_such_loss", None)
            return True

    make(SACv2).learn(15, callback=Looks())


def test_the_body_of_sacs_train_runs_here() -> None:
    class Mine(SACv2):
        train = SAC.train

    model = make(Mine, ent_coef_loss="log_alpha")
    before = flat_parameters(model)
    model.learn(20)
    assert model.batch_norm_stats == model.batch_norm_stats_target == []
    assert n_updates(model) == 15
    assert any(not th.equal(before[name], value) for name, value in flat_parameters(model).items())
