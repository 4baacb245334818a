"""The recipe by which a candidate is made: the run's own, but for the student and a short training."""

from collections.abc import Mapping
from typing import Any

from distill.core.run_folder import Fingerprint
from distill.errors import MissingError
from distill.formats import W16A16
from distill.race.candidates import LeftOut, Values
from distill.race.stages import Folders
from distill.race.stored import Race
from distill.recipe import Recipe

NUM_CHECKED = 16  # samples on which a file is compared with its student
TRIMMED, WHOLE = "trimmed", "whole"


def as_it_began(recipe: Recipe, race: Race) -> Recipe:
    """Return the recipe with the student that it had when the race began."""
    return changed(recipe, student=race.student)


def changed(recipe: Recipe, **sections: Mapping[str, Any] | str | None) -> Recipe:
    """Return the recipe with other values in some sections, or other values of its own.

    None: without that section.

    Raises pydantic's ValidationError where they do not go together.
    """
    values = recipe.model_dump(mode="json")
    for name, section in sections.items():
        if section is None or isinstance(section, str):
            values[name] = section
        else:
            values[name] |= section
    overrides = None if recipe.typed is None else recipe.typed[1:]
    return Recipe.from_values(values, recipe.source, origin=recipe.origin, overrides=overrides)


def recipe_of_candidate(
    recipe: Recipe, folders: Folders, name: str, values: Values, race: Race
) -> Recipe:
    """Return the recipe of a candidate: its student, trained briefly, in one file."""
    return changed(
        recipe,
        name=f"{recipe.name}-{name.replace('+', '-')}"[:200],
        run_folder=str(folders.path / name),
        student={**values, "budget_mb": None, "parameters": None},
        train=_short_training(recipe, race),
        rounds=None,  # which student is the best is told before them
        quantize=_one_file(recipe, race),
    )


def _short_training(recipe: Recipe, race: Race) -> Values:
    """Return what of the section `train` is another one's for each candidate."""
    return {
        "control": False,
        "repeats": 1,
        "max_steps": max(1, round(race.tokens / recipe.train.batch_tokens)),
        "epochs": race.epochs,
        "tracker": "none",
    }


def _one_file(recipe: Recipe, race: Race) -> Values:
    """Return what of the section `quantize` is another one's for each candidate."""
    return {
        "formats": [] if race.format == W16A16.name else [race.format],
        "recover": [],
        "budget_mb": None,
        "num_sequences": min(NUM_CHECKED, recipe.quantize.num_sequences),
    }


def decided_by(recipe: Recipe, race: Race) -> Fingerprint:
    """Return what of the recipe decides how a race ends, beside the student that it had.

    It can be told from the recipe alone: a finished race is compared without its folders.
    """
    sections = {
        "teacher": recipe.teacher,
        "generate": recipe.generate,
        "evaluate": recipe.evaluate,
        "capture": recipe.capture,
        "train": recipe.train.model_copy(update=_short_training(recipe, race)),
        "quantize": recipe.quantize.model_copy(update=_one_file(recipe, race)),
    }
    values: Values = {name: section.identity() for name, section in sections.items()}
    return Fingerprint(values | {"languages": recipe.languages}, seed=recipe.seed)


def left_out_as_missing(name: str, model: str, recipe: Recipe, error: MissingError) -> LeftOut:
    """Return a student of a smaller base that is not here; what the error advises brings that one.

    `fetch` alone brings the models that the recipe names.
    """
    base = f"student.model={model}"
    if recipe.student.revision is not None:
        base += " student.revision=null"
    named = f"`distill fetch RECIPE {base}`"
    reason = str(error).splitlines()[0].replace("`distill fetch RECIPE`", named)
    if named not in reason:
        reason += f"; or run {named} where there is a network"
    return LeftOut(name, reason, missing=model)


def vocabulary_name(values: Values, recipe: Recipe) -> str:
    """Return the name of the folder with a candidate's vocabulary."""
    if values["vocabulary"] is None:
        return WHOLE
    if values["model"] == recipe.student.model:
        return TRIMMED
    return f"{TRIMMED}-{values['model'].rpartition('/')[2]}"
