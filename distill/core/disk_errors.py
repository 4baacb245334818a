"""Explain what a disk does to a run, however a library wrapped the error.

It is full, fails, forbids, or somebody deletes a folder while a command works there.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.errors import DataError, DistillError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
FAILING = (errno.EIO, errno.ESTALE, errno.EBADMSG, errno.EUCLEAN)
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY)


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turn what the disk did into a DataError.

    The error names the file where it is known, else `folder`, the run folder. A file that is gone is
    explained only inside the run folder: elsewhere it is a fault of ours.
    """
    try:
        yield
    except DistillError:
        raise
    except Exception as error:
        place = getattr(error, "filename", None) or folder
        if _is_one_of(error, DISK_FULL):
            raise DataError(
                f"{place}: the disk (or quota) is full; free space and run the same command to continue: finished work is kept"
            ) from error
        if _is_one_of(error, FORBIDDEN):
            raise DataError(
                f"{place}: this user may not read or write it; change that, or set run_folder=PATH"
            ) from error
        if _is_one_of(error, FAILING):
            raise DataError(
                f"{place}: the disk fails ({_first_line(error)}); copy the run folder to another one "
                "and set run_folder=PATH"
            ) from error
        if _is_one_of(error, GONE) and _is_in(place, folder):
            raise DataError(
                f"{place}: {_first_line(error)}: it was deleted, moved or replaced while this command "
                "worked; put it back, or run the same command: what is gone is made again"
            ) from error
        raise


def _is_in(place: object, folder: Path) -> bool:
    return folder in (path := Path(str(place))).parents or path == folder


def _first_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or str(error)).split("\n")[0][:200]


def _is_one_of(error: Exception, numbers: tuple[int, ...]) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in numbers
    return any(f"os error {n})" in str(error) or f"[Errno {n}]" in str(error) for n in numbers)
