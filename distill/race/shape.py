"""shape: a race of students that fit a budget, each distilled for a short while.

    shape/race.json      what is raced, as it was planned
    shape/precision.json the type that all are trained in, where it was chosen here
    shape/<candidate>/   a run folder like any other, but for the weights: its file alone stays
    shape/shape.json     what came out

Cuts that look alike before training differ after it, and ranks flip, so each is measured after as
many tokens of distillation. What a killed race has made is found again.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from distill import generate, initialize
from distill.core.files import write_atomic
from distill.core.processes import Processes
from distill.core.results import QuantizeResult
from distill.core.run_folder import RunFolder
from distill.core.stage import Stage
from distill.deploy.speed import bytes_per_token
from distill.errors import DataError, DistillError, MismatchError, MissingError, RecipeError
from distill.formats import FORMATS, path_of
from distill.llama_cpp.gguf_header import read_tensor_infos
from distill.models.precision import FILE as PRECISION
from distill.pipeline import at_work, run_stages
from distill.planning.machine import GB
from distill.race import plan, report
from distill.race.candidates import Candidate, LeftOut
from distill.race.recipes import (
    as_it_began,
    decided_by,
    left_out_as_missing,
    recipe_of_candidate,
    vocabulary_name,
)
from distill.race.report import Outcome, Row, outcome_of
from distill.race.stages import (
    HELD_OUT,
    OF_CANDIDATE,
    OF_VOCABULARY,
    Folders,
    Measured,
    RaceChanged,
    is_made,
    remove_weights,
)
from distill.race.stored import Race, Wishes, goes_on, store_race, stored_race
from distill.recipe import Recipe, in_full
from distill.recipe.commands import advised_instead

NOTHING_MORE = Wishes()


def run(
    recipe: Recipe, *, wishes: Wishes = NOTHING_MORE, only_plan: bool = False, redo: bool = False
) -> Outcome | None:
    """Race, as far as that is not done yet, and return what came out; None of `only_plan`.

    `redo`: let all race anew.

    Raises RecipeError (no budget, nothing fits), MismatchError (the recipe has changed), DataError
    (no room on the disk), and what the stages raise.
    """
    if only_plan and redo:
        raise RecipeError("shape: --redo and --plan: a plan changes nothing; leave out one of them")
    if recipe.student.budget_mb is None and recipe.student.parameters is None:
        raise RecipeError(
            f"{recipe.source}: student.budget_mb and student.parameters are null: say what the "
            "student may have, e.g. student.budget_mb=500 (megabytes of its file)"
        )
    if recipe.teachers is not None:
        raise RecipeError(
            f"{recipe.source}: teachers: shape races students with one teacher: give it a recipe with "
            "`teacher:` and that one's languages, and write the student that won into this one"
        )
    if recipe.team_size > 1:
        raise RecipeError(
            f"{recipe.source}: teacher.tensor_parallel {recipe.team_size}: shape races by one process: "
            "set it to null, and teacher.device_map=auto spreads the teacher over all GPUs"
        )
    with at_work(recipe, RunFolder.of(recipe)) as running:
        if running.num > 1:
            raise RecipeError(
                "shape: one process races: start `distill shape RECIPE` without a launcher"
            )
        folders = Folders(RunFolder.of(recipe))
        if redo:
            folders.run.set_aside("shape", keep_files=False)
        race = _race(recipe, folders, running, wishes, only_plan)
        if only_plan:
            print(in_full(plan.told(race), recipe), flush=True)
            return None
        as_began = as_it_began(recipe, race)
        _require_unchanged(as_began, folders, race)
        store_race(folders, race)
        print(in_full(plan.told(race), recipe), flush=True)
        _require_room(folders, race)
        outcome = _run(as_began, folders, race, running)
        report.store(folders, outcome)
        print(report.deletable(folders))
    return outcome


def _race(
    recipe: Recipe, folders: Folders, running: Processes, wishes: Wishes, only_plan: bool
) -> Race:
    """Return the race that began here, or a new one, once the teacher has answered."""
    manifest = folders.run.manifest("generate", generate.STAGE.result)
    if manifest is None and only_plan:
        raise MissingError(
            f"{folders.run.stage('generate')}: not finished: who fits follows from a vocabulary that "
            "is trimmed by the answers; run `distill generate RECIPE` first"
        )
    if manifest is None:
        folders.run.write_recipe(recipe)
        print("shape: the teacher answers first: `distill plan` says how long that takes")
    run_stages([generate.STAGE], recipe, folders.run, running)
    began = stored_race(folders)
    answers = folders.run.digest("generate", recipe)
    if began is not None and goes_on(began, recipe, answers, wishes):
        return began
    if began is not None and not only_plan:
        _require_same_tokens(folders, began, wishes)
    if began is not None and began.answers == answers and wishes.tokens is None:
        wishes = replace(wishes, tokens=began.tokens)
    return plan.make_race(recipe, folders, running, wishes)


def _require_same_tokens(folders: Folders, began: Race, wishes: Wishes) -> None:
    """Raise RaceChanged where other tokens are wished for than a candidate was trained on."""
    if wishes.tokens in (None, began.tokens):
        return
    trained = [c.name for c in began.candidates if RunFolder(folders.path / c.name).began("train")]
    if trained:
        raise RaceChanged(
            f"{folders.path}: {trained[0]} was trained in a race with --tokens {began.tokens}, and "
            f"this asks for --tokens {wishes.tokens}: go on with --tokens {began.tokens}, or let all "
            "race anew with --redo (answers and signals of the teacher stay)"
        )


def _require_unchanged(recipe: Recipe, folders: Folders, race: Race) -> None:
    """Raise RaceChanged, before any work, where another recipe made what is there of a candidate."""
    for candidate in race.candidates:
        of_candidate, vocabulary, folder = _places(recipe, folders, race, candidate)
        try:
            if is_made(OF_VOCABULARY, of_candidate, vocabulary):
                is_made(OF_CANDIDATE, of_candidate, folder)
        except MissingError:  # its model has gone since: told when it is its turn
            continue


def _require_room(folders: Folders, race: Race) -> None:
    """Raise DataError where the disk has no room for what is still to be made."""
    made = sum((folders.path / c.name / "measure/manifest.json").is_file() for c in race.candidates)
    left = 1 - made / len(race.candidates)
    needed = race.kept_bytes * left + race.passing_bytes * (left > 0)
    free = shutil.disk_usage(folders.run.path).free
    if needed > free:
        raise DataError(
            f"{folders.path}: the race needs about {needed / GB:.1f} GB of disk, and "
            f"{free / GB:.1f} GB is free: free some, or set run_folder=PATH on another disk"
        )


def _run(recipe: Recipe, folders: Folders, race: Race, running: Processes) -> Outcome:
    run_stages([HELD_OUT], recipe, folders.home, running)
    rows = []
    left_out = list(race.left_out)
    for number, candidate in enumerate(race.candidates, 1):
        print(f"shape: {number}/{len(race.candidates)} {candidate.name}", flush=True)
        try:
            with _advising_the_race():
                rows.append(_raced(recipe, folders, race, candidate, running))
        except CutRefused as error:
            left_out.append(LeftOut(candidate.name, str(error).splitlines()[0]))
        except MissingError as error:
            model = candidate.values["model"]
            if model == recipe.student.model:
                raise
            left_out.append(left_out_as_missing(candidate.name, model, recipe, error))
        else:
            continue
        told = f"shape: {candidate.name} is left out: {left_out[-1].reason}"
        print(in_full(told, recipe), flush=True)
    if not rows:
        out = left_out[-1]
        raise MissingError(f"{folders.path}: no candidate could be raced: {out.name}: {out.reason}")
    return outcome_of(replace(race, left_out=left_out), rows, decided_by(recipe, race))


class CutRefused(MismatchError):
    """A model cannot be made into this candidate: others may race."""


@contextmanager
def _advising_the_race() -> Iterator[None]:
    """Let errors of a candidate's stages advise the command that runs them."""
    try:
        yield
    except DistillError as error:
        error.args = (advised_instead(str(error), "shape"), *error.args[1:])
        raise


