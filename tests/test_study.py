"""What studies compute: statistics, the file of studies, zoo commands, the state of a run, tables and figures."""

import math
import shlex
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import yaml
from filelock import FileLock
from matplotlib.axes import Axes
from scipy import stats
from stable_baselines3 import SAC
from studies import FIELDS, study
from torch.utils.tensorboard import SummaryWriter

from sb3_sac_variants.study import figure, provenance
from sb3_sac_variants.study.collect import COLUMNS, KEYS, Results, mean_by_interval, read_scalars
from sb3_sac_variants.study.evaluate import play
from sb3_sac_variants.study.execute import prepare
from sb3_sac_variants.study.figure import colours
from sb3_sac_variants.study.progress import Progress
from sb3_sac_variants.study.report import final_table, published_table
from sb3_sac_variants.study.run_folder import RunFolder, State
from sb3_sac_variants.study.statistics import bootstrap_interval, iqm, not_below
from sb3_sac_variants.study.studies import (
    CHECKPOINT_CALLBACK,
    FINAL_SEED,
    Run,
    load_studies,
    parse_study,
    python_expression,
    select,
)

# Statistics


@pytest.mark.parametrize("count", [4, 8, 20])
def test_iqm_is_the_trimmed_mean_for_multiples_of_four(count: int, rng: np.random.Generator) -> None:
    values = rng.standard_normal((count, 5))
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=0), rtol=1e-12)


def test_iqm_counts_border_values_in_part() -> None:
    # Of three sorted values, a quarter of the whole cuts off three quarters of the first and of the last.
    assert iqm(np.array([100.0, 0.0, 1.0])) == pytest.approx((0.25 * 0 + 1 + 0.25 * 100) / 1.5)
    assert iqm(np.array([7.0])) == 7.0
    assert iqm(np.array([1.0, 2.0])) == 1.5


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_iqm_refuses_what_has_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="iqm needs"):
        iqm(np.array(values))


def test_interval_is_that_of_resampled_seeds_the_same_for_all_steps(rng: np.random.Generator) -> None:
    values = rng.standard_normal((20, 3))
    drawn = np.random.default_rng(0).integers(20, size=(5000, 20))
    expected = np.quantile([iqm(values[seeds]) for seeds in drawn], [0.025, 0.975], axis=0)
    np.testing.assert_allclose(bootstrap_interval(values), expected, rtol=1e-12)


def test_interval_of_three_seeds_is_their_range(rng: np.random.Generator) -> None:
    values = rng.standard_normal((3, 6))
    low, high = bootstrap_interval(values)
    np.testing.assert_allclose(low, values.min(axis=0), rtol=1e-12)  # the rounding is the processor's
    np.testing.assert_allclose(high, values.max(axis=0), rtol=1e-12)


def test_interval_narrows_with_seeds_and_is_absent_for_one(rng: np.random.Generator) -> None:
    few, many = rng.standard_normal(5), rng.standard_normal(100)
    assert np.diff(bootstrap_interval(many)) < np.diff(bootstrap_interval(few))
    assert np.isnan(bootstrap_interval(np.ones((1, 4)))).all()


def test_not_below_allows_the_spread_of_a_difference() -> None:
    baseline = np.array([9.0, 10.0, 11.0])
    assert not_below(baseline - 1.4, baseline)
    assert not_below(baseline - 1.5, baseline) is False
    assert not_below(baseline[:1] - 9, baseline) is None


def _results(scalars: list[tuple[str, int, int, float]] = (), **returns: list[float]) -> Results:  # type: ignore[assignment]
    runs = [
        ("tiny", algo, "Reacher-v5", str(seed))
        for algo, values in returns.items()
        for seed in range(1, len(values) + 1)
    ]
    results = {kind: pd.DataFrame(columns=columns).astype(str) for kind, columns in COLUMNS.items()}
    summary = pd.DataFrame(runs, columns=KEYS)
    summary["final_return_mean"] = [str(value) for values in returns.values() for value in values]
    results["summary"] = summary
    results["curves"] = summary.rename(columns={"final_return_mean": "return_mean"}).assign(step="400")
    logged = [
        ("tiny", "cold", "Reacher-v5", str(seed), str(step), name, str(value)) for name, step, seed, value in scalars
    ]
    results["scalars"] = pd.DataFrame(logged, columns=[*KEYS, "step", "name", "value"])
    return results


