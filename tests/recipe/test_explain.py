"""`distill explain`: what it says of fields and sections."""

import pytest
import yaml
from run_helpers import QUICKSTART

from distill.errors import RecipeError
from distill.recipe import Recipe, explain


def test_every_field_explains_itself():
    for section in yaml.safe_load(QUICKSTART.read_text()):
        assert explain(section)
    assert explain("train.schedule").startswith(
        "train.schedule (default 'cosine'; cosine | linear | constant):"
    )
    with pytest.raises(RecipeError, match="did you mean learning_rate"):
        explain("train.learnrate")
    assert len(explain().splitlines()) == len(Recipe.model_fields)


def test_a_field_of_a_source_is_explained_where_it_stands():
    assert explain("generate.prompts.file").startswith("generate.prompts.file (default None): ")
    assert explain("evaluate.prompts.file").startswith("evaluate.prompts.file (default None): ")
    assert explain("generate.prompts").startswith("generate.prompts (needed): A file of prompts")
    assert (
        explain("student")
        .splitlines()[0]
        .startswith("student.method (needed; base | layers | random): ")
    )
