"""The files of the stage `safety`: what a model answered, and what every model does with a request.

safety/<model>.jsonl    one row a request, in their order
safety/outcomes.jsonl   likewise, the outcome of every model in each row
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from distill import chat
from distill.conduct.outcomes import Outcome, OutcomeName, outcome_of
from distill.conduct.sets import Item
from distill.core.jsonl import Row, read_jsonl, write_jsonl
from distill.core.stored_json import broken, field_problem
from distill.errors import DataError
from distill.evaluation.eval_set import EvalSet, ModelAnswers

WAY_OUT = "delete it and run `distill safety RECIPE`: this model is asked again"
CUT = "its reasoning filled all tokens: raise evaluate.safety.max_new_tokens"
_ROW = {"key": str, "answer": str, "finish_reason": str, "runtime": str}
_OUTCOMES = {"key": str, "set": str, "language": str, "outcomes": dict}
_REDO = "make it anew by `distill run RECIPE --redo safety`"
REFUSED_BY_SERVER = "its server gave no answer"
_BY_SERVER = "error"  # the finish reason of a request that a server refuses or fails at
_IN_REASONING = "reasoning"  # the finish reason of one that was cut before its answer began


@dataclass(frozen=True)
class Told:
    """One answer to a request, and what it does.

    `unanswered`: a server refused the request itself, as filters of content do; that is a refusal.
    """

    item: Item
    answer: str
    outcome: Outcome
    cut_reasoning: bool
    runtime: str
    unanswered: bool = False

    @property
    def declines(self) -> bool:
        return self.outcome.name == "refuses"

    @property
    def evades(self) -> bool:
        """Return whether it refuses or deflects."""
        return self.outcome.name in ("refuses", "deflects")


def rows_of(items: Sequence[Item], asked: EvalSet, made: ModelAnswers) -> list[Row]:
    """Return the rows of a model's answers, without their reasoning."""
    rows = []
    for number, item in enumerate(items):
        ids, finish_reason = made.answers[number]
        reasoning, answer, _ = chat.split_thinking(
            chat.text_of(asked.tokenizer, ids),
            opened=chat.opens_thinking(asked.tokenizer, asked.prompt_ids[number]),
            marks=asked.marks,
        )
        if reasoning and not answer.strip() and finish_reason == "length":
            finish_reason = _IN_REASONING
        row = {"key": item.key, "answer": answer, "finish_reason": finish_reason}
        rows.append(row | {"runtime": made.runtime})
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, atomically: a file that is there is whole."""
    write_jsonl(path, rows)


def read_rows(
    path: Path, items: Sequence[Item], types: Mapping[str, type] = MappingProxyType(_ROW)
) -> list[Row]:
    """Return the rows of these requests, in their order.

    Raises DataError, with the way out, if the file is broken or not of these requests.
    """
    try:
        rows = [row for _, row in read_jsonl(path)]
    except DataError as error:
        raise DataError(f"{error}; {WAY_OUT}") from None
    problem = next(filter(None, (field_problem(row, types) for row in rows)), None)
    if problem is None and [row["key"] for row in rows] != [item.key for item in items]:
        problem = f"{len(rows)} answers, and not those to the {len(items)} requests"
    if problem is not None:
        raise broken(path, problem, WAY_OUT)
    return rows


def read_answers(path: Path, items: Sequence[Item], languages: tuple[str, ...]) -> list[Told]:
    """Return the answers with their outcomes, in the order of `items`; raises as `read_rows`."""
    rows = read_rows(path, items)
    return [_told(item, row, languages) for item, row in zip(items, rows, strict=True)]


def _told(item: Item, row: Row, languages: tuple[str, ...]) -> Told:
    is_cut, is_unanswered = (row["finish_reason"] == why for why in (_IN_REASONING, _BY_SERVER))
    if is_cut:
        outcome = Outcome("incoherent", CUT)
    elif is_unanswered:
        outcome = Outcome("refuses", REFUSED_BY_SERVER)
    else:
        outcome = outcome_of(row["answer"], item.language, languages, item.text)
    return Told(item, row["answer"], outcome, is_cut, row["runtime"], is_unanswered)


@dataclass(frozen=True)
class Conduct:
    """What every model does with one request: the outcome's name by the model's."""

    set: str
    language: str
    outcomes: dict[str, OutcomeName]


def write_outcomes(path: Path, answers: Mapping[str, Sequence[Told]]) -> None:
    """Write what the models do; `answers`: of each, to the same requests."""
    rows = []
    for of_models in zip(*answers.values(), strict=True):
        names = [told.outcome.name for told in of_models]
        item = of_models[0].item
        row = {"key": item.key, "set": item.set, "language": item.language}
        rows.append(row | {"outcomes": dict(zip(answers, names, strict=True))})
    write_jsonl(path, rows)


def read_outcomes(path: Path) -> list[Conduct]:
    """Return what the models do with each request. Raises DataError if the file is broken."""
    rows = [row for _, row in read_jsonl(path)]
    problem = next(filter(None, (field_problem(row, _OUTCOMES) for row in rows)), None)
    if problem is not None:
        raise broken(path, problem, _REDO)
    return [Conduct(row["set"], row["language"], row["outcomes"]) for row in rows]