def test_each_algorithm_is_compared_with_its_own_baseline() -> None:
    results = _results(sac=[9.0, 11.0], warm=[2.0, 4.0], cold=[2.0, 3.0])
    algorithms = {"sac": None, "warm": {"label": "Warm"}, "cold": {"baseline": "warm"}}
    own = study(environments=["Reacher-v5"], algorithms=algorithms, baseline="sac", final={})
    text, short = final_table(own, results)
    table = text.splitlines()
    assert table[0].endswith("| Difference |")
    assert table[2].endswith("|  |")
    assert "| 3.00 ± 1.41 |" in table[3]  # sqrt(2): of a sample
    assert table[3].endswith("| -7.00 to sac, beyond the spread |")
    assert table[4].endswith("| -0.50 to Warm |")
    assert short == ["tiny: Warm on Reacher-v5, mean return 3.00, is below sac beyond the seeds' spread"]


def test_last_logged_values_stand_beside_the_returns() -> None:
    results = _results(
        [("a/b", 200, 1, 1.0), ("a/b", 100, 1, 7.0), ("a/b", 100, 2, 2.0), ("c/d", 50, 2, 3.0)],
        sac=[9.0, 11.0],
        cold=[2.0, 4.0],
    )
    own = study(environments=["Reacher-v5"], baseline=None, final={}, scalars=["a/b", "c/d", "never/logged"])
    table = final_table(own, results)[0].splitlines()
    assert table[0].endswith("| IQM [95 % interval] | Last `a/b` | Last `c/d` |")
    assert table[2].endswith("|  |  |")
    assert table[3].endswith("| 1.5 | 3 |")  # of each seed's last log, which need not be at the same step


def test_published_results_stand_beside_the_evaluations_at_the_same_steps() -> None:
    published = {
        "Reacher-v5": {"Others": {400: [-4.25, -5, -3], 800: [-2, -3, -1]}},
        "Hopper-v5": {"Others": {400: [1, 0, 2]}},
    }
    own = study(environments=["Reacher-v5"], algorithms=["sac"], published=published)
    table = published_table(own, _results(sac=[-9.0, -11.0, -10.0])).splitlines()
    assert table[2:] == [
        "| Reacher-v5 | 400 | sac | 3 | -10.0 [-11.0, -9.0] |",
        "| Reacher-v5 | 400 | Others |  | -4.25 [-5, -3] |",
        "| Reacher-v5 | 800 | Others |  | -2 [-3, -1] |",
    ]


def test_logged_values_are_averaged_between_evaluations() -> None:
    logged = {50: 1.0, 100: 3.0, 101: 5.0, 350: 7.0}
    assert mean_by_interval(logged, [100, 200, 300, 400]) == {100: 2.0, 200: 5.0, 400: 7.0}


def test_what_a_resumed_run_logged_last_counts(tmp_path: Path) -> None:
    (run,) = study(environments=["Pendulum-v1"], algorithms=["sac"], seeds=[1], scalars=["a/b"]).runs()
    folder = RunFolder(tmp_path, run)
    # The zoo gives each attempt a folder with the next number; one that was killed may have logged more steps
    for attempt, values in {9: {100: 1.0, 200: 2.0, 300: 3.0}, 10: {200: 20.0}}.items():
        with SummaryWriter(str(folder.root / "tensorboard" / f"SAC_{attempt}")) as writer:
            for step, value in values.items():
                writer.add_scalar("a/b", value, step)
        (written,) = (folder.root / "tensorboard" / f"SAC_{attempt}").iterdir()
        written.rename(written.with_name(f"events.out.tfevents.{1790000000 + attempt}.machine.1.0"))
    assert read_scalars(folder) == {"a/b": {100: 1.0, 200: 20.0, 300: 3.0}}
    assert read_scalars(RunFolder(tmp_path, run.model_copy(update={"scalars": ["c/d", "a/b"]}))).keys() == {"a/b"}


