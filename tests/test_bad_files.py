"""Files that are damaged, foreign, or of another model are refused with the reason."""

import copy
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from helpers import ALGORITHMS, SpacesEnv, make, refused
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_sac_variants import SACv1, SACv2

# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.zip"
    make(SACv2).learn(8).save(path)
    return path


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path='.*nothing': there is no such file, with or without \.zip"):
        SACv2.load(tmp_path / "nothing")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_file(keep: float, saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(
        ValueError, match=r"path='.*cut\.zip' is damaged, or holds something else \(.*\): load another copy"
    ):
        SACv2.load(tmp_path / "cut.zip")


def test_flipped_bits(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        start = archive.getinfo("policy.pth").header_offset
    content[start + 500 : start + 600] = bytes(100)
    (tmp_path / "flipped.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"path='.*flipped\.zip' is damaged, .*content is not what was written\)"):
        SACv2.load(tmp_path / "flipped.zip")


@pytest.mark.parametrize("content", [{}, {"data": "no json"}, {"data": "[1, 2]"}, {"readme.txt": "hello"}], ids=str)
def test_foreign_zip(content: dict[str, str], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    with pytest.raises(ValueError, match=r"path='.*foreign\.zip' is damaged, or holds something else .*: load"):
        SACv2.load(tmp_path / "foreign.zip")


def test_what_is_no_zip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path='<BytesIO>' is damaged, .*: File is not a zip file\)"):
        SACv2.load(io.BytesIO(b"nothing that was ever saved"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_zip_of_another_algorithm(algorithm: type, tmp_path: Path) -> None:
    make(algorithm).save(tmp_path / "model")
    for other in ALGORITHMS:
        if other is not algorithm:
            message = (
                rf"path='.*model' holds a model of another algorithm \({algorithm.algorithm_id}\), not {other.__name__}"
            )
            with pytest.raises(ValueError, match=message + ": load it with the class it was saved with"):
                other.load(tmp_path / "model")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_zip_of_stable_baselines3(algorithm: type, tmp_path: Path) -> None:
    SAC("MlpPolicy", SpacesEnv(), buffer_size=10, policy_kwargs={"net_arch": [4]}).save(tmp_path / "sac")
    with pytest.raises(
        ValueError, match=r"another algorithm \(stable_baselines3\.sac.*take it over with SACv2\.from_sb3"
    ):
        algorithm.load(tmp_path / "sac")
    PPO("MlpPolicy", SpacesEnv(), device="cpu", policy_kwargs={"net_arch": [4]}).save(tmp_path / "ppo")
    with pytest.raises(
        ValueError, match=r"another algorithm \(stable_baselines3\..*\), not .*: load it with the class"
    ):
        algorithm.load(tmp_path / "ppo")


@pytest.mark.parametrize("name", ["bath_size", "lr_schedule"])
def test_unknown_arguments_of_load(name: str, saved: Path) -> None:
    with pytest.raises(TypeError, match=rf"SACv2\.load\(\) got unknown arguments \['{name}'\]: pass names of the algo"):
        SACv2.load(saved, **{name: 3})


@pytest.mark.parametrize(
    ("name", "env"),
    [("use_sde", None), ("ent_coef", None), ("action_space", None), ("n_envs", None), ("verbose", SpacesEnv())],
)
def test_model_saved_without_what_it_needs(name: str, env: Any, tmp_path: Path) -> None:
    make(SACv2).save(tmp_path / "model", exclude=[name])
    with pytest.raises(
        ValueError, match=rf"path='.*' was saved without \['{name}'\], .*: save it again, without exclude="
    ):
        SACv2.load(tmp_path / "model", env=env)


def test_parameters_of_other_networks_in_a_file(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)path_or_dict='.*' holds other networks .*Size\(\[16, 3\]\).*8, 3"):
        make(SACv2, net_arch=[8]).set_parameters(saved)


def test_unknown_custom_objects(saved: Path) -> None:
    with pytest.warns(UserWarning, match=r"SACv2\.load\(\) got custom_objects \['gama'\], .* have no effect"):
        SACv2.load(saved, custom_objects={"gama": 0.5})
    # The zoo's
    SACv2.load(saved, custom_objects={"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0})


def test_values_without_a_meaning_in_load(saved: Path) -> None:
    with refused(ValueError, "batch_size", 0, "pass an integer at least 1"):
        SACv2.load(saved, batch_size=0)
    with refused(ValueError, "verbose", -7, "pass an integer at least 0"):
        SACv2.load(saved, verbose=-7)
    assert SACv2.load(saved, verbose=3, learning_starts=1e1).learning_starts == 10
    with refused(TypeError, "replay_buffer_kwargs", 3, "pass a dictionary"):
        SACv2.load(saved, replay_buffer_kwargs=3)
    for load in (SACv2.load, SACv2.from_sb3, make(SACv2).set_parameters):
        with refused(ValueError, "device", "nope", "pass 'auto', 'cpu'"):
            load(saved, device="nope")
    with refused(ValueError, "n_envs", 3, "leave it out"):
        SACv2.load(saved, env=SpacesEnv(), n_envs=3)
    SACv2.load(saved, env=SpacesEnv(), n_envs=1, replay_buffer_kwargs=None)
    with pytest.raises(ValueError, match="policy kwargs do not equal the stored"):
        SACv2.load(saved, policy_kwargs={"net_arch": [8]})


def test_temperature_of_another_kind_in_load(saved: Path) -> None:
    with refused(ValueError, "ent_coef", 0.1, "saved with ent_coef='auto': make a new model"):
        SACv2.load(saved, ent_coef=0.1)


def test_environment_with_other_spaces_in_load(saved: Path) -> None:
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        SACv2.load(saved, env=SpacesEnv(spaces.Box(-1, 1, (7,))))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        SACv2.load(saved, env=SpacesEnv(action_space=spaces.Box(-2, 2, (2,))))


def test_saved_model_says_what_it_is(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert json.loads(archive.read("data"))["algorithm"] == "sac_v2"


@pytest.mark.parametrize("content", [b"", b"noise" * 20, "another object"], ids=["empty", "noise", "object"])
def test_damaged_replay_buffer(content: Any, tmp_path: Path) -> None:
    import pickle

    model = make(SACv1).learn(8)
    before = model.replay_buffer
    (tmp_path / "buffer.pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(
        ValueError, match=r"path='.*buffer\.pkl' is damaged, or holds something else \(.*\): load another"
    ):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert model.replay_buffer is before


@pytest.mark.parametrize("place", [-1, -40])
def test_a_replay_buffer_of_which_one_byte_has_changed(place: int, tmp_path: Path) -> None:
    """In the hash at its end, or in what is hashed."""
    model = make(SACv1).learn(8)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    content = bytearray((tmp_path / "buffer.pkl").read_bytes())
    content[place] ^= 1
    (tmp_path / "buffer.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"path='.*buffer\.pkl' is damaged, or holds something else"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")


def test_a_changed_number_in_a_replay_buffer(tmp_path: Path) -> None:
    model = make(SACv1).learn(8)
    rewards = model.replay_buffer.rewards[:8, 0].astype(np.float32)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    content = (tmp_path / "buffer.pkl").read_bytes()
    assert content.count(rewards[3].tobytes()) == 1
    (tmp_path / "buffer.pkl").write_bytes(content.replace(rewards[3].tobytes(), np.float32(7.0).tobytes()))
    with pytest.raises(ValueError, match=r"path='.*buffer\.pkl' is damaged, or holds something else"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")


def test_replay_buffer_of_other_environments(tmp_path: Path) -> None:
    model = make(SACv1).learn(8)
    for name, env in {
        "n_envs": make_vec_env(SpacesEnv, 2),
        "observation_space": SpacesEnv(spaces.Box(-1, 1, (5,))),
        "action_space": SpacesEnv(action_space=spaces.Box(-1, 1, (1,))),
    }.items():
        make(SACv1, env, gradient_steps=-1).learn(8).save_replay_buffer(tmp_path / "buffer.pkl")
        with pytest.raises(ValueError, match=rf"path='.*' holds a replay buffer with {name}=.*, not .*: load one of"):
            model.load_replay_buffer(tmp_path / "buffer.pkl")


def test_parameters_of_another_model() -> None:
    model = make(SACv1)
    with pytest.raises(ValueError, match=r"parameters of \['nothing'\], not of \[.*'policy'"):
        model.set_parameters({"nothing": {}})
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": model.get_parameters()["policy"]})
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.set_parameters(make(SACv1, net_arch=[8]).get_parameters())


def test_the_state_of_an_optimiser_of_other_networks(tmp_path: Path) -> None:
    small, big = make(SACv2, net_arch=[4]).learn(12), make(SACv2, net_arch=[64]).learn(12)
    name = "critic.optimizer"
    with pytest.raises(ValueError, match=r"the state of the critic's optimizer has shapes"):
        big.set_parameters({name: small.get_parameters()[name]}, exact_match=False)
    big.learn(12, reset_num_timesteps=False)  # steps with none


@pytest.mark.parametrize("damage", ["pos", "widths", "shape", "type"])
def test_replay_buffers_that_do_not_fit_themselves(damage: str, tmp_path: Path) -> None:
    model = make(SACv2).learn(12)
    buffer = copy.deepcopy(model.replay_buffer)
    storage = buffer._storage
    if damage == "pos":
        buffer.pos = 10**6
    elif damage == "widths":
        storage.widths = dict(reversed(storage.widths.items()))
    elif damage == "shape":
        storage.numbers = storage.numbers[:5]
    else:
        storage.numbers = storage.numbers.double()
    with open(tmp_path / "buffer.pkl", "wb") as file:
        pickle.dump(buffer, file)
    with pytest.raises(ValueError, match=r"path='.*' is damaged, or holds something else"):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
