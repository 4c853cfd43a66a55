"""What the tests against Stable-Baselines3's SAC share: pairs of models, fed the same batches and noise."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from float64 import AnyFloatExtractor, to_double
from gymnasium import spaces
from helpers import rows_at
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SACv2
from sb3_sac_variants.common.equations.types import Noise

OBS_DIM, ACTION_DIM, BATCH_SIZE, TRANSITIONS = 3, 2, 16, 60
# Sums of few powers of two, which the float32 tensors of learners and trackers hold exactly
RATE, TAU = 2.0**-9, 2.0**-6


class Spaces(gym.Env):
    """Never stepped: only its spaces are looked at."""

    observation_space = spaces.Box(-1.0, 1.0, (OBS_DIM,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)


class LearnedExtractor(AnyFloatExtractor):
    """A features extractor with parameters."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space)
        self.layer = th.nn.Linear(OBS_DIM, OBS_DIM)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(super().forward(observations)).tanh()


def copy_weights(sb3: SAC, ours: SACv2) -> None:
    """By loops over layers, not by the package's own conversion."""
    ours.actor.load_state_dict(sb3.actor.state_dict())
    for name in ("critic", "critic_target"):
        theirs, mine = getattr(sb3, name), getattr(ours, name)
        mine.features_extractor.load_state_dict(theirs.features_extractor.state_dict())
        for index, q_network in enumerate(theirs.q_networks):
            for layer, stacked in zip(q_network, mine.q_networks.layers, strict=True):
                if isinstance(layer, th.nn.Linear):
                    stacked.weight.data[index] = layer.weight.data.T
                    stacked.bias.data[index, 0] = layer.bias.data
    if sb3.log_ent_coef is not None:
        ours.log_ent_coef.data.copy_(sb3.log_ent_coef.data)


def assert_same_weights(sb3: SAC, ours: SACv2, atol: float) -> None:
    def same(left: th.Tensor, right: th.Tensor) -> None:
        th.testing.assert_close(left, right, rtol=0, atol=atol)

    for (name, theirs), mine in zip(sb3.actor.named_parameters(), ours.actor.parameters(), strict=True):
        assert theirs.shape == mine.shape, name
        same(mine, theirs)
    for name in ("critic", "critic_target"):
        theirs, mine = getattr(sb3, name), getattr(ours, name)
        for left, right in zip(
            mine.features_extractor.parameters(), theirs.features_extractor.parameters(), strict=True
        ):
            same(left, right)
        for index, q_network in enumerate(theirs.q_networks):
            for layer, stacked in zip(q_network, mine.q_networks.layers, strict=True):
                if isinstance(layer, th.nn.Linear):
                    same(stacked.weight[index].T, layer.weight)
                    same(stacked.bias[index, 0], layer.bias)
    if sb3.log_ent_coef is not None:
        same(ours.log_ent_coef, sb3.log_ent_coef)


def fill(buffer: Any) -> None:
    """The same transitions for everyone: episodes of 7 steps that terminate or are truncated in turn."""
    rng = np.random.default_rng(5)
    for t in range(TRANSITIONS):
        obs, next_obs = rng.uniform(-1, 1, (2, 1, OBS_DIM)).astype(np.float32)
        over, truncated = t % 7 == 6, t % 14 == 6
        action = rng.uniform(-1, 1, (1, ACTION_DIM)).astype(np.float32)
        buffer.add(obs, next_obs, action, rng.normal(size=1), np.array([over]), [{"TimeLimit.truncated": truncated}])


def arguments_of(variant: dict[str, Any]) -> dict[str, Any]:
    """
    :param variant: what differs from a tiny model
    :return: arguments of either class
    """
    policy_kwargs = {
        "net_arch": [8, 8],
        "features_extractor_class": AnyFloatExtractor,
        **variant.get("policy_kwargs", {}),
    }
    tiny = {
        "learning_rate": RATE,
        "tau": TAU,
        "batch_size": BATCH_SIZE,
        "buffer_size": 1000,
        "device": "cpu",
        "seed": 0,
    }
    return {**tiny, **variant, "policy_kwargs": policy_kwargs}


def get_ready(*models: Any) -> None:
    """Make ``train()`` callable without ``learn()``."""
    for model in models:
        model.set_logger(Logger(None, []))
        fill(model.replay_buffer)


def widen(sb3: SAC, ours: SACv2) -> None:
    """Have both compute in float64, and the same function."""
    to_double(sb3)
    to_double(ours)
    # SB3 adds epsilon to 1 - tanh(u)^2 lest its logarithm diverge, which shifts every log-probability by about 1e-6;
    # the stable form used here needs none. Without it the two are the same function.
    distribution = sb3.actor.action_dist
    (distribution.bijector if sb3.use_sde else distribution).epsilon = 0.0