def test_a_curve_ends_where_its_first_seed_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = _results(sac=[9.0, 11.0], cold=[2.0])
    curves = results["curves"]
    further = curves[(curves["algo"] == "cold") | (curves["seed"] == "1")].assign(step="800")
    results["curves"] = pd.concat([curves, further])
    drawn = []
    lineplot = sns.lineplot

    def record(**look: Any) -> Any:
        drawn.append(look["data"])
        return lineplot(**look)

    monkeypatch.setattr(sns, "lineplot", record)
    figure.draw(study(environments=["Reacher-v5"], final={}), results, tmp_path / "figure.png")
    data = pd.concat(drawn).drop_duplicates()  # once for the seeds, once for their mean
    assert sorted(zip(data["algo"], data["seed"], data["step"], strict=True)) == [
        *[("cold", "1", 400), ("cold", "1", 800)],
        *[("sac", "1", 400), ("sac", "2", 400)],
    ]


def test_published_intervals_are_drawn_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda self, x, y, yerr, **_: drawn.append((x, [*y], [*map(list, yerr)])))
    own = study(
        environments=["Reacher-v5"],
        final={},
        published={
            "Reacher-v5": {"Others": {400: [-4, -9, -3], 500: [1, 1, 1]}, "later": {500: [1, 1, 1]}}  # beyond the panel
        },
    )
    figure.draw(own, _results(sac=[9.0, 11.0]), tmp_path / "figure.png")
    assert drawn == [([400], [-4], [[5], [1]])]  # below and above


@pytest.mark.parametrize("changes", ["", " M sb3_sac_variants/a.py"])
def test_the_commit_says_whether_files_have_changed(changes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"ls-files": "__init__.py", "status": changes, "rev-parse": "0123456789ab\n"}
    monkeypatch.setattr(subprocess, "check_output", lambda command, **_: answers[command[1]])
    assert provenance.commit() == "0123456789ab" + "+changes" * bool(changes)


# The table of studies


