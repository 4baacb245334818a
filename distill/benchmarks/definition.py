"""A benchmark as its YAML file describes it; those that ship with distill are in files/.

    name: xcopa                      # as results call it
    title: XCOPA
    kind: choices                    # the likeliest of several texts; or number: the last one written
    licence: CC-BY-4.0
    source: https://github.com/cambridgeltl/xcopa
    dataset: cambridgeltl/xcopa
    split: test
    configs: {sw: sw, zh: zh}        # our language: its configuration of the data set
    fields: [premise, choice1, choice2, question, label]   # of a row; no other is read
    prompt: "{{ premise[:-1] }} {{ words[question] }}"
    choices: ["{{ choice1 }}", "{{ choice2 }}"]
    answer: "{{ label }}"            # the text of a choice or its position from 0; or the number
    words: {sw: {cause: kwa sababu, effect: kwa hiyo}}

Prompt, choices and answer are Jinja templates of the row's fields, of `language` and of `words`,
which are those of the row's language. They are rendered within the bounds of chat templates.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from distill.core.digests import canonical_json, digest
from distill.errors import DataError, MissingError, RecipeError
from distill.recipe import Recipe
from distill.recipe.schema import Section, field
from distill.recipe.sections import BenchmarkUse
from distill.recipe.strict_yaml import NotYaml, parse
from distill.text.codes import base_code, subtags

LARGEST = 1 << 20  # bytes of a file
FOLDER = "files"
HANT_REGIONS = {"TW", "HK", "MO"}  # that write traditional characters


class Benchmark(Section):
    """A benchmark: the fields of a row, and the texts that are made of them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=60)] = field(
        ..., "As results call it"
    )
    title: str = field(..., "As the report calls it")
    kind: Literal["choices", "number"] = field(..., "How an answer is got and judged")
    licence: str = field(..., "Of the rows")
    source: str = field(..., "Where it is described")
    dataset: str | None = field(None, "Name for `datasets`; null = local files alone")
    revision: str | None = field(None, "Commit of the data set")
    split: str = field("test", "Split of the questions")
    shots_split: str | None = field(None, "Split of the few-shot examples; null = it has none")
    configs: dict[str, str] = field({}, "Configuration of the data set by language")
    fields: Annotated[list[str], Field(min_length=1)] = field(..., "Of a row, those that are read")
    prompt: str = field(..., "Template of the question")
    choices: Annotated[list[str], Field(min_length=2)] | str | None = field(
        None, "Templates of the choices, or the field that holds a list of them"
    )
    answer: str = field(..., "Template of the right answer")
    answer_is: Literal["either", "text", "position"] = field(
        "either", "choices: what the answer is, where it could be both", is_newer=True
    )
    shot_answer: str | None = field(None, "Template of it in few-shot examples; null = the answer")
    question: str | None = field(
        None, "Template of what a copy in the training data would hold; null = the prompt"
    )
    delimiter: str = field(" ", "Between prompt and answer")
    between: str = field("\n\n", "Between few-shot examples")
    few_shot: NonNegativeInt = field(0, "Examples before each question")
    words: dict[str, dict[str, str]] = field({}, "Words of templates by language")
    chat: bool = field(False, "The prompt is a user's message in the model's chat template")
    stop: list[str] = field([], "number: an answer ends before any of these")
    max_new_tokens: PositiveInt = field(512, "number: longest answer")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Benchmark":
        if (self.choices is None) == (self.kind == "choices"):
            raise ValueError("choices: a benchmark of kind choices has them, and no other")
        if isinstance(self.choices, str) and self.choices not in self.fields:
            raise ValueError(f"choices: {self.choices} is not among the fields")
        if self.kind == "choices" and (self.chat or self.stop):
            raise ValueError("chat and stop are for kind number: remove them")
        if self.kind == "number" and self.answer_is != "either":
            raise ValueError("answer_is is for kind choices: remove it")
        return self

    @property
    def digest(self) -> str:
        """Return what tells it from others, and from another version of itself."""
        return digest(canonical_json(self.identity()))

    def language_of(self, language: str) -> str | None:
        """Return the language of `configs` that is meant by a code of the recipe, or None."""
        if language in self.configs:
            return language
        same = [code for code in self.configs if base_code(code) == base_code(language)]
        if len(same) > 1:  # several scripts or regions
            wanted = _subtags(language)
            same = [code for code in same if wanted & set(subtags(code))]
        return same[0] if len(same) == 1 else None

    def words_of(self, language: str) -> dict[str, str]:
        """Return the words of templates in a language; none where the file has none."""
        if language in self.words:
            return self.words[language]
        found = [w for code, w in self.words.items() if base_code(code) == base_code(language)]
        return found[0] if found else {}


def _subtags(language: str) -> set[str]:
    """Return script and region of a code; for Chinese with the script where none is named.

    It is Hans, and Hant in the regions that write it.
    """
    found = set(subtags(language))
    has_script = any(len(tag) == 4 for tag in found)
    if base_code(language) == "zh" and not has_script:
        found.add("Hant" if found & HANT_REGIONS else "Hans")
    return found


def shipped_names() -> list[str]:
    """Return the names of the benchmarks that ship with distill."""
    folder = files("distill.benchmarks").joinpath(FOLDER)
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir())


def read_benchmark(recipe: Recipe, use: BenchmarkUse) -> Benchmark:
    """Return the benchmark that a recipe names, with the longest answer that it sets.

    Raises RecipeError for a name that does not ship with distill, or an answer's length where none
    is written; MissingError where there is no such file; and DataError for what is no benchmark.
    """
    benchmark = _named(recipe, use)
    if use.max_new_tokens is None:
        return benchmark
    if benchmark.kind == "choices":
        raise RecipeError(
            f"{recipe.source}: evaluate.benchmarks: {use.name}: max_new_tokens is for benchmarks "
            "that ask for a number, and this one has choices: remove it"
        )
    return benchmark.model_copy(update={"max_new_tokens": use.max_new_tokens})


def _named(recipe: Recipe, use: BenchmarkUse) -> Benchmark:
    if use.name.endswith((".yaml", ".yml")):
        path = recipe.existing_file("evaluate.benchmarks", use.name)
        return parsed(_text_of(path), str(path))
    if use.name not in shipped_names():
        raise RecipeError(
            f"{recipe.source}: evaluate.benchmarks: {use.name}: no such benchmark; there are "
            f"{', '.join(shipped_names())}, or name a .yaml file of your own"
        )
    return shipped(use.name)


def shipped(name: str) -> Benchmark:
    """Return a benchmark that ships with distill."""
    resource = files("distill.benchmarks").joinpath(FOLDER, f"{name}.yaml")
    return parsed(resource.read_text(encoding="utf-8"), f"{name}.yaml")


def parsed(text: str, origin: str) -> Benchmark:
    """Return the benchmark of a YAML text. Raises DataError with the first problem."""
    try:
        values = parse(text)
    except NotYaml as error:
        line = f", line {error.line}" if error.line else ""
        raise DataError(f"{origin}{line}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{origin}: expected the fields of a benchmark, such as `prompt:`")
    try:
        return Benchmark.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{origin}: {_problem(error)}") from None


def _problem(error: ValidationError) -> str:
    """Return the first problem in one line: where it is, and what."""
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {message[:160]}{more}" if where else f"{message[:160]}{more}"


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise DataError(f"{path}: more than {LARGEST:,} bytes: that is no benchmark")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise MissingError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
