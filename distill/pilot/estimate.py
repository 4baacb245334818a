"""estimate: what the answers that are left to ask will take, told from a few that are asked first.

`distill generate --estimate N`. Prompt tokens are counted. How long answers are is told by the
first ones, with Student's 95 % interval of their mean; bytes and seconds are what those took, by
the token. They go where generate keeps its answers; no manifest is written.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.core.intervals import mean_interval, percent, wilson
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.filters.base import Answer
from distill.filters.long_reasoning import long_reasoning_ahead
from distill.pilot import pilot_sample
from distill.pilot.afterwards import VERDICT_TOKENS, judging_usage, scoring_usage, together
from distill.pilot.pilot_sample import Measured, PilotSample, num_prompt_tokens
from distill.planning.demands import num_written_by
from distill.planning.round_costs import answers_a_round
from distill.recipe import Recipe
from distill.recipe.sections import Generate
from distill.synthesis import llm_judge
from distill.teachers.answers import answer_lengths
from distill.teachers.keys import request_maker
from distill.teachers.requests import RequestOptions
from distill.teachers.server.budget import Usage
from distill.teachers.server.purses import usage_log_of

NUM_PROMPTS = 8
SHOWN = ("requests", "prompt tokens", "answer tokens", "cost", "megabytes", "hours")
LIMITS = ("requests", "tokens", "cost", "megabytes", "hours")  # generate.max_..., of a server

Range = NDArray[np.float64]  # [3]: low, expected, high


@dataclass(frozen=True)
class Estimate:
    """What is left to ask will take.

    `usage`: by name, a range; what is not known is not there. `lengths`: tokens of the answers that
    it is told from, `languages` and `reasons`: how many of those are in which language, or dropped
    for what. `num_written`: prompts that the teacher is to write. `used`: what is used of the
    limits on a server (`on_server`). `warning`: what should be changed before more is asked.
    `judging`: what the judge is to be asked when all are there (generate.judge_min_score), and
    `scoring` what a server is to score then (capture.from_server: scores).
    `mean_prompt_tokens`: of a prompt.
    """

    num_wanted: int
    num_on_disk: int
    num_written: int
    lengths: list[int]
    languages: dict[str, int]
    reasons: dict[str, int]
    usage: dict[str, Range]
    measured: Measured | None
    used: Usage
    on_server: bool
    warning: str | None = None
    judging: dict[str, Range] = field(default_factory=dict)
    scoring: dict[str, Range] = field(default_factory=dict)
    mean_prompt_tokens: float = 0.0
    num_given: int = 0


def run(recipe: Recipe, *, num: int = NUM_PROMPTS) -> list[tuple[Recipe, Estimate]]:
    """Ask for the answers to `num` prompts that are not on disk, and reckon.

    Returns each teacher's estimate, with the recipe as if it were the only one; nothing on all
    processes but the first. Raises DataError where there is no prompt yet, and what generate raises
    (Stopped: a limit is reached by these alone).
    """
    with pilot_sample.working(recipe) as (folder, processes):
        return estimates(recipe, folder, num, processes)


def estimates(
    recipe: Recipe, folder: RunFolder, num: int, processes: Processes
) -> list[tuple[Recipe, Estimate]]:
    """Do the same where the run folder is ours; each of several teachers is asked `num` prompts."""
    samples = PilotSample.of(recipe, folder, processes)
    askable = [sample for sample in samples if sample.prompts]
    if not askable:
        raise DataError(
            f"{recipe.source}: generate.prompts: none can be asked before the teacher has written some "
            "(expand): name a file of prompts beside it, or see `distill plan`"
        )
    found = [(sample.generation.recipe, _estimate(sample, num, processes)) for sample in askable]
    return [(view, of_teacher) for view, of_teacher in found if of_teacher is not None]


def _estimate(sample: PilotSample, num: int, processes: Processes) -> Estimate | None:
    recipe = sample.generation.recipe
    chosen = spread(sample.prompts, num)
    requests = sample.ask(chosen)
    if not processes.is_main:
        return None
    answers, reasons = sample.filter(requests)
    rows, measured = sample.rows(), sample.measured()
    lengths = [len(rows[request.key]["token_ids"]) for request in requests]
    left = _left_to_ask(sample, reasons.count(None), len(requests))
    given = given_lengths(sample)
    answer_tokens = left.num_requests * mean_interval(lengths, 0, recipe.generate.max_new_tokens)
    dropped = Counter(reason.partition(":")[0] for reason in reasons if reason is not None)
    usage_log = usage_log_of(recipe, sample.teacher.logs)
    return Estimate(
        left.num_wanted,
        left.num_on_disk,
        left.num_written,
        lengths,
        dict(Counter(prompt.language for prompt in chosen)),
        dict(dropped.most_common()),
        projected_usage(
            recipe.generate, left.num_requests, left.prompt_tokens, answer_tokens, measured
        ),
        measured,
        usage_log.total(),
        sample.teacher.on_server,
        long_reasoning_ahead(
            answers, reasons, left.num_wanted, recipe.generate.max_reasoning_tokens
        ),
        judging_usage(
            recipe,
            left.num_wanted,
            reasons.count(None),
            _question_lengths(sample, answers),
            len(given),
        ),
        scoring_usage(
            recipe, left.num_wanted, left.mean_prompt_tokens, lengths, reasons.count(None), given
        ),
        left.mean_prompt_tokens,
        len(given),
    )


@dataclass(frozen=True)
class _Left:
    """What is left to ask. Further draws, and prompts that are not written yet, are among
    `num_requests` and `prompt_tokens`."""

    num_wanted: int
    num_on_disk: int
    num_written: int
    num_requests: Range
    prompt_tokens: Range
    mean_prompt_tokens: float


def _left_to_ask(sample: PilotSample, num_kept: int, num: int) -> _Left:
    """Return what is left; `num_kept` of the pilot sample's `num` answers passed the filters."""
    teacher, recipe = sample.teacher, sample.teacher.recipe
    options, tokenizer = recipe.generate, teacher.tokenizers.asked
    make = request_maker(teacher, RequestOptions.of(recipe))
    on_disk = answer_lengths(recipe, teacher.logs.answers)
    wanted = [make(p, i) for p in sample.prompts for i in range(options.samples_per_prompt)]
    tokens = {request.key: num_prompt_tokens(request, tokenizer) for request in wanted}
    left = [request.key for request in wanted if request.key not in on_disk]
    num_written = num_written_by(recipe)
    more = further(options, len(sample.prompts), num_written, num_kept, num)
    mean = sum(tokens.values()) / len(wanted)
    return _Left(
        len(wanted),
        len(wanted) - len(left),
        num_written,
        len(left) + more,
        sum(tokens[key] for key in left) + more * mean,
        mean,
    )


