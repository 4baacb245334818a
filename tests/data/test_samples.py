"""Prompts as the sources mean them, and which are held out."""

import unicodedata

import pytest

from distill.core.jsonl import write_jsonl
from distill.data.bad_rows import Left
from distill.data.prompts import read_prompts, split_prompts
from distill.data.samples import Prompt, Sample, count_by_language
from distill.data.stored_samples import split_samples
from distill.errors import DataError, RecipeError


def read(recipe, *, needs_reference=False, left=None):
    return read_prompts(
        recipe,
        "generate.prompts",
        recipe.generate.prompts,
        needs_reference=needs_reference,
        left=left,
    )


def test_translation_pairs_go_both_ways_and_are_not_held_out(recipe, tmp_path):
    write_jsonl(
        tmp_path / "t.jsonl",
        [
            {"en": "Good morning.", "swahili": "Habari za asubuhi.", "fr": "Bonjour."},
            {"en": "Alone."},
        ],
    )
    write_jsonl(
        tmp_path / "p.jsonl", [{"prompt": f"Count to {n}.", "language": "en"} for n in range(20)]
    )
    made = recipe("[{file: t.jsonl, translate: {en: en, sw: swahili, fr: fr}}, {file: p.jsonl}]")
    left = Left()
    pairs = [p for p in read(made, left=left) if p.is_translation]
    assert left.by_reason == {"no_pair": 1}
    assert [(p.language, p.reference, p.text) for p in pairs] == [
        (
            "sw",
            "Habari za asubuhi.",
            "Translate into Swahili. Give the translation only.\n\nGood morning.",
        ),
        (
            "en",
            "Good morning.",
            "Translate into English. Give the translation only.\n\nHabari za asubuhi.",
        ),
        ("en", "Good morning.", "Translate into English. Give the translation only.\n\nBonjour."),
        (
            "sw",
            "Habari za asubuhi.",
            "Translate into Swahili. Give the translation only.\n\nBonjour.",
        ),
    ]
    learn, held_out = split_prompts(made)
    assert (
        held_out
        and not any(p.is_translation for p in held_out)
        and sum(p.is_translation for p in learn) == 4
    )


def test_sources_that_are_not_verified_stand_beside_a_task_and_are_not_held_out(recipe, tmp_path):
    write_jsonl(
        tmp_path / "sums.jsonl",
        [{"prompt": f"{n} + 1 = ?", "language": "en", "reference": str(n + 1)} for n in range(40)],
    )
    (tmp_path / "harm.txt").write_text("\n".join(f"How do I poison well {n}?" for n in range(40)))
    mixed = "[{file: sums.jsonl}, {file: harm.txt, language: en, verify: false, refusals: require}]"
    learn, held_out = split_prompts(recipe(mixed, "generate.task=final_number"))
    assert held_out and {p.source for p in held_out} == {"sums.jsonl"}
    assert {(p.source, p.verify, p.refusals) for p in learn} == {
        ("sums.jsonl", True, "drop"),
        ("harm.txt", False, "require"),
    }
    assert {p.source for p in split_prompts(recipe(mixed))[1]} == {"sums.jsonl", "harm.txt"}
    with pytest.raises(DataError, match="verify: false in this source"):
        split_prompts(recipe("[{file: harm.txt, language: en}]", "generate.task=final_number"))
    with pytest.raises(DataError, match="prompts to evaluate on"):
        split_prompts(
            recipe("[{file: harm.txt, language: en, verify: false}]", "generate.task=final_number")
        )
    with pytest.raises(RecipeError, match="verify: false beside expand"):
        recipe("[{file: sums.jsonl}, {expand: magpie, num: 3}]", "generate.task=final_number")
    assert recipe(
        "[{file: sums.jsonl}, {expand: magpie, num: 3, verify: false}]",
        "generate.task=final_number",
    )
    with pytest.raises(RecipeError, match="refusals says what is worth"):
        recipe("[{file: sums.jsonl}]", "evaluate.prompts=[{file: harm.txt, refusals: keep}]")


def test_held_out_prompts_that_are_checked_take_turns_with_those_that_are_not(recipe, tmp_path):
    chat = [{"prompt": f"Tell me of {n}", "language": "en"} for n in range(20)]
    sums = [{"prompt": f"{n} + 1?", "language": "en", "reference": str(n + 1)} for n in range(9)]
    write_jsonl(tmp_path / "chat.jsonl", chat)
    write_jsonl(tmp_path / "exam.jsonl", sums)
    chats, exams = tmp_path / "chat.jsonl", tmp_path / "exam.jsonl"
    exam = f"evaluate.prompts=[{{file: {chats}, verify: false}}, {{file: {exams}}}]"
    words = ["generate.task=final_number", exam, "languages=[en]"]
    learnt = "[{file: sums.jsonl}]"
    write_jsonl(tmp_path / "sums.jsonl", [{"prompt": "2 + 2?", "language": "en", "reference": "4"}])
    for num, checked in ((10, 5), (4, 2), (24, 9), (300, 9)):
        made = recipe(learnt, *words, f"evaluate.num_examples={num}")
        held_out = split_prompts(made)[1]
        assert sum(prompt.verify for prompt in held_out) == checked
        assert len(held_out) == min(num, 29)
    alone = recipe(learnt, exam, "languages=[en]", "generate.task=null", "evaluate.num_examples=10")
    assert not any(prompt.verify for prompt in split_prompts(alone)[1]), (
        "nothing checks: file order"
    )


