"""Answers that the user's rows hold: learnt as if the teacher had written them, who is asked for none."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from families import BY_NAME, tokenizer_of
from generate_helpers import HOT, generate_hot, logged_answers
from run_helpers import QUICKSTART, SMALL

from distill import chat, pipeline
from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.data.bad_rows import Left
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt
from distill.data.stored_samples import read_samples
from distill.errors import DataError, RecipeError, Stopped
from distill.evaluate import askable, write_answers
from distill.pilot.pilot_sample import PilotSample
from distill.planning.demands import demand_of
from distill.planning.destinations import text_of_destinations
from distill.planning.lengths import _Reader, held_out_within_context
from distill.recipe import load_recipe
from distill.shaping.trimmed import kept_path
from distill.signals.store import SignalStore
from distill.teachers import connect
from distill.teachers.answers import _lengths_of
from distill.teachers.given import as_written
from distill.teachers.held_out import _requests, answers_to
from distill.teachers.kept import candidate, unlearnable
from distill.teachers.keys import request_maker
from distill.teachers.local import LocalTeacher
from distill.teachers.log import read_log
from distill.teachers.requests import Request, RequestOptions

PROSE = (
    "Bei ya mahindi imepanda tena mwezi huu. Wakulima {n} wanasema mvua ilichelewa, na wengi wao "
    "wanasubiri mavuno ya mwezi ujao kabla ya kuuza. Sokoni {n} watu wananunua unga kidogo kidogo.\n"
)
EXAM = f"evaluate.prompts={QUICKSTART.parent / 'quickstart/prompts.jsonl'}"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run folder in which the teacher was asked, its kept samples, and rows of its answers."""
    folder = tmp_path_factory.mktemp("asked")
    # greedily: at a temperature it splits words its own way
    values = [*SMALL, *HOT, "generate.sampling_temperature=0", f"run_folder={folder}"]
    pipeline.run(load_recipe(QUICKSTART, values), stages=["generate", "capture"])
    kept = [row for _, row in read_jsonl(folder / "generate/kept.jsonl")]
    prompts = {row["prompt_id"]: row for _, row in read_jsonl(folder / "generate/prompts.jsonl")}
    rows = [
        {"prompt": sample["prompt"], "answer": sample["answer"]}
        | {name: prompts[sample["prompt_id"]][name] for name in ("language", "reference")}
        for sample in kept
    ]
    return folder, kept, rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def given(path, **more):
    fields = "".join(f", {name}: {value}" for name, value in more.items())
    return f"generate.prompts=[{{file: {path}, answers: given{fields}}}]"


def never_loads(monkeypatch):
    def load(self, *arguments):
        raise AssertionError("the teacher is loaded")

    monkeypatch.setattr(LocalTeacher, "load", load)


def without_keys(rows):
    return [{name: row[name] for name in row if name not in ("key", "given")} for row in rows]


def test_the_teachers_own_answers_given_back_are_the_same_samples_and_it_is_not_loaded(
    asked, tmp_path, monkeypatch
):
    _, kept, rows = asked
    never_loads(monkeypatch)
    source = given(write(tmp_path / "rows.jsonl", rows))
    result, back = generate_hot(tmp_path / "run", source)
    assert all(row["given"] for row in back)
    assert without_keys(back) == without_keys(kept) and len(kept) > 10
    assert {row["key"] for row in back}.isdisjoint(row["key"] for row in kept)
    assert (result.num_asked, result.num_given) == (0, len(rows)) == (0, result.num_prompts)
    assert result.num_prompts_without_answer == 0 and result.prompts_by_tries == {}
    logged = logged_answers(tmp_path / "run")
    assert all(row["given"] for row in logged) and len(logged) == len(rows)
    again, same = generate_hot(
        tmp_path / "run", source, "seed=7", "generate.sampling_temperature=0.1"
    )
    assert same == back and again.num_given == len(rows)
    assert len(logged_answers(tmp_path / "run")) == len(rows), "written once"


