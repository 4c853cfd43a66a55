"""Save and load models: no file is lost, none runs code, and errors say what is wrong with one."""

import base64
import hashlib
import io
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import torch as th
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr

from sb3_sac_variants.common.checks.validation import check_range, parse_ent_coef
from sb3_sac_variants.common.persistence.by_name import of_script_by_name
from sb3_sac_variants.common.persistence.files import (
    HASH,
    Path,
    UnknownParameters,
    check_writable,
    describe,
    loading_errors,
    refuse,
    written_whole,
)
from sb3_sac_variants.common.persistence.model_file import BY_NAME, DERIVED, ModelFile, is_pickled
from sb3_sac_variants.common.persistence.optimizers import check_kind

#: attributes of other algorithms, which the RL Zoo and many scripts replace in each model that they load
_OF_OTHERS = ("clip_range", "clip_range_vf", "exploration_schedule")
#: remedy for parameters of Stable-Baselines3's SAC
_OF_SAC = "only SACv2 takes those of Stable-Baselines3's SAC (SACv2.from_sb3)"


def save_model(model: Any, save: Callable[..., None], path: Path, exclude: Any, include: Any) -> None:
    """Save a model, for the algorithm's ``save``; the argument ``save`` is SB3's."""
    for name, value in (("exclude", exclude), ("include", include)):
        if isinstance(value, str) or not isinstance(value, Iterable | None):
            raise TypeError(f"{name}={value!r} must be several names of attributes: pass a list, as {name}=[{value!r}]")
    if not isinstance(path, str | os.PathLike):
        check_writable(path)
        _save(model, save, path, exclude, include)
        return
    with written_whole(path, ".zip") as file:
        _save(model, save, file, exclude, include)
        file.seek(0)
        digest = HASH + hashlib.sha256(file.read()[:-2]).hexdigest().encode()
        file.seek(-2, os.SEEK_END)  # the length of the comment, which comes last
        file.write(struct.pack("<H", len(digest)) + digest)


def _save(model: Any, save: Callable[..., None], file: Any, exclude: Any, include: Any) -> None:
    """Save a model as SB3 does, and what holds classes of the script a second time, with their names."""
    written = io.BytesIO()
    save(written, exclude, include)
    with zipfile.ZipFile(written, "a") as archive:
        names = [name for name, value in json.loads(archive.read("data")).items() if is_pickled(value)]
        by_name = {name: of_script_by_name(vars(model)[name]) for name in names}
        pickles = {name: base64.b64encode(content).decode() for name, content in by_name.items() if content}
        if pickles:
            archive.writestr(BY_NAME, json.dumps(pickles))
    file.write(written.getvalue())


def load_model(cls: Any, load: Callable[..., Any], path: Path, trusted: bool, **arguments: Any) -> Any:
    """Look at what a file is, and load the model, for the algorithm's ``load``; the argument ``load`` is SB3's."""
    env, n_envs = arguments["env"], arguments.get("n_envs")
    check_range("n_envs", 1 if n_envs is None else n_envs, 1, integer=True)
    if env is not None and n_envs not in (None, getattr(env, "num_envs", 1)):
        raise ValueError(f"n_envs={n_envs!r} does not go with env={env}: leave it out, the environment says it")
    file = ModelFile(path)
    if file.origin != cls.algorithm_id:
        remedy = "load it with the class it was saved with"
        if file.origin.startswith("stable_baselines3.sac"):
            remedy += ", or take it over with SACv2.from_sb3()"
        refuse(path, f"holds a model of another algorithm ({file.origin}), not {cls.__name__}: {remedy}")
    needed = ["policy_class", "observation_space", "action_space", "use_sde", "ent_coef"]
    needed.append("n_envs" if env is None else "verbose")
    missing = [name for name in needed if name not in file.saved]
    if missing:
        refuse(path, f"was saved without {missing}, which a model needs: save it again, without exclude={missing}")
    named = ("env", "device", "custom_objects", "print_system_info", "force_reset")
    if "stats_window_size" in arguments:
        arguments["_stats_window_size"] = arguments.pop("stats_window_size")
    unknown = sorted(set(arguments) - set(named) - (set(file.saved) - set(DERIVED)) - {"seed"})
    if unknown:
        raise TypeError(
            f"{cls.__name__}.load() got unknown arguments {unknown}: pass names of the algorithm's arguments"
        )
    custom = arguments.pop("custom_objects")
    changed = custom if isinstance(custom, dict) else {}
    unknown = sorted(set(changed) - set(file.saved) - {*DERIVED, *_OF_OTHERS}, key=str)
    if unknown:
        warnings.warn(
            f"{cls.__name__}.load() got custom_objects {unknown}, which are not among the attributes that are saved: "
            "they have no effect, as in Stable-Baselines3",
            stacklevel=3,
        )
    _check_changes(file, {**changed, **arguments}, trusted)
    return file.load(load, cls, custom, trusted, **arguments)


def _check_changes(file: ModelFile, changes: dict[str, Any], trusted: bool) -> None:
    """Refuse arguments that make other networks than the saved ones, and warn of one that changes nothing."""
    path = describe(file.path)
    with file.errors():
        use_sde, ent_coef = file.value("use_sde", trusted), file.value("ent_coef", trusted)
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
    if learned and changes.get("ent_coef", ent_coef) not in ("auto", ent_coef):
        warnings.warn(
            f"ent_coef={changes['ent_coef']!r} has no effect on path={path!r}, whose temperature has been learned: "
            "leave it out, and set the temperature with model.log_ent_coef.data.fill_(math.log(value))",
            stacklevel=4,
        )


def set_parameters(
    model: Any, set_: Callable[..., None], source: Any, exact_match: bool, device: th.device | str
) -> None:
    """Give a model the parameters of another one, for ``set_parameters``; the argument ``set_`` is SB3's."""
    wanted = set(model._get_torch_save_params()[0])
    takes_sac = hasattr(model, "from_sb3")
    if isinstance(source, dict):
        if exact_match and (unknown := set(source) - wanted):  # SB3 would look for attributes of any name
            of_sac = "ent_coef_optimizer" in source and not takes_sac
            remedy = _OF_SAC if of_sac else "pass those of a model with the same networks"
            message = f"parameters of {sorted(map(str, unknown))}, not of {sorted(wanted)} only: {remedy}"
            raise UnknownParameters(message)
        new = {f"{name}.optimizer" for name in vars(model).pop("_new_optimizers", ())}
        optimizers = {name: recursive_getattr(model, name) for name in source if name in wanted}
        for name, optimizer in optimizers.items():
            if name in new:
                source = {**source, name: optimizer.state_dict()}
            elif isinstance(optimizer, th.optim.Optimizer):
                check_kind(name, optimizer, source[name])
        set_(source, exact_match, device)
        return
    file = ModelFile(source, "set_parameters", "load_path_or_dict")
    found = set(file.parameters)
    if found - wanted or (exact_match and not wanted <= found):
        remedy = "pass that of a model with the same networks"
        if "ent_coef_optimizer" in found:
            remedy = "pass what get_parameters() of Stable-Baselines3's SAC gives" if takes_sac else _OF_SAC
        refuse(source, f"holds parameters of {sorted(found)}, not of {sorted(wanted)}: {remedy}", file.name)
    with loading_errors(source, file.call, file.name):
        parameters = load_from_zip_file(io.BytesIO(file.content), device=device, load_data=False)[1]
        set_parameters(model, set_, parameters, exact_match, device)
