"""What tests of the recipe share: the quickstart's recipe, and what is said of overrides that spoil it."""

import pytest
from run_helpers import QUICKSTART

from distill.errors import RecipeError
from distill.recipe import load_recipe


def problem(*overrides: str) -> str:
    """Return the error message of the quickstart's recipe with these overrides."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, overrides)
    return str(caught.value)