@pytest.mark.parametrize("form", ["column", "messages", "conversations"])
def test_an_answer_is_a_column_or_the_assistants_last_turn(asked, tmp_path, form):
    _, kept, rows = asked
    written = []
    for row in rows:
        turns = [("user", row["prompt"]), ("assistant", row["answer"])]
        rest = {name: row[name] for name in ("language", "reference")}
        written.append(
            {
                "column": {"question": row["prompt"], "response": row["answer"]},
                "messages": {"messages": [{"role": r, "content": t} for r, t in turns]},
                "conversations": {"conversations": [{"from": r, "value": t} for r, t in turns]},
            }[form]
            | rest
        )
    columns = {}
    if form == "column":
        columns = {
            "columns": "{prompt: question, answer: response, language: language, reference: reference}"
        }
    path = write(tmp_path / "rows.jsonl", written)
    _, back = generate_hot(tmp_path / "run", given(path, **columns))
    assert without_keys(back) == without_keys(kept)


def test_given_and_asked_go_together_and_filters_see_both(asked, tmp_path):
    _, _, rows = asked
    wrong = [{**rows[5], "answer": "It is 123456789."}]
    mark = [{**rows[6], "answer": f"{rows[6]['answer']}<|im_end|>\n"}]
    still_open = [{**rows[7], "answer": f"<think>{rows[7]['answer']}"}]
    path = write(tmp_path / "rows.jsonl", [*rows[:5], *wrong, *mark, *still_open])
    others = write(tmp_path / "others.jsonl", [without(row, "answer") for row in rows[8:]])
    sources = f"generate.prompts=[{{file: {path}, answers: given}}, {{file: {others}}}]"
    result, kept = generate_hot(tmp_path / "run", sources)
    assert (result.num_given, result.num_asked) == (8, len(rows) - 8)
    assert result.prompts_by_tries == {1: len(rows) - 8} and result.num_given_kept == 5
    assert sum(row.get("given", False) for row in kept) == 5
    dropped = {
        row["answer"]: row["reason"]
        for _, row in read_jsonl(tmp_path / "run/generate/dropped.jsonl")
        if "answer" in row
    }
    assert dropped["It is 123456789."].startswith("wrong_answer"), dropped
    assert any(reason.startswith("format") and "im_end" in reason for reason in dropped.values())
    assert "truncated: <think> in it is not closed" in dropped.values()
    assert [row["answer"] for row in kept[-5:]] == [row["answer"] for row in rows[:5]]
    assert len(logged_answers(tmp_path / "run")) == len(rows)


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def test_a_given_answer_does_not_count_as_one_of_the_teachers(asked, tmp_path, monkeypatch):
    """A server that refuses everything is stopped early only as long as it has answered nothing."""
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", rows[:5])
    others = write(tmp_path / "others.jsonl", [without(row, "answer") for row in rows[5:]])
    known, answer = [], LocalTeacher.answer

    def answer_and_note(self, job):
        known.append(dict(job.known))
        answer(self, job)

    monkeypatch.setattr(LocalTeacher, "answer", answer_and_note)
    sources = f"generate.prompts=[{{file: {path}, answers: given}}, {{file: {others}}}]"
    generate_hot(tmp_path / "run", sources)
    assert known == [{}]


def test_nor_does_one_that_another_process_has_written(asked, tmp_path):
    """What is read again where a process took over another's work is of the same requests."""
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", rows)
    generate_hot(tmp_path / "run", given(path))
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={tmp_path / 'run'}", given(path)])
    teacher = connect(recipe, RunFolder.of(recipe))
    prompt = Prompt(({"role": "user", "content": "2?"},), "en")
    request = request_maker(teacher, RequestOptions.of(recipe))(prompt, 0)
    logged = read_log(teacher.logs.answers)
    assert len(logged.rows) == len(rows)
    assert _lengths_of([request], recipe, logged, 64) == {}


def test_a_number_is_an_answer_and_none_that_is_no_number(asked, tmp_path):
    _, _, rows = asked
    numbers = [{**rows[0], "answer": 10**30}, {**rows[1], "answer": 2.5}, {**rows[2], "answer": 0}]
    path = write(tmp_path / "rows.jsonl", numbers)
    learn, _ = split_prompts(load_recipe(QUICKSTART, [*HOT, given(path)]))
    assert [prompt.answer for prompt in learn] == ["1" + "0" * 30, "2.5", "0"]


