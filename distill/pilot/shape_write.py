"""Write the winner of a race into the recipe's section `student`, or say what to write there."""

import os
import stat
from pathlib import Path

import yaml

from distill.core.files import write_atomic
from distill.pilot.shape_candidates import Values, decided
from distill.pilot.shape_report import Outcome
from distill.recipe import Recipe
from distill.recipe.load import SEAL
from distill.recipe.section_edit import NotEdited, edit_section
from distill.recipe.sections import Student
from distill.recipe.strict_yaml import StrictDumper


def write(recipe: Recipe, outcome: Outcome) -> str:
    """Write the winner's values into the recipe's file, and return what is to be told of it.

    Comments and all other sections stay. Where the file cannot be changed safely nothing is, and
    the section is returned to be copied. Raises DataError where the disk forbids it.
    """
    winner = outcome.winner
    if winner is None:
        return f"{recipe.source}: nothing is written: no candidate fits"
    values = winner.values
    try:
        text = _edited(recipe.source, values)
    except NotEdited as error:
        return (
            f"{recipe.source}: not written ({error}); write this there yourself:\n"
            f"{section_text(values)}"
        )
    note = _undone(recipe, values)
    if text is None:
        return f"{recipe.source}: student is {winner.name} already{note}"
    mode = stat.S_IMODE(recipe.source.stat().st_mode)
    write_atomic(recipe.source, text)
    os.chmod(recipe.source, mode)
    return f"{recipe.source}: student is {winner.name} now{note}"


def _undone(recipe: Recipe, values: Values) -> str:
    """Return that overrides of the command line stand against what the file says, where some do."""
    overrides = (recipe.typed or ())[1:]
    against = [o for o in overrides if o.partition("=")[0] in {f"student.{n}" for n in values}]
    if not against or decided(recipe.student) == values:
        return ""
    return f"; without {' '.join(against)} on the command line, which would undo it"


def _edited(path: Path, values: Values) -> bytes | None:
    """Return the file's bytes with the values, None where it has them. Raises NotEdited."""
    data = path.read_bytes()
    if SEAL.encode() in data:
        raise NotEdited("it is a run folder's own recipe, with a checksum")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotEdited("it is not UTF-8") from None
    after = edit_section(text, "student", values, _defaults()).encode("utf-8")
    return None if after == data else after


def _defaults() -> Values:
    fields = Student.model_fields
    return {name: info.default for name, info in fields.items() if not info.is_required()}


def section_text(values: Values) -> str:
    """Return the section as YAML, without what is its default."""
    defaults = _defaults()
    named = {n: v for n, v in values.items() if n not in defaults or v != defaults[n]}
    return yaml.dump({"student": named}, Dumper=StrictDumper, sort_keys=False, allow_unicode=True)
