"""What a race will be: its candidates, the tokens that each learns, and what that will take.

shape/race.json     written before the first candidate, so that the race goes on as it began
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError

from distill import chat, initialize, teachers, train, trim
from distill.catalog.catalog import LEVELS
from distill.chat.tokenizers import load_students_tokenizer
from distill.core.processes import Processes
from distill.core.results import TrimResult
from distill.core.run_folder import RunFolder
from distill.core.stage import Cost, Stage
from distill.core.stored_json import as_type, read_json, write_json
from distill.data.samples import read_samples, split_samples
from distill.errors import DistillError, MismatchError, RecipeError, did_you_mean, shown
from distill.formats import W16A16
from distill.models import find, load
from distill.pilot.shape_candidates import (
    Candidate,
    Field,
    LeftOut,
    Source,
    Values,
    base_values,
    smaller_bases,
    uncut,
)
from distill.pilot.shape_sizes import Budget, Outline, Size, deployed_format
from distill.pilot.shape_stages import (
    HELD_OUT,
    OF_CANDIDATE,
    OF_VOCABULARY,
    Folders,
    RaceChanged,
    is_made,
)
from distill.pipeline import run_stages
from distill.planning import preflight, sizes
from distill.planning.costs import Workload, demand_of
from distill.planning.cuts import check_cuts
from distill.planning.licences import licence_verdict
from distill.planning.machine import GB, this_machine
from distill.recipe import Recipe
from distill.recipe.sections import Student, Vocabulary
from distill.shaping.trimmed import KEPT, TOKENIZER

RACE_SECONDS = 3600.0  # of the whole race, where nobody says how many tokens
LEAST_STEPS = 10
NUM_CHECKED = 16  # samples on which a file is compared with its student
TRIMMED, WHOLE = "trimmed", "whole"
WAY_OUT = "delete it and run `distill shape RECIPE`: what is made is kept"


@dataclass(frozen=True)
class Race:
    """The race as it is planned.

    `tokens`: that each candidate learns. `student`: the recipe's section when it began. `minutes`,
    `disk`: of each candidate, and of what all share (`shared_minutes`); bytes that stay on disk, and
    bytes that are there for a while.
    """

    tokens: int
    format: str
    student: Values
    answers: str
    only: tuple[str, ...] | None
    epochs: int
    candidates: list[Candidate]
    left_out: list[LeftOut]
    minutes: list[float]
    shared_minutes: float
    kept_bytes: float
    passing_bytes: float

    @property
    def all_minutes(self) -> float:
        return self.shared_minutes + sum(self.minutes)

    @property
    def limits(self) -> Budget:
        """Return what the student may have."""
        return Budget.of(Student.model_validate(self.student))


def stored_race(folders: Folders) -> Race | None:
    """Return the race that began in this folder, None where none did. Raises DataError if broken."""
    path = folders.path / "race.json"
    try:
        return as_type(read_json(path, WAY_OUT), Race, path, WAY_OUT)
    except FileNotFoundError:
        return None


def store_race(folders: Folders, race: Race) -> None:
    write_json(folders.path / "race.json", asdict(race), indent=1)


@dataclass(frozen=True)
class Wishes:
    """What is said of a race beside the recipe.

    `tokens`: that each candidate learns; None: as in the race before, or so many that the race takes
    about an hour. `only`: the names of those that race; None: all.
    """

    tokens: int | None = None
    only: tuple[str, ...] | None = None


def goes_on(race: Race, recipe: Recipe, answers: str | None, wishes: Wishes) -> bool:
    """Return whether the recipe still asks for this race.

    The student may be the one that it had then, or a candidate that was written into it since.
    `answers`: the identity of generate's; None: not to be compared.
    """
    students = [race.student, *({**race.student, **c.values} for c in race.candidates)]
    return (
        recipe.student.model_dump(mode="json") in students
        and deployed_format(recipe.quantize) == race.format
        and answers in (None, race.answers)
        and wishes.tokens in (None, race.tokens)
        and race.only == wishes.only
    )


def as_it_began(recipe: Recipe, race: Race) -> Recipe:
    """Return the recipe with the student that it had when the race began."""
    return changed(recipe, student=race.student)


def changed(recipe: Recipe, **sections: Mapping[str, Any] | str) -> Recipe:
    """Return the recipe with other values in some sections, or other values of its own.

    Raises pydantic's ValidationError where they do not go together.
    """
    values = recipe.model_dump(mode="json")
    for name, section in sections.items():
        values[name] = section if isinstance(section, str) else values[name] | dict(section)
    overrides = None if recipe.typed is None else recipe.typed[1:]
    return Recipe.from_values(values, recipe.source, origin=recipe.origin, overrides=overrides)


def recipe_of_candidate(
    recipe: Recipe, folders: Folders, name: str, values: Values, race: Race
) -> Recipe:
    """Return the recipe of a candidate: its student, trained briefly, in one file."""
    steps = max(1, round(race.tokens / recipe.train.batch_tokens))
    train_values: Values = {
        "control": False,
        "repeats": 1,
        "max_steps": steps,
        "epochs": race.epochs,
        "tracker": "none",
    }
    files = [] if race.format == W16A16.name else [race.format]
    return changed(
        recipe,
        name=f"{recipe.name}-{name.replace('+', '-')}"[:200],
        run_folder=str(folders.path / name),
        student={**values, "budget_mb": None, "parameters": None},
        train=train_values,
        quantize={
            "formats": files,
            "recover": [],
            "budget_mb": None,
            "num_sequences": min(NUM_CHECKED, recipe.quantize.num_sequences),
        },
    )


def vocabulary_name(values: Values, recipe: Recipe) -> str:
    """Return the name of the folder with a candidate's vocabulary."""
    if values["vocabulary"] is None:
        return WHOLE
    if values["model"] == recipe.student.model:
        return TRIMMED
    return f"{TRIMMED}-{values['model'].rpartition('/')[2]}"


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
    return _reckoned(recipe, folders, race, wishes.tokens)


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
        if not is_made([trim.STAGE], trimming, folder):
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
    verdict, own = licence_verdict(with_base), licence_verdict(recipe)
    if LEVELS.index(verdict.level) > LEVELS.index(own.level):
        raise MismatchError(f"its licence allows less: {verdict.level}")
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
    raise RecipeError(
        f"{recipe.source}: {budget}: no student fits; the smallest is {name} with {size}. "
        "Raise the budget, or begin with a smaller student.model"
    )


