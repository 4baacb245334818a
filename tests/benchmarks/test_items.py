"""Rows become questions; what is no row of the benchmark is refused with its place."""

import json
import random

import pytest
from benchmark_helpers import FRUIT, FRUIT_ROWS, SUMS, SUMS_ROWS, with_benchmarks, write
from run_helpers import SHARED_DATA

from distill.benchmarks.definition import parsed, read_benchmark, shipped
from distill.benchmarks.items import Questions, read_questions, rows_identity
from distill.errors import DataError

KIND = "rows of benchmarks"
here = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is not there")


def questions(use, language="en") -> Questions:
    recipe = with_benchmarks(use)
    use = recipe.evaluate.benchmarks[0]
    return read_questions(recipe, use, read_benchmark(recipe, use), language)


def test_a_question_is_made_of_a_row_in_the_words_of_its_language(tmp_path):
    use = write(tmp_path, FRUIT, FRUIT_ROWS, "en", "sw")
    first = questions(use, "sw").items[0]
    assert first.context == "Swali: Which one is a fruit?\nJibu:"
    assert first.choices == ("a mango", "a hammer and a nail")
    assert first.question == "Which one is a fruit?"
    assert [item.right for item in questions(use).items] == [0, 1, 0, 1]


def test_a_number_is_kept_as_it_is_written(tmp_path):
    items = questions(write(tmp_path, SUMS, SUMS_ROWS, "en")).items
    assert [item.reference for item in items] == ["2", "4", "6"]
    assert items[0].choices == () and items[0].right is None


def test_examples_with_their_answers_stand_before_each_question(tmp_path):
    use = write(tmp_path, FRUIT, FRUIT_ROWS, "en")
    shots = tmp_path / "shots.jsonl"
    shots.write_text("".join(json.dumps(row) + "\n" for row in FRUIT_ROWS[2:]))
    asked = questions(use | {"shots": {"en": str(shots)}, "few_shot": 2}).items
    assert asked[0].context == (
        "Question: What grows on a tree?\nAnswer: coconuts\n\n"
        "Question: What does a cow give?\nAnswer: milk\n\n"
        "Question: Which one is a fruit?\nAnswer:"
    )
    with pytest.raises(DataError, match="few_shot is 3, and there are 2 rows"):
        questions(use | {"shots": {"en": str(shots)}, "few_shot": 3})
    with pytest.raises(DataError, match="no file of few-shot examples"):
        questions(use | {"few_shot": 1})


def test_some_of_many_rows_are_taken_evenly(tmp_path):
    use = write(tmp_path, SUMS, [{"question": str(n), "answer": n} for n in range(100)], "en")
    assert [item.number for item in questions(use | {"num_examples": 4}).items] == [0, 25, 50, 75]
    assert len(questions(use | {"num_examples": 1000}).items) == 100


