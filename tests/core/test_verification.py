"""What a stage reads is what was written, or the run stops with the file's name and a way out that works."""

import random
import time

import pytest

from distill.core import shutdown, verification
from distill.core.digests import file_sha256
from distill.core.verification import RecordedFile, require_present, verifying
from distill.errors import DataError


@pytest.fixture
def recorded(tmp_path):
    """A file of 4,000 random bytes, as its manifest has it."""
    path = tmp_path / "student.safetensors"
    path.write_bytes(random.Random(0).randbytes(4000))
    return RecordedFile(path, 4000, file_sha256(path), "`distill run r.yaml --redo train`")


def test_a_whole_file_passes(recorded):
    with verifying([recorded]):
        pass


@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["beside the work", "before it"])
@pytest.mark.parametrize("seed", range(100))
def test_one_flipped_bit_is_found(recorded, monkeypatch, small_bytes, seed):
    monkeypatch.setattr(verification, "SMALL_BYTES", small_bytes)
    place = random.Random(seed)
    data = bytearray(recorded.path.read_bytes())
    data[place.randrange(len(data))] ^= 1 << place.randrange(8)
    recorded.path.write_bytes(data)
    with (
        pytest.raises(DataError, match=r"student\.safetensors: its content.*--redo train"),
        verifying([recorded]),
    ):
        pass


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data * 2, lambda data: b""]
)
def test_a_file_of_another_size_is_found_without_reading_it(recorded, change):
    recorded.path.write_bytes(change(recorded.path.read_bytes()))
    with pytest.raises(DataError, match=r"bytes, and 4,000 were written.*--redo train"):
        require_present([recorded])


def test_a_file_that_is_gone_is_named(recorded):
    recorded.path.unlink()
    with pytest.raises(DataError, match=r"student\.safetensors: gone; .*--redo train"):
        require_present([recorded])


def test_a_damaged_big_file_stops_the_work_at_its_next_check(recorded, monkeypatch):
    monkeypatch.setattr(verification, "SMALL_BYTES", 0)
    recorded.path.write_bytes(bytes(4000))
    with (
        pytest.raises(DataError, match="its content is not what was written"),
        shutdown.listening(),
        verifying([recorded]),
    ):
        for _ in range(1000):
            shutdown.check()
            time.sleep(0.01)
        pytest.fail("the work was not stopped")


def test_what_was_raised_stops_nothing_that_comes_after(recorded, monkeypatch):
    monkeypatch.setattr(verification, "SMALL_BYTES", 0)
    recorded.path.write_bytes(bytes(4000))
    with pytest.raises(DataError), verifying([recorded]):
        time.sleep(0.1)
    shutdown.check()


def test_an_error_of_the_work_is_not_hidden(recorded, monkeypatch):
    monkeypatch.setattr(verification, "SMALL_BYTES", 0)
    with pytest.raises(ZeroDivisionError), verifying([recorded]):
        raise ZeroDivisionError


def test_a_folder_in_the_place_of_a_file_is_told(recorded):
    recorded.path.unlink()
    recorded.path.mkdir()
    with pytest.raises(DataError, match=r"student\.safetensors: cannot be read .*--redo train"):
        verification.require_same_content(recorded)


def test_a_file_in_the_place_of_a_folder_is_told(recorded):
    below = RecordedFile(recorded.path / "weights", 1, "", recorded.redo)
    with pytest.raises(DataError, match=r"weights: cannot be read \(Not a directory\); .*--redo"):
        require_present([below])
