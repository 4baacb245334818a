"""What the licences of the recipe's models and data allow, and the stop where they forbid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from distill.catalog import catalog, facts
from distill.catalog.catalog import LEVELS, LicenceVerdict
from distill.catalog.facts import Level
from distill.errors import RecipeError, in_short
from distill.recipe import Recipe

TEACHER = "the teacher"
BASE = "the student's base"


def licence_verdict(recipe: Recipe, views: Sequence[Recipe] | None = None) -> LicenceVerdict:
    """Return what the licences of teachers, base, data and judge allow of what the recipe makes.

    The strictest counts; of several that differ, sentences say whose that is. `views`: those of the
    teachers, where it is known whose text alone is learnt. Raises RecipeError for a declared
    licence that is not in the catalogue.
    """
    parts = licence_parts(recipe, views)
    joined = catalog.strictest(list(parts.values()))
    levels: dict[str, Level] = {name: part.level for name, part in parts.items()}
    commercial: dict[str, Level] = {name: part.commercial for name, part in parts.items()}
    told = []
    for what, of_parts in (
        ("training and publishing the student", levels),
        ("commercial use", commercial),
    ):
        if recipe.teachers is not None or len(set(of_parts.values())) > 1:
            told.append(_decided(what, of_parts))
    told.append(f"as licences were known on {facts.licences_file().as_of}")
    return replace(joined, sentences=[*joined.sentences, *told])


def licence_parts(
    recipe: Recipe, views: Sequence[Recipe] | None = None
) -> dict[str, LicenceVerdict]:
    """Return the verdict on each part, by what it is in the recipe.

    Prompts in a file of one's own count where the recipe declares their licence; a data set that
    others made counts always, as undeclared where nothing is declared.
    """
    _require_known_keys(recipe)
    parts = {view.route or TEACHER: _of_teacher(view) for view in views or recipe.views}
    student = recipe.student
    if student.model is not None:
        parts[BASE] = catalog.base_verdict(
            student.model, declared=student.licence, revision=student.revision
        )
    for source in recipe.generate.prompts:
        if source.dataset or source.licence is not None:
            part = f"the data {source.name}"
            others = [parts[part]] if part in parts else []  # the same data, declared otherwise
            parts[part] = catalog.strictest(
                [*others, catalog.data_verdict(source.name, source.licence)]
            )
    if recipe.generate.judge_model is not None:
        parts["the judge"] = catalog.teacher_verdict(
            recipe.generate.judge_model,
            student.model,
            declared=recipe.generate.judge_licence,
            use="outputs",
            where="generate.judge_licence",
        )
    return parts


def _require_known_keys(recipe: Recipe) -> None:
    """Raise RecipeError, with the field, for a declared licence that is not in the catalogue."""
    models = [(f"{view.teacher_section}.licence", view.teacher.licence) for view in recipe.views]
    models.append(("student.licence", recipe.student.licence))
    models.append(("generate.judge_licence", recipe.generate.judge_licence))
    data = [(f"generate.prompts: {one.name}", one.licence) for one in recipe.generate.prompts]
    for declared, look_up in ((models, catalog.licence), (data, catalog.data_licence)):
        for where, key in declared:
            if key is None:
                continue
            try:
                look_up(key)
            except RecipeError as error:
                raise RecipeError(f"{recipe.source}: {where}: {error}") from None


def _of_teacher(view: Recipe) -> LicenceVerdict:
    return catalog.teacher_verdict(
        view.teacher.model,
        view.student.model,
        declared=view.teacher.licence,
        use=view.learns,
        revision=view.teacher.revision,
        where=f"{view.teacher_section}.licence",
    )


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


def require_permission(recipe: Recipe) -> None:
    """Stop, before anything is paid, what a licence forbids and `licence_accepted` does not accept.

    Raises RecipeError with the part that forbids it, and the ways out.
    """
    if recipe.licence_accepted is not None:
        return
    for name, part in licence_parts(recipe).items():
        if part.level == "forbid":
            raise RecipeError(
                f"{recipe.source}: {name}: {in_short(part.sentences[0], 300)}. Take another, or, if "
                'you have a permission, say so: licence_accepted: "WHY" (the model card shows it)'
            )
