"""Answers that the rows of a source hold (`answers: given`): into the log as if the teacher had written them.

From there on they are like any other: filtered, learnt, trimmed, and told about by the teacher, which is
asked for none of them. They are written as its own chat template writes an answer, so that it says of
each token what it would say of it in its own mouth.
"""

from collections.abc import Sequence
from typing import Any

from distill import chat
from distill.core import shutdown
from distill.core.jsonl import Row, RowLog
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.data.samples import GIVEN
from distill.recipe import Recipe
from distill.teachers.answers import raw_row
from distill.teachers.base import Teacher
from distill.teachers.log import AnswerLog, read_best_rows
from distill.teachers.requests import Completion, Request, RequestOptions


def log_given(
    teacher: Teacher,
    requests: Sequence[Request],
    options: RequestOptions,
    log: AnswerLog,
    processes: Processes,
) -> None:
    """Write the given answers of this job's requests that are not in the log yet.

    Raises Stopped where it was told to.
    """
    if processes.is_main and requests:
        known = read_best_rows(log)
        mine = [r for r in requests if processes.is_mine(r.prompt.id, r.sample_index)]
        new = [request for request in mine if request.key not in known]
        if new:
            teacher.describe()  # one that is loaded here chooses its type before its log has rows
            _write(teacher, new, options, log)
    processes.barrier()


def _write(
    teacher: Teacher, requests: Sequence[Request], options: RequestOptions, log: AnswerLog
) -> None:
    label = f"{log.work} (answers that are given)"
    with RowLog(log.folder) as rows, Progress(label, len(requests), log.unit) as bar:
        for request in requests:
            shutdown.check()
            rows.append(_row(teacher, request, options))
            bar.advance(1)


def _row(teacher: Teacher, request: Request, options: RequestOptions) -> Row:
    answer, tokenizer = request.prompt.answer, teacher.tokenizers.teacher
    assert answer is not None
    completion = Completion(answer, "stop")  # text alone, where its tokens are not known
    if tokenizer is not None:
        completion = as_written(teacher.recipe, tokenizer, request.prompt.messages, answer)
    return raw_row(teacher, request, completion, options) | {GIVEN: True}


def as_written(recipe: Recipe, tokenizer: Any, messages: chat.Messages, answer: str) -> Completion:
    """Return a given answer as the teacher would have written it.

    `answer` may hold reasoning between <think> and </think>; where that is not closed it counts as cut.
    `tokenizer`: the teacher's.
    """
    marks = chat.answer_marks(tokenizer, recipe.teacher.model)
    reasoning, answer, is_whole = chat.split_thinking(answer, marks=marks)
    _, ids = chat.retokenize_answer(recipe, tokenizer, messages, reasoning, answer)
    return Completion(chat.text_of(tokenizer, ids), "stop" if is_whole else "length", ids)
