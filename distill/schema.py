"""What a section of the recipe is made of and how it is explained, and the one that may stand in a list: a source of prompts."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from distill.errors import RecipeError

FILES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt")
Column = Literal["prompt", "messages", "language", "reference", "id", "persona", "place"]
Expansion = Literal["magpie", "self_instruct", "personas"]


def field(default: Any, description: str, *, machine: bool = False) -> Any:
    return Field(default, description=description, json_schema_extra={"machine": machine})


def is_url(text: str) -> bool:
    """Whether this is an http(s) address with a host, and with a port that there can be."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and not re.search(r"\s", text)
            and parts.port != 0
        )
    except ValueError:  # a port that is no number or beyond 65535, half an IPv6 address
        return False


def address_problem(text: str) -> str | None:
    """What is wrong with a server's address, if anything. What may be a secret in it is not repeated: errors are shown and logged."""
    if "@" in text.split("://")[-1].partition("/")[0]:
        return (
            "the address holds a user name or a password: take out all from :// to @. A key belongs in an environment variable, and its "
            "name in the recipe (api_key_env)"
        )
    if "?" in text or "#" in text:
        return (
            "the address has a query: take out all from the ? or # on. A key belongs in an environment variable, and its name in the "
            "recipe (api_key_env)"
        )
    return None if is_url(text) else f"{text!r} is not a URL: write http://host:port"


def is_variable(name: str) -> bool:
    """Whether an environment variable may be called so: what is not may well be a key itself."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name) is not None


NO_VARIABLE = (
    "this is no name of an environment variable (letters, digits and _, at most 100; it is not shown, for it may be the key itself): put "
    "the key into a variable, e.g. SERVER_KEY, and write that name here"
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what comes out."""
        fields = type(self).model_fields
        machine = {
            n
            for n, f in fields.items()
            if isinstance(f.json_schema_extra, dict) and f.json_schema_extra["machine"]
        }
        return self.model_dump(mode="json", exclude=machine)


class Source(Section):
    """One place that prompts come from: a file, a data set of the `datasets` library, or the teacher itself (`expand`)."""

    expand: Expansion | None = field(
        None,
        "The teacher writes the prompts. magpie = from its chat template alone, as if a user spoke; self_instruct = new ones "
        "like those of `file` or `dataset`, or else like the recipe's other prompts; personas = what each person in `file` would "
        "ask (.txt, one a line; .jsonl: persona), or what is asked in each place there (.jsonl: place). Drawn at temperature 1",
    )
    num: Annotated[int, Field(gt=0)] | None = field(
        None,
        "expand: how many the teacher is asked for, evenly over the languages; those that the filters drop are not made up for",
    )
    num_shown: Annotated[int, Field(gt=0)] = field(
        8, "self_instruct: examples that the teacher is shown each time"
    )
    steer: dict[str, str] | None = field(
        None,
        "magpie: a system message by language, written in that language, e.g. {sw: Unamsaidia mkulima}, so that prompts come "
        "in it; null = in whatever language of the recipe's they come",
    )
    file: str | None = field(
        None,
        "JSON Lines (.jsonl), .parquet, .csv or .tsv; .txt has one prompt a line. Relative to the recipe's folder",
    )
    dataset: str | None = field(
        None, "Name for `datasets`, e.g. CohereLabs/aya_dataset, or a folder (./, / or ~)"
    )
    config: str | None = field(None, "dataset: its configuration, often a language")
    split: str | None = field(None, "dataset: its split; null = train")
    revision: str | None = field(None, "dataset: pin a commit to make the run repeatable")
    language: str | None = field(
        None, "Language of every answer; null = by column, or the recipe's only one"
    )
    columns: dict[Column, str] | None = field(
        None,
        "Our name: their column, e.g. {prompt: question, reference: answer}; other columns are left out. A number is "
        "a position in a .csv or .tsv without a head line. null = the columns bear our names",
    )
    translate: dict[str, str] | None = field(
        None,
        "Translation pairs, language: column, e.g. {en: english, sw: kiswahili}: a prompt in each direction",
    )
    share: Annotated[float, Field(gt=0, le=1)] | None = field(
        None,
        "Share of the prompts that come from this source, after the filters, e.g. 0.45; given for every source or for none; the "
        "scarcest sets the number. null = all of them",
    )
    check_language: bool = field(
        True, "false = a prompt may be in another language than its answer"
    )
    verify: bool = field(
        True,
        "false = generate.task does not check these answers and rows need no reference: chat, safety, or prompts that the teacher "
        "writes, beside problems that are checked",
    )
    refusals: Literal["drop", "keep", "require"] = field(
        "drop",
        "Answers that refuse are dropped; keep = either may be right; require = what does not refuse is dropped (requests that "
        "the student shall learn to decline)",
    )

    @model_validator(mode="after")
    def _expansion(self) -> "Source":
        if self.expand is None:
            if extra := sorted(self.model_fields_set & {"num", "num_shown", "steer"}):
                raise ValueError(
                    f"{extra[0]} is for prompts that the teacher writes: remove it, or set expand"
                )
            return self
        if self.num is None:
            raise ValueError(
                f"expand: {self.expand} needs num: how many prompts to ask the teacher for"
            )
        if self.translate is not None:
            raise ValueError(
                f"expand: {self.expand} and translate do not go together: make two sources of them"
            )
        unused = {"check_language"} | ({"num_shown"} if self.expand != "self_instruct" else set())
        if unused := sorted(self.model_fields_set & unused):
            raise ValueError(f"{unused[0]} means nothing to expand: {self.expand}: remove it")
        if self.expand == "magpie" and (self.file or self.dataset or self.columns):
            raise ValueError(
                "expand: magpie starts from nothing: remove file, dataset and columns, or expand by self_instruct"
            )
        if self.expand != "magpie" and self.steer:
            raise ValueError(
                f"steer is for magpie; {self.expand} says the language in its request: remove it"
            )
        if self.steer and self.language:
            raise ValueError("steer names its languages itself: remove language")
        return self

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        num_places = (self.file is not None) + (self.dataset is not None)
        if num_places == 2 or (num_places == 0 and self.expand in (None, "personas")):
            raise ValueError("give either file or dataset")
        if self.file is not None and not self.file.lower().endswith(FILES):
            raise ValueError(
                f"file {self.file!r} does not end in {', '.join(FILES)}; for a data set write dataset: NAME"
            )
        only = [
            n
            for n in ("config", "split", "revision")
            if getattr(self, n) is not None and self.file is not None
        ]
        if only:
            raise ValueError(f"{only[0]} belongs to a dataset, not to a file: remove it")
        one_of = ("persona", "place") if self.expand == "personas" else ("prompt", "messages")
        if self.columns is not None and sum(name in self.columns for name in one_of) != 1:
            raise ValueError(f"columns: map either {one_of[0]} or {one_of[1]}")
        if self.language is not None and "language" in (self.columns or {}):
            raise ValueError(
                "language and columns.language both say what language it is: remove one"
            )
        if self.translate is not None and (self.columns is not None or self.language is not None):
            raise ValueError(
                "translate names languages and columns itself: remove columns and language"
            )
        if self.translate is not None and len(self.translate) < 2:
            raise ValueError(
                f"translate needs two languages or more, got {', '.join(self.translate) or 'none'}"
            )
        return self

    @property
    def name(self) -> str:
        """How it is called in rows and messages."""
        place = self.file or "/".join(
            part for part in (self.dataset, self.config, self.split) if part
        )
        return f"{self.expand} of {place}" if self.expand and place else self.expand or place


