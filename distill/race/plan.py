"""What a race will be: who takes part, and who is left out and why."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from distill import chat, initialize, teachers, trim
from distill.catalog.catalog import LEVELS
from distill.chat.tokenizers import load_students_tokenizer
from distill.core.processes import Processes
from distill.core.results import TrimResult
from distill.core.run_folder import RunFolder
from distill.errors import (
    DistillError,
    MismatchError,
    MissingError,
    RecipeError,
    did_you_mean,
    shown,
)
from distill.models import find, load
from distill.pipeline import run_stages
from distill.planning import preflight
from distill.planning.cuts import check_cuts
from distill.planning.licences import licence_parts
from distill.planning.machine import GB
from distill.race.candidates import (
    Candidate,
    Field,
    LeftOut,
    Source,
    Values,
    base_values,
    smaller_bases,
    uncut,
)
from distill.race.recipes import TRIMMED, changed, left_out_as_missing
from distill.race.reckoning import with_costs
from distill.race.sizes import Budget, Outline, deployed_format
from distill.race.stages import Folders, RaceChanged, is_made
from distill.race.stored import Race, Wishes
from distill.recipe import Recipe
from distill.recipe.sections import Vocabulary
from distill.shaping.trimmed import TOKENIZER

MIXTURE = (
    "no such file here holds a mixture of experts: MB are of the folder quantize/w16a16, which "
    "transformers and vLLM read"
)


def make_race(recipe: Recipe, folders: Folders, running: Processes, wishes: Wishes) -> Race:
    """Plan a race: trim the vocabulary, list who fits, and reckon what it takes.

    Raises RecipeError where nothing fits, or what is wished for is not among the candidates, and
    MismatchError for a student that no file can hold.
    """
    preflight.check_formats(recipe)
    budget = Budget.of(recipe.student)
    left_out: list[LeftOut] = []
    field = _field(recipe, folders, running, budget, left_out)
    candidates = list(_possible(recipe, field.candidates(), left_out))
    _require_one_that_fits(recipe, budget, candidates, field.left_out)
    race = Race(
        tokens=recipe.train.batch_tokens,
        format=field.format,
        student=recipe.student.model_dump(mode="json"),
        answers=folders.run.digest("generate", recipe),
        only=wishes.only,
        epochs=recipe.train.epochs,
        candidates=_only(candidates, wishes),
        left_out=field.left_out,
        minutes=[],
        shared_minutes=0.0,
        kept_bytes=0.0,
        passing_bytes=0.0,
    )
    return with_costs(recipe, folders, race, wishes.tokens)


def _possible(
    recipe: Recipe, candidates: Sequence[Candidate], left_out: list[LeftOut]
) -> Iterator[Candidate]:
    """Yield the candidates that their model and the recipe allow; the others are left out."""
    for candidate in candidates:
        try:
            check_cuts(changed(recipe, student=candidate.values))
        except (MismatchError, ValidationError) as error:
            left_out.append(LeftOut(candidate.name, _reason(error)))
        else:
            yield candidate


def _only(candidates: list[Candidate], wishes: Wishes) -> list[Candidate]:
    """Return the candidates that are wished for."""
    if wishes.only is None:
        return candidates
    by_name = {candidate.name: candidate for candidate in candidates}
    for name in wishes.only:
        if name not in by_name:
            hint = did_you_mean(name, by_name)
            hint = f"{hint} " if hint else ""
            raise RecipeError(f"--only {shown(name)}: {hint}There are {', '.join(by_name)}")
    return [candidate for candidate in candidates if candidate.name in wishes.only]


def _field(
    recipe: Recipe,
    folders: Folders,
    running: Processes,
    budget: Budget,
    left_out: list[LeftOut],
) -> Field:
    """Return what the candidates are listed from; what cannot be is added to `left_out`."""
    vocabulary = recipe.student.vocabulary or Vocabulary()
    options = vocabulary.model_dump(mode="json")
    whole = uncut(recipe.student)
    trimmed = _trimmed(recipe, folders, running, whole | {"vocabulary": options}, left_out)
    source = _source(recipe, whole, trimmed)
    if source.whole.num_experts:
        left_out.append(LeftOut("GGUF", MIXTURE))
    format_name = deployed_format(recipe.quantize)
    bases = list(_bases(recipe, trimmed, budget, format_name, left_out))
    return Field(recipe.student, source, bases, options, budget, format_name, left_out)


def _trimmed(
    recipe: Recipe,
    folders: Folders,
    running: Processes,
    values: Values,
    left_out: list[LeftOut],
) -> tuple[Any, int] | None:
    """Return (the folder of the trimmed tokenizer, its ids); None where it cannot be trimmed."""
    folder = folders.of_vocabulary(TRIMMED)
    try:
        trimming = changed(recipe, student=values)
        if not _is_trimmed(trimming, folders, folder):
            run_stages([trim.STAGE], trimming, folder, running)
    except RaceChanged:
        raise
    except (MismatchError, ValidationError) as error:
        if recipe.student.vocabulary is not None:
            raise
        left_out.append(LeftOut(TRIMMED, _reason(error)))
        return None
    result = folder.require("trim", TrimResult, recipe).result
    if result.vocab_size == result.parent_vocab_size and recipe.student.vocabulary is None:
        left_out.append(LeftOut(TRIMMED, f"all {result.vocab_size:,} tokens are needed"))
        return None
    return folder.stage("trim") / TOKENIZER, result.vocab_size


def _is_trimmed(trimming: Recipe, folders: Folders, folder: RunFolder) -> bool:
    """Return whether the vocabulary is there; another one goes, as long as no candidate has it.

    Raises RaceChanged where one has.
    """
    try:
        return is_made([trim.STAGE], trimming, folder)
    except RaceChanged:
        if any(RunFolder(path).began("initialize") for path in folders.path.iterdir()):
            raise
        folder.set_aside("trim", keep_files=False)  # only a plan has asked for it
        return False


def _reason(error: Exception) -> str:
    """Return the first line of an error, of pydantic's what is wrong."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return str(error).splitlines()[0]


