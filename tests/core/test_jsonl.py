import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import tracemalloc
import zlib

import pytest
from log_helpers import read_row_logs

from distill.core.digests import canonical_json, digest
from distill.core.files import write_atomic
from distill.core.jsonl import RowLog, read_jsonl, write_jsonl
from distill.errors import DataError, MissingError


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(DataError, match=r"prompts.jsonl, line 3: not JSON"):
        list(read_jsonl(path))


def test_a_line_that_is_no_object_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("[1, 2]\n")
    with pytest.raises(DataError, match=r"line 1: expected an object, got list"):
        list(read_jsonl(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"nothing\.jsonl: no such file"):
        list(read_jsonl(tmp_path / "nothing.jsonl"))


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "x": 1, "prompt": "b"}', "the key 'prompt' stands there twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "the key 'b' stands there twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "a number of thousands of digits"),
        ('{"a": 1}\0\0', "NUL in it"),
    ],
)
def test_a_line_of_json_that_has_no_one_meaning_is_named(tmp_path, line, words):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"prompts\.jsonl, line 2: ") as caught:
        list(read_jsonl(path))
    assert words in str(caught.value) and len(str(caught.value)) < 400


def test_a_byte_order_mark_and_every_kind_of_line_end_are_read(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r{"a": 3}\n\n{"a": 4}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3}), (5, {"a": 4})]


def test_a_digest_does_not_die_of_half_a_character():
    assert digest("Una \ud83d") != digest("Una \ud83e") and len(digest("\udc00")) == 32
    assert digest("答") == digest("答".encode())


def test_jsonl_round_trip_keeps_every_script(tmp_path):
    rows = [{"text": "答案：५७ ፊደል 😀\u2028"}, {"text": ""}]
    assert write_jsonl(tmp_path / "x.jsonl", rows) == 2
    assert [row for _, row in read_jsonl(tmp_path / "x.jsonl")] == rows


def test_rows_are_written_one_by_one(tmp_path):
    rows = ({"number": number, "text": "x" * 1_000} for number in range(3_000))
    tracemalloc.start()
    assert write_jsonl(tmp_path / "x.jsonl", rows) == 3_000
    assert tracemalloc.get_traced_memory()[1] < 500_000, "not the three megabytes of the file"
    tracemalloc.stop()
    assert sum(1 for _ in read_jsonl(tmp_path / "x.jsonl")) == 3_000


def test_a_row_that_cannot_be_written_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"a": 1}])
    for bad in ({"text": "half \ud83d"}, {"text": {1, 2}}):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            write_jsonl(path, [{"a": 2}, bad])
        assert path.read_text() == '{"a": 1}\n'
        assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"], "no temporary file is left"


def test_equal_values_have_one_json_and_one_digest():
    assert (
        canonical_json({"b": 1, "a": [1.5, "é"]})
        == canonical_json({"a": [1.5, "é"], "b": 1})
        == '{"a":[1.5,"é"],"b":1}'
    )
    assert digest("ab", "c") != digest("a", "bc"), "parts are kept apart"


def test_logs_survive_torn_lines_nul_tails_and_a_second_writer(tmp_path):
    with RowLog(tmp_path) as first:
        for i in range(3):
            first.append({"i": i})
    with open(first.path, "ab") as f:  # a process that died while it wrote, and a power cut
        f.write(b'{"i": 3}\tdead')
    with RowLog(tmp_path) as second:
        second.append({"i": 4})
    with open(second.path, "ab") as f:
        f.write(b"\0" * 100)
    rows, broken = read_row_logs(tmp_path)
    assert sorted(row["i"] for row in rows) == [0, 1, 2, 4]
    assert len(broken) == 2 and all("line" in note for note in broken)


def test_a_flipped_byte_is_noticed(tmp_path):
    with RowLog(tmp_path) as log:
        log.append({"answer": "57"})
    log.path.write_bytes(log.path.read_bytes().replace(b"57", b"58"))
    rows, broken = read_row_logs(tmp_path)
    assert rows == [] and len(broken) == 1


def test_an_empty_log_leaves_no_file(tmp_path):
    with RowLog(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "kept.jsonl"
    write_atomic(path, "old\n")
    code = f"""
import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from distill.core.files import write_atomic
try:
    write_atomic(Path({str(path)!r}), "x" * 100_000)
except OSError as error:
    print(error.filename)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(path)
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.jsonl"], "no temporary file is left"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_json_of_a_log_row_reads_back(tmp_path):
    with RowLog(tmp_path) as log:
        log.append({"text": "tab\there\nand newline"})
    assert read_row_logs(tmp_path)[0] == [{"text": "tab\there\nand newline"}]
    assert json.loads(log.path.read_bytes().rpartition(b"\t")[0]) == {
        "text": "tab\there\nand newline"
    }


def test_the_last_row_of_a_burst_is_synced_without_another_one(tmp_path, monkeypatch):
    monkeypatch.setattr(RowLog, "FSYNC_SECONDS", 0.01)
    synced, fsync = threading.Event(), os.fsync

    def told(fd):
        fsync(fd)
        if threading.current_thread() is not threading.main_thread():
            synced.set()

    monkeypatch.setattr(os, "fsync", told)
    with RowLog(tmp_path) as log:
        log.append({"n": 1})
        assert synced.wait(60), "no row came after it"


def test_a_disk_that_takes_no_more_is_told_with_the_next_row(tmp_path, monkeypatch):
    monkeypatch.setattr(RowLog, "FSYNC_SECONDS", 0.01)
    failed, fsync = threading.Event(), os.fsync

    def full(fd):
        if threading.current_thread() is threading.main_thread():
            return fsync(fd)
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with RowLog(tmp_path) as log:
        log.append({"n": 1})
        assert failed.wait(60)
        log._thread.join()
        with pytest.raises(OSError, match="No space left") as error:
            log.append({"n": 2})
        assert error.value.filename == str(log.path)


@pytest.mark.parametrize("way", ["deleted", "moved", "its folder deleted"])
def test_a_log_that_is_deleted_while_rows_are_added_is_told_with_the_next_row(
    tmp_path, monkeypatch, way
):
    """The rows would go to a file that has no name any more; they may have cost money."""
    monkeypatch.setattr(RowLog, "FSYNC_SECONDS", 0.01)
    log = RowLog(tmp_path / "raw")
    if way == "deleted":
        log.path.unlink()
    elif way == "moved":
        log.path.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(tmp_path / "raw")
    log.append({"n": 1})
    log._thread.join(60)
    with pytest.raises(FileNotFoundError) as error:
        log.append({"n": 2})
    assert error.value.filename == str(log.path)
    with pytest.raises(FileNotFoundError):
        log.close()


@pytest.mark.parametrize("text", ["5", "[1]", "null", '"x"', "[" * 100_000, "9" * 5000])
def test_a_line_that_holds_no_object_is_a_broken_one_under_a_right_checksum(tmp_path, text):
    data = text.encode()
    (tmp_path / "x.jsonl").write_bytes(b"%s\t%08x\n" % (data, zlib.crc32(data)))
    rows, broken = read_row_logs(tmp_path)
    assert rows == [] and broken == ["x.jsonl, line 1"]
