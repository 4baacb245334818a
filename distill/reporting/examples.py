"""What the models answered to the same prompts, side by side on the page."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distill.core.jsonl import Row
from distill.core.results import EvaluateResult
from distill.evaluation.stored import read_figures

MODELS = ("teacher", "student", "control")  # in the page's order; the quantized files are left out


@dataclass(frozen=True)
class Answer:
    """What one model answered; `right` is None where no task checks it."""

    model: str
    text: str
    right: bool | None


@dataclass(frozen=True)
class Example:
    """A held-out prompt in a language (a BCP 47 tag), and the answers to it."""

    prompt: str
    language: str
    answers: list[Answer]


def read_examples(stage: Path, result: EvaluateResult) -> list[Example]:
    """Return the first prompt of each language with its answers, from the folder of `evaluate`."""
    examples: dict[str, Example] = {}
    for model in MODELS:
        if model not in result.models:
            continue
        answered = read_figures(stage / f"{model}.json")["examples"]
        for row in _first_of_each_language(answered):
            example = examples.setdefault(
                row["language"], Example(row["prompt"], row["language"], [])
            )
            example.answers.append(Answer(model, row["answer"], row["right"]))
    return list(examples.values())


def _first_of_each_language(rows: Iterable[Row]) -> list[Row]:
    """Return the same rows for every model: all were asked the same prompts in the same order."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["language"], row)
    return list(first.values())
