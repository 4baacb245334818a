"""The pictures of what changed in refusals and bias, from teacher to control to student to file."""

from collections.abc import Sequence

from distill.core.safety_results import ALL, Change
from distill.reporting import charts
from distill.reporting.charts import Row
from distill.reporting.measures import POINTS
from distill.reporting.plots import Pictures, change_row
from distill.reporting.safety import CHANGES
from distill.reporting.svg import span, standalone

NOTE = (
    "Lines: 95 % intervals; one that crosses zero shows no clear difference. The refusals of harmful "
    "requests should not fall, and the others should not rise."
)
BY_LANGUAGE = "Changes in refusals of harmful requests, by language"


def safety_pictures(changes: Sequence[Change]) -> list[Pictures]:
    """Return the page's: each measure over all languages, then one of them in each language."""
    groups = [Pictures("What changed in refusals and bias", _by_measure(changes), NOTE)]
    harmful = [change for change in changes if change.measure == "harmful"]
    languages = [code for code in _languages(harmful) if code != ALL]
    if len(languages) > 1:
        rows = {code: _rows(harmful, code) for code in languages}
        groups.append(Pictures(BY_LANGUAGE, _on_one_axis(rows)))
    return [group for group in groups if group.pictures]


def card_picture(changes: Sequence[Change]) -> str:
    """Return the file beside the model card: each measure over all languages."""
    return standalone(_by_measure(changes))


def _by_measure(changes: Sequence[Change]) -> dict[str, str]:
    """Draw every measure that was taken over all languages; the axis is the same."""
    by_measure = {
        told: _rows([change for change in changes if change.measure == name], ALL)
        for name, told in CHANGES.items()
    }
    return _on_one_axis({told: rows for told, rows in by_measure.items() if rows})


def _on_one_axis(by_caption: dict[str, list[Row]]) -> dict[str, str]:
    ends = span([0.0, *(end for rows in by_caption.values() for row in rows for end in row.ends)])
    return {
        caption: charts.dots(rows, f"difference, {POINTS.unit}", ends=ends, with_zero=True)
        for caption, rows in by_caption.items()
    }


def _rows(changes: Sequence[Change], language: str) -> list[Row]:
    return [
        change_row(f"{one.model} − {one.against}", one.model, one.change, POINTS)
        for one in changes
        if one.language == language
    ]


def _languages(changes: Sequence[Change]) -> list[str]:
    return list(dict.fromkeys(change.language for change in changes))
