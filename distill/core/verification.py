"""Compare what a stage is about to read with what the stages before it wrote down.

A run folder travels on USB sticks and shared disks, where bits flip, files are cut and folders are
mixed up. Nothing is learnt, rounded or shown of a file that is not the one that was made.
"""

import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distill.core import shutdown
from distill.core.digests import file_sha256
from distill.errors import DataError, DistillError

SMALL_BYTES = 64 << 20  # what is smaller is read before the stage begins


@dataclass(frozen=True)
class RecordedFile:
    """A file that a finished stage stands for, as its manifest has it. `redo`: how to make it anew."""

    path: Path
    num_bytes: int
    sha256: str
    redo: str


def require_present(files: Sequence[RecordedFile]) -> None:
    """Raise DataError, naming the first, if a file is gone or of another size. Reads none of them."""
    for file in files:
        try:
            found = file.path.stat()
        except FileNotFoundError:
            raise DataError(f"{file.path}: gone; {_way_out(file)}") from None
        except OSError as error:
            raise _unreadable(file, error) from None
        if stat.S_ISDIR(found.st_mode):
            raise _unreadable(file, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
        if found.st_size != file.num_bytes:
            raise DataError(
                f"{file.path}: {found.st_size:,} bytes, and {file.num_bytes:,} were written; "
                f"it is damaged, or of another run: {_way_out(file)}"
            )


def require_same_content(file: RecordedFile) -> None:
    """Raise DataError if a file is gone, of another size, or its SHA-256 is not as written down."""
    require_present([file])
    try:
        found = file_sha256(file.path)
    except OSError as error:
        raise _unreadable(file, error) from None
    if found != file.sha256:
        raise DataError(
            f"{file.path}: its content is not what was written (SHA-256); "
            f"it is damaged, or of another run: {_way_out(file)}"
        )


@contextmanager
def verifying(files: Sequence[RecordedFile]) -> Iterator[None]:
    """Verify files while the block works on them: small ones before it, big ones beside it.

    Raises DataError naming the file: at the start, at the block's next `shutdown.check`, or at its
    end, so that what was made of a damaged file is never called finished.
    """
    require_present(files)
    big = [file for file in files if file.num_bytes > SMALL_BYTES]
    for file in files:
        if file not in big:
            require_same_content(file)
    failures: list[DistillError] = []
    left_early = threading.Event()

    def verify_big() -> None:
        try:
            for file in big:
                if left_early.is_set():
                    return
                require_same_content(file)
        except DataError as error:
            failures.append(error)
            if not left_early.is_set():
                shutdown.fail(error)

    thread = threading.Thread(target=verify_big, daemon=True)
    thread.start()
    try:
        yield
        thread.join()
    finally:
        left_early.set()
        for error in failures:
            shutdown.withdraw(error)
    if failures:
        raise failures[0]


def _unreadable(file: RecordedFile, error: OSError) -> DataError:
    return DataError(f"{file.path}: cannot be read ({error.strerror}); {_way_out(file)}")


def _way_out(file: RecordedFile) -> str:
    return f"copy it again from where it is whole, or make it anew: {file.redo}"
