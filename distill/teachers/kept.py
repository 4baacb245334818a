"""A teacher's answers on their way to the student: as the filters see them, and as it learns them."""

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import Row
from distill.data.samples import Sample
from distill.filters.base import Answer
from distill.recipe import Recipe
from distill.teachers.requests import Request


class Filtered(NamedTuple):
    """Each answer as the filters see it, and why it is dropped (None: kept)."""

    answers: list[Answer]
    reasons: list[str | None]


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
    )


def unlearnable(tokenizers: Tokenizers, candidate: Answer, row: Row) -> str | None:
    """Return that an answer holds a control token of a model, if so: it could end the answer."""
    text = f"{candidate.reasoning or ''}\n{candidate.answer_text}"
    mark = tokenizers.mark_in_answer(text, row["token_ids"][:-1])  # a cut answer is dropped anyway
    return f"format: {mark!r}, a control token or a template's mark, is in it" if mark else None


def kept_and_dropped(
    recipe: Recipe,
    tokenizers: Tokenizers,
    requests: Sequence[Request],
    filtered: Filtered,
    rows: Mapping[str, Row],
) -> tuple[list[Row], list[Row]]:
    """Return the samples, as the student learns them, and the others with their reasons.

    `recipe`: where there are several teachers, the view of the one that answered. `rows`: by key.
    The ids of what is kept are packed: see `unpacked`.
    """
    kept, dropped = [], []
    for request, answer, reason in zip(requests, *filtered, strict=True):
        prompt, row = request.prompt, rows[request.key]
        if reason is not None:
            dropped.append(_dropped(request, row, reason))
            continue
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
        )
        kept.append(_packed(sample.row()))
    return kept, dropped


def _packed(row: Row) -> Row:
    """Return the row of a sample with its ids as arrays: a ninth of a list's memory."""
    return row | {name: array("i", row[name]) for name in ("prompt_ids", "answer_ids")}


def unpacked(row: Row) -> Row:
    """Return a row as it is written."""
    return {
        name: value.tolist() if isinstance(value, array) else value for name, value in row.items()
    }


def _dropped(request: Request, row: Row, reason: str) -> Row:
    return {
        "key": request.key,
        "prompt": request.prompt.text,
        "language": request.prompt.language,
        "answer": row["text"],
        "reason": reason,
    }
