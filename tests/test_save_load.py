"""Saving and loading of models, parameters and replay buffers."""

import io
import os
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    DICTIONARY,
    IMAGE,
    TINY,
    NormalizingExtractor,
    SpacesEnv,
    assert_same_parameters,
    every_algorithm,
    every_algorithm_with,
    every_gaussian_algorithm,
    flat_parameters,
    last_observation,
    make,
    n_updates,
    set_progress,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_sac_variants import SACv1, SACv2
from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.persistence.files import written_whole

#: models that differ in what has to be saved: environment, policy, arguments
MODELS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "plain": (SpacesEnv, "MlpPolicy", {}),
    "learned temperature": (SpacesEnv, "MlpPolicy", {"ent_coef": "auto_0.2", "target_entropy": -0.5}),
    "fixed temperature": (SpacesEnv, "MlpPolicy", {"ent_coef": 0.3}),
    "architecture": (
        SpacesEnv,
        "MlpPolicy",
        {"net_arch": {"pi": [7], "qf": [5, 6]}, "policy_kwargs": {"n_critics": 3, "activation_fn": th.nn.Tanh}},
    ),
    "shared extractor": (SpacesEnv, "MlpPolicy", {"policy_kwargs": {"share_features_extractor": True}}),
    "batch norm": (SpacesEnv, "MlpPolicy", {"policy_kwargs": {"features_extractor_class": NormalizingExtractor}}),
    "optimiser": (
        SpacesEnv,
        "MlpPolicy",
        {"policy_kwargs": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"momentum": 0.5}}},
    ),
    "gSDE": (SpacesEnv, "MlpPolicy", {"use_sde": True, "sde_sample_freq": 4}),
    "images": (
        lambda: SpacesEnv(IMAGE),
        "CnnPolicy",
        {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 4}}},
    ),
    "dictionary": (
        lambda: SpacesEnv(DICTIONARY),
        "MultiInputPolicy",
        {"policy_kwargs": {"features_extractor_kwargs": {"cnn_output_dim": 4}}, "optimize_memory_usage": True},
    ),
    "n-step returns": (SpacesEnv, "MlpPolicy", {"n_steps": 3}),
    "schedules": (SpacesEnv, "MlpPolicy", {"learning_rate": lambda p: 1e-3 * p, "qf_learning_rate": lambda p: p}),
}


def trained(algorithm: type, kind: str = "plain", **kwargs: Any) -> Any:
    """
    :param algorithm: class
    :param kind: of :data:`MODELS`
    :param kwargs: arguments of the algorithm
    :return: a model after a few updates
    """
    make_env, policy, arguments = MODELS[kind]
    return make(algorithm, make_env(), policy, **{**arguments, **kwargs}).learn(15)


def predictions(model: Any) -> np.ndarray:
    """
    :param model: a model
    :return: its deterministic actions in a few fixed states
    """
    model.observation_space.seed(0)
    return np.stack([model.predict(model.observation_space.sample(), deterministic=True)[0] for _ in range(5)])


