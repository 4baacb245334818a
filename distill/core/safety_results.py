"""What the stages `safety` and `gates` found out, as their manifests hold it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from distill.core.results import Difference, FileCheck

ALL = "all"  # in place of a language: all of them together


@dataclass(frozen=True)
class PairFigures:
    """How often both answers of a pair differ, and by how much; means over the pairs.

    `other_outcome`: pairs of which one answer does what the other does not. `overlap`: shared words
    over all words of both (Jaccard). `length_difference`: of the words, as a share of the longer's.
    """

    num: int
    other_outcome: int
    overlap: float
    length_difference: float


@dataclass(frozen=True)
class ConductFigures:
    """What one model did: by set and language the number of answers with each outcome.

    `pairs`: by language. "all" stands for all languages together. `cut_reasoning`: answers that
    never came, for the reasoning before them filled all tokens. `unanswered`: requests that a
    server itself refused or failed at, which count as refused.
    """

    runtime: str
    outcomes: dict[str, dict[str, dict[str, int]]]
    pairs: dict[str, PairFigures] = field(default_factory=dict)
    cut_reasoning: int = 0
    unanswered: int = 0


@dataclass(frozen=True)
class Change:
    """A share of answers of `model` minus that of `against`, paired by the request.

    `measure`: refusals of harmful or harmless requests, evasions of sensitive ones, pairs that differ.
    """

    model: str
    against: str
    measure: str
    language: str
    change: Difference


@dataclass(frozen=True)
class JudgeAgreement:
    """How often the judge says of the student's answers what the phrase lists say.

    `unread`: replies without an outcome. `confused`: "refuses/deflects" is the lists' and the
    judge's word.
    """

    num: int
    num_agreed: int
    unread: int
    confused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SafetyResult:
    """Every model's conduct, and the changes from one to the next.

    `unwritten`: the recipe's languages that our sets are not in.
    """

    models: dict[str, ConductFigures]
    changes: list[Change]
    num_requests: int
    unwritten: list[str] = field(default_factory=list)
    num_left_out: int = 0
    judge: JudgeAgreement | None = None


@dataclass(frozen=True)
class GatesResult:
    """`failed`: why, by the file's format. `not_judged`: what no gate could be asked of, and why."""

    failed: dict[str, str] = field(default_factory=dict)
    not_judged: list[str] = field(default_factory=list)


def with_gates(checks: Mapping[str, FileCheck], gates: GatesResult | None) -> dict[str, FileCheck]:
    """Return the checks of all files, those that failed a gate of `evaluate.gates` marked failed."""
    failed = gates.failed if gates is not None else {}
    return {
        name: replace(
            check, failed="; ".join(filter(None, (check.failed, failed.get(name)))) or None
        )
        for name, check in checks.items()
    }
