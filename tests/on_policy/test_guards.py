"""What tells that rounds go wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.core.results import RoundGuards, RoundValidation
from distill.on_policy.guards import (
    likeliest_of,
    logp_of,
    mass_at_end,
    red_of_answers,
    red_of_validation,
)
from distill.recipe.sections import Guards
from distill.signals import draws
from distill.signals.columns import Columns

GOOD = RoundGuards(100, 3000, 0.02, 0.0, 0.0, 0.01, 30.0, 50.0)
VOCAB, LABELS, ENDS = 40, [3, 7, 2], [1, 2]


def records():
    """What one teacher says, in all three kinds of signal; its log-probs."""
    logits_NV = 6 * torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(0))
    rows, columns, labels_N = draws.Rows.of(5, 3), Columns(VOCAB), torch.tensor(LABELS)
    return {
        "sampled": draws.draw(logits_NV, labels_N, rows, num_draws=1000, columns=columns),
        "top_k": draws.top_k(logits_NV, rows, k=39, columns=columns),
        "dense": draws.dense(logits_NV, rows, columns=columns),
    }, logits_NV.log_softmax(-1).numpy()


@pytest.mark.parametrize("kind", ["sampled", "top_k", "dense"])
def test_every_kind_of_signal_tells_the_same_of_the_teacher(kind):
    of_kind, logp_NV = records()
    record = of_kind[kind]
    assert (likeliest_of(record) == logp_NV.argmax(-1)).all()
    own = logp_of(record, LABELS)
    assert own == pytest.approx(logp_NV[np.arange(3), LABELS], abs=0.02)
    mass = np.exp(logp_NV[-1, ENDS]).sum()
    assert mass_at_end(record, ENDS) == pytest.approx(mass, abs=0.002), "all ends are one class"


def test_of_few_ids_a_token_beyond_them_counts_as_all_others_together():
    logits_NV = torch.zeros(1, VOCAB)
    logits_NV[0, 5] = 9
    record = draws.top_k(logits_NV, draws.Rows.of(5, 1), k=1, columns=Columns(VOCAB))
    assert logp_of(record, [8]) == pytest.approx(record.tail_logp)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cut": 0.13}, "13.0% cut answers, before the rounds 2.0%"),
        ({"loops": 0.11}, "11.0% answers that loop"),
        ({"empty": 0.2}, "20.0% answers without text"),
        ({"other_language": 0.5}, "50.0% answers in another language"),
        ({"mean_length": 61.0}, "answers of 61 tokens, before the rounds 30"),
    ],
)
def test_a_figure_that_has_risen_too_far_is_red_and_told_with_its_limit(changes, told):
    red = red_of_answers(replace(GOOD, **changes), GOOD, Guards())
    assert red is not None and red.startswith(told) and "(rounds.guards.max_" in red
    assert red_of_answers(replace(GOOD, cut=0.12), GOOD, Guards()) is None


def test_a_student_that_was_bad_before_may_stay_so_until_rounds_mend_it():
    bad = replace(GOOD, cut=0.6, loops=0.5)
    assert red_of_answers(bad, bad, Guards()) is None


def test_the_last_student_is_judged_by_its_answers_to_the_validation_prompts():
    good = RoundValidation(50, None, 1.0, 0.0, 0.0)
    assert red_of_validation(replace(good, loops=0.2), good, Guards()) is not None
    assert red_of_validation(replace(good, cut=0.05), good, Guards()) is None