def test_further_draws_are_for_those_that_are_asked(asked, tmp_path):
    _, _, rows = asked
    bad = [{**row, "answer": "It is 123456789."} for row in rows[:3]]
    path = write(tmp_path / "bad.jsonl", bad)
    others = write(tmp_path / "others.jsonl", [without(row, "answer") for row in rows[3:]])
    sources = f"generate.prompts=[{{file: {path}, answers: given}}, {{file: {others}}}]"
    result, kept = generate_hot(
        tmp_path / "run", sources, "generate.max_tries=3", "generate.samples_per_prompt=2"
    )
    assert result.num_given == 3 and {row["prompt"] for row in kept}.isdisjoint(
        row["prompt"] for row in bad
    )
    assert sum(bool(row.get("given")) for row in logged_answers(tmp_path / "run")) == 3


def test_two_answers_to_one_prompt_are_two_samples(asked, tmp_path):
    _, _, rows = asked
    other = {**rows[0], "answer": f"Let us see. {rows[0]['answer']}"}
    again = {**rows[1], "answer": f" {rows[1]['answer']}"}
    path = write(tmp_path / "rows.jsonl", [*rows, other, again])
    result, kept = generate_hot(
        tmp_path / "run", given(path), "generate.near_duplicate=1", "generate.num_prompts=null"
    )
    told = [row["answer"] for row in kept if row["prompt"] == rows[0]["prompt"]]
    assert told == [rows[0]["answer"], other["answer"]]
    assert result.dropped_by_reason == {"duplicate_prompt": 1} and len(kept) == len(rows) + 1


def test_a_pair_of_translations_is_a_question_and_its_answer_each_way(tmp_path, monkeypatch):
    never_loads(monkeypatch)
    pairs = [
        {"en": f"The price is {n} shillings.", "sw": f"Bei ni shilingi {n}."} for n in range(20, 32)
    ]
    path = write(tmp_path / "pairs.jsonl", pairs)
    source = given(path, translate="{en: en, sw: sw}")
    result, kept = generate_hot(tmp_path / "run", source, EXAM)
    assert result.num_given == 24 and result.num_asked == 0
    told = {(row["language"], row["answer"]) for row in kept}
    assert ("sw", "Bei ni shilingi 21.") in told and ("en", "The price is 21 shillings.") in told


def test_texts_are_learnt_as_passages_that_are_continued(tmp_path, monkeypatch):
    never_loads(monkeypatch)
    lines = [PROSE.format(n=n) for n in range(60)]
    text = tmp_path / "sw.txt"
    text.write_text("\n".join(lines), "utf-8")
    rows = write(tmp_path / "sw.jsonl", [{"text": "".join(lines)}, {"text": "Fupi."}])
    for path, more in ((text, ""), (rows, ", columns: {prompt: text}")):
        source = f"generate.prompts=[{{file: {path}, language: sw, passages: 400{more}}}]"
        run = tmp_path / path.suffix
        result, kept = generate_hot(run, source, EXAM, "generate.near_duplicate=1")
        assert result.num_asked == 0 and result.num_given == len(kept) > 20
        assert result.num_skipped == ({"short_text": 1} if path is rows else {})
        if path is rows:
            assert "1 of 2 texts have fewer than 100 characters" in result.reading_notes[0]
        for row in kept:
            request, opening = row["prompt"].split("\n\n")
            assert request == "Continue this text."
            assert opening.split()[0] in "".join(lines) and len(row["answer"]) > 100
        told = "".join(row["answer"] for row in kept)
        assert "Wakulima 30 wanasema" in told and kept[0]["language"] == "sw"


def test_texts_that_are_all_too_short_are_told_truly(tmp_path):
    path = write(tmp_path / "short.jsonl", [{"text": "Fupi."}])
    source = f"generate.prompts=[{{file: {path}, language: sw, passages: 400, columns: {{prompt: text}}}}]"
    with pytest.raises(
        DataError, match=r"1 of 1 texts have fewer than 100 characters.*set it lower"
    ):
        generate_hot(tmp_path / "run", source, EXAM)


