"""What ``-optimize`` and ``--trial-id`` do with hyperparameters of declared algorithms, beside what the zoo does."""

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Callable
from typing import Any


def with_policy_of_trial(
    read: Callable[[Any], Any], is_declared: Callable[[str], bool], exp_manager: Any
) -> Callable[[Any], Any]:
    """
    Let ``--trial-id`` change of the ``policy_kwargs`` only what the trial has sampled.

    The zoo replaces all of them. What wins is the same as for all arguments: ``-params``, then the trial, then the
    file.
    """

    @functools.wraps(read)
    def read_with_policy_of_trial(manager: Any) -> Any:
        trial_id, custom = manager.trial_id, manager.custom_hyperparams or {}
        if trial_id is None or not (manager.storage and manager.study_name and is_declared(manager.algo)):
            return read(manager)
        manager.trial_id = None
        with contextlib.redirect_stdout(io.StringIO()):  # where the zoo lists what it reads
            given = read(manager)[0].get("policy_kwargs")
        manager.trial_id = trial_id
        given = eval(given, vars(exp_manager)) if isinstance(given, str) else given  # as the zoo does later on
        sampled = manager.load_trial(manager.storage, manager.study_name, trial_id).get("policy_kwargs")
        if merged := _merged(sampled, given) if "policy_kwargs" in custom else _merged(given, sampled):
            manager.custom_hyperparams = {**custom, "policy_kwargs": merged}
        return read(manager)

    return read_with_policy_of_trial


def with_search(
    preprocess: Callable[..., Any], is_declared: Callable[[str], bool], sampler_of: Callable[[str], Any]
) -> Callable[..., Any]:
    """
    Prepare what ``-optimize`` begins with, where the zoo looks at the space of actions.

    It takes the first number of a space's shape for the dimension of the actions, and lets what a trial samples replace
    all ``policy_kwargs``.
    """

    @functools.wraps(preprocess)
    def preprocess_with_search(manager: Any, hyperparams: Any, saved_hyperparams: Any, env: Any) -> Any:
        hyperparams = preprocess(manager, hyperparams, saved_hyperparams, env)
        if not manager.optimize_hyperparameters or not is_declared(manager.algo):
            return hyperparams
        if manager.n_actions > 0:  # 0 where it is no Box
            manager.n_actions = math.prod(env.action_space.shape)
        _warn_of_temperature(manager.algo, sampler_of(manager.algo), hyperparams)
        return _Searched(hyperparams)

    return preprocess_with_search


class _Searched(dict[str, Any]):
    """Hyperparameters that the zoo copies for each trial, and updates with what was sampled."""

    def copy(self) -> "_Searched":
        return _Searched(self)

    def update(self, sampled: dict[str, Any]) -> None:  # type: ignore[override]
        """Take over what a trial has sampled; of the ``policy_kwargs`` the others stay."""
        if merged := _merged(self.get("policy_kwargs"), sampled.get("policy_kwargs")):
            sampled = {**sampled, "policy_kwargs": merged}
        super().update(sampled)


def _merged(*several: Any) -> dict[str, Any]:
    """Merge ``policy_kwargs``, of which the last ones count; None is for none."""
    merged: dict[str, Any] = {}
    for policy_kwargs in several:
        if not isinstance(policy_kwargs, dict | None):
            raise TypeError(f"policy_kwargs={policy_kwargs!r} is no dictionary: pass one, dict(net_arch=[64, 64]) say")
        merged.update(policy_kwargs or {})
    return merged


def _warn_of_temperature(algo: str, sampler: Any, hyperparams: dict[str, Any]) -> None:
    """Say which temperature a sampler sets that samples the reward scale in its place."""
    from sb3_sac_variants.zoo import samplers  # not above: it needs Optuna

    fixed = samplers.FIXED_TEMPERATURE
    if sampler not in (samplers.sample_sac_v1_params, samplers.sample_sql_params):
        return
    given = {name: hyperparams[name] for name in fixed if hyperparams.get(name) not in (None, fixed[name])}
    if given:
        warnings.warn(
            f"-optimize leaves out {', '.join(f'{name}={value!r}' for name, value in given.items())}: trials of {algo} "
            f"have ent_coef={fixed['ent_coef']}, and sample reward_scale in its place. For a learned "
            "temperature tune sac_v2",
            stacklevel=3,
        )
