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

from distill.core.files import files_under
from distill.core.processes import Processes
from distill.core.results import RoundsResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Stage
from distill.planning.round_costs import rounds_cost
from distill.recipe import Recipe
from distill.shaping.trimmed import trim_stage
from distill.teachers.fingerprint import teacher_fingerprint


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput | None:
    """Make what is missing of all rounds, and keep the best one's student."""
    from distill.on_policy.rounds import keep_best, make_rounds
    from distill.on_policy.selection import best_round
    from distill.on_policy.work import Work

    made, files = [], []
    for repeat in range(1, recipe.train.repeats + 1):
        work = Work.of(recipe, folder, processes, repeat)
        rounds, ended = make_rounds(work)
        made.append((rounds, ended))
        if processes.is_main:
            keep_best(work, rounds)
        processes.barrier()
    if not processes.is_main:
        return None
    (first, ended), *others = made
    best = best_round(first)
    print(f"rounds: round {best} is kept: {ended}", flush=True)
    stage = folder.stage("rounds")
    files = [path for path in files_under(stage) if _stands_for_it(path.relative_to(stage).parts)]
    result = RoundsResult(first, best, ended, "weights", [rounds for rounds, _ in others])
    return StageOutput(result, files)


def _stands_for_it(parts: tuple[str, ...]) -> bool:
    """Return whether a file of the stage's folder belongs to its result."""
    is_state = parts[0] in ("answers", "leases") or parts[-1] in ("started.json", "manifest.json")
    return not is_state and not parts[-1].endswith(".broken")


def left_out(recipe: Recipe) -> str | None:
    return "rounds is null" if recipe.rounds is None else None


def fingerprint(recipe: Recipe) -> Fingerprint:
    """Return what decides the rounds beside the trained student and the samples."""
    assert recipe.rounds is not None  # the stage is left out without
    teacher = teacher_fingerprint(recipe)
    section = teacher.section | {"rounds": recipe.rounds.identity()}
    return Fingerprint(section, teacher.inputs, seed=recipe.seed)


def reads(recipe: Recipe) -> list[str]:
    return ["generate", *trim_stage(recipe), "capture", "train"]


STAGE = Stage(
    "rounds",
    "the student learns from its own answers, which the teacher scores",
    run,
    RoundsResult,
    fingerprint,
    reads=reads,
    left_out=left_out,
    cost=rounds_cost,
    shared=True,
    keeps_files=True,
)
