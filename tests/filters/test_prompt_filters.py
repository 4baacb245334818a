"""Prompts that are not worth asking, and prompts that only look alike."""

from dataclasses import replace

import pytest

from distill.data.samples import Prompt
from distill.filters import prompt_filters
from distill.filters.base import FilterContext, PromptFilter, each, name_of
from distill.filters.contamination import EvalIndex
from distill.filters.prompt_filters import PROMPT_FILTERS, filter_prompts
from distill.recipe.sections import Generate

EVAL_ITEM = "A farmer in the valley keeps 31 goats and 14 sheep, and every spring half of the goats have two young each."


def prompts_of(*texts: str, language: str = "en", system: str | None = None) -> list[Prompt]:
    before = ({"role": "system", "content": system},) if system else ()
    return [Prompt((*before, {"role": "user", "content": text}), language) for text in texts]


def reasons_of(
    prompts: list[Prompt],
    *,
    languages: tuple[str, ...] = (),
    eval_index: EvalIndex | None = None,
    near_duplicate: float = 0.9,
) -> list[str | None]:
    options = Generate.model_validate({"prompts": "p.jsonl", "near_duplicate": near_duplicate})
    return filter_prompts(prompts, FilterContext(options, languages, eval_index=eval_index))


def test_prompts_are_judged_before_they_cost_anything():
    prompts = [
        "How many goats?",
        " ",
        "how  many goats?",
        "bad \x07 bell",
        "x" * 60,
        EVAL_ITEM,
        "How\n\tthen?",
    ]
    reasons = reasons_of(prompts_of(*prompts), eval_index=EvalIndex([EVAL_ITEM]))
    assert [reason and reason.partition(":")[0] for reason in reasons] == [
        None,
        "empty_prompt",
        "duplicate_prompt",
        "broken_prompt",
        None,
        "contaminated",
        None,
    ]
    assert reasons_of(prompts_of("x" * 20_001)) == [
        "prompt_too_long: 20001 characters, at most 20000"
    ]
    assert reasons[2] == "duplicate_prompt: the same as 'How many goats?'"
    known = {prompt_filter.name for prompt_filter in PROMPT_FILTERS}
    assert all(reason is None or name_of(reason) in known for reason in reasons)


def test_a_last_turn_of_which_nothing_is_seen_is_not_asked():
    unseen = ["", " \n", "\u200b", "\u3000\ufeff", "\u2060\u00ad\u200d", "\u3164", "\ufe0f"]
    reasons = reasons_of(prompts_of(*unseen, "?", system="Be kind."))
    assert [reason and reason.partition(":")[0] for reason in reasons] == [
        *["empty_prompt"] * len(unseen),
        None,
    ]
    assert reasons[2] == r"empty_prompt: only '\u200b'"


def test_how_long_a_prompt_may_be_is_a_field_of_the_recipe():
    options = Generate.model_validate({"prompts": "p.jsonl", "max_prompt_characters": 30_000})
    texts = ["x" * 20_001, "y" * 30_001]
    assert filter_prompts(prompts_of(*texts), FilterContext(options, ())) == [
        None,
        "prompt_too_long: 30001 characters, at most 30000",
    ]


def test_a_prompt_filter_is_one_function_added_to_the_list(monkeypatch):
    def shouting(prompt: Prompt, context: FilterContext) -> str | None:
        return "in capitals" if prompt.text.isupper() else None

    filters = (PromptFilter("shouting", each(shouting)), *PROMPT_FILTERS)
    monkeypatch.setattr(prompt_filters, "PROMPT_FILTERS", filters)
    prompts = prompts_of("HOW MANY GOATS?", "How many goats?", "how many goats?")
    assert reasons_of(prompts) == [
        "shouting: in capitals",
        "duplicate_prompt: the same as 'HOW MANY GOATS?'",
        "duplicate_prompt: the same as 'HOW MANY GOATS?'",
    ]


PASSAGE = " ".join(
    f"In the {name} the farmers of the valley {verb}, and the traders who came by boat {other} before they went home across the lake."
    for name, verb, other in [
        ("spring", "mended their nets", "sold them salt"),
        ("early summer", "planted beans", "bought the last maize"),
        ("late summer", "fed the goats", "rested for a week"),
        ("autumn", "dried the fish", "paid with cloth"),
        ("winter", "told long stories", "stayed away"),
        ("dry years", "walked to the river", "brought water in barrels"),
        ("wet years", "built walls of stone", "could not land"),
        ("old days", "had no boats at all", "came on foot"),
        ("last century", "began to count the fish", "kept books"),
        ("present", "send their children to school", "carry the teachers"),
    ]
)
ABOUT_IT = [
    "What did the farmers do in spring?",
    "Why could the traders not land in wet years?",
    "Who carries the teachers across the lake?",
    "What did the traders sell in spring?",
]


