"""
The folder of a checkpoint: complete versions of its files, and a pointer to the current one.

A new version is written beside the old one and becomes current in a single step. The pointer holds the hash of every
file. Only what carries the mark of this package is ever deleted, not while somebody reads it, and pointers that
were never finished.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

from sb3_sac_variants.common.persistence.files import Refusal, refuse, sha256, sync_folder, written_whole

try:
    import fcntl
except ImportError:  # Windows, which does not delete files that are open
    fcntl = None  # type: ignore[assignment]

#: names the current version; replacing this file is what makes a new version current
POINTER = "checkpoint.json"
#: version of the format: the first had neither hashes nor marks
FORMAT = 2
#: files of a version
FILES = ("model.zip", "replay_buffer.pkl", "state.pkl")
#: file in each version by which it is known as written here; locked by who reads it
MARK = ".written_by_sb3_sac_variants"
#: file that is locked by who writes
WRITER = ".writer.lock"

#: what a file system without locks answers
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_VERSION = re.compile(r"version-\d+-[0-9a-f]{8}")
_REMEDY = "load another checkpoint"


class UnknownFormatError(Refusal):
    """A checkpoint of a newer version, which an older one must not take for a damaged one."""


@contextlib.contextmanager
def new_version(
    folder: pathlib.Path, algorithm: str, num_timesteps: int, own: set[str | None]
) -> Iterator[pathlib.Path]:
    """
    Write a new version of a checkpoint, which becomes the current one at the end.

    :param folder: of the checkpoint; made where there is none
    :param algorithm: id of the algorithm
    :param num_timesteps: steps done
    :param own: versions of the run that writes; the new one is added. A run without any replaces what it finds
    :return: folder to write the files to
    :raises ValueError: if the path is a file
    :raises RuntimeError: if another run writes to it
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"path={str(folder)!r} is a file: pass a folder, which the checkpoint fills with its files")
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        if own:
            claim(folder, own)
        keep: set[str | None] = set()
        try:
            current = _read_pointer(folder).get("version")
            own.add(current)
            _remove_versions(folder, but={current})
            for left in folder.glob(f".{POINTER}.*.partial"):  # by a process that was killed
                with contextlib.suppress(OSError):
                    left.unlink()
        except UnknownFormatError:
            raise
        except ValueError:  # there is no telling which version was current, or whose file it is: all stay
            keep = {version.name for version in folder.glob("version-*")}
            (folder / POINTER).rename(folder / f"{POINTER}.{uuid.uuid4().hex[:8]}.damaged")
        version = folder / f"version-{num_timesteps}-{uuid.uuid4().hex[:8]}"
        version.mkdir()
        own.add(version.name)
        try:
            (version / MARK).touch()
            yield version
            sync_folder(version)
            pointer = {
                "format": FORMAT,
                "algorithm": algorithm,
                "num_timesteps": num_timesteps,
                "version": version.name,
                "files": {name: sha256(version / name) for name in FILES},
            }
            with written_whole(folder / POINTER) as file:
                file.write(json.dumps(pointer, indent=1).encode())
        finally:
            # The pointer tells which version is current, even where something was interrupted after it was written
            with contextlib.suppress(ValueError):
                _remove_versions(folder, but={_read_pointer(folder).get("version"), *keep})


