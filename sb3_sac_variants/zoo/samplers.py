"""Optuna samplers for the RL Zoo's ``-optimize``, and the converters of finished trials.

What our algorithms share with Stable-Baselines3's SAC (discount, batch size, learning rate, update frequency, tau,
network size, HER) is sampled by the zoo's own SAC sampler; each sampler here adds what its algorithm adds. The zoo
loads a finished trial (``--trial-id``) by handing the converter nothing but ``trial.params``, so everything a sampler
decides is a parameter of the trial, and ``convert_*(trial.params)`` equals what ``sample_*`` returned: arguments of the
algorithm. A sampler takes the trial, the dimension of the actions (the product of their shape; 0 when they are
discrete), the number of training environments, and the zoo's ``using_her_replay_buffer`` and ``her_kwargs``.

Every parameter is asked for in every trial, also where another one makes it idle: the zoo's multivariate TPE samples
parameters that appear only now and then independently of the others, with a warning each time.
"""

from typing import Any

import optuna

_HER_SAMPLED = ("n_sampled_goal", "goal_selection_strategy")
_HER_GIVEN = "her_"
_SHARED_NETWORKS = ("share_actor", "share_critic")
#: What trials of SACv1 and SQL have, whatever was given: a temperature that is not learned has no learning rate
FIXED_TEMPERATURE = {"ent_coef": 1.0, "ent_coef_learning_rate": None}


def sample_sac_v1_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters for SACv1: SAC's, the reward scale, and soft or hard target copies.

    The temperature is held at 1, since reward scale and temperature say the same thing twice (Haarnoja et al. 2018,
    section 3.2). A hard copy of the value network (section 5.2) every 100 to 10 000 gradient steps replaces the
    moving average in half of the trials.
    """
    _suggest_reward_scale_and_targets(trial)
    _suggest_shared_params(trial, n_actions, n_envs, additional_args)
    return convert_sac_v1_params(trial.params)


def convert_sac_v1_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a SACv1 trial into the arguments that were sampled."""
    return _convert_targets(_convert_shared_params(sampled_params))


def sample_sac_v2_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters for SACv2: SAC's, the target entropy, the first temperature and the target interval.

    The target entropy lies around the -dim(A) of Haarnoja et al. 2019 (appendix D), from a quarter to twice of it; with
    discrete actions it is a fraction of the uniform policy's entropy.
    """
    if n_actions > 0:
        trial.suggest_float("target_entropy", -2.0 * n_actions, -0.25 * n_actions)
    else:
        trial.suggest_float("target_entropy_ratio", 0.2, 0.95)
    trial.suggest_float("initial_ent_coef", 0.01, 1.0, log=True)
    trial.suggest_int("target_update_interval", 1, 8, log=True)
    _suggest_shared_params(trial, n_actions, n_envs, additional_args)
    return convert_sac_v2_params(trial.params)


def convert_sac_v2_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a SACv2 trial into the arguments that were sampled."""
    hyperparams = _convert_shared_params(sampled_params)
    hyperparams["ent_coef"] = f"auto_{hyperparams.pop('initial_ent_coef')}"
    if "target_entropy_ratio" in hyperparams:
        hyperparams["target_entropy"] = f"auto_{hyperparams.pop('target_entropy_ratio')}"
    return hyperparams


def sample_sql_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters for SQL: SAC's, the reward scale, soft or hard target copies, and numbers of particles.

    Particles are for continuous actions. The temperature is held at 1, as for SACv1; the hard copies are those of
    Haarnoja et al. 2017 (appendix D).
    """
    _suggest_reward_scale_and_targets(trial)
    if n_actions > 0:
        trial.suggest_categorical("n_value_particles", [16, 32, 64])
        trial.suggest_categorical("n_svgd_particles", [8, 16, 32])
        trial.suggest_float("svgd_update_ratio", 0.25, 0.75)
    _suggest_shared_params(trial, n_actions, n_envs, additional_args)
    hyperparams = convert_sql_params(trial.params)
    trial.set_user_attr("batch_size", hyperparams["batch_size"])  # which the zoo prints, and has set to its own
    return hyperparams


def convert_sql_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Turn the parameters of a SQL trial into the arguments that were sampled.

    Batches are of 256 at most: each row of one has particles of its own, so that the zoo's 2048 take a minute for what
    256 do in a second.
    """
    hyperparams = _convert_targets(_convert_shared_params(sampled_params))
    return {**hyperparams, "batch_size": min(hyperparams["batch_size"], 256)}


