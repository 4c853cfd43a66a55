"""What a trained model thinks of states and actions, as methods of all algorithms: NumPy in, NumPy out."""

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_sac_variants.common.checks.data import check_observation
from sb3_sac_variants.common.checks.validation import check_range
from sb3_sac_variants.common.networks.preprocessing import batch_size

Observation = np.ndarray | dict[str, np.ndarray]


def q_value(model: Any, observation: Observation, action: np.ndarray) -> np.ndarray:
    """
    Q(s, a), the minimum over the critics, ``(n,)``, or ``(n, N)`` with N agents, for analysis and plots.

    :param observation: one observation or n of them (normalised, where VecNormalize is used)
    :param action: actions as the environment takes them, ``(n, *action_shape)``
    :raises ValueError: if the observation does not fit its space or is not finite, or there is not one action of the
        action space for each
    """
    model.policy.find_modules()
    model.policy.set_training_mode(False)
    obs, _ = model.policy.obs_to_tensor(observation)
    check_observation(observation)
    actions = th.as_tensor(_checked_actions(model, action, batch_size(obs)), device=model.device)
    with th.no_grad():
        q_values = model.critic.evaluate(obs, actions.reshape(-1, get_action_dim(model.action_space)))
    return _by_state(model, q_values.amin(dim=0))


def soft_value(model: Any, observation: Observation, n_samples: int = 64) -> np.ndarray:
    """
    Soft state value V(s), ``(n,)``, or ``(n, N)`` with N agents, for analysis and plots.

    It is that of the value network where the algorithm has one, else the mean of min Q - alpha log pi over sampled
    actions, or its exact sum over discrete ones (with several agents over an agent's own, and the mean over the others'
    sampled ones, the cross-entropy between policies included). The random state of the training stays untouched.

    :param observation: one observation or n of them (normalised, where VecNormalize is used)
    :param n_samples: actions to sample for each observation, where some are sampled
    :raises ValueError: if the observation does not fit its space or is not finite, or ``n_samples`` is below 1
    """
    check_range("n_samples", n_samples, 1, integer=True)
    model.policy.find_modules()
    model.policy.set_training_mode(False)
    obs, _ = model.policy.obs_to_tensor(observation)
    check_observation(observation)
    generator = th.Generator(model.device).manual_seed(0)
    with th.no_grad():
        noise = model._draw_inspection_noise(n_samples, batch_size(obs), generator)
        values = th.stack([model._soft_value(obs, sample_noise) for sample_noise in noise])
    return _by_state(model, values.mean(dim=0))


def _by_state(model: Any, values: th.Tensor) -> np.ndarray:
    """A number for each state, or one for each of its agents."""
    return values.reshape(-1, *model.value_shape).cpu().numpy()


def _checked_actions(model: Any, action: np.ndarray, count: int) -> np.ndarray:
    """Check that there are ``count`` actions and that they exist, and scale them as the replay buffer has them."""
    space, actions = model.action_space, np.asarray(action)
    wanted = f"pass one action of {space} for each of the {count} observations"
    kinds = "iuf" if isinstance(space, spaces.Box) else "iu"
    shapes = [(count, *space.shape), *([space.shape] if count == 1 else [])]
    fits = actions.shape in shapes or (math.prod(space.shape) == 1 and actions.size == count)
    if actions.dtype.kind not in kinds or not fits:
        raise ValueError(f"action={action!r} has not the shape {(count, *space.shape)} or type {space.dtype}: {wanted}")
    if isinstance(space, spaces.Box):
        scaled = model.policy.scale_action(actions.reshape(count, *space.shape)).astype(np.float32)
        good = np.abs(scaled) <= 1 + 1e-4  # rounding may put an action at a bound beyond it
        actions = scaled
    else:
        count_of = space.n if isinstance(space, spaces.Discrete) else space.nvec
        good = (actions >= 0) & (actions.reshape(count, *space.shape) < count_of).reshape(actions.shape)
    if not good.all():
        raise ValueError(f"action={action!r} is not in the action space: {wanted}")
    return actions
