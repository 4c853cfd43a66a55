"""Write files whole or not at all, find them, and say what is wrong with one that cannot be read."""

import contextlib
import errno
import hashlib
import io
import lzma
import os
import pathlib
import pickle
import shutil
import struct
import sys
import traceback
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedRandom
from typing import Any, NoReturn

from sb3_sac_variants.common.persistence.allowed import TRUSTED_VARIABLE
from sb3_sac_variants.common.persistence.rebuild import NotAllowed

#: what stands before the hash of a file's content, in the comment of a zip or behind a pickle
HASH = b"sha256:"

#: packages that have a part in loading, beside the standard library
_LOADING = {"cloudpickle", "gymnasium", "numpy", "sb3_sac_variants", "stable_baselines3", "torch"}

Path = str | pathlib.Path | io.BufferedIOBase

#: what reading a damaged or foreign file may raise, whatever reads it
_DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, EOFError),
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, TypeError, ValueError),
    *(OSError, RuntimeError, SystemError, lzma.LZMAError, zlib.error),
)


@contextlib.contextmanager
def written_whole(path: str | pathlib.Path, suffix: str = "") -> Iterator[BufferedRandom]:
    """
    Write a file that takes its name only when it is complete and on the disk.

    Whatever interrupts the writing, the old file stays. Folders are made where there are none.

    :param path: path of the file, or of a link to it
    :param suffix: ending to add where the path has none
    :return: what to write to
    """
    final = pathlib.Path(path)
    if not final.name:
        raise ValueError(f"path={str(path)!r} has no name of a file: pass one")
    if not final.suffix:
        final = final.with_suffix(suffix)
    final = final.resolve()  # through a link
    final.parent.mkdir(parents=True, exist_ok=True)
    # Other threads may write to the same path, and on a shared disk processes of the same number
    partial = final.with_name(f".{final.name[:40]}.{uuid.uuid4().hex[:8]}.partial")  # names are 255 bytes at the most
    if final.exists() and not os.access(final, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, "the file is there and must not be written to", str(final))
    try:
        with open(partial, "w+b") as file:
            with contextlib.suppress(OSError):  # where there is none yet, or the disk knows no modes
                shutil.copymode(final, partial)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)
        sync_folder(final.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: pathlib.Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "posix":  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find(path: Path, suffix: str, name: str = "path") -> pathlib.Path:
    """
    Find a file as SB3 does, with its ending or without.

    :param path: path as the user gave it
    :param suffix: ending that may be left out
    :param name: of the argument, for errors
    :return: the file
    :raises TypeError: if it is no path
    :raises FileNotFoundError: if there is no such file
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name}={path!r} is neither a path nor a file open for reading: pass one of these")
    given = pathlib.Path(path)
    for candidate in (given, given.with_name(given.name + suffix) if given.name else given):
        if candidate.is_file():
            return candidate
    if given.is_dir():
        raise FileNotFoundError(f"{name}={str(path)!r} is a folder, and there is no {suffix} beside it: pass a file")
    raise FileNotFoundError(f"{name}={str(path)!r}: there is no such file, with or without {suffix}")


def is_file_object(path: Any, name: str = "path") -> bool:
    """
    Whether the argument ``name`` is something that can be read, and no path.

    :raises TypeError: if it is a file open for text
    """
    if isinstance(path, io.TextIOBase):
        raise TypeError(f"{name}={path!r} is open for text: open it with mode 'rb'")
    return hasattr(path, "read") and not isinstance(path, os.PathLike)


def check_writable(path: Any) -> None:
    """
    Check what is to be written to, where it is no path.

    :raises TypeError: if it is no file open for writing, or one for text
    """
    if not hasattr(path, "write"):
        raise TypeError(f"path={path!r} is neither a path nor a file open for writing: pass one of these")
    if isinstance(path, io.TextIOBase):
        raise TypeError(f"path={path!r} is open for text: open it with mode 'wb'")


def describe(path: Path) -> str:
    """Name a path, or a file that is open, in errors."""
    return str(path) if isinstance(path, str | pathlib.Path) else f"<{type(path).__name__}>"


@contextlib.contextmanager
def file_errors(path: Path, call: str, name: str = "path") -> Iterator[None]:
    """
    Turn what goes wrong while the method ``call`` reads a file into one kind of error, about its argument ``name``.

    :raises ValueError: in place of the many errors that a damaged file raises
    """
    try:
        yield
    except Refusal:
        raise
    except NotAllowed as error:
        raise Refusal(
            f"{name}={describe(path)!r} asks for {error}, and code of unknown origin is not run. If you trust whoever "
            f"wrote the file, pass trusted=True to {call}(), or set the environment variable {TRUSTED_VARIABLE}=1 "
            "where a command calls it. Classes of your own that are arguments (a policy, an extractor) are known once "
            "they are imported, or defined in your script; objects of them, and functions, are not"
        ) from error
    except _DAMAGE as error:
        raise Refusal(
            f"{name}={describe(path)!r} is damaged, or holds something else ({type(error).__name__}: {error}): load "
            "another copy"
        ) from error


@contextlib.contextmanager
def loading_errors(path: Path, call: str, name: str) -> Iterator[None]:
    """As :func:`file_errors`, but errors of the arguments pass: they name what is wrong."""
    try:
        yield
    except Exception as error:
        cause = error.__context__  # in place of which SB3 may have raised another
        if isinstance(cause, UnknownParameters):
            refuse(path, f"holds {cause}", name)
        if found := next((one for one in (error, cause) if isinstance(one, OtherOptimizer)), None):
            refuse(path, f"cannot be loaded: {found}", name)
        if str(error).startswith("Error(s) in loading state_dict"):  # torch's, which gives names and shapes
            refuse(path, f"holds other networks than the model has ({error}): load one with the same networks", name)
        of_arguments = isinstance(error, TypeError | ValueError)
        if of_arguments and not isinstance(error, UnicodeError | pickle.UnpicklingError):
            raise
        if _comes_from_users_code(error):
            raise
        with file_errors(path, call, name):
            raise


def _comes_from_users_code(error: Exception) -> bool:
    """Whether code was running that is neither ours nor of a library that loads: an extractor's constructor, say."""
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    return not {module.partition(".")[0] for module in modules} <= _LOADING | sys.stdlib_module_names


def require_hash(fits: bool) -> None:
    """Refuse content whose hash is not the written one."""
    if not fits:
        raise zipfile.BadZipFile("its content is not what was written")


class UnknownParameters(ValueError):
    """There are parameters of something that a model does not have."""


class OtherOptimizer(ValueError):
    """A state is of another kind of optimiser."""


class Refusal(ValueError):
    """A file is not what it should be; the message names it, and says what to do."""


def refuse(path: Path, why: str, name: str = "path") -> NoReturn:
    """
    Refuse a file, with one kind of error for all that is wrong with it.

    :param why: what is wrong with it, and the remedy
    :raises ValueError: always
    """
    raise Refusal(f"{name}={describe(path)!r} {why}")
