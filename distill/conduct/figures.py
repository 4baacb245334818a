"""What every model did, counted, and the change from one model to the next with its interval."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from distill.conduct.answers import Told
from distill.conduct.sets import pairs_among
from distill.core.comparisons import comparisons
from distill.core.intervals import paired_mean
from distill.core.results import Difference
from distill.core.safety_results import ALL, Change, ConductFigures, PairFigures
from distill.text.text import Text

Answers = Sequence[Told]
MEASURES: dict[str, Callable[[Told], bool]] = {
    "harmful": lambda told: told.declines,
    "harmless": lambda told: told.declines,
    "sensitive": lambda told: told.evades,
}
LEAST_REQUESTS = 2  # fewer have no interval


def figures_of(answers: Answers) -> ConductFigures:
    """Return the outcomes of one model's answers, by set and language."""
    outcomes: dict[str, dict[str, Counter[str]]] = {}
    for told in answers:
        by_language = outcomes.setdefault(told.item.set, {})
        for language in (ALL, told.item.language):
            by_language.setdefault(language, Counter())[told.outcome.name] += 1
    return ConductFigures(
        "; ".join(dict.fromkeys(told.runtime for told in answers)),
        {name: {k: dict(v) for k, v in found.items()} for name, found in outcomes.items()},
        _pair_figures(answers),
        sum(told.cut_reasoning for told in answers),
        sum(told.unanswered for told in answers),
    )


def _pair_figures(answers: Answers) -> dict[str, PairFigures]:
    pairs = pairs_among([told.item for told in answers])
    languages = dict.fromkeys([ALL, *(answers[a].item.language for a, _ in pairs)])
    found = {}
    for language in languages:
        sides = [
            (answers[a], answers[b])
            for a, b in pairs
            if language in (ALL, answers[a].item.language)
        ]
        if sides:
            found[language] = _pair_figure(sides)
    return found


def _pair_figure(sides: Sequence[tuple[Told, Told]]) -> PairFigures:
    words = [(Text(a.answer).words, Text(b.answer).words) for a, b in sides]
    return PairFigures(
        num=len(sides),
        other_outcome=sum(a.outcome.name != b.outcome.name for a, b in sides),
        overlap=round(sum(_overlap(a, b) for a, b in words) / len(sides), 4),
        length_difference=round(sum(_length_difference(a, b) for a, b in words) / len(sides), 4),
    )


def _overlap(a: Sequence[str], b: Sequence[str]) -> float:
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else 1.0


def _length_difference(a: Sequence[str], b: Sequence[str]) -> float:
    longer = max(len(a), len(b))
    return abs(len(a) - len(b)) / longer if longer else 0.0


def changes_between(answers: Mapping[str, Answers]) -> list[Change]:
    """Return each model's change against the one before it, by measure and language."""
    changes = []
    for model, against in comparisons(list(answers)):
        for measure, (here, there) in _flags(answers[model], answers[against]).items():
            changes += _changes(model, against, measure, here, there)
    return changes


@dataclass(frozen=True)
class _Flag:
    """Whether a model does something at a request, or at a pair; `id`: the same in all languages."""

    id: str
    language: str
    does: bool


Flags = Sequence[_Flag]


def _flags(here: Answers, there: Answers) -> dict[str, tuple[Flags, Flags]]:
    """Return for each measure what either model does at each request."""
    found = {
        name: (_of_set(here, name, does), _of_set(there, name, does))
        for name, does in MEASURES.items()
    }
    found["pairs"] = (_of_pairs(here), _of_pairs(there))
    return found


def _of_set(answers: Answers, name: str, does: Callable[[Told], bool]) -> Flags:
    return [
        _Flag(f"{told.item.source}/{told.item.id}", told.item.language, does(told))
        for told in answers
        if told.item.set == name
    ]


def _of_pairs(answers: Answers) -> Flags:
    sides = [(answers[a], answers[b]) for a, b in pairs_among([told.item for told in answers])]
    return [_Flag(a.item.id, a.item.language, a.outcome.name != b.outcome.name) for a, b in sides]


def _changes(model: str, against: str, measure: str, here: Flags, there: Flags) -> Iterator[Change]:
    """Yield the change over all languages, and in each. A request in several is one draw."""
    found = [
        (mine.id, mine.language, int(mine.does) - int(other.does))
        for mine, other in zip(here, there, strict=True)
    ]
    for language in dict.fromkeys([ALL, *(language for _, language, _ in found)]):
        own = [(name, change) for name, code, change in found if language in (ALL, code)]
        if len(own) >= LEAST_REQUESTS:
            yield Change(model, against, measure, language, Difference(*paired_mean(own)))
