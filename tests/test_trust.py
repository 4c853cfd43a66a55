"""No loader runs code of whoever wrote a file; what is damaged gives one kind of error, which names the file."""

import argparse
import io
import json
import os
import pathlib
import pickle
import shutil
import sys
import zipfile
from typing import Any

import cloudpickle
import pytest
import torch as th
from crafted import CALLS, Code, crafted_checkpoint, nothing_runs, rewritten, with_attribute  # noqa: F401
from helpers import SpacesEnv, assert_same_parameters, every_algorithm, make, several
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_sac_variants import SACv1, SACv2
from sb3_sac_variants.common.persistence import env_state
from sb3_sac_variants.common.persistence.checkpoint_folder import MARK, POINTER


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("saved")
    model = make(SACv2, VecNormalize(several())).learn(12)
    model.save(folder / "model.zip")
    model.save_replay_buffer(folder / "buffer.pkl")
    model.save_checkpoint(folder / "run")
    SAC("MlpPolicy", SpacesEnv(), buffer_size=10, device="cpu", policy_kwargs={"net_arch": [4]}).save(
        folder / "sac.zip"
    )
    return folder


def load(path: pathlib.Path, **kwargs: Any) -> Any:
    return SACv2.load(path, device="cpu", **kwargs)


def from_sb3(path: pathlib.Path, **kwargs: Any) -> Any:
    return SACv2.from_sb3(path, device="cpu", **kwargs)


# ---------------------------------------------------------------- crafted files


