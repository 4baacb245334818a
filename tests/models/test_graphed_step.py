"""What a CUDA graph would hold, computed here without one: every slot takes part, the cache is read in steps, answers stay."""

from types import SimpleNamespace

import pytest
import torch

from distill.models import graphed_step
from distill.models.decode import Drawer
from distill.models.graphed_step import GraphedStep, can_record
from distill.models.sampling import Sampling
from distill.models.slots import Rolling

PROMPTS = [[5 + i, 6, 7, *range(20, 20 + i % 5)] for i in range(11)]
SAMPLING = Sampling(1.0, 0.95, 50, 30)
STOP = list(range(100, 115))


class Unrecorded(GraphedStep):
    """Computes in place of a replay, and notes what was asked for."""

    recorded: list[int]

    def _record(self, length):
        self.recorded = [*getattr(self, "recorded", []), length]
        return SimpleNamespace(replay=lambda: self.compute(length))


def rolled(model, num_slots, make=None, known=None):
    """(answers, the logits that each token was drawn from, the step)."""
    found, logits = {}, {}
    drawer = Drawer(range(len(PROMPTS)), SAMPLING, None)

    def draw(logits_NV, places):
        logits.update(zip(places, logits_NV.clone(), strict=True))
        return drawer(logits_NV, places)

    with torch.inference_mode():
        rolling = Rolling(
            model,
            PROMPTS,
            num_slots=num_slots,
            max_new_tokens=30,
            stop_ids=STOP,
            pad_id=0,
            known_lengths=known or {},
        )
        if make is not None:
            longest = max(map(len, PROMPTS)) + 30
            rolling.step = make(model, rolling.cache, rolling.layers, num_slots, longest, 0)
        rolling.run(draw, lambda i, ids, reason: found.__setitem__(i, (ids, reason)))
    return found, logits, rolling.step


@pytest.mark.parametrize("num_slots", [1, 3, 8])
@pytest.mark.parametrize("length_step", [4, 16, 128])
def test_empty_slots_and_masked_positions_change_no_answer(
    qwen3, num_slots, length_step, monkeypatch
):
    monkeypatch.setattr(graphed_step, "LENGTH_STEP", length_step)
    expected, plain, _ = rolled(qwen3, num_slots)
    found, logits, step = rolled(qwen3, num_slots, Unrecorded)
    assert found == expected and len(found) == len(PROMPTS)
    for place, logits_V in logits.items():
        assert torch.allclose(logits_V, plain[place], atol=1e-4)
    longest = max(map(len, PROMPTS)) + 30
    assert len(step.recorded) == len(set(step.recorded)) <= -(-longest // length_step), (
        "each length is recorded once"
    )
    assert all(n % length_step == 0 or n == longest for n in step.recorded)


def test_after_a_kill_the_rest_is_the_same_bit_for_bit(qwen3):
    whole, logits, _ = rolled(qwen3, 3, Unrecorded)
    for some in (list(whole)[:4], list(whole)[:7]):
        rest, again, _ = rolled(qwen3, 3, Unrecorded, {i: len(whole[i][0]) for i in some})
        assert rest == {i: a for i, a in whole.items() if i not in some}
        assert all(
            torch.equal(row, logits[place]) for place, row in again.items() if place[0] not in some
        )


def test_on_a_cpu_nothing_is_recorded(qwen3):
    assert not can_record(qwen3)
