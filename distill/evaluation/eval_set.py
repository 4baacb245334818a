"""What a model is evaluated on, and what it makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill import chat
from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import Row, read_jsonl
from distill.core.stored_json import broken, field_problem
from distill.data.samples import GIVEN, Prompt
from distill.errors import DataError, MismatchError
from distill.models import find
from distill.recipe import Recipe
from distill.shaping.reencode import Reencoder
from distill.shaping.trimmed import TrimmedVocabulary

TokenAnswer = tuple[list[int], str]  # token ids, and stop, length or error


@dataclass(frozen=True)
class EvalSet:
    """What every model is asked: prompts as token ids, and the answers to them that it is scored on.

    Those are the teacher's sampled ones or, where a prompt's row has one (`answers: given`), that. An
    answer is None where it was cut: it is left out. `num_bytes`: of the text of each, which is
    the same for every model whatever its tokens (`_num_bytes`); 0 where it is left out. `marks`: what
    whoever answers may write round an answer (chat.answer_marks). `unscored`: why all answers are
    left out here.
    """

    recipe: Recipe
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    teacher_ids: list[list[int] | None]
    num_bytes: list[int]
    tokenizer: Any
    stop_ids: list[int]
    marks: tuple[chat.Marks, ...] = ()
    unscored: str | None = None

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
    number; empty where the model scores nothing, and `unscored` says why where that is its runtime's
    doing. `runtime` is told in the report.
    """

    answers: list[TokenAnswer]
    nll: dict[int, float]
    seconds: float
    runtime: str
    unscored: str | None = None


def eval_sets(
    recipe: Recipe,
    prompts: list[Prompt],
    tokenizers: Tokenizers,
    answers: Path,
    student: Path,
    trimmed: TrimmedVocabulary | None = None,
) -> tuple[EvalSet, EvalSet]:
    """Return what the students are evaluated on, and what the teacher is.

    It is the same where they have one tokenizer, else the same texts, each in its own. `answers`:
    the file of the teacher's answers. `student`: the trained student's folder. `trimmed`: its
    vocabulary, where that is trimmed. Raises DataError if the teacher finished none, or the file is
    not of these prompts.
    """
    rows = _read_answers(answers, prompts)
    stop_ids = rows[0]["stop_ids"]
    prompt_ids = [tokenizers.prompt_ids(recipe, list(p.messages)) for p in prompts]
    targets = [
        _target_ids(recipe, tokenizers, prompt, ids, row)
        for prompt, ids, row in zip(prompts, prompt_ids, rows, strict=True)
    ]
    if not tokenizers.same:  # the end alone: reasoning that never came to an answer
        targets = [ids if ids and len(ids) > 1 else None for ids in targets]
    if all(ids is None for ids in targets):
        raise DataError(
            f"{answers}: none of its {len(rows)} answers came to an end; raise generate.max_new_tokens"
        )
    num_bytes = [
        0 if target is None else _num_bytes(recipe, tokenizers, ids, row["token_ids"])
        for target, ids, row in zip(targets, prompt_ids, rows, strict=True)
    ]
    asked = EvalSet(
        recipe,
        prompts,
        prompt_ids,
        targets,
        num_bytes,
        tokenizers.asked,
        stop_ids,
        chat.answer_marks(tokenizers.teacher, recipe.teacher.model),
    )
    if tokenizers.same and trimmed is None:
        return asked, asked
    students = _in_students_tokens(asked, tokenizers, trimmed, student)
    if tokenizers.same:
        return students, asked
    return students, _in_teachers_tokens(asked, tokenizers, rows)


def question_sets(
    recipe: Recipe,
    prompts: list[Prompt],
    tokenizers: Tokenizers,
    stop_ids: list[int],
    student: Path,
    trimmed: TrimmedVocabulary | None = None,
) -> tuple[EvalSet, EvalSet]:
    """Return what the students are asked, and what the teacher is, where nothing is scored.

    `stop_ids`: of the teacher. `student`, `trimmed`: as in `eval_sets`.
    """
    asked = EvalSet(
        recipe,
        prompts,
        [tokenizers.prompt_ids(recipe, list(p.messages)) for p in prompts],
        [None] * len(prompts),
        [0] * len(prompts),
        tokenizers.asked,
        stop_ids,
        chat.answer_marks(tokenizers.teacher, recipe.teacher.model),
    )
    if tokenizers.same and trimmed is None:
        return asked, asked
    return _in_students_tokens(asked, tokenizers, trimmed, student), asked


