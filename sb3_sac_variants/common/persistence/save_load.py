"""Save and load models and replay buffers: no file is lost, none runs code, and errors say what is wrong with one."""

import base64
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_sac_variants.common.checks.validation import parse_ent_coef
from sb3_sac_variants.common.persistence.allowed import is_trusted, read_pickle
from sb3_sac_variants.common.persistence.files import Path, describe, file_errors, find, refuse, written_whole
from sb3_sac_variants.common.persistence.rebuild import NotAllowed

#: what stands before the hash of a file's content, in the comment of a zip or behind a pickle
HASH = b"sha256:"
#: names of the states that a model saves: of its policy, its temperature, and optimisers of either
_PARAMETERS = re.compile(r"policy|temperature|(\w+\.)?\w*optimizer")
#: attributes that hold classes, and what these have to be
_CLASSES: dict[str, type] = {
    "policy_class": BasePolicy,
    "replay_buffer_class": BaseBuffer,
    "features_extractor_class": BaseFeaturesExtractor,
    "optimizer_class": th.optim.Optimizer,
    "activation_fn": th.nn.Module,
}
#: attributes of which those hold classes
_WITH_CLASSES = ("policy_class", "replay_buffer_class", "policy_kwargs", "replay_buffer_kwargs")
#: attributes that a model without an environment does not have yet
_SPACES = ("observation_space", "action_space")
#: attributes that are made anew from others
_DERIVED = ("lr_schedule", "_qf_lr_schedule", "_ent_coef_lr_schedule")


# ---------------------------------------------------------------- models


def save_model(save: Callable[..., None], path: Path, exclude: Any, include: Any) -> None:
    """
    Save a model. A file that is already there is replaced only by a complete one.

    :param save: SB3's ``save``
    :param path: path (``.zip`` is added where there is no ending), or a file-like object, which is written as it is
    :param exclude: attributes not to save, beside the default ones
    :param include: attributes to save although they are excluded by default
    :raises TypeError: if ``exclude`` or ``include`` is a single name
    """
    for name, value in (("exclude", exclude), ("include", include)):
        if isinstance(value, str) or not isinstance(value, Iterable | None):
            raise TypeError(f"{name}={value!r} must be several names of attributes: pass a list, as {name}=[{value!r}]")
    if not isinstance(path, str | os.PathLike):
        save(path, exclude, include)
        return
    with written_whole(path, ".zip") as file:
        save(file, exclude, include)
        file.seek(0)
        digest = HASH + hashlib.sha256(file.read()[:-2]).hexdigest().encode()
        file.seek(-2, os.SEEK_END)  # the length of the comment, which comes last
        file.write(struct.pack("<H", len(digest)) + digest)


