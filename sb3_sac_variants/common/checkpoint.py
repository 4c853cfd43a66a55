"""Saving without ever losing a file, and loading with errors that say what is wrong with one."""

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

Path = str | pathlib.Path | io.BufferedIOBase


class SaveAndLoad(OffPolicyAlgorithm):
    """What :class:`MaxEntAlgorithm` changes in SB3's ``save`` and ``load``."""

    algorithm_id: ClassVar[str]

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:  # type: ignore[override]
        """
        As SB3's ``save``, but a file that is already there is replaced only by a complete one: an interruption or a
        full disk leaves the old one untouched.

        :param path: path (``.zip`` is added where there is no ending), or a file-like object
        :param exclude: attributes not to save, beside the default ones
        :param include: attributes to save although they are excluded by default
        """
        if not isinstance(path, str | pathlib.Path):
            super().save(path, exclude, include)  # type: ignore[arg-type]
            return
        final = pathlib.Path(path)
        if final.suffix == "":
            final = final.with_suffix(".zip")
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
        try:
            super().save(partial, exclude, include)
            os.replace(partial, final)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Any:
        """
        As SB3's ``load``, after a look at what the file is.

        :param path: path to the file, or a file-like object
        :param env: environment to run the model on
        :param device: device to load it to
        :param custom_objects: objects to put in the place of saved ones
        :param print_system_info: whether to print information on the system the model was saved on
        :param force_reset: whether to reset the environment before training goes on
        :param kwargs: arguments of the algorithm to change
        :return: the model
        :raises ValueError: if the file is damaged, or is no model of this algorithm
        :raises TypeError: if an argument is unknown
        """
        saved = _read_description(path)
        found = saved.get("algorithm")
        if found != cls.algorithm_id:
            policy_class = saved.get("policy_class") or {}
            origin = found or (policy_class.get("__module__") if isinstance(policy_class, dict) else None) or "unknown"
            remedy = "load it with the class it was saved with"
            if str(origin).startswith("stable_baselines3.sac"):
                remedy += ", or take it over with SACv2.from_sb3()"
            raise ValueError(
                f"path={_describe(path)!r} holds a model of another algorithm ({origin}), not {cls.__name__}: {remedy}"
            )
        unknown = sorted(set(kwargs) - set(saved) - {"seed"})
        if unknown:
            raise TypeError(
                f"{cls.__name__}.load() got unknown arguments {unknown}: pass names of the algorithm's arguments"
            )
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)  # type: ignore[arg-type]


def _describe(path: Path) -> str:
    return str(path) if isinstance(path, str | pathlib.Path) else f"<{type(path).__name__}>"


def _read_description(path: Path) -> dict[str, Any]:
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
                raise ValueError(f"path={_describe(path)!r} is damaged (in {damaged!r}): load another copy")
            data = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, zipfile.LargeZipFile, EOFError) as error:
        raise ValueError(
            f"path={_describe(path)!r} is damaged, or no saved model ({error}): load a file written by save()"
        ) from error
    finally:
        if hasattr(source, "seek"):
            source.seek(position)
    if not isinstance(data, dict):
        raise ValueError(f"path={_describe(path)!r} is no saved model: load a file written by save()")
    return data
