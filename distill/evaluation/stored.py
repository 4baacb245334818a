"""evaluate/<model>.json: the figures of one model and a row an example, as evaluate wrote them."""

from pathlib import Path
from typing import Any

from distill.core.results import ModelFigures
from distill.core.stored_json import broken, field_problem, read_json, write_json

WAY_OUT = "delete it and run `distill evaluate RECIPE`: this model is evaluated again"
_EXAMPLE = {
    "prompt": str,
    "language": str,
    "answer": str,
    "num_tokens": int,
    "nll": int | float | None,
    "num_bytes": int | None,
}
NOT_COUNTED = {"num_bytes": None}  # by earlier versions, whose figures are taken without


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    write_json(path, figures)


def read_figures(path: Path) -> dict[str, Any]:
    """Return what `write_figures` wrote. Raises DataError, with the way out, where it is not that."""
    try:
        figures = read_json(path, WAY_OUT)
    except FileNotFoundError:
        raise broken(path, "gone", "run `distill evaluate RECIPE --redo evaluate`") from None
    if problem := _problem(figures):
        raise broken(path, problem, WAY_OUT)
    return figures | {"examples": [NOT_COUNTED | example for example in figures["examples"]]}


def model_figures(path: Path, figures: dict[str, Any]) -> ModelFigures:
    """Return them without the examples. Raises DataError where a figure is missing."""
    values = {name: value for name, value in figures.items() if name != "examples"}
    try:
        return ModelFigures(**values)
    except TypeError as error:
        raise broken(path, str(error), WAY_OUT) from None


def _problem(figures: dict[str, Any]) -> str | None:
    """Return what is wrong with the examples, or None."""
    if problem := field_problem(figures, {"examples": list}):
        return problem
    for number, example in enumerate(figures["examples"]):
        problem = "no object"
        if isinstance(example, dict):
            problem = field_problem(NOT_COUNTED | example, _EXAMPLE)
        if problem or "right" not in example:
            return f"examples.{number}: {problem or 'right: missing'}"
    return None