class ModelFile:
    """
    A saved model, of which nothing has been loaded yet.

    :param path: path to the file, or a file-like object
    :param call: the method that loads, for errors
    :param name: of the argument that gave the path, for errors
    :raises TypeError: if it is neither
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is no saved model, or damaged
    """

    def __init__(self, path: Path, call: str = "load", name: str = "path"):
        self.path, self.call, self.name = path, call, name
        if hasattr(path, "read") and not isinstance(path, os.PathLike):
            file: Any = path
            with file_errors(path, call, name):
                position = file.tell()
                file.seek(0)
                content = file.read()
                file.seek(position)
        else:
            content = find(path, ".zip", name).read_bytes()
        self.content = content
        with self.errors(), zipfile.ZipFile(io.BytesIO(content)) as archive:
            comment = archive.comment
            if comment.startswith(HASH):
                digest = hashlib.sha256(content[: -len(comment) - 2]).hexdigest()
                require_hash(digest == comment[len(HASH) :].decode())
            elif (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"in {damaged!r}")
            self.saved = json.loads(archive.read("data"))
            if not isinstance(self.saved, dict):
                raise TypeError("no saved model")
            self.variables: dict[str, Any] = {}
            # The latter before SB3 0.9, which still reads it
            of_variables = [name for name in ("pytorch_variables.pth", "tensors.pth") if name in archive.namelist()]
            states = set(archive.namelist()) - set(of_variables)
            #: names of what has a state of parameters in the file
            self.parameters = sorted(name[: -len(".pth")] for name in states if name.endswith(".pth"))
            for name in of_variables:
                variables = th.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
                self.variables.update(variables or {})

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """
        Give what goes wrong in reading the file one kind of error.

        :return: a context
        """
        return file_errors(self.path, self.call, self.name)

    @property
    def origin(self) -> str:
        """
        Where the file comes from.

        :return: id of the algorithm, or the module of the policy of another one
        """
        policy_class = self.saved.get("policy_class")
        module = policy_class.get("__module__") if isinstance(policy_class, dict) else None
        return str(self.saved.get("algorithm") or module or "unknown")

    def load(
        self,
        load: Callable[..., Any],
        cls: Any,
        custom_objects: dict[str, Any] | None,
        trusted: bool,
        variables: tuple[str, ...] = (),
        **arguments: Any,
    ) -> Any:
        """
        Load the model.

        :param load: SB3's ``load`` of the class
        :param cls: the class
        :param custom_objects: objects to put in the place of saved ones
        :param trusted: whether to build any object the file describes
        :param variables: names of the tensors that a model of this class has beside its networks
        :param arguments: further arguments of ``load``
        :return: the model
        :raises ValueError: if the file asks for what only a trusted one may have, or is damaged
        """
        if custom_objects is not None and not isinstance(custom_objects, dict):
            raise TypeError(f"custom_objects={custom_objects!r} must be a dictionary of objects by their names")
        with self.errors():
            objects, unknown = self._objects(cls, custom_objects or {}, trusted)
            if set(self.variables) - set(variables):
                raise NotAllowed(f"values of {sorted(map(str, set(self.variables) - set(variables)))}")
            strange = [name for name in self.parameters if not _PARAMETERS.fullmatch(name)]
            if strange and not trusted:
                raise NotAllowed(f"parameters of {strange}")
        with loading_errors(self.path, self.call, self.name):
            model = load(io.BytesIO(self.content), custom_objects={**objects, **dict.fromkeys(unknown)}, **arguments)
        for name in unknown:
            del vars(model)[name]
        return model

    def _objects(self, cls: Any, custom: dict[str, Any], trusted: bool) -> tuple[dict[str, Any], list[str]]:
        """
        Read what is no plain data.

        :param cls: the class of the model
        :param custom: objects to put in the place of saved ones
        :param trusted: whether to build any object
        :return: the objects by their names, and names that the class does not know
        """
        if "env" in self.saved and "env" not in custom and not is_trusted(trusted):
            raise NotAllowed("an environment, which would be made")  # an id may have a module imported
        objects = {**dict.fromkeys(_DERIVED), **custom}
        policy_class = objects.get("policy_class") or self._object("policy_class", trusted)
        known = {*_SPACES, *vars(cls(policy_class, None, device="cpu", _init_setup_model=False))}
        unknown = []
        for name, value in self.saved.items():
            if name in objects or not isinstance(value, dict) or ":serialized:" not in value:
                continue
            if name in known or is_trusted(trusted):
                objects[name] = self._object(name, trusted)
            else:
                unknown.append(name)
        if unknown:
            warnings.warn(
                f"{self.name}={describe(self.path)!r} has attributes that {cls.__name__} does not know, which are left "
                f"out: {unknown}. If you trust the file and need them, pass trusted=True",
                stacklevel=4,
            )
        return objects, unknown

    def _object(self, name: str, trusted: bool) -> Any:
        """
        Read a saved object.

        :param name: of the attribute
        :param trusted: whether to build any object
        :return: the object
        """
        content = base64.b64decode(self.saved[name][":serialized:"], validate=True)
        try:
            found = read_pickle(content, trusted, arguments=name in _WITH_CLASSES)
            for key, value in {name: found, **(found if isinstance(found, dict) else {})}.items():
                base = _CLASSES.get(key) if isinstance(key, str) else None
                if base and value is not None and not (isinstance(value, type) and issubclass(value, base)):
                    raise NotAllowed(f"{value!r} as {key}")
        except NotAllowed as error:
            if is_trusted(trusted):
                raise
            hint = f" (or pass custom_objects={{{name!r}: ...}} with your own)" if self.call == "load" else ""
            raise NotAllowed(f"{error} for {name!r}{hint}") from error
        return found


