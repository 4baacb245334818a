"""Prompts that the teacher writes: what it is asked for, and what of its answers is taken."""

import json

import pytest
from families import BY_NAME, tokenizer_of

from distill.core.jsonl import write_jsonl
from distill.data.bad_rows import Left
from distill.data.samples import Prompt
from distill.errors import DataError, RecipeError
from distill.recipe import explain, load_recipe
from distill.synthesis import expansion

GOATS = "Mkulima ana mbuzi kumi na wawili, anauza saba. Wamebaki mbuzi wangapi?"
MARKET = "How do I keep tomatoes fresh at the market in Kisumu when there is no fridge at all?"
BUS = "Which bus goes from the old harbour to the hospital early in the morning on Sundays?"


@pytest.fixture
def recipe(tmp_path):
    """`recipe("{expand: magpie, num: 5}")`: a recipe with this source, and a file of prompts that people wrote."""

    def make(source, *more):
        write_jsonl(
            tmp_path / "p.jsonl",
            [{"prompt": MARKET, "language": "en"}, {"prompt": GOATS, "language": "sw"}],
        )
        text = f"""
name: t
languages: [en, sw]
teacher: {{model: ./none}}
student: {{method: random}}
generate: {{prompts: [{{file: p.jsonl}}, {source}]}}
"""
        (tmp_path / "r.yaml").write_text(text)
        return load_recipe(tmp_path / "r.yaml", more)

    return make


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(BY_NAME["qwen3"])


def people(num, language="en"):
    return [
        Prompt(({"role": "user", "content": f"question {language} {n}"},), language)
        for n in range(num)
    ]


def asked(recipe, tokenizer, prompts=(), held_out=()):
    return expansion.prompt_requests(recipe, tokenizer, list(prompts), list(held_out))[0]


def test_magpie_asks_with_the_template_up_to_the_user_and_steers_by_language(recipe, tokenizer):
    plain = asked(recipe("{expand: magpie, num: 3}"), tokenizer)
    assert {tokenizer.decode(w.prompt_ids) for w in plain} == {"<|im_start|>user\n"}
    assert [(w.sample_index, w.prompt.language) for w in plain] == [(0, ""), (1, ""), (2, "")]
    steered, stop_ids = expansion.prompt_requests(
        recipe("{expand: magpie, num: 3, system_prompts: {sw: Msaidie., en: Help.}}"),
        tokenizer,
        [],
        [],
    )
    assert [w.prompt.language for w in steered] == ["sw", "sw", "en"]
    assert (
        tokenizer.decode(steered[0].prompt_ids)
        == "<|im_start|>system\nMsaidie.<|im_end|>\n<|im_start|>user\n"
    )
    assert tokenizer.decode(stop_ids) == "<|im_end|>"


def test_seeds_are_shown_and_one_seed_more_changes_few_requests(recipe, tokenizer):
    made = recipe("{expand: self_instruct, num: 60, num_shown: 3, language: en}")
    before = [w.prompt.text for w in asked(made, tokenizer, people(40))]
    assert before == [w.prompt.text for w in asked(made, tokenizer, people(40)[::-1])], (
        "the order of the seeds does not count"
    )
    assert len(set(before)) > 55 and all(
        text.count("<prompt>question en ") == 3 and "in English" in text for text in before
    )
    after = [w.prompt.text for w in asked(made, tokenizer, people(41))]
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert 0 < changed <= 15, "3 in 41 see the new seed; the others are not paid for again"
    shown = "".join(w.prompt.text for w in asked(made, tokenizer, people(40), people(40)[:39]))
    assert shown.count("question en 39<") == 60 and "question en 38<" not in shown, (
        "a held-out prompt is no seed"
    )


def test_seeds_come_from_their_own_file_and_each_language_needs_some(recipe, tokenizer, tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"prompt": "Wapi soko?", "language": "sw"}])
    made = recipe("{expand: self_instruct, num: 3, file: s.jsonl, language: sw}")
    assert [
        "Wapi soko?" in w.prompt.text and "in Swahili" in w.prompt.text
        for w in asked(made, tokenizer)
    ] == [True] * 3
    with pytest.raises(
        DataError,
        match=r"self_instruct of s\.jsonl: no seed prompt in en; add some, or set language",
    ):
        asked(recipe("{expand: self_instruct, num: 3, file: s.jsonl}"), tokenizer)


