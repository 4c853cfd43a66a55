"""Crafted files run nothing, whichever method loads them, of whichever algorithm."""

import base64
import dataclasses
import functools
import io
import json
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import agents
import cloudpickle
import helpers
import pytest
import torch as th
from crafted import NEEDS_TRUST, Code, crafted_checkpoint, nothing_runs, rewritten, with_attribute  # noqa: F401
from gymnasium import Wrapper
from helpers import SpacesEnv
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.persistence.checkpoint_folder import POINTER

ALGORITHMS = {"sac_v1": SACv1, "sac_v2": SACv2, "sql": SQL, "masac": MASAC}


def make_env(algorithm: type) -> Any:
    several = agents.several if algorithm is MASAC else helpers.several
    return VecNormalize(several(), norm_reward=algorithm is not MASAC)  # which has a reward for each agent


@dataclasses.dataclass
class Saved:
    """
    Files of an algorithm.

    :param algorithm: class
    :param folder: where they are
    """

    algorithm: Any
    folder: pathlib.Path

    def make(self) -> Any:
        """
        :return: a model like the saved one
        """
        return helpers.make(self.algorithm, make_env(self.algorithm))

    def load_checkpoint(self, path: pathlib.Path, **kwargs: Any) -> Any:
        """
        :param path: of a checkpoint
        :param kwargs: further arguments
        :return: the model
        """
        return self.algorithm.load_checkpoint(path, make_env(self.algorithm), "cpu", **kwargs)


@pytest.fixture(scope="module", params=ALGORITHMS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    files = Saved(ALGORITHMS[request.param], tmp_path_factory.mktemp(request.param))
    model = files.make().learn(12)
    model.save(files.folder / "model.zip")
    model.save_replay_buffer(files.folder / "buffer.pkl")
    model.save_checkpoint(files.folder / "run")
    return files


@pytest.fixture(params=["load", "from_sb3"])
def model_file(request: pytest.FixtureRequest, saved: Saved) -> tuple[pathlib.Path, Callable[[pathlib.Path], Any]]:
    """A saved model, and what loads it."""
    if request.param == "load":
        return saved.folder / "model.zip", functools.partial(saved.algorithm.load, device="cpu")
    if saved.algorithm is not SACv2:
        pytest.skip("SACv2 alone takes over models of Stable-Baselines3")
    path = saved.folder / "sac.zip"
    if not path.exists():
        SAC("MlpPolicy", SpacesEnv(), buffer_size=10, device="cpu", policy_kwargs={"net_arch": [4]}).save(path)
    return path, functools.partial(SACv2.from_sb3, device="cpu")


@pytest.mark.parametrize("attribute", ["learning_rate", "policy_kwargs", "_last_obs", "action_space", "policy_class"])
def test_code_in_an_attribute(attribute: str, model_file: Any, tmp_path: pathlib.Path) -> None:
    path, load = model_file
    crafted = with_attribute(path, tmp_path / "m.zip", attribute, Code())
    with pytest.raises(ValueError, match=NEEDS_TRUST) as error:
        load(crafted)
    assert attribute in str(error.value)
    assert "crafted.canary" in str(error.value)
    assert f"custom_objects={{{attribute!r}: ...}}" in str(error.value)  # the remedy


def test_plain_values_come_back_but_not_in_the_place_of_methods(tmp_path: pathlib.Path) -> None:
    model = helpers.make(SACv2)
    model.note = {"by": ["the user"]}
    model.save(tmp_path / "model.zip")
    assert SACv2.load(tmp_path / "model.zip", device="cpu").note == model.note
    vars(model)["predict"] = "shadow"
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"asks for a value in place of SACv2\.predict"):
        SACv2.load(tmp_path / "model.zip", device="cpu")


@pytest.mark.parametrize("activation", [functools.partial(nn.LeakyReLU, 0.2), functools.partial(nn.ELU, alpha=0.5)])
def test_an_activation_with_arguments_comes_back(activation: Any, tmp_path: pathlib.Path) -> None:
    model = helpers.make(SACv2, policy_kwargs={"activation_fn": activation})
    model.save(tmp_path / "model.zip")
    loaded = SACv2.load(tmp_path / "model.zip", device="cpu")
    found = loaded.policy_kwargs["activation_fn"]
    assert (found.func, found.args, found.keywords) == (activation.func, activation.args, activation.keywords)
    assert str(loaded.actor.latent_pi) == str(model.actor.latent_pi)


