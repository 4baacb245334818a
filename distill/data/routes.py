"""Which of several teachers answers a prompt: the first of the list whose selectors take it."""

from collections import Counter
from collections.abc import Sequence

from distill.data.samples import Prompt
from distill.errors import DataError, shown
from distill.recipe import Recipe
from distill.recipe.sections import RoutedTeacher
from distill.recipe.sources import Source


def routed(
    recipe: Recipe, prompts: Sequence[Prompt], what: str = "prompts"
) -> dict[str, list[Prompt]]:
    """Return the prompts of each teacher by its name, in the teachers' order and their own.

    `what`: they are called so in the error. All under "" where the recipe has one teacher. Raises
    DataError for prompts that none takes.
    """
    if recipe.teachers is None:
        return {"": list(prompts)}
    divided: dict[str, list[Prompt]] = {teacher.name: [] for teacher in recipe.teachers}
    untaken: list[Prompt] = []
    for prompt in prompts:
        name = route_of(recipe, prompt)
        (untaken if name is None else divided[name]).append(prompt)
    if untaken:
        raise _untaken(recipe, untaken, what)
    return divided


def route_of(recipe: Recipe, prompt: Prompt) -> str | None:
    """Return the name of the teacher that answers this prompt, None if none does."""
    check = check_of(recipe, prompt)
    takers = (t.name for t in recipe.teachers or () if _takes(t, prompt, check))
    return next(takers, None)


def route_of_written(recipe: Recipe, source: Source, language: str) -> str:
    """Return the name of the one of several teachers that writes prompts of a source and language.

    `language`: "" where they come in any (magpie). Raises DataError where none does.
    """
    prompt = Prompt((), language, source=source.name, verify=source.verify)
    name = route_of(recipe, prompt)
    if name is None:
        where = f"in {language}" if language else "in no language of their own (expand: magpie)"
        raise DataError(
            f"{recipe.source}: teachers: none takes the prompts that are to be written {where} (task "
            f"{check_of(recipe, prompt)}, of {shown(source.name)}): add that to one of them, or put a "
            "teacher without selectors last"
        )
    return name


def check_of(recipe: Recipe, prompt: Prompt) -> str:
    """Return what its answers are checked by, as a teacher's `tasks` names it."""
    if prompt.is_translation:
        return "translation"
    task = recipe.generate.task
    return task if task is not None and prompt.verify else "none"


def _takes(teacher: RoutedTeacher, prompt: Prompt, check: str) -> bool:
    if teacher.languages is not None and prompt.language not in teacher.languages:
        return False
    if teacher.sources is not None and prompt.source not in teacher.sources:
        return False
    return teacher.tasks is None or check in teacher.tasks


def _untaken(recipe: Recipe, prompts: Sequence[Prompt], what: str) -> DataError:
    """Return the error that names what no teacher takes: the commonest kinds, three at most."""
    kinds = Counter((p.language, check_of(recipe, p), p.source) for p in prompts)
    named = [
        f"{num:,} in {language} (task {check}, of {shown(source)})"
        for (language, check, source), num in kinds.most_common(3)
    ]
    names = ", ".join(teacher.name for teacher in recipe.teachers or ())
    return DataError(
        f"{recipe.source}: teachers: no teacher takes {len(prompts):,} of the {what}: "
        f"{'; '.join(named)}: add those to the languages, sources or tasks of one ({names}), or put "
        "a teacher without selectors last"
    )
