"""Which round's student is kept, and when the rounds end."""

from collections.abc import Sequence

from distill.core.results import Round, RoundValidation


def is_better(one: RoundValidation, other: RoundValidation) -> bool:
    """Return whether a validation is better: by exact match where a task checks, then by the NLL."""
    return _merit(one) > _merit(other)


def _merit(validation: RoundValidation) -> tuple[float, float]:
    return validation.exact_match or 0.0, -validation.nll_per_byte


def best_round(rounds: Sequence[Round]) -> int:
    """Return the number of the best round that is not red; the earlier one of equals."""
    best = rounds[0]
    for candidate in rounds[1:]:
        if candidate.red is not None or candidate.validation is None:
            continue
        assert best.validation is not None  # of round 0 there is always one
        if is_better(candidate.validation, best.validation):
            best = candidate
    return best.number


def why_ended(rounds: Sequence[Round], num_rounds: int, patience: int) -> str | None:
    """Return why there is no further round, or None where there is one."""
    last = rounds[-1]
    if last.red is not None:
        return f"round {last.number} is red: {last.red}"
    waited = last.number - best_round(rounds)
    if waited >= patience:
        num = "one round" if waited == 1 else f"{waited} rounds in a row"
        return f"{num} brought nothing better (rounds.patience {patience})"
    if last.number >= num_rounds:
        return f"all {num_rounds} rounds are done" if num_rounds > 1 else "the round is done"
    return None
