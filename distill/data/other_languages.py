"""Rows in other languages than the recipe's: how they are counted, and what is told of them."""

from collections import Counter
from collections.abc import Iterator, Sequence

from distill.text.identification import by_script_only
from distill.text.scripts import is_known

_UNKNOWN = "unknown_language"
_NUM_NAMED = 10


def commonest(codes: Counter[str]) -> str:
    """Return the commonest of the codes that were met, with their counts."""
    named = [f"{code!r:.40} ({count})" for code, count in codes.most_common(_NUM_NAMED)]
    return ", ".join(named) + (", ..." if len(codes) > len(named) else "")


def by_kind(others: Counter[str]) -> Counter[str]:
    """Count rows in other languages than the recipe's; those of unknown codes by the codes."""
    unknown = Counter({code: num for code, num in others.items() if not is_known(code)})
    kinds = Counter({"other_language": others.total() - unknown.total()})
    if unknown:
        kinds[f"{_UNKNOWN}: {commonest(unknown)}"] = unknown.total()
    return +kinds


def notes(languages: Sequence[str], skipped: Counter[str]) -> Iterator[str]:
    """Yield what to tell: languages that no classifier knows, and codes that nobody does."""
    if unknown := by_script_only(languages):
        yield f"languages: {unknown}"
    for reason, num in skipped.items():
        if reason.startswith(_UNKNOWN):
            yield f"{num} rows were left out, {reason}"