def test_prompts_are_normalised_so_that_what_looks_the_same_is_asked_once(recipe, tmp_path):
    text = "Ẹ̀kọ́ ni kí o ṣe?"
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")] + ["\ufeff\x07" + text]
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": form, "language": "en"} for form in forms])
    assert len({p.id for p in read(recipe("./p.jsonl"))}) == 1


def test_held_out_prompts_are_even_over_the_languages_and_in_the_files_order(recipe, tmp_path):
    languages = ["en"] * 6 + ["sw", "en", "sw"]
    rows = [{"prompt": f"{n}", "language": language} for n, language in enumerate(languages)]
    write_jsonl(tmp_path / "e.jsonl", rows)
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "x", "language": "en"}])
    made = recipe(
        "./p.jsonl", f"evaluate.prompts={tmp_path / 'e.jsonl'}", "evaluate.num_examples=5"
    )
    assert [p.text for p in split_prompts(made)[1]] == ["0", "1", "2", "6", "8"]
    write_jsonl(tmp_path / "e.jsonl", [rows[0]] * 9)
    assert {p.text for p in split_prompts(made)[1]} == {"0"}, "one prompt nine times is one"


def test_an_empty_prompt_is_never_held_out(recipe, tmp_path):
    """It would cost, and be counted as a failed answer of every model."""
    texts = ["", " ", "\u200b", "\ufeff\u2060", "Hi?", "Who?"]
    rows = [{"prompt": text, "language": "en"} for text in texts]
    write_jsonl(tmp_path / "p.jsonl", rows)
    learn, held_out = split_prompts(recipe("./p.jsonl", "evaluate.held_out=0.999"))
    assert {p.text for p in held_out} == {"Hi?", "Who?"} and len(learn) == 4
    write_jsonl(tmp_path / "e.jsonl", rows[:5])
    made = recipe("./p.jsonl", f"evaluate.prompts={tmp_path / 'e.jsonl'}")
    left = Left()
    assert [p.text for p in split_prompts(made, left)[1]] == ["Hi?"]
    assert left.notes == ["evaluate.prompts: 4 prompts are empty, and left out"]
    write_jsonl(tmp_path / "e.jsonl", rows[:4])
    with pytest.raises(DataError, match=r"evaluate\.prompts: all 4 prompts are empty"):
        split_prompts(made)


def test_prompts_that_are_all_held_out_are_told_before_anything_is_asked(recipe, tmp_path):
    row = {"prompt": "Hi?", "language": "en"}
    for rows in ([row], [row] * 5):
        write_jsonl(tmp_path / "p.jsonl", rows)
        with pytest.raises(
            DataError, match=rf"all of its prompts \({len(rows)}\) are held out .* add prompts"
        ):
            split_prompts(recipe("./p.jsonl"))
    write_jsonl(tmp_path / "e.jsonl", [{"prompt": "Who?", "language": "en"}])
    made = recipe("./p.jsonl", f"evaluate.prompts={tmp_path / 'e.jsonl'}")
    assert len(split_prompts(made)[0]) == 5, "the way out"


def test_a_last_answer_that_is_cut_off_is_told_once(recipe, tmp_path):
    said = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]
    write_jsonl(tmp_path / "p.jsonl", [{"conversations": said, "language": "en"}] * 3)
    left = Left()
    assert {p.text for p in read(recipe("./p.jsonl"), left=left)} == {"Hi?"}
    assert left.notes == [
        "generate.prompts: ./p.jsonl: 3 conversations end with the assistant's turn: it is left out, "
        "and asked anew"
    ]
    assert not left.by_reason


def test_kept_and_dropped_are_counted_by_language_the_commonest_reason_first():
    kept = [{"language": "sw"}, {"language": "sw"}]
    dropped = [
        {"language": language, "reason": f"{name}: because"}
        for language, name in [("sw", "loop"), ("sw", "empty"), ("sw", "empty"), ("en", "loop")]
    ]
    counts = count_by_language(kept, dropped)
    assert counts == {"sw": {"kept": 2, "empty": 2, "loop": 1}, "en": {"kept": 0, "loop": 1}}
    assert list(counts["sw"]) == ["kept", "empty", "loop"]


def test_answers_to_one_prompt_are_validated_on_or_learnt_from_together():
    samples = [Sample(f"{n}", f"{n // 2}", "p", "en", None, "a", [1], [2]) for n in range(200)]
    learn, validate = split_samples(samples, 0.1)
    assert len(learn) + len(validate) == 200 and 0 < len(validate) < 60
    assert not {s.prompt_id for s in learn} & {s.prompt_id for s in validate}
    assert [len(part) for part in split_samples(samples[:4], 0.0)] == [2, 2], "one still shows"
    assert split_samples(samples[:1], 0.0) == (samples[:1], samples[:1])


def test_a_prompts_id_is_of_its_messages_alone():
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"})
    prompt = Prompt(messages, "en", source="a.jsonl")
    assert prompt.id == Prompt(messages, "sw").id != Prompt(messages[1:], "en").id
    assert (prompt.text, prompt.text_of("system"), prompt.full_text) == (
        "Hi?",
        "Be kind.",
        "Be kind.\nHi?",
    )
