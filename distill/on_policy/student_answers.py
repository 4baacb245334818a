"""The student answers prompts: it is asked as a teacher is, with its weights or as a GGUF file.

Its answers go to an append-only log, keyed by its weights, the prompt, the sampling and the number of
the draw; the seed follows from the key. So a killed run goes on, and ends with the same answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distill.core.digests import digest, file_sha256
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.models.load import Placement
from distill.models.sampling import Sampling
from distill.recipe import Recipe
from distill.teachers.answers import ask
from distill.teachers.base import Teacher
from distill.teachers.gguf import GgufTeacher
from distill.teachers.keys import request_maker
from distill.teachers.local import LocalTeacher
from distill.teachers.log import AnswerLog, read_rows_of
from distill.teachers.requests import Request, RequestOptions
from distill.teachers.server.budget import FREE

ANSWERS = "answers"  # folder of the log
NOT_WEIGHTS = ("training.json", "SHA256SUMS")  # they hold times


def student_digest(student: Path) -> str:
    """Return what tells a student from others: a digest of all its files but how it was trained."""
    paths = [path for path in student.iterdir() if path.is_file() and path.name not in NOT_WEIGHTS]
    return digest(*(f"{path.name} {file_sha256(path)}" for path in sorted(paths)))


class _AsTeacher(Teacher):
    """The student, asked as a teacher is; `digest` tells its weights from others."""

    def __init__(self, recipe: Recipe, folder: RunFolder, local_rank: int, digest: str):
        super().__init__(recipe, folder, local_rank)
        self._digest = digest

    @property
    def model(self) -> str:
        return "student"

    @cached_property
    def identity(self) -> str:
        return self._digest


class StudentHere(_AsTeacher, LocalTeacher):
    """The student with its weights."""


class StudentAsGguf(_AsTeacher, GgufTeacher):
    """The student as a GGUF file in llama.cpp, which was made from the weights of `digest`."""

    @cached_property
    def identity(self) -> str:
        return digest(self._digest, "gguf", self.quantization)


@dataclass(frozen=True)
class Student:
    """A student that answers: its folder, what tells it from others, where it runs and in which type.

    `gguf`: its file, where it answers as one.
    """

    folder: Path
    digest: str
    placement: Placement
    gguf: Path | None = None

    def as_teacher(self, recipe: Recipe, folder: RunFolder, local_rank: int) -> Teacher:
        """Return who is asked; nothing is loaded."""
        asked = recipe_of_student(recipe, self)
        kind = StudentHere if self.gguf is None else StudentAsGguf
        return kind(asked, folder, local_rank, self.digest)


def recipe_of_student(recipe: Recipe, student: Student) -> Recipe:
    """Return the recipe in which the student stands where the teacher does."""
    options = recipe.rounds
    assert options is not None
    teacher = recipe.teacher.model_copy(
        update={
            "model": str(student.folder),
            "gguf": None if student.gguf is None else str(student.gguf),
            "revision": None,
            "licence": None,
            "server": None,
            "server_model": None,
            "device": "cpu" if student.gguf else student.placement.device,
            "device_map": None,
            "tensor_parallel": None,
            "dtype": student.placement.dtype,
            "quantization": "none",
            "trust_remote_code": False,
        }
    )
    limit = {"max_new_tokens": options.max_new_tokens or recipe.generate.max_new_tokens}
    generate = recipe.generate.model_copy(update=limit)
    capture = recipe.capture.model_copy(update={"from_server": False})
    return recipe.model_copy(update={"teacher": teacher, "generate": generate, "capture": capture})


def request_options(recipe: Recipe) -> RequestOptions:
    """Return how the student is asked, and its answers are drawn."""
    options = recipe.rounds
    assert options is not None
    sampling = Sampling(
        options.sampling_temperature,
        options.top_p,
        max_new_tokens=options.max_new_tokens or recipe.generate.max_new_tokens,
        enable_thinking=recipe.generate.enable_thinking,
    )
    return RequestOptions(sampling, recipe.generate.system_prompt)


@dataclass(frozen=True)
class Drawn:
    """An answer of the student, as it ended: `finish_reason` is stop or length."""

    prompt: Prompt
    key: str
    prompt_ids: list[int]
    answer_ids: list[int]
    finish_reason: str


def answers_of(
    student: Student,
    recipe: Recipe,
    folder: RunFolder,
    place: Path,
    prompts: Sequence[Prompt],
    processes: Processes,
) -> list[Drawn]:
    """Return the student's answers to the prompts, drawn where they are not in the log in `place`.

    All processes share the work, and all get all answers.
    """
    assert recipe.rounds is not None
    options = request_options(recipe)
    with student.as_teacher(recipe, folder, processes.local_rank) as asked:
        log = AnswerLog(
            place, ANSWERS, "answers", FREE, lambda: len(asked.tokenizers.asked), "rounds"
        )
        make = request_maker(asked, options)
        requests = [make(p, i) for p in prompts for i in range(recipe.rounds.answers_per_prompt)]
        ask(asked, requests, options, log, processes)
    keys = [request.key for request in requests]
    rows = processes.broadcast(read_rows_of(log, keys) if processes.is_main else {})
    return [_drawn(request, rows[request.key]) for request in requests]


def _drawn(request: Request, row: dict[str, object]) -> Drawn:
    ids, reason = row["token_ids"], row["finish_reason"]
    assert isinstance(ids, list) and isinstance(reason, str)  # read_best_rows has seen to it
    return Drawn(request.prompt, request.key, list(request.prompt_ids), ids, reason)