STUDY_FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*/*.yml"))


@pytest.mark.skipif(not STUDY_FILES, reason="the benchmarks are not part of this distribution")
def test_declared_studies_can_be_read_and_have_different_names() -> None:
    thresholds: dict[str, float | None] = {}
    for path in STUDY_FILES:
        studies = load_studies(path)
        assert all(study.runs() for study in studies)
        assert not {study.name for study in studies} & set(thresholds)  # by default their runs lie in the same folder
        thresholds |= {study.name: study.final.threshold for study in studies}
    assert {name: thresholds[name] for name in ("pendulum", "mountain_car_continuous", "reacher")} == {
        "pendulum": -200,
        "mountain_car_continuous": 90,
        "reacher": -6,
    }


def test_runs_take_the_most_special_parameters() -> None:
    runs = study(params={"ent_coef": "auto", "gamma": 0.9, "learning_starts": 5}).runs()
    assert [run.seed for run in runs] == [1] * 4 + [2] * 4
    by_folder = {str(run.folder): run for run in runs}
    assert by_folder["tiny/cold/Pendulum-v1/seed2"].params == {"ent_coef": 0.1, "gamma": 0.9, "learning_starts": 100}
    assert by_folder["tiny/sac/Reacher-v5/seed1"].params == {"ent_coef": "auto", "gamma": 0.9, "learning_starts": 5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval_feq": 5}, "eval_feq\n(.|\n)*A study has the fields steps, eval_freq, "),
        ({"params": {"start": date(2026, 1, 1)}}, "params\n.*in quotes where YAML reads a date"),
        ({"tests": {"worlds": {"a": {"gamma": math.inf}}}}, "tests.worlds.a\n.*numbers, texts"),
        ({"steps": 450}, "multiple of eval_freq=200"),
        ({"steps": "1e5"}, "steps\n.*input_value='1e5'"),
        ({"seeds": [1, 1]}, "different"),
        ({"seeds": [-1]}, "seeds.0\n.*input_value=-1"),
        ({"seeds": [2**32]}, "seeds.0\n.*less than 4294967296"),
        ({"environments": [1]}, "environments\n.*must be names, in quotes where YAML reads a number"),
        ({"algorithms": ["a/b"]}, "'a/b'"),
        ({"algorithms": {"sac": {"parms": {}}}}, "parms"),
        ({"algorithms": {"sac": {"agents": 0}}}, "algorithms.sac.agents\n.*input_value=0"),
        ({"algorithms": []}, "algorithms\n.*at least 1 item"),
        ({"environments": [{"Pendulum-v1": {}}]}, "environments\n"),
        ({"name": "other"}, "none of them a name"),
        ({"tests": {"worlds": {"mass/2": {}}}}, "mass/2"),
        ({"baseline": "td3"}, "'td3'"),
        ({"algorithms": {"sac": None, "cold": {"baseline": "td3"}}}, "'td3'"),
        ({"final": {"threshold": "90"}}, "threshold\n.*input_value='90'"),
        ({"final": {"threshold": math.nan}}, "threshold\n.*finite"),
        ({"final": {"deterministic": "no"}}, "deterministic\n.*input_value='no'"),
        ({"scalars": "train/entropy"}, "scalars\n.*valid list"),
        ({"checkpoint_freq": -1}, "checkpoint_freq\n.*input_value=-1"),
        ({"tests": {"episodes": 3}}, "worlds"),
        ({"tests": {"worlds": {"a": {"gamma": 0.9, "env_wrapper": "a.B"}}}}, "tests.worlds.a\n.* model heeds gamma "),
        ({"tests": {"worlds": {"a": {"normalize": False}}}}, "nothing but env_kwargs, .*: no saved model heeds norm"),
        ({"tests": {"worlds": {"a": {}}, "actions": ["best"]}}, "'mean' or 'sampled'"),
        ({"published": {"Reacher-v5": {"Others": [1]}}}, "published.Reacher-v5.Others\n"),
        ({"published": {"Reacher-v5": {"Others": {400: [1, 2, 3]}}}}, "middle, low, high"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**fields)


@pytest.mark.parametrize("twice", ["study", "algorithm"])
def test_names_that_are_there_twice_are_refused(twice: str, tmp_path: Path) -> None:
    """YAML would keep the last one, and train the other never."""
    fields = "{environments: [Pendulum-v1], algorithms: {sac: {}, NAME: {}}, steps: 10, eval_freq: 5}"
    (tmp_path / "studies.yml").write_text(
        f"a: {fields.replace('NAME', 'sac' if twice == 'algorithm' else 'td3')}\n"
        f"{'a' if twice == 'study' else 'b'}: {fields.replace('NAME', 'td3')}\n"
    )
    with pytest.raises(ValueError, match=rf"{'a' if twice == 'study' else 'sac'} is there twice(.|\n)*line 1"):
        load_studies(tmp_path / "studies.yml")
    merged = "base: &base {environments: [Pendulum-v1], algorithms: [sac], steps: 10, eval_freq: 5}\n"
    (tmp_path / "studies.yml").write_text(merged + "other: {<<: *base, steps: 20}\n")
    assert [one.steps for one in load_studies(tmp_path / "studies.yml")] == [10, 20]


def test_a_mapping_may_override_what_it_merges_and_be_merged_itself(tmp_path: Path) -> None:
    """YAML writes what a mapping merges into it, here before it is read: a mapping further out merges it in turn."""
    rest = "algorithms: [sac], steps: 10, eval_freq: 5"
    (tmp_path / "studies.yml").write_text(
        f"one: {{environments: {{A-v0: &long {{<<: &small {{gamma: 0.9}}, gamma: 0.8}}}}, {rest}}}\n"
        f"two: {{environments: [A-v0], params: {{<<: *long, tau: 0.1}}, {rest}}}\n"
    )
    one, two = load_studies(tmp_path / "studies.yml")
    assert one.environments["A-v0"] == {"gamma": 0.8}
    assert two.params == {"gamma": 0.8, "tau": 0.1}


def test_missing_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="eval_freq\n  Field required"):
        parse_study("tiny", {key: value for key, value in FIELDS.items() if key != "eval_freq"})


def test_filter_matches_parts_and_whole_folders() -> None:
    studies = [study(), parse_study("other", FIELDS)]
    assert len(select(studies, [])) == 16
    assert {run.env for run in select(studies, ["Reach*"])} == {"Reacher-v5"}
    one = select(studies, ["other", "cold", "seed2", "Pendulum-v1"])
    assert [str(run.folder) for run in one] == ["other/cold/Pendulum-v1/seed2"]
    assert len(select(studies, ["tiny/*/seed1"])) == 4
    assert select(studies, ["sac_v1"]) == []
    pong = study(environments=["ALE/Pong-v5"])
    assert select([pong], ["ALE/Pong-v5"]) == select([pong], ["ALE-Pong-v5"]) == pong.runs()


