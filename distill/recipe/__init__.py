"""The recipe: one YAML file, one strict schema, every field described where it stands."""

from distill.recipe.commands import advising, in_full
from distill.recipe.explain import explain
from distill.recipe.load import load_recipe, sealed_yaml, to_yaml
from distill.recipe.recipe import Recipe

__all__ = [
    "Recipe",
    "advising",
    "explain",
    "in_full",
    "load_recipe",
    "sealed_yaml",
    "to_yaml",
]