def _reckoned(recipe: Recipe, folders: Folders, race: Race, tokens: int | None) -> Race:
    """Return the race with its tokens, and what it takes."""
    reckoner = _Reckoner.of(recipe, folders, race)
    learnt = _learnt_tokens(recipe, folders.run)
    if tokens is None:
        tokens = reckoner.affordable_tokens(most=learnt * recipe.train.epochs)
    epochs = max(recipe.train.epochs, math.ceil(1.25 * tokens / max(learnt, 1)) + 1)
    return reckoner.reckoned(replace(race, tokens=tokens, epochs=epochs))


def _learnt_tokens(recipe: Recipe, folder: RunFolder) -> int:
    """Return the tokens of the samples that a candidate learns from, prompts and answers."""
    samples = read_samples(folder.stage("generate") / KEPT)
    fitting = [sample for sample in samples if len(sample.ids) <= recipe.train.max_length]
    learn, _ = split_samples(fitting, recipe.train.validation_share)
    return sum(len(sample.ids) for sample in learn)


@dataclass(frozen=True)
class _Reckoner:
    """Reckons seconds and bytes, with the estimates of `plan`."""

    recipe: Recipe
    folders: Folders
    race: Race
    work: Workload

    @classmethod
    def of(cls, recipe: Recipe, folders: Folders, race: Race) -> "_Reckoner":
        without_gpu = recipe.teacher.device == recipe.train.device == "cpu"
        machine = this_machine(folders.path, with_gpu=not without_gpu)
        teacher = sizes.teacher_size(recipe)
        return cls(
            recipe, folders, race, Workload(recipe, machine, teacher, teacher, demand_of(recipe))
        )

    def affordable_tokens(self, most: int) -> int:
        """Return the tokens with which the race takes about an hour, in whole steps.

        No more than `most`, what the recipe itself trains on.
        """
        step = self.recipe.train.batch_tokens
        per_step = sum(self._cost(c, [train.STAGE]).seconds for c in self.race.candidates)
        others = [stage for stage in OF_CANDIDATE if stage is not train.STAGE]
        fixed = self._shared().seconds
        fixed += sum(self._cost(c, others).seconds for c in self.race.candidates)
        steps = int((RACE_SECONDS - fixed) / per_step)
        return step * max(LEAST_STEPS, min(steps, most // step))

    def reckoned(self, race: Race) -> Race:
        """Return the race with its minutes and bytes."""
        reckoner = replace(self, race=race)
        costs = [reckoner._cost(c, OF_CANDIDATE) for c in race.candidates]
        kept = sum(candidate.size.num_bytes for candidate in race.candidates)
        return replace(
            race,
            minutes=[round(cost.seconds / 60, 2) for cost in costs],
            shared_minutes=round(reckoner._shared().seconds / 60, 2),
            kept_bytes=kept + reckoner._shared().disk,
            passing_bytes=max(cost.disk for cost in costs),
        )

    def _shared(self) -> Cost:
        """Return what is made once for several candidates."""
        costs = [self._cost(self.race.candidates[0], [HELD_OUT])]
        names = {}
        for candidate in self.race.candidates:
            names.setdefault(vocabulary_name(candidate.values, self.recipe), candidate)
        costs += [self._cost(candidate, OF_VOCABULARY) for candidate in names.values()]
        return _sum(costs)

    def _cost(self, candidate: Candidate, stages: Sequence[Stage]) -> Cost:
        """Return what the stages take of a candidate."""
        recipe = recipe_of_candidate(
            self.recipe, self.folders, candidate.name, candidate.values, self.race
        )
        work = replace(self.work, recipe=recipe, student=_planned(candidate.size))
        left = [s for s in stages if s.left_out(recipe) is None and s.cost is not None]
        return _sum([stage.cost(work) for stage in left if stage.cost is not None])


def _planned(size: Size) -> sizes.Size:
    return sizes.Size(size.parameters, size.layers, size.hidden, size.vocabulary, size.hidden, True)


def _sum(costs: Sequence[Cost]) -> Cost:
    return Cost(
        memory=max((cost.memory for cost in costs), default=0.0),
        seconds=sum(cost.seconds for cost in costs),
        disk=sum(cost.disk for cost in costs),
        download=sum(cost.download for cost in costs),
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
