"""Ask the recipe's teacher for every answer that is not on disk.

Each answer is in the log the moment it ends. Independent jobs divide the requests by their prompts'
ids (`--shard 1/4`), and the processes of a job its blocks (core/leases.py).
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain

from distill.core.digests import digest
from distill.core.jsonl import Row, RowLog
from distill.core.leases import assigned_blocks, static_share
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.recipe import Recipe
from distill.teachers.base import Teacher
from distill.teachers.log import (
    AnswerLog,
    LoggedAnswers,
    final_rows,
    pilot_groups,
    read_log,
)
from distill.teachers.logged_rows import LOG_PROBS, OWN_LOG_PROBS, RAW
from distill.teachers.requests import AnswerJob, Block, Completion, Request, RequestOptions


def ask(
    teacher: Teacher,
    requests: Sequence[Request],
    options: RequestOptions,
    log: AnswerLog,
    processes: Processes,
    bar: Progress | None = None,
) -> float:
    """Ask for every answer that is not on disk; return the seconds that took, loading apart.

    `bar`: the caller's, where these are some of its answers.
    """
    recipe, longest = teacher.recipe, options.sampling.max_new_tokens
    log.folder.mkdir(parents=True, exist_ok=True)
    logged = read_log(log)
    if logged.bad and processes.is_main:
        print(
            f"{log.work}: {log.folder}: {len(logged.bad):,} rows are set aside, and asked for again "
            f"({logged.bad[0]})",
            file=sys.stderr,
        )
    known = _lengths_of(requests, recipe, logged, longest)
    processes.barrier()  # every rank has read the same log before anyone adds to it
    if bar is not None:
        bar.advance(sum(request.key in known for request in requests))
    seconds = 0.0
    with teacher.dividing(processes) as sharing:
        if sharing is not None:
            seconds = _ask_share(teacher, requests, options, log, sharing, known, bar)
    processes.barrier()
    return seconds


def _ask_share(
    teacher: Teacher,
    requests: Sequence[Request],
    options: RequestOptions,
    log: AnswerLog,
    processes: Processes,
    known: dict[str, int],
    bar: Progress | None,
) -> float:
    """Ask for what is this process's and not `known`; return the seconds that took, loading apart."""
    recipe, longest = teacher.recipe, options.sampling.max_new_tokens
    blocks = {
        _name_of(recipe, block): block
        for block in blocks_of(teacher, requests, options, log, processes)
    }
    seconds = 0.0
    with assigned_blocks(
        processes,
        log.leases,
        blocks,
        is_done=lambda block: all(r.key in known for r in block.requests),
        refresh=lambda: known.update(_lengths_of(requests, recipe, read_log(log), longest)),
    ) as todo:
        first = next(todo, None)
        if first is not None:
            teacher.load()
            started = time.monotonic()
            mine = static_share(processes, list(blocks.values()))
            own = bar or _bar(teacher, log, mine, known, shown=processes.is_main)
            needs_ids = not all(request.is_conversation for request in requests)
            with nullcontext() if bar else own:
                _answer(teacher, chain([first], todo), options, log, known, own, needs_ids)
            seconds = time.monotonic() - started
    return seconds


def _answer(
    teacher: Teacher,
    blocks: Iterator[Block],
    options: RequestOptions,
    log: AnswerLog,
    known: dict[str, int],
    bar: Progress,
    needs_ids: bool,
) -> None:
    """Ask for what is missing of the blocks, into a file of the log that is this process's own."""
    with RowLog(log.folder) as rows:
        teacher.budget.leave_out(rows.path)
        record = _recorder(teacher, options, known, rows, bar)
        teacher.answer(AnswerJob(blocks, options, known, record, bar.say, needs_ids=needs_ids))


def _bar(
    teacher: Teacher, log: AnswerLog, mine: list[Block], known: dict[str, int], *, shown: bool
) -> Progress:
    """Return the bar over all requests that may be this process's."""
    keys = [request.key for block in mine for request in block.requests]
    num_done = sum(key in known for key in keys)
    label = f"{log.work} ({teacher.describe()})"
    return Progress(label, len(keys), log.unit, done=num_done, shown=shown)


def _recorder(
    teacher: Teacher, options: RequestOptions, known: dict[str, int], rows: RowLog, bar: Progress
) -> Callable[[Request, Completion], None]:
    def record(request: Request, completion: Completion) -> None:
        """Write an answer the moment it ends, unless an earlier run already has."""
        if request.key in known:
            return
        rows.append(raw_row(teacher, request, completion, options))
        known[request.key] = len(completion.token_ids or [])
        bar.advance(1)

    return record


def answer_lengths(recipe: Recipe, log: AnswerLog) -> dict[str, int]:
    """Return the number of tokens of every answer that is on disk and final, by its key."""
    return _lengths(recipe, read_log(log))


def _lengths_of(
    requests: Sequence[Request], recipe: Recipe, logged: LoggedAnswers, longest: int
) -> dict[str, int]:
    """Return the lengths of the answers to these requests alone.

    No teacher has written what was given with its prompt and stands beside them.
    """
    lengths = _lengths(recipe, logged, longest)
    return {r.key: lengths[r.key] for r in requests if r.key in lengths}


def _lengths(recipe: Recipe, logged: LoggedAnswers, longest: int | None = None) -> dict[str, int]:
    num_tokens = logged.rows.heads.num_tokens
    numbers = final_rows(logged.rows, recipe, longest).numbers
    return {key: num_tokens[number] for key, number in numbers.items()}


def blocks_of(
    teacher: Teacher,
    requests: Sequence[Request],
    options: RequestOptions,
    log: AnswerLog,
    processes: Processes,
) -> list[Block]:
    """Return which requests of this job are answered together."""
    of_job = [r for r in requests if processes.is_mine(r.prompt.id, r.sample_index)]
    return teacher.blocks(of_job, options, processes, pilot_groups(log.stage))


def _name_of(recipe: Recipe, block: Block) -> str:
    """Return the name of a block, the same in every process.

    What was done for a shorter limit is not done for a longer one.
    """
    options = recipe.generate
    keys = (request.key for request in block.requests)
    return digest(str(options.max_new_tokens), str(options.retry_errors), *keys)


def raw_row(
    teacher: Teacher, request: Request, completion: Completion, options: RequestOptions
) -> Row:
    """Return what the log keeps of an answer.

    `finish_reason`: stop, length, or error (`text` is then the server's words).
    """
    row: Row = {
        "key": request.key,
        "prompt_id": request.prompt.id,
        "sample_index": request.sample_index,
        "seed": request.seed,
        "finish_reason": completion.finish_reason,
        "max_new_tokens": options.sampling.max_new_tokens,
        "text": completion.text if completion.error is None else completion.error,
        "token_ids": completion.token_ids or [],
        "teacher": teacher.model,
        "teacher_licence": teacher.licence,
        "server_model": teacher.served_name,
    }
    if completion.usage is not None:
        row["server"] = completion.usage.row()
    if completion.error is not None and completion.raw:
        row[RAW] = completion.raw
    if completion.log_probs is not None:
        vocab_size = len(teacher.tokenizers.asked)
        num = teacher.num_log_probs(options)
        from distill.signals import from_server

        row[LOG_PROBS] = from_server.packed(completion.log_probs, num, vocab_size)
        if teacher.recipe.capture.signal == "chunks":
            token_ids = completion.token_ids or []
            row[OWN_LOG_PROBS] = from_server.packed_own(completion.log_probs, token_ids)
    return row
