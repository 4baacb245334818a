"""Rows in other languages than the recipe's: how they are counted, and what is told of them."""

from collections import Counter

from distill.text.scripts import is_known

_NUM_NAMED = 10


def by_kind(others: Counter[str]) -> Counter[str]:
    """Count rows in other languages than the recipe's, and those of codes that nobody knows."""
    num_unknown = _unknown(others).total()
    kinds = {"other_language": others.total() - num_unknown, "unknown_language": num_unknown}
    return +Counter(kinds)


def unknown_note(others: Counter[str]) -> str | None:
    """Return what to tell of rows whose code nobody knows, or None where there are none."""
    unknown = _unknown(others)
    if not unknown:
        return None
    return (
        f"{unknown.total():,} rows are left out, whose languages nobody knows: {commonest(unknown)}"
    )


def commonest(codes: Counter[str]) -> str:
    """Return the commonest of the codes that were met, with their counts."""
    named = [f"{code!r:.40} ({count})" for code, count in codes.most_common(_NUM_NAMED)]
    return ", ".join(named) + (", ..." if len(codes) > len(named) else "")


def _unknown(codes: Counter[str]) -> Counter[str]:
    return Counter({code: num for code, num in codes.items() if not is_known(code)})
