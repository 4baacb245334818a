"""estimate: what the answers that are left to ask will take, told from a few that are asked first (`generate --estimate N`).

Prompt tokens are counted. How long answers are is told by the first ones, with Student's 95 % interval of their mean; bytes
and seconds are what those took, by the token. They go where generate keeps its answers; no manifest is written.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill import generate
from distill.core.intervals import mean_interval, percent, wilson
from distill.core.processes import Processes
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.filters.long_reasoning import long_reasoning_ahead
from distill.pilot import pilot_sample
from distill.pilot.pilot_sample import FirstAnswers, Taken
from distill.recipe import Recipe
from distill.recipe.sections import Generate
from distill.teachers.answers import answered
from distill.teachers.log import Request, best_rows, num_prompt_tokens, read_answers, request_maker
from distill.teachers.server.budget import Amount, Ledger

NUM_PROMPTS = 8
SHOWN = ("requests", "prompt tokens", "answer tokens", "cost", "megabytes", "hours")
LIMITS = ("requests", "tokens", "cost", "megabytes", "hours")  # generate.max_..., of a server

Range = NDArray[np.float64]  # [3]: low, expected, high


@dataclass(frozen=True)
class Estimate:
    """`needs`: by name, what is left to ask will take; what is not known is not there. `lengths`: tokens of the answers that
    it is told from, `languages` and `reasons`: how many of those are in which language, or dropped for what. `num_written`:
    prompts that the teacher is to write; `spent`: what is used of the limits on a server; `warning`: what should be changed before
    more is asked."""

    num_wanted: int
    num_on_disk: int
    num_written: int
    lengths: list[int]
    languages: dict[str, int]
    reasons: dict[str, int]
    needs: dict[str, Range]
    taken: Taken | None
    spent: Amount
    warning: str | None = None


def run(recipe: Recipe, *, num: int = NUM_PROMPTS) -> Estimate | None:
    """Ask for the answers to `num` prompts that are not on disk, and reckon; None on all processes but the first.

    Raises DataError where there is no prompt yet, and what generate raises (Stopped: a limit is reached by these alone).
    """
    with pilot_sample.working(recipe) as (stage, team):
        return _estimate(recipe, stage, num, team)


def _estimate(recipe: Recipe, stage: Path, num: int, team: Processes) -> Estimate | None:
    first = FirstAnswers.of(recipe, stage, team)
    chosen = spread(first.prompts, num)
    if not chosen:
        raise DataError(
            f"{recipe.source}: generate.prompts: none can be asked before the teacher has written some (expand): name a file of prompts "
            "beside it, or see `distill plan`"
        )
    requests = first.ask(chosen)
    if not team.is_main:
        return None
    rows = best_rows(read_answers(stage / "raw")[0])
    candidates, reasons = generate.judge_answers(
        recipe, requests, rows, first.held_out, first.tokenizers
    )
    tokenizer = first.tokenizers.asked
    make, on_disk = request_maker(recipe, tokenizer), answered(recipe, stage / "raw")
    wanted = [
        make(prompt, i)
        for prompt in first.prompts
        for i in range(recipe.generate.samples_per_prompt)
    ]
    left = [r for r in wanted if r.key not in on_disk]
    num_written = sum(source.num or 0 for source in recipe.generate.prompts)
    lengths, taken = [len(rows[r.key]["token_ids"]) for r in requests], first.taken()
    more = further(
        recipe.generate, len(first.prompts), num_written, reasons.count(None), len(requests)
    )
    return Estimate(
        len(wanted),
        len(wanted) - len(left),
        num_written,
        lengths,
        dict(Counter(p.language for p in chosen)),
        dict(Counter(why.partition(":")[0] for why in reasons if why is not None).most_common()),
        needs(
            recipe.generate,
            len(left) + more,
            _tokens(left, tokenizer) + more * _tokens(wanted, tokenizer) / len(wanted),
            (len(left) + more) * mean_interval(lengths, 0, recipe.generate.max_new_tokens),
            taken,
        ),
        taken,
        Ledger(stage, recipe.generate).total(),
        long_reasoning_ahead(
            candidates, reasons, len(wanted), recipe.generate.max_reasoning_tokens
        ),
    )


def spread(prompts: list[Prompt], num: int) -> list[Prompt]:
    """`num` prompts (or all), each language by its share; a larger number takes the same and more."""
    place = {
        p.id: (i + 0.5) / len(mine)
        for mine in pilot_sample.by_lot(prompts).values()
        for i, p in enumerate(mine)
    }
    ids = set(sorted(place, key=lambda i: place[i])[:num])
    return [p for p in prompts if p.id in ids]


def further(
    options: Generate, num_prompts: int, num_written: int, num_kept: int, num: int
) -> Range:
    """Requests beyond the first for each prompt that is there: further draws (max_tries), as if a prompt whose answer is
    dropped once never had a good one, and prompts that the teacher writes, as if each were worth asking."""
    low, high = wilson(num_kept, num)
    dropped = 1 - np.array([high, num_kept / num, low])
    draws = options.samples_per_prompt + dropped * (
        (options.max_tries or options.samples_per_prompt) - options.samples_per_prompt
    )
    return num_written * (1 + draws) + num_prompts * (draws - options.samples_per_prompt)


def needs(
    options: Generate,
    num_requests: Range,
    prompt_tokens: Range,
    answer_tokens: Range,
    taken: Taken | None,
) -> dict[str, Range]:
    """What so many requests and tokens take. Where a server says how many tokens it counted, as it counts them: that is what
    it bills, and what the limits go by."""
    found = {"requests": num_requests}
    if taken is not None and taken.answer_tokens:
        if taken.num_bytes:
            found["megabytes"] = (
                (prompt_tokens + answer_tokens)
                * taken.num_bytes
                / (taken.prompt_tokens + taken.answer_tokens)
                / 1e6
            )
        found["hours"] = answer_tokens * taken.seconds / taken.answer_tokens / 3600
        if taken.billed_answer_tokens:
            prompt_tokens = prompt_tokens * taken.billed_prompt_tokens / taken.prompt_tokens
            answer_tokens = answer_tokens * taken.billed_answer_tokens / taken.answer_tokens
    found |= {
        "prompt tokens": prompt_tokens,
        "answer tokens": answer_tokens,
        "tokens": prompt_tokens + answer_tokens,
    }
    if options.price_prompt or options.price_answer:
        found["cost"] = (
            prompt_tokens * options.price_prompt + answer_tokens * options.price_answer
        ) / 1e6
    return found


def text(recipe: Recipe, found: Estimate) -> str:
    """What `distill generate --estimate` prints."""
    options, num = recipe.generate, len(found.lengths)
    low, mean, high = mean_interval(found.lengths, 0, options.max_new_tokens)
    languages = ", ".join(f"{code} {count}" for code, count in found.languages.items())
    others = {name: count for name, count in found.reasons.items() if name != "truncated"}
    dropped = ", ".join(f"{name} {count}" for name, count in others.items()) or "none"
    lines = [
        f"teacher {recipe.teacher.model}: {found.num_wanted:,} answers wanted, {found.num_on_disk:,} of them on disk",
        f"told from {num} answers ({languages}), with 95 % intervals; more answers (--estimate {4 * num}) make them narrower",
        f"  {mean:.0f} tokens each [{low:.0f}, {high:.0f}]; {percent(found.reasons.get('truncated', 0), num)} cut at "
        f"generate.max_new_tokens {options.max_new_tokens}; {percent(sum(others.values()), num)} dropped otherwise: {dropped}",
        "left to ask:",
        *(f"  {name:<14} {_amount(found.needs[name])}" for name in SHOWN if name in found.needs),
    ]
    lines += _notes(recipe, found)
    if recipe.teacher.server:
        lines += [
            limit
            for name in LIMITS
            if (limit := _limit(options, name, found.needs, found.spent)) is not None
        ]
    return "\n".join(lines)


def _notes(recipe: Recipe, found: Estimate) -> list[str]:
    """How far the figures can be trusted, and what is not in them."""
    options, taken, server = recipe.generate, found.taken, recipe.teacher.server
    notes = [f"warning: {found.warning}"] if found.warning else []
    if taken is None:
        notes.append(
            "time is not measured: all of these answers were on disk already; a larger --estimate asks some more"
        )
    else:
        speed = f"{taken.answer_tokens / max(taken.seconds, 1e-9):.3g} answer tokens/s, measured on {taken.num_answers} answers"
        notes.append(
            f"{speed} with at most {taken.at_once} requests at once; generate.concurrency allows {options.concurrency}"
            if server
            else f"{speed} side by side; larger batches are faster (teacher.batch_tokens)"
        )
    if server and taken and not taken.billed_answer_tokens:
        notes.append(
            "the server does not say what it counts: tokens are the tokenizer's, for max_tokens and max_cost, too"
        )
    if server and "cost" not in found.needs:
        notes.append(
            "cost is not known: set generate.price_prompt and generate.price_answer, prices of a million tokens"
        )
    if found.num_written:
        notes.append(
            f"{found.num_written:,} prompts that the teacher writes are counted as answers are, and as if each were worth asking"
        )
    if options.max_tries is not None:
        notes.append(
            "further draws (max_tries) are counted as if a prompt whose first answer is dropped never had a good one"
        )
    if options.judge_min_score is not None:
        notes.append(
            "not in these figures: the judge (judge_min_score), one short reply about each answer that passes the other filters"
        )
    return notes


def _limit(options: Generate, name: str, needs: dict[str, Range], spent: Amount) -> str | None:
    """Whether a limit of the recipe would stop the run, with what is used of it already."""
    most = getattr(options, f"max_{name}")
    if most is None or name not in needs:
        return None
    used = {
        "requests": spent.requests,
        "tokens": spent.tokens,
        "cost": spent.cost,
        "megabytes": spent.num_bytes / 1e6,
    }.get(name, 0)
    left, (low, mean, high) = max(0, most - used), needs[name]
    verdict = (
        "would stop it before the end"
        if low > left
        else "may stop it before the end"
        if high > left
        else "is enough"
    )
    share = f", after about {left / mean:.0%} of what is left" if mean > left else ""
    return f"generate.max_{name} {most:,} {verdict}{share}"


def _tokens(requests: list[Request], tokenizer: Any) -> int:
    return sum(num_prompt_tokens(r, tokenizer) for r in requests)


def _amount(values: Range) -> str:
    """`1,200 [1,000, 1,400]`, or one number where that is sure."""
    low, mean, high = (f"{v:,.0f}" if v >= 100 or v == int(v) else f"{v:.3g}" for v in values)
    return mean if low == high else f"{mean} [{low}, {high}]"
