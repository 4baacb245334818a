"""What the rounds came to, as a table, and in a sentence which one was kept."""

from distill.core.results import Round, RoundGuards, RoundsResult, RoundValidation
from distill.reporting.table import NONE, number

HEADINGS = (
    "round",
    "exact match %",
    "NLL/byte",
    "answers",
    "tokens each",
    "95 % within",
    "cut %",
    "loops %",
    "empty %",
    "other language %",
    "teacher's nats a token",
    "same likeliest %",
    "end: teacher %",
    "end: student %",
    "too long",
    "learnt: own, earlier, teacher's",
)


def rounds_lines(result: RoundsResult) -> list[list[str]]:
    """Return a line a round, its cells as in HEADINGS."""
    return [_line(made, kept=made.number == result.best) for made in result.rounds]


def _line(made: Round, *, kept: bool) -> list[str]:
    name = f"{made.number}{' (kept)' if kept else ''}{' (red)' if made.red else ''}"
    learnt = ", ".join(f"{num:,}" for num in made.num_samples.values()) or NONE
    too_long = NONE if made.guards is None else f"{made.num_too_long:,}"
    of_answers = [*_guard_cells(made.guards), too_long, learnt]
    return [name, *_validation_cells(made.validation), *of_answers]


def _validation_cells(found: RoundValidation | None) -> list[str]:
    if found is None:
        return [NONE, NONE]
    return [_percent(found.exact_match), f"{found.nll_per_byte:.5f}"]


def _guard_cells(found: RoundGuards | None) -> list[str]:
    if found is None:
        return [NONE] * 11
    return [
        f"{found.num_answers:,}",
        f"{found.mean_length:.0f}",
        f"{found.p95_length:.0f}",
        _percent(found.cut),
        _percent(found.loops),
        _percent(found.empty),
        _percent(found.other_language),
        number(found.logp_of_teacher, "{:.3f}", -1),
        _percent(found.same_likeliest),
        _percent(found.end_mass_of_teacher),
        _percent(found.end_mass_of_student),
    ]


def _percent(share: float | None) -> str:
    return number(share, "{:.1f}", 100)


def rounds_sentence(result: RoundsResult) -> str:
    """Return which round was kept, by what, and why there were no more."""
    best, first = result.rounds[result.best].validation, result.rounds[0].validation
    if result.best == 0 or best is None or first is None:
        kept = "No round was better than the student that was trained before them, which is kept"
    else:
        gained = f"NLL {first.nll_per_byte:.5f} to {best.nll_per_byte:.5f} nats a byte"
        if best.exact_match is not None and first.exact_match is not None:
            gained = f"exact match {first.exact_match:.1%} to {best.exact_match:.1%}, {gained}"
        kept = f"Round {result.best} is kept: on {best.num_prompts:,} validation prompts {gained}"
    return f"{kept}. They ended as {result.ended}."
