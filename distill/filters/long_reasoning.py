"""Long reasoning: too much of it takes from a small student what it knew.

Small students (up to 3B) lose up to 75 % of their score by 8,000 samples with long reasoning
(Through the Valley, arXiv 2506.07712). A fifth of the samples does no harm (Mix-Long,
arXiv 2502.12143), nor do 200,000 of them.
"""

from collections.abc import Sequence

from distill.filters.base import Answer, FilterContext

# share of samples with long reasoning up to which they do no harm, and number from which
HARMLESS_SHARE, HARMLESS_NUMBER = 0.2, 200_000


def too_much_reasoning(answer: Answer, context: FilterContext) -> str | None:
    """Return how long the reasoning is where it must be short and is not, or None."""
    options = context.options
    if options.reasoning != "short":
        return None
    if answer.num_reasoning_tokens <= options.max_reasoning_tokens:
        return None
    return f"{answer.num_reasoning_tokens} tokens, at most {options.max_reasoning_tokens}"


def long_reasoning_warning(num_long: int, num_kept: int, max_reasoning_tokens: int) -> str | None:
    """Return what to tell the user where too many of the kept samples have long reasoning.

    A warning, no error: once the answers are paid for, another `reasoning` sorts them anew for
    nothing. `probe` and `--estimate` say it before (long_reasoning_ahead).
    """
    if num_long <= HARMLESS_SHARE * num_kept or num_long >= HARMLESS_NUMBER:
        return None
    return (
        f"{num_long:,} of {num_kept:,} samples have more than {max_reasoning_tokens:,} tokens of "
        f"reasoning; a student of up to 3B parameters bears {HARMLESS_SHARE:.0%}, or "
        f"{HARMLESS_NUMBER:,} and more: set generate.reasoning to short or drop"
    )


def long_reasoning_ahead(
    answers: Sequence[Answer],
    reasons: Sequence[str | None],
    num_wanted: int,
    max_reasoning_tokens: int,
) -> str | None:
    """Return the same warning if `num_wanted` answers will be like these, or None."""
    kept = [answer for answer, reason in zip(answers, reasons, strict=True) if reason is None]
    num_long = sum(answer.num_reasoning_tokens > max_reasoning_tokens for answer in kept)
    if num_long * num_wanted >= HARMLESS_NUMBER * len(answers):
        return None
    warning = long_reasoning_warning(num_long, len(kept), max_reasoning_tokens)
    return warning and f"too much long reasoning, if all are like these: {warning}"
