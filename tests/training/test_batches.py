import random

import pytest
import torch
from conftest import tiny_qwen3

from distill.training.batches import Plan, collate, pack, plan_epoch, share_of_rank

LENGTHS = [30, 7, 12, 25, 3, 18, 9, 31, 5, 14] * 7


def test_every_sample_is_in_one_row_and_no_row_is_too_long():
    row_of = pack(LENGTHS, range(len(LENGTHS)), 32)
    rows = [[i for i, row in enumerate(row_of) if row == number] for number in sorted({*row_of})]
    assert sorted(i for row in rows for i in row) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[i] for i in row) <= 32 for row in rows)
    assert sum(LENGTHS) / (32 * len(rows)) > 0.9, "rows are well filled"


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_uses_each_sample_once_in_an_order_of_its_own(packing):
    def plan(seed, epoch):
        return plan_epoch(
            LENGTHS, max_length=32, batch_tokens=128, seed=seed, epoch=epoch, packing=packing
        )

    steps = plan(1, 0)
    assert sorted(i for rows in steps for row in rows for i in row) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[i] for row in rows for i in row) <= 128 for rows in steps)
    assert steps == plan(1, 0)
    assert steps != plan(1, 1) and steps != plan(2, 0)


def planned_by_lists(lengths, max_length, batch_tokens, seed, epoch, packing):
    """The plan as lists in memory, first fit over the last 64 rows: what runs of old were made of."""
    order = list(range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    rows, room = [], []
    for index in order:
        is_open = range(max(0, len(room) - 64), len(room)) if packing else ()
        row = next((r for r in is_open if room[r] >= lengths[index]), None)
        if row is None:
            rows.append([])
            room.append(max_length)
            row = len(rows) - 1
        rows[row].append(index)
        room[row] -= lengths[index]
    steps, used = [], batch_tokens
    for row in rows:
        num_tokens = max_length if packing else lengths[row[0]]
        if used + num_tokens > batch_tokens:
            steps.append([])
            used = 0
        steps[-1].append(row)
        used += num_tokens
    return steps


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("num", [0, 1, 2, 70, 1500])
def test_a_plan_in_arrays_is_the_plan_in_lists(num, packing):
    lengths = [random.Random(num + i).randint(1, 64) for i in range(num)]
    epochs = []
    for epoch in range(3):
        plan = plan_epoch(
            lengths, max_length=64, batch_tokens=300, seed=7, epoch=epoch, packing=packing
        )
        expected = planned_by_lists(lengths, 64, 300, 7, epoch, packing)
        assert list(plan) == expected and len(plan) == len(expected)
        epochs.append((plan, expected))
    joined = Plan.joined([plan for plan, _ in epochs])
    expected = [step for _, steps in epochs for step in steps]
    assert joined == expected
    for part in (slice(None), slice(3), slice(2, 9), slice(5, 2), slice(-2, None), slice(400, 900)):
        assert joined[part] == expected[part]
    if expected:
        assert joined[-1] == expected[-1] and type(joined[0][0][0]) is int
    with pytest.raises(IndexError):
        joined[len(expected)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_a_step_without_loss_and_do_equally_many_passes(num_ranks):
    rows = [[i] for i in range(7)]
    shares = [
        share_of_rank(rows, rank=r, num_ranks=num_ranks, rows_per_micro_batch=2)
        for r in range(num_ranks)
    ]
    assert sorted(row[0] for share in shares for micro in share for row in micro) == list(range(7))
    assert len({len(share) for share in shares}) == 1, (
        "an unequal number of backward passes would hang"
    )


def test_the_last_small_step_gives_idle_ranks_an_empty_pass():
    assert share_of_rank([[0]], rank=1, num_ranks=2, rows_per_micro_batch=4) == [[]]
    batch = collate([], pad_id=0)
    assert batch.input_ids_BT.shape == (1, 1) and len(batch.labels_N) == 0


def test_labels_are_the_next_tokens_of_the_answers():
    batch = collate([[([5, 6, 7, 8], 2), ([9, 10], 1)], [([11, 12, 13], 1)]], pad_id=0)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch.labels_N.tolist() == [7, 8, 10, 12, 13]
    flat = batch.input_ids_BT.flatten()
    assert flat[batch.positions_N + 1].tolist() == batch.labels_N.tolist(), (
        "each position predicts the token after it"
    )


def test_packed_samples_do_not_see_each_other():
    model = tiny_qwen3()
    samples = [(list(range(5, 17)), 4), (list(range(40, 47)), 2), (list(range(60, 80)), 9)]
    batch = collate([samples[:2], samples[2:]], pad_id=0)
    packed = model.base_model(
        batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False
    )
    found_NH = packed.last_hidden_state.flatten(0, 1)[batch.positions_N]
    alone = []
    for ids, start in samples:
        alone.append(
            model.base_model(torch.tensor([ids]), use_cache=False).last_hidden_state[
                0, start - 1 : -1
            ]
        )
    assert torch.allclose(found_NH, torch.cat(alone), atol=1e-5)
