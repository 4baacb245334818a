"""Write files and folders whole or not at all, so that a power cut leaves nothing half done."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` survive a power cut (POSIX asks for it)."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file or nothing; see `written_whole`."""
    with written_whole(path) as f:
        f.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to that appears whole or, after an error, not at all.

    Temporary name, fsync, rename, fsync of the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk is reported with the file it hit
            error.filename = error.filename or str(path)
        raise
    fsync_folder(path.parent)


def write_first(path: Path, data: str | bytes) -> None:
    """Write a whole file unless there is one: of several processes that try, one's stays.

    Where the file system has no hard links, two that come at the same moment may each write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        _write_through(temporary, data)
        _link_or_move(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _link_or_move(temporary: Path, path: Path) -> None:
    """Give the file its name if nobody has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # no hard links there
        if not path.exists():
            os.replace(temporary, path)


class OpenFile:
    """A file that is read here and there, also by several threads; closed when nobody has it."""

    def __init__(self, path: Path):
        self.file = open(path, "rb")  # noqa: SIM115 - closed by __del__

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at `offset`; fewer where the file ends before."""
        return os.pread(self.file.fileno(), length, offset)

    def __del__(self) -> None:
        if hasattr(self, "file"):  # it was there to open
            self.file.close()


def _write_through(path: Path, data: str | bytes) -> None:
    """Write a file, and wait until the disk has it."""
    with open(path, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)
        f.flush()
        os.fsync(f.fileno())


class FolderWriter:
    """Fill a folder under another name, so that it appears whole or not at all.

    `with FolderWriter(path) as temporary:` write into `temporary`; an error leaves nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            return
        for path in self.temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
        if self.path.exists():  # rename does not replace a folder with files in it
            old = self.path.with_name(f".{self.path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            self.path.rename(old)
            self.temporary.rename(self.path)
            shutil.rmtree(old)
        else:
            self.temporary.rename(self.path)
        fsync_folder(self.path.parent)


def files_under(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".tmp")]
