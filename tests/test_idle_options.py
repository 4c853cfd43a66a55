"""Options that have no effect beside others: ignored with a warning, never silently."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from agents import AgentsEnv
from gymnasium import spaces
from helpers import ALGORITHMS, SpacesEnv, make
from stable_baselines3 import SAC

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2

MESSAGE = r"target_entropy=0\.1 has no effect on the fixed ent_coef=0\.03: leave it out, or pass 'auto'"

#: each algorithm on both kinds of action
CASES = [
    *(
        (algorithm, lambda actions=actions: SpacesEnv(action_space=actions))
        for algorithm in ALGORITHMS
        for actions in (spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(3))
    ),
    *((MASAC, lambda n=n: AgentsEnv(n_actions=n)) for n in (None, 3)),
]


@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_a_target_for_a_fixed_temperature_is_warned_of(algorithm: Any, env: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=MESSAGE) as caught:
        model = make(algorithm, env(), ent_coef=0.03, target_entropy=0.1)
    assert len(caught) == 1
    assert model.ent_coef == 0.03
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whoever loads it has been told
        algorithm.load(tmp_path / "model")
    with pytest.warns(UserWarning, match=MESSAGE):
        algorithm.load(tmp_path / "model", target_entropy=0.1)


def test_a_loss_of_a_fixed_temperature_is_warned_of() -> None:
    message = r"ent_coef_loss='log_alpha' has no effect on the fixed ent_coef=0\.03: leave it out$"
    with pytest.warns(UserWarning, match=message) as caught:
        make(SACv2, ent_coef=0.03, ent_coef_loss="log_alpha")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SACv2.from_sb3(SAC("MlpPolicy", SpacesEnv(), buffer_size=10, ent_coef=0.03, device="cpu"))


@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_no_warning_without_a_cause(algorithm: Any, env: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(algorithm, env(), ent_coef=0.03)
        make(algorithm, env(), ent_coef=0.03, target_entropy="auto")
        make(algorithm, env())


@pytest.mark.parametrize("algorithm", [SACv1, SACv2, SQL])
def test_a_single_discrete_action_has_an_entropy_to_aim_at(algorithm: Any, tmp_path: Path) -> None:
    model = make(algorithm, SpacesEnv(action_space=spaces.Discrete(1)), ent_coef="auto")
    model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model").target_entropy == model.target_entropy == 0


@pytest.mark.parametrize("name", ["log_std_init", "use_expln", "clip_mean", "use_sde"])
def test_what_of_the_policys_arguments_is_for_gsde_is_warned_of_without_it(name: str) -> None:
    value = {"log_std_init": -1.0, "clip_mean": 0.5}.get(name, True)
    with pytest.warns(UserWarning, match=f"policy_kwargs {name}={value} has no effect without use_sde=True") as caught:
        make(SACv2, policy_kwargs={name: value})
    assert len(caught) == 1


@pytest.mark.parametrize(("name", "value"), [("sde_sample_freq", 4), ("use_sde_at_warmup", True)])
@pytest.mark.parametrize(("algorithm", "env"), CASES)
def test_what_is_for_gsde_is_warned_of_without_it(algorithm: Any, env: Any, name: str, value: Any) -> None:
    with pytest.warns(UserWarning, match=rf"{name}={value} has no effect without use_sde=True: leave it out") as caught:
        make(algorithm, env(), **{name: value})
    assert len(caught) == 1
