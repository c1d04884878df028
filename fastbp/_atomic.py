"""Floor 0: files that are whole or not there: written beside their place, synced, then renamed into it."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, previous: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Give the place to write a file to, which takes the place of `path` when the block ends without an error.

    Parameters
    ----------
    path : the file, replaced if it exists; a link is followed
    previous : what the file that was there before is called from now on, in the same folder. After a crash at any
        moment `path` is whole (one of the two, where the file system has no hard links)

    Raises
    ------
    FileNotFoundError : the folder does not exist
    FileExistsError : `path` is a device, a pipe or a socket
    IsADirectoryError : `path` is a folder
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist: make it, or write {target.name} elsewhere")
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{path} is a device or a pipe: name a file")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    mode = _create(part)
    try:
        yield part
        os.chmod(part, mode)  # some writers make their files 0600
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        if previous is not None and target.exists():
            _keep(target, previous)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _create(path: Path) -> int:
    """Create the file and return the mode that the user's umask gives it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _keep(target: Path, name: str | os.PathLike[str]) -> None:
    """Give the file a second name, under which it stays when the first goes to a new file."""
    link = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        os.link(target, link)
    except OSError:
        os.replace(target, name)
        return
    try:
        os.replace(link, name)
    finally:
        link.unlink(missing_ok=True)  # it is still there where both names were this very file's


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where folders can be synced (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
