"""Shards are whole or absent, found by content, refused where header or bytes are wrong."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from distill.errors import DataError, MismatchError, MissingError
from distill.signals import store
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key


def key_of(number: int) -> str:
    return sequence_key([number, 7, 8], 1)


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


@pytest.fixture
def fill(tmp_path, header, record_of):
    """fill(numbers, ...) adds those sequences, 5 tokens each, two to a shard."""

    def add(numbers, writer="rank0", header=header):
        with SignalWriter(tmp_path, header, writer=writer, shard_tokens=10) as shards:
            for number in numbers:
                shards.add(key_of(number), record_of(header, 5, seed=number))

    return add


def names(folder) -> list[str]:
    """Of all files, without the shards' content hashes."""
    return sorted(re.sub(r"-[0-9a-f]{16}\.shard", ".shard", p.name) for p in folder.iterdir())


def shard(folder, number: int, writer="rank0"):
    (path,) = folder.glob(f"signals-{writer}-{number:05d}-*.shard")
    return path


def test_what_was_added_is_read_back_by_key(tmp_path, header, fill, record_of):
    fill(range(5))
    store = SignalStore(tmp_path, header)
    assert store.paths == [shard(tmp_path, i) for i in range(3)]
    assert names(tmp_path) == [f"signals-rank0-0000{i}.shard" for i in range(3)]
    for number in (3, 0, 4, 1, 2):
        assert same(store.read(key_of(number)), record_of(header, 5, seed=number))
    assert len(store) == 5 and store.num_tokens == 25 and store.header == header
    assert store.num_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    assert set(store.keys()) == {key_of(i) for i in range(5)}
    assert key_of(2) in store and key_of(9) not in store
    assert store.missing([key_of(9), key_of(2), key_of(8)]) == [key_of(9), key_of(8)]
    with pytest.raises(
        MissingError,
        match=f"no signal for sequence {key_of(9)}; run `distill run RECIPE --redo capture`",
    ):
        store.read(key_of(9))


@pytest.mark.parametrize(
    "header_of_kind",
    [SignalHeader("top_k", 500, top_k=16), SignalHeader("dense", 11)],
    ids=lambda h: h.kind,
)
def test_other_kinds_are_read_back_too(tmp_path, fill, record_of, header_of_kind):
    fill(range(3), header=header_of_kind)
    store = SignalStore(tmp_path)
    assert store.header == header_of_kind
    assert all(same(store.read(key_of(i)), record_of(header_of_kind, 5, seed=i)) for i in range(3))


def test_a_token_of_a_real_like_teacher_takes_at_most_36_bytes_on_disk_with_every_header(
    tmp_path, real_like_record
):
    header = SignalHeader(
        "sampled", 151_936, num_draws=50, fingerprints={"teacher": "0" * 64, "tokenizer": "1" * 64}
    )
    with SignalWriter(tmp_path, header, writer="rank0", shard_tokens=2048) as shards:
        for number in range(16):  # answers of 256 tokens, two shards
            shards.add(key_of(number), real_like_record)
    num_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert len(names(tmp_path)) == 2
    assert (
        20 < num_bytes / (16 * 256) <= 36
    )  # less than 20 would be another signal than 12 to 16 ids of 17 bits a token


def test_the_key_is_the_content(header):
    assert sequence_key([1, 2, 3], 1) == sequence_key(np.array([1, 2, 3], np.int64), 1)
    assert (
        len(
            {
                sequence_key(*a)
                for a in (([1, 2, 3], 1), ([1, 2, 3], 2), ([1, 2], 1), ([2, 1, 3], 1))
            }
        )
        == 4
    )
    assert (
        sequence_key([151_935, 0], 1) == "734217bdb59bc3afc6b4cc7dbafadb3a"
    )  # on every machine and in every version


def test_an_empty_folder_is_an_empty_store_only_for_who_knows_the_header(tmp_path, header):
    assert len(SignalStore(tmp_path, header)) == 0
    with pytest.raises(MissingError, match="no signal shards; run `distill capture RECIPE`"):
        SignalStore(tmp_path)


def test_a_resumed_run_adds_shards_and_leaves_the_old_ones(tmp_path, header, fill):
    fill(range(4))
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    first, second = shard(tmp_path, 0), shard(tmp_path, 1)
    first.rename(first.with_suffix(".broken"))
    fill(range(4, 6))
    assert names(tmp_path)[1:] == ["signals-rank0-00001.shard", "signals-rank0-00002.shard"]
    assert second.read_bytes() == before[second]
    assert set(SignalStore(tmp_path, header).keys()) == {key_of(i) for i in (2, 3, 4, 5)}


def test_shards_of_several_writers_are_one_store_and_the_first_by_name_counts(
    tmp_path, header, fill, record_of
):
    fill([1, 2], writer="rank10")
    with SignalWriter(tmp_path, header, writer="rank1") as shards:
        shards.add(key_of(2), record_of(header, 3, seed=99))
        shards.add(key_of(3), record_of(header, 5, seed=3))
    store = SignalStore(tmp_path, header)
    assert set(store.keys()) == {key_of(i) for i in (1, 2, 3)}
    assert same(
        store.read(key_of(2)), record_of(header, 3, seed=99)
    )  # "rank1-" is before "rank10-"
    assert store.num_tokens == 13


