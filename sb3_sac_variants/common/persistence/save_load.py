"""Saving without ever losing a file, and loading with errors that say what is wrong with one."""

import contextlib
import io
import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_sac_variants.common.algorithm.rollout import MaxEntRollout
from sb3_sac_variants.common.checks.validation import parse_ent_coef

Path = str | pathlib.Path | io.BufferedIOBase

#: what reading a damaged or foreign pickle may raise
DAMAGED_PICKLE = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, AssertionError)


class SaveAndLoad(MaxEntRollout):
    """What :class:`MaxEntAlgorithm` changes in SB3's ``save`` and ``load``."""

    algorithm_id: ClassVar[str]

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        As SB3's ``save``, but a file that is already there is replaced only by a complete one: an interruption or a
        full disk leaves the old one untouched.

        :param path: path (``.zip`` is added where there is no ending), or a file-like object
        :param exclude: attributes not to save, beside the default ones
        :param include: attributes to save although they are excluded by default
        """
        if not isinstance(path, str | pathlib.Path):
            super().save(path, exclude, include)
            return
        final = pathlib.Path(path)
        if final.suffix == "":
            final = final.with_suffix(".zip")
        final = final.resolve()  # through a link, as SB3 writes
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
        try:
            super().save(partial, exclude, include)
            os.replace(partial, final)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(
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
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def load_replay_buffer(self, path: Path, truncate_last_traj: bool = True) -> None:
        """
        As SB3's ``load_replay_buffer``, after a look at whether the buffer is one of this model.

        :param path: path to the file, or a file-like object
        :param truncate_last_traj: with ``HerReplayBuffer``, whether the last episode in it has ended
        :raises ValueError: if the file is damaged, or its transitions are not those of this model's environment
        """
        previous = self.replay_buffer
        try:
            with pickle_errors(path):
                super().load_replay_buffer(path, truncate_last_traj)
            assert self.replay_buffer is not None
            for name in ("observation_space", "action_space", "n_envs"):
                found, wanted = getattr(self.replay_buffer, name), getattr(self, name)
                if found != wanted:
                    raise ValueError(
                        f"path={describe(path)!r} holds a replay buffer with {name}={found}, not {wanted}: load "
                        "one of a model on the same environments"
                    )
            found = getattr(self.replay_buffer, "n_steps", 1)
            if found != self.n_steps:
                raise ValueError(
                    f"path={describe(path)!r} holds a replay buffer for n_steps={found}, not {self.n_steps}: load one "
                    "of a model with the same n_steps"
                )
        except BaseException:
            self.replay_buffer = previous
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