def test_people_and_places_take_turns_in_their_own_languages(recipe, tokenizer, tmp_path):
    write_jsonl(
        tmp_path / "w.jsonl",
        [
            {"persona": "A tailor in Kano"},
            {"place": "Kisumu lies on the lake", "language": "sw"},
            {"persona": "A {nurse}"},
        ],
    )
    found = asked(recipe("{expand: personas, file: w.jsonl, num: 9}"), tokenizer)
    assert [w.prompt.language for w in found] == ["en"] * 5 + ["sw"] * 4
    told = [next(t for t in ("tailor", "Kisumu", "{nurse}") if t in w.prompt.text) for w in found]
    assert told == [
        "tailor",
        "{nurse}",
        "tailor",
        "{nurse}",
        "tailor",
        "tailor",
        "Kisumu",
        "{nurse}",
        "tailor",
    ]
    assert "about a place" in found[6].prompt.text and "This is a person" in found[5].prompt.text
    assert len({(w.prompt.id, w.sample_index) for w in found}) == 9, "no request twice"
    (tmp_path / "t.txt").write_text("A fisher\n")
    assert (
        "A fisher"
        in asked(recipe("{expand: personas, file: t.txt, num: 1}"), tokenizer)[0].prompt.text
    )


def test_people_for_other_languages_are_left_out_where_a_column_names_theirs(
    recipe, tokenizer, tmp_path
):
    rows = [{"persona": "A tailor", "language": "en"}, {"persona": "A judge", "language": "hi"}]
    write_jsonl(tmp_path / "w.jsonl", rows)
    columns = "columns: {persona: persona, language: language}"
    made = recipe(f"{{expand: personas, file: w.jsonl, {columns}, num: 3}}", "languages=[en]")
    left = Left()
    requests, _ = expansion.prompt_requests(made, tokenizer, [], [], left)
    assert {"A tailor" in w.prompt.text for w in requests} == {True}
    assert left.by_reason == {"other_language": 1} and "1 rows for other" in left.notes[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"persona": "a", "place": "b"}, "line 1: 2 texts; give either persona or place"),
        ({"persona": "a", "age": 3}, "line 1: unknown field 'age'"),
        ({"persona": "a", "language": "fr"}, "line 1: language 'fr' is not in the recipe's"),
        ({"persona": "\u200b"}, "line 1: 0 texts"),
        ({"persona": "a nurse \ud83d"}, "line 1: half a character"),
        ({"x" * 100_000: 1}, "line 1: unknown field 'xxx"),
    ],
)
def test_a_persona_that_cannot_be_used_is_named(recipe, tokenizer, tmp_path, row, words):
    (tmp_path / "w.jsonl").write_text(json.dumps(row))
    made = recipe("{expand: personas, file: w.jsonl, num: 9}")
    with pytest.raises(DataError, match=words) as caught:
        asked(made, tokenizer)
    assert len(str(caught.value)) < 500
    (tmp_path / "w.jsonl").write_text('{"persona": "a baker"}\n' * 9 + json.dumps(row))
    left = Left()
    requests, _ = expansion.prompt_requests(made, tokenizer, [], [], left)
    assert {"a baker" in w.prompt.text for w in requests} == {True} and len(left.notes) == 1


@pytest.mark.parametrize(
    "said",
    [
        f"<prompt>{BUS}</prompt>",
        f"Sure!\n<prompt>\n{BUS}\n</prompt>\nHope it helps.",
        f"<prompt>{BUS}",
        f"{BUS}</prompt> done",
        f"<prompt>{MARKET}</prompt>\n\n<prompt>{BUS}</prompt>",
        f"<prompt>{BUS}</prompt>\n<prompt></prompt>",
        BUS,
        f'Prompt: "{BUS}"',
        f"**New prompt:** {BUS}",
        f"3. {BUS}",
        f"“{BUS}”",
    ],
)
def test_a_prompt_is_found_however_it_is_given(said):
    assert expansion.between_tags(said) == BUS


def test_what_is_no_label_stays():
    for text in (
        "Prompt engineering: what is it?",
        "3.5 kg of rice and 2. more?",
        '"Ndiyo" or "hapana"',
    ):
        assert expansion.between_tags(text) == text