def test_folders_of_independent_jobs_are_merged_by_copying_their_files(tmp_path, header, record_of):
    """Both write as rank0 from number 0 on, and both captured sequence 2."""

    def capture(folder, numbers):
        with SignalWriter(folder, header, shard_tokens=10) as shards:
            for number in numbers:
                shards.add(key_of(number), record_of(header, 5, seed=number))

    one, two, merged = (tmp_path / name for name in ("one", "two", "merged"))
    capture(one, [0, 1, 2])
    capture(two, [3, 4, 2, 5])
    merged.mkdir()
    for folder in (one, two, two):  # twice is once
        for path in folder.iterdir():
            shutil.copy(path, merged)
    store = SignalStore(merged, header)
    assert len(store.paths) == 4 and store.broken == []
    assert set(store.keys()) == {key_of(i) for i in range(6)} and store.num_tokens == 30
    assert all(same(store.read(key_of(i)), record_of(header, 5, seed=i)) for i in range(6))
    before = {p: p.read_bytes() for p in merged.iterdir()}
    capture(merged, [6, 7])  # and a job may go on in the merged folder
    assert all(p.read_bytes() == data for p, data in before.items())
    assert SignalStore(merged, header).missing([key_of(i) for i in range(8)]) == []


def test_of_two_records_of_a_sequence_the_same_one_counts_in_whatever_order_the_folders_were_copied(
    tmp_path, header, record_of
):
    for folder, seed in (("one", 1), ("two", 2)):
        with SignalWriter(tmp_path / folder, header) as shards:
            shards.add(key_of(0), record_of(header, 5, seed=seed))
    for order in (("one", "two"), ("two", "one")):
        merged = tmp_path / "-".join(order)
        for folder in order:
            shutil.copytree(tmp_path / folder, merged, dirs_exist_ok=True)
    read = [SignalStore(tmp_path / name, header).read(key_of(0)) for name in ("one-two", "two-one")]
    assert same(*read)
    assert sum(same(read[0], record_of(header, 5, seed=seed)) for seed in (1, 2)) == 1


def test_a_shards_name_holds_its_content(tmp_path, header, record_of):
    for folder, seed in (("one", 1), ("again", 1), ("two", 2)):
        with SignalWriter(tmp_path / folder, header) as shards:
            shards.add(key_of(0), record_of(header, 5, seed=seed))
    one, again, two = (shard(tmp_path / folder, 0) for folder in ("one", "again", "two"))
    assert one.name == again.name != two.name and one.read_bytes() == again.read_bytes()


def test_a_sequence_added_twice_is_kept_once(tmp_path, header, fill):
    fill([1, 1, 1])
    assert len(names(tmp_path)) == 1 and SignalStore(tmp_path, header).num_tokens == 5


def test_an_exception_does_not_lose_what_was_added(tmp_path, header, record_of):
    with pytest.raises(KeyboardInterrupt), SignalWriter(tmp_path, header) as shards:
        shards.add(key_of(1), record_of(header, 5, seed=1))
        raise KeyboardInterrupt
    assert SignalStore(tmp_path, header).keys() == [key_of(1)]


def test_leftovers_of_killed_processes_are_ignored_and_removed_by_the_same_writer_only(
    tmp_path, header, fill
):
    fill([1])
    for writer in ("rank0", "rank1", "rank10"):
        (tmp_path / f".signals-{writer}-00007-0123456789abcdef.shard.4242.tmp").write_bytes(
            b"half a sha"
        )
    assert len(SignalStore(tmp_path, header)) == 1
    SignalWriter(tmp_path, header, writer="rank1").flush()
    assert [n for n in names(tmp_path) if n.endswith(".tmp")] == [
        ".signals-rank0-00007.shard.4242.tmp",
        ".signals-rank10-00007.shard.4242.tmp",
    ]


def test_a_shard_broken_anywhere_is_named_with_the_way_out(tmp_path, header, fill):
    fill(range(4))
    path = shard(tmp_path, 0)
    whole = path.read_bytes()
    broken = {
        i: whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(0, len(whole), 31)
    }
    broken |= {-i: whole[:i] for i in (0, 5, 30, 200, len(whole) - 1)}
    broken |= {len(whole): whole + b"\0"}
    for data in broken.values():
        path.write_bytes(data)
        with pytest.raises(
            DataError,
            match=r"rank0-00000-[0-9a-f]{16}.shard: broken .*; run `distill run RECIPE --redo capture",
        ):
            SignalStore(tmp_path, header)
        tolerant = SignalStore(tmp_path, header, skip_broken=True)
        assert tolerant.broken == [path] and set(tolerant.keys()) == {key_of(2), key_of(3)}
    path.write_bytes(whole)
    assert SignalStore(tmp_path, header, skip_broken=True).broken == []


def test_a_wrong_size_is_named(tmp_path, header, fill):
    fill(range(2))
    path = shard(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="bytes, expected"):
        SignalStore(tmp_path, header)


