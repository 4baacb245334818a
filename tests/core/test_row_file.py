import pytest

from distill.core.jsonl import BadRow, read_jsonl, write_jsonl
from distill.core.row_file import RowFile
from distill.errors import DataError, MissingError


def test_each_row_is_read_as_when_all_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"a": "é"}\r\n{"a": 2}\r{"a": "答"}\n\n  \n{"a": 4}'.encode())
    rows = RowFile(path)
    assert list(rows.scan()) == list(read_jsonl(path))
    assert [rows[number] for number in (3, 2, 1, 0)] == [
        row for _, row in reversed(list(read_jsonl(path)))
    ]
    assert len(rows) == 4
    with pytest.raises(IndexError):
        rows[4]


def test_a_line_that_is_no_row_is_named_as_when_all_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    for line in (b"[1]", b"{", b'{"a": "\xff"}', b'{"a": 1, "a": 2}'):
        path.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
        with pytest.raises(BadRow) as told:
            list(read_jsonl(path))
        with pytest.raises(BadRow, match="line 3") as told_here:
            list(RowFile(path).scan())
        assert str(told_here.value) == str(told.value)
    with pytest.raises(MissingError, match="no such file"):
        RowFile(tmp_path / "none.jsonl")


def test_a_file_that_gets_another_content_is_not_mixed_up(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}, {"a": 2}])
    rows = RowFile(path)
    assert len(list(rows.scan())) == 2
    write_jsonl(path, [{"b": 1_000_000}])
    assert rows[1] == {"a": 2}, "the file that was opened stays"
    rows = RowFile(path)
    assert len(list(rows.scan())) == 1
    with open(path, "r+b") as f:
        f.truncate(5)
    with pytest.raises(DataError, match="changed while it was read; run the same command again"):
        rows[0]
