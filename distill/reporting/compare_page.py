"""The comparison of runs as an HTML page of one file."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from distill.core.files import write_atomic
from distill.errors import RecipeError
from distill.reporting import charts
from distill.reporting.compare import Change, Comparison, change_cells
from distill.reporting.plots import change_axis, change_row
from distill.reporting.rendering import render_html
from distill.reporting.svg import span

GENERATOR = '<meta name="generator" content="distill compare">'  # tells our pages from others


def comparison_page(comparison: Comparison) -> str:
    """Return the page. What a recipe or a model says is escaped."""
    pictures = _pictures(comparison.changes)
    return render_html(
        "compare.html.jinja",
        generator=Markup(GENERATOR),
        labels=comparison.labels,
        figures=comparison.figures,
        recipe=comparison.recipe,
        changes=[change_cells(change) for change in comparison.changes],
        # the only trusted markup: SVG of our own making (svg.py), which escapes its texts
        pictures={caption: Markup(svg) for caption, svg in pictures.items()},
        why_not=comparison.why_not,
    )


def write_page(path: Path, html: str) -> None:
    """Write the page. Raise RecipeError where a file is there that is no such page."""
    if path.is_dir():
        raise RecipeError(f"{path}: a folder; name a file with --page, e.g. --page compare.html")
    if path.exists() and GENERATOR.encode() not in path.read_bytes()[:2000]:
        raise RecipeError(
            f"{path}: there already, and not made by `distill compare`; name another with --page"
        )
    write_atomic(path, html)


def _pictures(changes: Sequence[Change]) -> dict[str, str]:
    """Return a picture for each measure and language, those of one measure on the same axis."""
    pictures = {}
    for measure in dict.fromkeys(change.measure for change in changes):
        mine = [change for change in changes if change.measure == measure]
        rows = [
            (
                change.language,
                change_row(f"{change.run}: {change.model}", change.model, change.found, measure),
            )
            for change in mine
        ]
        ends = span([0.0, *(end for _, row in rows for end in row.ends)])
        for language in dict.fromkeys(language for language, _ in rows):
            drawn = [row for other, row in rows if other == language]
            caption = f"{measure.short}: {language or 'all languages'}"
            pictures[caption] = charts.dots(drawn, change_axis(measure), ends=ends, with_zero=True)
    return pictures
