"""An Atari game through the zoo's wrappers: frames in, updates out, memory as planned. Needs ale-py and OpenCV."""

import argparse
from pathlib import Path

import pytest
import torch as th
from helpers import n_updates
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.logger import Logger

from sb3_sac_variants.zoo import register

pytest.importorskip("ale_py", reason="pip install sb3-sac-variants[atari]")
pytest.importorskip("cv2", reason="pip install sb3-sac-variants[atari]")

FRAMES = 84 * 84 * 4


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["sac_v1", "sac_v2", "sql"])
def test_a_short_run(algo: str, tmp_path: Path) -> None:
    register()
    hyperparams = {"learning_starts": 100, "buffer_size": 500, "n_timesteps": 160, "batch_size": 8}
    manager = ExperimentManager(
        argparse.Namespace(),
        algo,
        "PongNoFrameskip-v4",
        str(tmp_path),
        eval_freq=-1,
        device="cpu",
        hyperparams=hyperparams,
    )
    model, _ = manager.setup_experiment()
    model.set_logger(Logger(None, []))
    before = [parameter.clone() for parameter in model.critic.parameters()]
    model.learn(160)
    assert model.observation_space.shape == (4, 84, 84)
    assert model.action_space.n == 6
    assert n_updates(model) == 15
    assert all(not th.equal(old, new) for old, new in zip(before, model.critic.parameters(), strict=True))
    # One stack for each transition, and a few that ended an episode
    assert 500 * FRAMES < model.replay_buffer.nbytes < 570 * FRAMES
    batch = model.replay_buffer.draw(8)
    assert batch.observations.dtype == th.uint8
    assert batch.observations.shape == (8, 4, 84, 84)
    action, _ = model.predict(model.env.reset(), deterministic=True)
    assert 0 <= action[0] < 6
