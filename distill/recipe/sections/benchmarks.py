"""What `evaluate.benchmarks` names: a benchmark, and where its rows are."""

import re
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    field_validator,
    model_validator,
)

from distill.errors import shown
from distill.recipe.paths import PathText
from distill.recipe.schema import Section, field
from distill.recipe.sources import FILES

SHIPPED_NAME = re.compile(r"[a-z0-9_]+")
CODE = re.compile(r"(?!all$)[A-Za-z]+([_-][A-Za-z0-9]+)*")  # "all": what results call all of them


class BenchmarkUse(Section):
    """One benchmark, in some languages."""

    name: PathText = field(
        ..., "One that ships with distill, e.g. belebele, or a file of the same form (.yaml)"
    )
    languages: list[str] | None = field(
        None, "null = those of the recipe that it has; of files: those that are given"
    )
    files: dict[str, PathText] | None = field(
        None, "Its rows from local files, by language: {sw: swh_test.tsv}; null = from its data set"
    )
    shots: dict[str, PathText] | None = field(
        None, "Where files are given: those that few-shot examples are taken from, by language"
    )
    dataset: PathText | None = field(
        None, "Its data set in another place: a folder (./, / or ~) or another name"
    )
    columns: dict[str, str] | None = field(
        None,
        "Its field: the rows' column, where that has another name; a number is a position, from 0, in a "
        ".csv or .tsv without a head line",
    )
    few_shot: NonNegativeInt | None = field(
        None, "Examples with their answers before each question; null = as the benchmark says"
    )
    num_examples: PositiveInt | None = field(
        None, "At most so many of each language, evenly over the rows; null = all"
    )
    max_new_tokens: PositiveInt | None = field(
        None,
        "Longest answer with its reasoning, where a number is asked for (half of a model's context at "
        "most); null = as the benchmark says",
        is_newer=True,
    )

    @field_validator("name")
    @classmethod
    def _is_a_name_or_a_file(cls, name: str) -> str:
        if not name.endswith((".yaml", ".yml")) and not SHIPPED_NAME.fullmatch(name):
            raise ValueError(
                f"{shown(name)} is neither the name of a benchmark that ships with distill nor a "
                ".yaml file"
            )
        return name

    @field_validator("languages", "files", "shots")
    @classmethod
    def _languages_are_codes(cls, by_language: Any) -> Any:
        if wrong := [code for code in by_language or () if not CODE.fullmatch(code)]:
            raise ValueError(f"{shown(wrong[0])} is no code of a language, such as sw or zh-Hans")
        if by_language is not None and not by_language:
            raise ValueError("it is empty: name a language, or leave it out")
        return by_language

    @model_validator(mode="after")
    def _rows_come_from_one_place(self) -> "BenchmarkUse":
        if self.files is not None and self.dataset is not None:
            raise ValueError("give either files or dataset")
        if self.shots is not None and self.files is None:
            raise ValueError("shots is for rows from files: remove it, or give files")
        for path in (*(self.files or {}).values(), *(self.shots or {}).values()):
            if not path.lower().endswith(FILES):
                raise ValueError(f"file {shown(path)} does not end in {', '.join(FILES)}")
        if self.files is not None:
            for name, given in (("languages", self.languages or ()), ("shots", self.shots or ())):
                if missing := sorted(set(given) - set(self.files)):
                    raise ValueError(f"{name}: {missing[0]} has no file in files")
        return self


def _as_list(value: Any) -> Any:
    """Return the benchmarks as a list of sections: a name alone is one without anything else."""
    values = value if isinstance(value, list) else [value]
    return [{"name": each} if isinstance(each, str) else each for each in values]


def _short_form(uses: list[BenchmarkUse]) -> Any:
    written = [use.model_dump(mode="json", exclude_defaults=True) for use in uses]
    return [each["name"] if set(each) == {"name"} else each for each in written]


BenchmarkUses = Annotated[
    list[BenchmarkUse], Field(), BeforeValidator(_as_list), PlainSerializer(_short_form)
]