def names(reasons: list[str | None]) -> list[str | None]:
    return [reason and reason.partition(":")[0] for reason in reasons]


@pytest.mark.parametrize(
    "form",
    [
        "{passage}\n\n{question}",
        "{question} {passage}",
        "Text: {passage} Question: {question} Answer:",
    ],
)
def test_questions_about_one_passage_are_not_duplicates_of_each_other(form):
    asked = prompts_of(*(form.format(passage=PASSAGE, question=question) for question in ABOUT_IT))
    assert reasons_of(asked, near_duplicate=0.9) == [None] * 4
    assert reasons_of(asked, near_duplicate=0.7) == [None] * 4


def test_prompts_that_say_the_same_are_still_duplicates_with_a_long_context():
    first = f"{PASSAGE} {ABOUT_IT[0]}"
    again = [
        first.replace("spring?", "Spring ?\n"),
        first.replace("mended", "mennded"),
        first.replace("farmers do", "farmres do"),
        first.replace("barrels", "barels").replace("teachers", "techers"),
        first.replace("across the lake", "acros the lake", 1),
    ]
    asked = prompts_of(first, *again, language="en")
    assert names(reasons_of(asked, near_duplicate=0.9)) == [
        None,
        *["near_duplicate_prompt"] * len(again),
    ]
    stayed = "who came by boat and stayed for the night and slept under the trees of the shore " * 3
    ends = [f"The traders {stayed} sold {what}." for what in ("salt", "rice")] + [
        "They sold salt.",
        "They sold rice.",
    ]
    asked = prompts_of(*(f"{PASSAGE} {end}" for end in ends))
    assert names(reasons_of(asked, near_duplicate=0.9)) == [
        None,
        "near_duplicate_prompt",
        None,
        None,
    ]


def test_a_shared_system_message_makes_no_duplicates_and_another_one_another_prompt():
    asked = prompts_of(*ABOUT_IT, system=PASSAGE)
    assert reasons_of(asked, near_duplicate=0.7) == [None] * 4
    other = prompts_of(ABOUT_IT[0] + " " + PASSAGE, system="Answer a child.") + prompts_of(
        ABOUT_IT[0] + " " + PASSAGE
    )
    assert reasons_of(other, near_duplicate=0.7) == [None, None]


def test_many_prompts_of_one_form_are_compared_by_what_is_theirs():
    """A sentence that many have is not compared, but numbers in it count."""
    towns = [
        "Kisumu",
        "Arusha",
        "Kitale",
        "Mwanza",
        "Lindi",
        "Moshi",
        "Tanga",
        "Nakuru",
        "Eldoret",
        "Iringa",
        "Mbeya",
        "Songea",
    ]
    texts = [f"{PASSAGE} Which of them came from {town}?" for town in towns]
    found = reasons_of(
        prompts_of(
            *texts,
            texts[3].replace("Which", "which"),
            texts[3] + " Choose 1.",
            texts[3] + " Choose 2.",
        ),
        near_duplicate=0.9,
    )
    assert names(found) == [None] * 12 + ["duplicate_prompt", None, None]


def test_the_language_of_a_prompt_is_that_of_its_user():
    question = "Mkulima ana mbuzi ishirini na wanne, anauza saba sokoni. Ana mbuzi wangapi sasa?"
    (asked,) = prompts_of(
        question,
        language="sw",
        system="You are a helpful assistant of farmers. Answer in short sentences. " * 3,
    )
    assert reasons_of([asked], languages=("sw",)) == [None]
    (asked,) = prompts_of(
        "How many goats does the farmer have now?", language="sw", system=question
    )
    assert names(reasons_of([asked], languages=("sw",))) == ["wrong_prompt_language"]


def test_a_prompt_in_another_language_or_nearly_asked_before_is_not_asked():
    goats = "Mfugaji mmoja wa Kisumu ana mbuzi ishirini na wanne, anauza saba sokoni na kununua kumi wengine. Ana mbuzi wangapi sasa?"
    prompts = [
        goats,
        goats.replace("Kisumu", "Kitale"),
        goats + " 7",
        "How many goats does the farmer have after he has sold seven of them?",
        "农夫卖掉了七只山羊以后还有多少只山羊？",
    ]
    asked = [Prompt(({"role": "user", "content": text},), "sw") for text in prompts]
    reasons = reasons_of(asked, languages=("sw", "en"), near_duplicate=0.7)
    assert (reasons[1] or "").startswith(f"near_duplicate_prompt: nearly '{goats[:80]}")
    assert [r and r.partition(":")[0] for r in reasons] == [
        None,
        "near_duplicate_prompt",
        None,
        "wrong_prompt_language",
        "wrong_prompt_language",
    ]
    assert reasons_of([replace(p, check_language=False) for p in asked[3:]]) == [None, None]
