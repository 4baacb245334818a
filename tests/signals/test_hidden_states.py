"""The teacher's hidden states in 8 bits: how near, how large, and back with their record."""

from dataclasses import fields, replace

import numpy as np
import pytest

from distill.errors import DataError, MismatchError, MissingError
from distill.signals import hidden_states
from distill.signals.header import SignalHeader
from distill.signals.hidden_states import BLOCK, HiddenStates, bytes_per_token, quantize
from distill.signals.store import SignalStore, SignalWriter, sequence_key


def randn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def decoded(states: HiddenStates, width: int) -> np.ndarray:
    return states.values * np.repeat(states.scales.astype(np.float32), BLOCK, 1)[:, :width]


@pytest.mark.parametrize("width", [1, 63, 64, 65, 192, 1000])
def test_a_number_is_at_most_half_a_step_away(width):
    hidden = randn(1, 9, width)
    states = quantize(hidden)
    step = np.repeat(states.scales.astype(np.float32), BLOCK, 1)[:, :width]
    assert (np.abs(decoded(states, width) - hidden) <= 0.501 * step).all(), (
        "the largest may be a float16 rounding further"
    )
    relative = np.linalg.norm(decoded(states, width) - hidden) / np.linalg.norm(hidden)
    assert relative < 0.007


def test_an_outlier_costs_precision_in_its_own_block_alone():
    hidden = randn(2, 5, 256)
    alone = decoded(quantize(hidden), 256)
    hidden[:, 70] = 100.0
    found = decoded(quantize(hidden), 256)
    assert np.array_equal(np.delete(found, range(64, 128), 1), np.delete(alone, range(64, 128), 1))
    assert np.abs(found[:, 70] - 100).max() < 0.05


def test_zeros_and_tiny_numbers_survive():
    hidden = np.zeros((2, 128), np.float32)
    hidden[1, 5], hidden[1, 100] = 1e-12, 2e-5  # below every float16 scale; at a denormal one
    found = decoded(quantize(hidden), 128)
    assert (found[0] == 0).all() and found[1, 5] == 0 and abs(found[1, 100] - 2e-5) < 1e-5


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_is_refused_with_the_way_out(wrong):
    hidden = randn(1, 3, 100)
    hidden[1, 40] = wrong
    with pytest.raises(DataError, match=r"teacher\.dtype=float32.*capture\.hidden_states to none"):
        quantize(hidden)


@pytest.mark.parametrize(
    ("width", "num_bytes"), [(64, 66), (100, 104), (192, 198), (4096, 4224), (None, 0)]
)
def test_the_size_is_what_the_module_says(width, num_bytes):
    assert bytes_per_token(width) == num_bytes
    for num_tokens in (0, 3) if width else ():
        states = quantize(randn(1, num_tokens, width))
        data = hidden_states.encode(states, width, num_tokens)
        assert len(data) == num_tokens * num_bytes
        back = hidden_states.decode(data, width, num_tokens)
        assert np.array_equal(back.values, states.values) and np.array_equal(
            back.scales, states.scales
        )
        with pytest.raises(DataError, match="hidden states of width"):
            hidden_states.decode(data + b"\0", width, num_tokens)


HEADERS = [
    SignalHeader("sampled", 500, num_draws=50, hidden_size=100),
    SignalHeader("top_k", 500, top_k=16, hidden_size=64),
    SignalHeader("dense", 11, hidden_size=7),
]


def key_of(number: int) -> str:
    return sequence_key([number, 7, 8], 1)


def states_of(header: SignalHeader, num_tokens: int, seed: int) -> HiddenStates:
    assert header.hidden_size is not None
    return quantize(randn(seed, num_tokens, header.hidden_size))


@pytest.mark.parametrize("with_states", HEADERS, ids=lambda h: h.kind)
def test_record_and_states_of_every_kind_come_back_from_the_same_shard(
    tmp_path, record_of, with_states
):
    with SignalWriter(tmp_path, with_states, shard_tokens=10) as shards:
        for number in range(5):
            shards.add(
                key_of(number),
                record_of(with_states, number, seed=number),
                states_of(with_states, number, number),
            )
    store = SignalStore(tmp_path, with_states)
    assert store.header == with_states and store.hidden_size == with_states.hidden_size
    assert len(store.paths) == len(list(tmp_path.iterdir()))
    for number in (3, 0, 4):
        record, expected = store.read(key_of(number)), record_of(with_states, number, seed=number)
        assert all(
            np.array_equal(getattr(record, f.name), getattr(expected, f.name))
            for f in fields(record)
        )
        states, wanted = (
            store.read_hidden_states(key_of(number)),
            states_of(with_states, number, number),
        )
        assert np.array_equal(states.values, wanted.values) and np.array_equal(
            states.scales, wanted.scales
        )
    with pytest.raises(MissingError, match="no signal for sequence"):
        store.read_hidden_states(key_of(9))


def test_a_signal_with_states_is_another_signal_than_one_without(tmp_path, header, record_of):
    with SignalWriter(tmp_path, header) as shards:
        shards.add(key_of(1), record_of(header, 5, seed=1))
    with pytest.raises(
        MissingError,
        match=r"capture\.hidden_states to int8 and run `distill run RECIPE --redo capture",
    ):
        SignalStore(tmp_path).read_hidden_states(key_of(1))
    with pytest.raises(MissingError, match=r"or set train\.hidden_weight to 0"):
        _ = SignalStore(tmp_path).hidden_size
    for width in (64, 65):
        with pytest.raises(MismatchError, match=f"hidden_size is None, expected {width}"):
            SignalStore(tmp_path, replace(header, hidden_size=width))
    with pytest.raises(ValueError, match="hidden_size is 0"):
        replace(header, hidden_size=0)


def test_states_that_do_not_fit_the_header_are_not_written(tmp_path, header, record_of):
    with_states = HEADERS[0]
    record, states = record_of(with_states, 5, seed=1), states_of(with_states, 5, 1)
    writer = SignalWriter(tmp_path, with_states)
    for wrong in (None, states_of(with_states, 4, 1), quantize(randn(1, 5, 99))):
        with pytest.raises(ValueError, match="hidden states and scales are"):
            writer.add(key_of(1), record, wrong)
    with pytest.raises(ValueError, match="expected None"):
        SignalWriter(tmp_path, header).add(key_of(1), record_of(header, 5, seed=1), states)
    writer.flush()
    assert list(tmp_path.iterdir()) == []