def as_folder(path: str | pathlib.Path) -> pathlib.Path:
    """
    Read the argument ``path``.

    :raises TypeError: if it is none
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={path!r} is no path: pass that of the checkpoint's folder")
    return pathlib.Path(path)


def claim(folder: pathlib.Path, own: set[str | None]) -> None:
    """
    Make sure that the current version of a checkpoint is of a run itself.

    :param folder: of the checkpoint
    :param own: versions of the run; that there was none is noted
    :raises RuntimeError: if it is of another run
    """
    try:
        current = _read_pointer(folder).get("version")
    except UnknownFormatError:
        raise
    except ValueError:  # a damaged one is nobody's
        current = None
    if current is not None and current not in own:
        raise RuntimeError(
            f"path={str(folder)!r} holds a checkpoint of another run ({current}), which would be lost: give each run a "
            "folder of its own, go on from that one with load_checkpoint(), or restore_checkpoint() "
            "for an algorithm of Stable-Baselines3, or delete the folder"
        )
    own.add(current)


@contextlib.contextmanager
def current_version(path: str | pathlib.Path, algorithm: str) -> Iterator[pathlib.Path]:
    """
    Find the current version of a checkpoint, and keep it while it is read.

    Nothing but the pointer is opened before the algorithm, the paths and the hashes of all files are checked.

    :param path: folder of the checkpoint
    :param algorithm: id of the algorithm it has to be of
    :return: folder with the files
    :raises FileNotFoundError: if there is no checkpoint in the folder
    :raises ValueError: if it is damaged, or of another algorithm
    """
    folder = as_folder(path)
    for attempt in range(10):
        pointer = _read_pointer(folder)
        if not pointer:
            raise FileNotFoundError(f"path={str(path)!r} holds no checkpoint: pass a folder with one that was saved")
        if pointer["algorithm"] != algorithm:
            refuse(
                folder,
                f"holds a checkpoint of another algorithm ({pointer['algorithm']}), not {algorithm}: load it with the "
                "class it was saved with",
            )
        version = folder / pointer["version"]
        with contextlib.ExitStack() as stack:
            try:
                with contextlib.suppress(FileNotFoundError):
                    stack.enter_context(_locked(version / MARK, shared=True))
                _check_files(folder, version, pointer)
            except (OSError, ValueError):
                if attempt < 9 and _read_pointer(folder) != pointer:  # a writer was quicker: there is a newer version
                    time.sleep(0.01 * attempt)
                    continue
                raise
            yield version
            return


def _read_pointer(folder: pathlib.Path) -> dict[str, Any]:
    """
    Read which version of a checkpoint is current.

    :return: what its pointer says, empty if there is none
    :raises ValueError: if it is damaged, or leads out of the folder
    """
    _refuse_pipe(folder / POINTER)
    try:
        content = (folder / POINTER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        refuse(folder, f"has a {POINTER} that cannot be read ({error}): {_REMEDY}")
    try:
        pointer = json.loads(content)
        known = pointer["format"] == FORMAT
        fits = known and isinstance(pointer["version"], str) and isinstance(pointer["algorithm"], str)
        fits = fits and set(pointer["files"]) == set(FILES)
        fits = fits and all(isinstance(value, str) for value in pointer["files"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        refuse(folder, f"has a damaged {POINTER} ({type(error).__name__}: {error}): {_REMEDY}")
    if not known:
        raise UnknownFormatError(
            f"path={str(folder)!r} has a {POINTER} of format {pointer['format']!r}, which this version does not "
            "know: take the version that wrote it, or another folder"
        )
    if not fits or not _VERSION.fullmatch(pointer["version"]):
        refuse(folder, f"has a damaged {POINTER} (version={pointer['version']!r}): {_REMEDY}")
    return pointer


def _check_files(folder: pathlib.Path, version: pathlib.Path, pointer: dict[str, Any]) -> None:
    """
    Check that the files of a version are those that were written.

    :raises ValueError: if a file is missing, is a link, or does not have the hash that the pointer gives
    """
    if version.is_symlink():
        refuse(folder, f"is damaged ({version.name} is a link): {_REMEDY}")
    for name in FILES:
        file = version / name
        if file.is_symlink() or not file.is_file():
            what = "a link" if file.is_symlink() else "missing"
            refuse(folder, f"is damaged ({version.name}/{name} is {what}): {_REMEDY}")
        if sha256(file) != pointer["files"][name]:
            refuse(folder, f"is damaged (the content of {version.name}/{name} is not what was written): {_REMEDY}")


@contextlib.contextmanager
def _locked(path: pathlib.Path, shared: bool = False) -> Iterator[None]:
    """
    Lock a file; the system gives it free when the process ends, however it ends.

    :param path: the file
    :param shared: whether others may hold it likewise
    :raises BlockingIOError: if somebody else holds it
    :raises ValueError: if it is no file
    """
    _refuse_pipe(path)
    with open(path, "rb" if shared else "ab") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if path.name == WRITER:
                warnings.warn(
                    f"path={str(path.parent)!r} is on a file system without locks: that two runs write there at the "
                    "same time is not seen",
                    stacklevel=2,
                )
        yield


def _refuse_pipe(path: pathlib.Path) -> None:
    """Refuse what is no file, such as a pipe, which would keep us waiting when it is opened, or is somewhere else."""
    if path.is_symlink():
        raise UnknownFormatError(f"path={str(path.parent)!r} is damaged ({path.name} is a link): {_REMEDY}")
    if path.exists() and not path.is_file():
        refuse(path.parent, f"is damaged ({path.name} is no file): {_REMEDY}")


@contextlib.contextmanager
def _only_writer(folder: pathlib.Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(folder / WRITER))
        except BlockingIOError as error:
            raise RuntimeError(
                f"path={str(folder)!r} is being written by another run: give each run a folder of its own"
            ) from error
        yield


def _remove_versions(folder: pathlib.Path, but: set[str | None]) -> None:
    """Remove all versions of a checkpoint but some."""
    for version in folder.glob("version-*"):
        if version.name not in but and _VERSION.fullmatch(version.name):
            _remove(version)


def _remove(version: pathlib.Path) -> None:
    """Remove a version that was written here, unless somebody reads it."""
    mark = version / MARK
    if version.is_symlink() or mark.is_symlink() or not mark.is_file():
        return
    with contextlib.suppress(OSError), _locked(mark):
        for file in (*(version / name for name in FILES), *version.glob(".*.partial")):
            file.unlink(missing_ok=True)
        mark.unlink()
        version.rmdir()  # refuses where somebody has put files of their own