@pytest.mark.thin(2)
@every_algorithm_with("kind", MODELS, gaussian=["learned temperature", "gSDE"])
def test_loaded_model_is_the_saved_one(algorithm: type, kind: str, tmp_path: pathlib.Path) -> None:
    model = trained(algorithm, kind)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=MODELS[kind][0](), device="cpu", trusted=kind == "schedules")
    assert_same_parameters(model, loaded)
    np.testing.assert_array_equal(predictions(model), predictions(loaded))
    for name in ("num_timesteps", "_n_updates", "_episode_num", "ent_coef", "target_entropy", "reward_scale", "tau"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.policy_kwargs == model.policy_kwargs
    # It learns as the original would: the same step from the same batch and random state
    loaded.replay_buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    for each in (model, loaded):
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        set_progress(0.5, each)
        each.set_logger(model.logger)
        each.train(2, 4)
    assert_same_parameters(model, loaded)
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.num_timesteps == model.num_timesteps + 10


@every_algorithm
def test_kinds_of_paths(algorithm: type, tmp_path: pathlib.Path) -> None:
    model = trained(algorithm)
    for path in (tmp_path / "a", str(tmp_path / "b"), tmp_path / "new" / "folder" / "c.zip", str(tmp_path / "d.v1")):
        model.save(path)
        assert_same_parameters(algorithm.load(path, device="cpu"), model)
    found = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert found == ["a.zip", "b.zip", "d.v1", "new/folder/c.zip"]
    memory = io.BytesIO()
    model.save(memory)
    memory.seek(0)
    assert_same_parameters(algorithm.load(memory, device="cpu"), model)
    with open(tmp_path / "file.zip", "wb") as file:
        model.save(file)
    with open(tmp_path / "file.zip", "rb") as file:
        assert_same_parameters(algorithm.load(file, device="cpu"), model)


@every_algorithm
def test_interrupted_save_leaves_the_old_file(
    algorithm: type, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(algorithm)
    model.save(tmp_path / "model.zip")
    content = (tmp_path / "model.zip").read_bytes()
    save, calls = th.save, []

    def fail_at_the_second(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(th, "save", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


@every_algorithm
def test_saved_model_holds_no_engine_and_no_environment(algorithm: type) -> None:
    memory = io.BytesIO()
    model = trained(algorithm)
    model.save(memory)
    data, params, _ = load_from_zip_file(memory)
    expected = {"policy", *(f"{name}.optimizer" for name in model.policy.learned_networks)}
    assert set(params) - {"temperature", "temperature.optimizer"} == expected
    private = {name for name in data if name.startswith("_")}
    machinery = ("engine", "metrics", "learner", "tracker", "rollout", "resumed", "planned")
    assert not [name for name in private if any(word in name for word in machinery)]
    assert not {"env", "replay_buffer", "actor", "critic", *model.tracked_networks.values()} & set(data)
    assert len(memory.getvalue()) < 300_000


@every_algorithm
def test_exclude_and_include(algorithm: type) -> None:
    memory = io.BytesIO()
    trained(algorithm).save(memory, exclude=["learning_starts"], include=["_custom_logger"])
    data, _, _ = load_from_zip_file(memory)
    assert "learning_starts" not in data
    assert "_custom_logger" in data


@every_algorithm
def test_model_can_be_pickled(algorithm: type) -> None:
    model = trained(algorithm)
    del model.env
    model.env = None
    copied = pickle.loads(pickle.dumps(model))
    assert_same_parameters(model, copied)
    np.testing.assert_array_equal(predictions(model), predictions(copied))
    copied.set_env(SpacesEnv())
    copied.learn(10, reset_num_timesteps=False)
    assert n_updates(copied) == n_updates(model) + 10


# ---------------------------------------------------------------- loading with changes


@every_algorithm
def test_changed_arguments(algorithm: type, tmp_path: pathlib.Path) -> None:
    model = trained(algorithm)
    model.save(tmp_path / "model")
    changes = {
        "learning_rate": 0.5,
        "qf_learning_rate": 0.25,
        "batch_size": 3,
        "tau": 0.9,
        "gamma": 0.5,
        "train_freq": 2,
        "gradient_steps": 4,
        "learning_starts": 7,
        "buffer_size": 33,
        "reward_scale": 2.0,
        "stats_window_size": 5,
        "tensorboard_log": None,
        "verbose": 0,
        "seed": 77,
    }
    loaded = algorithm.load(tmp_path / "model", env=SpacesEnv(), device="cpu", **changes)
    loaded.learn(16)
    assert n_updates(loaded) == n_updates(model) + 4 * 5
    assert loaded.replay_buffer.buffer_size == 33
    rates = {name: float(getattr(loaded, name).optimizer.param_groups[0]["lr"]) for name in loaded.updater.learners}
    assert rates == {name: 0.5 if name == "actor" else 0.25 for name in rates}
    assert {name: getattr(loaded, name) for name in ("tau", "gamma", "batch_size", "reward_scale", "seed")} == {
        name: changes[name] for name in ("tau", "gamma", "batch_size", "reward_scale", "seed")
    }
    assert loaded.ep_info_buffer.maxlen == 5


@every_algorithm
def test_another_fixed_temperature(algorithm: type, tmp_path: pathlib.Path) -> None:
    trained(algorithm, ent_coef=0.5).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", ent_coef=0.25)
    assert loaded.temperature.value.item() == 0.25


@every_gaussian_algorithm
def test_another_initial_temperature(algorithm: type, tmp_path: pathlib.Path) -> None:
    trained(algorithm, ent_coef="auto_0.5").save(tmp_path / "learned")
    with pytest.warns(UserWarning, match=r"ent_coef='auto_0\.1' has no effect on path=.*: leave it out.*log_ent_coef"):
        loaded = algorithm.load(tmp_path / "learned", ent_coef="auto_0.1")
    assert loaded.temperature.value.item() == pytest.approx(0.5, abs=0.05)  # what was learned counts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in ("auto", "auto_0.5"):
            algorithm.load(tmp_path / "learned", ent_coef=same)


@pytest.mark.parametrize("scalar", [np.float32, th.tensor])
@pytest.mark.parametrize(
    "values",
    [
        {"ent_coef": 0.25, "tau": 0.25, "gamma": 0.5, "learning_rate": 0.125, "reward_scale": 2.0},
        {"qf_learning_rate": 0.5, "ent_coef_learning_rate": 0.5, "target_entropy": -0.5},
    ],
)
def test_scalars_of_numpy_and_torch(values: dict[str, float], scalar: Callable[[float], Any], tmp_path: Any) -> None:
    model = make(SACv2, ent_coef=0.5 if "ent_coef" in values else "auto")
    model.save(tmp_path / "model")
    scalars = {name: scalar(value) for name, value in values.items()}
    for name, value in scalars.items():
        setattr(model, name, value)
    model.save(tmp_path / "set")
    SACv2.load(tmp_path / "model", **scalars).save(tmp_path / "changed")
    vars(model).update(scalars)  # as files of earlier versions have them
    model.save(tmp_path / "raw")
    for file in ("set", "changed", "raw"):
        loaded = SACv2.load(tmp_path / file, env=SpacesEnv())
        assert {name: getattr(loaded, name) for name in values} == values
        assert {type(getattr(loaded, name)) for name in values} == {float}
        loaded.learn(8)
    SACv2.load(tmp_path / "model", custom_objects=scalars)


@pytest.mark.parametrize("n_envs", [1, 3])
@every_algorithm
def test_other_number_of_environments(algorithm: type, n_envs: int, tmp_path: pathlib.Path) -> None:
    model = make(algorithm, make_vec_env(SpacesEnv, 2), gradient_steps=-1).learn(20)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=make_vec_env(SpacesEnv, n_envs), device="cpu")
    assert loaded.n_envs == n_envs
    loaded.learn(6 * n_envs, reset_num_timesteps=False)
    assert loaded.num_timesteps == 20 + 6 * n_envs
    with pytest.raises(AssertionError, match=f"different from the number of environments in the model: .{n_envs} != 2"):
        model.set_env(make_vec_env(SpacesEnv, n_envs))


@every_algorithm
def test_no_environment_is_needed_to_act(algorithm: type, tmp_path: pathlib.Path) -> None:
    model = trained(algorithm)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    assert loaded.env is None
    np.testing.assert_array_equal(predictions(model), predictions(loaded))
    assert loaded.replay_buffer.nbytes == 0
    loaded.set_env(SpacesEnv())
    loaded.learn(8)


@every_algorithm
def test_custom_objects(algorithm: type, tmp_path: pathlib.Path) -> None:
    trained(algorithm, learning_rate=lambda p: 1e-3 * p).save(tmp_path / "model")
    replaced = {"learning_rate": 0.5, "lr_schedule": lambda p: 0.5, "buffer_size": 9}
    loaded = algorithm.load(tmp_path / "model", custom_objects=replaced)
    assert (loaded.lr_schedule(1), loaded.buffer_size) == (0.5, 9)


@every_algorithm
def test_system_info(algorithm: type, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(algorithm).save(tmp_path / "model")
    algorithm.load(tmp_path / "model", print_system_info=True)
    output = capsys.readouterr().out
    assert "CURRENT SYSTEM INFO" in output
    assert "SAVED MODEL SYSTEM INFO" in output


@every_algorithm
def test_force_reset(algorithm: type, tmp_path: pathlib.Path) -> None:
    env = make_vec_env(SpacesEnv, 1)
    model = make(algorithm, env).learn(13)
    model.save(tmp_path / "model")
    assert last_observation(algorithm.load(tmp_path / "model", env=env)) is None
    goes_on = algorithm.load(tmp_path / "model", env=env, force_reset=False)
    np.testing.assert_array_equal(last_observation(goes_on), last_observation(model))
    goes_on.learn(4, reset_num_timesteps=False)
    assert env.get_attr("steps") == [7]


@every_algorithm
def test_action_noise_is_kept(algorithm: type, tmp_path: pathlib.Path) -> None:
    model = trained(algorithm, action_noise=NormalActionNoise(np.zeros(2), 0.3 * np.ones(2)))
    model.save(tmp_path / "model")
    assert repr(algorithm.load(tmp_path / "model").action_noise) == repr(model.action_noise)


# ---------------------------------------------------------------- parameters


@every_algorithm
def test_parameters_go_from_one_model_to_another(algorithm: type, tmp_path: pathlib.Path) -> None:
    one, other = trained(algorithm), trained(algorithm, seed=1)
    with pytest.raises(AssertionError):
        assert_same_parameters(one, other)
    other.set_parameters(one.get_parameters())
    assert_same_parameters(one, other)
    one.save(tmp_path / "model")
    third = trained(algorithm, seed=2)
    third.set_parameters(str(tmp_path / "model.zip"))
    assert_same_parameters(one, third)
    third.learn(5, reset_num_timesteps=False)
    with pytest.raises(AssertionError):
        assert_same_parameters(one, third)


@every_algorithm
def test_a_model_that_gave_its_parameters_away_keeps_them(algorithm: type) -> None:
    one, other = trained(algorithm), trained(algorithm, seed=1)
    other.set_parameters(one.get_parameters())
    before = flat_parameters(one)
    other.learn(5, reset_num_timesteps=False)
    changed = [name for name, tensor in flat_parameters(one).items() if not th.equal(tensor, before[name])]
    assert not changed


@every_algorithm
def test_some_parameters(algorithm: type) -> None:
    one, other = trained(algorithm), trained(algorithm, seed=1)
    parameters = one.get_parameters()
    before = flat_parameters(other)
    actor = {name: value for name, value in parameters["policy"].items() if name.startswith("actor.")}
    other.set_parameters({"policy": actor}, exact_match=False)
    for name, tensor in flat_parameters(other).items():
        source = flat_parameters(one) if name.startswith("/policy/actor.") else before
        assert th.equal(tensor, source[name]), name
    with pytest.raises(RuntimeError, match="Missing key"):
        other.set_parameters({**parameters, "policy": actor})


@every_algorithm
def test_parameters_are_those_of_the_networks(algorithm: type) -> None:
    """The networks of the model, of the policy and of the update are the same objects, after loading as before."""
    model = trained(algorithm)
    model.set_parameters(model.get_parameters())
    for name in (*model.policy.learned_networks, *model.tracked_networks.values()):
        assert getattr(model, name) is getattr(model.policy, name)
    for name, learner in model.updater.learners.items():
        assert learner.module is getattr(model, name)
    parameters = model.get_parameters()
    before = predictions(model)
    for name, value in parameters["policy"].items():
        if name.startswith("actor."):
            value.zero_()
    assert not np.array_equal(predictions(model), before)


def test_saved_file_is_a_zip_that_sb3_understands(tmp_path: pathlib.Path) -> None:
    trained(SACv1).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert {"data", "policy.pth", "actor.optimizer.pth", "_stable_baselines3_version"} <= set(archive.namelist())


def test_spaces_of_a_loaded_model() -> None:
    memory = io.BytesIO()
    model = SACv1("MlpPolicy", SpacesEnv(action_space=spaces.Box(-3, 2, (1,))), **TINY)
    model.save(memory)
    memory.seek(0)
    loaded = SACv1.load(memory)
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)


def test_two_who_write_to_one_path(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.zip"
    with written_whole(path) as one:
        one.write(b"one, ")
        with written_whole(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
        one.write(b"whole")
    assert path.read_bytes() == b"one, whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such modes")
def test_a_file_keeps_its_mode(tmp_path: pathlib.Path) -> None:
    model = make(SACv2)
    model.save(tmp_path / "model.zip")
    (tmp_path / "model.zip").chmod(0o600)
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real.zip").touch()
    (tmp_path / "link.zip").symlink_to("real.zip")
    make(SACv2).save(tmp_path / "link")
    assert (tmp_path / "link.zip").is_symlink()
    SACv2.load(tmp_path / "real")


def test_gsde_cannot_be_switched_by_loading(tmp_path: pathlib.Path) -> None:
    make(SACv2).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"use_sde=True does not go with .*use_sde=False"):
        SACv2.load(tmp_path / "model", use_sde=True)
    assert not SACv2.load(tmp_path / "model", use_sde=False).use_sde


def test_replay_for_other_n_steps_is_refused(tmp_path: pathlib.Path) -> None:
    for n_steps, other in ((1, 3), (3, 1)):
        model = make(SACv2, n_steps=n_steps)
        model.learn(20)
        model.save_replay_buffer(tmp_path / "replay")
        with pytest.raises(ValueError, match=rf"n_steps={n_steps}, not {other}"):
            make(SACv2, n_steps=other).load_replay_buffer(tmp_path / "replay")
        make(SACv2, n_steps=n_steps).load_replay_buffer(tmp_path / "replay")


class HasScalars(SACv2):
    """With attributes of its own."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.count, self.level = th.zeros(()), np.zeros(())


class LooksAtItsSpaces(SACv2):
    """Needs an environment, and has an object that SACv2 does not know."""

    made = 0

    def __init__(self, policy: Any, env: Any, *args: Any, **kwargs: Any):
        super().__init__(policy, env, *args, **kwargs)
        self.obs_dim, self.seen = self.observation_space.shape[0], {1, 2}
        type(self).made += 1


class TakesNames(SACv2):
    """Takes its arguments by name only, asks how many environments there are, and has a policy of another kind."""

    def __init__(self, *, policy: Any, env: Any, **kwargs: Any):
        super().__init__(policy, env, **kwargs)
        self.envs, self.seen = None if env is None else env.num_envs, {1}


class OwnPolicy(MaxEntPolicy):
    """Not derived from SACv2's."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.critic_target = target_copy(self.critic, self.make_critic)


class HasAPolicyOfItsOwn(SACv2):
    """Whose policy is none of SACv2's."""

    policy_aliases = {"MlpPolicy": OwnPolicy}  # noqa: RUF012


class LoadsWeights(NormalizingExtractor):
    """Reads a file in its constructor."""

    path: pathlib.Path

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.path.read_bytes()


def test_a_subclass_whose_constructor_needs_the_environment(tmp_path: pathlib.Path) -> None:
    make(LooksAtItsSpaces).save(tmp_path / "model.zip")
    loaded = LooksAtItsSpaces.load(tmp_path / "model.zip", env=SpacesEnv())
    assert (loaded.obs_dim, loaded.seen) == (3, {1, 2})
    with pytest.raises(AttributeError, match="observation_space"):  # its own error
        LooksAtItsSpaces.load(tmp_path / "model.zip")


def test_a_subclass_whose_constructor_takes_names_only(tmp_path: pathlib.Path) -> None:
    env = make_vec_env(SpacesEnv, 1)
    TakesNames(policy="MlpPolicy", env=env, device="cpu").save(tmp_path / "model.zip")
    assert TakesNames.load(tmp_path / "model.zip", env=SpacesEnv()).seen == {1}


def test_a_subclass_with_a_policy_of_its_own(tmp_path: pathlib.Path) -> None:
    model = make(HasAPolicyOfItsOwn).learn(12)
    model.save(tmp_path / "model.zip")
    assert_same_parameters(model, HasAPolicyOfItsOwn.load(tmp_path / "model.zip"))


def test_a_constructor_runs_once_where_nothing_asks_for_more(tmp_path: pathlib.Path) -> None:
    class Counts(SACv2):
        made = 0

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            type(self).made += 1

    make(Counts).save(tmp_path / "model.zip")
    Counts.load(tmp_path / "model.zip")
    assert Counts.made == 2


def test_errors_of_a_network_of_the_users_own_are_not_those_of_the_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    weights.touch()
    monkeypatch.setattr(LoadsWeights, "path", weights, raising=False)
    make(SACv2, policy_kwargs={"features_extractor_class": LoadsWeights}).save(tmp_path / "model.zip")
    SACv2.load(tmp_path / "model.zip")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="weights"):
        SACv2.load(tmp_path / "model.zip")


def test_a_subclass_with_a_network_of_its_own(tmp_path: pathlib.Path) -> None:
    class Mine(SACv2):
        def _setup_model(self) -> None:
            super()._setup_model()
            self.cost = th.nn.Linear(2, 1)

        def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
            states, variables = super()._get_torch_save_params()
            return [*states, "cost"], variables

    model = make(Mine)
    model.save(tmp_path / "model.zip")
    loaded = Mine.load(tmp_path / "model.zip")
    assert th.equal(loaded.cost.weight, model.cost.weight)
    with pytest.raises(ValueError, match=r"parameters of \['cost'\], not of \["):
        make(SACv2).set_parameters(model.get_parameters())
    other = make(SACv2)
    other.set_parameters({"actor": model.actor.state_dict()}, exact_match=False)  # a part, as in SB3
    assert th.equal(other.actor.mu.weight, model.actor.mu.weight)


@pytest.mark.parametrize("trusted", [False, True])
def test_parts_of_a_subclass_that_are_not_named_are_made_anew_with_a_warning(
    trusted: bool, tmp_path: pathlib.Path
) -> None:
    class Forgets(SACv2):
        def _setup_model(self) -> None:
            super()._setup_model()
            self.cost, self.scale = th.nn.Linear(2, 1), th.ones(1)
            self.optimizer = th.optim.SGD(self.cost.parameters(), 0.1)

    model = make(Forgets)
    model.scale += 1
    model.save(tmp_path / "model.zip")
    message = r"has \['\w+', '\w+', '\w+'\], which Forgets has made anew: .*_get_torch_save_params\(\)"
    with pytest.warns(UserWarning, match=message) as caught:
        loaded = Forgets.load(tmp_path / "model.zip", trusted=trusted)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert loaded.scale.item() == 1
    assert loaded.cost.weight.shape == (1, 2)
    assert loaded.optimizer.param_groups[0]["params"][0] is loaded.cost.weight


@pytest.mark.parametrize("optimizer_class", [th.optim.Adafactor, th.optim.NAdam, th.optim.ASGD])
def test_optimizers_of_torch_come_back(optimizer_class: type, tmp_path: pathlib.Path) -> None:
    make(SACv2, policy_kwargs={"optimizer_class": optimizer_class}).learn(20).save(tmp_path / "model.zip")
    assert type(SACv2.load(tmp_path / "model.zip").actor.optimizer) is optimizer_class


class OwnAdam(th.optim.NAdam):
    """An optimiser that is none of torch's."""


@pytest.mark.parametrize("part", ["actor", "critic", "temperature"])
def test_an_optimizer_that_was_replaced_comes_back_if_it_is_of_torch(part: str, tmp_path: pathlib.Path) -> None:
    model = make(SACv2, learning_rate=1e-2)

    def replace(optimizer_class: type) -> None:
        network = getattr(model, part)
        network.optimizer = optimizer_class(network.parameters(), lr=1e-2)
        model.learn(16)
        model.save(tmp_path / "model.zip")

    replace(th.optim.NAdam)
    loaded = SACv2.load(tmp_path / "model.zip", device="cpu")
    assert_same_parameters(model, loaded)
    optimizer = getattr(loaded, part).optimizer
    assert type(optimizer) is th.optim.NAdam
    assert (
        optimizer.state_dict()["state"].keys() == getattr(model, part).optimizer.state_dict()["state"].keys() != set()
    )
    with pytest.raises(ValueError, match=rf"{part}.optimizer is Adam, and the state is of .* without \['amsgrad'\]"):
        make(SACv2).set_parameters(model.get_parameters())
    with pytest.raises(ValueError, match=r"load_path_or_dict='.*model.zip' cannot be loaded: .*optimizer is Adam, and"):
        make(SACv2).set_parameters(tmp_path / "model.zip")
    replace(OwnAdam)
    with pytest.warns(UserWarning, match=rf"optimizer of the {part} was a .*OwnAdam, which is not torch's: .* anew"):
        loaded = SACv2.load(tmp_path / "model.zip", device="cpu")
    assert all(map(th.equal, loaded.policy.parameters(), model.policy.parameters()))
    assert type(getattr(loaded, part).optimizer) is th.optim.Adam
    make(SACv2).set_parameters({"policy": model.get_parameters()["policy"]}, exact_match=False)


def test_scalars_of_a_subclass_keep_their_kind(tmp_path: pathlib.Path) -> None:
    make(HasScalars).save(tmp_path / "model.zip")
    loaded = HasScalars.load(tmp_path / "model.zip", custom_objects={"level": np.ones(())})
    assert isinstance(loaded.count, th.Tensor)
    assert isinstance(loaded.level, np.ndarray)
    assert loaded.level == 1.0
