"""The pictures of benchmarks: shares, paired differences, and quality against size by language."""

from collections.abc import Sequence

from distill.core.benchmark_results import (
    BenchmarkFacts,
    BenchmarkResult,
)
from distill.reporting import charts
from distill.reporting.benchmarks import scores_together, together
from distill.reporting.charts import Row
from distill.reporting.measures import ACCURACY
from distill.reporting.plots import (
    AGAINST_SIZE,
    Pictures,
    Scored,
    against_size,
    change_axis,
    change_row,
    value_row,
)
from distill.reporting.table import ModelRow

NOTE = (
    "Differences are paired, question by question: right of zero is better, and a line that crosses "
    "zero shows no clear difference."
)


def benchmark_pictures(result: BenchmarkResult, rows: Sequence[ModelRow]) -> list[Pictures]:
    """Return the groups: all languages together, then by language those that have several.

    `rows` have the models' sizes.
    """
    drawn = {}
    for facts in result.benchmarks:
        drawn[facts.title] = charts.dots(_shares(facts, result), "accuracy, %")
        if changes := _changes(facts, result):
            axis = change_axis(ACCURACY)
            drawn[f"{facts.title}: differences"] = charts.dots(changes, axis, with_zero=True)
    groups = [Pictures("", drawn, NOTE)]
    for facts in result.benchmarks:
        if len(facts.num) > 1:
            pictures = against_size(_by_language(facts, result), rows, ACCURACY)
            heading = f"{facts.title}: accuracy against size by language"
            note = AGAINST_SIZE if len(groups) == 1 else ""
            groups.append(Pictures(heading, pictures, note, are_small=True))
    return [group for group in groups if group.pictures]


def _shares(facts: BenchmarkFacts, result: BenchmarkResult) -> list[Row]:
    return [
        value_row(score.model, score.accuracy, score.interval, ACCURACY)
        for score in scores_together(facts, result)
    ]


def _changes(facts: BenchmarkFacts, result: BenchmarkResult) -> list[Row]:
    return [
        change_row(f"{one.model} − {one.against}", one.model, one.accuracy, ACCURACY)
        for one in result.differences
        if (one.benchmark, one.language) == (facts.name, together(facts))
    ]


def _by_language(facts: BenchmarkFacts, result: BenchmarkResult) -> dict[str, dict[str, Scored]]:
    """Return what each model reached, by language and model."""
    found: dict[str, dict[str, Scored]] = {language: {} for language in facts.num}
    for score in result.scores:
        if score.benchmark == facts.name and score.language in found:
            found[score.language][score.model] = Scored(score.accuracy, score.interval)
    return found