def _as_list(value: Any) -> Any:
    """A path alone is one file; one source need not be a list."""
    if isinstance(value, str):
        return [{"file": value}]
    return [value] if isinstance(value, dict) else value


def _as_written(sources: list[Source] | None) -> Any:
    """The short form where there is one: a recipe of old keeps its identity."""
    written = [s.model_dump(mode="json", exclude_defaults=True) for s in sources or []]
    if sources is None:
        return None
    return written[0]["file"] if len(written) == 1 and set(written[0]) == {"file"} else written


Sources = Annotated[
    list[Source], Field(min_length=1), BeforeValidator(_as_list), PlainSerializer(_as_written)
]


def fields_at(model: type[BaseModel], location: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(name, field) of what stands at `location` of a recipe of `model`; nothing where it is no section."""
    for part in location:
        if part.isdecimal():  # a place in a list
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        for inner in (annotation, *get_args(annotation)):  # a list of sections, or none
            if get_origin(inner) is list:
                annotation = get_args(inner)[0]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return
        model = annotation
    yield from model.model_fields.items()


def describe(model: type[BaseModel], name: str) -> str:
    """A field of a recipe of `model`, or every field of a section: name, default, choices, description."""
    parts = [p for p in name.split(".") if p]
    fields = dict(fields_at(model, parts[:-1]))
    if parts and parts[-1] not in fields:
        near = difflib.get_close_matches(parts[-1], fields, n=1, cutoff=0.4)
        raise RecipeError(f"{name}: no such field" + (f"; did you mean {near[0]}?" if near else ""))
    inner = list(fields_at(model, parts))
    shown = [(f"{name}.{n}" if name else n, f) for n, f in inner]
    if parts and not (
        inner and isinstance(fields[parts[-1]].annotation, type)
    ):  # a section has no text of its own
        shown.insert(0, (name, fields[parts[-1]]))
    lines = []
    for full, f in shown:
        is_section = isinstance(f.annotation, type) and issubclass(f.annotation, Section)
        if is_section:
            lines.append(f"{full}: {f.annotation.__doc__}")
            continue
        choices = get_args(f.annotation)
        kind = (
            " | ".join(map(str, choices))
            if choices and all(isinstance(c, str) for c in choices)
            else ""
        )
        default = "needed" if f.is_required() else f"default {f.default!r}"
        lines.append(f"{full} ({default}{'; ' + kind if kind else ''}): {f.description}")
    return "\n".join(lines)
