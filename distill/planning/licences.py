"""What the licences of the recipe's models allow."""

from distill.catalog import catalog
from distill.catalog.catalog import LicenceVerdict
from distill.recipe import Recipe


def licence_verdict(recipe: Recipe) -> LicenceVerdict:
    """Return what the licences of teacher and student allow of what the recipe makes."""
    return catalog.verdict(
        recipe.teacher.model,
        recipe.student.model,
        declared_teacher=recipe.teacher.licence,
        declared_base=recipe.student.licence,
        use=recipe.learns,
    )