def _source(recipe: Recipe, values: Values, trimmed: tuple[Any, int] | None) -> Source:
    """Return the model that the recipe's student begins as, whole."""
    student = recipe.student
    if student.model is None:
        tokenizer = teachers.connect(recipe).tokenizers.student
        place = recipe.model_location(recipe.teacher.model)
        folder = find.local_folder(place, recipe.teacher.revision, weights=False)
        outline = Outline.of(initialize.random_config(recipe, tokenizer), folder)
    else:
        location = recipe.model_location(student.model)
        folder = find.local_folder(location, student.revision, weights=False)
        outline = Outline.of(load.config_of(folder), folder)
    return Source(values, outline, _with(outline, trimmed))


def _with(outline: Outline, trimmed: tuple[Any, int] | None) -> Outline | None:
    return None if trimmed is None else outline.with_vocabulary(*trimmed)


def _bases(
    recipe: Recipe,
    trimmed: tuple[Any, int] | None,
    budget: Budget,
    format_name: str,
    left_out: list[LeftOut],
) -> list[Source]:
    """Return smaller models of the family, from the largest to the first that fits whole."""
    student = recipe.student
    if student.model is None:
        return []
    known = smaller_bases(student.model)
    if not known:
        reason = f"the catalogue knows none with the tokens of {student.model}"
        left_out.append(LeftOut("smaller base", reason))
    bases: list[Source] = []
    for model in known:
        values = base_values(student, model)
        name = model.id.rpartition("/")[2]
        try:
            source = _base(changed(recipe, student=values), recipe, values, trimmed)
        except MissingError as error:
            left_out.append(left_out_as_missing(name, model.id, recipe, error))
            continue
        except (DistillError, ValueError) as error:
            left_out.append(LeftOut(name, _reason(error)))
            continue
        bases.append(replace(source, name=name))
        if budget.use(source.whole.size(format_name)) <= 1:
            break
    return bases


def _base(
    with_base: Recipe, recipe: Recipe, values: Values, trimmed: tuple[Any, int] | None
) -> Source:
    """Return a smaller base. Raises a DistillError that says why it cannot be taken."""
    own = licence_parts(recipe)
    for name, part in licence_parts(with_base).items():
        if LEVELS.index(part.level) > LEVELS.index(own[name].level):
            raise MismatchError(f"its licence allows less: {name}: {part.level}")
    source = _source(with_base, values, trimmed)
    tokenizers = teachers.connect(with_base).tokenizers
    if tokenizers.same:
        own_tokenizer = load_students_tokenizer(with_base)
        chat.require_same_tokenizer(with_base, tokenizers.teacher, own_tokenizer)
    return source


def _require_one_that_fits(
    recipe: Recipe, budget: Budget, candidates: Sequence[Candidate], left_out: Sequence[LeftOut]
) -> None:
    if any(budget.use(candidate.size) <= 1 for candidate in candidates):
        return
    tried = [*((c.name, c.size) for c in candidates)]
    tried += [(out.name, out.size) for out in left_out if out.size is not None]
    name, size = min(tried, key=lambda pair: budget.use(pair[1]))
    smaller = "begin with a smaller student.model"
    if recipe.student.model is None:
        smaller = "make it smaller (student.num_layers, student.hidden_size, student.vocabulary)"
    raise RecipeError(
        f"{recipe.source}: {budget}: no student fits; the smallest is {name} with {size}. "
        f"Raise the budget, or {smaller}"
    )


def told(race: Race) -> str:
    """Return the plan as lines for a terminal."""
    budget = race.limits
    lines = [
        f"shape: {budget}, files in {race.format}; {len(race.candidates)} candidates, "
        f"{race.tokens:,} tokens each: about {race.all_minutes:.0f} minutes in all "
        "(estimates within a factor of two)",
        f"  {'candidate':<32}{'parameters':>15}{'MB':>10}{'minutes':>9}",
    ]
    for candidate, minutes in zip(race.candidates, race.minutes, strict=True):
        size = candidate.size
        note = "" if budget.use(size) <= 1 else "  beyond the budget"
        lines.append(
            f"  {candidate.name:<32}{size.parameters:>15,}{size.num_bytes / 1e6:>10,.1f}"
            f"{minutes:>9.1f}{note}"
        )
    lines.append(f"  {'held-out answers, trim, capture':<57}{race.shared_minutes:>9.1f}")
    lines += [f"  left out: {out.name}: {out.reason}" for out in race.left_out]
    lines.append(
        f"  disk: {race.kept_bytes / GB:.2f} GB stay below shape/ and capture/signals/, "
        f"{race.passing_bytes / GB:.2f} GB more while a candidate is made"
    )
    return "\n".join(lines)
