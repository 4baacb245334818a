"""Rolling decoding: the same answers in any number of slots, and bit for bit the same after a kill."""

import pytest
import torch
from families import BY_NAME, WITH_MODEL, model_of, tokenizer_of

from distill.models.batching import blocks_by_length
from distill.models.decode import Drawer, answer
from distill.models.sampling import Sampling
from distill.models.slots import Rolling, has_slots, rows_are_independent

PROMPTS = [[5 + i, 6, 7, *range(20, 20 + i % 5)] for i in range(11)]
STOP = list(range(100, 115))  # a twentieth of the vocabulary: answers of very different lengths
SAMPLING = Sampling(1.0, 0.95, 50, 30, tuple(STOP))


def answers(model, num_slots, known=None, sampling=SAMPLING):
    found = {}
    answer(
        model,
        PROMPTS,
        seeds=range(11),
        sampling=sampling,
        pad_id=0,
        num_slots=num_slots,
        on_finished=lambda i, ids, reason: found.__setitem__(i, (ids, reason)),
        known_lengths=known,
    )
    return found


def rolled(model, num_slots, known):
    """(answers in the order in which they ended, the logits that each token was drawn from, forward passes)."""
    found, logits, passes = {}, {}, []
    drawer = Drawer(range(11), SAMPLING, None)

    def draw(logits_NV, places):
        logits.update(zip(places, logits_NV.clone(), strict=True))
        return drawer(logits_NV, places)

    hook = model.register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        rolling = Rolling(
            model,
            PROMPTS,
            num_slots=num_slots,
            max_new_tokens=30,
            stop_ids=STOP,
            pad_id=0,
            known_lengths=known,
        )
        rolling.run(draw, lambda i, ids, reason: found.__setitem__(i, ids))
    hook.remove()
    return found, logits, len(passes)


@pytest.mark.parametrize("num_slots", [1, 2, 3, 8, 11, 50])
def test_the_number_of_slots_changes_no_answer(qwen3, num_slots):
    found = answers(qwen3, num_slots)
    assert len(found) == len(PROMPTS) and len({len(ids) for ids, _ in found.values()}) > 4
    for index, prompt in enumerate(PROMPTS):
        alone = {}
        answer(
            qwen3,
            [prompt],
            seeds=[index],
            sampling=SAMPLING,
            pad_id=0,
            on_finished=lambda i, ids, reason, alone=alone: alone.__setitem__(i, (ids, reason)),
        )
        assert found[index] == alone[0]


@pytest.mark.parametrize("num_slots", [2, 4])
def test_killed_after_any_answer_the_rest_is_the_same_bit_for_bit_and_costs_less(qwen3, num_slots):
    whole, logits, num_passes = rolled(qwen3, num_slots, {})
    order = list(whole)
    costs = []
    for killed_after in range(len(order) + 1):
        known = {i: len(whole[i]) for i in order[:killed_after]}
        rest, again, passes = rolled(qwen3, num_slots, known)
        assert rest == {i: whole[i] for i in order[killed_after:]}
        for place, row in again.items():
            if place[0] not in known:
                assert torch.equal(row, logits[place]), (
                    f"token {place[1]} of {place[0]} was computed another way"
                )
        costs.append(passes)
    assert costs[0] == num_passes and costs[-1] == 0 and costs == sorted(costs, reverse=True)
    under_way = num_slots * 30
    assert costs[-3] <= under_way < num_passes * num_slots, (
        "only what was under way is computed anew"
    )


def test_answers_of_other_runs_in_between_do_not_disturb(qwen3):
    whole = answers(qwen3, 3)
    for some in ([0, 1, 2], [10], [1, 3, 5, 7, 9]):
        found = answers(qwen3, 3, {i: len(whole[i][0]) for i in some})
        assert found == {i: a for i, a in whole.items() if i not in some}


def test_where_experts_mix_the_rows_everything_is_computed_again():
    family = BY_NAME["qwen3-moe"]
    model = model_of(family, tokenizer_of(family))
    assert has_slots(model) and not rows_are_independent(model)
    whole = answers(model, 3)
    assert answers(model, 3, {i: len(whole[i][0]) for i in (0, 4)}) == whole


def test_a_cache_with_windows_or_states_is_decoded_batch_by_batch():
    without = {
        family.name
        for family in WITH_MODEL
        if not has_slots(model_of(family, tokenizer_of(family)))
    }
    assert without == {"gpt-oss", "qwen3.5"}
    model = model_of(BY_NAME["gpt-oss"], tokenizer_of(BY_NAME["gpt-oss"]))
    whole = answers(model, 4)
    assert len(whole) == len(PROMPTS)
    first_batch = {i: len(whole[i][0]) for i in range(4)}
    assert answers(model, 4, first_batch) == {i: a for i, a in whole.items() if i > 3}


def test_blocks_hold_every_index_once_and_their_slots_fit():
    lengths = [(7 * i) % 90 + 10 for i in range(1000)]
    blocks = blocks_by_length(lengths, 400)
    assert sorted(i for b in blocks for i in b.indices) == list(range(1000))
    for block in blocks:
        assert block.num_slots * max(lengths[i] for i in block.indices) <= 400
        assert len(block.indices) > 4 * block.num_slots, "a slot is refilled several times"
    assert len(blocks) >= 4
    few = blocks_by_length(lengths[:20], 400)
    assert all(len(b.indices) == b.num_slots for b in few), (
        "too few batches to share: none are joined"
    )
