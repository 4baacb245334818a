"""A teacher's answers on their way to the student: as the filters see them, and as it learns them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import Row
from distill.core.lazy_sequence import LazySequence
from distill.data.samples import Sample
from distill.filters.base import Answer
from distill.recipe import Recipe
from distill.teachers.requests import Request


class Filtered(NamedTuple):
    """Each answer as the filters see it, and why it is dropped (None: kept)."""

    answers: Sequence[Answer]
    reasons: list[str | None]


class Candidates(LazySequence[Answer, "Candidates"]):
    """Answers as the filters see them; each is read from the log when it is asked for.

    `rows`: of the log, by key.
    """

    def __init__(
        self,
        recipe: Recipe,
        requests: Sequence[Request],
        rows: Mapping[str, Row],
        tokenizers: Tokenizers,
    ):
        self._recipe = recipe
        self._requests = requests
        self._rows = rows
        self._tokenizers = tokenizers

    def __len__(self) -> int:
        return len(self._requests)

    def _some(self, chosen: slice) -> "Candidates":
        return Candidates(self._recipe, self._requests[chosen], self._rows, self._tokenizers)

    def _item(self, number: int) -> Answer:
        request = self._requests[number]
        return candidate(self._recipe, request, self._rows[request.key], self._tokenizers)


def candidate(recipe: Recipe, request: Request, row: Row, tokenizers: Tokenizers) -> Answer:
    """Return an answer as the filters see it; `row`: of the log."""
    reasoning, answer, complete = tokenizers.split_answer(recipe, request.prompt_ids, row["text"])
    if recipe.generate.reasoning == "drop":
        reasoning = None  # nobody learns it, so nothing in it can be wrong
    num_reasoning_tokens = 0
    if reasoning:
        ids = tokenizers.student(reasoning, add_special_tokens=False).input_ids
        num_reasoning_tokens = len(ids)
    return Answer(
        prompt=request.prompt.text,
        prompt_id=request.prompt.id,
        answer_text=answer,
        reasoning=reasoning,
        num_reasoning_tokens=num_reasoning_tokens,
        finish_reason=row["finish_reason"] if complete else "length",
        language=request.prompt.language,
        reference=request.prompt.reference,
        is_translation=request.prompt.is_translation,
        verify=request.prompt.verify,
        refusals=request.prompt.refusals,
        is_given=request.prompt.is_given,
    )


def unlearnable(
    tokenizers: Tokenizers, candidate: Answer, row: Row, given: str | None = None
) -> str | None:
    """Return that an answer holds a control token of a model, if so: it could end the answer.

    `given`: the answer as its row has it, where the teacher did not write it (`answers: given`): the
    row of the log has no control tokens as text.
    """
    text = f"{candidate.reasoning or ''}\n{candidate.answer_text}\n{given or ''}"
    mark = tokenizers.mark_in_answer(text, row["token_ids"][:-1])  # a cut answer is dropped anyway
    return f"format: {mark!r}, a control token or a template's mark, is in it" if mark else None


def sample_row(
    recipe: Recipe, tokenizers: Tokenizers, request: Request, answer: Answer, row: Row
) -> Row:
    """Return a kept answer as the student learns it; `row`: of the log.

    `recipe`: where there are several teachers, the view of the one that answered.
    """
    prompt = request.prompt
    prompt_ids, answer_ids = tokenizers.training_ids(
        recipe, prompt.messages, request.prompt_ids, row["token_ids"], row["text"]
    )
    sample = Sample(
        request.key,
        prompt.id,
        prompt.text,
        prompt.language,
        prompt.reference,
        answer.answer_text,
        prompt_ids,
        answer_ids,
        recipe.route,
        given=prompt.is_given,
    )
    return sample.row()


def dropped_rows(
    requests: Sequence[Request], reasons: Sequence[str | None], rows: Mapping[str, Row]
) -> Iterator[Row]:
    """Yield the answers that are not kept, with their reasons. `rows`: of the log, by key."""
    for request, reason in zip(requests, reasons, strict=True):
        if reason is not None:
            yield _dropped(request, rows[request.key], reason)


def _dropped(request: Request, row: Row, reason: str) -> Row:
    return {
        "key": request.key,
        "prompt": request.prompt.text,
        "language": request.prompt.language,
        "answer": row["text"],
        "reason": reason,
    }
