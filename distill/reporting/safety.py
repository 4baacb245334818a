"""What the stage `safety` found, as one table and a few sentences for page and card."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from distill.conduct.labelled import agreement_with_labels
from distill.core.intervals import percent
from distill.core.safety_results import ALL, Change, ConductFigures, JudgeAgreement, SafetyResult

HEADINGS = (
    "language",
    "model",
    "refuses harmful",
    "refuses harmless",
    "evades sensitive",
    "pairs that differ",
    "other language",
    "incoherent",
)
NONE = "–"
NOT_MEASURED = (
    "Safety, refusals and content bias were not measured; a student inherits its teacher's."
)
LIMIT = (
    "Refusals and bias were measured on a few hundred short requests, written by a language model and "
    "checked by no native speaker: who means harm asks otherwise."
)
CHANGES = {
    "harmful": "refusals of harmful requests",
    "harmless": "refusals of harmless requests",
    "sensitive": "evasions of politically sensitive questions",
    "pairs": "pairs whose answers do different things",
}


def limit(result: SafetyResult | None) -> str:
    """Return what page and card say of the limits of what is known of safety."""
    return LIMIT if result is not None and result.models else NOT_MEASURED


def safety_lines(result: SafetyResult, languages: Sequence[str] | None = None) -> list[list[str]]:
    """Return a line a language and model, its cells as in HEADINGS; None = every language."""
    chosen = _languages(result) if languages is None else languages
    return [
        [language, model, *_cells(figures, language)]
        for language in chosen
        for model, figures in result.models.items()
    ]


def _languages(result: SafetyResult) -> list[str]:
    """Return all languages in which something was asked, all together first."""
    figures = next(iter(result.models.values()), None)
    by_set = figures.outcomes.values() if figures is not None else ()
    return list(dict.fromkeys([ALL, *(code for found in by_set for code in found)]))


def _cells(figures: ConductFigures, language: str) -> list[str]:
    by_set = {name: found.get(language, {}) for name, found in figures.outcomes.items()}
    pairs = figures.pairs.get(language)
    return [
        _share(by_set.get("harmful"), "refuses"),
        _share(by_set.get("harmless"), "refuses"),
        _share(by_set.get("sensitive"), "refuses", "deflects"),
        percent(pairs.other_outcome, pairs.num) if pairs is not None else NONE,
        *(_share(_added(by_set.values()), name) for name in ("other_language", "incoherent")),
    ]


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for found in counts:
        total.update(found)
    return dict(total)


def _share(counts: dict[str, int] | None, *outcomes: str) -> str:
    if not counts:
        return NONE
    return percent(sum(counts.get(name, 0) for name in outcomes), sum(counts.values()))


def safety_sentences(result: SafetyResult) -> list[str]:
    """Return what a reader must know beside the table: changes that are clear, gates, the rules."""
    if not result.models:
        return [*_gates(result)]
    sentences = [*_clear_changes(result.changes)]
    if not sentences:
        sentences.append("No change from one model to the next is clear: all intervals hold zero.")
    sentences += [*_gates(result), agreement_with_labels().sentence]
    if result.judge is not None:
        sentences.append(_judge(result.judge))
    if result.unwritten:
        codes = ", ".join(result.unwritten)
        sentences.append(f"The sets are not written in {codes}: nothing of them was asked in it.")
    if result.num_left_out:
        sentences.append(f"{result.num_left_out} requests were left out: no model could read them.")
    return sentences


def _clear_changes(changes: Sequence[Change]) -> Iterator[str]:
    """Yield the changes over all languages whose interval does not hold zero."""
    for change in changes:
        found = change.change
        if change.language == ALL and (found.low > 0 or found.high < 0):
            points = [f"{100 * x:+.0f}" for x in (found.difference, found.low, found.high)]
            yield (
                f"{change.model} against {change.against}: {points[0]} points of "
                f"{CHANGES[change.measure]}, 95 % interval [{points[1]}, {points[2]}]."
            )


def _gates(result: SafetyResult) -> Iterator[str]:
    for name, reason in result.failed.items():
        yield f"{name} failed: {reason}."
    if result.not_judged:
        yield f"No gate judged, for too little was asked: {'; '.join(result.not_judged)}."


def _judge(judge: JudgeAgreement) -> str:
    unread = f" ({judge.unread} of its replies named no outcome)" if judge.unread else ""
    return (
        f"The judge says what the phrase lists say of {judge.num_agreed} of {judge.num} of the "
        f"student's answers{unread}."
    )
