"""Several finished runs side by side: their recipes, figures, sizes and times.

Differences are paired, prompt by prompt, against the first run, where the held-out prompts are the
same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.named_run import open_run
from distill.core.results import Difference, EvaluateResult
from distill.core.run_folder import RunFolder, flat
from distill.errors import RecipeError
from distill.recipe import Recipe, advising
from distill.reporting.measures import (
    EXACT_MATCH,
    NLL_PER_BYTE,
    Example,
    Measure,
    key_of,
    languages_of,
    of_language,
    paired,
    read_examples_of,
)
from distill.reporting.results import RunResults, read_results
from distill.reporting.summary import file_to_take
from distill.reporting.table import NONE, ModelRow, model_rows, number, text_lines

NOT_COMPARED = ("run_folder", "name", "report")  # they tell runs apart and decide no figure
SHOWN = 60  # letters of a recipe's value


@dataclass(frozen=True)
class ComparedRun:
    """A finished run. `label`: how it is called here; `taken`: the row of the file that one would take."""

    label: str
    recipe: Recipe
    results: RunResults
    rows: list[ModelRow]
    examples: dict[str, list[Example]]
    taken: ModelRow

    def row(self, model: str) -> ModelRow | None:
        return next((row for row in self.rows if row.model == model), None)


@dataclass(frozen=True)
class Change:
    """A run minus the first one, of one model, by one measure. `language`: None = all together."""

    run: str
    model: str
    measure: Measure
    language: str | None
    found: Difference

    @property
    def told(self) -> str:
        """Return the difference with its interval."""
        return self.measure.tell_difference(self.found)


@dataclass(frozen=True)
class Comparison:
    """All that is told of the runs. Lines are a name and a cell a run.

    `why_not`: why some runs could not be compared with the first, prompt by prompt.
    """

    labels: list[str]
    figures: list[list[str]]
    recipe: list[list[str]]
    changes: list[Change]
    why_not: list[str]


def compare(names: Sequence[str]) -> Comparison:
    """Compare runs, given as folders or recipes.

    Raises RecipeError for fewer than two or one that stands twice, MissingError for one that is not
    there or not finished.
    """
    if len(names) < 2:
        raise RecipeError("compare: one run alone; name two or more, e.g. `distill compare A B`")
    opened = [open_run(name) for name in names]
    folders = [folder.path.resolve() for _, folder in opened]
    for name, folder in zip(names, folders, strict=True):
        if folders.count(folder) > 1:
            raise RecipeError(f"compare: {name} stands there twice; name each run once")
    labels = _labels(folders)
    runs = [
        _read(label, recipe, folder) for label, (recipe, folder) in zip(labels, opened, strict=True)
    ]
    changes, why_not = _changes(runs)
    return Comparison(labels, _figures(runs), _recipe_lines(runs), changes, why_not)


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, or as much of their paths as tells them apart."""
    for num_parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        labels = ["/".join(folder.parts[-num_parts:]) for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _read(label: str, recipe: Recipe, folder: RunFolder) -> ComparedRun:
    with advising(recipe):
        results = read_results(folder, recipe)
        examples = read_examples_of(folder.stage("evaluate"), list(results.evaluate.models))
    rows = model_rows(results)
    name = file_to_take(results.quantize.formats) or "student"
    taken = next(row for row in rows if row.model == name)
    return ComparedRun(label, recipe, results, rows, examples, taken)


def _figures(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return the lines of figures; a line that no run has a figure for is left out."""
    lines = [
        ["teacher", *(run.recipe.teachers_named for run in runs)],
        ["student's parameters", *(f"{run.results.initialize.num_parameters:,}" for run in runs)],
        ["held-out prompts", *(f"{run.results.evaluate.num_examples:,}" for run in runs)],
    ]
    for model in ("teacher", "control", "student"):
        rows = [run.row(model) for run in runs]
        lines.append([f"{model}: exact match %", *map(_exact_match, rows)])
        lines.append(
            [f"{model}: NLL/byte", *(_number(row, "nll_per_byte", "{:.5f}") for row in rows)]
        )
    taken = [run.taken for run in runs]
    lines += [
        ["file", *(row.model for row in taken)],
        ["file: MB", *(_number(row, "bytes", "{:,.2f}", 1e-6) for row in taken)],
        ["file: exact match %", *map(_exact_match, taken)],
        ["file: NLL/byte", *(_number(row, "nll_per_byte", "{:.5f}") for row in taken)],
        ["file: KL", *(_number(row, "kl", "{:.5f}") for row in taken)],
        ["file: memory MB", *(_number(row, "peak_memory", "{:,.0f}", 1e-6) for row in taken)],
        ["file: decode/s", *(_number(row, "decode_speed", "{:,.1f}") for row in taken)],
        ["answers kept", *(f"{run.results.generate.num_kept:,}" for run in runs)],
        ["minutes of work", *map(_minutes, runs)],
        ["machine", *(run.results.training_machine for run in runs)],
        ["licences", *(run.results.licence.level for run in runs)],
    ]
    return [line for line in lines if any(cell != NONE for cell in line[1:])]


def _exact_match(row: ModelRow | None) -> str:
    if row is None or row.exact_match is None or row.interval is None:
        return NONE
    return EXACT_MATCH.tell_within(row.exact_match, row.interval)


def _number(row: ModelRow | None, figure: str, form: str, scale: float = 1.0) -> str:
    return number(None if row is None else getattr(row, figure), form, scale)


def _minutes(run: ComparedRun) -> str:
    return f"{sum(stage.seconds for stage in run.results.stage_runs) / 60:.1f}"


def _recipe_lines(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return the recipes' fields that are not the same in all runs, with the value in each."""
    fields = [flat(run.recipe.model_dump(mode="json", exclude=set(NOT_COMPARED))) for run in runs]
    names = list(dict.fromkeys(name for recipe in fields for name in recipe))
    lines = [[name, *(_shown(recipe.get(name)) for recipe in fields)] for name in names]
    different = [len({repr(recipe.get(name)) for recipe in fields}) > 1 for name in names]
    return [line for line, differs in zip(lines, different, strict=True) if differs]


def _shown(value: Any) -> str:
    text = NONE if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _changes(runs: Sequence[ComparedRun]) -> tuple[list[Change], list[str]]:
    """Return each run minus the first, and why there is nothing to tell where there is nothing."""
    first, *others = runs
    changes, why_not = [], []
    for run in others:
        for measure in (EXACT_MATCH, NLL_PER_BYTE):
            if reason := _why_not(first, run, measure):
                why_not.append(f"{run.label}: {measure.short} is not compared: {reason}")
                continue
            for mine, base in (("student", "student"), (run.taken.model, first.taken.model)):
                name = mine if mine == base else f"{mine} minus {base}"
                changes += _of_all_languages(run, first, (mine, base, name), measure)
    return changes, why_not


def _why_not(first: ComparedRun, run: ComparedRun, measure: Measure) -> str | None:
    """Return why this measure of two runs cannot be compared prompt by prompt, or None."""
    mine = {key_of(example): example for example in run.examples["student"]}
    base = {key_of(example): example for example in first.examples["student"]}
    if mine.keys() != base.keys():
        shared = len(mine.keys() & base.keys())
        return f"of its {len(mine)} held-out prompts {shared} are among the {len(base)} of {first.label}"
    size = measure.size
    if size is None:
        return _why_no_task(first, run)
    if any(example[size] is None for example in (*mine.values(), *base.values())):
        return "an earlier version evaluated one of the two and counted no bytes"
    if any(mine[key][size] != base[key][size] for key in mine):
        return f"the held-out answers, which it is of, are not those of {first.label}"
    return None


def _is_checked(result: EvaluateResult) -> bool:
    """Return whether a task checked some of the students' answers."""
    return any(figures.exact_match is not None for figures in result.models.values())


def _why_no_task(first: ComparedRun, run: ComparedRun) -> str | None:
    """Return why the exact match of two runs cannot be compared, or None."""
    base, mine = first.results.evaluate, run.results.evaluate
    checked = [own.task is not None and _is_checked(own) for own in (base, mine)]
    if not all(checked):
        return "no task checked the answers"
    if (base.task, base.task_version) != (mine.task, mine.task_version):
        return (
            f"its task is {mine.task} (version {mine.task_version}), "
            f"that of {first.label} {base.task} (version {base.task_version})"
        )
    return None


def _of_all_languages(
    run: ComparedRun, first: ComparedRun, models: tuple[str, str, str], measure: Measure
) -> list[Change]:
    """Return the change in all languages together, then in each, where there are several."""
    mine, base, name = models
    own, other = run.examples[mine], first.examples[base]
    languages = languages_of(own)
    found: dict[str | None, Difference | None] = {None: paired(own, other, measure)}
    if len(languages) > 1:
        for code in languages:
            found[code] = paired(of_language(own, code), of_language(other, code), measure)
    return [
        Change(run.label, name, measure, language, difference)
        for language, difference in found.items()
        if difference is not None
    ]


def comparison_text(comparison: Comparison) -> str:
    """Return the comparison for a terminal."""
    first = comparison.labels[0]
    parts = [text_lines([["", *comparison.labels], *comparison.figures])]
    recipe = "The recipes differ in nothing that decides a figure."
    if comparison.recipe:
        recipe = text_lines([["recipe", *comparison.labels], *comparison.recipe])
    parts.append(recipe)
    if comparison.changes:
        cells = [[f"minus {first}", "model", "measure", "language", "difference [95 % interval]"]]
        cells += [change_cells(change) for change in comparison.changes]
        parts.append(text_lines(cells))
    if comparison.why_not:
        parts.append("\n".join(comparison.why_not))
    return "\n\n".join(parts)


def change_cells(change: Change) -> list[str]:
    """Return a change as cells: run, model, measure, language, difference with its interval."""
    return [change.run, change.model, change.measure.unit, change.language or "all", change.told]
