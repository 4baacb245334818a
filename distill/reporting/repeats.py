"""What the repeats of the training came to: student and control in each, mean and spread.

For the page as a table, for the terminal and the model card as lines below theirs. The rows of the
report's own table, its files and its examples are of the first repeat.
"""

import statistics
from collections.abc import Sequence

from distill.reporting.measures import EXACT_MATCH, NLL, NLL_PER_BYTE, Measure
from distill.reporting.results import RunResults
from distill.reporting.table import ModelRow, table_text


def repeats_table(results: RunResults) -> tuple[list[str], list[list[str]]]:
    """Return (headings, lines): a line a repeat, the mean, the standard deviation.

    A column for each model and measure, and for their difference. No lines where training was not
    repeated.
    """
    names = [str(number) for number in range(1, len(results.repeats) + 1)]
    headings, columns = ["repeat"], [[*names, "mean", "standard deviation"]]
    for measure in _measures(results):
        values = {role: _values(results, role, measure) for role in results.repeats[0]}
        for role, of_role in values.items():
            headings.append(f"{role}: {measure.heading}")
            columns.append(_column(measure, of_role, ""))
        if "control" in values:
            pairs = zip(values["student"], values["control"], strict=True)
            headings.append(f"difference: {measure.heading}")
            columns.append(_column(measure, [student - control for student, control in pairs], "+"))
    if len(names) == 1:
        return headings, []
    return headings, [list(line) for line in zip(*columns, strict=True)]


def figures_text(results: RunResults, rows: list[ModelRow]) -> str:
    """Return the report's table for a terminal; below it mean and spread of repeats, if any."""
    num = len(results.repeats)
    if num == 1:
        return table_text(rows)
    lines = [
        f"{table_text(rows)}\n",
        f"mean ± standard deviation of {num} repeats of the training "
        "(the rows above and all files are of the first):",
    ]
    for role in results.repeats[0]:
        told = [_mean_and_spread(results, role, measure) for measure in _measures(results)]
        lines.append(f"  {role}: {', '.join(told)}")
    return "\n".join(lines)


def _measures(results: RunResults) -> list[Measure]:
    """Return those that were measured in every repeat: no exact match without a task.

    NLL a byte is among them where the teacher's tokens are others.
    """
    measures = [EXACT_MATCH, NLL]
    if results.evaluate.tokenizers_differ:
        measures.append(NLL_PER_BYTE)
    figures = [model for models in results.repeats for model in models.values()]
    return [m for m in measures if all(getattr(f, m.key) is not None for f in figures)]


def _values(results: RunResults, role: str, measure: Measure) -> list[float]:
    return [getattr(figures[role], measure.key) for figures in results.repeats]


def _column(measure: Measure, values: Sequence[float], sign: str) -> list[str]:
    """Return the cells of a column: each repeat, the mean, the standard deviation."""
    told = [measure.tell(value, sign) for value in (*values, statistics.mean(values))]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return [*told, measure.tell(spread, "")]


def _mean_and_spread(results: RunResults, role: str, measure: Measure) -> str:
    *_, mean, spread = _column(measure, _values(results, role, measure), "")
    return f"{measure.heading} {mean} ± {spread}"
