"""Callbacks, the progress bar, and what is logged: TensorBoard, CSV, standard output."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import GAUSSIAN, SpacesEnv, every_algorithm, goal_env, make, n_updates, several_agents
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step.metrics import DeviceMetrics

#: what every algorithm logs, beside its own
COMMON = {
    "train/learning_rate",
    "train/critic_loss",
    "train/actor_loss",
    "train/ent_coef",
    "train/entropy",
    "train/q_mean",
    "train/update_to_data",
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "time/fps",
}
#: what stands in the tables but not in TensorBoard, as in SB3
TABLES_ONLY = {"train/n_updates", "time/episodes", "time/time_elapsed", "time/total_timesteps"}


class Records(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append({**key_values, "step": step})

    def close(self) -> None:
        pass


def recorded(model: Any) -> list[dict[str, Any]]:
    """
    :param model: a model
    :return: what it will log, one dictionary each time
    """
    records = Records()
    model.set_logger(Logger(folder=None, output_formats=[records]))
    return records.rows


# ---------------------------------------------------------------- callbacks


@every_algorithm
def test_callbacks_of_sb3(algorithm: type, tmp_path: Path) -> None:
    evaluation = EvalCallback(
        Monitor(SpacesEnv()),
        callback_on_new_best=StopTrainingOnRewardThreshold(1e9),
        callback_after_eval=StopTrainingOnNoModelImprovement(max_no_improvement_evals=100),
        n_eval_episodes=2,
        eval_freq=10,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(15, str(tmp_path / "checkpoints"), save_replay_buffer=True, save_vecnormalize=True)
    events: list[int] = []

    class Event(BaseCallback):
        def _on_step(self) -> bool:
            events.append(self.num_timesteps)
            return True

    env = VecNormalize(make_vec_env(SpacesEnv, 1), norm_obs=False)
    evaluation.eval_env = VecNormalize(evaluation.eval_env, norm_obs=False, training=False)
    model = make(algorithm, env)
    model.learn(40, callback=CallbackList([evaluation, checkpoints, EveryNTimesteps(20, Event())]))
    assert events == [20, 40]
    with np.load(tmp_path / "evaluations.npz") as results:
        assert results["timesteps"].tolist() == [10, 20, 30, 40]
        assert results["results"].shape == (4, 2)
    best = algorithm.load(tmp_path / "best_model", device="cpu")
    assert best.num_timesteps in (10, 20, 30, 40)
    saved = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    expected = ("rl_model_replay_buffer_{}_steps.pkl", "rl_model_vecnormalize_{}_steps.pkl", "rl_model_{}_steps.zip")
    assert saved == sorted(name.format(steps) for name in expected for steps in (15, 30))
    loaded = algorithm.load(tmp_path / "checkpoints" / "rl_model_15_steps", env=make_vec_env(SpacesEnv, 1))
    loaded.load_replay_buffer(tmp_path / "checkpoints" / "rl_model_replay_buffer_15_steps.pkl")
    assert (loaded.num_timesteps, loaded.replay_buffer.size()) == (15, 14)


@every_algorithm
def test_training_can_be_stopped(algorithm: type) -> None:
    assert make(algorithm).learn(1000, callback=StopTrainingOnMaxEpisodes(3)).num_timesteps == 30
    assert make(algorithm).learn(1000, callback=lambda *_: False).num_timesteps == 1
    stop = EvalCallback(
        Monitor(SpacesEnv()), callback_on_new_best=StopTrainingOnRewardThreshold(-1e9), eval_freq=7, verbose=0
    )
    assert make(algorithm).learn(1000, callback=stop).num_timesteps == 7


@every_algorithm
def test_order_of_events(algorithm: type) -> None:
    seen: list[str] = []

    class Trace(BaseCallback):
        def _on_training_start(self) -> None:
            seen.append("training starts")

        def _on_rollout_start(self) -> None:
            seen.append("rollout starts")

        def _on_step(self) -> bool:
            assert {"self", "new_obs", "rewards", "dones", "infos", "actions"} <= set(self.locals)
            assert self.model is self.locals["self"]
            seen.append("step")
            return True

        def _on_rollout_end(self) -> None:
            seen.append(f"rollout ends after {n_updates(self.model)} updates")

        def _on_training_end(self) -> None:
            seen.append(f"training ends after {n_updates(self.model)} updates")

    make(algorithm, train_freq=2, gradient_steps=3, learning_starts=0).learn(4, callback=[Trace()])
    rollout = ["rollout starts", "step", "step"]
    assert seen == [
        "training starts",
        *rollout,
        "rollout ends after 0 updates",
        *rollout,
        "rollout ends after 3 updates",
        "training ends after 6 updates",
    ]


@every_algorithm
def test_progress_bar(algorithm: type, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rich: no Jupyter here
        make(algorithm).learn(20, progress_bar=True)
    shown = "".join(capfd.readouterr())
    assert "100%" in shown
    assert "20/20" in shown


# ---------------------------------------------------------------- what is logged


@every_algorithm
def test_log_keys(algorithm: type) -> None:
    arguments: dict[str, Any] = {"qf_learning_rate": 1e-3}
    optional = {"train/qf_learning_rate"}
    if algorithm in GAUSSIAN:
        arguments |= {"ent_coef": "auto", "ent_coef_learning_rate": 1e-3, "use_sde": True}
        optional |= {"train/ent_coef_loss", "train/std", "train/ent_coef_learning_rate"}
    model = make(algorithm, **arguments)
    rows = recorded(model)
    model.learn(40, log_interval=2)
    own = {"train/value_loss"} if algorithm is SACv1 else set()
    assert [row["step"] for row in rows] == [20, 40]
    for row in rows:
        assert COMMON | TABLES_ONLY | own | optional <= set(row)
        assert all(np.isfinite(value) for value in row.values())
    fixed = make(algorithm, ent_coef=0.5)
    rows = recorded(fixed)
    fixed.learn(20, log_interval=1)
    assert not optional & set(rows[-1])
    assert rows[-1]["train/ent_coef"] == 0.5


@every_algorithm
def test_logged_numbers(algorithm: type) -> None:
    env = SpacesEnv()
    model = make(algorithm, env, ent_coef=0.2, gradient_steps=2, learning_rate=lambda progress: progress)
    rows = recorded(model)
    model.learn(40, log_interval=1)
    row = rows[2]
    assert row["train/n_updates"] == 2 * (30 - 1 - 5)  # the log comes before the update of its step
    assert row["train/update_to_data"] == pytest.approx(row["train/n_updates"] / 30)
    assert row["train/learning_rate"] == pytest.approx(1 - 29 / 40)
    assert row["time/total_timesteps"] == row["step"] == 30
    assert row["time/episodes"] == 3
    returns = -np.square(env.actions).mean(axis=1).reshape(4, 10).sum(axis=1)
    assert row["rollout/ep_rew_mean"] == pytest.approx(returns[:3].mean(), abs=1e-4)


@every_algorithm
def test_logged_metrics_are_means_since_the_last_time(algorithm: type) -> None:
    model = make(algorithm, **({"ent_coef": "auto"} if algorithm in GAUSSIAN else {}))
    rows = recorded(model)
    updates: list[dict[str, float]] = []
    update = model.update

    def spy(*args: Any) -> dict[str, th.Tensor]:
        metrics = update(*args)
        updates.append({name: value.item() for name, value in metrics.items() if name != "td_error"})
        return metrics

    model.update = spy
    model.learn(40, log_interval=2)
    # Logs at steps 20 and 40, each before the update of its step; updates begin after step 6
    first, second = updates[:14], updates[14:34]
    for row, group in zip(rows, (first, second), strict=True):
        for name in model.updater.metrics.names:
            mean = np.mean([metrics[name] for metrics in group])
            assert row[f"train/{name}"] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_the_logged_entropy_is_that_of_the_policy_and_its_states() -> None:
    model = make(SACv2).learn(20)
    batch, noise = model.draw_batch(64)
    with th.no_grad():
        expected = -model.actor.sample(batch.observations, noise.actions).log_prob.mean()
        found = model.update(batch, noise)["entropy"]
        other = -model.actor.sample(batch.next_observations, noise.next_actions).log_prob.mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.item() != pytest.approx(other.item(), rel=1e-5)

    model = make(SQL, "CartPole-v1", ent_coef=0.01).learn(40)
    batch, noise = model.draw_batch(64)
    with th.no_grad():
        found = model.update(batch, noise)["entropy"]
        q_values = model.critic.values(batch.observations).amin(dim=0)  # of the critics after their step
        expected = th.distributions.Categorical(logits=q_values / 0.01).entropy().mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    assert found.item() < 0.65  # that of all actions alike is log 2 = 0.69


@pytest.mark.parametrize("algorithm", [SACv1, SACv2, SQL, MASAC])
def test_an_update_may_report_what_it_likes(algorithm: type) -> None:
    class Mine(algorithm):  # type: ignore[misc, valid-type]
        def update(self, batch: Any, noise: Any) -> Any:
            return {"critic_loss": super().update(batch, noise)["critic_loss"]}

    env = several_agents() if algorithm is MASAC else None
    model = make(Mine, env, **({} if algorithm is SQL else {"ent_coef": "auto"}))
    rows = recorded(model)
    model.learn(60, log_interval=1)
    assert rows[-1]["train/critic_loss"] > 0
    assert "train/entropy" not in rows[-1]


def test_metrics_that_come_and_go_are_refused() -> None:
    metrics = DeviceMetrics(th.device("cpu"))
    metrics.add({"loss": th.ones(()), "entropy": th.zeros(1)})
    with pytest.raises(ValueError, match=r"\['loss', 'other'\], and \['entropy', 'loss'\] before: report the same"):
        metrics.add({"loss": th.ones(()), "other": th.ones(())})
    assert metrics.means() == {"entropy": 0.0, "loss": 1.0}


@pytest.mark.parametrize(
    ("value", "found"), [(0.5, "a float"), (None, "a NoneType"), (th.ones(3), r"a Tensor of shape \(3,\)")]
)
def test_metrics_that_are_no_scalars_are_refused(value: Any, found: str) -> None:
    with pytest.raises(TypeError, match=f"the metric 'loss' of an update is {found}: report a tensor of one number"):
        DeviceMetrics(th.device("cpu")).add({"loss": value})


def test_means_over_many_updates_do_not_drift() -> None:
    metrics = DeviceMetrics(th.device("cpu"))
    metrics.add({"loss": th.tensor(37.3)})
    metrics.collect()
    metrics._sums_before *= 1e7  # as many updates as a run has that writes no logs
    metrics._count_before *= 1e7
    for _ in range(1000):
        metrics.add({"loss": th.tensor(40.0)})
        metrics.collect()
    assert metrics.means()["loss"] == pytest.approx((37.3e7 + 40e3) / (1e7 + 1e3), rel=1e-7)


def test_metrics_go_on_from_a_checkpoint() -> None:
    whole, first, second = (DeviceMetrics(th.device("cpu")) for _ in range(3))
    second.set_state(first.state())  # before the first step, which names them
    for value in (1.0, 2.0, 6.0):
        step = {"loss": th.tensor(value), "entropy": th.tensor(-value)}
        whole.add(step)
        (first if value < 3 else second).add(step)
        if value == 2.0:
            second.set_state(json.loads(json.dumps(first.state())))
    assert second.means() == whole.means() == {"entropy": -3.0, "loss": 3.0}


def test_metrics_are_not_read_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading waits for the device."""
    model = make(SACv2, ent_coef="auto").learn(10)
    model.updater.metrics.reset()

    def refuse(*_: Any) -> Any:
        raise AssertionError("a tensor was read")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(th.Tensor, name, refuse)
    model.train(3, 4)


