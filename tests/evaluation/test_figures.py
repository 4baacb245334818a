"""The figures of a model: by hand from three examples."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import QUICKSTART, ROOT

from distill.data.samples import Prompt
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.figures import against, figures_of
from distill.models import load
from distill.recipe import load_recipe
from distill.tasks import market

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"


@pytest.fixture(scope="module")
def tokenizer():
    return load.load_tokenizer(str(TEACHER))


@pytest.fixture(scope="module")
def eval_set(tokenizer):
    """Three prompts; the teacher's answer to the last was cut."""
    prompts = [
        Prompt(({"role": "user", "content": f"{n} + 1?"},), language, reference=str(n + 1))
        for n, language in enumerate(("en", "en", "sw"))
    ]
    recipe = load_recipe(QUICKSTART, ["languages=[en, sw, hi]", "evaluate.max_new_tokens=7"])
    prompt_ids, teacher_ids = [[1, 2], [3], [4]], [[5] * 10, [6] * 30, None]
    return EvalSet(recipe, prompts, prompt_ids, teacher_ids, [25, 83, 0], tokenizer, [0])


def answers(tokenizer, *references, nll):
    found = [
        (tokenizer(f"{market.WORDING[language].final}{number}").input_ids, "stop")
        for number, language in zip(references, ("en", "en", "sw"), strict=True)
    ]
    return ModelAnswers([*found[:2], (found[2][0], "length")], nll, 2.0, "by hand")


def test_exact_match_is_told_by_language_and_the_nll_by_the_token(tokenizer, eval_set):
    made = answers(tokenizer, 1, 7, 3, nll={0: 2.0, 1: 9.0})
    figures = figures_of(eval_set, made)
    assert figures["exact_match"] == 2 / 3 and figures["by_language"] == {"en": 0.5, "sw": 1.0}
    low, high = figures["interval"]
    assert low < 2 / 3 < high
    assert figures["nll"] == 11.0 / 40 and figures["cut_answers"] == 1
    tokens = sum(len(ids) for ids, _ in made.answers)
    assert (figures["generated_tokens"], figures["tokens_per_second"]) == (tokens, tokens / 2)
    assert [e["right"] for e in figures["examples"]] == [True, False, True]
    assert [e["nll"] for e in figures["examples"]] == [2.0, 9.0, None]


@given(
    nll=st.lists(st.floats(0, 1e4), min_size=3, max_size=3),
    other=st.lists(st.floats(0.1, 1e4), min_size=3, max_size=3),
    sizes=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 2000)), min_size=3, max_size=3),
)
def test_nats_a_token_and_nats_a_byte_are_the_same_nats(tokenizer, eval_set, nll, other, sizes):
    teacher_ids, num_bytes = [[5] * tokens for tokens, _ in sizes], [size for _, size in sizes]
    same_texts = replace(eval_set, teacher_ids=teacher_ids, num_bytes=num_bytes)
    figures, others = (
        figures_of(same_texts, answers(tokenizer, 1, 2, 3, nll=dict(enumerate(nats))))
        for nats in (nll, other)
    )
    num_tokens, rounding = sum(map(len, teacher_ids)), 1e-5
    assert figures["nll"] * num_tokens == pytest.approx(sum(nll), abs=num_tokens * rounding)
    assert figures["nll_per_byte"] * sum(num_bytes) == pytest.approx(
        sum(nll), abs=sum(num_bytes) * rounding
    )
    # in one tokenizer both figures tell two models apart alike
    assert figures["nll_per_byte"] * others["nll"] == pytest.approx(
        figures["nll"] * others["nll_per_byte"],
        abs=rounding * sum(f[name] for f in (figures, others) for name in ("nll", "nll_per_byte")),
    )
    assert [e["num_bytes"] for e in figures["examples"]] == num_bytes


def test_a_model_that_scores_nothing_has_no_nll(tokenizer, eval_set):
    figures = figures_of(eval_set, answers(tokenizer, 1, 2, 3, nll={}))
    assert figures["nll"] is None and figures["nll_per_byte"] is None


def test_why_nothing_is_scored_is_kept(tokenizer, eval_set):
    made = answers(tokenizer, 1, 2, 3, nll={})
    assert figures_of(eval_set, made)["unscored"] is None
    assert figures_of(replace(eval_set, unscored="no way"), made)["unscored"] == "no way"
    assert figures_of(eval_set, replace(made, unscored="a server"))["unscored"] == "a server"


