"""benchmark/<model>/<benchmark>.<language>.json: the rows of one model, as they came.

It is written after every block of questions: a run that was killed goes on where it was. A file
counts where it is of the same model, the same questions and the same way of scoring; else it is made
anew. So a benchmark that is added later asks no other one again.
"""

from pathlib import Path
from typing import Any

from distill.benchmarks.answering import Model
from distill.benchmarks.asking import AskedRow
from distill.benchmarks.items import Questions
from distill.core.digests import digest
from distill.core.stored_json import broken, field_problem, read_json, write_json

FIRST_SCORING = 1
SCORING = 1  # the version of asking.py and encoding.py
WAY_OUT = "delete it and run `distill benchmark RECIPE`: it is made again"
_KINDS = {  # the fields of a row and their types, and those that say yes or no
    "choices": (
        {"chosen": int, "chosen_by_byte": int, "log_likelihoods": list},
        ("right", "right_by_byte", "cut"),
    ),
    "number": ({"answer": str}, ("right", "cut")),
}


def path_of(stage: Path, model: str, questions: Questions) -> Path:
    """Return the file of a model's rows."""
    return stage / model / f"{questions.benchmark.name}.{questions.language}.json"


def write_rows(path: Path, model: Model, questions: Questions, rows: list[AskedRow]) -> None:
    """Write the rows, of all questions or of the first ones."""
    write_json(path, {"key": _key(model, questions), "model": model.name, "rows": rows})


def read_rows(path: Path, model: Model, questions: Questions) -> list[AskedRow]:
    """Return the rows that `write_rows` wrote; none where they are of something else, or not there.

    Raises DataError, with the way out, where the file is broken.
    """
    try:
        stored = read_json(path, WAY_OUT)
    except FileNotFoundError:
        return []
    if stored.get("key") != _key(model, questions):
        return []
    rows: Any = stored.get("rows")
    if problem := _problem(rows, questions):
        raise broken(path, problem, WAY_OUT)
    return rows


def _key(model: Model, questions: Questions) -> str:
    return digest(str(SCORING), model.digest, questions.digest)


def _problem(rows: Any, questions: Questions) -> str | None:
    """Return what is wrong with rows, or None."""
    if not isinstance(rows, list) or len(rows) > len(questions.items):
        return f"not the rows of {len(questions.items)} questions"
    kinds, flags = _KINDS[questions.benchmark.kind]
    for place, (row, item) in enumerate(zip(rows, questions.items, strict=False)):
        if not isinstance(row, dict) or row.get("number") != item.number:
            return f"rows.{place}: not that of question {item.number}"
        if missing := [name for name in flags if not isinstance(row.get(name), bool)]:
            return f"rows.{place}: {missing[0]}: missing"
        if problem := field_problem(row, kinds):
            return f"rows.{place}: {problem}"
    return None
