"""What decides the teacher's answers: who it is, what it is asked, and how."""

from typing import Any

from distill.data import sources
from distill.recipe import Recipe
from distill.teachers import connect


def teacher_identity(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides what the teacher says about a given text.

    Of several teachers: each by its name.
    """
    if recipe.teachers is None:
        return {"teacher": recipe.teacher.identity()}
    section = {view.route: view.teacher.identity() for view in recipe.views}
    # who comes first decides which prompts are whose
    return {"teachers": section, "order of teachers": list(section)}


def teacher_inputs(recipe: Recipe) -> dict[str, str]:
    """Return who the teacher is, or each of several."""
    if recipe.teachers is None:
        return {"teacher": connect(recipe).identity}
    return {f"teachers.{view.route}": connect(view).identity for view in recipe.views}


def answers_section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the teacher's answers, to the prompts and to those held out."""
    section = {
        **served_identity(recipe),
        "languages": recipe.languages,
        "generate": recipe.generate.identity(),
        "evaluate": recipe.evaluate.identity(),
    }
    if recipe.capture.comes_with_answers:
        section["capture"] = recipe.capture.identity()
    if recipe.teachers is not None:  # who has the student's tokens, and who gives text alone
        section["student"] = {"model": recipe.student.model, "signal": recipe.capture.signal}
    return section


def answers_inputs(recipe: Recipe) -> dict[str, str]:
    """Return who the teacher is and which prompts it answers."""
    return teacher_inputs(recipe) | prompts_inputs(recipe)


def served_identity(recipe: Recipe) -> dict[str, Any]:
    """Return `teacher_identity` with names on servers: another name may be another model."""
    section = teacher_identity(recipe)
    if recipe.teachers is None:
        return {"teacher": section["teacher"] | {"server_model": recipe.teacher.served_name}}
    of_each = dict(section["teachers"])
    for teacher in recipe.teachers:
        of_each[teacher.name] = of_each[teacher.name] | {"server_model": teacher.served_name}
    return section | {"teachers": of_each}


def prompts_inputs(recipe: Recipe) -> dict[str, str]:
    """Return the identity of the prompts, and of those to evaluate on where they have sources."""
    prompts = recipe.generate.prompts
    inputs = {"generate.prompts": sources.identity(recipe, "generate.prompts", prompts)}
    if held_out := recipe.evaluate.prompts:
        inputs["evaluate.prompts"] = sources.identity(recipe, "evaluate.prompts", held_out)
    return inputs