def sample_masac_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters for MASAC: SAC's, target entropy, first temperature, and which networks the agents share.

    The target entropy of each agent lies between a quarter and twice the usual one; with discrete actions it is 0.1 to
    0.9 of the uniform policy's. The cross-entropy's coefficient is part of the task, as rewards are, and stays what it
    was.

    :param n_actions: Dimension of all agents' actions together; 0 when they are discrete
    """
    trial.suggest_float("target_entropy_factor", *((0.25, 2.0) if n_actions > 0 else (0.1, 0.9)))
    trial.suggest_float("initial_ent_coef", 0.01, 1.0, log=True)
    for name in _SHARED_NETWORKS:
        trial.suggest_categorical(name, [False, True])
    _suggest_shared_params(trial, n_actions, n_envs, additional_args)
    return convert_masac_params(trial.params)


def convert_masac_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a MASAC trial into the arguments that were sampled."""
    hyperparams = _convert_shared_params(sampled_params)
    hyperparams["target_entropy"] = f"auto_{hyperparams.pop('target_entropy_factor')}"
    hyperparams["ent_coef"] = f"auto_{hyperparams.pop('initial_ent_coef')}"
    hyperparams["policy_kwargs"].update({name: hyperparams.pop(name) for name in _SHARED_NETWORKS})
    return hyperparams


def _suggest_reward_scale_and_targets(trial: optuna.Trial) -> None:
    """Sample what the algorithms with a fixed temperature add to SAC's parameters."""
    trial.suggest_float("reward_scale", 0.1, 1000.0, log=True)
    trial.suggest_categorical("hard_target_update", [False, True])
    trial.suggest_int("hard_target_update_interval", 100, 10_000, log=True)


def _convert_targets(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Set the temperature to 1, and the targets to hard copies at the sampled interval or to a moving average."""
    hyperparams.update(FIXED_TEMPERATURE)
    interval = hyperparams.pop("hard_target_update_interval")
    if hyperparams.pop("hard_target_update"):
        hyperparams.update(tau=1.0, target_update_interval=interval)
    else:
        hyperparams["target_update_interval"] = 1
    return hyperparams


def _suggest_shared_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> None:
    """Sample what we share with SAC, by the zoo's sampler; what HER was given besides becomes a choice of one."""
    from rl_zoo3.hyperparams_opt import sample_sac_params  # not above: importing it makes the zoo ask for this module

    sample_sac_params(trial, n_actions, n_envs, additional_args)
    if additional_args["using_her_replay_buffer"]:
        for name, value in additional_args["her_kwargs"].items():
            if name not in _HER_SAMPLED:
                trial.suggest_categorical(_HER_GIVEN + name, [value])


def _convert_shared_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Convert what we share with SAC, by the zoo's converter.

    The parameters of the HER buffer go back into their dictionary. There is one update for each environment step, with
    several environments too (the zoo's is one for each step of all of them).
    """
    from rl_zoo3.hyperparams_opt import convert_offpolicy_params

    hyperparams = dict(sampled_params)
    her_kwargs = {name: hyperparams.pop(name) for name in _HER_SAMPLED if name in hyperparams}
    for name in [name for name in hyperparams if name.startswith(_HER_GIVEN)]:
        her_kwargs[name.removeprefix(_HER_GIVEN)] = hyperparams.pop(name)
    if her_kwargs:
        hyperparams["replay_buffer_kwargs"] = her_kwargs
    return {**convert_offpolicy_params(hyperparams), "gradient_steps": -1}
