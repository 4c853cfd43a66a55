"""Read the files that the RL Zoo has written to the folder of a run, without running code that they name."""

import ast
import importlib
import sys
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import gymnasium as gym
import torch as th
import yaml
from rl_zoo3 import exp_manager
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_sac_variants.common.persistence.allowed import TRUSTED_VARIABLE, is_trusted

#: packages of which the zoo may import modules that a file names
_LIBRARIES = {"gymnasium", "rl_zoo3", "sb3_contrib", "sb3_sac_variants", "stable_baselines3"}
#: values in a file of arguments, at the most
MOST_VALUES = 10_000
#: hyperparameters that name classes to import, and what these have to be
_NAMED = {"policy": BasePolicy, "env_wrapper": gym.Wrapper, "vec_env_wrapper": VecEnvWrapper, "callback": BaseCallback}
#: hyperparameters that the zoo evaluates
_EVALUATED = ("normalize", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs")


class _SafeLoader(yaml.SafeLoader):
    """Reads the zoo's files, which are dictionaries in order, and nothing that could run code."""


def _ordered(loader: Any, node: Any) -> Any:
    return OrderedDict(loader.construct_sequence(node, deep=True)[0])


_SafeLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)


def _tuple(loader: Any, node: Any) -> Any:
    return tuple(loader.construct_sequence(node, deep=True))


_SafeLoader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def _class(loader: Any, name: str, node: Any) -> Any:
    """A class among ``policy_kwargs``, which ``--trial-id`` writes by its name; only one that is in memory."""
    module, _, cls = name.rpartition(".")
    found = vars(sys.modules[module]).get(cls) if module in sys.modules else None
    if not _is_argument(found):
        raise ValueError(f"{name} is neither a network nor an optimiser nor a replay buffer that is imported")
    return found


_SafeLoader.add_multi_constructor("tag:yaml.org,2002:python/name:", _class)


def check_files(folder: Path) -> None:
    """Refuse links and pipes among the files of a run: the zoo would write through a link, and wait for a pipe."""
    for path in (path for place in (folder, *folder.iterdir()) if place.is_dir() for path in place.iterdir()):
        if not path.is_dir() and (path.is_symlink() or not path.is_file()):
            raise ValueError(f"{str(path)!r} is a link or no file: put the file itself there, or remove it")


def _check_size(content: Any, file: Path) -> None:
    """Refuse a file whose parts refer to each other so often that nobody could print it."""
    waiting, count = [content], 0
    while waiting:
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"{str(file)!r} is damaged: it holds more than {MOST_VALUES} values")
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()


def read_yaml(file: Path) -> dict[str, Any]:
    """
    Read a file of arguments or hyperparameters.

    :param file: the file
    :return: what it holds
    :raises ValueError: if it is damaged, or holds Python objects and is not trusted
    """
    loader = yaml.UnsafeLoader if is_trusted(False) else _SafeLoader
    try:
        content = yaml.load(file.read_text(), loader)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{str(file)!r} is damaged, or holds Python objects, which are read with {TRUSTED_VARIABLE}=1 only: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(file)!r} is damaged: start the run again")
    _check_size(content, file)
    return content


def require_harmless(harmless: bool, file: Path, what: Any, importable: bool = False) -> None:
    """
    Refuse what may run code, unless files are trusted.

    :param harmless: whether it does not
    :param file: the file that asks for it
    :param what: what it asks for
    :param importable: whether it is known once its module is imported
    :raises ValueError: if it may
    """
    if not harmless and not is_trusted(False):
        remedy = "import its module first (--import) if it is yours, or " if importable else ""
        raise ValueError(
            f"{str(file)!r} asks for {what!r}, which may run code: {remedy}set {TRUSTED_VARIABLE}=1 if you trust the "
            "file"
        )


def check_hyperparameters(file: Path, hyperparameters: dict[str, Any], modules: Collection[str]) -> None:
    """
    Refuse what the zoo would import or evaluate, other than classes of known kinds, own wrappers and plain data.

    :param file: the file that they are from
    :param hyperparameters: of a run
    :param modules: names of imported modules whose functions may be wrappers
    :raises ValueError: if there is anything else and files are not trusted
    """
    for key, base in _NAMED.items():
        values = hyperparameters.get(key)
        for value in values if isinstance(values, list) else [values]:
            name = next(iter(value), None) if isinstance(value, dict) else value
            if isinstance(name, str) and (key != "policy" or "." in name):
                known = is_trusted(False) or is_class(name, base) or ("wrapper" in key and _is_function(name, modules))
                require_harmless(known, file, name, importable=True)
    for key in _EVALUATED:
        value = hyperparameters.get(key)
        if isinstance(value, str):
            try:
                plain = _is_plain(ast.parse(value.strip(), mode="eval").body)
            except (SyntaxError, ValueError, RecursionError):
                plain = False
            require_harmless(plain, file, value)


def is_class(name: str, base: type) -> bool:
    """Whether a name is of a class of a library, or one that is imported; of any module where files are trusted."""
    module, _, cls = name.rpartition(".")
    if not is_trusted(False) and module not in sys.modules and module.partition(".")[0] not in _LIBRARIES:
        return False
    found = getattr(importlib.import_module(module), cls, None)  # some libraries import their classes when asked
    return isinstance(found, type) and issubclass(found, base)


def _is_function(name: str, modules: Collection[str]) -> bool:
    """Whether a name is of a function that one of some imported modules defines."""
    module, _, function = name.rpartition(".")
    found = getattr(sys.modules.get(module), function, None) if module in modules else None
    return isinstance(found, FunctionType) and found.__module__ == module


def _is_plain(node: ast.AST) -> bool:
    """Whether an expression is plain data, ``dict(...)`` of such, or names a class that an argument may be."""
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
        return named and all(keyword.arg and _is_plain(keyword.value) for keyword in node.keywords)
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_is_plain, node.elts))
    if isinstance(node, ast.Dict):
        return all(key is not None and _is_plain(key) for key in node.keys) and all(map(_is_plain, node.values))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
    if isinstance(node, ast.Name | ast.Attribute):
        found: Any = exp_manager
        for part in ast.unparse(node).split("."):
            found = vars(found).get(part) if isinstance(found, ModuleType) else None
        return _is_argument(found)
    return isinstance(node, ast.Constant)


def _is_argument(found: Any) -> bool:
    """Whether it is a class that an argument of an algorithm may be."""
    return isinstance(found, type) and issubclass(found, (th.nn.Module, th.optim.Optimizer, BaseBuffer))
