"""What we know about models and licences, and what a pair of teacher and student base may be used for.

The YAML files beside this one hold the facts; this is the only code that reads them. Not legal advice.
"""

import difflib
import json
from dataclasses import MISSING, dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from distill.errors import DataError, RecipeError

Level = Literal["allow", "attribution", "restricted", "manual_review", "undeclared", "forbid"]
LEVELS: tuple[Level, ...] = (
    "allow",
    "attribution",
    "restricted",
    "manual_review",
    "undeclared",
    "forbid",
)  # mild to strict
Use = Literal["outputs", "logits"]

_FOLDER = Path(__file__).parent
_CHECKED = ("verified", "secondary", "memory")
_ONE_OF = {
    "thinking": ("never", "always", "on", "off"),
    "tags": ("both", "close", "channels"),
    "history": ("dropped", "kept"),
    "switch": ("enable_thinking", "thinking"),
}


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence as far as distillation goes; the levels are explained at the top of licences.yaml."""

    key: str
    spdx: str
    outputs: Level
    logits: Level
    weights: Level
    commercial: Level
    checked: str
    duties_outputs: tuple[str, ...]
    duties_weights: tuple[str, ...]
    note: str | None = None
    name_prefix: str | None = None
    same_family_outputs: Level | None = None


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a chat template treats reasoning; the fields are explained at the top of teachers.yaml. None = not known."""

    key: str
    thinking: str
    source: str
    checked: str
    tags: str | None = None
    switch: str | None = None
    history: str | None = None
    system: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model; the fields are explained at the top of teachers.yaml. None = not known."""

    id: str
    family: str
    licence: str
    checked: str
    also: tuple[str, ...] = ()
    group: str | None = None
    width: int | None = None
    params: int | None = None
    active: int | None = None
    shape: tuple[int | None, ...] | None = None
    context: int | None = None
    template: str | None = None
    sampling: tuple[float | None, ...] | None = None
    sampling_thinking: tuple[float | None, ...] | None = None
    note: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the licences of teacher and base allow together: the strictest of both counts.

    `level` is about training and publishing the student, `commercial` about earning money with it. `name_prefix` is what
    the student's name must begin with.
    """

    level: Level
    commercial: Level
    sentences: list[str]
    duties: list[str]
    name_prefix: str | None = None


def find(model_id: str) -> Teacher | None:
    """The model of exactly this hub id, or None. Ids differ by a letter and by a licence, so nothing is guessed."""
    return _teachers().get(model_id)


def teachers() -> list[Teacher]:
    """Every model of the catalogue once, in the file's order."""
    return list(dict.fromkeys(_teachers().values()))


def near(model_id: str) -> list[str]:
    """Up to three ids like this one, for a message."""
    by_lower = {known.lower(): known for known in _teachers()}
    wanted = model_id.lower()
    found = [i for i in by_lower if i.endswith("/" + wanted)] or difflib.get_close_matches(
        wanted, by_lower, n=3
    )
    return [by_lower[i] for i in found[:3]]


def template(model: Teacher) -> Template | None:
    return _templates()[model.template] if model.template is not None else None


def source(model: Teacher) -> str:
    """Where its facts are from, and the day they were checked."""
    content = _content()
    return f"{content['sources'][model.family]} (checked {content['as_of']})"


def licence(key: str) -> Licence:
    """Raises RecipeError for a key that is not in licences.yaml, naming the nearest one."""
    if key not in _licences():
        near = difflib.get_close_matches(key.lower(), _licences(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_licences())}"
        raise RecipeError(f"licence {key!r} is not in the catalogue; {hint}")
    return _licences()[key]


def spdx(model_id: str, declared: str | None) -> str | None:
    """SPDX identifier of a model's licence: the catalogue's, else the one that the recipe declares, else None."""
    known = find(model_id)
    key = known.licence if known is not None else declared
    return licence(key).spdx if key is not None else None


