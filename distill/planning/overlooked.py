"""What a recipe says that changes nothing, or leaves without anything: told before the work."""

from collections.abc import Sequence
from itertools import chain

from distill.data.samples import Prompt
from distill.recipe import Recipe

OF_RANDOM = (
    "num_layers",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
)
OF_LAYERS = ("layer_share", "layers_by")


def fields_of_other_methods(recipe: Recipe) -> list[str]:
    """Return a warning for each field of the student that its method does not read."""
    student, fields = recipe.student, type(recipe.student).model_fields
    others = {} if student.method == "random" else dict.fromkeys(OF_RANDOM, "random")
    others |= {} if student.method == "layers" else dict.fromkeys(OF_LAYERS, "layers")
    hint = "; layer_share says how many layers stay" if student.method == "layers" else ""
    return [
        f"student.{name} {getattr(student, name)} changes nothing: it belongs to method {method}, and "
        f"method is {student.method}{hint if name == 'num_layers' else ''}"
        for name, method in others.items()
        if name in student.model_fields_set and getattr(student, name) != fields[name].default
    ]


def languages_without_prompts(
    recipe: Recipe, prompts: Sequence[Sequence[Prompt]], *, texts: Sequence[str] = ()
) -> list[str]:
    """Return the languages in which there is neither a prompt nor one of the `texts`.

    None where the teacher writes prompts (expand): it may write some in each.
    """
    if any(source.expand for source in recipe.generate.prompts):
        return []
    found = {prompt.language for prompt in chain(*prompts)}
    return [code for code in recipe.languages if code not in found and code not in texts]


def without_prompts_told(recipe: Recipe, prompts: Sequence[Sequence[Prompt]]) -> list[str]:
    """Return a warning for languages in which nothing is asked."""
    empty = languages_without_prompts(recipe, prompts)
    if not empty:
        return []
    return [
        f"languages: no prompt is in {', '.join(empty)}, so the student learns none of it: add some to "
        "generate.prompts, or take it out"
    ]