def load_model(cls: Any, load: Callable[..., Any], path: Path, trusted: bool, **arguments: Any) -> Any:
    """
    Load a model, after a look at what its file is.

    :param cls: the algorithm
    :param load: SB3's ``load`` of it
    :param path: path to the file, or a file-like object
    :param trusted: whether to build any object the file describes
    :param arguments: arguments of ``load``, those to change included
    :return: the model
    :raises ValueError: if the file is damaged, no model of this algorithm, or an argument does not go with it
    :raises TypeError: if an argument is unknown
    """
    file = ModelFile(path)
    if file.origin != cls.algorithm_id:
        remedy = "load it with the class it was saved with"
        if file.origin.startswith("stable_baselines3.sac"):
            remedy += ", or take it over with SACv2.from_sb3()"
        refuse(path, f"holds a model of another algorithm ({file.origin}), not {cls.__name__}: {remedy}")
    named = ("env", "device", "custom_objects", "print_system_info", "force_reset")
    if "stats_window_size" in arguments:
        arguments["_stats_window_size"] = arguments.pop("stats_window_size")
    unknown = sorted(set(arguments) - set(named) - set(file.saved) - {"seed"})
    if unknown:
        raise TypeError(
            f"{cls.__name__}.load() got unknown arguments {unknown}: pass names of the algorithm's arguments"
        )
    custom = arguments.pop("custom_objects")
    _check_changes(file, {**(custom if isinstance(custom, dict) else {}), **arguments})
    return file.load(load, cls, custom, trusted, **arguments)


def _check_changes(file: ModelFile, changes: dict[str, Any]) -> None:
    """
    Refuse arguments that make other networks than the saved ones.

    :param file: the saved model
    :param changes: the arguments
    """
    path = describe(file.path)
    with file.errors():
        use_sde, ent_coef = file.saved["use_sde"], file.saved["ent_coef"]
        learned = parse_ent_coef(ent_coef)[1]
    if "use_sde" in changes and changes["use_sde"] != use_sde:
        raise ValueError(
            f"use_sde={changes['use_sde']} does not go with path={path!r}, saved with use_sde={use_sde}, which has "
            "other networks: make a new model"
        )
    if "ent_coef" in changes and parse_ent_coef(changes["ent_coef"])[1] != learned:
        raise ValueError(
            f"ent_coef={changes['ent_coef']!r} does not go with path={path!r}, saved with ent_coef={ent_coef!r}: make "
            "a new model, and give its policy the state_dict of the saved one's"
        )


def set_parameters(
    model: Any, set_: Callable[..., None], source: Any, exact_match: bool, device: th.device | str
) -> None:
    """
    Give a model the parameters of another one.

    :param model: the model
    :param set_: SB3's ``set_parameters`` of it
    :param source: the parameters, or the path of a saved model
    :param exact_match: whether they must be all
    :param device: where the model lives
    :raises ValueError: if the file is damaged, or of a model with other parts
    """
    if isinstance(source, dict):
        set_(source, exact_match, device)
        return
    file = ModelFile(source, "set_parameters", "load_path_or_dict")
    with file.errors(), zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        found = {name[: -len(".pth")] for name in archive.namelist() if name.endswith(".pth")}
    wanted = set(model._get_torch_save_params()[0])
    strange = found - wanted - {"pytorch_variables"}
    if strange or (exact_match and not wanted <= found):
        refuse(source, f"holds parameters of {sorted(found)}, not of {sorted(wanted)}: pass a fitting one", file.name)
    with loading_errors(source, file.call, file.name):
        set_(io.BytesIO(file.content), exact_match, device)


