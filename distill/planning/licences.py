"""What the licences of the recipe's models allow."""

from collections.abc import Sequence
from dataclasses import replace

from distill.catalog import catalog
from distill.catalog.catalog import LEVELS, LicenceVerdict
from distill.recipe import Recipe


def licence_verdict(recipe: Recipe, views: Sequence[Recipe] | None = None) -> LicenceVerdict:
    """Return what the licences of teacher and student allow of what the recipe makes.

    Of several teachers the strictest counts, and a sentence says whose that is. `views`: theirs,
    where it is known whose text alone is learnt.
    """
    verdicts = {view.route: _of_view(view) for view in views or recipe.views}
    if recipe.teachers is None:
        return verdicts[""]
    joined = catalog.strictest(list(verdicts.values()))
    told = [
        _decided("training and publishing the student", {n: v.level for n, v in verdicts.items()}),
        _decided("commercial use", {n: v.commercial for n, v in verdicts.items()}),
    ]
    return replace(joined, sentences=[*joined.sentences, *told])


def _of_view(view: Recipe) -> LicenceVerdict:
    return catalog.verdict(
        view.teacher.model,
        view.student.model,
        declared_teacher=view.teacher.licence,
        declared_base=view.student.licence,
        use=view.learns,
    )


def _decided(what: str, levels: dict[str, str]) -> str:
    """Return which of several teachers decides on this, by the levels of their verdicts."""
    strictest = max(levels.values(), key=list(LEVELS).index)
    deciding = [name for name, level in levels.items() if level == strictest]
    if len(deciding) == len(levels):
        return f"of {what}: all teachers ({', '.join(levels)}) come to {strictest}"
    others = ", ".join(f"{n}: {level}" for n, level in levels.items() if n not in deciding)
    return (
        f"of {what}: {', '.join(deciding)} decides, for it is the strictest: {strictest} ({others})"
    )
