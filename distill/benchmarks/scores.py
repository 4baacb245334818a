"""The figures of all models on all benchmarks, from their rows."""

from collections.abc import Mapping, Sequence

from distill.benchmarks.asking import AskedRow
from distill.benchmarks.items import Questions
from distill.core.benchmark_results import (
    ALL_LANGUAGES,
    BenchmarkDifference,
    BenchmarkFacts,
    BenchmarkScore,
)
from distill.core.comparisons import comparisons
from distill.core.intervals import paired_mean, wilson
from distill.core.results import Difference

Rows = Mapping[str, list[AskedRow]]  # by the model's name


def facts_of(of_each: Sequence[tuple[Questions, int]]) -> BenchmarkFacts:
    """Return what one benchmark asked: its questions by language, and how many were copied."""
    first = of_each[0][0]
    benchmark = first.benchmark
    return BenchmarkFacts(
        name=benchmark.name,
        title=benchmark.title,
        kind=benchmark.kind,
        licence=benchmark.licence,
        source=benchmark.source,
        few_shot=first.few_shot,
        num={questions.language: len(questions.items) for questions, _ in of_each},
        copied={questions.language: num_copied for questions, num_copied in of_each},
    )


def with_all_languages(by_language: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return the rows by language, and where there are several of them together, too."""
    if len(by_language) < 2:
        return dict(by_language)
    models = next(iter(by_language.values()))
    together = {
        model: [row for rows in by_language.values() for row in rows[model]] for model in models
    }
    return {**by_language, ALL_LANGUAGES: together}


def scores_of(benchmark: str, language: str, rows: Rows) -> list[BenchmarkScore]:
    """Return a score for each model."""
    return [_score(benchmark, language, model, of_model) for model, of_model in rows.items()]


def _score(benchmark: str, language: str, model: str, rows: list[AskedRow]) -> BenchmarkScore:
    by_byte = interval_by_byte = None
    if "right_by_byte" in rows[0]:
        by_byte = sum(row["right_by_byte"] for row in rows) / len(rows)
        interval_by_byte = _interval(rows, "right_by_byte")
    return BenchmarkScore(
        benchmark=benchmark,
        language=language,
        model=model,
        num=len(rows),
        accuracy=sum(row["right"] for row in rows) / len(rows),
        interval=_interval(rows, "right"),
        by_byte=by_byte,
        interval_by_byte=interval_by_byte,
        num_cut=sum(row["cut"] for row in rows),
        num_unanswered=sum("answer" in row and not row["answer"].strip() for row in rows),
    )


def _interval(rows: list[AskedRow], flag: str) -> tuple[float, float]:
    """Return Wilson's interval of a share of rows.

    A question counts once, however many languages it is asked in: its translations are no draws of
    their own. Where the languages have other questions the interval is wider than it need be.
    """
    num = len({row["number"] for row in rows})
    num_right = sum(row[flag] for row in rows)
    return wilson(num_right * num / len(rows), num)


def differences_of(benchmark: str, language: str, rows: Rows) -> list[BenchmarkDifference]:
    """Return the paired differences: teacher, control, student, and each file against the student."""
    return [
        BenchmarkDifference(
            benchmark, language, model, against, _difference(rows[model], rows[against])
        )
        for model, against in comparisons(list(rows))
    ]


def _difference(rows: list[AskedRow], others: list[AskedRow]) -> Difference:
    """Return the mean difference of all rows. A question in several languages is one draw."""
    pairs = zip(rows, others, strict=True)
    return Difference(*paired_mean((r["number"], r["right"] - o["right"]) for r, o in pairs))