def _question_lengths(sample: PilotSample, answers: Sequence[Answer]) -> list[int]:
    """Return the tokens of what the judge is asked about each answer, as the teacher's; [] without one."""
    if sample.generation.recipe.generate.judge_min_score is None:
        return []
    texts = [llm_judge.question(answer).full_text for answer in answers]
    encoded = sample.teacher.tokenizers.asked(texts, add_special_tokens=False).input_ids
    return [len(ids) for ids in encoded]


def given_lengths(sample: PilotSample) -> list[int]:
    """Return the tokens of each answer that the rows have themselves."""
    if not sample.given:
        return []
    encoded = sample.teacher.tokenizers.asked(sample.given, add_special_tokens=False).input_ids
    return [len(ids) + 1 for ids in encoded]  # and its end


def spread(prompts: list[Prompt], num: int) -> list[Prompt]:
    """Return `num` prompts (or all), each language by its share.

    A larger number takes the same and more.
    """
    position: dict[str, float] = {}  # between 0 and 1, evenly spaced in each language
    for of_language in pilot_sample.in_random_order(prompts).values():
        for i, prompt in enumerate(of_language):
            position[prompt.id] = (i + 0.5) / len(of_language)
    ids = set(sorted(position, key=lambda i: position[i])[:num])
    return [prompt for prompt in prompts if prompt.id in ids]


def further(
    options: Generate, num_prompts: int, num_written: int, num_kept: int, num: int
) -> Range:
    """Return the requests beyond the first for each prompt that is there.

    Those are further draws (max_tries), as if a prompt whose answer is dropped once never had a
    good one, and prompts that the teacher writes, as if each were worth asking.
    """
    low, high = wilson(num_kept, num)
    dropped = 1 - np.array([high, num_kept / num, low])
    most = options.max_tries or options.samples_per_prompt
    draws = options.samples_per_prompt + dropped * (most - options.samples_per_prompt)
    return num_written * (1 + draws) + num_prompts * (draws - options.samples_per_prompt)


