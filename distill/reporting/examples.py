"""What the models answered to the same prompts, side by side on the page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distill.reporting.measures import Example

MODELS = ("teacher", "student", "control")  # in the page's order; the quantized files are left out


@dataclass(frozen=True)
class Answer:
    """What one model answered; `right` is None where no task checks it."""

    model: str
    text: str
    right: bool | None


@dataclass(frozen=True)
class AnsweredPrompt:
    """A held-out prompt in a language (a BCP 47 tag), and the answers to it."""

    prompt: str
    language: str
    answers: list[Answer]


def side_by_side(examples: Mapping[str, Sequence[Example]]) -> list[AnsweredPrompt]:
    """Return the first prompt of each language with its answers; `examples`: those of each model."""
    prompts: dict[str, AnsweredPrompt] = {}
    for model in MODELS:
        for row in _first_of_each_language(examples.get(model, ())):
            language = row["language"]
            answered = prompts.setdefault(language, AnsweredPrompt(row["prompt"], language, []))
            answered.answers.append(Answer(model, row["answer"], row["right"]))
    return list(prompts.values())


def _first_of_each_language(rows: Iterable[Example]) -> list[Example]:
    """Return the same rows for every model: all were asked the same prompts in the same order."""
    first: dict[str, Example] = {}
    for row in rows:
        first.setdefault(row["language"], row)
    return list(first.values())