@every_algorithm
def test_logs_without_updates(algorithm: type) -> None:
    model = make(algorithm, learning_starts=100)
    rows = recorded(model)
    model.learn(20, log_interval=1)
    assert len(rows) == 2
    assert rows[-1]["train/update_to_data"] == 0
    assert "train/critic_loss" not in rows[-1]


@every_algorithm
def test_no_logs(algorithm: type) -> None:
    model = make(algorithm)
    rows = recorded(model)
    model.learn(40, log_interval=None)
    assert rows == []
    model.learn(40, log_interval=None, callback=LogEveryNTimesteps(15))
    assert [row["step"] for row in rows] == [15, 30]
    assert "train/critic_loss" in rows[-1]


@every_algorithm
def test_success_rate(algorithm: type) -> None:
    model = make(algorithm, goal_env(), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=10)
    rows = recorded(model)
    model.learn(30, log_interval=1)
    assert 0 <= rows[-1]["rollout/success_rate"] <= 1


@every_algorithm
def test_tensorboard(algorithm: type, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = make(algorithm, tensorboard_log=str(tmp_path))
    model.learn(40, log_interval=1)
    model.learn(20, log_interval=1, reset_num_timesteps=False)
    model.learn(20, log_interval=1, tb_log_name="mine")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted([f"{algorithm.__name__}_1", "mine_1"])
    events = accumulator.EventAccumulator(str(tmp_path / f"{algorithm.__name__}_1"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= COMMON | ({"train/value_loss"} if algorithm is SACv1 else set())
    assert not tags & TABLES_ONLY
    assert [event.step for event in events.Scalars("train/critic_loss")] == [10, 20, 30, 40, 50, 60]


@every_algorithm
def test_tables(algorithm: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make(algorithm)
    model.set_logger(configure(str(tmp_path), ["csv", "stdout", "json"]))
    model.learn(40, log_interval=2)
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["time/total_timesteps"]) for row in rows] == [20, 40]
    assert float(rows[1]["train/actor_loss"]) != 0
    assert "critic_loss" in capsys.readouterr().out


@every_algorithm
def test_verbose(algorithm: type, capsys: pytest.CaptureFixture[str]) -> None:
    make(algorithm, SpacesEnv(), verbose=0).learn(20, log_interval=1)
    assert capsys.readouterr().out == ""
    make(algorithm, SpacesEnv(), verbose=1).learn(20, log_interval=1)
    shown = capsys.readouterr().out
    for part in (
        "Using cpu device",
        "Wrapping the env with a `Monitor` wrapper",
        "Using the eager engine (asked for)",
        "total_timesteps",
        "critic_loss",
    ):
        assert part in shown


@every_algorithm
def test_monitor_files(algorithm: type, tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: Monitor(SpacesEnv(), str(tmp_path / "0"))])
    make(algorithm, env).learn(30)
    env.close()
    lines = (tmp_path / "0.monitor.csv").read_text().splitlines()
    assert len(lines) == 2 + 3


def test_large_and_circular_data_of_a_callback_is_not_copied(tmp_path: Path) -> None:
    class Holder(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.demonstrations, self.numbers = np.ones(10_000), [*range(10_000)]
            self.circle: dict[str, Any] = {}
            self.circle["itself"] = self.circle
            self.few, self.limit = [1, 2], 3

        def _on_step(self) -> bool:
            return True

    model, callback = make(SACv2), Holder()
    model.learn(3, callback=callback)
    noted = vars(callback)["_state_at_start"]
    assert {"few", "limit"} <= set(noted)
    assert not {"demonstrations", "numbers", "circle"} & set(noted)
    model.save_checkpoint(tmp_path / "run")
    again = Holder()
    again.demonstrations, again.few = np.zeros(10_000), [3]
    SACv2.load_checkpoint(tmp_path / "run", SpacesEnv()).learn(3, callback=again, reset_num_timesteps=False)
    assert again.demonstrations.all()
    assert again.few == [3]


def test_a_callback_takes_no_texts_from_a_checkpoint(tmp_path: Path) -> None:
    class Writer(BaseCallback):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.file, self.count = str(folder / "notes.txt"), 0

        def _on_step(self) -> bool:
            self.count += 1
            return True

    model, theirs = make(SACv2), Writer(tmp_path / "theirs")
    model.learn(3, callback=theirs)
    vars(theirs)["_state_at_start"] = {}  # as in a file that says nothing of it
    model.save_checkpoint(tmp_path / "run")
    mine = Writer(tmp_path / "mine")
    resumed = SACv2.load_checkpoint(tmp_path / "run", SpacesEnv())
    resumed.learn(2, callback=mine, reset_num_timesteps=False)
    assert mine.count == 5
    assert mine.file == str(tmp_path / "mine" / "notes.txt")


class Annealing(BaseCallback):
    """Lowers what it was given, in a list inside it as well, and names what it does."""

    def __init__(self, rate: float = 1.0, inner: BaseCallback | None = None) -> None:
        super().__init__()
        self.rate, self.phase = rate, "explore"
        self.others = [] if inner is None else [inner]

    def _init_callback(self) -> None:
        for other in self.others:
            other.init_callback(self.model)

    def _on_step(self) -> bool:
        self.rate *= 0.5
        for other in self.others:
            other.on_step()
        self.later = "made later"
        return True


def test_what_a_callback_was_given_and_has_changed_goes_on(tmp_path: Path) -> None:
    model, callback = make(SACv2), Annealing(inner=Annealing(8.0))
    model.learn(3, callback=callback)
    model.save_checkpoint(tmp_path / "run")
    same, other = Annealing(inner=Annealing(8.0)), Annealing(2.0)
    for again in (same, other):
        SACv2.load_checkpoint(tmp_path / "run", SpacesEnv()).learn(1, callback=again, reset_num_timesteps=False)
    assert same.rate == 0.5**4
    assert same.others[0].rate == 8 * 0.5**4
    assert other.rate == 2 * 0.5  # another one was asked for


def test_texts_that_a_callback_has_changed_are_warned_of(tmp_path: Path) -> None:
    model, callback = make(SACv2), Annealing()
    model.learn(3, callback=callback)
    model.save_checkpoint(tmp_path / "first")  # nothing to warn of
    callback.phase = "exploit"
    with pytest.warns(UserWarning, match=r"Annealing of a run resumed .* begin anew with \['phase'\]: a text may name"):
        model.save_checkpoint(tmp_path / "second")
    again = Annealing()
    SACv2.load_checkpoint(tmp_path / "second", SpacesEnv()).learn(0, callback=again, reset_num_timesteps=False)
    assert again.phase == "explore"
    assert not hasattr(again, "later")


def test_a_text_in_the_place_of_an_array_does_not_end_the_training(tmp_path: Path) -> None:
    model, callback = make(SACv2), Annealing()
    callback.phase = np.zeros(2)  # type: ignore[assignment]
    model.learn(3, callback=callback)
    callback.phase = "exploit"
    with pytest.warns(UserWarning, match=r"begin anew with \['phase'\]"):
        model.save_checkpoint(tmp_path)
