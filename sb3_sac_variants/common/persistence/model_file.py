"""A saved model, as a file: its hash is checked, and what is no plain data is read by the list of what is allowed."""

import base64
import contextlib
import functools
import hashlib
import inspect
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_sac_variants.common.checks.compatibility import LIBRARIES, constructor_arguments
from sb3_sac_variants.common.checks.policy_arguments import check_policy
from sb3_sac_variants.common.checks.validation import plain
from sb3_sac_variants.common.persistence.allowed import is_trusted, read_pickle
from sb3_sac_variants.common.persistence.files import (
    HASH,
    Path,
    describe,
    file_errors,
    find,
    is_file_object,
    loading_errors,
    require_hash,
)
from sb3_sac_variants.common.persistence.rebuild import NotAllowed

#: file in a saved model beside SB3's: pickles that name classes of the script, where SB3's hold their code
BY_NAME = "by_name.json"
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
#: what holds parameters, and may be made anew while a model is loaded
_PARAMETERS = (th.Tensor, th.nn.Module, th.optim.Optimizer)
#: attributes that a model without an environment does not have yet
_SPACES = ("observation_space", "action_space")
#: attributes that are made anew from others
DERIVED = ("lr_schedule", "_qf_lr_schedule", "_ent_coef_lr_schedule")


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
        if is_file_object(path, name):
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
            #: what holds classes of the script that saved it, with their names
            self.by_name = json.loads(archive.read(BY_NAME)) if BY_NAME in archive.namelist() else {}
            if not isinstance(self.saved, dict) or not isinstance(self.by_name, dict):
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
        """Give what goes wrong in reading the file one kind of error."""
        return file_errors(self.path, self.call, self.name)

    @property
    def origin(self) -> str:
        """Where the file comes from: id of the algorithm, or the module of the policy of another one."""
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
        :param custom_objects: objects to put in place of saved ones
        :param trusted: whether to build any object the file describes
        :param variables: names of the tensors that a model of this class has beside its networks
        :param arguments: further arguments of ``load``
        :return: the model
        :raises ValueError: if the file asks for what only a trusted one may have, or is damaged
        """
        if custom_objects is not None and not isinstance(custom_objects, dict):
            raise TypeError(f"custom_objects={custom_objects!r} must be a dictionary of objects by their names")
        custom_objects = custom_objects or {}
        policy_class = custom_objects.get("policy_class")
        if policy_class is None:
            with self.errors():
                policy_class = self._object("policy_class", trusted)
                check_policy(policy_class, cls)
        if isinstance(arguments.get("env"), gym.Env):  # wrapped once, as SB3 does
            verbose = self.saved.get("verbose")
            arguments["env"] = cls._wrap_env(arguments["env"], verbose if isinstance(verbose, int) else 0)
        known = self._attributes(cls, policy_class, arguments.get("env"))
        with self.errors():
            objects, unknown = self._objects(cls, {"policy_class": policy_class, **custom_objects}, known, trusted)
            if set(self.variables) - set(variables) and not is_trusted(trusted):
                raise NotAllowed(f"values of {sorted(map(str, set(self.variables) - set(variables)))}")
        with loading_errors(self.path, self.call, self.name):
            model = load(io.BytesIO(self.content), custom_objects={**objects, **dict.fromkeys(unknown)}, **arguments)
        self._warn_of_lost(model, objects, unknown)
        return model

    def _warn_of_lost(self, model: Any, objects: dict[str, Any], unknown: list[str]) -> None:
        """
        Say what of the file the model does not have.

        :param model: the loaded model
        :param objects: what was read of the file, by its names
        :param unknown: names of what the class does not know, which is None in the model or has been made anew
        """
        has, source = vars(model), f"{self.name}={describe(self.path)!r}"
        left_out = [name for name in unknown if has.get(name) is None]
        for name in left_out:
            has.pop(name, None)
        if left_out:
            warnings.warn(
                f"{source} has attributes that {type(model).__name__} does not know, which are left out: {left_out}. "
                "If you trust the file and need them, pass trusted=True",
                stacklevel=5,
            )
        parts = {name: value for name, value in objects.items() if isinstance(value, _PARAMETERS)}
        anew = [name for name in unknown if name in has]
        anew += [name for name, value in parts.items() if has.get(name) is not value]
        if anew:
            warnings.warn(
                f"{source} has {anew}, which {type(model).__name__} has made anew: to keep them, let its "
                "_get_torch_save_params() name them, tensors as buffers of an nn.Module, and save the model again",
                stacklevel=5,
            )

    def _attributes(self, cls: Any, policy_class: Any, env: Any) -> set[str]:
        """
        Names of the attributes that models of a class have.

        :param cls: the class, a user's own perhaps, whose constructor may do and raise anything; it is called only if
            the file has objects that the class of ours or of SB3, which it is derived from, does not know
        :param policy_class: of the model
        :param env: the environment that is to be the model's, if there is one
        """
        known = set(_SPACES)
        own = next(base for base in cls.__mro__ if base.__module__.startswith(LIBRARIES))
        if not inspect.isabstract(own):
            known |= set(vars(own("MlpPolicy", None, device="cpu", _init_setup_model=False)))
            if cls is own or not any(is_pickled(self.saved[name]) for name in self.saved.keys() - known - {*DERIVED}):
                return known
        return known | set(vars(cls(policy=policy_class, env=env, device="cpu", _init_setup_model=False)))

    def _objects(
        self, cls: Any, custom: dict[str, Any], known: set[str], trusted: bool
    ) -> tuple[dict[str, Any], list[str]]:
        """
        Read what is no plain data.

        :param cls: the class of the model
        :param custom: objects to put in place of saved ones
        :param known: names of the attributes that its models have
        :param trusted: whether to build any object
        :return: the objects by their names, and names that the class does not know
        """
        if "env" in self.saved and "env" not in custom and not is_trusted(trusted):
            raise NotAllowed("an environment, which would be made")  # an id may have a module imported
        # For arguments plain numbers will do; other attributes keep their kind
        numbers = constructor_arguments(cls, LIBRARIES)
        custom = {name: plain(value) if name in numbers else value for name, value in custom.items()}
        objects = {**dict.fromkeys(DERIVED), **custom}
        unknown = []
        for name, value in self.saved.items():
            if name in objects:
                continue
            if not is_pickled(value):  # whatever the class knows, and what users have added
                if name not in known and callable(getattr(cls, name, None)) and not is_trusted(trusted):
                    raise NotAllowed(f"a value in place of {cls.__name__}.{name}")
                continue
            if name in known or is_trusted(trusted):
                objects[name] = self.value(name, trusted) if name in numbers else self._object(name, trusted)
            else:
                unknown.append(name)
        return objects, unknown

    def value(self, name: str, trusted: bool) -> Any:
        """Read a saved attribute, of any class if ``trusted``; a scalar of NumPy or torch as a Python number."""
        return plain(self._object(name, trusted)) if is_pickled(self.saved[name]) else self.saved[name]

    def _object(self, name: str, trusted: bool) -> Any:
        """Read a saved object: the attribute ``name``, of any class if ``trusted``."""
        with_code = self.saved[name][":serialized:"]
        content = base64.b64decode(
            with_code if is_trusted(trusted) else self.by_name.get(name, with_code), validate=True
        )
        try:
            found = read_pickle(content, trusted, arguments=name in _WITH_CLASSES)
            for key, value in {name: found, **(found if isinstance(found, dict) else {})}.items():
                base = _CLASSES.get(key) if isinstance(key, str) else None
                if key == "activation_fn" and isinstance(value, functools.partial):
                    continue  # only of torch's modules are there any
                if base and value is not None and not (isinstance(value, type) and issubclass(value, base)):
                    raise NotAllowed(f"{value!r} as {key}")
        except NotAllowed as error:
            if is_trusted(trusted):
                raise
            own = f"custom_objects={{{name!r}: ...}}"
            hints = {"load": f" (or pass {own} with your own)", "from_sb3": f" (or pass SAC.load(path, {own}))"}
            raise NotAllowed(f"{error} for {name!r}{hints.get(self.call, '')}") from error
        return found


def is_pickled(value: Any) -> bool:
    """Whether SB3 has written an attribute as a pickle."""
    return isinstance(value, dict) and ":serialized:" in value
