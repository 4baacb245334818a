"""Paired differences: the figures of evaluate itself, prompt by prompt, and never of what differs."""

import random

import pytest

from distill.evaluation.figures import against
from distill.reporting.measures import EXACT_MATCH, MEASURES, NLL, NLL_PER_BYTE, mean, paired


def made(seed: int, num: int = 40, **more):
    draw = random.Random(seed)
    sizes = random.Random(7)
    return [
        {
            "prompt": f"{i}?",
            "language": "en" if i % 3 else "sw",
            "right": draw.random() < 0.6,
            "nll": draw.uniform(1, 9),
            "num_tokens": sizes.randint(3, 30),
            "num_bytes": sizes.randint(30, 90),
            **more,
        }
        for i in range(num)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_difference_is_the_one_that_evaluate_tells(seed):
    mine, other = made(seed), made(seed + 100)
    figures = [
        {"exact_match": 0.5, "nll_per_byte": 0.1, "examples": examples}
        for examples in (mine, other)
    ]
    told = against(figures[:1], figures[1:], 0, by_byte=True)
    random.Random(seed).shuffle(other)  # the prompts tell what belongs together, not the order
    for measure in MEASURES:
        assert paired(mine, other, measure) == told[measure.key]


def test_only_prompts_that_both_have_are_compared():
    mine, other = made(1), made(2)
    assert paired(mine, other[:10], NLL) == paired(mine[:10], other[:10], NLL)
    assert paired(mine, [], NLL) is None
    assert paired(mine, made(2, prompt="another"), EXACT_MATCH) is None


@pytest.mark.parametrize("missing", [{"right": None}, {"nll": None}, {"num_bytes": None}])
def test_what_was_not_measured_is_not_compared(missing):
    mine, other = made(1), made(2, **missing)
    name = next(iter(missing))
    measures = {"right": [EXACT_MATCH], "nll": [NLL, NLL_PER_BYTE], "num_bytes": [NLL_PER_BYTE]}
    for measure in MEASURES:
        is_missing = measure in measures[name]
        assert (paired(mine, other, measure) is None) == is_missing
        assert (mean(other, measure) is None) == is_missing


def test_nats_of_answers_of_other_sizes_are_not_compared():
    assert paired(made(1), made(1, num_bytes=1000), NLL_PER_BYTE) is None
    assert paired(made(1), made(1, num_bytes=1000), NLL) is not None


def test_a_mean_is_that_of_all_tokens():
    examples = made(3)
    expected = sum(e["nll"] for e in examples) / sum(e["num_tokens"] for e in examples)
    assert mean(examples, NLL) == pytest.approx(expected)
    assert mean(examples, EXACT_MATCH) == sum(e["right"] for e in examples) / len(examples)