def test_columns_of_other_names_and_positions_are_mapped(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("How much is 1 + 1?\t2\nHow much is 2 + 2?\t4\n")
    use = write(tmp_path, SUMS, [], "en") | {
        "files": {"en": str(path)},
        "columns": {"question": "0", "answer": "1"},
    }
    assert [(i.context, i.reference) for i in questions(use).items] == [
        ("How much is 1 + 1?", "2"),
        ("How much is 2 + 2?", "4"),
    ]


def test_what_changes_a_question_changes_its_digest_and_the_rows_identity(tmp_path):
    use = write(tmp_path, FRUIT, FRUIT_ROWS, "en", "sw")
    before = questions(use).digest
    assert questions(use).digest == before != questions(use, "sw").digest
    recipe = with_benchmarks(use)
    identity = rows_identity(recipe, recipe.evaluate.benchmarks[0], parsed(FRUIT, "fruit"))
    changed = [FRUIT_ROWS[0] | {"right": 1}, *FRUIT_ROWS[1:]]
    write(tmp_path, FRUIT, changed, "en", "sw")
    assert questions(use).digest != before
    assert rows_identity(recipe, recipe.evaluate.benchmarks[0], parsed(FRUIT, "fruit")) != identity
    write(tmp_path, FRUIT.replace("Swali", "swali"), FRUIT_ROWS, "en", "sw")
    assert questions(use).digest != before, "the file itself counts"


def test_wrong_rows_are_refused_with_their_place(tmp_path, tally):
    draw = random.Random(7)
    values = [None, "", 7, [], {}, "z" * 5000, "9" * 5000, "{{ 1 }}", float("inf"), "-1", "٣", True]
    for number in range(150):
        row = dict(draw.choice(FRUIT_ROWS))
        key = draw.choice(sorted(row))
        if draw.random() < 0.3:
            del row[key]
        else:
            row[key] = draw.choice(values)
        use = write(tmp_path, FRUIT, [*FRUIT_ROWS, row], "en")
        tally.refuse_or(
            f"{number}: {key}",
            lambda use=use: questions(use).items,
            lambda items: all(i.choices and all(i.choices) and i.right in (0, 1) for i in items),
        )
    for row in ({"right": 2}, {"right": "a pear"}, {"one": ""}, {"text": None}):
        use = write(tmp_path, FRUIT, [*FRUIT_ROWS, FRUIT_ROWS[0] | row], "en")
        message = tally.must_refuse(str(row), lambda use=use: questions(use))
        assert "fruit_en.jsonl, line 5" in message
    row = {"question": "2 + 2?", "choices": "['1', '2', '3', '4']", "answer": "D"}
    path = tmp_path / "afrimmlu.jsonl"
    use = {"name": "afrimmlu", "files": {"sw": str(path)}}
    for text in (
        "['1', '2'",
        "A, B, C",
        "(" * 9999,
        "-" * 9999 + "1",
        "1+" * 9999 + "1",
        "f()",
        "",
    ):
        path.write_text("".join(json.dumps(row | more) + "\n" for more in ({}, {"choices": text})))
        message = tally.must_refuse(f"choices {text[:9]}", lambda: questions(use, "sw"))
        assert "afrimmlu.jsonl, line 2" in message


def test_an_answer_that_is_the_text_of_one_choice_and_the_position_of_another_is_asked_about(
    tmp_path, tally
):
    def right(answer, more="", choices=("1", "2", "3", "4")):
        text = FRUIT.replace("one, two, right", "both, right") + more
        text = text.replace("""choices: ["{{ one }}", "{{ two }}"]""", "choices: both")
        row = {"text": "2 + 2?", "both": list(choices), "right": answer}
        return questions(write(tmp_path, text, [row], "en")).items[0].right

    message = tally.must_refuse("either", lambda: right(2))
    assert "fruit_en.jsonl, line 1" in message and "answer_is: position (or text)" in message
    tally.must_accept("by position", lambda: right(2, "answer_is: position\n"), 2)
    tally.must_accept("by text", lambda: right(2, "answer_is: text\n"), 1)
    tally.must_accept("text alone", lambda: right("4"), 3)
    tally.must_accept("position alone", lambda: right(0), 0)
    tally.must_accept("both are the same", lambda: right(1, choices=("0", "1")), 1)
    assert "the text of none of 4" in tally.must_refuse("", lambda: right(0, "answer_is: text\n"))
    assert "position of none" in tally.must_refuse("", lambda: right(4, "answer_is: position\n"))


def test_a_list_of_choices_holds_texts_and_a_number_is_one(tmp_path, tally):
    listed = FRUIT.replace("one, two, right", "both, right").replace(
        """choices: ["{{ one }}", "{{ two }}"]""", "choices: both"
    )
    rows = [{"text": "Which?", "both": ["a mango", "a nail"], "right": 0}]
    use = write(tmp_path, listed, rows, "en")
    assert questions(use).items[0].choices == ("a mango", "a nail")
    for both in ("a mango", ["a mango"], ["a mango", None], ["", "a nail"], [["a"], ["b"]], {}):
        use = write(tmp_path, listed, [rows[0] | {"both": both}], "en")
        tally.must_refuse(str(both), lambda use=use: questions(use))
    for answer in ("", "seven", None):
        use = write(tmp_path, SUMS, [SUMS_ROWS[0] | {"answer": answer}], "en")
        tally.must_refuse(str(answer)[:9], lambda use=use: questions(use))


def test_a_template_without_end_or_measure_is_refused(tmp_path, tally):
    for template in (
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 999999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ text.__class__.__mro__ }}",
        "{{ nothing }}",
        "{{ text",
        "{{ text | nothing }}",
    ):
        text = FRUIT.replace('answer: "{{ right }}"', f"answer: {json.dumps(template)}")
        use = write(tmp_path, text, FRUIT_ROWS, "en")
        tally.must_refuse(template, lambda use=use: questions(use))


@here
@pytest.mark.parametrize("language", ["eng_Latn", "swh_Latn", "amh_Ethi"])
def test_sib200_is_read_as_it_comes(language):
    code = {"eng_Latn": "en", "swh_Latn": "sw", "amh_Ethi": "am"}[language]
    use = {"name": "sib200", "files": {code: str(SHARED_DATA / "sib200" / f"{language}_test.tsv")}}
    asked = questions(use, code)
    assert len(asked.items) == 204 and {i.right for i in asked.items} == set(range(7))
    assert asked.items[0].choices[asked.items[0].right] == "science/technology"


@here
def test_mgsm_is_read_as_it_comes():
    files = {code: str(SHARED_DATA / "mgsm" / f"mgsm_{code}.tsv") for code in ("sw", "zh")}
    use = {"name": "mgsm", "files": files, "columns": {"question": "0", "answer_number": "1"}}
    asked = questions(use, "sw")
    assert len(asked.items) == 250 and asked.items[2].reference == "70000"
    assert asked.benchmark == shipped("mgsm")