def verdict(
    teacher_id: str,
    student_base_id: str | None,
    *,
    declared_teacher: str | None = None,
    declared_base: str | None = None,
    use: Use = "logits",
) -> Verdict:
    """May a student that starts from `student_base_id` (None: random weights) learn the teacher's `use`?

    A licence declared in the recipe counts where the catalogue does not know the model; where both speak, the stricter
    counts. Raises RecipeError for a declared licence that is not in licences.yaml.
    """
    known_teacher = find(teacher_id)
    known_base = find(student_base_id) if student_base_id is not None else None
    related = (
        known_teacher is not None
        and known_base is not None
        and known_teacher.family == known_base.family
    )
    parts = _verdicts("teacher", teacher_id, known_teacher, declared_teacher, use, related)
    if student_base_id is not None:
        parts += _verdicts(
            "student", student_base_id, known_base, declared_base, "weights", related
        )
    duties = list(dict.fromkeys(duty for part in parts for duty in part.duties))
    return Verdict(
        level=_strictest([part.level for part in parts]),
        commercial=_strictest([part.commercial for part in parts]),
        sentences=list(dict.fromkeys(sentence for part in parts for sentence in part.sentences)),
        duties=duties,
        name_prefix=next((part.name_prefix for part in parts if part.name_prefix), None),
    )


def _strictest(levels: list[Level]) -> Level:
    return LEVELS[max(map(LEVELS.index, levels))]


def _verdicts(
    section: str,
    model_id: str,
    known: Teacher | None,
    declared: str | None,
    use: str,
    related: bool,
) -> list[Verdict]:
    """One verdict for each licence that speaks about this model."""
    found = [] if known is None else [_verdict(model_id, licence(known.licence), use, related)]
    if declared is not None and (known is None or declared != known.licence):
        found.append(_verdict(model_id, licence(declared), use, related))
        if known is not None:
            found[-1].sentences.append(
                f"{model_id}: the recipe declares {declared}, the catalogue says {known.licence}; the stricter counts"
            )
    if known is not None and known.checked != "verified":
        source = "from memory" if known.checked == "memory" else "from a report"
        found[0].sentences.append(
            f"{model_id}: we know its licence {source} only; check its model card before you publish"
        )
    if known is not None and known.note:
        found[0].sentences.append(f"{model_id}: {known.note}")
    if found:
        return found
    message = (
        f"{model_id}: its licence is not in the catalogue; read its model card and declare it in the recipe, "
        f"e.g. `{section}.licence: apache-2.0`"
    )
    return [Verdict("undeclared", "undeclared", [message], [])]


_MEANING: dict[Level, str] = {
    "allow": "allowed",
    "attribution": "allowed, with duties",
    "restricted": "allowed with limits on use",
    "manual_review": "not decided: read the licence",
    "forbid": "forbidden",
    "undeclared": "not declared",
}


def _verdict(model_id: str, terms: Licence, use: str, related: bool) -> Verdict:
    by_use: dict[str, Level] = {
        "outputs": terms.outputs,
        "logits": terms.logits,
        "weights": terms.weights,
    }
    level = by_use[use]
    if use != "weights" and related and terms.same_family_outputs is not None:
        level = terms.same_family_outputs
    what = {
        "outputs": "learning from its answers",
        "logits": "learning from its probabilities",
        "weights": "starting from its weights",
    }[use]
    sentence = f"{model_id} ({terms.key}): {what} is {_MEANING[level]}; commercial use of the student is {_MEANING[terms.commercial]}"
    sentence += f" ({terms.note})" if terms.note else ""
    duties = terms.duties_weights if use == "weights" else terms.duties_outputs
    return Verdict(
        level,
        terms.commercial,
        [sentence],
        [f"{model_id}: {duty}" for duty in duties],
        terms.name_prefix,
    )


