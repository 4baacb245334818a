"""Read licences.yaml and teachers.yaml, the files beside this one, and check every row of them.

What the fields mean is explained at the top of each file. A field that is None is not known.
"""

from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from distill.errors import DataError

LICENCES = Path(__file__).with_name("licences.yaml")
TEACHERS = Path(__file__).with_name("teachers.yaml")

Level = Literal["allow", "attribution", "restricted", "manual_review", "undeclared", "forbid"]
Checked = Literal["verified", "secondary", "memory"]
DutyKind = Literal[
    "attribution", "notice", "name", "text", "use", "threshold", "changes", "credit", "other"
]
SENTENCES: dict[str, str] = {
    "attribution": "show '{says}'",
    "notice": "ship a NOTICE file that says '{says}'",
    "name": "begin the student's name with {says}",
    "text": "ship {says}",
    "use": "pass on the acceptable use policy: {says}",
    "threshold": "above {above}: {says}",
    "changes": "{says}",
    "credit": "{says}",
    "other": "{says}",
}

# A list of YAML becomes a tuple; what is in it is as strict as everything else
Texts = Annotated[tuple[str, ...], Strict(False)]
Pair = Annotated[tuple[str, str], Strict(False)]
Shape = Annotated[tuple[int | None, int | None, int | None, int | None, int | None], Strict(False)]
Sampling = Annotated[tuple[float | None, float | None, float | None], Strict(False)]


class Row(BaseModel):
    """A row of a file: no key that is not a field, and no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Duty(Row):
    """What a licence asks of whoever passes a student on: see the top of licences.yaml.

    A threshold has `users` a month, or `revenue` in `currency` a month or year, or both.
    """

    kind: DutyKind
    says: str
    of: Literal["both", "weights", "outputs"] = "both"
    users: int | None = None
    revenue: int | None = None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] | None = None
    per: Literal["month", "year"] | None = None

    @model_validator(mode="after")
    def _threshold_has_its_numbers(self) -> "Duty":
        has_numbers = self.users is not None or self.revenue is not None
        if has_numbers != (self.kind == "threshold"):
            raise ValueError("users and revenue belong to kind: threshold, which needs one of them")
        if len({value is None for value in (self.revenue, self.currency, self.per)}) > 1:
            raise ValueError("revenue, currency and per belong together")
        return self

    @property
    def sentence(self) -> str:
        """Return the duty in words."""
        return SENTENCES[self.kind].format(says=self.says, above=self._above)

    @property
    def _above(self) -> str:
        limits = []
        if self.users is not None:
            limits.append(f"{self.users:,} monthly users")
        if self.revenue is not None:
            limits.append(f"{self.revenue:,} {self.currency} revenue a {self.per}")
        return " or ".join(limits)


class Licence(Row):
    """A licence as far as distillation goes."""

    key: str
    name: str
    spdx: str
    hub: str | None = None
    link: str | None = None
    text: str | None = None
    outputs: Level
    logits: Level
    weights: Level
    commercial: Level
    checked: Checked
    source: str
    duties: Annotated[tuple[Duty, ...], Strict(False)]
    note: str | None = None
    same_family_outputs: Level | None = None

    def duties_of(self, use: str) -> list[Duty]:
        """Return the duties of a student that makes this use of the model.

        `use`: weights, or outputs or logits.
        """
        of = "weights" if use == "weights" else "outputs"
        return [duty for duty in self.duties if duty.of in (of, "both")]

    @property
    def duties_outputs(self) -> list[str]:
        """Return the duties of who learnt from the model, in words."""
        return [duty.sentence for duty in self.duties_of("outputs")]

    @property
    def duties_weights(self) -> list[str]:
        """Return the duties of who began from its weights, in words."""
        return [duty.sentence for duty in self.duties_of("weights")]


class DataLicence(Row):
    """A licence of data that a student is trained on."""

    key: str
    name: str
    level: Level
    commercial: Level
    credit: str | None = None
    limit: str | None = None
    link: str | None = None


class LicenceSince(Row):
    """From when on a model has had a licence; `revisions` of the hub that are known to have it."""

    since: date
    licence: str
    revisions: Texts = ()


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
    history: Annotated[tuple[LicenceSince, ...], Strict(False)] = ()


class LicencesFile(Row):
    """licences.yaml: the rows are checked one by one, so that an error names the row."""

    as_of: date
    licences: dict[str, dict[str, Any]]
    data: dict[str, dict[str, Any]]


class TeachersFile(Row):
    """teachers.yaml: the rows are checked one by one, so that an error names the row."""

    as_of: date
    sources: dict[str, str]
    templates: dict[str, dict[str, Any]]
    teachers: list[dict[str, Any]]


@cache
def licences_file() -> LicencesFile:
    """Return licences.yaml, its rows not checked yet."""
    return checked_row(LicencesFile, read_yaml(LICENCES), str(LICENCES))


@cache
def licences() -> dict[str, Licence]:
    """Return the licences by key."""
    return {
        key: checked_row(Licence, {"key": key, **values}, f"{LICENCES}: {key}")
        for key, values in licences_file().licences.items()
    }


@cache
def data_licences() -> dict[str, DataLicence]:
    """Return the licences of data by key."""
    return {
        key: checked_row(DataLicence, {"key": key, **values}, f"{LICENCES}: {key}")
        for key, values in licences_file().data.items()
    }


def licence_text(terms: Licence) -> str | None:
    """Return the whole text of a licence that is shipped with us; None where it is not."""
    if terms.text is None:
        return None
    return (LICENCES.parent / "texts" / terms.text).read_text(encoding="utf-8")


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
        *(("history", entry.licence, licences()) for entry in model.history),
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