def test_tensors_of_a_subclass_need_trust(tmp_path: pathlib.Path) -> None:
    class Mine(SACv2):
        def _setup_model(self) -> None:
            super()._setup_model()
            self.own = th.zeros(3)

        def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
            states, variables = super()._get_torch_save_params()
            return states, [*variables, "own"]

    model = helpers.make(Mine)
    model.own += 1
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"asks for values of \['own'\]"):
        Mine.load(tmp_path / "model.zip", device="cpu")
    assert Mine.load(tmp_path / "model.zip", device="cpu", trusted=True).own.tolist() == [1, 1, 1]


def test_unknown_attributes_are_left_out(model_file: Any, tmp_path: pathlib.Path) -> None:
    path, load = model_file
    crafted = with_attribute(path, tmp_path / "m.zip", "predict", Code())
    with pytest.warns(UserWarning, match=r"does not know, which are left out: \['predict'\].*trusted=True"):
        model = load(crafted)
    assert "predict" not in vars(model)


@pytest.mark.parametrize("member", ["policy", "actor.optimizer", "pytorch_variables"])
def test_code_in_the_weights(member: str, model_file: Any, saved: Saved, tmp_path: pathlib.Path) -> None:
    path, load = model_file
    content = io.BytesIO()
    th.save({"weight": Code()}, content)
    crafted = rewritten(path, tmp_path / "m.zip", **{f"{member.replace('.', '__')}__pth": content.getvalue()})
    with pytest.raises(ValueError, match=r"path='.*' (is damaged|asks for)"):
        load(crafted)
    with pytest.raises(ValueError, match=r"load_path_or_dict='.*' (is damaged|holds parameters of)"):
        saved.make().set_parameters(crafted)


