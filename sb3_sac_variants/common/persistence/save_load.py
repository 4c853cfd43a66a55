"""Saving without ever losing a file, and loading with errors that say what is wrong with one."""

import contextlib
import io
import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

from sb3_sac_variants.common.checks.validation import parse_ent_coef

Path = str | pathlib.Path | io.BufferedIOBase


@contextlib.contextmanager
def replaced_when_complete(path: Path) -> Iterator[Path]:
    """
    Write a file so that an interruption or a full disk leaves the old one untouched.

    :param path: path (``.zip`` is added where there is no ending), or a file-like object, which is written as it is
    :return: where to write; what is there at the end takes the place of the old file
    """
    if not isinstance(path, str | pathlib.Path):
        yield path
        return
    final = pathlib.Path(path)
    if final.suffix == "":
        final = final.with_suffix(".zip")
    final = final.resolve()  # through a link, as SB3 writes
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)


def check_model_file(cls: Any, path: Path, kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    Look at what a file is before anything in it is loaded.

    :param cls: the algorithm that is to be loaded
    :param path: path to the file, or a file-like object
    :param kwargs: arguments of the algorithm to change
    :return: the arguments by the names of the attributes they are saved under
    :raises ValueError: if the file is damaged, no model of this algorithm, or an argument does not go with it
    :raises TypeError: if an argument is unknown
    """
    saved = read_description(path)
    found = saved.get("algorithm")
    if found != cls.algorithm_id:
        policy_class = saved.get("policy_class") or {}
        origin = found or (policy_class.get("__module__") if isinstance(policy_class, dict) else None) or "unknown"
        remedy = "load it with the class it was saved with"
        if str(origin).startswith("stable_baselines3.sac"):
            remedy += ", or take it over with SACv2.from_sb3()"
        raise ValueError(
            f"path={describe(path)!r} holds a model of another algorithm ({origin}), not {cls.__name__}: {remedy}"
        )
    kwargs = dict(kwargs)
    if "stats_window_size" in kwargs:
        kwargs["_stats_window_size"] = kwargs.pop("stats_window_size")
    unknown = sorted(set(kwargs) - set(saved) - {"seed"})
    if unknown:
        raise TypeError(
            f"{cls.__name__}.load() got unknown arguments {unknown}: pass names of the algorithm's arguments"
        )
    if "use_sde" in kwargs and kwargs["use_sde"] != saved["use_sde"]:
        raise ValueError(
            f"use_sde={kwargs['use_sde']} does not go with path={describe(path)!r}, saved with use_sde="
            f"{saved['use_sde']}, which has other networks: make a new model"
        )
    if "ent_coef" in kwargs and parse_ent_coef(kwargs["ent_coef"])[1] != parse_ent_coef(saved["ent_coef"])[1]:
        raise ValueError(
            f"ent_coef={kwargs['ent_coef']!r} does not go with path={describe(path)!r}, saved with ent_coef="
            f"{saved['ent_coef']!r}: make a new model, and give its policy the state_dict of the saved one's"
        )
    return kwargs


@contextlib.contextmanager
def checked_replay_buffer(model: Any, path: Path) -> Iterator[None]:
    """
    Check the replay buffer that a model loads, and give it back its old one if the new one does not fit.

    :param model: the model, whose replay buffer is replaced inside
    :param path: where it is loaded from, for the errors
    :raises ValueError: if the file is damaged, or its transitions are not those of this model's environment
    """
    previous = model.replay_buffer
    try:
        with pickle_errors(path):
            yield
        for name in ("observation_space", "action_space", "n_envs"):
            found, wanted = getattr(model.replay_buffer, name), getattr(model, name)
            if found != wanted:
                raise ValueError(
                    f"path={describe(path)!r} holds a replay buffer with {name}={found}, not {wanted}: load "
                    "one of a model on the same environments"
                )
        found = getattr(model.replay_buffer, "n_steps", 1)
        if found != model.n_steps:
            raise ValueError(
                f"path={describe(path)!r} holds a replay buffer for n_steps={found}, not {model.n_steps}: load one "
                "of a model with the same n_steps"
            )
    except BaseException:
        model.replay_buffer = previous
        raise


@contextlib.contextmanager
def pickle_errors(path: Path) -> Iterator[None]:
    """
    :param path: what is being read
    :raises ValueError: in the place of the many errors that a damaged pickle raises
    """
    try:
        yield
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        AssertionError,
    ) as error:
        raise ValueError(
            f"path={describe(path)!r} is damaged, or holds something else ({type(error).__name__}: {error}): load "
            "another copy"
        ) from error


def describe(path: Path) -> str:
    return str(path) if isinstance(path, str | pathlib.Path) else f"<{type(path).__name__}>"


def read_description(path: Path) -> dict[str, Any]:
    """
    :param path: path to a saved model, or a file-like object
    :return: the saved attributes, those that are not plain data in their serialised form
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is no saved model, or damaged
    """
    source: Any = path
    if isinstance(path, str | pathlib.Path):
        source = pathlib.Path(path)
        if not source.is_file():
            source = source.with_name(source.name + ".zip")
        if not source.is_file():
            raise FileNotFoundError(f"path={str(path)!r}: there is no such file, with or without .zip")
    position = source.tell() if hasattr(source, "tell") else 0
    try:
        with zipfile.ZipFile(source) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"path={describe(path)!r} is damaged (in {damaged!r}): load another copy")
            data = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, zipfile.LargeZipFile, EOFError) as error:
        raise ValueError(
            f"path={describe(path)!r} is damaged, or no saved model ({error}): load a file written by save()"
        ) from error
    finally:
        if hasattr(source, "seek"):
            source.seek(position)
    if not isinstance(data, dict):
        raise ValueError(f"path={describe(path)!r} is no saved model: load a file written by save()")
    return data