def test_command_is_the_zoos_own() -> None:
    run = Run(
        study="tiny", name="cold", algo="sac_v2", env="Pendulum-v1", seed=3, steps=400, eval_freq=200, eval_episodes=5,
        params={"ent_coef": "auto_0.1", "policy_kwargs": {"net_arch": [64, 64]}, "tau": 0.01},
    )  # fmt: skip
    assert shlex.join(run.zoo_command(device="cuda")) == (
        "python -m rl_zoo3.train --algo sac_v2 --env Pendulum-v1 -n 400 -params 'ent_coef:\"auto_0.1\"' "
        "'policy_kwargs:{\"net_arch\": [64, 64]}' tau:0.01 --seed 3 --eval-freq 200 --eval-episodes 5 --num-threads 1 "
        "--device cuda --verbose 0 -f tiny/cold/Pendulum-v1/seed3"
    )


def test_the_evaluation_plays_in_the_environment_of_training() -> None:
    world = {"Pendulum-v1": {"env_kwargs": {"g": 9.0}}}
    command = study(environments=world, algorithms=["sac_v2"], baseline=None).runs()[0].zoo_command()
    assert command[command.index("--eval-env-kwargs") + 1] == "g:9.0"
    assert 'env_kwargs:{"g": 9.0}' in command


def test_checkpoints_go_into_the_callback_entry_beside_the_users_own() -> None:
    run = study(algorithms={"sac_v2": {"agents": 3, "params": {"callback": "a.B"}}}, baseline=None).runs()[0]
    (argument,) = (text for text in run.zoo_command(checkpoints=True) if text.startswith("callback:"))
    assert eval(argument.removeprefix("callback:")) == ["a.B", {CHECKPOINT_CALLBACK: {"save_freq": 600}}]
    assert 'callback:"a.B"' in run.zoo_command()
    off = study(algorithms=["sac_v2"], baseline=None, checkpoint_freq=0).runs()[0]
    assert off.zoo_command(checkpoints=True) == off.zoo_command()


def test_modules_that_register_environments_are_imported_wherever_the_run_goes() -> None:
    fields = {
        "environments": ["Mine-v0"],
        "algorithms": ["sac_v2"],
        "baseline": None,
        "gym_packages": ["my_envs", "a.b"],
    }
    run = study(**fields, params={"policy": "own.Policy"}).runs()[0]
    assert "--gym-packages my_envs a.b --seed" in shlex.join(run.zoo_command())
    assert run.modules() == ["my_envs", "a.b", "own"]
    with pytest.raises(ValueError, match=r"gym_packages"):
        study(**{**fields, "gym_packages": ["--save-freq"]})


def test_agents_that_are_environments_of_their_own_count_steps_and_episodes_each(tmp_path: Path) -> None:
    three = study(algorithms={"split": {"algo": "sac", "agents": 3}}, environments=["Pendulum-v1"], baseline=None)
    run = three.runs()[0]
    command = shlex.join(run.zoo_command())
    assert "-n 1200 " in command
    assert "--eval-freq 200 --eval-episodes 9 " in command  # the zoo counts calls of the environment here
    folder = RunFolder(tmp_path, run)
    folder.zoo.mkdir(parents=True)
    results = np.repeat([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], 3, axis=1)
    np.savez(folder.evaluations_file, timesteps=[600, 1200], results=results, ep_lengths=results)
    evaluations = folder.evaluations()
    assert evaluations is not None
    assert evaluations["timesteps"].tolist() == [200, 400]
    assert evaluations["results"].tolist() == [[1, 2, 3], [4, 5, 6]]
    save_final(folder, [1.0] * 3 + [2.0] * 3 + [3.0] * 3)
    assert folder.returns("final") is None  # three episodes of four
    save_final(folder, [1.0] * 3 + [2.0] * 9)
    returns = folder.returns("final")
    assert returns is not None
    assert returns.tolist() == [1, 2, 2, 2]


