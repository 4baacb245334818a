"""Ask the recipe's teacher for every answer that is not on disk: loaded here, as a GGUF file, or on a server.

Each answer is in the log the moment it ends. Independent jobs divide the requests by their prompts' ids (`--shard 1/4`), and the
processes of a job its blocks (leases.py). Where the teacher is loaded here those are cut from all requests of the job, not from the
missing ones, so that a run that was killed ends with the same answers.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from distill import chat
from distill.core import shutdown
from distill.core.digests import digest
from distill.core.jsonl import Row, RowLog
from distill.core.leases import divided, share
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.models import find, load
from distill.models.batching import blocks_by_length
from distill.recipe import Recipe
from distill.signals import from_server
from distill.teachers.log import (
    LOG_PROBS,
    RAW,
    Request,
    final_rows,
    num_log_probs,
    raw_row,
    read_answers,
)
from distill.teachers.server.budget import Spent

LEAST_CLAIM, FEWEST_CLAIMS = (
    8,
    64,
)  # requests in a block that a job claims; blocks, so that the last ones end together
UNITS = {"raw": "answers", "raw_prompts": "prompts", "judged": "verdicts"}  # what a log holds


def ask(
    recipe: Recipe,
    requests: list[Request],
    raw: Path,
    location: str,
    tokenizer: Any,
    processes: Processes,
    spent: Spent,
    more_stop_ids: Sequence[int] = (),
) -> float:
    """Ask for every answer that is not on disk; return the seconds that it took, the loading of a transformers model apart.

    `spent`: what this run has used of its limits on a server, all calls together; `more_stop_ids` end an answer beside those
    that always do.
    """
    seconds = 0.0
    raw.mkdir(parents=True, exist_ok=True)
    on_disk = answered(recipe, raw)
    processes.barrier()  # every rank has read the same log before anyone adds to it
    blocks = {_name_of(b, recipe): b for b in _blocks(recipe, requests, raw.parent, processes)}
    mine = [r.key for block in share(processes, list(blocks.values())) for r in block.requests]
    count = len(mine), sum(key in on_disk for key in mine)
    with divided(
        processes,
        raw.parent / "leases",
        blocks,
        lambda block: all(r.key in on_disk for r in block.requests),
        lambda: on_disk.update(answered(recipe, raw)),
    ) as todo:
        if (first := next(todo, None)) is not None:
            work = Asking(
                recipe,
                chain([first], todo),
                count,
                on_disk,
                raw,
                location,
                tokenizer,
                processes,
                more_stop_ids,
            )
            if recipe.teacher.server:
                seconds = _ask_server(work, requests, spent)
            else:
                seconds = (_ask_gguf if recipe.teacher.gguf else _ask_here)(work)
    processes.barrier()
    return seconds


def answered(recipe: Recipe, raw: Path) -> dict[str, int]:
    """Tokens of every answer that is on disk and final, by key."""
    rows, _ = read_answers(raw)
    return {key: len(row["token_ids"]) for key, row in final_rows(rows, recipe).items()}


@dataclass(frozen=True)
class Asked:
    """Requests that are answered together, with so many slots where the teacher is loaded here."""

    requests: list[Request]
    num_slots: int = 0


@dataclass(frozen=True)
class Asking:
    """Blocks to ask, as they are claimed; `count`: all requests that may be ours, and those answered before; `answered` grows."""

    recipe: Recipe
    blocks: Iterator[Asked]
    count: tuple[int, int]
    answered: dict[str, int]
    raw: Path
    location: str
    tokenizer: Any
    processes: Processes
    more_stop_ids: Sequence[int]

    def bar(self, where: str) -> Progress:
        total, done = self.count
        return Progress(
            f"generate ({where})",
            total,
            UNITS[self.raw.name],
            done=done,
            shown=self.processes.is_main,
        )

    def record(self, request: Request, row: Row, log: RowLog, bar: Progress) -> None:
        """Write an answer the moment it ends, unless an earlier run already has."""
        if request.key in self.answered:
            return
        log.append(row)
        self.answered[request.key] = len(row["token_ids"])
        bar.advance(1)


def _ask_here(work: Asking) -> float:
    """Load the teacher and ask block by block."""
    from distill.models.decode import Sampling, answer

    recipe, tokenizer = work.recipe, work.tokenizer

    where = load.placement(recipe.teacher.device, recipe.teacher.dtype, recipe.teacher.quantization)
    model = load.load_model(
        work.location,
        where,
        revision=recipe.teacher.revision,
        trust_remote_code=recipe.teacher.trust_remote_code,
        local_rank=work.processes.local_rank,
    )
    options = recipe.generate
    sampling = Sampling(options.sampling_temperature, options.top_p, options.top_k)
    stop_ids = sorted({*chat.stop_ids(tokenizer, load.stop_ids(model)), *work.more_stop_ids})
    with RowLog(work.raw) as log, work.bar(str(where)) as bar:
        for block in work.blocks:
            asked = block.requests
            known_lengths = {
                i: work.answered[r.key] for i, r in enumerate(asked) if r.key in work.answered
            }
            answer(
                model,
                [r.prompt_ids for r in asked],
                seeds=[r.seed for r in asked],
                sampling=sampling,
                max_new_tokens=options.max_new_tokens,
                stop_ids=stop_ids,
                pad_id=tokenizer.pad_token_id,
                on_finished=_recorder(work, asked, log, bar),
                vocab_size=len(tokenizer),
                num_slots=block.num_slots,
                known_lengths=known_lengths,
            )
        return bar.seconds


def _blocks(
    recipe: Recipe, requests: list[Request], stage: Path, processes: Processes
) -> list[Asked]:
    """Which requests of this job are answered together. Here that decides the answers, so it follows from all of them and what
    was asked first stays together: those blocks are finished. Elsewhere a share is one block, or a claim a small part."""
    requests = [r for r in requests if processes.is_mine(r.prompt.id, r.sample_index)]
    if recipe.teacher.server or recipe.teacher.gguf:
        if not processes.leases:
            return [Asked(requests[i :: processes.num]) for i in range(processes.num)]
        most = 16 * (recipe.generate.concurrency if recipe.teacher.server else LEAST_CLAIM)
        size = max(LEAST_CLAIM, min(most, len(requests) // FEWEST_CLAIMS))
        return [Asked(requests[i : i + size]) for i in range(0, len(requests), size)]
    groups = [set(group) for group in probed(stage)]
    parts: list[list[Request]] = [[] for _ in range(len(groups) + 1)]
    for request in requests:
        parts[next((g for g, group in enumerate(groups) if request.prompt.id in group), -1)].append(
            request
        )
    found = []
    for part in parts:
        widths = [len(r.prompt_ids) + recipe.generate.max_new_tokens for r in part]
        blocks = blocks_by_length(widths, recipe.teacher.batch_tokens)
        found += [Asked([part[i] for i in block.indices], block.num_slots) for block in blocks]
    return found


def _name_of(block: Asked, recipe: Recipe) -> str:
    """Of equal blocks in every process; what was done for a shorter limit is not done for a longer one."""
    options = recipe.generate
    return digest(
        str(options.max_new_tokens), str(options.retry_errors), *(r.key for r in block.requests)
    )


def probed(stage: Path) -> list[list[str]]:
    """Ids of the prompts that were asked before the others in this run folder (first_answers.py), a list each time."""
    path = stage / "probe.json"
    return json.loads(path.read_text(encoding="utf-8"))["groups"] if path.is_file() else []


def _ask_gguf(work: Asking) -> float:
    """Ask the recipe's GGUF file for what is missing."""
    from distill.teachers import gguf_teacher

    recipe = work.recipe
    model_ids = find.stop_ids_of_files(work.location, recipe.teacher.revision)
    stop_ids = sorted({*chat.stop_ids(work.tokenizer, model_ids), *work.more_stop_ids})
    with (
        RowLog(work.raw) as log,
        work.bar(f"llama.cpp, cpu, {gguf_teacher.quantization(recipe)}") as bar,
    ):
        for block in work.blocks:
            todo = [r for r in block.requests if r.key not in work.answered]
            gguf_teacher.answer(
                recipe,
                work.tokenizer,
                [r.prompt_ids for r in todo],
                seeds=[r.seed for r in todo],
                stop_ids=stop_ids,
                on_finished=_recorder(work, todo, log, bar),
            )
        return bar.seconds


