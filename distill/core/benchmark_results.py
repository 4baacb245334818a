"""What the stage `benchmark` hands to the report: a part of results.py, for benchmarks alone."""

from dataclasses import dataclass, field

from distill.core.results import Difference, Interval

ALL_LANGUAGES = "all"  # what the figures over all languages of a benchmark are called


@dataclass(frozen=True)
class BenchmarkFacts:
    """What a benchmark was asked: `kind` is choices or number.

    `num`: questions by language. `copied`: by language, how many of them the training data hold, in
    a prompt or in an answer.
    """

    name: str
    title: str
    kind: str
    licence: str
    source: str
    few_shot: int
    num: dict[str, int]
    copied: dict[str, int]


@dataclass(frozen=True)
class BenchmarkScore:
    """How one model did on one benchmark in one language, or in all of them.

    Accuracy is a share, with Wilson's 95 % interval; `by_byte`: of the choices that are likeliest by
    the byte, None where a number is asked for. `num_cut`: questions that are longer than the model
    reads, and lost their beginning. `num_unanswered`: those that ask for a number and got nothing,
    as where the reasoning filled all tokens.
    """

    benchmark: str
    language: str
    model: str
    num: int
    accuracy: float
    interval: Interval
    by_byte: float | None = None
    interval_by_byte: Interval | None = None
    num_cut: int = 0
    num_unanswered: int = 0


@dataclass(frozen=True)
class BenchmarkDifference:
    """Accuracy of `model` minus that of `against`, question by question."""

    benchmark: str
    language: str
    model: str
    against: str
    accuracy: Difference


@dataclass(frozen=True)
class BenchmarkResult:
    """All benchmarks of a run; `not_asked`: models that were not, and why."""

    benchmarks: list[BenchmarkFacts]
    scores: list[BenchmarkScore]
    differences: list[BenchmarkDifference]
    not_asked: dict[str, str] = field(default_factory=dict)
