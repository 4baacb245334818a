"""All questions of a recipe: read by `plan`, before a teacher has cost anything, and by `benchmark`."""

from collections.abc import Sequence

from distill.benchmarks.definition import read_benchmark
from distill.benchmarks.items import Questions, languages_of, places_of, read_questions
from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe.sources import Source


def read_all(recipe: Recipe) -> list[Questions]:
    """Return the questions of every benchmark and language, in the recipe's order.

    Raises what reading them raises, and RecipeError for what results could not tell apart.
    """
    found = []
    for use in recipe.evaluate.benchmarks:
        benchmark = read_benchmark(recipe, use)
        for language in languages_of(recipe, use, benchmark):
            found.append(read_questions(recipe, use, benchmark, language))
    if problem := _problem(found):
        raise RecipeError(
            f"{recipe.source}: evaluate.benchmarks: {problem}: remove one, or give it a .yaml file "
            "with another name"
        )
    return found


def all_places(recipe: Recipe) -> list[Source]:
    """Return where the rows of all benchmarks are."""
    found = []
    for use in recipe.evaluate.benchmarks:
        found += places_of(recipe, use, read_benchmark(recipe, use))
    return found


def _problem(found: Sequence[Questions]) -> str | None:
    """Return what results could not tell apart, or None."""
    first: dict[str, Questions] = {}
    languages: set[tuple[str, str]] = set()
    for questions in found:
        name = questions.benchmark.name
        if (name, questions.language) in languages:
            return f"{name}, {questions.language} is there twice"
        languages.add((name, questions.language))
        other = first.setdefault(name, questions)
        longest = other.benchmark.max_new_tokens, questions.benchmark.max_new_tokens
        if longest[0] != longest[1]:
            return f"{name} has max_new_tokens {longest[0]} and {longest[1]}"
        if other.benchmark != questions.benchmark:
            return f"{name} is the name of two benchmarks"
        if other.few_shot != questions.few_shot:
            return f"{name} has few_shot {other.few_shot} and {questions.few_shot}"
    return None
