"""Adds algorithms to the RL Zoo: ours, and those that other packages declare.

The zoo keeps its algorithms in dictionaries and its default hyperparameters in files beside its own source; it reads no
entry points. We read them for it. A package adds an algorithm by an entry point of the group ``rl_zoo3.algorithms``:
its name is the zoo's ``--algo``, its value a :class:`ZooAlgorithm`. The start-up hook calls :func:`extend` when one of
the zoo's modules is first imported, :func:`register` calls it for all of them. Nothing of the zoo is imported earlier.
"""

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, NamedTuple

from sb3_sac_variants.zoo.search import with_policy_of_trial, with_search

#: The group of entry points that name algorithms.
GROUP = "rl_zoo3.algorithms"
DISTRIBUTION = "sb3-sac-variants"
PACKAGE = Path(__file__).resolve().parent.parent
#: Learning rates beside ``learning_rate``. The zoo knows only that one as a schedule.
LEARNING_RATES = ("qf_learning_rate", "ent_coef_learning_rate")


class ZooAlgorithm(NamedTuple):
    """What the zoo needs to know about an algorithm.

    Classes and functions may be given as ``"module:name"``; they are then imported when the zoo asks for them.

    :param algorithm: The algorithm class
    :param hyperparameters: The YAML file with its default hyperparameters, in the zoo's format
    :param sampler: Samples hyperparameters for an Optuna trial, as those of ``rl_zoo3.hyperparams_opt`` do, but that it
        is told the product of the shape of Box actions, and that its ``policy_kwargs`` replace only those of the same
        name; None where the algorithm cannot be tuned by ``-optimize``
    :param converter: Turns the parameters of a finished trial into the hyperparameters that were sampled
    """

    algorithm: type | str
    hyperparameters: Path | str
    sampler: Callable[..., dict[str, Any]] | str | None = None
    converter: Callable[..., dict[str, Any]] | str | None = None


def _ours(algo: str, name: str) -> ZooAlgorithm:
    # Beside the package in a checkout, which an editable install points to; inside the package in a wheel
    folders = [PACKAGE / "hyperparams", PACKAGE.parent / "hyperparams"]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    samplers = "sb3_sac_variants.zoo.samplers"
    return ZooAlgorithm(
        f"sb3_sac_variants:{name}",
        folder / f"{algo}.yml",
        f"{samplers}:sample_{algo}_params",
        f"{samplers}:convert_{algo}_params",
    )


# Declared as entry points in pyproject.toml.
SAC_V1 = _ours("sac_v1", "SACv1")
SAC_V2 = _ours("sac_v2", "SACv2")
SQL = _ours("sql", "SQL")
MASAC = _ours("masac", "MASAC")


def register() -> None:
    """Import the RL Zoo and add our algorithms, and those of other installed packages, to it.

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
    """Add to one of the zoo's modules what belongs there; a second time changes nothing.

    :param module: ``rl_zoo3.utils``, ``rl_zoo3.hyperparams_opt`` or ``rl_zoo3.exp_manager``, already executed
    """
    _EXTENSIONS[module.__name__](module)


def hyperparameter_file(algo: str) -> Path:
    """Find the default hyperparameters of an algorithm.

    :param algo: The zoo's name of the algorithm, e.g. ``"sac_v1"``
    :return: The file that the algorithm's package names
    :raises ValueError: when no installed package declares the algorithm
    :raises FileNotFoundError: when the file is not there
    """
    entry = _entry(algo)
    file = Path(entry.load().hyperparameters)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}, the hyperparameters of {algo}, is missing: please reinstall {_package(entry)}"
        )
    return file


def _entry(algo: str) -> EntryPoint:
    """Find the declaration of an algorithm; ValueError when there is none."""
    entry = next((entry for entry in _declared() if entry.name == algo), None)
    if entry is None:
        raise ValueError(f"no installed package declares algo={algo!r} by an entry point {GROUP!r}: please install one")
    return entry


def _check_tunable(algo: str, part: str, option: str) -> None:
    """Refuse an option that needs a sampler or a converter where the algorithm's declaration has none."""
    entry = _entry(algo)
    if getattr(entry.load(), part) is None:
        raise ValueError(
            f"{option} needs a {part} of algo={algo!r}: {entry.value!r} of {_package(entry)} must name one"
        )


def _declared() -> list[EntryPoint]:
    """Return the algorithms of all installed packages, none of them imported yet. Of one name the first counts."""
    declared = sorted(entry_points(group=GROUP), key=lambda entry: _package(entry) != DISTRIBUTION)
    if not declared or _package(declared[0]) != DISTRIBUTION:
        raise RuntimeError(
            f"the installed metadata of {DISTRIBUTION} has no entry points {GROUP!r}: please install the package anew "
            "(in a checkout: pip install -e .)"
        )
    return declared


def _package(entry: EntryPoint) -> str:
    return entry.module if entry.dist is None else entry.dist.name


def _resolve(value: Any) -> Any:
    return resolve_name(value) if isinstance(value, str) else value


def _fill(**tables: dict[str, Any]) -> None:
    """Fill dictionaries of the zoo. A faulty declaration costs nobody else an algorithm.

    :param tables: The zoo's, by names of algorithms; each for the attribute of a :class:`ZooAlgorithm` that it is named
    """
    faults = []
    for entry in _declared():
        try:
            values = {name: _resolve(getattr(entry.load(), name)) for name in tables}
        except (Exception, SystemExit) as error:
            faults.append(f"{entry.name!r}, since {entry.value!r} of {_package(entry)} is broken: {error!r}")
            continue
        for name, value in values.items():
            if value is not None and tables[name].setdefault(entry.name, value) != value:  # a method is made anew
                faults.append(f"the {entry.name!r} of {_package(entry)}, since another algorithm has this name")
    for fault in faults:  # at the end, since a filter may make errors of warnings
        warnings.warn(f"The RL Zoo goes without {fault}", stacklevel=3)


