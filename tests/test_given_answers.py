"""Answers that the user's rows hold: learnt as if the teacher had written them, who is asked for none."""

import json
import re

import numpy as np
import pytest
from families import BY_NAME, tokenizer_of
from generate_helpers import HOT, generate_hot, logged_answers
from run_helpers import QUICKSTART, SMALL

from distill import chat, pipeline
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE
from distill.core.run_folder import RunFolder
from distill.data.stored_samples import read_samples
from distill.errors import DataError, RecipeError
from distill.pilot.pilot_sample import PilotSample
from distill.planning.demands import demand_of
from distill.recipe import load_recipe
from distill.shaping.trimmed import kept_path
from distill.signals.store import SignalStore
from distill.teachers.given import as_written
from distill.teachers.local import LocalTeacher


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
    return [{name: value for name, value in row.items() if name != "key"} for row in rows]


def test_the_teachers_own_answers_given_back_are_the_same_samples_and_it_is_not_loaded(
    asked, tmp_path, monkeypatch
):
    _, kept, rows = asked
    never_loads(monkeypatch)
    source = given(write(tmp_path / "rows.jsonl", rows))
    result, back = generate_hot(tmp_path / "run", source)
    assert without_keys(back) == without_keys(kept) and len(kept) > 10
    assert {row["key"] for row in back}.isdisjoint(row["key"] for row in kept)
    assert (result.num_asked, result.num_given) == (0, len(rows)) == (0, result.num_prompts)
    assert result.num_prompts_without_answer == 0 and result.prompts_by_tries == {}
    logged = logged_answers(tmp_path / "run")
    assert all(row["given"] for row in logged) and len(logged) == len(rows)
    again, same = generate_hot(tmp_path / "run", source, "seed=7")
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
    path = write(tmp_path / "rows.jsonl", [*rows[:5], *wrong, *mark])
    others = write(tmp_path / "others.jsonl", [without(row, "answer") for row in rows[7:]])
    sources = f"generate.prompts=[{{file: {path}, answers: given}}, {{file: {others}}}]"
    result, kept = generate_hot(tmp_path / "run", sources)
    assert (result.num_given, result.num_asked) == (7, len(rows) - 7)
    assert result.prompts_by_tries == {1: len(rows) - 7}
    dropped = {
        row["answer"]: row["reason"]
        for _, row in read_jsonl(tmp_path / "run/generate/dropped.jsonl")
        if "answer" in row
    }
    assert dropped["It is 123456789."].startswith("wrong_answer"), dropped
    assert any(reason.startswith("format") and "im_end" in reason for reason in dropped.values())
    assert [row["answer"] for row in kept[-5:]] == [row["answer"] for row in rows[:5]]
    assert len(logged_answers(tmp_path / "run")) == len(rows)


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


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


def test_a_pair_of_translations_is_a_question_and_its_answer_each_way(tmp_path, monkeypatch):
    never_loads(monkeypatch)
    pairs = [
        {"en": f"The price is {n} shillings.", "sw": f"Bei ni shilingi {n}."} for n in range(20, 32)
    ]
    path = write(tmp_path / "pairs.jsonl", pairs)
    source = given(path, translate="{en: en, sw: sw}")
    prompts = QUICKSTART.parent / "quickstart/prompts.jsonl"
    result, kept = generate_hot(tmp_path / "run", source, f"evaluate.prompts={prompts}")
    assert result.num_given == 24 and result.num_asked == 0
    told = {(row["language"], row["answer"]) for row in kept}
    assert ("sw", "Bei ni shilingi 21.") in told and ("en", "The price is 21 shillings.") in told


def test_rows_without_an_answer_are_told_by_line_and_way_out(asked, tmp_path):
    _, _, rows = asked
    bad = [without(rows[0], "answer"), {**rows[1], "answer": " "}, {**rows[2], "answer": 7}]
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
        (["evaluate.prompts=[{file: a.jsonl, answers: given}]"], "nobody learns from these"),
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
        assert completion.token_ids[-1] in chat.stop_ids(tokenizer, None)
        marks = chat.answer_marks(tokenizer)
        return chat.split_thinking(completion.text, opened=opened, marks=marks), completion

    (reasoning, answer, is_whole), completion = read_back("Ndiyo, ni 42.")
    assert (reasoning or None, answer, is_whole) == (None, "Ndiyo, ni 42.", True)
    assert completion.finish_reason == "stop"
    read, _ = read_back("<think>\n6 x 7\n</think>\n\n42")
    assert read == ("6 x 7", "42", True)
    assert read_back("<think>\n6 x")[1].finish_reason == "length"


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
