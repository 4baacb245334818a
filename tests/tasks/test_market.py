import os
import random
import re
import subprocess
import sys

import pytest

from distill.recipe.sections import Generate
from distill.tasks import grader, market, version


@pytest.mark.parametrize("language", market.LANGUAGES)
@pytest.mark.parametrize("kind", market.KINDS)
def test_every_answer_is_right_by_its_own_grade_and_wrong_with_another_number(language, kind):
    rng = random.Random(7)
    for _ in range(50):
        made = market.problem(rng, language, kind)
        text = market.answer(made, rng)
        assert market.grade(text, made.row())
        assert not market.grade(text + "0", made.row())
        assert not market.grade(text.rpartition("\n")[0], made.row()), (
            "the steps alone are no final answer"
        )


def test_every_step_of_every_problem_reckons():
    for made in market.problems(2000, seed=5):
        for left, operation, right, result in made.steps:
            assert {"×": left * right, "+": left + right, "-": left - right, "÷": left / right}[
                operation
            ] == result
            assert result >= 0
        numbers = set(re.findall(r"\d+", made.prompt))
        first = made.steps[0]
        assert str(first[0]) in numbers and str(first[2]) in numbers, (
            "the first step uses the question's numbers"
        )


def test_a_question_has_many_answers():
    made = market.problem(random.Random(0), "sw", "total")
    rng = random.Random(1)
    assert len({market.answer(made, rng) for _ in range(300)}) > 50


def test_examples_repeat_and_are_balanced_and_different():
    rows = market.examples(500, seed=1)
    assert rows == market.examples(500, seed=1) != market.examples(500, seed=2)
    assert len({r["prompt"] for r in rows}) == len({r["id"] for r in rows}) == 500
    assert all(sum(r["language"] == language for r in rows) == 100 for language in market.LANGUAGES)


def test_examples_do_not_depend_on_the_hash_seed():
    code = "from distill.tasks import market; print([r['id'] for r in market.examples(60, seed=9, splits=['eval'])])"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True
    ).stdout
    assert other == f"{[r['id'] for r in market.examples(60, seed=9, splits=['eval'])]}\n"


def test_the_splits_share_no_question_and_no_numbers_but_those_of_divisions_and_of_facts():
    parts = {
        split: market.problems(300, seed=4, splits=[split])
        for split in ("teacher", "prompts", "eval")
    }
    for one, other in [("teacher", "prompts"), ("teacher", "eval"), ("prompts", "eval")]:
        assert not {p.prompt for p in parts[one]} & {p.prompt for p in parts[other]}
        numbers = [
            {(p.kind, *sorted(p.steps)) for p in parts[split] if p.kind != "share"}
            for split in (one, other)
        ]
        assert not numbers[0] & numbers[1], "a sum whose products are swapped is the same sum"
    facts = market.problems(300, seed=4, splits=["facts"])
    assert {p.kind for p in facts} == {"change", "discount"}
    assert not {p.prompt for p in facts} & {p.prompt for part in parts.values() for p in part}
    assert not {tuple(p.steps) for p in facts} & {tuple(p.steps) for p in parts["teacher"]}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Answer: 57", True),
        ("6+51=57.\nAnswer: 57", True),
        ("答案：57", True),
        ("答案：５７", True),
        ("答案:57", True),
        ("Jibu: 57.", True),
        ("उत्तर: ५७", True),
        ("Answer: 58\nAnswer: 57", True),
        ("Answer: 57\nAnswer: 58", False),
        ("57", False),
        ("Answer:", False),
        ("", False),
        ("Answer: 5 7", False),
    ],
)
def test_only_the_final_line_counts(text, right):
    assert market.grade(text, {"reference": "57"}) is right


def test_the_task_is_found_by_its_recipe_name():
    assert (
        grader(Generate.model_validate({"prompts": "p.jsonl", "task": "market"})) is market.grade
        and version("market") == market.VERSION
    )
    assert grader(Generate.model_validate({"prompts": "p.jsonl"})) is None and version(None) is None
