"""A JSON file of ours holds the checksum of its own content."""

import json
import random

import pytest

from distill.core.stored_json import read_json, write_json
from distill.errors import DataError

VALUES = {
    "count": 12,
    "loss": 0.1 + 0.2,
    "by_tries": {1: 2, 10: 3, 2: 1},
    "text": "Habari \u00e9 \u4f60 \U0001f600 \ud800",
    "none": None,
    "list": [1, [2.5e-9, True]],
    "infinite": float("inf"),
}


def test_what_was_written_is_read(tmp_path):
    values = VALUES | {"text": "Habari \u4f60"}
    write_json(tmp_path / "x.json", values, indent=1)
    assert read_json(tmp_path / "x.json", "") == json.loads(json.dumps(values))


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, VALUES | {"text": "Habari \u4f60"}, indent=1)
    whole, meant = path.read_bytes(), read_json(path, "")
    place = random.Random(0)
    for _ in range(500):
        data = bytearray(whole)
        data[place.randrange(len(data))] ^= 1 << place.randrange(8)
        path.write_bytes(data)
        try:
            found = read_json(
                path, "way out"
            )  # the flip was in the checksum's own name, or nothing
            assert {name: found[name] for name in meant} == meant
        except DataError as error:
            assert str(error).endswith("; way out") and len(str(error)) < 400


def test_a_file_without_checksum_is_taken_as_an_older_version_wrote_it(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "x.json", "") == {"a": 1}


def test_a_missing_file_is_no_broken_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "x.json", "")