def row(text, tokenizer=None, reason="stop"):
    ids = (
        []
        if tokenizer is None
        else [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    )
    return {"finish_reason": reason, "text": text, "token_ids": ids}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (f"<prompt>{BUS}</prompt>", None),
        ("<prompt></prompt>", "empty_prompt"),
        ("<prompt>I'm sorry, but I cannot help with that.</prompt>", "refusal"),
        ("<prompt>I am Qwen, made by Alibaba Cloud. What are you?</prompt>", "identity"),
        ("<prompt>This is a person: a tailor in Kano</prompt>", "leak: 'This is a person:'"),
        (f"<prompt><|im_start|>user {BUS}</prompt>", "leak: '<|im_start|>'"),
        (f"<prompt>{MARKET.replace('fridge', 'freezer')}</prompt>", "near_duplicate_prompt"),
        ("go on " * 60, "loop"),
    ],
)
def test_what_cannot_be_asked_is_dropped_with_its_reason(recipe, tokenizer, said, reason):
    made = recipe("{expand: self_instruct, num: 1, language: en}")
    seeds = [Prompt(({"role": "user", "content": MARKET},), "en")]
    (request,) = asked(made, tokenizer, seeds)
    good, bad = expansion.read(made, [(request, [1], row(said))], tokenizer, seeds)
    assert [p.text for p in good] == ([BUS] if reason is None else [])
    assert reason is None or bad[0][1].startswith(reason)
    assert expansion.read(made, [(request, [1], row(said, reason="length"))], tokenizer, seeds)[1][
        0
    ][1].startswith("truncated")


def test_reasoning_about_a_prompt_is_no_part_of_it(recipe, tokenizer):
    made = recipe("{expand: self_instruct, num: 1, language: en}")
    (request,) = asked(made, tokenizer, people(1))
    said = f"<think>They like <prompt>s. A bus?</think>\n\n<prompt>{BUS}</prompt>"
    assert [
        p.text for p in expansion.read(made, [(request, [1], row(said))], tokenizer, people(1))[0]
    ] == [BUS]


def test_magpie_tells_the_language_by_the_text_and_keeps_one_of_two_alike(recipe, tokenizer):
    made = recipe("{expand: magpie, num: 5}")
    said = [
        BUS,
        GOATS,
        "人人生而自由，在尊严和权利上一律平等。",
        "12 + 7 = 20",
        BUS.replace("early", "very early"),
    ]
    answered = [
        (w, w.prompt_ids or [], row(text, tokenizer))
        for w, text in zip(asked(made, tokenizer), said, strict=True)
    ]
    good, bad = expansion.read(made, answered, tokenizer, [])  # the fourth could be in any language
    assert [(p.text, p.language) for p in good] == [(BUS, "en"), (GOATS, "sw")]
    assert [(p.language, why.partition(":")[0]) for p, why in bad] == [
        ("und", "wrong_prompt_language"),
        ("und", "wrong_prompt_language"),
        ("en", "near_duplicate_prompt"),
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{expand: magpie}", "expand: magpie needs num"),
        ("{expand: magpie, num: 5, file: a.txt}", "magpie starts from nothing: remove file"),
        ("{expand: personas, num: 5}", "give either file or dataset"),
        (
            "{expand: personas, num: 5, file: a.csv, columns: {prompt: who}}",
            "columns: map either persona or place",
        ),
        (
            "{expand: self_instruct, num: 5, system_prompts: {en: Hi}}",
            "system_prompts is for magpie",
        ),
        (
            "{file: p.jsonl, num: 5}",
            "num is for prompts that the teacher writes: remove it, or set expand",
        ),
        ("{expand: magpie, num: 5, num_shown: 3}", "num_shown means nothing to expand: magpie"),
        ("{expand: magpie, num: 5, language: fr}", "language fr is not in the recipe's languages"),
    ],
)
def test_a_source_that_does_not_fit_together_is_refused(recipe, source, words):
    with pytest.raises(RecipeError, match=words):
        recipe(source)


def test_what_the_teacher_writes_is_no_exam_and_has_no_reference(recipe):
    source = "{expand: magpie, num: 5}"
    with pytest.raises(
        RecipeError,
        match=r"generate\.task final_number checks .*verify: false beside expand, or task to null",
    ):
        recipe(source, "generate.task=final_number")
    with pytest.raises(RecipeError, match="the teacher does not set its own exam"):
        recipe(source, "evaluate.prompts=[{expand: magpie, num: 5}]")
    with pytest.raises(RecipeError, match=r"the teacher writes all of generate\.prompts"):
        recipe(source, "generate.prompts=[{expand: magpie, num: 5}]")


def test_explain_tells_what_expand_does():
    assert "expand" in explain("generate.prompts") and "as if a user spoke" in explain(
        "generate.prompts.expand"
    )