def test_bad_lines_of_a_text_are_a_share_of_its_lines(tmp_path):
    path = tmp_path / "sw.txt"
    lines = [PROSE.format(n=n).encode() for n in range(300)]
    lines[7] = lines[90] = b"\xff\xfe not UTF-8\n"
    path.write_bytes(b"".join(lines))
    source = f"generate.prompts=[{{file: {path}, language: sw, passages: 2000}}]"
    left = Left()
    learn, _ = split_prompts(load_recipe(QUICKSTART, [*HOT, source, EXAM]), left)
    assert left.by_reason == {"not_utf8": 2} and "2 of 300 rows are left out" in left.notes[0]
    assert 20 < len(learn) < 40


def test_what_would_not_fit_into_a_row_is_told_before_it_is_captured(tmp_path, capsys):
    path = tmp_path / "sw.txt"
    path.write_text("".join(PROSE.format(n=n) for n in range(60)), "utf-8")
    source = f"generate.prompts=[{{file: {path}, language: sw, passages: 1500}}]"
    values = [*HOT, source, EXAM, f"run_folder={tmp_path / 'run'}", "generate.near_duplicate=1"]
    pipeline.run(load_recipe(QUICKSTART, values), stages=["generate"])
    told = capsys.readouterr().err
    assert re.search(
        r"sw.txt: (\d+) of \1 answers that are given have .* more tokens than train", told
    )
    assert "answers are given, and train.hard_weight is 0" in told
    with pytest.raises(DataError, match=r"the shortest has [\d,]+ tokens.*train.max_length is 192"):
        pipeline.run(load_recipe(QUICKSTART, values), stages=["capture", "initialize", "train"])


def test_a_source_that_is_mended_after_an_error_need_not_be_made_anew(asked, tmp_path):
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", [without(row, "answer") for row in rows])
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={tmp_path / 'run'}", given(path)])
    with pytest.raises(DataError, match="no answer"):
        pipeline.run(recipe, stages=["generate"])
    write(path, rows)
    result = pipeline.run(recipe, stages=["generate"]).manifests["generate"].result
    assert result.num_kept == len(rows)


def test_a_column_of_translations_that_no_row_has_is_named(tmp_path):
    path = write(
        tmp_path / "pairs.jsonl", [{"en": f"Price {n}", "sw": f"Bei {n}"} for n in range(9)]
    )
    with pytest.raises(DataError, match=r"no row has the column 'kiswahili'; there are en, sw"):
        generate_hot(tmp_path / "run", given(path, translate="{en: en, sw: kiswahili}"), EXAM)


def test_passages_are_no_exam(tmp_path):
    text = tmp_path / "sw.txt"
    text.write_text("\n".join(PROSE.format(n=n) for n in range(60)), "utf-8")
    source = f"{{file: {text}, language: sw, passages: 400}}"
    with pytest.raises(DataError, match="give prompts to evaluate on"):
        generate_hot(tmp_path / "run", f"generate.prompts=[{source}]", "evaluate.prompts=null")
    prompts = QUICKSTART.parent / "quickstart/prompts.jsonl"
    recipe = load_recipe(
        QUICKSTART,
        [*HOT, f"generate.prompts=[{{file: {prompts}}}, {source}]", "evaluate.prompts=null"],
    )
    _, held_out = split_prompts(recipe)
    assert held_out and not any(prompt.is_passage for prompt in held_out)


