"""What decides the teacher's answers: who it is, what it is asked, and how."""

from typing import Any

from distill.core.run_folder import Fingerprint
from distill.data import sources
from distill.recipe import Recipe
from distill.teachers import connect


def teacher_fingerprint(recipe: Recipe) -> Fingerprint:
    """Return what decides what the teacher says about a given text; of several, each by its name."""
    if recipe.teachers is None:
        section = {"teacher": recipe.teacher.identity()}
        return Fingerprint(section, {"teacher": connect(recipe).identity})
    views = {view.route: view for view in recipe.views}
    section = {name: view.teacher.identity() for name, view in views.items()}
    inputs = {f"teachers.{name}": connect(view).identity for name, view in views.items()}
    # who comes first decides which prompts are whose
    return Fingerprint({"teachers": section, "order of teachers": list(views)}, inputs)


def answers_fingerprint(recipe: Recipe) -> Fingerprint:
    """Return what decides the teacher's answers, to the prompts and to those that are held out."""
    teacher = teacher_fingerprint(recipe)
    section = {
        **with_served_names(recipe, teacher.section),
        "languages": recipe.languages,
        "generate": recipe.generate.identity(),
        "evaluate": recipe.evaluate.identity(),
    }
    if recipe.capture.comes_with_answers:
        section["capture"] = recipe.capture.identity()
    if recipe.teachers is not None:  # who has the student's tokens, and who gives text alone
        section["student"] = {"model": recipe.student.model, "signal": recipe.capture.signal}
    return Fingerprint(section, teacher.inputs | prompts_inputs(recipe))


def with_served_names(recipe: Recipe, section: dict[str, Any]) -> dict[str, Any]:
    """Return the section with the teachers' names on servers: another name may be another model."""
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
