"""The benchmarks in the report: a table of accuracies, the paired differences, and the card's lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill.core.benchmark_results import (
    ALL_LANGUAGES,
    BenchmarkFacts,
    BenchmarkResult,
    BenchmarkScore,
)
from distill.reporting.measures import ACCURACY
from distill.reporting.table import NONE

DIFFERENCE_HEADINGS = ["benchmark", "language", "model", "against", "points", "95 % interval"]


@dataclass(frozen=True)
class BenchmarkTables:
    """What the page shows; lines are cells in the order of the headings."""

    headings: list[str]
    lines: list[list[str]]
    difference_headings: list[str]
    difference_lines: list[list[str]]
    notes: list[str]


def benchmark_tables(result: BenchmarkResult) -> BenchmarkTables:
    """Return the tables: a line a benchmark and language, a column a model."""
    models = list(dict.fromkeys(score.model for score in result.scores))
    lines = []
    for facts in result.benchmarks:
        lines += _lines_of(facts, result, models)
    return BenchmarkTables(
        headings=["benchmark", "language", "questions", *models],
        lines=lines,
        difference_headings=DIFFERENCE_HEADINGS,
        difference_lines=_difference_lines(result),
        notes=[
            *map(_note, result.benchmarks),
            *_cut(result),
            *_unanswered(result),
            *_not_asked(result),
        ],
    )


def _lines_of(
    facts: BenchmarkFacts, result: BenchmarkResult, models: Sequence[str]
) -> list[list[str]]:
    """Return the lines of a benchmark: accuracy and, where any differs, that by the byte."""
    of_benchmark = [score for score in result.scores if score.benchmark == facts.name]
    lines = []
    for language in dict.fromkeys(score.language for score in of_benchmark):
        scores = {score.model: score for score in of_benchmark if score.language == language}
        num = f"{next(iter(scores.values())).num:,}"
        cells = [accuracy_text(scores[model]) for model in models]
        lines.append([facts.title, language, num, *cells])
        if any(score.by_byte not in (None, score.accuracy) for score in scores.values()):
            cells = [_by_byte_text(scores[model]) for model in models]
            lines.append([f"{facts.title}, by byte", language, num, *cells])
    return lines


def accuracy_text(score: BenchmarkScore) -> str:
    """Return a score in percent with its interval."""
    return ACCURACY.tell_within(score.accuracy, score.interval)


def _by_byte_text(score: BenchmarkScore) -> str:
    if score.by_byte is None or score.interval_by_byte is None:
        return NONE
    return ACCURACY.tell_within(score.by_byte, score.interval_by_byte)


def _difference_lines(result: BenchmarkResult) -> list[list[str]]:
    titles = {facts.name: facts.title for facts in result.benchmarks}
    return [
        [
            titles[each.benchmark],
            each.language,
            each.model,
            each.against,
            f"{100 * each.accuracy.difference:+.1f}",
            f"{100 * each.accuracy.low:+.1f} – {100 * each.accuracy.high:+.1f}",
        ]
        for each in result.differences
    ]


def _note(facts: BenchmarkFacts) -> str:
    """Return what a reader must know of a benchmark: how it was asked, and what was known."""
    how = "the likeliest choice" if facts.kind == "choices" else "the last number of the answer"
    shots = f"{facts.few_shot} examples before each question" if facts.few_shot else "no examples"
    num_copied = sum(facts.copied.values())
    copied = "none of its questions was found in the training data"
    if num_copied:
        copied = f"{num_copied:,} of its {sum(facts.num.values()):,} questions stand in the training data"
    return f"{facts.title} ({facts.source}; {facts.licence}): {how}, {shots}; {copied}."


def _cut(result: BenchmarkResult) -> list[str]:
    """Return a note for each score of which questions lost their beginning."""
    return [
        f"{score.num_cut:,} of {score.num:,} questions ({score.benchmark}, {score.language}) are "
        f"longer than {score.model} reads, and lost their beginning."
        for score in result.scores
        if score.num_cut
    ]


def _unanswered(result: BenchmarkResult) -> list[str]:
    """Return a note for each score of which questions got no answer, and count as wrong."""
    return [
        f"{score.num_unanswered:,} of {score.num:,} questions ({score.benchmark}, "
        f"{score.language}) got no answer of {score.model} and count as wrong: where its reasoning "
        "filled all tokens, raise the benchmark's max_new_tokens in the recipe, to half of what the "
        "model reads at most."
        for score in result.scores
        if score.num_unanswered
    ]


def _not_asked(result: BenchmarkResult) -> list[str]:
    return [f"{model} was not asked: {reason}." for model, reason in result.not_asked.items()]


def together(facts: BenchmarkFacts) -> str:
    """Return what the figures over all languages of a benchmark stand under."""
    return ALL_LANGUAGES if len(facts.num) > 1 else next(iter(facts.num))


def scores_together(facts: BenchmarkFacts, result: BenchmarkResult) -> list[BenchmarkScore]:
    """Return every model's score over all languages of a benchmark."""
    language = together(facts)
    return [s for s in result.scores if (s.benchmark, s.language) == (facts.name, language)]


def card_lines(result: BenchmarkResult) -> list[str]:
    """Return a line a benchmark: every model's accuracy over all languages."""
    lines = []
    for facts in result.benchmarks:
        told = [f"{s.model} {accuracy_text(s)}" for s in scores_together(facts, result)]
        lines.append(f"{facts.title} ({', '.join(facts.num)}): {'; '.join(told)}")
    return lines