def test_environment_in_a_model(model_file: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, load = model_file
    (tmp_path / "module_with_an_env.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with zipfile.ZipFile(path) as archive:
        data = {**json.loads(archive.read("data")), "env": "module_with_an_env:Env-v0"}
    crafted = rewritten(path, tmp_path / "m.zip", data=json.dumps(data).encode())
    with pytest.raises(ValueError, match=r"path='.*' asks for an environment"):
        load(crafted)
    assert "module_with_an_env" not in sys.modules


def test_code_in_the_names_of_classes(saved: Saved, tmp_path: pathlib.Path) -> None:
    pickles = {"action_space": base64.b64encode(pickle.dumps(Code())).decode()}
    crafted = rewritten(saved.folder / "model.zip", tmp_path / "m.zip", by_name__json=json.dumps(pickles).encode())
    with pytest.raises(ValueError, match=NEEDS_TRUST):
        saved.algorithm.load(crafted)


def test_code_in_a_replay_buffer(saved: Saved, tmp_path: pathlib.Path) -> None:
    model = saved.make().learn(8)
    before = model.replay_buffer
    model.replay_buffer.infos = Code()
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.raises(ValueError, match=NEEDS_TRUST):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer is before


def crafted_run(saved: Saved, name: str, folder: pathlib.Path) -> pathlib.Path:
    """
    :param saved: files of an algorithm
    :param name: file of the checkpoint that is to hold code
    :param folder: where to write it
    :return: the checkpoint
    """
    content = pickle.dumps(Code())
    if name == "model.zip":
        content = with_attribute(saved.folder / name, folder.with_suffix(".zip"), "learning_rate", Code()).read_bytes()
    return crafted_checkpoint(saved.folder, folder, name, content)


@pytest.mark.parametrize("name", ["model.zip", "replay_buffer.pkl", "state.pkl"])
def test_code_in_a_checkpoint(name: str, saved: Saved, tmp_path: pathlib.Path) -> None:
    folder = crafted_run(saved, name, tmp_path / "run")
    with pytest.raises(ValueError, match=NEEDS_TRUST):
        saved.load_checkpoint(folder)


@pytest.mark.parametrize("layer", [0, 1], ids=["VecNormalize", "environments"])
def test_code_in_the_state_of_an_environment(layer: int, saved: Saved, tmp_path: pathlib.Path) -> None:
    version = json.loads((saved.folder / "run" / POINTER).read_text())["version"]
    state = pickle.loads((saved.folder / "run" / version / "state.pkl").read_bytes())
    names, _ = state["layers"][layer]
    state["layers"][layer] = (names, pickle.dumps([{"obs_rms": Code()}]))
    folder = crafted_checkpoint(saved.folder, tmp_path / "run", "state.pkl", cloudpickle.dumps(state))
    with pytest.raises(ValueError, match=NEEDS_TRUST):
        saved.load_checkpoint(folder)


def test_nothing_of_another_algorithms_checkpoint_is_opened(saved: Saved, tmp_path: pathlib.Path) -> None:
    folder = crafted_run(saved, "state.pkl", tmp_path / "run")
    other = next(algorithm for algorithm in ALGORITHMS.values() if algorithm is not saved.algorithm)
    with pytest.raises(ValueError, match=r"path='.*run' holds a checkpoint of another algorithm \(\w+\), not"):
        other.load_checkpoint(folder, make_env(other))


@pytest.mark.parametrize("name", ["model.zip", "state.pkl"])
def test_code_in_the_checkpoint_of_a_run_of_the_zoo(name: str, saved: Saved, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_sac_variants.zoo import register
    from sb3_sac_variants.zoo.resume import CHECKPOINT, resume

    register()
    env_id = "SimpleSpread-v3" if saved.algorithm is MASAC else "Pendulum-v1"
    if saved.algorithm is MASAC:
        pytest.importorskip("mpe2")
    run = tmp_path / env_id
    run.mkdir()
    arguments = {"env": env_id, "algo": saved.algorithm.algorithm_id, "device": "cpu", "log_folder": str(tmp_path)}
    (run / "args.yml").write_text(json.dumps(arguments))
    (run / "config.yml").write_text(json.dumps({"n_timesteps": 10, "policy": "MlpPolicy"}))
    crafted_run(saved, name, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=NEEDS_TRUST):
        resume(tmp_path)


# ---------------------------------------------------------------- classes of a script


class ScriptExtractor(FlattenExtractor):
    """Defined in the caller's script."""


class ScriptWrapper(Wrapper):
    """Defined in the caller's script, with a state."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        return super().step(action)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a script that defines these classes."""
    module = sys.modules["__main__"]
    for cls in (ScriptExtractor, ScriptWrapper):
        monkeypatch.setattr(cls, "__module__", "__main__")
        monkeypatch.setattr(module, cls.__name__, cls, raising=False)
    return module


@pytest.mark.parametrize("name", ALGORITHMS)
def test_classes_of_the_script_need_no_trust(
    name: str, script: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm: Any = ALGORITHMS[name]

    def env() -> ScriptWrapper:
        return ScriptWrapper(agents.AgentsEnv() if algorithm is MASAC else SpacesEnv())

    kwargs = {} if algorithm is MASAC else {"features_extractor_class": ScriptExtractor}
    activation = type("ScriptActivation", (th.nn.ReLU,), {"__module__": "__main__"})
    monkeypatch.setattr(script, "ScriptActivation", activation, raising=False)
    model = helpers.make(algorithm, env(), policy_kwargs={**kwargs, "activation_fn": activation}).learn(12)
    model.save(tmp_path / "model")
    model.save_checkpoint(tmp_path / "run")
    in_memory = io.BytesIO()
    model.save(in_memory)
    for source in (tmp_path / "model", in_memory):
        loaded = algorithm.load(source, device="cpu")
        helpers.assert_same_parameters(loaded, model)
        assert loaded.policy_kwargs["activation_fn"] is activation
    resumed_env = env()
    algorithm.load_checkpoint(tmp_path / "run", resumed_env, "cpu")
    assert resumed_env.steps == 12
    monkeypatch.delattr(script, "ScriptActivation")
    with pytest.raises(ValueError, match=r"asks for __main__\.ScriptActivation for 'policy_kwargs'.* in your script"):
        algorithm.load(tmp_path / "model")
    trusted = algorithm.load(tmp_path / "model", device="cpu", trusted=True)  # from the code in the file
    assert trusted.policy_kwargs["activation_fn"].__name__ == "ScriptActivation"
