"""References that are numbers: read from files as they were typed, and compared as numbers."""

import json
import math
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import QUICKSTART

from distill.core.jsonl import write_jsonl
from distill.data.prompts import read_prompts
from distill.data.samples import Prompt, Sample
from distill.data.stored_samples import read_samples
from distill.errors import DataError
from distill.recipe import load_recipe
from distill.tasks import final_number, market, math_answer

KIND = "references"
SEED = 14
NUM_EACH = 150
TASKS = {
    "final_number": (final_number.grade, "so that is {}"),
    "math_answer": (math_answer.grade, "Answer: {}"),
    "market": (market.grade, "Answer: {}"),
}


def read(folder, line):
    """Return the reference of a file with one line."""
    (folder / "p.jsonl").write_text(line + "\n", encoding="utf-8")
    recipe = load_recipe(QUICKSTART, ["languages=[en]", f"generate.prompts={folder / 'p.jsonl'}"])
    prompts = recipe.generate.prompts
    (prompt,) = read_prompts(recipe, "generate.prompts", prompts, needs_reference=True)
    return prompt.reference


def line_of(reference):
    return f'{{"prompt": "How much?", "language": "en", "reference": {reference}}}'


@pytest.mark.parametrize(
    ("typed", "right", "wrong"),
    [
        (
            "0.00001",
            ("0.00001", "1e-05", "1E-5", "1 × 10^-5", "1×10⁻⁵"),
            ("5", "-5", "1", "0.0001"),
        ),
        (
            "1e16",
            ("10000000000000000", "10,000,000,000,000,000", "1e16", "1e+16"),
            ("16", "1", "10"),
        ),
        ("1.125", ("1.125", "1.1250", "9/8"), ("1125", "1,125", "1.126")),
        ("0.1", ("0.1", "0.10", "1e-1"), ("1", "0.2")),
        ("5.0", ("5", "5.0"), ("50", "0.5")),
        ("-2.5e-7", ("-0.00000025", "-2.5e-7"), ("7", "-7", "0.00000025")),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_a_typed_number_is_compared_as_a_number(tmp_path, task, typed, right, wrong):
    grade, sentence = TASKS[task]
    row = {"reference": read(tmp_path, line_of(typed)), "language": "en"}
    for text in right:
        if "/" in text and task != "math_answer":
            continue
        assert grade(sentence.format(text), row), text
    for text in wrong:
        assert not grade(sentence.format(text), row), text


@pytest.mark.parametrize("task", TASKS)
def test_thousands_marks_belong_to_text_alone(task):
    grade, sentence = TASKS[task]
    typed = {"reference": 1.125, "language": "id"}  # where 1,125 is one and an eighth, too
    assert grade(sentence.format("1,125"), typed)
    assert not grade(sentence.format("1125"), typed)
    assert grade(sentence.format("1,125"), {"reference": "1125", "language": "en"})
    assert grade(sentence.format("1,125"), {"reference": 1125, "language": "en"})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("reference", ["1e-05", "1E-5", "1.0e-5", "0.00001"])
def test_exponents_are_read_in_text_too(task, reference):
    grade, sentence = TASKS[task]
    row = {"reference": reference, "language": "en"}
    assert grade(sentence.format("0.00001"), row) and grade(sentence.format("1e-5"), row)
    assert not grade(sentence.format("5"), row) and not grade(sentence.format("-5"), row)


@pytest.mark.parametrize("task", TASKS)
def test_numbers_of_five_thousand_digits_are_compared_like_others(task):
    grade, sentence = TASKS[task]
    digits = "7" * 5000
    for reference in (digits, "1." + digits):
        row = {"reference": reference, "language": "en"}
        assert grade(sentence.format(reference), row)
        assert not grade(sentence.format(reference[:-1] + "8"), row)
    for text in ("9" * 200_000, "1e999999999", "1e-999999999", "七" * 5000, "1/" + digits, "5"):
        assert not grade(sentence.format(text), {"reference": "7", "language": "en"})
        assert not grade(sentence.format("7"), {"reference": text, "language": "en"})


@pytest.mark.parametrize("typed", ["NaN", "Infinity", "-Infinity", "1e999", "true", "[1]", "{}"])
def test_what_is_no_number_is_refused_by_file_and_line(tmp_path, typed):
    with pytest.raises(DataError, match=r"p\.jsonl, line 1: reference") as caught:
        read(tmp_path, line_of(typed))
    assert "verify: false" in str(caught.value)


def test_a_number_stays_one_from_the_file_to_the_samples(tmp_path):
    reference = read(tmp_path, line_of("1.125"))
    prompt = Prompt(({"role": "user", "content": "q"},), "en", reference)
    sample = Sample("k", prompt.id, "q", "en", prompt.row()["reference"], "a", [1], [2])
    write_jsonl(tmp_path / "kept.jsonl", [sample.row()])
    assert read_samples(tmp_path / "kept.jsonl") == [sample]
    assert sample.reference == 1.125 and isinstance(sample.reference, float)


def test_whole_numbers_and_text_stay_the_text_that_they_were(tmp_path):
    for typed, text in (("57", "57"), ("-3", "-3"), ('"1,000"', "1,000"), ('"x = 3"', "x = 3")):
        assert read(tmp_path, line_of(typed)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_equals_itself_however_it_is_written(value):
    plainly = format(Decimal(repr(value)), "f")
    for grade, sentence in TASKS.values():
        row = {"reference": value, "language": "en"}
        for written in (repr(value), f"{value:.17e}", plainly):
            assert grade(sentence.format(written), row), written


def test_no_other_number_is_right(tally):
    """Try numbers of all sizes against every task, with answers that are right and nearly right."""
    rng = random.Random(SEED)
    for number in range(NUM_EACH):
        value = _typed(rng)
        typed = json.loads(json.dumps(value))
        others = {value * 10, -value, value + math.ulp(value), _digits_of_exponent(value)}
        for name, (grade, sentence) in TASKS.items():
            row = {"reference": typed, "language": "en"}
            written = sentence.format(rng.choice([repr(value), f"{value:.20e}"]))
            label = f"{name} {number}: {value!r}"
            tally.must_accept(label, lambda w=written, g=grade, r=row: g(w, r), True)
            for other in others - {value}:
                text = sentence.format(repr(other))
                tally.must_accept(label, lambda w=text, g=grade, r=row: g(w, r), False)


def _typed(rng):
    value = rng.choice([1, -1]) * rng.random() * 10.0 ** rng.randint(-300, 300)
    return rng.choice([value, round(value, 3), float(f"{value:.3g}")]) or 1.125


def _digits_of_exponent(value):
    """Return what was once read of 1e-05: 5."""
    return float(repr(value).rpartition("e")[2].lstrip("+-") or 0)


@pytest.mark.parametrize("reference", ['""', '"  "', '"\\u200b"', '"seven"', '"N/A"'])
def test_a_reference_that_grades_everything_wrong_is_refused_by_its_line(tmp_path, reference):
    with pytest.raises(DataError, match=r"p\.jsonl, line 1: reference '.*; set verify: false"):
        read(tmp_path, line_of(reference))


def test_an_empty_reference_is_none_where_no_task_needs_it(tmp_path):
    (tmp_path / "p.jsonl").write_text(line_of('""') + "\n" + line_of('"seven"') + "\n")
    recipe = load_recipe(QUICKSTART, ["languages=[en]", f"generate.prompts={tmp_path / 'p.jsonl'}"])
    prompts = recipe.generate.prompts
    read_here = read_prompts(recipe, "generate.prompts", prompts, needs_reference=False)
    assert [prompt.reference for prompt in read_here] == [None, "seven"]
