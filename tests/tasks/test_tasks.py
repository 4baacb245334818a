"""What every task has."""

import importlib
from typing import get_args

import pytest

from distill.recipe.sections import Generate
from distill.tasks import version

NAMES = get_args(get_args(Generate.model_fields["task"].annotation)[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_task_of_a_recipe_is_a_module_with_a_version_and_a_grader(name):
    module = importlib.import_module(f"distill.tasks.{name}")
    assert version(name) == module.VERSION > 0 and callable(module.grader)


def test_no_task_has_no_version():
    assert version(None) is None
