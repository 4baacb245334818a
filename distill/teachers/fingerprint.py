"""What decides the teacher's answers: who it is, what it is asked, and how."""

from distill.core.run_folder import Fingerprint
from distill.data import sources
from distill.recipe import Recipe
from distill.teachers import connect


def teacher_fingerprint(recipe: Recipe) -> Fingerprint:
    """Return what decides what the teacher says about a given text."""
    section = {"teacher": recipe.teacher.identity()}
    return Fingerprint(section, {"teacher": connect(recipe).identity})


def answers_fingerprint(recipe: Recipe) -> Fingerprint:
    """Return what decides the teacher's answers, to the prompts and to those that are held out."""
    teacher = teacher_fingerprint(recipe)
    # under another name on its server it is perhaps another model
    named = teacher.section["teacher"] | {"server_model": recipe.teacher.served_name}
    section = {
        "teacher": named,
        "languages": recipe.languages,
        "generate": recipe.generate.identity(),
        "evaluate": recipe.evaluate.identity(),
    }
    if recipe.capture.from_server:  # the log-probs come with the answers
        section["capture"] = recipe.capture.identity()
    return Fingerprint(section, teacher.inputs | prompts_inputs(recipe))


def prompts_inputs(recipe: Recipe) -> dict[str, str]:
    """Return the identity of the prompts, and of those to evaluate on where they have sources."""
    prompts = recipe.generate.prompts
    inputs = {"generate.prompts": sources.identity(recipe, "generate.prompts", prompts)}
    if held_out := recipe.evaluate.prompts:
        inputs["evaluate.prompts"] = sources.identity(recipe, "evaluate.prompts", held_out)
    return inputs