def test_a_wrong_record_under_right_checksums_is_named_when_it_is_read(
    tmp_path, header, fill, monkeypatch
):
    encode = store.encode
    monkeypatch.setattr(store, "encode", lambda *arguments: encode(*arguments)[:-10] + bytes(10))
    fill(range(2))
    signals = SignalStore(tmp_path, header)
    with pytest.raises(DataError, match=r"rank0-00000-[0-9a-f]{16}.shard: broken \(sequence"):
        signals.read(key_of(1))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "top_k", "num_draws": None, "top_k": 50},
        {"vocab_size": 999},
        {"num_draws": 49},
        {"format": 2},
    ],
    ids=lambda c: next(iter(c)),
)
def test_another_header_is_refused_by_field_with_both_values(tmp_path, header, fill, change):
    fill([1])
    other = replace(header, **change)
    name = next(iter(change))
    message = rf"{name} is {getattr(header, name)!r}, expected {change[name]!r}; .* --redo capture"
    for skip_broken in (False, True):  # a whole shard of another signal is not a broken one
        with pytest.raises(MismatchError, match=message):
            SignalStore(tmp_path, other, skip_broken=skip_broken)


@pytest.mark.parametrize(
    "name",
    [
        "teacher",
        "teacher_dtype",
        "teacher_quantization",
        "tokenizer",
        "chat_template",
        "something_new",
    ],
)
def test_another_fingerprint_is_refused_by_name(tmp_path, header, fill, name):
    fill([1])
    other = replace(header, fingerprints=header.fingerprints | {name: "two"})
    with pytest.raises(MismatchError, match=rf"fingerprints.{name} is .*, expected 'two'"):
        SignalStore(tmp_path, other)


def test_shards_of_two_signals_in_one_folder_are_refused(tmp_path, header, fill):
    fill([1])
    fill([2], writer="rank1", header=replace(header, num_draws=49))
    with pytest.raises(
        MismatchError, match=r"rank1-00000-[0-9a-f]{16}.shard: num_draws is 49, expected 50"
    ):
        SignalStore(tmp_path)


@pytest.mark.parametrize("skip_broken", [False, True])
def test_a_signal_of_another_loss_temperature_is_refused_with_both_values(
    tmp_path, header, fill, monkeypatch, skip_broken
):
    with monkeypatch.context() as patched:
        patched.setattr("distill.signals.header.LOSS_TEMPERATURE", 2.0)
        fill([2], writer="rank1")
    with pytest.raises(
        MismatchError,
        match=r"rank1-00000-[0-9a-f]{16}.shard: loss_temperature is 2.0, expected 1.0; "
        r".* --redo capture",
    ):
        SignalStore(tmp_path, header, skip_broken=skip_broken)


def test_a_shard_of_a_later_format_is_refused_before_it_is_understood(tmp_path, header, fill):
    fill([1], header=replace(header, format=2))
    with pytest.raises(MismatchError, match="format is 2, expected 1"):
        SignalStore(tmp_path)


def test_a_dense_shard_ends_before_it_fills_the_memory(tmp_path, record_of, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 2 * 5 * 100)
    dense = SignalHeader("dense", 100)
    with SignalWriter(tmp_path, dense) as shards:
        for number in range(3):
            shards.add(key_of(number), record_of(dense, 5, seed=number))
    assert len(names(tmp_path)) == 3


def test_more_shards_than_may_be_open_are_read(tmp_path, header, fill, record_of, monkeypatch):
    monkeypatch.setattr(store, "OPEN_SHARDS", 2)
    fill(range(10))
    signals = SignalStore(tmp_path, header)
    assert all(
        same(signals.read(key_of(i)), record_of(header, 5, seed=i))
        for i in (*range(10), *range(10))
    )


KILLED = """
import sys, numpy as np
from pathlib import Path
from distill.signals.encoding import SampledRecord
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
assert "torch" not in sys.modules
header = SignalHeader("sampled", 1000, num_draws=50)
have = SignalStore(Path(sys.argv[1]), header).keys()
writer = SignalWriter(Path(sys.argv[1]), header, shard_tokens=40)
i = 0
while True:
    key = sequence_key([i], 0)
    if key not in have:
        ids = np.arange(20, dtype=np.int32) + i % 900
        floats = np.zeros(20, np.float32)
        counts = np.full(20, 50, np.int32)
        writer.add(key, SampledRecord(ids, counts, np.arange(21), floats, floats))
        print(i, flush=True)
        sys.stdin.readline()
    i += 1
"""


def test_a_process_killed_at_any_moment_leaves_whole_shards_and_loses_less_than_one(tmp_path):
    for num_added in (7, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None and process.stdin is not None
        last = 0
        for _ in range(num_added):
            last = int(process.stdout.readline())
            process.stdin.write("\n" * 2)  # one ahead: it is at work when it is killed
            process.stdin.flush()
        process.kill()
        process.communicate()
        store = SignalStore(tmp_path)
        for i in range(last - 2):
            record: Any = store.read(sequence_key([i], 0))
            assert record.ids[0] == i % 900
