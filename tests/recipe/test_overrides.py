"""Overrides on the command line."""

import pytest
from run_helpers import QUICKSTART

from distill.errors import RecipeError
from distill.recipe import load_recipe


def test_overrides_are_yaml_and_paths_in_them_belong_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(
        QUICKSTART,
        [
            "train.learning_rate=1e-4",
            "languages=[en, zh]",
            "run_folder=here",
            "generate.prompts=p.jsonl",
        ],
    )
    assert recipe.train.learning_rate == 1e-4
    assert recipe.languages == ["en", "zh"]
    assert recipe.run_folder == str(tmp_path / "here")
    assert recipe.path(recipe.generate.prompts[0].file) == tmp_path / "p.jsonl"
    with pytest.raises(RecipeError, match=r"write dotted\.path=value"):
        load_recipe(QUICKSTART, ["train.epochs"])
