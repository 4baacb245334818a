import pytest
import torch
from conftest import tiny_qwen3

from distill.training.batches import collate, pack, plan_epoch, share_of_rank

LENGTHS = [30, 7, 12, 25, 3, 18, 9, 31, 5, 14] * 7


def test_every_sample_is_in_one_row_and_no_row_is_too_long():
    rows = pack(LENGTHS, range(len(LENGTHS)), 32)
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
