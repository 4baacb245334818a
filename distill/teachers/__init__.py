"""Who answers the prompts: transformers or llama.cpp on this machine, or a server.

Stages meet a teacher through `Teacher` (base.py) alone. Only the functions here know which kinds
there are.
"""

from typing import Literal

from distill.core.run_folder import RunFolder
from distill.recipe import Recipe
from distill.teachers.base import Teacher


def connect(
    recipe: Recipe,
    folder: RunFolder | None = None,
    local_rank: int = 0,
    *,
    work: Literal["generate", "capture"] = "generate",
) -> Teacher:
    """Return the recipe's teacher; nothing is loaded.

    folder: the run folder, where its answers are; None: the recipe's own.
    local_rank: of this process, whose GPU it takes.
    work: the stage for which a type is chosen for its weights, where the recipe leaves it open.

    Raises MissingError if a file or folder that the recipe names for it is not there.
    """
    if recipe.teacher.gguf:
        from distill.teachers.gguf import GgufTeacher

        return GgufTeacher(recipe, folder, local_rank)
    if recipe.teacher.server:
        from distill.teachers.server.teacher import ServerTeacher

        return ServerTeacher(recipe, folder, local_rank)
    return _local(recipe, folder, local_rank, work)


def connect_to_capture(
    recipe: Recipe, folder: RunFolder | None = None, local_rank: int = 0
) -> Teacher:
    """Return the teacher that the signal is taken from.

    That is a server only where it gave log-probs with its answers, or scores them; else its weights
    are loaded here.
    """
    if recipe.capture.scores_answers:
        return connect_to_score(recipe, folder, local_rank)
    if recipe.teacher.server and not recipe.capture.from_server:
        return _local(recipe, folder, local_rank, "capture")
    return connect(recipe, folder, local_rank, work="capture")


def connect_to_score(
    recipe: Recipe, folder: RunFolder | None = None, local_rank: int = 0
) -> Teacher:
    """Return the teacher that says how likely tokens are that it has not written itself.

    That is the one that the signal is taken from; of a server's log-probs (capture.from_server) the
    server, which must be able to.
    """
    if recipe.teacher.server and recipe.capture.from_server:
        from distill.teachers.server.scoring import ScoringTeacher

        return ScoringTeacher(recipe, folder, local_rank)
    return connect_to_capture(recipe, folder, local_rank)


def _local(
    recipe: Recipe,
    folder: RunFolder | None,
    local_rank: int,
    work: Literal["generate", "capture"],
) -> Teacher:
    from distill.teachers.local import LocalTeacher

    return LocalTeacher(recipe, folder, local_rank, work=work)


def judge_of(teacher: Teacher) -> Teacher:
    """Return who grades the answers: the judge's own server, or the teacher itself."""
    if teacher.recipe.generate.judge_server is None:
        return teacher
    from distill.teachers.server.teacher import JudgeOnServer

    return JudgeOnServer(teacher)
