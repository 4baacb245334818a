"""The recipe: one YAML file, one strict schema, every field described where it stands."""

from distill.recipe.explain import explain
from distill.recipe.load import load_recipe, to_yaml
from distill.recipe.recipe import STAGES, Recipe

__all__ = ["STAGES", "Recipe", "explain", "load_recipe", "to_yaml"]
