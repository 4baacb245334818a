"""What the licences of the recipe's models and data allow, and the stop where they forbid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill.catalog import catalog
from distill.catalog.catalog import LEVELS, LicenceVerdict
from distill.catalog.facts import Level
from distill.errors import RecipeError, in_short, shown
from distill.recipe import Recipe

BASE = "the student's base"


def licence_verdict(recipe: Recipe, views: Sequence[Recipe] | None = None) -> LicenceVerdict:
    """Return what the licences of teachers, base, data and judge allow of what the recipe makes.

    The strictest counts; of several, sentences say whose that is. `views`: those of the teachers,
    where it is known whose text alone is learnt. Raises RecipeError for a declared licence that is
    not in the catalogue.
    """
    parts = licence_parts(recipe, views)
    joined = catalog.strictest(list(parts.values()))
    levels = {name: part.level for name, part in parts.items()}
    commercial = {name: part.commercial for name, part in parts.items()}
    told = []
    for what, of_parts in (
        ("training and publishing the student", levels),
        ("commercial use", commercial),
    ):
        if recipe.teachers is not None or len(set(of_parts.values())) > 1:
            told.append(_decided(what, of_parts))
    return replace(joined, sentences=[*joined.sentences, *_not_counted(recipe), *told])


def licence_parts(
    recipe: Recipe, views: Sequence[Recipe] | None = None
) -> dict[str, LicenceVerdict]:
    """Return the verdict on each part that is known or must be: by what it is in the recipe."""
    parts = {view.route or "the teacher": _of_teacher(view) for view in views or recipe.views}
    student = recipe.student
    if student.model is not None:
        parts[BASE] = catalog.base_verdict(
            student.model, declared=student.licence, revision=student.revision
        )
    for source in recipe.generate.prompts:
        if source.licence is not None:
            parts[f"the data {source.name}"] = catalog.data_verdict(source.name, source.licence)
    judge = recipe.generate.judge_model
    if judge is not None and _judge_is_known(recipe):
        parts["the judge"] = catalog.teacher_verdict(
            judge, student.model, declared=recipe.generate.judge_licence, use="outputs"
        )
    return parts


def _of_teacher(view: Recipe) -> LicenceVerdict:
    return catalog.teacher_verdict(
        view.teacher.model,
        view.student.model,
        declared=view.teacher.licence,
        use=view.learns,
        revision=view.teacher.revision,
        section=view.teacher_section,
    )


def _judge_is_known(recipe: Recipe) -> bool:
    judge = recipe.generate.judge_model or ""
    return recipe.generate.judge_licence is not None or catalog.find(judge) is not None


def _not_counted(recipe: Recipe) -> list[str]:
    """Return what is to be said of parts whose licence nobody knows, and which do not count."""
    told = []
    unknown = [s.name for s in recipe.generate.prompts if s.dataset and s.licence is None]
    if unknown:
        told.append(
            f"the licence of the data {', '.join(unknown)} is not declared and does not count here: "
            "read its card and declare it, `licence: KEY` beside `dataset`"
        )
    if recipe.generate.judge_model is not None and not _judge_is_known(recipe):
        told.append(
            f"the judge {shown(recipe.generate.judge_model)} is not in the catalogue and does not "
            "count here: declare generate.judge_licence"
        )
    return told


def _decided(what: str, levels: Mapping[str, Level]) -> str:
    """Return which part decides on this, by the levels of their verdicts."""
    strictest = max(levels.values(), key=LEVELS.index)
    deciding = [name for name, level in levels.items() if level == strictest]
    if len(deciding) == len(levels):
        all_of = "all parts" if _has_more_than_teachers(levels) else "all teachers"
        return f"of {what}: {all_of} ({', '.join(levels)}) come to {strictest}"
    others = ", ".join(f"{n}: {level}" for n, level in levels.items() if n not in deciding)
    verb, is_or_are = ("decides", "it is") if len(deciding) == 1 else ("decide", "they are")
    return (
        f"of {what}: {', '.join(deciding)} {verb}, for {is_or_are} the strictest: {strictest} "
        f"({others})"
    )


def _has_more_than_teachers(levels: Mapping[str, Level]) -> bool:
    return any(name == BASE or name.startswith("the ") for name in levels)


def require_permission(recipe: Recipe, views: Sequence[Recipe] | None = None) -> None:
    """Stop, before anything is paid, what a licence forbids and `licence_accepted` does not accept.

    Raises RecipeError with the part that forbids it, and the ways out.
    """
    if recipe.licence_accepted is not None:
        return
    for name, part in licence_parts(recipe, views).items():
        if part.level == "forbid":
            raise RecipeError(
                f"{recipe.source}: {name}: {in_short(part.sentences[0], 300)}. Take another, or, if "
                'you have a permission, say so: licence_accepted: "WHY" (the model card shows it)'
            )


def require_name(recipe: Recipe, verdict: LicenceVerdict) -> None:
    """Raise RecipeError where the student's name does not begin as a licence wants it to."""
    title = recipe.report.title or recipe.name
    for duty in verdict.owed:
        if duty.kind == "name" and not title.startswith(duty.says):
            raise RecipeError(
                f"{recipe.source}: report.title {shown(title)}: the licence {duty.licence} of "
                f"{duty.model} wants a student's name to begin with {duty.says}: set e.g. "
                f'report.title="{duty.says} {in_short(title, 60)}"'
            )
