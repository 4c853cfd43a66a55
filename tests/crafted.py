"""Files crafted to run code, for the tests of what is loaded."""

import base64
import json
import pathlib
import shutil
import zipfile
from typing import Any

import cloudpickle
import pytest

from sb3_sac_variants.common.persistence.checkpoint_folder import POINTER
from sb3_sac_variants.common.persistence.files import sha256

NEEDS_TRUST = r"(?s)path='.*' asks for .*, and code of unknown origin is not run.*trusted=True to \w+\(\).*TRUSTED=1"


CALLS: list[str] = []


def canary(*args: Any) -> dict[str, Any]:
    """What must not be called."""
    CALLS.append("called")
    return {}


class Code:
    """A pickle of it calls a function."""

    def __reduce__(self) -> Any:
        return canary, ()


@pytest.fixture(autouse=True)
def nothing_runs(request: pytest.FixtureRequest) -> Any:
    CALLS.clear()
    yield
    if "trusted" not in request.node.name:
        assert not CALLS


def rewritten(source: pathlib.Path, target: pathlib.Path, **changes: bytes | None) -> pathlib.Path:
    """
    :param source: a zip
    :param target: where to write it, changed
    :param changes: contents of its files by name, "__" for a dot; None leaves one out
    :return: the target
    """
    names = {name.replace("__", "."): content for name, content in changes.items()}
    with zipfile.ZipFile(source) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in {**contents, **names}.items():
            if content is not None:
                archive.writestr(name, content)
    return target


def with_attribute(source: pathlib.Path, target: pathlib.Path, name: str, value: Any) -> pathlib.Path:
    """
    :param source: a saved model
    :param target: where to write it, changed
    :param name: of an attribute
    :param value: its value
    :return: the target
    """
    with zipfile.ZipFile(source) as archive:
        data = json.loads(archive.read("data"))
    before = data.get(name) if isinstance(data.get(name), dict) else {}
    data[name] = {**before, ":serialized:": base64.b64encode(cloudpickle.dumps(value)).decode()}
    return rewritten(source, target, data=json.dumps(data).encode())


def crafted_checkpoint(saved: pathlib.Path, folder: pathlib.Path, name: str, content: bytes | None) -> pathlib.Path:
    """
    :param saved: folder with a checkpoint
    :param folder: where to copy it
    :param name: of a file in it
    :param content: its new content, with a fitting hash; None leaves it as it is
    :return: the new checkpoint
    """
    shutil.copytree(saved / "run", folder)
    pointer = json.loads((folder / POINTER).read_text())
    if content is not None:
        file = folder / pointer["version"] / name
        file.write_bytes(content)
        pointer["files"][name] = sha256(file)
        (folder / POINTER).write_text(json.dumps(pointer))
    return folder