def _add_algorithms(utils: Any) -> None:
    # Our environments need nothing here: importing the package has registered them.
    _fill(algorithm=utils.ALGOS)


def _add_samplers(hyperparams_opt: Any) -> None:
    _fill(sampler=hyperparams_opt.HYPERPARAMS_SAMPLER, converter=hyperparams_opt.HYPERPARAMS_CONVERTER)


def _extend_manager(exp_manager: Any) -> None:
    manager = exp_manager.ExperimentManager
    if not hasattr(manager.__init__, "_sb3_sac_variants"):
        zoo_files = Path(exp_manager.__file__).parent / "hyperparams"
        zoo_names = {file.stem for file in zoo_files.glob("*.yml")}

        def is_declared(algo: str) -> bool:
            return algo not in zoo_names and algo in {entry.name for entry in _declared()}

        manager.__init__ = _with_defaults(manager.__init__, is_declared)
        manager.read_hyperparameters = with_policy_of_trial(manager.read_hyperparameters, is_declared, exp_manager)
        manager._preprocess_action_noise = with_search(
            manager._preprocess_action_noise, is_declared, lambda algo: _resolve(_entry(algo).load().sampler)
        )
        manager._preprocess_schedules = staticmethod(_with_schedules(manager._preprocess_schedules, exp_manager))
        manager.create_callbacks = _with_checkpoints(manager.create_callbacks)


def _with_defaults(init: Callable[..., None], is_declared: Callable[[str], bool]) -> Callable[..., None]:
    """Let ``ExperimentManager.__init__`` find the hyperparameters of declared algorithms, and heed their trial 0."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def init_with_defaults(*args: Any, **kwargs: Any) -> None:
        call = signature.bind(*args, **kwargs)
        algo = call.arguments["algo"]
        if is_declared(algo):
            call.arguments["config"] = call.arguments.get("config") or str(hyperparameter_file(algo))
            if call.arguments.get("optimize_hyperparameters"):
                _check_tunable(algo, "sampler", "-optimize")
            if (trial_id := call.arguments.get("trial_id")) is not None:
                _check_tunable(algo, "converter", "--trial-id")
                call.arguments["trial_id"] = _TrialId(trial_id)
        init(*call.args, **call.kwargs)

    init_with_defaults._sb3_sac_variants = True  # type: ignore[attr-defined]
    return init_with_defaults


class _TrialId(int):
    """A trial number that counts as given when it is 0: the zoo tests its truth, and would ignore ``--trial-id 0``."""

    def __bool__(self) -> bool:
        return True


def _with_schedules(preprocess: Callable[..., dict[str, Any]], exp_manager: Any) -> Callable[..., dict[str, Any]]:
    """Let ``lin_3e-4`` be a schedule for the learning rates of critics and temperature, too."""

    @functools.wraps(preprocess)
    def preprocess_with_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        for name in LEARNING_RATES:
            rate = hyperparams.get(name)
            if isinstance(rate, str) and rate.startswith("lin_"):
                hyperparams[name] = exp_manager.SimpleLinearSchedule(rate.removeprefix("lin_"))
        return preprocess(hyperparams)

    return preprocess_with_schedules


def _with_checkpoints(create_callbacks: Callable[[Any], None]) -> Callable[[Any], None]:
    """
    Let ``RunCheckpointCallback`` save to the folder of the run, and refuse ``-i`` with its checkpoint.

    Trials of ``-optimize`` do without it: they have no folder of their own, and are not taken up again.
    """

    @functools.wraps(create_callbacks)
    def create_with_checkpoints(manager: Any) -> None:
        from rl_zoo3.utils import get_callback_list

        from sb3_sac_variants.common.callbacks import RunCheckpointCallback
        from sb3_sac_variants.common.persistence.checkpoint_folder import MARK

        if manager.trained_agent and (Path(manager.trained_agent).parent / MARK).is_file():
            raise ValueError(
                f"trained_agent={manager.trained_agent!r} is part of a checkpoint, which -i would take for a new run: "
                "python -m sb3_sac_variants.zoo resume FOLDER goes on with the run in that folder"
            )
        for callback in manager.callbacks:
            if isinstance(callback, RunCheckpointCallback) and callback.path is None:
                callback.path = Path(manager.save_path) / "checkpoint"
        if manager.optimize_hyperparameters:
            given = manager.specified_callbacks
            kept = [
                entry
                for entry in (given if isinstance(given, list) else [given])
                for callback in get_callback_list({"callback": entry})
                if not isinstance(callback, RunCheckpointCallback)
            ]
            if len(kept) < len(manager.callbacks):
                warnings.warn("RunCheckpointCallback is left out of the trials of -optimize", stacklevel=2)
                manager.specified_callbacks = kept
        create_callbacks(manager)

    return create_with_checkpoints


_EXTENSIONS: dict[str, Callable[[Any], None]] = {
    "rl_zoo3.utils": _add_algorithms,
    "rl_zoo3.hyperparams_opt": _add_samplers,
    "rl_zoo3.exp_manager": _extend_manager,
}
