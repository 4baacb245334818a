"""What a model is asked: the questions of a benchmark in one language, made of its rows."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from distill.benchmarks.definition import Benchmark
from distill.core.digests import canonical_json, digest
from distill.core.jsonl import BadRow, Row
from distill.data import sources
from distill.errors import DataError, shown
from distill.recipe import Recipe
from distill.recipe.sections import BenchmarkUse
from distill.recipe.sources import Source
from distill.tasks.final_number import reference_problem


@dataclass(frozen=True)
class Item:
    """One question.

    `context`: few-shot examples and the prompt. `choices`: the texts to choose from, without the
    delimiter before them; `right`: the position of the right one. Of a number: no choices, and
    `reference` is the right one. `question`: what a copy in the training data would hold.
    """

    number: int
    context: str
    choices: tuple[str, ...]
    right: int | None
    reference: str | None
    question: str


@dataclass(frozen=True)
class Questions:
    """A benchmark in one language. `few_shot`: the examples that stand before each question."""

    benchmark: Benchmark
    language: str
    few_shot: int
    items: list[Item]

    @property
    def digest(self) -> str:
        """Return what tells it from other questions: the benchmark's file, and every text."""
        texts = [asdict(item) for item in self.items]
        return digest(self.benchmark.digest, self.language, canonical_json(texts))


def languages_of(recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark) -> list[str]:
    """Return the languages that a benchmark is asked in. Raises DataError where there is none."""
    if use.languages is not None:
        return use.languages
    if use.files is not None:
        return list(use.files)
    found = [code for code in recipe.languages if benchmark.language_of(code)]
    if not found:
        raise DataError(
            f"{recipe.source}: evaluate.benchmarks: {use.name} has none of the languages "
            f"{', '.join(recipe.languages)}; it has {', '.join(benchmark.configs) or 'no data set'}: "
            "leave it out, or give its rows as files"
        )
    return found


def rows_identity(recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark) -> str:
    """Return what changes with the content of the rows; a hub's data set counts by its name."""
    return sources.identity(recipe, "evaluate.benchmarks", places_of(recipe, use, benchmark))


def places_of(recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark) -> list[Source]:
    """Return where the rows of each language are, and those of its few-shot examples."""
    few_shot = benchmark.few_shot if use.few_shot is None else use.few_shot
    return [
        _source(recipe, use, benchmark, language, shots=shots)
        for language in languages_of(recipe, use, benchmark)
        for shots in ((False, True) if few_shot else (False,))
    ]


def read_questions(
    recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark, language: str
) -> Questions:
    """Read the rows of a language and make the questions of them.

    Raises MissingError or DataError, naming the place, for rows that are none of this benchmark's.
    """
    few_shot = benchmark.few_shot if use.few_shot is None else use.few_shot
    rows = _rows(recipe, use, benchmark, language, shots=False)
    shots = _shots(recipe, use, benchmark, language, few_shot)
    if not rows:
        raise DataError(f"{recipe.source}: evaluate.benchmarks: {use.name}, {language}: no rows")
    before = "".join(
        _shot(benchmark, row, language, where) + benchmark.between for where, row in shots
    )
    chosen = _evenly(len(rows), use.num_examples)
    items = [_item(benchmark, rows[i][1], language, before, i, rows[i][0]) for i in chosen]
    return Questions(benchmark, language, few_shot, items)


def _shots(
    recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark, language: str, num: int
) -> list[tuple[str, Row]]:
    if not num:
        return []
    rows = _rows(recipe, use, benchmark, language, shots=True)[:num]
    if len(rows) < num:
        raise DataError(
            f"{recipe.source}: evaluate.benchmarks: {use.name}, {language}: few_shot is {num}, and "
            f"there are {len(rows)} rows to take examples from; set few_shot lower"
        )
    return rows