def make_pair(variant: dict[str, Any], update_order: str = "sb3") -> tuple[SAC, SACv2]:
    """
    :param variant: what differs from a tiny model
    :param update_order: of the model of this package
    :return: two models with the same weights and transitions
    """
    arguments = arguments_of(variant)
    sb3 = SAC("MlpPolicy", Spaces(), **arguments)
    ours = SACv2(
        "MlpPolicy", Spaces(), ent_coef_loss="log_alpha", update_order=update_order, engine="eager", **arguments
    )
    get_ready(sb3, ours)
    copy_weights(sb3, ours)
    return sb3, ours


def train_pair(
    monkeypatch: pytest.MonkeyPatch, sb3: SAC, ours: SACv2, gradient_steps: int, seed: int, atol: float
) -> None:
    """
    One call of ``train()`` each, on the same rows of the buffers with the same noise; the losses must agree.

    :param monkeypatch: fixture
    :param sb3: Stable-Baselines3's model
    :param ours: the other
    :param gradient_steps: gradient steps
    :param seed: of rows and noise
    :param atol: tolerance of the losses
    """
    dtype = ours.log_ent_coef.dtype if ours.log_ent_coef is not None else next(ours.actor.parameters()).dtype
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, TRANSITIONS, BATCH_SIZE) for _ in range(gradient_steps)]
    shape = ours.actor.noise_shape(BATCH_SIZE)
    noises = []
    for _ in range(gradient_steps):
        first, second = (th.tensor(rng.normal(size=shape), dtype=dtype) for _ in range(2))
        # With gSDE, SB3 explores the sampled states and those that followed with one matrix
        noises.append(Noise(first, first if ours.use_sde else second))

    def draws(buffer: Any) -> Any:
        remaining = iter(rows)

        def draw(batch_size: int, env: Any = None) -> Any:
            samples = rows_at(buffer, next(remaining))
            return type(samples)(*(None if value is None else value.to(dtype) for value in samples))

        return draw

    def standard_normals() -> Iterator[th.Tensor]:
        for noise in noises:
            yield noise.actions
            # gSDE's second draw, one matrix for each environment, is not used in training
            yield noise.actions.unsqueeze(0) if ours.use_sde else noise.next_actions

    tape, own_noises, metrics = standard_normals(), iter(noises), []
    update = type(ours).update

    def recording_update(batch: Any, noise: Noise) -> dict[str, th.Tensor]:
        metrics.append(update(ours, batch, noise))
        return metrics[-1]

    with monkeypatch.context() as patch:
        patch.setattr(th.distributions.normal, "_standard_normal", lambda shape, dtype, device: next(tape))
        patch.setattr(sb3.replay_buffer, "sample", draws(sb3.replay_buffer))
        patch.setattr(ours.replay_buffer, "sample" if ours.n_steps > 1 else "draw", draws(ours.replay_buffer))
        patch.setattr(ours, "draw_noise", lambda batch_size: next(own_noises))
        patch.setattr(ours, "update", recording_update)
        sb3.train(gradient_steps, BATCH_SIZE)
        ours.train(gradient_steps, BATCH_SIZE)
    assert next(tape, None) is None, "Stable-Baselines3 drew less noise than it was given"

    logged = sb3.logger.name_to_value
    names = ["critic_loss", "actor_loss", "ent_coef"]
    if sb3.log_ent_coef is not None:
        names.append("ent_coef_loss")
    for name in names:
        mine = np.mean([step[name].item() for step in metrics])
        assert mine == pytest.approx(logged[f"train/{name}"], rel=atol, abs=atol), name
    assert ours.logger.name_to_value["train/learning_rate"] == logged["train/learning_rate"]


VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "fixed temperature": {"ent_coef": 0.25},
    "initial temperature, target entropy": {"ent_coef": "auto_0.1", "target_entropy": -0.5},
    "gSDE": {"use_sde": True},
    "gSDE with expln": {"use_sde": True, "policy_kwargs": {"use_expln": True, "log_std_init": 0.1, "clip_mean": 0.5}},
    "n-step returns": {"n_steps": 3, "gamma": 0.9},
    "architecture": {"policy_kwargs": {"net_arch": {"pi": [4], "qf": [8, 6]}, "activation_fn": th.nn.Tanh}},
    "one critic": {"policy_kwargs": {"n_critics": 1}},
    "five critics": {"policy_kwargs": {"n_critics": 5}},
    "no hidden layers": {"policy_kwargs": {"net_arch": []}},
    "features extractor": {"policy_kwargs": {"features_extractor_class": LearnedExtractor}},
    "shared features extractor": {
        "policy_kwargs": {"features_extractor_class": LearnedExtractor, "share_features_extractor": True}
    },
    "hard targets": {"tau": 1.0},
    "Adam's options": {"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5, "betas": (0.8, 0.99)}}},
    "AdamW": {"policy_kwargs": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}},
    "RMSprop": {"policy_kwargs": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"eps": 1e-5}}},
}