def save_final(folder: RunFolder, returns: list[float], deterministic: bool = True, seed: int = FINAL_SEED) -> None:
    folder.write_record(
        plays={"final": {"seed": seed, "deterministic": deterministic, "params": {}, "returns": returns}}
    )


@pytest.mark.parametrize(
    "value",
    [1, 1e-3, True, None, "it's", [1, ["a"]], {"a": {"b": [0.5]}}, {"lambda": 1, "a": 2}, {"a": {1: {0.5: True}}}],
)  # fmt: skip
def test_expressions_evaluate_to_the_value(value: Any) -> None:
    assert eval(python_expression(value)) == value


# The state of a run, from its files


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    run = study(algorithms=["sac"], environments=["Pendulum-v1"], seeds=[1], params={}).runs()[0]
    folder = RunFolder(tmp_path, run)
    folder.zoo.mkdir(parents=True)
    rewrite_steps(folder, [200, 400])
    with zipfile.ZipFile(folder.model, "w") as archive:
        archive.writestr("data", "x" * 100)
    folder.write_record(settings=run.settings())
    assert folder.state() is State.TRAINED
    save_final(folder, [1.0] * 4)
    assert folder.state() is State.FINISHED
    return folder


def rewrite_steps(folder: RunFolder, steps: list[int]) -> None:
    results = np.zeros((len(steps), 3))
    np.savez(folder.evaluations_file, timesteps=steps, results=results, ep_lengths=results)