def _evenly(total: int, most: int | None) -> list[int]:
    """Return at most `most` of the numbers below `total`, evenly spaced; None = all."""
    if most is None or most >= total:
        return list(range(total))
    return [i * total // most for i in range(most)]


def _rows(
    recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark, language: str, *, shots: bool
) -> list[tuple[str, Row]]:
    """Return (where it stands, row) of every row, by the benchmark's own names of fields."""
    source = _source(recipe, use, benchmark, language, shots=shots)
    rows = []
    for where, row in sources.rows(recipe, "evaluate.benchmarks", source):
        if isinstance(row, BadRow):
            raise DataError(f"{row}; mend the row, or map it by columns")
        rows.append((where, row))
    return rows


def _source(
    recipe: Recipe, use: BenchmarkUse, benchmark: Benchmark, language: str, *, shots: bool
) -> Source:
    """Return where the rows are, as the readers of prompts take it.

    It is not validated as a source of prompts, whose columns have names of their own.
    """
    known = {name: name for name in benchmark.fields}
    values: dict[str, Any] = {"columns": known | (use.columns or {})}
    where = f"{recipe.source}: evaluate.benchmarks: {use.name}"
    if use.files is not None:
        paths = (use.shots or {}) if shots else use.files
        if language not in paths:
            raise DataError(f"{where}: {language}: no file of few-shot examples; give it by shots")
        return Source.model_construct(file=paths[language], **values)
    config = benchmark.language_of(language)
    if config is None or (use.dataset or benchmark.dataset) is None:
        raise DataError(
            f"{where}: it has no language {language} ({', '.join(benchmark.configs)}); give its "
            "rows as files"
        )
    split = benchmark.shots_split if shots else benchmark.split
    if split is None:
        raise DataError(f"{where}: it has no examples to show; set few_shot: 0")
    return Source.model_construct(
        dataset=use.dataset or benchmark.dataset,
        config=benchmark.configs[config],
        split=split,
        revision=benchmark.revision,
        **values,
    )


def _item(
    benchmark: Benchmark, row: Row, language: str, before: str, number: int, where: str
) -> Item:
    made = _Texts(benchmark, row, language, where)
    prompt = made.text(benchmark.prompt)
    return Item(
        number=number,
        context=before + prompt,
        choices=made.choices,
        right=made.right() if benchmark.kind == "choices" else None,
        reference=made.number() if benchmark.kind == "number" else None,
        question=made.text(benchmark.question or benchmark.prompt),
    )


def _shot(benchmark: Benchmark, row: Row, language: str, where: str) -> str:
    """Return an example with its answer."""
    made = _Texts(benchmark, row, language, where)
    if benchmark.shot_answer is not None:
        answer = made.text(benchmark.shot_answer)
    elif benchmark.kind == "choices":
        answer = made.choices[made.right()]
    else:
        answer = made.text(benchmark.answer)
    return made.text(benchmark.prompt) + benchmark.delimiter + answer


@dataclass(frozen=True)
class _Texts:
    """The texts of one row; `where` it stands is told with what is wrong with it."""

    benchmark: Benchmark
    row: Row
    language: str
    where: str

    def text(self, template: str) -> str:
        from distill.benchmarks.templates import FAILURES, fill  # jinja2 only where it is needed

        words = self.benchmark.words_of(self.language)
        try:
            return fill(template, self.row, self.language, words)
        except FAILURES as error:
            raise DataError(
                f"{self.where}: {self.benchmark.name}: template {shown(template)} cannot be filled "
                f"({type(error).__name__}: {shown(str(error))})"
            ) from None

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Return the texts to choose from; none where a number is asked for."""
        given = self.benchmark.choices
        if given is None:
            return ()
        texts = self._list(given) if isinstance(given, str) else [self.text(each) for each in given]
        choices = tuple(texts)
        if empty := [str(i) for i, choice in enumerate(choices) if not choice]:
            raise DataError(f"{self.where}: {self.benchmark.name}: choice {empty[0]} is empty")
        return choices

    def _list(self, name: str) -> list[str]:
        value = self.row.get(name)
        texts = value if isinstance(value, list) else []
        if len(texts) < 2 or any(type(each) not in (str, int) for each in texts):
            raise DataError(
                f"{self.where}: {self.benchmark.name}: {name} is no list of choices: {shown(value)}"
            )
        return [str(each) for each in texts]

    def number(self) -> str:
        """Return the number that is the right answer, as it is written."""
        answer = self.text(self.benchmark.answer)
        if problem := reference_problem(answer):
            raise DataError(
                f"{self.where}: {self.benchmark.name}: the answer {shown(answer)}: {problem}"
            )
        return answer

    def right(self) -> int:
        """Return the position of the right choice: that of its text, or the number it is.

        Raises DataError for an answer that is neither, and for one that could be either.
        """
        answer, meant = self.text(self.benchmark.answer).strip(), self.benchmark.answer_is
        by_text = self._with_text(answer) if meant != "position" else None
        by_position = self._at_position(answer) if meant != "text" else None
        where = f"{self.where}: {self.benchmark.name}: the answer {shown(answer)}"
        found = [each for each in (by_text, by_position) if each is not None]
        if len(set(found)) == 2:
            raise DataError(
                f"{where} is the text of choice {by_text} and the position of another: set "
                "answer_is: position (or text) in the benchmark's file"
            )
        if not found:
            wanted = "text or position" if meant == "either" else meant
            raise DataError(f"{where} is the {wanted} of none of {len(self.choices)} choices")
        return found[0]

    def _with_text(self, answer: str) -> int | None:
        return self.choices.index(answer) if answer in self.choices else None

    def _at_position(self, answer: str) -> int | None:
        is_one = answer.isdecimal() and len(answer) < 4 and int(answer) < len(self.choices)
        return int(answer) if is_one else None
