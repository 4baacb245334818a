"""rounds: the student answers, the teacher says how likely each token was, the student learns; again.

    rounds/answers/*.jsonl            every answer of the students, append-only, keyed by content
    rounds/signals/<header>/*.shard   what the teacher says of their tokens, keyed by content
    rounds/round-1/, round-2/, ...    a folder a round (on_policy/round_files.py); round-0: the trained
                                      student before any
    rounds/student/                   that of the best round, which is quantized and used
    rounds/repeat-2/, ...             the rounds of every repeat of the training after the first

Round 0 is `train`'s student, and may win. The best round is found on the prompts that training
validates on, never on those that `evaluate` holds out.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.files import files_under
from distill.core.processes import Processes
from distill.core.results import Round, RoundsResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Stage, by_seed
from distill.planning.round_costs import rounds_cost
from distill.recipe import Recipe
from distill.shaping.trimmed import trim_stage
from distill.teachers.fingerprint import teacher_identity, teacher_inputs
from distill.teachers.launch import check_teachers_processes
from distill.training.placing import check_ranks

if TYPE_CHECKING:
    from distill.on_policy.work import Work


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput | None:
    """Make what is missing of all rounds, and keep the best one's student."""
    from distill.on_policy.rounds import keep_best, make_rounds
    from distill.on_policy.selection import best_round
    from distill.on_policy.student_as import stored_choice
    from distill.on_policy.work import Work

    repeats = range(1, recipe.train.repeats + 1)
    of_first = Work.of(recipe, folder, processes)
    works = [replace(of_first, repeat=repeat) for repeat in repeats]
    made, reasons, files = [], [], []
    for work in works:
        rounds, ended = make_rounds(work)
        made.append(rounds)
        reasons.append(ended)
        if processes.is_main:
            keep_best(work, rounds)
            files += _files_of(work, rounds)
            best = best_round(rounds)
            print(f"rounds: {work.title(best)} is kept: {ended}", flush=True)
        processes.barrier()
    if not processes.is_main:
        return None
    shards = [path for path in works[0].signals.rglob("*.shard") if path.is_file()]
    first, *others = made
    result = RoundsResult(first, best_round(first), reasons[0], stored_choice(works[0]), others)
    return StageOutput(result, [*files, *shards])


def _files_of(work: "Work", rounds: list[Round]) -> list[Path]:
    """Return what stands for the rounds of a repeat: each one's folder, and the best student."""
    folders = [work.files(made.number).place for made in rounds]
    files = [path for folder in folders for path in files_under(folder)]
    kept = files_under(work.place / "student")
    return [*kept, *(path for path in files if path.name != "started.json")]


def left_out(recipe: Recipe) -> str | None:
    return "rounds is null" if recipe.rounds is None else None


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the rounds beside the trained student and the samples."""
    assert recipe.rounds is not None  # the stage is left out without
    return teacher_identity(recipe) | {"rounds": recipe.rounds.identity()}


def reads(recipe: Recipe) -> list[str]:
    return ["generate", *trim_stage(recipe), "capture", "train"]


def check_launch(recipe: Recipe, processes: Processes) -> None:
    """Raise MismatchError where these processes cannot divide the student, or not ask the teacher."""
    check_ranks(recipe, processes)
    check_teachers_processes(recipe, processes)


STAGE = Stage(
    "rounds",
    "the student learns from its own answers, which the teacher scores",
    run,
    RoundsResult,
    section,
    teacher_inputs,
    by_seed,
    reads=reads,
    left_out=left_out,
    cost=rounds_cost,
    check_launch=check_launch,
    shared=True,
    keeps_files=True,
)