def test_answers_without_text_have_no_nll_a_byte(tokenizer, eval_set):
    figures = figures_of(
        replace(eval_set, num_bytes=[0, 0, 0]), answers(tokenizer, 1, 2, 3, nll={0: 1.0, 1: 2.0})
    )
    assert figures["nll"] is not None and figures["nll_per_byte"] is None


def test_two_models_are_compared_example_by_example(tokenizer, eval_set):
    better = figures_of(eval_set, answers(tokenizer, 1, 2, 3, nll={0: 1.0, 1: 3.0}))
    worse = figures_of(eval_set, answers(tokenizer, 9, 9, 9, nll={0: 2.0, 1: 6.0}))
    difference = against([better], [worse], seed=1)
    assert difference["exact_match"].difference == 1.0
    assert difference["nll"].difference == pytest.approx(-4 / 40)
    assert difference["nll"].low <= difference["nll"].difference <= difference["nll"].high
    assert "nll_per_byte" not in difference, "it would say the same of one tokenizer"


def test_exact_match_is_of_the_prompts_that_are_checked(tokenizer, eval_set):
    prompts = [replace(eval_set.prompts[0], verify=False, reference=None), *eval_set.prompts[1:]]
    mixed = replace(eval_set, prompts=prompts)
    better, worse = (
        figures_of(mixed, answers(tokenizer, *numbers, nll={0: nll, 1: 1.0}))
        for numbers, nll in (((0, 2, 9), 2.0), ((0, 9, 9), 4.0))
    )
    assert [e["right"] for e in better["examples"]] == [None, True, False]
    assert better["exact_match"] == 1 / 2 and better["by_language"] == {"en": 1.0, "sw": 0.0}
    assert better["unchecked"] == 1 and better["nll"] == 3.0 / 40, "NLL is of all"
    difference = against([better], [worse], seed=1)
    assert difference["exact_match"].difference == 1 / 2
    assert difference["nll"].difference == pytest.approx(-2 / 40)
    unchecked = replace(eval_set, prompts=[replace(p, verify=False) for p in prompts])
    figures = figures_of(unchecked, answers(tokenizer, 1, 2, 3, nll={0: 2.0, 1: 1.0}))
    assert "exact_match" not in figures and "unchecked" not in figures
    assert "exact_match" not in against([figures], [figures], seed=1)


def test_students_of_another_tokenizer_are_also_compared_by_the_byte(tokenizer, eval_set):
    better = figures_of(eval_set, answers(tokenizer, 1, 2, 3, nll={0: 1.0, 1: 3.0}))
    worse = figures_of(eval_set, answers(tokenizer, 9, 9, 9, nll={0: 2.0, 1: 6.0}))
    plain, difference = (
        against([better], [worse], seed=1, by_byte=by_byte) for by_byte in (False, True)
    )
    assert difference["nll_per_byte"].difference == pytest.approx(-4 / 108)
    assert {name: difference[name] for name in plain} == plain
    for name in ("nll_per_byte", "num_bytes"):  # as an earlier version left the student's
        better.pop(name, None)
    assert against([better], [worse], seed=1, by_byte=True) == plain


def test_the_longest_sequence_is_a_prompt_with_an_answer(eval_set):
    assert eval_set.longest() == 31 and eval_set.scored() == [0, 1]


def test_repeats_are_compared_by_their_mean_and_one_repeat_as_before(tokenizer, eval_set):
    good = figures_of(eval_set, answers(tokenizer, 1, 2, 3, nll={0: 1.0, 1: 3.0}))
    fair = figures_of(eval_set, answers(tokenizer, 1, 9, 9, nll={0: 2.0, 1: 6.0}))
    bad = figures_of(eval_set, answers(tokenizer, 9, 9, 9, nll={0: 4.0, 1: 8.0}))
    found = against([good, fair], [bad, bad], seed=1)
    exact_match, nll = found["exact_match"], found["nll"]
    assert exact_match.by_repeat == pytest.approx([1, 1 / 3])
    assert exact_match.difference == pytest.approx(2 / 3)
    assert nll.by_repeat == pytest.approx([-8 / 40, -4 / 40])
    assert nll.difference == pytest.approx(-6 / 40)
    assert nll.low < -8 / 40 and nll.high > -4 / 40, "two repeats say little of a third"
    alone = against([good], [bad], seed=1)
    same = against([good, good], [bad, bad], seed=1)
    for measure in ("exact_match", "nll"):
        assert alone[measure].by_repeat == []
        assert same[measure].low == pytest.approx(alone[measure].low)
        assert same[measure].high == pytest.approx(alone[measure].high)
