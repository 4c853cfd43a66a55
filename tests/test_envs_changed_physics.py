"""MuJoCo environments with changed physics: what changes, by how much, and what stays."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sb3_sac_variants.envs import ChangedPhysics

pytest.importorskip("mujoco", reason="needs the extra 'mujoco'")
FIELDS = {
    "mass": {"body_mass", "body_inertia"},
    "friction": {"geom_friction"},
    "gear": {"actuator_gear"},
    "damping": {"dof_damping"},
}
#: What MuJoCo derives from the masses
DERIVED = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0")


@pytest.fixture(params=["HalfCheetah-v5", "Hopper-v5"])
def env(request: pytest.FixtureRequest) -> gym.Env:
    return gym.make(request.param)


def test_closing_closes_the_environment(env: gym.Env, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(env.unwrapped, "close", lambda: closed.append(1))
    ChangedPhysics(env, mass=1.5).close()
    assert closed == [1]


def model_of(env: gym.Env) -> Any:
    return env.unwrapped.model  # type: ignore[attr-defined]


def fields_of(env: gym.Env) -> dict[str, np.ndarray]:
    names = {*set.union(*FIELDS.values()), *DERIVED}
    return {name: getattr(model_of(env), name).copy() for name in names}


def returns(env: gym.Env, steps: int = 50) -> float:
    env.reset(seed=0)
    env.action_space.seed(0)
    return sum(float(env.step(env.action_space.sample())[1]) for _ in range(steps))


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_one_property_changes_and_the_others_stay(env: gym.Env, name: str, factor: float) -> None:
    nominal, before = fields_of(env), returns(env)
    changed = ChangedPhysics(env, **{name: factor})
    for field, values in fields_of(changed).items():
        if field in FIELDS[name]:
            np.testing.assert_allclose(values, factor * nominal[field], rtol=1e-12)
        elif field not in DERIVED:
            np.testing.assert_array_equal(values, nominal[field])
    assert returns(changed) != before


def test_what_mujoco_derives_from_the_masses_follows_them(env: gym.Env) -> None:
    nominal = fields_of(env)
    values = fields_of(ChangedPhysics(env, mass=2.0))
    np.testing.assert_allclose(values["body_subtreemass"], 2.0 * nominal["body_subtreemass"])
    assert (values["body_invweight0"][1:] < nominal["body_invweight0"][1:]).all()
    assert (values["dof_M0"] > nominal["dof_M0"]).all()


def test_factors_of_one_change_nothing(env: gym.Env) -> None:
    before = returns(env)
    assert returns(ChangedPhysics(env)) == before


def test_nominal_values_come_back_bit_for_bit(env: gym.Env) -> None:
    nominal, before = fields_of(env), returns(env)
    changed = ChangedPhysics(env, mass=0.7, friction=1.6, gear=1.3, damping=0.3)
    assert returns(changed) != before
    changed.close()
    for field, values in nominal.items():
        np.testing.assert_array_equal(fields_of(env)[field], values, err_msg=field)
    assert returns(env) == before


def test_the_state_of_an_episode_stays(env: gym.Env) -> None:
    env.reset(seed=1)
    data = env.unwrapped.data  # type: ignore[attr-defined]
    before = data.qpos.copy(), data.qvel.copy()
    ChangedPhysics(env, mass=1.5)
    np.testing.assert_array_equal(data.qpos, before[0])
    np.testing.assert_array_equal(data.qvel, before[1])


def test_it_is_in_the_spec_so_that_the_environment_can_be_made_again(env: gym.Env) -> None:
    changed = ChangedPhysics(env, mass=1.5)
    again = gym.make(changed.spec)
    np.testing.assert_array_equal(model_of(again).body_mass, model_of(changed).body_mass)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_are_changed_as_well(env: gym.Env, duplicate: Callable[[gym.Env], gym.Env]) -> None:
    """Gymnasium makes the environment inside anew."""
    nominal = model_of(env).body_mass.copy()
    changed = ChangedPhysics(ChangedPhysics(env, mass=1.5), mass=2.0, gear=0.5)
    twin = duplicate(changed)
    assert model_of(twin) is not model_of(changed)
    for field, values in fields_of(changed).items():
        np.testing.assert_array_equal(fields_of(twin)[field], values, err_msg=field)
    assert returns(twin) == returns(changed)
    twin.close()
    np.testing.assert_array_equal(model_of(twin).body_mass, nominal)
    np.testing.assert_allclose(model_of(changed).body_mass, 3.0 * nominal)


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), float("inf"), "2", True])
def test_wrong_factors_are_refused(env: gym.Env, factor: Any) -> None:
    with pytest.raises(ValueError, match="gear="):
        ChangedPhysics(env, gear=factor)


def test_other_environments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"MuJoCo environment.*Pendulum"):
        ChangedPhysics(gym.make("Pendulum-v1"))
