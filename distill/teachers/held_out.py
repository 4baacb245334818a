"""A teacher's answers to prompts that nobody learns from: held-out ones, and delicate requests.

    generate/held_out/*.jsonl   each answer as it ended, append-only, as in generate/raw

Where a held-out row has its answer, models are scored on that one; greedily the teacher answers it, too.

What cost teacher time is asked once, whatever is killed or made anew. An answer's key holds what that
of generate does, its seed, and the limit of its length: a longer answer than a student may give is
none to compare with. Where a teacher is loaded here, neighbours decide the last bits, and all prompts
that are asked together are part of the key.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from distill.core.digests import digest
from distill.core.jsonl import Row
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.data.samples import Prompt
from distill.evaluation.eval_set import EvalSet, ModelAnswers, TokenAnswer
from distill.recipe import Recipe
from distill.teachers.answers import ask
from distill.teachers.base import Teacher
from distill.teachers.given import as_written
from distill.teachers.keys import request_maker
from distill.teachers.log import AnswerLog, read_best_rows
from distill.teachers.requests import Completion, Request, RequestOptions
from distill.teachers.server.token_ids import with_token_ids


def answers_to(
    teacher: Teacher,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[list[int]],
    options: RequestOptions,
    bar: Progress,
    processes: Processes = ALONE,
) -> list[TokenAnswer]:
    """Return an answer to each held-out prompt, in their order; asks for those that are not there.

    Ranks divide what is not there; each returns all. Nobody is asked for one that is given.
    """
    pairs = list(zip(prompts, prompt_ids, strict=True))
    asked = [(prompt, ids) for prompt, ids in pairs if not prompt.is_given]
    requests = _requests(teacher, [p for p, _ in asked], [ids for _, ids in asked], options)
    log = teacher.logs.held_out
    rows = iter(rows_of(teacher, requests, options, log, bar, processes))
    return [
        _token_answer(next(rows)) if prompt.answer is None else _given(teacher, prompt, ids)
        for prompt, ids in pairs
    ]


def _given(teacher: Teacher, prompt: Prompt, prompt_ids: Sequence[int]) -> TokenAnswer:
    """Return the answer that a prompt's row has, in the tokens in which an answer would come."""
    tokenizers = teacher.tokenizers
    assert prompt.answer is not None
    if tokenizers.teacher is None:  # known by its text alone
        whole = Completion(prompt.answer, "stop")
        made = with_token_ids(whole, tokenizers.asked, prompt_ids, teacher.stop_ids())
    else:
        made = as_written(teacher.recipe, tokenizers.teacher, prompt.messages, prompt.answer)
    assert made.token_ids is not None
    return made.token_ids, made.finish_reason


def greedy_answers(teacher: Teacher, eval_set: EvalSet, bar: Progress) -> ModelAnswers:
    """Return its greedy answers, and no NLL; `seconds`: in which it answered, before a kill, too."""
    started = time.monotonic()
    options = RequestOptions.of(teacher.recipe).with_sampling(
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=teacher.recipe.evaluate.max_new_tokens,
        num_log_probs=0,
    )
    requests = _requests(teacher, eval_set.prompts, eval_set.prompt_ids, options)
    rows = rows_of(teacher, requests, options, teacher.logs.held_out, bar)
    seconds = seconds_of(rows) or time.monotonic() - started
    why = "where it runs, nothing is scored"
    return ModelAnswers(list(map(_token_answer, rows)), {}, seconds, teacher.runtime, why)


def rows_of(
    teacher: Teacher,
    requests: Sequence[Request],
    options: RequestOptions,
    log: AnswerLog,
    bar: Progress,
    processes: Processes = ALONE,
) -> list[Row]:
    """Return the row of each request, in their order; asks for those that are not in the log."""
    distinct = list({request.key: request for request in requests}.values())
    ask(teacher, distinct, options, replace(log, work=bar.label), processes, bar)
    rows = read_best_rows(log)
    return [rows[request.key] for request in requests]


def _requests(
    teacher: Teacher,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[list[int]],
    options: RequestOptions,
) -> list[Request]:
    make = request_maker(teacher, options)
    together = "" if teacher.on_server else digest(*(prompt.id for prompt in prompts))
    limit = str(options.sampling.max_new_tokens)
    requests = []
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        made = make(replace(prompt, answer=None), 0, ids)
        seed = eval_seed(teacher.recipe, prompt)
        key = digest("held out", made.key, str(seed), limit, together)
        requests.append(replace(made, key=key, seed=seed))
    return requests


def _token_answer(row: Row) -> TokenAnswer:
    return row["token_ids"], row["finish_reason"]


def eval_seed(recipe: Recipe, prompt: Prompt) -> int:
    """Return the seed of the teacher's sampled answer to a held-out prompt."""
    return int(digest("evaluate", str(recipe.seed), prompt.id)[:8], 16) >> 1


def seconds_of(rows: Sequence[Row]) -> float:
    """Return for how many seconds a server was at some of these answers; 0 where no row says when."""
    spans = sorted(filter(None, map(_span, rows)))
    seconds, end = 0.0, float("-inf")
    for first, last in spans:
        seconds += max(0.0, last - max(first, end))
        end = max(end, last)
    return seconds


def _span(row: Row) -> tuple[float, float] | None:
    """Return the Unix times between which a row's answer was asked for, None where it says none."""
    served = row.get("server")
    if not isinstance(served, dict):
        return None
    first, last = served.get("start"), served.get("end")
    if not isinstance(first, int | float) or not isinstance(last, int | float):
        return None
    return first, last