def served_stop_ids(recipe: Recipe, location: str, tokenizer: Any) -> list[int]:
    """Ids that end a server's answers; of one that gives text alone those of `tokenizer`, in which the text is counted."""
    return chat.stop_ids(
        tokenizer,
        None
        if recipe.teacher.text_only
        else find.stop_ids_of_files(location, recipe.teacher.revision),
    )


def _ask_server(work: Asking, requests: list[Request], spent: Spent) -> float:
    """Ask the recipe's server, many at once; the next block is claimed when all of the last is sent. `requests`: all of them."""
    from distill.teachers.server.adapters import Answer, Question, Sampling
    from distill.teachers.server.pool import ask_server, question

    recipe, options, tokenizer = work.recipe, work.recipe.generate, work.tokenizer
    stop_ids = {*served_stop_ids(recipe, work.location, tokenizer), *work.more_stop_ids}
    sampling = Sampling(
        options.sampling_temperature,
        options.top_p,
        options.top_k,
        options.max_new_tokens,
        tuple(sorted(stop_ids)),
        options.enable_thinking,
        num_log_probs(recipe, tokenizer),
    )
    by_key = {r.key: r for r in requests}
    questions = (
        question(recipe, r.key, r.prompt.messages, r.prompt_ids, r.seed)
        for block in work.blocks
        for r in block.requests
        if r.key not in work.answered
    )
    spent.answered = spent.answered or any(work.answered.values())
    with RowLog(work.raw) as log, work.bar(str(recipe.teacher.server)) as bar:
        if spent.ledger is not None:
            spent.ledger.leave_out(log.path)

        def record(asked: Question, answer: Answer) -> None:
            text = answer.text if answer.error is None else answer.error
            row = raw_row(
                recipe, by_key[asked.key], answer.token_ids or [], answer.finish_reason, text
            )
            if answer.took is not None:
                row["server"] = answer.took.row()
            if answer.error is not None and answer.raw:
                row[RAW] = answer.raw
            if answer.log_probs is not None:
                row[LOG_PROBS] = from_server.packed(
                    answer.log_probs, sampling.num_log_probs, len(tokenizer)
                )
            work.record(by_key[asked.key], row, log, bar)

        ask_server(
            recipe,
            tokenizer,
            questions,
            sampling,
            record,
            bar,
            spent,
            has_ids=all(r.prompt_ids for r in requests),
            needs_ids=any(
                not r.prompt.messages or r.prompt.messages[-1]["role"] == "system" for r in requests
            ),
        )
        return bar.seconds


def _recorder(
    work: Asking, asked: list[Request], log: RowLog, bar: Progress
) -> Callable[[int, list[int], str], None]:
    def record(index: int, ids: list[int], finish_reason: str) -> None:
        text = chat.text_of(work.tokenizer, ids)
        work.record(
            asked[index], raw_row(work.recipe, asked[index], ids, finish_reason, text), log, bar
        )
        shutdown.check()

    return record
