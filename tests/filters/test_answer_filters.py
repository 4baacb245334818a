"""Each filter by its reason, what follows from the reasons, and a filter of somebody's own."""

from dataclasses import replace

import pytest

from distill.data.samples import count_by_language
from distill.filters import answer_filters
from distill.filters.answer_filters import ANSWER_FILTERS, filter_answers, first_reason
from distill.filters.base import Answer, AnswerFilter, FilterContext, name_of
from distill.filters.contamination import EvalIndex
from distill.recipe.sections import Generate

GOOD = Answer(
    prompt="Amina has 4 bags with 12 mangoes each. How many mangoes does she have?",
    prompt_id="p1",
    answer_text="She has four bags and each holds twelve mangoes, so she has 4 x 12 = 48 mangoes.",
    reasoning=None,
    finish_reason="stop",
    language="en",
    reference="48",
)
EVAL_ITEM = "A farmer in the valley keeps 31 goats and 14 sheep, and every spring half of the goats have two young each."


def graded(answer: str, row: dict) -> bool:
    return row["reference"] in answer


OPTIONS = Generate.model_validate(
    {
        "prompts": "p.jsonl",
        "min_characters": 10,
        "max_characters": 2000,
        "reasoning": "short",
        "max_reasoning_tokens": 100,
    }
)
DEFAULTS = Generate.model_validate({"prompts": "p.jsonl"})
CONTEXT = FilterContext(OPTIONS, ["en", "sw"], graded, EvalIndex([EVAL_ITEM]))


def reason_of(answer: Answer) -> str | None:
    reason = first_reason(answer, CONTEXT)
    return None if reason is None else name_of(reason)


CASES = {
    "error": replace(GOOD, finish_reason="error"),
    "truncated": replace(GOOD, finish_reason="length"),
    "empty": replace(GOOD, answer_text=" \n"),
    "too_short": replace(GOOD, answer_text="48."),
    "too_long": replace(GOOD, answer_text=GOOD.answer_text + "." * 2000),
    "long_reasoning": replace(GOOD, reasoning="Let me count again.", num_reasoning_tokens=101),
    "loop": replace(GOOD, answer_text="She has 48 mangoes. " + "So the answer is 48. " * 12),
    "wrong_language": replace(
        GOOD, answer_text="她有四个袋子，每个袋子有十二个芒果，所以一共有 48 个芒果。"
    ),
    "wrong_reasoning_language": replace(
        GOOD, reasoning="四个袋子，每个袋子有十二个芒果，所以一共有四十八个芒果。"
    ),
    "refusal": replace(
        GOOD, answer_text="I'm sorry, but I can't help with questions about 48 mangoes."
    ),
    "no_refusal": replace(GOOD, refusals="require"),
    "identity": replace(
        GOOD, answer_text="I am Qwen, created by Alibaba Cloud. The answer is 48 mangoes."
    ),
    "format": replace(GOOD, answer_text=GOOD.answer_text + "\n```python\nprint(4 * 12)"),
    "wrong_answer": replace(
        GOOD, answer_text="She has four bags and twelve mangoes, so she has 16 mangoes."
    ),
    "contaminated": replace(
        GOOD, answer_text=f"Here is a similar problem, too: {EVAL_ITEM} The answer to yours is 48."
    ),
}


def test_a_good_answer_passes():
    assert reason_of(GOOD) is None


def test_where_a_refusal_is_required_one_passes_and_where_nothing_is_verified_any_answer():
    refused, wrong = CASES["refusal"], CASES["wrong_answer"]
    assert (
        reason_of(replace(refused, refusals="require")) is None
        and reason_of(replace(refused, refusals="keep")) is None
    )
    assert reason_of(replace(GOOD, refusals="keep")) is None
    assert reason_of(replace(wrong, verify=False)) is None
    assert answer_filters.pass_rates(
        [wrong, replace(wrong, prompt_id="p2", verify=False)], ["wrong_answer: x", None]
    ) == {wrong.prompt_id: 0.0}


@pytest.mark.parametrize("reason", CASES)
def test_each_filter_drops_by_its_reason(reason):
    assert reason_of(CASES[reason]) == reason


def test_the_first_reason_in_the_documented_order_counts():
    assert list(CASES) == [answer_filter.name for answer_filter in ANSWER_FILTERS]
    everything_wrong = replace(CASES["refusal"], finish_reason="length", reference="nothing")
    assert reason_of(everything_wrong) == "truncated"
    assert reason_of(replace(everything_wrong, finish_reason="stop")) == "refusal"


def test_answers_to_one_prompt_that_repeat_each_other_are_dropped_but_the_first():
    other_words = replace(
        GOOD,
        answer_text="Multiply the bags by the mangoes in each bag: 4 times 12 makes 48 in all.",
    )
    answers = [
        GOOD,
        replace(GOOD, answer_text=GOOD.answer_text.upper()),
        other_words,
        replace(GOOD, prompt_id="p2"),
        CASES["empty"],
    ]
    reasons = filter_answers(answers, FilterContext(DEFAULTS, ["en"], graded))
    assert reasons == [
        None,
        "duplicate: repeats answer 0 to the same prompt",
        None,
        None,
        "empty: no answer",
    ]