@lru_cache(maxsize=1)
def _licences() -> dict[str, Licence]:
    path = _FOLDER / "licences.yaml"
    result = {}
    for key, values in _read(path, {"licences": dict})["licences"].items():
        result[key] = row = _row(path, Licence, key, {"key": key, **values})
        for name in ("outputs", "logits", "weights", "commercial", "same_family_outputs"):
            if getattr(row, name) not in (None, *LEVELS):
                raise DataError(
                    f"{path}: {key}: {name} {getattr(row, name)!r} is none of {', '.join(LEVELS)}"
                )
    return result


@lru_cache(maxsize=1)
def _content() -> dict[str, Any]:
    return _read(_FOLDER / "teachers.yaml", {"sources": dict, "templates": dict, "teachers": list})


@lru_cache(maxsize=1)
def _templates() -> dict[str, Template]:
    path = _FOLDER / "teachers.yaml"
    result = {}
    for key, values in _content()["templates"].items():
        result[key] = row = _row(path, Template, key, {"key": key, **values})
        for name, allowed in _ONE_OF.items():
            if getattr(row, name) not in (None, *allowed):
                raise DataError(
                    f"{path}: {key}: {name} {getattr(row, name)!r} is none of {', '.join(allowed)}"
                )
        if (row.thinking in ("on", "off")) != (row.switch is not None):
            raise DataError(
                f"{path}: {key}: thinking {row.thinking!r} and switch {row.switch!r} contradict each other"
            )
    return result


@lru_cache(maxsize=1)
def _teachers() -> dict[str, Teacher]:
    path = _FOLDER / "teachers.yaml"
    result: dict[str, Teacher] = {}
    for values in _content()["teachers"]:
        row = _row(path, Teacher, str(values.get("id")), values)
        for name, value, known in (
            ("licence", row.licence, _licences()),
            ("template", row.template, _templates()),
            ("family", row.family, _content()["sources"]),
        ):
            if value is not None and value not in known:
                raise DataError(
                    f"{path}: {row.id}: {name} {value!r} is not one of {', '.join(known)}"
                )
        for name, length in (("sampling", 3), ("sampling_thinking", 3), ("shape", 5)):
            if getattr(row, name) is not None and len(getattr(row, name)) != length:
                raise DataError(
                    f"{path}: {row.id}: {name} {getattr(row, name)!r} has not {length} places"
                )
        for model_id in (row.id, *row.also):
            if model_id in result:
                raise DataError(f"{path}: {model_id} is there twice")
            result[model_id] = row
    return result


def _read(path: Path, sections: dict[str, type]) -> dict[str, Any]:
    # libyaml's safe loader where PyYAML has it: ten times as fast, the same types
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    values = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    if not isinstance(values, dict) or values.keys() != {"as_of", *sections}:
        raise DataError(
            f"{path}: expected `as_of` and {' and '.join(f'`{name}`' for name in sections)}"
        )
    for name, kind in sections.items():
        if not isinstance(values[name], kind):
            raise DataError(
                f"{path}: {name} is a {type(values[name]).__name__}, expected a {kind.__name__}"
            )
    return values


def _row(path: Path, kind: Any, name: str, values: dict[str, Any]) -> Any:
    """A frozen row; every key must be a field and every field without a default must be there."""
    known = {f.name: f for f in fields(kind)}
    if unknown := sorted(values.keys() - known.keys()):
        raise DataError(f"{path}: {name}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    if missing := [n for n, f in known.items() if n not in values and f.default is MISSING]:
        raise DataError(f"{path}: {name}: {missing[0]} is missing")
    if values["checked"] not in _CHECKED:
        raise DataError(
            f"{path}: {name}: checked {values['checked']!r} is none of {', '.join(_CHECKED)}"
        )
    try:
        return _adapter(kind).validate_json(
            json.dumps(values), strict=True
        )  # of JSON, strict takes a list as a tuple
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {name}: {field} {first['input']!r}: {first['msg']}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
