"""A race as it was planned, and whether the recipe still asks for it.

shape/race.json     written before the first candidate, so that the race goes on as it began
"""

from dataclasses import asdict, dataclass

from distill.core.stored_json import as_type, read_json, write_json
from distill.errors import DistillError
from distill.models import find, model_files
from distill.race.candidates import Candidate, LeftOut, Values
from distill.race.sizes import Budget, deployed_format
from distill.race.stages import Folders
from distill.recipe import Recipe
from distill.recipe.sections import Student

WAY_OUT = "delete it and run `distill shape RECIPE`: what is made is kept"


@dataclass(frozen=True)
class Race:
    """The race as it is planned.

    `tokens`: that each candidate learns. `student`: the recipe's section when it began. `minutes`:
    of each candidate; `shared_minutes`: of what all share. `kept_bytes`: those that stay on disk;
    `passing_bytes`: those that are there for a while.
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

    The student may be the one that it had then, or a candidate that was written into it since. Where
    a model that was missing is here now, it races, too. `answers`: the identity of generate's; None: not to be compared.
    """
    students = [race.student, *({**race.student, **c.values} for c in race.candidates)]
    return (
        recipe.student.model_dump(mode="json") in students
        and deployed_format(recipe.quantize) == race.format
        and answers in (None, race.answers)
        and wishes.tokens in (None, race.tokens)
        and race.only == wishes.only
        and not any(_is_here(recipe, out.missing) for out in race.left_out)
    )


def _is_here(recipe: Recipe, model: str | None) -> bool:
    """Return whether a model is whole on this machine; the network is not asked."""
    folder = None if model is None else find.folder_here(recipe.model_location(model))
    if folder is None:
        return False
    try:
        return bool(model_files.weight_files(folder))
    except DistillError:
        return False