def test_filters_can_be_left_out():
    bare = replace(CASES["wrong_answer"], reference=None)
    assert first_reason(bare, FilterContext(DEFAULTS, ["en"])) is None


def shouting(answer: Answer, context: FilterContext) -> str | None:
    num_marks = answer.text.folded.count("!")
    return f"{num_marks} exclamation marks" if num_marks > 3 else None


def test_a_filter_is_one_function_added_to_the_list(monkeypatch):
    loud = replace(GOOD, answer_text="She has 48 mangoes, how very fine!!!!", prompt_id="p2")
    answers, context = [GOOD, loud], FilterContext(DEFAULTS, ["en"], graded)
    assert filter_answers(answers, context) == [None, None]
    added = AnswerFilter("shouting", shouting)
    for filters, pass_rate in (((*ANSWER_FILTERS, added), 1.0), ((added, *ANSWER_FILTERS), 0.0)):
        monkeypatch.setattr(answer_filters, "ANSWER_FILTERS", filters)
        reasons = filter_answers(answers, context)
        assert reasons == [None, "shouting: 4 exclamation marks"]
        dropped = [{"language": "en", "reason": reason} for reason in reasons if reason]
        assert count_by_language([{"language": "en"}], dropped) == {
            "en": {"kept": 1, "shouting": 1}
        }
        rates = answer_filters.pass_rates(answers, reasons)
        assert rates == {"p1": 1.0, "p2": pass_rate}, "what comes after the verifier was verified"


def test_the_names_of_the_filters_differ():
    names = [answer_filter.name for answer_filter in ANSWER_FILTERS]
    assert len(set(names)) == len(names)


def test_the_words_of_an_answer_are_forgotten_with_its_verdict():
    assert first_reason(GOOD, CONTEXT) is None
    assert "text" not in vars(GOOD)


def test_the_reasoning_is_checked_for_loops_identity_and_language():
    assert reason_of(replace(GOOD, reasoning="等等，" * 200)) == "loop"
    assert (
        reason_of(replace(GOOD, reasoning="I am Qwen, so I shall count the mangoes first."))
        == "identity"
    )
    swahili = replace(
        GOOD,
        language="sw",
        answer_text="Ana mifuko minne yenye maembe kumi na mawili, kwa hiyo ana maembe 48.",
    )
    assert (
        reason_of(
            replace(
                swahili, reasoning="Four bags with twelve mangoes each are forty-eight mangoes."
            )
        )
        is None
    )
    assert (
        reason_of(replace(swahili, reasoning="四个袋子，每袋十二个芒果，一共四十八个。"))
        == "wrong_reasoning_language"
    )


def test_of_the_good_answers_to_a_prompt_the_shortest_stay():
    texts = ["a long answer", "short", "not so short", "short too"]
    answers = [replace(GOOD, answer_text=t) for t in texts] + [
        replace(GOOD, prompt_id="p2", answer_text="alone, and as long as it is")
    ]
    reasons = [None, None, "loop: x", None, None]
    chosen = answer_filters.choose_shortest(answers, reasons, 1)
    assert [r and r.partition(":")[0] for r in chosen] == [
        "not_shortest",
        None,
        "loop",
        "not_shortest",
        None,
    ]
    assert answer_filters.choose_shortest(answers, reasons, None) == reasons
    thinks = [replace(answers[1], reasoning="much to think of"), *answers[1:]]
    assert answer_filters.choose_shortest(thinks, [None, None, None, None, None], 1)[0].startswith(
        "not_shortest"
    )


def test_the_pass_rate_is_the_share_that_was_verified_whatever_came_after():
    answers = [replace(GOOD, prompt_id=p) for p in "aaaab"]
    rates = answer_filters.pass_rates(
        answers, [None, "wrong_answer: x", "duplicate: y", "truncated: z", "loop: w"]
    )
    assert rates == {"a": 0.5, "b": 0}
    for name in ("contaminated", "duplicate", "judge", "not_shortest"):
        assert answer_filters.pass_rates(answers[:1], [f"{name}: x"]) == {"a": 1}
    for name in CASES.keys() - {"contaminated"}:
        assert answer_filters.pass_rates(answers[:1], [f"{name}: x"]) == {"a": 0}


def test_a_swahili_refusal_list_does_not_fire_on_an_ordinary_answer():
    answer = "Ana mifuko minne na kila mmoja una maembe kumi na mawili, kwa hiyo ana maembe 48."
    context = FilterContext(DEFAULTS, ["en", "sw"], graded)
    assert first_reason(replace(GOOD, language="sw", answer_text=answer), context) is None
