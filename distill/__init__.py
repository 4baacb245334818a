"""distill: from a large open teacher to a small, quantized, verified student, on the machine you have.

from distill import load_recipe, run
result = run(load_recipe("recipes/quickstart.yaml"))
result          # in a notebook: the report's table
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.pipeline import Result, run
    from distill.recipe import Recipe, load_recipe

__all__ = ["Recipe", "Result", "load_recipe", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only then: a process that holds one file of a model needs neither.

    Raises AttributeError for any other name.
    """
    if name in ("Result", "run"):
        from distill import pipeline

        return getattr(pipeline, name)
    if name in ("Recipe", "load_recipe"):
        from distill import recipe

        return getattr(recipe, name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")
