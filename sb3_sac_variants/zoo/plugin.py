"""What the RL Zoo has to know about the algorithms of this package, and the places where it wants to be told.

The zoo takes its algorithms from dictionaries, its default hyperparameters from files beside its own source, and
reads no entry points. :func:`extend` therefore adds to each of its modules what belongs there, called by the start-up
hook when the module is first imported or by :func:`register`. Nothing of the zoo is imported before that.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent


class ZooAlgorithm(NamedTuple):
    """Where the zoo finds an algorithm, each as ``module:name``.

    :param algorithm: The algorithm class
    :param sampler: Samples hyperparameters for an Optuna trial, see :mod:`sb3_sac_variants.zoo.samplers`
    :param converter: Turns the parameters of a finished trial into the hyperparameters that were sampled
    """

    algorithm: str
    sampler: str
    converter: str


_SAMPLERS = "sb3_sac_variants.zoo.samplers"

#: The zoo's ``--algo`` for each of our algorithms. Default hyperparameters: ``hyperparams/<algo>.yml``.
ZOO_ALGORITHMS = {
    "sac_v1": ZooAlgorithm(
        "sb3_sac_variants:SACv1", f"{_SAMPLERS}:sample_sac_v1_params", f"{_SAMPLERS}:convert_sac_v1_params"
    ),
    "sac_v2": ZooAlgorithm(
        "sb3_sac_variants:SACv2", f"{_SAMPLERS}:sample_sac_v2_params", f"{_SAMPLERS}:convert_sac_v2_params"
    ),
    "sql": ZooAlgorithm("sb3_sac_variants:SQL", f"{_SAMPLERS}:sample_sql_params", f"{_SAMPLERS}:convert_sql_params"),
    "masac": ZooAlgorithm(
        "sb3_sac_variants:MASAC", f"{_SAMPLERS}:sample_masac_params", f"{_SAMPLERS}:convert_masac_params"
    ),
}


def hyperparameter_file(algo: str) -> Path:
    """
    The file with our default hyperparameters for an algorithm, in the zoo's format.

    :param algo: The zoo's name of the algorithm, e.g. ``"sac_v1"``
    :return: The file inside the installed package, or in the checkout that an editable install points to
    """
    for folder in (PACKAGE / "hyperparams", PACKAGE.parent / "hyperparams"):
        if (file := folder / f"{algo}.yml").is_file():
            return file
    raise FileNotFoundError(
        f"No {algo}.yml under {PACKAGE} nor in hyperparams/ beside it: please reinstall the package"
    )


def register() -> None:
    """
    Import the RL Zoo and make it know our algorithms, samplers, default hyperparameters and environments.

    Needs no start-up hook and does no harm where there is one. Call it before the zoo builds a command line or an
    experiment.

    :raises ImportError: when the RL Zoo is not installed
    """
    try:
        modules = [importlib.import_module(name) for name in _EXTENSIONS]
    except ModuleNotFoundError as error:
        raise ImportError(
            f'The RL Zoo can\'t be imported ({error}): pip install "sb3-sac-variants[zoo]"', name=error.name
        ) from error
    for module in modules:
        extend(module)


def extend(module: ModuleType) -> None:
    """
    Add to one of the zoo's modules what it has to know about us; a second time changes nothing.

    :param module: ``rl_zoo3.utils``, ``rl_zoo3.hyperparams_opt`` or ``rl_zoo3.exp_manager``, already executed
    """
    _EXTENSIONS[module.__name__](module)


def _add_algorithms(utils: Any) -> None:
    # Our environments need nothing here: importing the package has registered them.
    utils.ALGOS.update({algo: resolve_name(entry.algorithm) for algo, entry in ZOO_ALGORITHMS.items()})


def _add_samplers(hyperparams_opt: Any) -> None:
    for algo, entry in ZOO_ALGORITHMS.items():
        hyperparams_opt.HYPERPARAMS_SAMPLER[algo] = resolve_name(entry.sampler)
        hyperparams_opt.HYPERPARAMS_CONVERTER[algo] = resolve_name(entry.converter)


def _use_our_hyperparameters(exp_manager: Any) -> None:
    manager = exp_manager.ExperimentManager
    manager.__init__ = _with_our_defaults(manager.__init__)


def _with_our_defaults(init: Callable[..., None]) -> Callable[..., None]:
    """``ExperimentManager.__init__`` that for our algorithms finds the default hyperparameters and heeds trial 0."""
    if hasattr(init, "_sb3_sac_variants"):
        return init
    signature = inspect.signature(init)

    @functools.wraps(init)
    def init_with_our_defaults(*args: Any, **kwargs: Any) -> None:
        call = signature.bind(*args, **kwargs)
        if (algo := call.arguments["algo"]) in ZOO_ALGORITHMS:
            call.arguments["config"] = call.arguments.get("config") or str(hyperparameter_file(algo))
            if (trial_id := call.arguments.get("trial_id")) is not None:
                call.arguments["trial_id"] = _TrialId(trial_id)
        init(*call.args, **call.kwargs)

    init_with_our_defaults._sb3_sac_variants = True  # type: ignore[attr-defined]
    return init_with_our_defaults


class _TrialId(int):
    """A trial number that counts as given when it is 0: the zoo tests its truth, and would ignore ``--trial-id 0``."""

    def __bool__(self) -> bool:
        return True


_EXTENSIONS: dict[str, Callable[[Any], None]] = {
    "rl_zoo3.utils": _add_algorithms,
    "rl_zoo3.hyperparams_opt": _add_samplers,
    "rl_zoo3.exp_manager": _use_our_hyperparameters,
}
