"""Texts of a language that are read for their tokens alone: student.vocabulary.texts."""

from collections.abc import Iterator

from distill.core.jsonl import BadRow, Row
from distill.data import sources
from distill.data.bad_rows import Left, made_rows, refuse_half_characters
from distill.errors import DataError, shown
from distill.recipe import Recipe
from distill.recipe.sections import CountedText

FIELD = "student.vocabulary.texts"


def counted_texts(recipe: Recipe, text: CountedText, left: Left) -> Iterator[str]:
    """Yield the texts of one of the recipe's sources; of a .txt its lines.

    Rows without one are left out as prompts' are, and counted in `left`.
    """

    def make(row: Row, where: str) -> str:
        value = row.get("prompt")
        if value is None:
            return ""
        if not isinstance(value, str):
            raise BadRow("no_text", f"{where}: {text.column}: {shown(value)} is no text")
        refuse_half_characters(where, value)
        return value

    return (made for made in made_rows(recipe, FIELD, text.source, make, left) if made)


def require_text(recipe: Recipe, text: CountedText) -> None:
    """Raise what reading one of the recipe's sources raises, by its first text alone.

    MissingError for a file or data set that is not there, DataError for one that cannot be read or
    has no text.
    """
    if next(counted_texts(recipe, text, Left()), None) is None:
        raise DataError(
            f"{recipe.source}: {FIELD}: {text.source.name}: no text in it: name another file, data "
            "set or column"
        )


def texts_inputs(recipe: Recipe) -> dict[str, str]:
    """Return what changes with the content of the recipe's texts, by its field; {} without any."""
    vocabulary = recipe.student.vocabulary
    if vocabulary is None or not vocabulary.texts:
        return {}
    return {FIELD: sources.identity(recipe, FIELD, [text.source for text in vocabulary.texts])}