def test_rows_without_an_answer_are_told_by_line_and_way_out(asked, tmp_path):
    _, _, rows = asked
    bad = [without(rows[0], "answer"), {**rows[1], "answer": " "}, {**rows[2], "answer": ["a"]}]
    for number, row in enumerate(bad):
        path = write(tmp_path / f"{number}.jsonl", [row])
        with pytest.raises(DataError, match=r"line 1: no answer.*answers: ask"):
            generate_hot(tmp_path / "run", given(path))
    path = write(tmp_path / "ask.jsonl", rows)
    with pytest.raises(DataError, match=r"unknown field 'answer'.*answers: given"):
        generate_hot(tmp_path / "run", f"generate.prompts={path}")
    misnamed = [without(row, "answer") | {"response": row["answer"]} for row in rows]
    path = write(tmp_path / "response.jsonl", misnamed)
    with pytest.raises(DataError, match=r"unknown field 'response' \(is it answer\?\)"):
        generate_hot(tmp_path / "run", given(path))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            ["generate.prompts=[{file: a.jsonl, answers: given, expand: self_instruct, num: 3}]"],
            "expand",
        ),
        (["generate.prompts=[{file: a.txt, answers: given}]"], "one prompt a line and no answers"),
        (["generate.prompts=[{file: a.jsonl, columns: {prompt: p, answer: a}}]"], "set that"),
        (
            ["generate.prompts=[{file: a.txt, passages: 700, verify: false}]"],
            "verify means nothing",
        ),
        (
            ["generate.prompts=[{file: a.csv, passages: 700, translate: {en: a, sw: b}}]"],
            "make two sources",
        ),
        (
            ["generate.prompts=[{file: a.csv, passages: 700, columns: {messages: a}}]"],
            "columns.messages means nothing",
        ),
        (["evaluate.prompts=[{file: a.txt, passages: 700}]"], "nobody learns from these"),
        (
            ["evaluate.safety={sets: [], prompts: [{file: a.jsonl, answers: given}]}"],
            "answers and passages are for generate.prompts",
        ),
        (
            [
                "generate.prompts=[{file: a.jsonl, answers: given}]",
                "teacher.server=http://127.0.0.1:9/v1",
                "capture.signal=top_k",
                "capture.top_k=20",
                "capture.from_server=true",
            ],
            "set capture.from_server to scores",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_the_way_out(values, told):
    with pytest.raises(RecipeError, match=re.escape(told)):
        load_recipe(QUICKSTART, values)


@pytest.mark.parametrize("family", sorted(BY_NAME))
def test_every_family_is_given_what_its_template_writes(family):
    """What is read back of the ids is the answer, and its reasoning, and nothing of the template."""
    tokenizer, recipe = tokenizer_of(BY_NAME[family]), load_recipe(QUICKSTART)
    asked = [{"role": "user", "content": "6 x 7?"}]
    opened = chat.opens_thinking(tokenizer, chat.prompt_ids(tokenizer, asked))

    def read_back(answer):
        completion = as_written(recipe, tokenizer, asked, answer)
        assert completion.token_ids and completion.token_ids[-1] in chat.stop_ids(tokenizer, None)
        marks = chat.answer_marks(tokenizer)
        return chat.split_thinking(completion.text, opened=opened, marks=marks), completion

    (reasoning, answer, is_whole), completion = read_back("Ndiyo, ni 42.")
    assert (reasoning or None, answer, is_whole) == (None, "Ndiyo, ni 42.", True)
    assert completion.finish_reason == "stop"
    read, _ = read_back("<think>\n6 x 7\n</think>\n\n42")
    assert read == ("6 x 7", "42", True)
    assert read_back("<think>\n6 x")[1].finish_reason == "length"


def test_a_mark_is_seen_where_the_student_has_another_tokenizer():
    """Its log row is decoded without control tokens: the answer as it was given tells."""
    recipe = load_recipe(QUICKSTART)
    tokenizer = connect(recipe).tokenizers.teacher
    others = tokenizer_of(BY_NAME["llama"])
    tokenizers = Tokenizers(tokenizer, others, "another")
    answer = "No.<|im_end|>\nMore"
    prompt = Prompt(({"role": "user", "content": "2?"},), "en", answer=answer)
    completion = as_written(recipe, tokenizer, prompt.messages, answer)
    row = {"text": completion.text, "token_ids": completion.token_ids, "finish_reason": "stop"}
    request = Request("key", prompt, tokenizers.prompt_ids(recipe, prompt.messages), 0, 0)
    assert "im_end" not in completion.text
    seen = candidate(recipe, request, row, tokenizers)
    assert "im_end" in str(unlearnable(tokenizers, seen, row, answer))
    assert unlearnable(tokenizers, seen, row) is None


def held_out_of(rows, folder, *values):
    """(recipe, held-out prompts) of given rows."""
    path = write(folder / "rows.jsonl", rows)
    wanted = [*HOT, "evaluate.prompts=null", "evaluate.held_out=0.3", f"run_folder={folder}"]
    recipe = load_recipe(QUICKSTART, [*wanted, given(path), *values])
    return recipe, split_prompts(recipe)[1]


def test_held_out_rows_are_scored_on_their_own_answers_and_nobody_is_asked(
    asked, tmp_path, monkeypatch
):
    _, kept, rows = asked
    recipe, held_out = held_out_of(rows, tmp_path)
    assert held_out and all(prompt.is_given for prompt in held_out)

    def blocks(self, requests, *others):
        assert not requests, "nobody is asked"
        return []

    monkeypatch.setattr(LocalTeacher, "blocks", blocks)
    teacher = connect(recipe, RunFolder.of(recipe))
    with Progress("evaluate", 1, "answers", shown=False) as bar:
        write_answers(teacher, held_out, tmp_path / "answers.jsonl", bar)
    written = [row for _, row in read_jsonl(tmp_path / "answers.jsonl")]
    ids_of = {sample["prompt_id"]: sample["answer_ids"] for sample in kept}
    assert [row["token_ids"] for row in written] == [ids_of[p.id] for p in held_out]
    assert all(row["finish_reason"] == "stop" and row["given"] for row in written)


def test_a_teacher_of_text_alone_has_them_in_the_students_tokens(asked, tmp_path):
    _, _, rows = asked
    server = ["teacher.server=http://127.0.0.1:9/v1", "teacher.server_gives=text"]
    server += ["teacher.model=some/model", "teacher.licence=mit", "capture.signal=none"]
    learns = ["train.soft_weight=0", "train.hard_weight=1", "student.licence=apache-2.0"]
    learns.append(f"student={{method: base, model: {QUICKSTART.parent / 'quickstart/teacher'}}}")
    recipe, held_out = held_out_of(rows, tmp_path, *server, *learns)
    teacher = connect(recipe, RunFolder.of(recipe))
    assert teacher.tokenizers.teacher is None
    with Progress("evaluate", 1, "answers", shown=False) as bar:
        found = answers_to(teacher, held_out, [[]] * len(held_out), RequestOptions.of(recipe), bar)
    tokenizer = teacher.tokenizers.asked
    for prompt, (ids, reason) in zip(held_out, found, strict=True):
        assert reason == "stop" and ids[-1] in teacher.stop_ids()
        assert ids[:-1] == tokenizer(prompt.answer, add_special_tokens=False).input_ids


def test_of_two_answers_to_one_prompt_the_first_is_held_out(asked, tmp_path):
    _, _, rows = asked
    twice = [*rows, *({**row, "answer": f"{row['answer']} So it is."} for row in rows)]
    _, once = held_out_of(rows, tmp_path)
    recipe, held_out = held_out_of(twice, tmp_path)
    assert [p.answer for p in held_out] == [p.answer for p in once]
    ids = {prompt.id for prompt in held_out}
    assert not any(prompt.id in ids for prompt in split_prompts(recipe)[0])


def test_an_exam_of_its_own_may_have_answers(asked, tmp_path, capsys):
    _, _, rows = asked
    marked = {**rows[0], "prompt": "What is on the shelf?", "answer": "Rice.<|im_end|> Oil."}
    path = write(tmp_path / "exam.jsonl", [*rows[:4], marked])
    values = [*HOT, f"run_folder={tmp_path}"]
    exam = f"evaluate.prompts=[{{file: {path}, answers: given}}]"
    recipe = load_recipe(QUICKSTART, [*values, exam])
    _, held_out = split_prompts(recipe)
    assert [p.answer for p in held_out] == [row["answer"] for row in [*rows[:4], marked]]
    assert askable(held_out, connect(recipe)) == held_out[:4]
    assert "1 of 5 held-out prompts, or their given answers, hold" in capsys.readouterr().err


def test_held_out_rows_must_fit_with_the_teachers_own_answer_and_with_theirs(asked, tmp_path):
    _, _, rows = asked
    teacher = connect(load_recipe(QUICKSTART, HOT))
    context = _Reader.teacher(teacher).context
    own = {**rows[0], "prompt": "mahindi " * context}
    theirs = {**rows[0], "prompt": "Say mahindi often.", "answer": "mahindi " * context}
    path = write(tmp_path / "long.jsonl", [own, theirs, rows[1]])
    recipe = load_recipe(QUICKSTART, [*HOT, f"evaluate.prompts=[{{file: {path}, answers: given}}]"])
    fitting, beyond = held_out_within_context(connect(recipe), split_prompts(recipe)[1])
    assert [p.text for p in fitting] == [rows[1]["prompt"]]
    room = context - max(recipe.evaluate.max_new_tokens, recipe.generate.max_new_tokens)
    little = {**rows[0], "prompt": "mahindi " * room, "answer": "Yes."}
    path = write(tmp_path / "little.jsonl", [little, rows[1]])
    _, beyond = held_out_within_context(connect(recipe), split_prompts(recipe)[1])
    assert len(beyond) == 2 and all(reason.startswith("beyond_context") for _, reason in beyond)


def test_generate_tells_of_the_answers_that_are_learnt(asked, tmp_path, capsys):
    _, _, rows = asked
    recipe, held_out = held_out_of(rows, tmp_path)
    pipeline.run(recipe, stages=["generate"])
    num = len(rows) - len(held_out)
    assert f"{num} answers are given" in capsys.readouterr().err


def test_greedily_the_teacher_is_asked_all_the_same_by_the_keys_of_ever(asked, tmp_path):
    _, _, rows = asked
    recipe, held_out = held_out_of(rows, tmp_path)
    plain = write(tmp_path / "plain.jsonl", [without(row, "answer") for row in rows])
    _, same = held_out_of(rows, tmp_path, f"generate.prompts={plain}")
    teacher, options = connect(recipe), RequestOptions.of(recipe)
    ids = [teacher.tokenizers.prompt_ids(recipe, list(p.messages)) for p in held_out]
    keys, as_ever = (
        [request.key for request in _requests(teacher, prompts, ids, options)]
        for prompts in (held_out, same)
    )
    assert keys == as_ever


def test_shares_are_of_what_is_given_and_asked_in_probe_too(asked, tmp_path):
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", rows[:10])
    others = write(tmp_path / "others.jsonl", [without(row, "answer") for row in rows[10:]])
    sources = f"generate.prompts=[{{file: {path}, answers: given, share: 0.5}}, {{file: {others}, share: 0.5}}]"
    recipe = load_recipe(
        QUICKSTART, [*HOT, f"run_folder={tmp_path / 'run'}", sources, "generate.num_prompts=null"]
    )
    (sample,) = PilotSample.of(recipe, RunFolder.of(recipe), ALONE)
    assert len(sample.prompts) == len(sample.given) == min(10, len(rows) - 10)


def test_a_long_given_answer_is_measured_by_itself(asked, tmp_path):
    _, _, rows = asked
    long = {**rows[0], "answer": f"{'1 ' * 3000}\n{rows[0]['answer']}"}
    path = write(tmp_path / "rows.jsonl", [long, *rows[1:]])
    result, kept = generate_hot(tmp_path / "run", given(path), "generate.max_new_tokens=200")
    assert result.dropped_by_reason == {"beyond_context": 1} and len(kept) == len(rows) - 1
    dropped = [row for _, row in read_jsonl(tmp_path / "run/generate/dropped.jsonl")]
    assert "tokens, with the answer that is given are beyond the teacher's" in dropped[0]["reason"]


def test_two_answers_in_a_row_are_refused(asked, tmp_path):
    _, _, rows = asked
    turns = [{"role": "user", "content": rows[0]["prompt"]}]
    turns += [{"role": "assistant", "content": text} for text in ("One.", "Two.")]
    one_turn = [*turns[:2]]
    for row in ({"messages": turns}, {"messages": one_turn, "answer": "Two."}):
        path = write(tmp_path / "rows.jsonl", [row | {"language": "en", "reference": "1"}])
        with pytest.raises(DataError, match="2 answers to one prompt"):
            generate_hot(tmp_path / "run", given(path))


def test_the_way_out_of_an_unknown_column_keeps_the_answers(asked, tmp_path):
    _, _, rows = asked
    path = write(
        tmp_path / "r.jsonl", [without(r, "answer") | {"output": r["answer"]} for r in rows]
    )
    with pytest.raises(DataError) as error:
        generate_hot(tmp_path / "run", given(path))
    found = re.search(r"\{file: \.\.\., (.*)\}\]", str(error.value))
    assert found
    fields = found[1]
    assert fields.startswith("answers: given") and "answer: output" in fields
    _, kept = generate_hot(tmp_path / "run", f"generate.prompts=[{{file: {path}, {fields}}}]")
    assert len(kept) == len(rows)


def test_given_answers_leave_where_they_are_scored_or_judged_alone(asked, tmp_path):
    _, _, rows = asked
    told = [{**rows[0], "answer": "Call +255 712 345 678 or write to asha@example.com."}, *rows[1:]]
    path = write(tmp_path / "rows.jsonl", told)
    server = ["teacher.server=http://10.0.0.7/v1", f"run_folder={tmp_path}", given(path)]
    asked_only = load_recipe(QUICKSTART, [*HOT, *server])
    scored = ["capture.signal=top_k", "capture.top_k=20", "capture.from_server=scores"]
    learn, held_out = split_prompts(asked_only)
    lines = "\n".join(text_of_destinations(asked_only, learn, held_out))
    assert f"({len(held_out)} conversations" in lines and "none found" in lines
    answered = [replace(prompt, answer="To asha@example.com.") for prompt in held_out]
    assert "\n".join(text_of_destinations(asked_only, learn, answered)) == lines
    recipe = load_recipe(QUICKSTART, [*HOT, *server, *scored])
    lines = "\n".join(text_of_destinations(recipe, learn, held_out))
    assert f"({len(learn) + len(held_out)} conversations" in lines
    assert "e-mail addresses" in lines


def test_stopped_while_they_are_written_it_goes_on(asked, tmp_path, monkeypatch):
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", rows)
    calls = iter(range(10**6))

    def stop_at_the_fifth():
        if next(calls) == 5:
            raise Stopped("told to stop")

    with monkeypatch.context() as patched:
        patched.setattr("distill.teachers.given.shutdown.check", stop_at_the_fifth)
        with pytest.raises(Stopped):
            generate_hot(tmp_path / "run", given(path))
    assert len(logged_answers(tmp_path / "run")) == 5
    generate_hot(tmp_path / "run", given(path))
    assert len(logged_answers(tmp_path / "run")) == len(rows)


def test_a_run_on_given_answers_has_the_teachers_own_signal(asked, tmp_path):
    folder, kept, rows = asked
    path = write(tmp_path / "rows.jsonl", rows)
    values = [*SMALL, *HOT, f"run_folder={tmp_path / 'run'}", given(path)]
    recipe = load_recipe(QUICKSTART, values)
    result = pipeline.run(recipe, stages=["generate", "capture", "initialize", "train"])
    assert result.manifests["train"].result.num_samples > 0
    stores = []
    for run in (folder, tmp_path / "run"):
        (signals,) = (run / "capture/signals").iterdir()
        stores.append(SignalStore(signals))
    own, back = stores
    assert sorted(own.keys()) == sorted(back.keys()) and len(kept) == len(back)
    for key in own.keys():  # noqa: SIM118 - a store is no mapping
        assert np.array_equal(own.read(key).ids, back.read(key).ids)


def test_a_trimmed_student_learns_given_answers(asked, tmp_path):
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", rows)
    trimmed = "student.vocabulary={size: 768, max_fertility_loss: null}"
    recipe = load_recipe(
        QUICKSTART, [*SMALL, *HOT, f"run_folder={tmp_path / 'run'}", given(path), trimmed]
    )
    folder = RunFolder.of(recipe)
    pipeline.run(recipe, stages=["generate", "trim", "capture"])
    before = read_samples(folder.stage("generate") / "kept.jsonl")
    after = read_samples(kept_path(recipe, folder))
    assert [s.answer for s in after] == [s.answer for s in before] and len(before) > 10


def test_the_plan_counts_what_is_given_apart(asked, tmp_path):
    _, _, rows = asked
    path = write(tmp_path / "rows.jsonl", rows[:8])
    others = write(tmp_path / "others.jsonl", [without(row, "answer") for row in rows[8:]])
    sources = f"generate.prompts=[{{file: {path}, answers: given}}, {{file: {others}}}]"
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={tmp_path / 'run'}", sources])
    demand = demand_of(recipe)
    assert (demand.num_given, demand.num_answers) == (8, len(rows) - 8)
    assert demand.given > 8 * 4 and "; 8 more are given, about" in str(demand)
    samples = PilotSample.of(recipe, RunFolder.of(recipe), ALONE)
    assert len(samples[0].prompts) == len(rows) - 8
    only = load_recipe(QUICKSTART, [*HOT, f"run_folder={tmp_path / 'run'}", given(path)])
    with pytest.raises(DataError, match="no teacher is asked"):
        PilotSample.of(only, RunFolder.of(only), ALONE)