@contextlib.contextmanager
def loading_errors(path: Path, call: str, name: str) -> Iterator[None]:
    """
    As :func:`file_errors`, but errors of the arguments pass: they name what is wrong.

    :param path: what is being loaded
    :param call: the method that loads
    :param name: of the argument that gave the path
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if not isinstance(error, UnicodeError | pickle.UnpicklingError):
            raise
        with file_errors(path, call, name):
            raise
    except Exception:
        with file_errors(path, call, name):
            raise


def require_hash(fits: bool) -> None:
    """
    Refuse content that is not what was written.

    :param fits: whether its hash is the written one
    """
    if not fits:
        raise zipfile.BadZipFile("its content is not what was written")


# ---------------------------------------------------------------- replay buffers


class _Hashing:
    """
    A file that hashes what is read from it or written to it.

    :param file: the file
    """

    def __init__(self, file: Any):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.sha256.update(content)
        return content

    def readline(self) -> bytes:
        content = self.file.readline()
        self.sha256.update(content)
        return content


def save_replay_buffer(model: Any, path: Path) -> None:
    """
    Save the replay buffer of a model. A file that is already there is replaced only by a complete one.

    :param model: the model
    :param path: path (``.pkl`` is added where there is no ending), or a file-like object
    """
    assert model.replay_buffer is not None
    opened: Any = written_whole(path, ".pkl") if isinstance(path, str | os.PathLike) else contextlib.nullcontext(path)
    with opened as file:
        hashing = _Hashing(file)
        pickle.dump(model.replay_buffer, hashing, protocol=pickle.HIGHEST_PROTOCOL)
        file.write(HASH + hashing.sha256.digest())  # whoever reads the pickle does not get so far


def load_replay_buffer(model: Any, path: Path, truncate_last_traj: bool, trusted: bool) -> None:
    """
    Load the replay buffer of a model.

    :param model: the model, which keeps its buffer if anything is wrong with the new one
    :param path: path to the file, or a file-like object
    :param truncate_last_traj: with ``HerReplayBuffer``, whether the last episode in it has ended
    :param trusted: whether to build any object the file describes
    :raises ValueError: if the file is damaged, or its transitions are not those of this model's environment
    """
    is_file = hasattr(path, "read") and not isinstance(path, os.PathLike)
    opened: Any = contextlib.nullcontext(path) if is_file else find(path, ".pkl").open("rb")
    with file_errors(path, "load_replay_buffer"), opened as file:
        hashing = _Hashing(file)
        buffer = read_pickle(hashing, trusted)
        digest = hashing.sha256.digest()
        # Older files have no hash; in a file that somebody else has opened, something else may follow
        rest = file.read(len(HASH) + len(digest) + (not is_file))
        require_hash(rest in (b"", HASH + digest) or (is_file and not rest.startswith(HASH)))
        if not isinstance(buffer, ReplayBuffer):
            raise TypeError(f"a {type(buffer).__name__} is no replay buffer")
        for name in ("observation_space", "action_space", "n_envs"):
            _check_same(path, name, getattr(buffer, name), getattr(model, name))
        _check_same(path, "n_steps", getattr(buffer, "n_steps", 1), model.n_steps)
    if isinstance(buffer, HerReplayBuffer):
        if model.env is None:
            raise ValueError(f"path={describe(path)!r} needs an environment, for HerReplayBuffer: call set_env() first")
        buffer.set_env(model.env)
        if truncate_last_traj:
            buffer.truncate_last_trajectory()
    buffer.device = model.device
    model.replay_buffer = buffer


def _check_same(path: Path, name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        refuse(
            path,
            f"holds a replay buffer with {name}={found}, not {wanted}: load one of a model on the same environments, "
            "with the same arguments",
        )
