"""What a model is evaluated on, and what it makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import chat
from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import Row, read_jsonl
from distill.core.stored_json import broken, field_problem
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.models import find
from distill.recipe import Recipe
from distill.shaping.reencode import Reencoder
from distill.shaping.trimmed import TrimmedVocabulary

TokenAnswer = tuple[list[int], str]  # token ids, and stop, length or error


@dataclass(frozen=True)
class EvalSet:
    """What every model is asked: prompts as token ids, and the teacher's sampled answers to them.

    An answer is None where it was cut: it is left out. `marks`: what whoever answers may write round
    an answer (chat.answer_marks).
    """

    recipe: Recipe
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    teacher_ids: list[list[int] | None]
    tokenizer: Any
    stop_ids: list[int]
    marks: tuple[chat.Marks, ...] = ()

    def scored(self) -> list[int]:
        """Return the numbers of the prompts that have a teacher's answer with an end."""
        return [i for i, ids in enumerate(self.teacher_ids) if ids is not None]

    def longest(self) -> int:
        """Return the tokens of the longest sequence that a model may have to read or write."""
        most = max(map(len, self.prompt_ids)) + self.recipe.evaluate.max_new_tokens
        pairs = zip(self.prompt_ids, self.teacher_ids, strict=True)
        return max([most, *(len(prompt) + len(answer) for prompt, answer in pairs if answer)])


@dataclass(frozen=True)
class ModelAnswers:
    """What a model made of an EvalSet.

    `answers`: greedy, one a prompt. `nll`: nats of the teacher's whole answer, by the prompt's
    number; empty where the model scores nothing. `runtime` is told in the report.
    """

    answers: list[TokenAnswer]
    nll: dict[int, float]
    seconds: float
    runtime: str


def eval_sets(
    recipe: Recipe,
    prompts: list[Prompt],
    tokenizers: Tokenizers,
    answers: Path,
    student: Path,
    trimmed: TrimmedVocabulary | None = None,
) -> tuple[EvalSet, EvalSet]:
    """Return what the students are evaluated on, and what the teacher is.

    It is the same where they have one tokenizer, else each in its own, and the teacher's without
    answers to score. `answers`: the file of the teacher's answers. `student`: the trained student's
    folder. `trimmed`: its vocabulary, where that is trimmed. Raises DataError if the teacher
    finished none, or the file is not of these prompts.
    """
    rows = _read_answers(answers, prompts)
    stop_ids = rows[0]["stop_ids"]
    prompt_ids = [tokenizers.prompt_ids(recipe, list(p.messages)) for p in prompts]
    targets = [
        _target_ids(recipe, tokenizers, prompt, ids, row)
        for prompt, ids, row in zip(prompts, prompt_ids, rows, strict=True)
    ]
    if all(ids is None for ids in targets):
        raise DataError(
            f"{answers}: the teacher finished none of {len(rows)} answers; "
            "raise generate.max_new_tokens"
        )
    marks = chat.answer_marks(tokenizers.teacher, recipe.teacher.model)
    if tokenizers.same and trimmed is None:
        eval_set = EvalSet(recipe, prompts, prompt_ids, targets, tokenizers.asked, stop_ids, marks)
        return eval_set, eval_set
    nothing: list[list[int] | None] = [None] * len(prompts)
    teachers = EvalSet(recipe, prompts, prompt_ids, nothing, tokenizers.asked, stop_ids, marks)
    # the end alone: reasoning that never came to an answer
    targets = [ids if ids and len(ids) > 1 else None for ids in targets]
    tokenizer = tokenizers.student
    students_prompt_ids = [tokenizers.students_prompt_ids(recipe, p.messages) for p in prompts]
    if trimmed is not None:
        tokenizer, reencoder = trimmed.tokenizer, Reencoder.of(tokenizer, trimmed)
        students_prompt_ids = [
            reencoder.prompt_ids(recipe, tokenizers, p.messages) for p in prompts
        ]
        targets = [ids and reencoder.answer_ids(ids) for ids in targets]
    students = EvalSet(
        recipe,
        prompts,
        students_prompt_ids,
        targets,
        tokenizer,
        chat.stop_ids(tokenizer, find.stop_ids_of_files(str(student))),
        chat.answer_marks(tokenizer),
    )
    return students, teachers


_ROW = {"prompt_id": str, "token_ids": list, "finish_reason": str, "stop_ids": list}


def _read_answers(path: Path, prompts: Sequence[Prompt]) -> list[Row]:
    """Return the rows of the teacher's answers to `prompts`.

    Raises DataError, with the way out, if the file is broken or not of these prompts.
    """
    way_out = "delete it and run `distill evaluate RECIPE`"
    try:
        rows = [row for _, row in read_jsonl(path)]
    except DataError as error:
        raise DataError(f"{error}; {way_out}") from None
    problems = (field_problem(row, _ROW) for row in rows)
    problem = next(filter(None, problems), None)
    if problem is None and [row["prompt_id"] for row in rows] != [p.id for p in prompts]:
        problem = f"{len(rows)} answers, and not those to the {len(prompts)} held-out prompts"
    if problem is not None:
        raise broken(path, problem, way_out)
    return rows


def _target_ids(
    recipe: Recipe, tokenizers: Tokenizers, prompt: Prompt, prompt_ids: list[int], row: Row
) -> list[int] | None:
    """Return a teacher's answer as the student would write it; None where it was cut."""
    if row["finish_reason"] != "stop":
        return None
    answer_ids = row["token_ids"]
    text = chat.text_of(tokenizers.asked, answer_ids)
    return tokenizers.training_ids(recipe, prompt.messages, prompt_ids, answer_ids, text)[1]