def _in_students_tokens(
    eval_set: EvalSet, tokenizers: Tokenizers, trimmed: TrimmedVocabulary | None, student: Path
) -> EvalSet:
    """Return the set with prompts, answers and ends as a student with other tokens has them."""
    recipe, prompts = eval_set.recipe, eval_set.prompts
    tokenizer, targets = tokenizers.student, eval_set.teacher_ids
    if trimmed is None:
        prompt_ids = [tokenizers.students_prompt_ids(recipe, p.messages) for p in prompts]
    else:
        reencoder = Reencoder.of(tokenizer, trimmed)
        tokenizer = trimmed.tokenizer
        prompt_ids = [reencoder.prompt_ids(recipe, tokenizers, p.messages) for p in prompts]
        targets = [None if ids is None else reencoder.answer_ids(ids) for ids in targets]
    return replace(
        eval_set,
        prompt_ids=prompt_ids,
        teacher_ids=targets,
        tokenizer=tokenizer,
        stop_ids=chat.stop_ids(tokenizer, find.stop_ids_of_files(str(student))),
        marks=chat.answer_marks(tokenizer),
    )


def _in_teachers_tokens(eval_set: EvalSet, tokenizers: Tokenizers, rows: Sequence[Row]) -> EvalSet:
    """Return the set with the answers in the teacher's own tokens, as its prompts are already.

    It is scored on all answers that the students are scored on or, where one of those cannot be its
    own, on none: else its figure would be of other texts than theirs.
    """
    nothing: list[list[int] | None] = [None] * len(rows)
    targets = list(nothing)
    unscored = _why_unscored(eval_set, tokenizers)
    for number in eval_set.scored() if unscored is None else ():
        try:
            targets[number] = chat.target_ids(
                eval_set.recipe,
                tokenizers.teacher,
                eval_set.prompts[number].messages,
                eval_set.prompt_ids[number],
                rows[number]["token_ids"],
            )
        except MismatchError as error:
            targets, unscored = nothing, str(error)
            break
    num_bytes = [
        0 if ids is None else num for ids, num in zip(targets, eval_set.num_bytes, strict=True)
    ]
    return replace(eval_set, teacher_ids=targets, num_bytes=num_bytes, unscored=unscored)


def _why_unscored(eval_set: EvalSet, tokenizers: Tokenizers) -> str | None:
    """Return why the teacher cannot be scored on what the students are, None where it can."""
    if tokenizers.teacher is None:
        return "it is known by its text alone"
    if eval_set.recipe.generate.reasoning != "drop":
        return None
    if any(chat.opens_thinking(tokenizers.teacher, ids) for ids in eval_set.prompt_ids):
        return (
            "its chat template opens the reasoning, and what is scored has none "
            "(generate.reasoning: drop)"
        )
    return None


def _num_bytes(
    recipe: Recipe, tokenizers: Tokenizers, prompt_ids: list[int], answer_ids: list[int]
) -> int:
    """Return the UTF-8 bytes of what the teacher said, as far as a student shall say it.

    That is the answer, and its reasoning where that is kept. What a template or a family writes
    round them (end token, marks, white space) is scored, for it is written, but counts no byte, for
    each model writes its own.
    """
    text = chat.text_of(tokenizers.asked, answer_ids)
    reasoning, answer, _ = tokenizers.split_answer(recipe, prompt_ids, text)
    if reasoning is not None and recipe.generate.reasoning != "drop":
        answer = reasoning + answer
    return len(answer.encode("utf-8"))


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
    wanted = [(prompt.id, prompt.is_given) for prompt in prompts]
    if problem is None and [(row["prompt_id"], bool(row.get(GIVEN))) for row in rows] != wanted:
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