def projected_usage(
    options: Generate,
    num_requests: Range,
    prompt_tokens: Range,
    answer_tokens: Range,
    measured: Measured | None,
) -> dict[str, Range]:
    """Return what so many requests and tokens take.

    Where a server says how many tokens it counted, as it counts them: that is what it bills, and
    what the limits go by.
    """
    usage = {"requests": num_requests}
    if measured is not None and measured.answer_tokens:
        if measured.num_bytes:
            bytes_a_token = measured.num_bytes / (measured.prompt_tokens + measured.answer_tokens)
            usage["megabytes"] = (prompt_tokens + answer_tokens) * bytes_a_token / 1e6
        usage["hours"] = answer_tokens * measured.seconds / measured.answer_tokens / 3600
        if measured.billed_answer_tokens:
            prompt_tokens = prompt_tokens * measured.billed_prompt_tokens / measured.prompt_tokens
            answer_tokens = answer_tokens * measured.billed_answer_tokens / measured.answer_tokens
    usage |= {
        "prompt tokens": prompt_tokens,
        "answer tokens": answer_tokens,
        "tokens": prompt_tokens + answer_tokens,
    }
    if options.price_prompt or options.price_answer:
        cost = prompt_tokens * options.price_prompt + answer_tokens * options.price_answer
        usage["cost"] = cost / 1e6
    return usage


def text(recipe: Recipe, estimate: Estimate) -> str:
    """Return what `distill generate --estimate` prints."""
    options, num = recipe.generate, len(estimate.lengths)
    low, mean, high = mean_interval(estimate.lengths, 0, options.max_new_tokens)
    languages = ", ".join(f"{code} {count}" for code, count in estimate.languages.items())
    others = {name: count for name, count in estimate.reasons.items() if name != "truncated"}
    num_cut, num_others = estimate.reasons.get("truncated", 0), sum(others.values())
    dropped = ", ".join(f"{name} {count}" for name, count in others.items()) or "none"
    lines = [
        f"teacher {_named(recipe)}: {estimate.num_wanted:,} answers wanted, "
        f"{estimate.num_on_disk:,} of them on disk",
        f"told from {num} answers ({languages}), with 95 % intervals; "
        f"more answers (--estimate {4 * num}) make them narrower",
        f"  {mean:.0f} tokens each [{low:.0f}, {high:.0f}]; {percent(num_cut, num)} cut at "
        f"generate.max_new_tokens {options.max_new_tokens}; "
        f"{percent(num_others, num)} dropped otherwise: {dropped}",
        "left to ask:",
    ]
    for name in SHOWN:
        if name in estimate.usage:
            lines.append(f"  {name:<14} {_range_text(estimate.usage[name])}")
    judge = options.judge_model or "the teacher"
    judged = f"to be judged afterwards by {judge} (generate.judge_min_score)"
    lines += _usage_lines(judged, estimate.judging)
    scored = "to be scored by the server afterwards (capture.from_server: scores)"
    lines += _usage_lines(scored, estimate.scoring)
    lines += _notes(recipe, estimate)
    if of_servers := _of_servers(recipe, estimate):
        section, fields = "generate", vars(options)
        if recipe.route:
            section, fields = recipe.teacher_section, vars(recipe.teacher)
        lines += _limits(section, fields, estimate.used, of_servers)
    return "\n".join(lines)


def _usage_lines(heading: str, usage: Mapping[str, Range]) -> list[str]:
    if not usage:
        return []
    shown = [f"  {name:<14} {_range_text(usage[name])}" for name in SHOWN if name in usage]
    return [f"{heading}:", *shown]


def _of_servers(recipe: Recipe, estimate: Estimate) -> dict[str, Range]:
    """Return what is asked of servers in all, which is what the limits count; {}: nothing is."""
    parts = [estimate.scoring]
    if estimate.on_server:
        parts.append(estimate.usage)
    if estimate.on_server or recipe.generate.judge_server is not None:
        parts.append(estimate.judging)
    return together(*parts)


def text_of_all(recipe: Recipe, found: Sequence[tuple[Recipe, Estimate]]) -> str:
    """Return the text of each teacher's estimate; of several also what all take together."""
    texts = [text(view, of_teacher) for view, of_teacher in found]
    if recipe.teachers is None:
        return texts[0]
    usage = _sum([of_teacher.usage for _, of_teacher in found])
    lines = ["all teachers together, one after the other:"]
    lines += [f"  {name:<14} {_range_text(usage[name])}" for name in SHOWN if name in usage]
    if usages := [usage for view, one in found if (usage := _of_servers(view, one))]:
        used = Usage()
        for _, of_teacher in found:
            used.add(of_teacher.used)
        lines += _limits("generate", vars(recipe.generate), used, _sum(usages))
    return "\n\n".join([*texts, "\n".join(lines)])


def _sum(found: Sequence[Mapping[str, Range]]) -> dict[str, Range]:
    """Return what several teachers take together; what is not known of one is not known of all."""
    names = [name for name in found[0] if all(name in one for one in found)]
    return {name: np.sum([one[name] for one in found], axis=0) for name in names}