def test_a_run_is_trained_only_with_its_last_evaluation_and_a_whole_model(trained: RunFolder) -> None:
    rewrite_steps(trained, [200])
    assert trained.state() is State.INTERRUPTED
    rewrite_steps(trained, [198, 396])  # three environments side by side
    assert trained.state() is State.FINISHED
    whole = trained.model.read_bytes()
    trained.model.write_bytes(whole[: len(whole) // 2])
    assert trained.state() is State.INTERRUPTED
    trained.model.unlink()
    assert trained.state() is State.INTERRUPTED
    trained.model.write_bytes(whole)
    content = trained.evaluations_file.read_bytes()
    trained.evaluations_file.write_bytes(content[:50])
    assert trained.evaluations() is None
    assert trained.state() is State.INTERRUPTED


def test_a_run_is_trained_only_when_what_normalises_was_saved_after_the_model(trained: RunFolder) -> None:
    statistics = trained.zoo / "Pendulum-v1" / "vecnormalize.pkl"  # also saved with each best model
    statistics.parent.mkdir()
    statistics.touch()
    for saved, state in ((False, State.INTERRUPTED), (True, State.FINISHED)):
        trained.write_record(saved=saved)
        assert trained.state() is state


def test_a_run_is_known_again_by_its_settings(trained: RunFolder) -> None:
    def state(**changes: Any) -> State:
        return RunFolder(trained.out, trained.run.model_copy(update=changes)).state()

    assert state(checkpoint_freq=7) is State.FINISHED
    for changes in ({"eval_episodes": 2}, {"agents": 2}, {"params": {"gamma": 0.9}}, {"scalars": ["train/ent_coef"]}):
        assert state(**changes) is State.CONFLICT, changes
    # Keys that JSON does not have are compared as it keeps them.
    nested = {"params": {"policy_kwargs": {1: {"net_arch": [64, 64]}}}}
    trained.write_record(settings=trained.run.model_copy(update=nested).settings())
    assert state(**nested) is State.FINISHED
    assert trained.conflicts() == ["params is {'policy_kwargs': {'1': {'net_arch': [64, 64]}}}, wanted {}"]


def test_what_was_not_begun_by_a_study_is_left_alone(trained: RunFolder) -> None:
    (trained.root / "run.json").unlink()
    for steps in ([200, 400], [200]):
        rewrite_steps(trained, steps)
        assert trained.state() is State.CONFLICT
    assert trained.conflicts() == ["it has no run.json that says how it was made"]


def test_settings_that_have_changed_are_in_the_way_where_there_is_something_to_lose(trained: RunFolder) -> None:
    trained.write_record(settings={}, failed=True)
    assert trained.state() is State.CONFLICT  # a model
    trained.model.unlink()
    assert trained.state() is State.FAILED
    trained.checkpoint.parent.mkdir()
    trained.checkpoint.touch()
    assert trained.state() is State.CONFLICT


@pytest.mark.parametrize("content", ["", "null", "3"])
def test_a_damaged_record_is_named(trained: RunFolder, content: str) -> None:
    (trained.root / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json is damaged .*: remove .*seed1 to start the run anew"):
        trained.record()
    assert trained.state() is State.FAILED


def test_runs_do_not_share_locks(tmp_path: Path) -> None:
    runs = [parse_study(name, {**FIELDS, "algorithms": [algo], "baseline": None}).runs()[0]
            for name, algo in (("a", "b--c"), ("a--b", "c"))]  # fmt: skip
    first, second = (RunFolder(tmp_path, run) for run in runs)
    assert first.claim()
    assert second.state() is State.TO_DO


def test_the_final_evaluation_must_be_the_one_asked_for(trained: RunFolder) -> None:
    for returns, deterministic, seed, state in [
        ([1.0] * 3, True, FINAL_SEED, State.TRAINED),
        ([1.0] * 4, False, FINAL_SEED, State.TRAINED),
        ([1.0] * 4, True, 1, State.TRAINED),
        ([1.0] * 5, True, FINAL_SEED, State.FINISHED),
    ]:
        save_final(trained, returns, deterministic, seed)
        assert trained.state() is state


def test_models_of_all_seeds_meet_the_same_initial_states(tmp_path: Path) -> None:
    """While it is loaded, a model seeds its environment and the random numbers as in training."""
    returns = []
    for run in study(algorithms=["sac"], environments=["Pendulum-v1"], params={}).runs():
        folder = RunFolder(tmp_path, run)
        (folder.zoo / "Pendulum-v1").mkdir(parents=True)
        (folder.zoo / "Pendulum-v1" / "config.yml").write_text(yaml.dump(OrderedDict()))
        model = SAC("MlpPolicy", "Pendulum-v1", seed=run.seed, policy_kwargs={"net_arch": [4]}, device="cpu")
        for parameter in model.policy.parameters():
            parameter.data.fill_(0.01)
        model.save(folder.model)
        for deterministic in (True, False):
            returns.append(play(folder, "cpu", 5, 2, deterministic, {})["returns"])
    assert returns[0] == returns[2]
    assert returns[1] == returns[3]
    assert len({tuple(each) for each in returns}) == 2


def test_models_play_in_the_environments_that_the_zoo_registers() -> None:
    code = "import gymnasium; from sb3_sac_variants.study import evaluate; gymnasium.spec('PendulumNoVel-v1')"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


def test_a_run_is_finished_only_with_the_tests_that_are_asked_for(trained: RunFolder) -> None:
    worlds: dict[str, Any] = {"heavy": {"env_kwargs": {"g": 12.0, "of": {1: 2}}}}
    own = study(
        algorithms=["sac"], environments=["Pendulum-v1"], seeds=[1], params={}, tests={"episodes": 2, "worlds": worlds}
    )
    folder = RunFolder(trained.out, own.runs()[0])
    assert folder.state() is State.TRAINED
    assert list(folder.missing_plays()) == ["heavy/mean"]
    plays = folder.record()["plays"]
    made = {"seed": FINAL_SEED, "deterministic": True, "params": {"env_kwargs": {"g": 9.0}}, "returns": [1.0, 2.0]}
    folder.write_record(plays={**plays, "heavy/mean": made})
    assert folder.state() is State.TRAINED  # another world
    folder.write_record(plays={**plays, "heavy/mean": {**made, "params": worlds["heavy"]}})
    assert folder.state() is State.FINISHED


def test_progress_counts_finished_episodes(trained: RunFolder) -> None:
    rewrite_steps(trained, [200])
    assert trained.steps_done() == 200
    (trained.zoo / "0.monitor.csv").write_text('#{"t_start": 5.0}\nr,l,t\n1.0,150,2\n1.0,120,3\n-3.')
    assert trained.steps_done() == 270
    np.savez(trained.evaluations_file, timesteps=np.zeros(0, int), results=np.zeros((0, 4)))
    (trained.zoo / "0.monitor.csv").write_text('#{"t_start": 5.0}\nr,l,t\n1.0,abc,2\n1.0,120,3\n')
    assert trained.steps_done() == 120
    assert not trained.is_trained()


def test_a_run_whose_files_cannot_be_read_is_not_held(trained: RunFolder) -> None:
    (trained.root / "run.json").write_text("null")
    with pytest.raises(ValueError, match="is damaged"):
        prepare(trained)
    assert RunFolder(trained.out, trained.run).claim(timeout=0.0)


def test_a_run_is_held_by_one_process_at_a_time(trained: RunFolder) -> None:
    other = RunFolder(trained.out, trained.run)
    assert trained.claim()
    assert trained.state() is other.state() is State.RUNNING
    assert not other.claim(timeout=0.1)
    trained.lock.release()
    assert other.state() is State.FINISHED


def test_a_folder_where_nothing_may_be_written_can_be_looked_at(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    trained.claim()
    trained.lock.release()
    Path(trained.lock.lock_file).touch()
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert trained.state() is State.FINISHED


def test_a_look_by_another_process_does_not_hold_a_run(trained: RunFolder) -> None:
    other = RunFolder(trained.out, trained.run)
    assert other.claim()
    threading.Timer(0.03, other.lock.release).start()
    assert trained.state() is State.FINISHED


def test_progress_sees_what_another_command_has_finished(trained: RunFolder) -> None:
    assert Progress({trained: State.RUNNING}).line().startswith("0 of 1 runs finished")
    progress = Progress({trained: State.RUNNING})
    progress.refresh()
    assert progress.line().startswith("1 of 1 runs finished")


def test_modules_of_the_classes_that_settings_name() -> None:
    params = {"policy": "MlpPolicy", "callback": ["mine.A", {"mine.B": {"k": 1}}], "env_wrapper": {"w.x.Wrapper": {}}}
    worlds = {"heavy": {"vec_env_wrapper": "v.Wrapper"}, "plain": {}}
    run = study(params={**params}, tests={"worlds": worlds}).runs()[0]
    assert run.modules() == ["w.x", "mine", "v"]


# The figure


def test_known_algorithms_keep_their_colours() -> None:
    looks = colours(["other", "sac_v2", "sac", "another"])
    assert len(set(looks.values())) == 4
    assert looks["sac_v2"] == colours(["sac_v2"])["sac_v2"]


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [("pydantic", "status", "study"), ("seaborn", "report", "study"), ("ray", "run", "cluster")],
)
def test_without_an_extra_the_command_names_it(tmp_path: Path, module: str, command: str, extra: str) -> None:
    (tmp_path / "tiny.yml").write_text(yaml.dump({"tiny": FIELDS}))
    code = (
        f"import sys; sys.modules[{module!r}] = None; from sb3_sac_variants.study import __main__; "
        f"__main__.ask_zoo = lambda runs: frozenset(); sys.exit(__main__.main())"
    )
    options = [command, str(tmp_path / "tiny.yml"), "--out", str(tmp_path)]
    options += ["--address", "auto"] if command == "run" else []
    process = subprocess.run(
        [sys.executable, "-c", code, *options],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert process.returncode in (1, 2)
    message = f'needs {module}, which is not installed: pip install "sb3-sac-variants[{extra}]"'
    assert message in process.stdout + process.stderr


@pytest.mark.parametrize("params", [{"learning_rate:print() #": 1}, {"env_kwargs": {"a b": 1}}])
def test_keys_that_the_zoo_would_evaluate_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must have names of arguments as keys, got"):
        parse_study("study", {**FIELDS, "params": params})


def test_a_name_that_yaml_reads_as_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="study 2024 must have a text as its name: put it in quotes"):
        parse_study(2024, FIELDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cheetah_tests", "a_summary", "b_scalars"])
def test_names_whose_files_would_be_another_studys_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"study '{name}' would have its CSV file in place of another study's"):
        parse_study(name, FIELDS)
