"""distill: from a large open teacher to a small, quantized, verified student, on the machine you have.

from distill import load_recipe, run
result = run(load_recipe("recipes/quickstart.yaml"))
result          # in a notebook: the report's table
"""

from distill.pipeline import Result, run
from distill.recipe import Recipe, load_recipe

__all__ = ["Recipe", "Result", "load_recipe", "run"]
__version__ = "0.1.0"