def _named(recipe: Recipe) -> str:
    return f"{recipe.route} ({recipe.teacher.model})" if recipe.route else recipe.teacher.model


def _notes(recipe: Recipe, estimate: Estimate) -> list[str]:
    """Return how far the figures can be trusted, and what is not in them."""
    options = recipe.generate
    notes = [f"warning: {estimate.warning}"] if estimate.warning else []
    notes.append(_speed_note(options, estimate))
    notes += _server_notes(estimate)
    if estimate.num_written:
        notes.append(
            f"{estimate.num_written:,} prompts that the teacher writes are counted as answers are, "
            "and as if each were worth asking"
        )
    if options.max_tries is not None:
        notes.append(
            "further draws (max_tries) are counted as if a prompt whose first answer is dropped "
            "never had a good one"
        )
    if recipe.rounds is not None:
        notes.append(_rounds_note(recipe, estimate))
    if estimate.num_given:
        notes.append(
            f"not asked for: {estimate.num_given:,} answers that are given with their prompts"
            + (", but scored" if recipe.capture.scores_answers else "")
        )
    if estimate.judging:
        notes.append(
            f"a verdict is counted as {VERDICT_TOKENS} tokens, once for each answer that passes the other "
            "filters; a judge that reasons first writes far more"
        )
    return notes


def _rounds_note(recipe: Recipe, estimate: Estimate) -> str:
    """Return what rounds ask beside these figures, if the student's answers are as long as these."""
    options = recipe.rounds
    assert options is not None
    num_rounds = options.num_rounds * recipe.train.repeats
    num_prompts = estimate.num_wanted / recipe.generate.samples_per_prompt + estimate.num_given
    each = answers_a_round(recipe, options, num_prompts)
    answer = sum(estimate.lengths) / max(len(estimate.lengths), 1)
    tokens = num_rounds * each * (estimate.mean_prompt_tokens + answer)
    served = f" in {num_rounds * each:,.0f} requests" if recipe.capture.from_server else ""
    return (
        f"beside these figures: up to {num_rounds} rounds, in each of which the student writes about "
        f"{each:,.0f} answers; the teacher scores them, with their prompts {tokens / 1000:,.0f} "
        f"thousand tokens in all{served}, and writes none (`distill plan` reckons the time)"
    )


def _speed_note(options: Generate, estimate: Estimate) -> str:
    measured = estimate.measured
    if measured is None:
        return (
            "time is not measured: all of these answers were on disk already; "
            "a larger --estimate asks some more"
        )
    rate = measured.answer_tokens / max(measured.seconds, 1e-9)
    speed = f"{rate:.3g} answer tokens/s, measured on {measured.num_answers} answers"
    if not estimate.on_server:
        return f"{speed} side by side; larger batches are faster (teacher.batch_tokens)"
    return (
        f"{speed} with at most {measured.at_once} requests at once; "
        f"generate.concurrency allows {options.concurrency}"
    )


def _server_notes(estimate: Estimate) -> list[str]:
    notes = []
    if not estimate.on_server:
        return notes
    if estimate.measured and not estimate.measured.billed_answer_tokens:
        notes.append(
            "the server does not say what it counts: tokens are the tokenizer's, for max_tokens and "
            "max_cost, too"
        )
    if "cost" not in estimate.usage:
        notes.append(
            "cost is not known: set generate.price_prompt and generate.price_answer, prices of a "
            "million tokens"
        )
    return notes


def _limits(
    section: str, limits: Mapping[str, Any], total: Usage, usage: Mapping[str, Range]
) -> list[str]:
    """Return whether each limit would stop the run, with what is used of it already (`total`)."""
    used = {
        "requests": total.requests,
        "tokens": total.tokens,
        "cost": total.cost,
        "megabytes": total.num_bytes / 1e6,
    }
    lines = []
    for name in LIMITS:
        most = limits.get(f"max_{name}")
        if most is not None and name in usage:
            left = max(0, most - used.get(name, 0))
            lines.append(f"{section}.max_{name} {most:,} {_verdict(left, usage[name])}")
    return lines


def _verdict(left: float, projected: Range) -> str:
    low, mean, high = projected
    if low > left:
        verdict = "would stop it before the end"
    elif high > left:
        verdict = "may stop it before the end"
    else:
        verdict = "is enough"
    share = f", after about {left / mean:.0%} of what is left" if mean > left else ""
    return f"{verdict}{share}"


def _range_text(values: Range) -> str:
    """Return `1,200 [1,000, 1,400]`, or one number where that is sure."""
    low, mean, high = (_number_text(value) for value in values)
    return mean if low == high else f"{mean} [{low}, {high}]"


def _number_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