def _places(
    recipe: Recipe, folders: Folders, race: Race, candidate: Candidate
) -> tuple[Recipe, RunFolder, RunFolder]:
    """Return a candidate's recipe, the folder of its vocabulary, and its own."""
    of_candidate = recipe_of_candidate(recipe, folders, candidate.name, candidate.values, race)
    vocabulary = folders.of_vocabulary(vocabulary_name(candidate.values, recipe))
    return of_candidate, vocabulary, folders.of_candidate(candidate.name, vocabulary)


def _raced(
    recipe: Recipe, folders: Folders, race: Race, candidate: Candidate, running: Processes
) -> Row:
    """Make what of a candidate is not made yet, and return its row."""
    of_candidate, vocabulary, folder = _places(recipe, folders, race, candidate)
    _make(OF_VOCABULARY, of_candidate, vocabulary, running)
    folder.write_recipe(of_candidate)
    _initialize(of_candidate, folder, running)
    chosen, own = folders.path / PRECISION, folder.stage("train") / PRECISION
    if not folder.began("train"):
        _keep_choice(chosen, own)
    _make(OF_CANDIDATE, of_candidate, folder, running)
    _keep_choice(own, chosen)
    remove_weights(folder)
    return _row(of_candidate, folder, race, candidate)


def _keep_choice(made: Path, copy: Path) -> None:
    """Copy the note of a type, if there is one and no copy yet.

    All candidates are trained in the type that train.precision auto chose for the first: else types
    would be compared, and not students.
    """
    if made.is_file() and not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(copy, made.read_bytes())


def _initialize(recipe: Recipe, folder: RunFolder, running: Processes) -> None:
    """Make the student before training. Raises CutRefused where its model does not allow the cut."""
    try:
        _make([initialize.STAGE], recipe, folder, running)
    except RaceChanged:
        raise
    except MismatchError as error:
        raise CutRefused(*error.args) from None


def _make(stages: Sequence[Stage], recipe: Recipe, folder: RunFolder, running: Processes) -> None:
    if not is_made(stages, recipe, folder):
        run_stages([s for s in stages if s.left_out(recipe) is None], recipe, folder, running)


def _row(recipe: Recipe, folder: RunFolder, race: Race, candidate: Candidate) -> Row:
    measured = folder.require("measure", Measured, recipe).result
    check = folder.require("quantize", QuantizeResult, recipe).result.formats[race.format]
    per_token = None
    if not FORMATS[race.format].is_folder:
        per_token = bytes_per_token(read_tensor_infos(path_of(folder, race.format)))
    size = replace(candidate.size, parameters=measured.num_parameters, num_bytes=check.bytes)
    return Row(
        name=candidate.name,
        values=candidate.values,
        num_bytes=check.bytes,
        bytes_per_token=per_token,
        fits=race.limits.use(size) <= 1,
        failed=check.failed,
        measured=measured,
    )
