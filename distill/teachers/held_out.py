"""A teacher's answers to held-out prompts, each in a log the moment it ends, until all are there.

So none is asked for, or paid, twice, and the ranks of a launch share the asking. What is made of all
of them is one file; whoever has written that removes the logs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core.claims import Claims
from distill.core.digests import digest
from distill.core.jsonl import RowLog, placed_row_logs
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.stored_json import field_problem
from distill.data.samples import Prompt
from distill.evaluation.eval_set import TokenAnswer
from distill.recipe import Recipe
from distill.teachers.requests import AnswerJob, Completion, Request, RequestOptions

if TYPE_CHECKING:
    from distill.teachers.base import Teacher

_ROW = {
    "key": str,
    "prompt_id": str,
    "token_ids": list,
    "finish_reason": str,
    "seconds": int | float,
}


@dataclass(frozen=True)
class HeldOut:
    """Answers by their requests' keys, and the seconds that asking for them took, of all ranks."""

    answers: dict[str, TokenAnswer]
    seconds: float


def parts_of(path: Path) -> Path:
    """Return the folder of the logs of answers from which the file `path` is made."""
    return path.with_suffix(".parts")


def answer_held_out(
    teacher: "Teacher",
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[list[int]],
    options: RequestOptions,
    bar: Progress,
    parts: Path,
    processes: Processes = ALONE,
) -> tuple[list[TokenAnswer], float]:
    """Return an answer to each held-out prompt, in their order, and the seconds that they took.

    Every rank returns all. `parts`: the folder of the logs. A server is asked by the first rank
    alone: what its answers may cost is counted in one process.
    """
    requests = [
        Request(str(i), prompt, ids, 0, _seed(teacher.recipe, prompt))
        for i, (prompt, ids) in enumerate(zip(prompts, prompt_ids, strict=True))
    ]
    logged = _read(parts, requests).answers
    known = {key: len(ids) for key, (ids, _) in logged.items()}
    bar.advance(len(known))
    processes.barrier()  # every rank has read the same before anyone adds to it
    blocks = [
        block
        for block in teacher.blocks(requests, options, ALONE if teacher.on_server else processes)
        if any(request.key not in known for request in block.requests)
    ]
    todo = Claims(processes).of("block", blocks)
    asks = processes.is_main or not teacher.on_server
    first = next(todo, None) if asks else None
    if first is not None:
        with RowLog(parts) as log:

            def record(request: Request, completion: Completion) -> None:
                if request.key in known:
                    return
                known[request.key] = len(completion.token_ids or [])
                log.append(_row(request, completion, bar.seconds))
                bar.advance(1)

            teacher.answer(AnswerJob(chain([first], todo), options, known, record, bar.say))
    processes.barrier()
    found = _read(parts, requests)
    return [found.answers[request.key] for request in requests], found.seconds


def _row(request: Request, completion: Completion, seconds: float) -> dict[str, object]:
    return {
        "key": request.key,
        "prompt_id": request.prompt.id,
        "token_ids": completion.token_ids or [],
        "finish_reason": completion.finish_reason,
        "seconds": round(seconds, 3),
    }


def _read(parts: Path, requests: Sequence[Request]) -> HeldOut:
    """Return what the logs hold of these requests; torn lines and others' rows are left out."""
    wanted = {request.key: request.prompt.id for request in requests}
    answers, last = dict[str, TokenAnswer](), dict[Path, float]()
    for place, row in placed_row_logs(parts, []):
        if field_problem(row, _ROW) or wanted.get(row["key"]) != row["prompt_id"]:
            continue
        answers[row["key"]] = (row["token_ids"], row["finish_reason"])
        last[place.path] = row["seconds"]
    return HeldOut(answers, sum(last.values()))


def _seed(recipe: Recipe, prompt: Prompt) -> int:
    """Return the seed of the teacher's sampled answer to a held-out prompt."""
    return int(digest("evaluate", str(recipe.seed), prompt.id)[:8], 16) >> 1
