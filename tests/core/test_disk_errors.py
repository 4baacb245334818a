"""What a disk does to a run is one line with a way out, however a library wrapped it."""

import errno
import os

import pytest

from distill.core.disk_errors import disk_explained
from distill.errors import DataError


def raised_in(folder, error):
    with pytest.raises(DataError) as raised, disk_explained(folder):
        raise error
    return str(raised.value)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST])
def test_what_was_deleted_or_replaced_in_the_run_folder_is_named(tmp_path, number):
    path = tmp_path / "train" / "checkpoints"
    said = raised_in(tmp_path, OSError(number, os.strerror(number), str(path)))
    assert said.startswith(f"{path}: ") and "run the same command" in said


def test_a_file_elsewhere_that_is_missing_is_a_fault_of_ours(tmp_path):
    with pytest.raises(FileNotFoundError), disk_explained(tmp_path / "run"):
        (tmp_path / "elsewhere").read_text()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_failing_disk_is_told(tmp_path, number):
    said = raised_in(tmp_path, OSError(number, os.strerror(number), str(tmp_path / "x")))
    assert "the disk fails" in said and "set run_folder=PATH" in said


def test_what_a_library_wrapped_is_found_in_its_text(tmp_path):
    said = raised_in(tmp_path, RuntimeError("I/O error: Input/output error (os error 5)\nat 0x1"))
    assert "the disk fails" in said and "\n" not in said
