"""Explain a full disk, and a file that may not be read or written, however a library wrapped the error."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.errors import DataError, DistillError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turn a full disk or quota, and a file that may not be read or written, into a DataError.

    The error names the file where it is known, else `folder`, the run folder.
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
        raise


def _is_one_of(error: Exception, numbers: tuple[int, ...]) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in numbers
    return any(f"os error {n})" in str(error) or f"[Errno {n}]" in str(error) for n in numbers)
