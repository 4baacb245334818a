"""What a server is to score when all answers are there (capture.from_server: scores)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.core.intervals import mean_interval, wilson
from distill.planning.scoring import score_bytes
from distill.recipe import Recipe

Range = NDArray[np.float64]  # [3]: low, expected, high


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
    low, high = wilson(num_kept, len(lengths))
    num_requests = num_wanted * np.array([low, num_kept / len(lengths), high])
    answer = np.array(mean_interval(lengths, 0, recipe.generate.max_new_tokens))
    read = num_requests * (prompt_tokens + answer) + len(given) * prompt_tokens + sum(given)
    num_requests = num_requests + len(given)
    usage = {
        "requests": num_requests,
        "prompt tokens": read,
        "answer tokens": num_requests,
        "tokens": read + num_requests,
        "megabytes": read * score_bytes(recipe) / 1e6,
    }
    options = recipe.generate
    if options.price_prompt or options.price_answer:
        cost = read * options.price_prompt + num_requests * options.price_answer
        usage["cost"] = cost / 1e6
    return usage


def with_scoring(usage: Mapping[str, Range], scoring: Mapping[str, Range]) -> dict[str, Range]:
    """Return what asking and scoring take together, which is what the limits count."""
    return {name: of_asking + scoring.get(name, 0) for name, of_asking in usage.items()}
