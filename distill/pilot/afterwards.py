"""What is asked once the answers are there: the judge's verdicts, and a server's scores of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.core.intervals import mean_interval, wilson
from distill.planning.scoring import score_bytes
from distill.recipe import Recipe

Range = NDArray[np.float64]  # [3]: low, expected, high

VERDICT_TOKENS = 12  # {"score": 4} and its end, in any family's tokens; reasoning before it apart


def judging_usage(
    recipe: Recipe, num_wanted: int, num_kept: int, questions: Sequence[int], num_given: int = 0
) -> dict[str, Range]:
    """Return what the judge's verdicts take, by name; {} where there is no judge.

    `questions`: tokens of what it would be asked about each answer of the pilot sample, of which
    `num_kept` pass the other filters; of `num_wanted` answers as large a share is judged, and all
    of the `num_given` that are given.
    """
    options = recipe.generate
    if options.judge_min_score is None:
        return {}
    prices = options.price_prompt, options.price_answer
    if options.judge_server is not None:
        prices = options.judge_price_prompt, options.judge_price_answer
    num_verdicts = _kept(num_wanted, num_kept, len(questions)) + num_given
    read = num_verdicts * np.array(mean_interval(questions, 0, max(questions)))
    return _usage(num_verdicts, read, VERDICT_TOKENS * num_verdicts, prices)


def scoring_usage(
    recipe: Recipe,
    num_wanted: int,
    prompt_tokens: float,
    lengths: Sequence[int],
    num_kept: int,
    given: Sequence[int] = (),
) -> dict[str, Range]:
    """Return what scoring the kept ones of `num_wanted` answers takes, by name; {} where nothing is.

    `prompt_tokens`: of a mean prompt. `lengths`: tokens of the answers that are there, of which
    `num_kept` are kept; `given`: of those that are given, as if all were kept. One token is written for
    each answer that is read.
    """
    if not recipe.capture.scores_answers:
        return {}
    options = recipe.generate
    num_requests = _kept(num_wanted, num_kept, len(lengths))
    answer = np.array(mean_interval(lengths, 0, options.max_new_tokens))
    read = num_requests * (prompt_tokens + answer) + len(given) * prompt_tokens + sum(given)
    num_requests = num_requests + len(given)
    usage = _usage(num_requests, read, num_requests, (options.price_prompt, options.price_answer))
    return usage | {"megabytes": read * score_bytes(recipe) / 1e6}


def _kept(num_wanted: int, num_kept: int, num: int) -> Range:
    """Return how many of `num_wanted` answers are kept where `num_kept` of `num` are."""
    low, high = wilson(num_kept, num)
    return num_wanted * np.array([low, num_kept / num, high])


def _usage(
    num_requests: Range, read: Range, written: Range, prices: tuple[float, float]
) -> dict[str, Range]:
    """Return requests, tokens and, where there are `prices` of a million of them, the cost."""
    usage = {
        "requests": num_requests,
        "prompt tokens": read,
        "answer tokens": written,
        "tokens": read + written,
    }
    if any(prices):
        usage["cost"] = (read * prices[0] + written * prices[1]) / 1e6
    return usage


def together(*parts: Mapping[str, Range]) -> dict[str, Range]:
    """Return what several kinds of requests take together, which is what the limits count."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.sum([part.get(name, np.zeros(3)) for part in parts], axis=0) for name in names}