@pytest.mark.parametrize(
    ("key", "value"),
    [("features_extractor_class", nn.Linear), ("optimizer_class", nn.ReLU), ("activation_fn", th.optim.Adam)],
)
def test_class_of_a_wrong_kind(key: str, value: Any, saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    crafted = with_attribute(saved / "model.zip", tmp_path / "m.zip", "policy_kwargs", {"net_arch": [16], key: value})
    with pytest.raises(ValueError, match=rf"asks for <class .*> as {key}"):
        load(crafted)


@pytest.mark.parametrize("member", ["pytorch_variables__pth", "tensors__pth"])
def test_tensors_for_other_attributes(member: str, saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = io.BytesIO()
    th.save({"policy.__class__": th.ones(1)}, content)
    crafted = rewritten(saved / "model.zip", tmp_path / "m.zip", **{member: content.getvalue()})
    with pytest.raises(ValueError, match=r"path='.*' asks for values of \['policy.__class__'\]"):
        load(crafted)


def test_parameters_of_other_parts(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = io.BytesIO()
    th.save({}, content)
    crafted = rewritten(saved / "model.zip", tmp_path / "m.zip", env__pth=content.getvalue())
    with pytest.raises(ValueError, match=r"load_path_or_dict='.*' holds parameters of .*'env'.*, not of"):
        make(SACv2).set_parameters(crafted)


@pytest.mark.parametrize("position", [-1, 625, 2.0])
def test_random_state_beyond_its_table(position: Any, saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    version = json.loads((saved / "run" / POINTER).read_text())["version"]
    state = pickle.loads((saved / "run" / version / "state.pkl").read_bytes())
    name, key, _, *rest = state["random"]["numpy"]
    state["random"]["numpy"] = (name, key, position, *rest)
    folder = crafted_checkpoint(saved, tmp_path / "run", "state.pkl", cloudpickle.dumps(state))
    with pytest.raises(ValueError, match=r"path='.*state\.pkl' asks for arguments that do not fit numpy\.random"):
        SACv2.load_checkpoint(folder, VecNormalize(several()))


@pytest.mark.parametrize("version", ["../elsewhere", "/etc", "version-12-00000000/../..", ".", "", 3, None])
def test_pointer_out_of_the_folder(version: Any, saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = crafted_checkpoint(saved, tmp_path / "run", "", None)
    pointer = json.loads((folder / POINTER).read_text())
    shutil.copytree(folder / pointer["version"], tmp_path / "elsewhere")
    (folder / POINTER).write_text(json.dumps({**pointer, "version": version}))
    with pytest.raises(ValueError, match=r"path='.*run' has a damaged checkpoint\.json"):
        SACv2.load_checkpoint(folder, VecNormalize(several()))


@pytest.mark.parametrize("missing", [("files",), ("format",), ("files", "format")])
def test_pointer_without_hashes(missing: tuple[str, ...], saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = crafted_checkpoint(saved, tmp_path / "run", "", None)
    pointer = json.loads((folder / POINTER).read_text())
    with (folder / pointer["version"] / "state.pkl").open("ab") as file:
        file.write(b"0")
    (folder / POINTER).write_text(json.dumps({key: value for key, value in pointer.items() if key not in missing}))
    with pytest.raises(ValueError, match=r"path='.*run' has a damaged checkpoint\.json"):
        SACv2.load_checkpoint(folder, VecNormalize(several()))


@pytest.mark.parametrize("what", ["version", "model.zip"])
def test_links_in_a_checkpoint(what: str, saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = crafted_checkpoint(saved, tmp_path / "run", "", None)
    version = folder / json.loads((folder / POINTER).read_text())["version"]
    path = version if what == "version" else version / what
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"path='.*run' is damaged \(.* is a link\)"):
        SACv2.load_checkpoint(folder, VecNormalize(several()))


def test_other_file_in_a_checkpoint(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = crafted_checkpoint(saved, tmp_path / "run", "", None)
    (file,) = folder.rglob("model.zip")
    make(SACv2, VecNormalize(several())).learn(8).save(file)
    with pytest.raises(ValueError, match=r"path='.*run' is damaged \(the content of .*model\.zip is not what was"):
        SACv2.load_checkpoint(folder, VecNormalize(several()))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("args", "gym_packages", ["module_of_a_stranger"]),
        ("args", "trained_agent", "run/model.zip"),
        ("args", "track", True),
        ("config", "policy_kwargs", "canary() or {}"),
        ("config", "policy_kwargs", "dict(activation_fn=os.getcwd)"),
        ("config", "policy_kwargs", "dict(net_arch=[n for n in [4]])"),
        ("config", "normalize", "print()"),
        ("config", "monitor_kwargs", "(lambda: {})()"),
        ("config", "env_wrapper", "module_of_a_stranger.Wrapper"),
        ("config", "vec_env_wrapper", [{"stable_baselines3.common.vec_env.subproc_vec_env.CloudpickleWrapper": {}}]),
        ("config", "callback", [{"subprocess.Popen": {"args": "true"}}]),
        ("config", "policy", "os.system"),
    ],
)
def test_code_in_a_run_of_the_zoo(file: str, key: str, value: Any, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_sac_variants.zoo import register
    from sb3_sac_variants.zoo.resume import resume

    register()
    run = tmp_path / "Pendulum-v1"
    run.mkdir()
    contents = {
        "args": {"env": "Pendulum-v1", "algo": "sac_v2", "device": "cpu", "log_folder": str(tmp_path)},
        "config": {"n_timesteps": 10, "policy": "MlpPolicy"},
    }
    contents[file][key] = value
    for name, content in contents.items():
        (run / f"{name}.yml").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=rf"{file}\.yml' asks for .*, which may run code: .*set SB3_SAC_VARIANTS_TRUSTED=1"
    ) as refusal:
        resume(tmp_path)
    modules = "gym_packages", "env_wrapper", "vec_env_wrapper", "callback", "policy"
    assert ("(--import)" in str(refusal.value)) == (key in modules)


def test_statistics_beside_a_run_of_the_zoo(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_sac_variants.zoo import register
    from sb3_sac_variants.zoo.resume import resume

    register()
    (tmp_path / "Pendulum-v1").mkdir()
    monkeypatch.chdir(tmp_path)
    pathlib.Path("Pendulum-v1/args.yml").write_text("{env: Pendulum-v1, algo: sac_v2, device: cpu, log_folder: .}")
    pathlib.Path("Pendulum-v1/config.yml").write_text("{n_timesteps: 10, policy: MlpPolicy, normalize: true}")
    pathlib.Path("Pendulum-v1/vecnormalize.pkl").write_bytes(pickle.dumps(Code()))
    monkeypatch.setattr(sys, "argv", ["resume"])
    resume(pathlib.Path())  # statistics of its own, not these
    assert pathlib.Path("Pendulum-v1.zip").exists()


# ---------------------------------------------------------------- what is ordinary, and what is trusted


class Extractor(FlattenExtractor):
    """Of the caller's own, imported."""


@every_algorithm
def test_ordinary_models_need_no_trust(algorithm: type, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("rl_zoo3.utils")
    from rl_zoo3.utils import SimpleLinearSchedule

    policy_kwargs = {
        "features_extractor_class": Extractor,
        "activation_fn": nn.ELU,
        "optimizer_class": th.optim.RMSprop,
    }
    for learning_rate in (SimpleLinearSchedule(1e-3), LinearSchedule(1e-3, 1e-4, 0.5)):
        model = make(algorithm, learning_rate=learning_rate, policy_kwargs=policy_kwargs).learn(8)
        model.save(tmp_path / "model")
        loaded = algorithm.load(tmp_path / "model", SpacesEnv(), device="cpu")
        assert_same_parameters(loaded, model)
        assert loaded.lr_schedule(0.7) == model.lr_schedule(0.7)
        assert loaded.policy.actor.features_extractor.__class__ is Extractor


@pytest.mark.parametrize("how", ["argument", "variable", "custom_objects"])
def test_lambda_as_schedule(how: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(SACv2, learning_rate=lambda left: 1e-3 * left).learn(8)
    model.save(tmp_path / "model")
    message = (
        r"the code of a function or class \(a lambda, say\) for 'learning_rate' \(or pass custom_objects=\{'learning"
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")
    if how == "argument":
        assert load(tmp_path / "model", trusted=True).lr_schedule(0.5) == 5e-4
    elif how == "variable":
        monkeypatch.setenv("SB3_SAC_VARIANTS_TRUSTED", "1")
        assert load(tmp_path / "model").lr_schedule(0.5) == 5e-4
    else:
        assert load(tmp_path / "model", custom_objects={"learning_rate": 0.1}).lr_schedule(0.5) == 0.1
    model.save_checkpoint(tmp_path / "run")
    trusted = how != "custom_objects"
    if trusted:
        SACv2.load_checkpoint(tmp_path / "run", SpacesEnv(), "cpu", trusted=True)


class WithWeather(SpacesEnv):
    """Holds an object of a class that neither it nor a file may bring along."""

    weather: Any = None

    def step(self, action: Any) -> Any:
        self.weather = argparse.Namespace(wind=self.steps)
        return super().step(action)


def test_environment_of_a_callback_that_needs_trust(tmp_path: pathlib.Path) -> None:
    def evaluation() -> EvalCallback:
        return EvalCallback(DummyVecEnv([lambda: Monitor(WithWeather())]), eval_freq=5, n_eval_episodes=1, verbose=0)

    model = make(SACv2).learn(8, callback=evaluation())
    model.save_checkpoint(tmp_path)
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu")
    message = r"path='.*state\.pkl' asks for argparse.Namespace.* trusted=True to load_checkpoint\(\)"
    with pytest.raises(ValueError, match=message):
        resumed.learn(1, callback=evaluation(), reset_num_timesteps=False)
    trusting = SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu", trusted=True)
    callback = evaluation()
    trusting.learn(1, callback=callback, reset_num_timesteps=False)
    assert callback.eval_env.envs[0].unwrapped.weather.wind == 9
    wrapped = EvalCallback(VecNormalize(DummyVecEnv([lambda: Monitor(WithWeather())])), verbose=0)
    trusting = SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu", trusted=True)
    with pytest.raises(ValueError, match="eval_env of EvalCallback is not built as in the interrupted run: build it"):
        trusting.learn(1, callback=wrapped, reset_num_timesteps=False)


def test_trusted_files_may_have_code(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    crafted = with_attribute(saved / "model.zip", tmp_path / "m.zip", "_last_obs", Code())
    load(crafted, trusted=True)
    assert CALLS


def test_temperature_among_custom_objects(saved: pathlib.Path) -> None:
    for value, match in ((0.1, "make a new model"), ("often", "ent_coef='often'")):
        with pytest.raises(ValueError, match=match):
            load(saved / "model.zip", custom_objects={"ent_coef": value})


# ---------------------------------------------------------------- words


def test_what_is_no_path() -> None:
    with pytest.raises(TypeError, match="path=None is neither a path nor a file open for reading"):
        SACv2.load(None)
    with pytest.raises(TypeError, match="exclude='gamma' must be several names"):
        make(SACv2).save("model", exclude="gamma")
    model = io.BytesIO()
    make(SACv2).save(model)
    with pytest.raises(TypeError, match=r"custom_objects=\[\] must be a dictionary"):
        SACv2.load(model, custom_objects=[])


def test_folder_beside_the_file(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "Pendulum-v1").mkdir()
    with pytest.raises(FileNotFoundError, match=r"path='.*Pendulum-v1' is a folder"):
        load(tmp_path / "Pendulum-v1")
    shutil.copy(saved / "model.zip", tmp_path / "Pendulum-v1.zip")
    assert load(tmp_path / "Pendulum-v1").num_timesteps == 12


# ---------------------------------------------------------------- writing


def test_interrupted_saving_of_a_replay_buffer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(SACv1).learn(8)
    model.save_replay_buffer(tmp_path / "buffer")
    before = (tmp_path / "buffer.pkl").read_bytes()
    model.learn(4)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            model.save_replay_buffer(tmp_path / "buffer")
    assert (tmp_path / "buffer.pkl").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["buffer.pkl"]


def test_folders_of_the_user_stay(tmp_path: pathlib.Path) -> None:
    for name in ("version-1", "version-12-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.zip").write_text("mine")
    model = make(SACv2).learn(8)
    model.save_checkpoint(tmp_path)
    first = tmp_path / json.loads((tmp_path / POINTER).read_text())["version"]
    (first / "notes.txt").write_text("mine")
    for _ in range(2):
        model.learn(4, reset_num_timesteps=False).save_checkpoint(tmp_path)
    for name in ("version-1", "version-12-0123abcd"):
        assert (tmp_path / name / "model.zip").read_text() == "mine"
    assert (first / "notes.txt").read_text() == "mine"
    assert not (first / "model.zip").exists()
    assert len([folder for folder in tmp_path.glob("version-*") if (folder / "model.zip").exists()]) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 3}', b"\xff\xfe"])
def test_damaged_pointer_does_not_prevent_saving(content: bytes, tmp_path: pathlib.Path) -> None:
    model = make(SACv2).learn(8)
    model.save_checkpoint(tmp_path)
    (tmp_path / POINTER).write_bytes(content)
    with pytest.raises(ValueError, match=r"path='.*' has a damaged checkpoint\.json"):
        SACv2.load_checkpoint(tmp_path, SpacesEnv())
    model.save_checkpoint(tmp_path)
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu").num_timesteps == 8


def test_second_writer_is_refused(tmp_path: pathlib.Path) -> None:
    model, other = make(SACv2).learn(8), make(SACv2).learn(9)
    refused = []

    class WithOther(SpacesEnv):
        def __getstate__(self) -> dict[str, Any]:
            with pytest.raises(RuntimeError, match=r"path='.*' is being written by another run: give each"):
                other.save_checkpoint(tmp_path)
            refused.append(True)
            return {}

    model = make(SACv2, WithOther()).learn(8)
    model.save_checkpoint(tmp_path)
    assert refused
    other.save_checkpoint(tmp_path)
    assert SACv2.load_checkpoint(tmp_path, SpacesEnv(), "cpu").num_timesteps == 9


def test_version_that_is_read_stays(tmp_path: pathlib.Path) -> None:
    model, writer = make(SACv2).learn(8), make(SACv2).learn(12)
    model.save_checkpoint(tmp_path)

    class Slow(SACv2):
        def load_replay_buffer(self, *args: Any, **kwargs: Any) -> None:
            for _ in range(2):
                writer.save_checkpoint(tmp_path)
            super().load_replay_buffer(*args, **kwargs)

    loaded = Slow.load_checkpoint(tmp_path, SpacesEnv(), "cpu")
    assert (loaded.num_timesteps, loaded.replay_buffer.size()) == (8, 8)
    writer.save_checkpoint(tmp_path)
    assert len(list(tmp_path.glob(f"*/{MARK}"))) == 1


@pytest.mark.parametrize("policy_class", [BasePolicy, SACPolicy])
def test_a_policy_that_is_none_of_the_algorithm(policy_class: type, tmp_path: pathlib.Path) -> None:
    model = make(SACv2)
    model.policy_class = policy_class
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"path='.*model.zip' is damaged.*is no subclass of SACv2Policy"):
        SACv2.load(tmp_path / "model.zip")


@pytest.mark.parametrize("verbose", [None, "loud", {}])
def test_a_file_with_a_verbosity_that_is_no_number(verbose: Any, tmp_path: pathlib.Path) -> None:
    SAC("MlpPolicy", SpacesEnv(), device="cpu", buffer_size=10).save(tmp_path / "sac.zip")
    with zipfile.ZipFile(tmp_path / "sac.zip") as archive:
        data = json.loads(archive.read("data"))
    del data["verbose"]
    data |= {} if verbose is None else {"verbose": verbose}
    crafted = rewritten(tmp_path / "sac.zip", tmp_path / "m.zip", data=json.dumps(data).encode())
    with pytest.raises(ValueError, match="verbose"):
        SACv2.from_sb3(crafted, env=SpacesEnv(), device="cpu")


@pytest.mark.parametrize("name", ["env", "policy.optimizer_class", "replay_buffer"])
def test_parameters_of_what_is_no_network(name: str, tmp_path: pathlib.Path) -> None:
    make(SACv2).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        content = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "crafted.zip", "w") as archive:
        for entry, data in {**content, f"{name}.pth": content["policy.pth"]}.items():
            archive.writestr(entry, data)
    with pytest.raises(ValueError, match=rf"crafted.*parameters of \['{name}'\]"):
        SACv2.load(tmp_path / "crafted")


@pytest.mark.parametrize(
    "call",
    [
        b"_new\ncstable_baselines3.common.running_mean_std\nRunningMeanStd\n\x85R.",
        b"_update\nK\x00Q}X\x05\x00\x00\x00resetK\x03s\x86R.",
        b"_update\ncstable_baselines3.common.running_mean_std\nRunningMeanStd\n)\x81}\x86R.",
    ],
    ids=["new class", "environment of the caller", "object of another class"],
)
def test_a_state_makes_and_changes_only_what_an_environment_holds(call: bytes) -> None:
    groups = env_state.layers(DummyVecEnv([SpacesEnv]))
    everything = [layer for group in groups for layer in group]
    before = [dict(vars(layer)) for layer in everything]
    with pytest.raises(pickle.UnpicklingError, match=r"(an object|the state) of "):
        env_state.set_state(groups[-1], everything, b"\x80\x02c" + env_state.__name__.encode() + b"\n" + call)
    assert [dict(vars(layer)) for layer in everything] == before


@pytest.mark.parametrize("name", ["reset", "step", "spec"])
def test_a_state_hides_no_method_of_an_environment(name: str) -> None:
    env = DummyVecEnv([SpacesEnv])
    groups = env_state.layers(env)
    everything = [layer for group in groups for layer in group]
    vars(everything[-1])[name] = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env_state, "_NOT_STATE", ())
        state = env_state.get_state(groups[-1], everything)
    del vars(everything[-1])[name]
    with pytest.raises(pickle.UnpicklingError, match=name):
        env_state.set_state(groups[-1], everything, state)
