"""Read licences.yaml and teachers.yaml, the files beside this one, and check every row of them.

What the fields mean is explained at the top of each file. A field that is None is not known.
"""

from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Strict, ValidationError, model_validator

from distill.errors import DataError

LICENCES = Path(__file__).with_name("licences.yaml")
TEACHERS = Path(__file__).with_name("teachers.yaml")

Level = Literal["allow", "attribution", "restricted", "manual_review", "undeclared", "forbid"]
Checked = Literal["verified", "secondary", "memory"]

# A list of YAML becomes a tuple; what is in it is as strict as everything else
Texts = Annotated[tuple[str, ...], Strict(False)]
Pair = Annotated[tuple[str, str], Strict(False)]
Shape = Annotated[tuple[int | None, int | None, int | None, int | None, int | None], Strict(False)]
Sampling = Annotated[tuple[float | None, float | None, float | None], Strict(False)]


class Row(BaseModel):
    """A row of a file: no key that is not a field, and no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Licence(Row):
    """A licence as far as distillation goes."""

    key: str
    spdx: str
    outputs: Level
    logits: Level
    weights: Level
    commercial: Level
    checked: Checked
    duties_outputs: Texts
    duties_weights: Texts
    note: str | None = None
    name_prefix: str | None = None
    same_family_outputs: Level | None = None


class Template(Row):
    """How a chat template treats reasoning."""

    key: str
    thinking: Literal["never", "always", "on", "off"]
    source: str
    checked: Checked
    tags: Literal["both", "close", "channels"] | None = None
    answer: Pair | None = None
    switch: Literal["enable_thinking", "thinking"] | None = None
    history: Literal["dropped", "kept"] | None = None
    system: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _switched_or_fixed(self) -> "Template":
        if (self.thinking in ("on", "off")) != (self.switch is not None):
            raise ValueError(
                f"thinking {self.thinking!r} and switch {self.switch!r} contradict each other"
            )
        return self


class ModelFacts(Row):
    """A model that can be a teacher, or the base of a student."""

    id: str
    family: str
    licence: str
    checked: Checked
    also: Texts = ()
    group: str | None = None
    width: int | None = None
    params: int | None = None
    active: int | None = None
    shape: Shape | None = None
    context: int | None = None
    template: str | None = None
    sampling: Sampling | None = None
    sampling_thinking: Sampling | None = None
    note: str | None = None
    elsewhere: str | None = None


class LicencesFile(Row):
    """licences.yaml: the rows are checked one by one, so that an error names the row."""

    as_of: date
    licences: dict[str, dict[str, Any]]


class TeachersFile(Row):
    """teachers.yaml: the rows are checked one by one, so that an error names the row."""

    as_of: date
    sources: dict[str, str]
    templates: dict[str, dict[str, Any]]
    teachers: list[dict[str, Any]]


@cache
def licences() -> dict[str, Licence]:
    """Return the licences by key."""
    content = checked_row(LicencesFile, read_yaml(LICENCES), str(LICENCES))
    return {
        key: checked_row(Licence, {"key": key, **values}, f"{LICENCES}: {key}")
        for key, values in content.licences.items()
    }


@cache
def teachers_file() -> TeachersFile:
    """Return teachers.yaml, its rows not checked yet."""
    return checked_row(TeachersFile, read_yaml(TEACHERS), str(TEACHERS))


@cache
def templates() -> dict[str, Template]:
    """Return the chat templates by key."""
    return {
        key: checked_row(Template, {"key": key, **values}, f"{TEACHERS}: {key}")
        for key, values in teachers_file().templates.items()
    }


@cache
def models() -> dict[str, ModelFacts]:
    """Return the models by hub id, in the file's order; one of several ids is under each."""
    by_id: dict[str, ModelFacts] = {}
    for values in teachers_file().teachers:
        where = f"{TEACHERS}: {values.get('id')}"
        model = checked_row(ModelFacts, values, where)
        _check_references(model, where)
        for model_id in (model.id, *model.also):
            if model_id in by_id:
                raise DataError(f"{TEACHERS}: {model_id} is there twice")
            by_id[model_id] = model
    return by_id


def _check_references(model: ModelFacts, where: str) -> None:
    """Raise DataError where the model names a licence, template or family that no file has."""
    references = (
        ("licence", model.licence, licences()),
        ("template", model.template, templates()),
        ("family", model.family, teachers_file().sources),
    )
    for field, value, known in references:
        if value is not None and value not in known:
            raise DataError(f"{where}: {field} {value!r} is not one of {', '.join(known)}")


def read_yaml(path: Path) -> Any:
    """Return what a file of the catalogue holds, not checked yet."""
    # libyaml's safe loader where PyYAML has it: ten times as fast, the same types
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


R = TypeVar("R", bound=Row)


def checked_row(row_type: type[R], values: Any, where: str) -> R:
    """Return the row of these values.

    Raises DataError with a line for each problem, which begins with `where`: the file, and the
    row's key.
    """
    try:
        return row_type.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {_problem(row_type, problem)}" for problem in error.errors()]
        raise DataError("\n".join(lines)) from None


def _problem(row_type: type[Row], problem: Mapping[str, Any]) -> str:
    """Return what pydantic found wrong in a row as field, value and what is allowed."""
    field = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {field!r}; known: {', '.join(row_type.model_fields)}"
    if problem["type"] == "missing":
        return f"{field} is missing"
    if problem["type"] == "literal_error":
        allowed = problem.get("ctx", {}).get("expected")
        return f"{field} {problem['input']!r} is none of {allowed}"
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    return f"{field} {problem['input']!r}: {problem['msg']}"
