"""What every task has."""

import importlib
from typing import get_args

import pytest

from distill.recipe.sections import Generate
from distill.tasks import reference_problem, version

NAMES = get_args(get_args(Generate.model_fields["task"].annotation)[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_task_of_a_recipe_is_a_module_with_a_version_and_a_grader(name):
    module = importlib.import_module(f"distill.tasks.{name}")
    assert version(name) == module.VERSION > 0 and callable(module.grader)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("final_number", ["42", "so it is #### 1,000", "४२", "3/4"], ["forty-two", "A", "?"]),
        ("market", ["57"], ["fifty-seven"]),
        ("math_answer", ["\\frac{1}{2}", "B", "x = 3", "so it is \\boxed{7}"], ["$"]),
        (
            "python_tests",
            ["assert f(1) == 2", "def check(f):\n    assert f(1)\ncheck(f)", "run_tests()"],
            ["assert f(1) = 2", "42", "f returns two", "# a comment", "\0"],
        ),
    ],
)
def test_a_reference_by_which_no_answer_is_right_is_told_with_the_reason(name, good, bad):
    assert [reference_problem(name, text) for text in good] == [None] * len(good)
    for text in bad:
        problem = reference_problem(name, text)
        assert problem and "\n" not in problem, text


def test_no_task_has_no_version():
    assert version(None) is None
