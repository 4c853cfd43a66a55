"""What a trained model thinks of states and actions: NumPy in, NumPy out, for analysis and plots."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_sac_variants.common.checks.validation import check_range

Observation = np.ndarray | dict[str, np.ndarray]


def q_value(model: Any, observation: Observation, action: np.ndarray) -> np.ndarray:
    """
    Q(s, a), the minimum over the critics.

    :param model: an algorithm
    :param observation: one observation or n of them
    :param action: actions as the environment takes them, ``(n, *action_shape)``
    :return: ``(n,)``
    """
    model.policy.set_training_mode(False)
    obs, _ = model.policy.obs_to_tensor(observation)
    if isinstance(model.action_space, spaces.Box):
        action = np.asarray(action).reshape(-1, *model.action_space.shape)
        action = model.policy.scale_action(action).astype(np.float32)  # the bounds may be float64
    actions = th.as_tensor(action, device=model.device)
    with th.no_grad():
        q_values = model.critic.evaluate(obs, actions.reshape(-1, get_action_dim(model.action_space)))
    return q_values.amin(dim=0).squeeze(1).cpu().numpy()


def soft_value(model: Any, observation: Observation, n_samples: int) -> np.ndarray:
    """
    V(s), averaged over the noise that ``model._draw_inspection_noise`` gives.

    Draws from a generator of its own, so that the random state of the training stays untouched.

    :param model: an algorithm
    :param observation: one observation or n of them
    :param n_samples: continuous actions to sample for each observation
    :return: ``(n,)``
    """
    check_range("n_samples", n_samples, 1, integer=True)
    model.policy.set_training_mode(False)
    obs, _ = model.policy.obs_to_tensor(observation)
    batch_size = next(iter(obs.values())).shape[0] if isinstance(obs, dict) else obs.shape[0]
    generator = th.Generator(model.device).manual_seed(0)
    with th.no_grad():
        noise = model._draw_inspection_noise(n_samples, batch_size, generator)
        values = th.stack([model._soft_value(obs, sample_noise) for sample_noise in noise])
    return values.mean(dim=0).squeeze(1).cpu().numpy()
