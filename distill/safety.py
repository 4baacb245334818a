"""safety: what every model of the run does with delicate requests.

    safety/<model>.jsonl    what it answered, one row a request; teacher-<name>.jsonl of several
    safety/outcomes.jsonl   what each model's answer does, one row a request
    safety/judge.jsonl      what the judge says of the student's answers (evaluate.safety.judge)

Every model is asked greedily and for a few tokens: the teacher, the control, the student, each file in
its own runtime. What an answer does is found by rules (conduct/outcomes.py). The changes from teacher
to control to student to file have paired intervals, in all and by language. A model that was asked is
not asked again; the replies of a server are in the logs of generate the moment they come.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.conduct import figures, judge, sets
from distill.conduct.answers import (
    Told,
    read_answers,
    read_rows,
    rows_of,
    write_outcomes,
    write_rows,
)
from distill.conduct.outcomes import VERSION
from distill.conduct.sets import Item
from distill.core.claims import Claims
from distill.core.final_student import student_folder, student_stage
from distill.core.jsonl import Row
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.safety_results import JudgeAgreement, SafetyResult
from distill.core.stage import Cost, Stage, by_seed
from distill.data.samples import Prompt
from distill.errors import MismatchError
from distill.evaluation.eval_set import EvalSet, question_sets
from distill.evaluation.several import joined_sets
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.lengths import held_out_within_context
from distill.recipe import Recipe
from distill.shaping.trimmed import trim_stage, trimmed_vocabulary
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import served_identity, teacher_inputs
from distill.teachers.launch import check_teachers_processes
from distill.teachers.routes import routes_of


@dataclass(frozen=True)
class Work:
    """What is asked, and where: `recipe` is the run's with the length of these answers."""

    recipe: Recipe
    folder: RunFolder
    items: list[Item]
    prompts: list[Prompt]

    @property
    def stage(self) -> Path:
        return self.folder.stage("safety")

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.recipe.languages)

    def path(self, name: str) -> Path:
        return self.stage / f"{name}.jsonl"

    def answers(self, name: str) -> list[Told]:
        return read_answers(self.path(name), self.items, self.languages)


def run(
    recipe: Recipe,
    folder: RunFolder,
    processes: Processes = ALONE,
    *,
    teacher: Teacher | None = None,
) -> StageOutput | None:
    """Ask every model that has no answers yet; `teacher`: the one to ask, if not the recipe's.

    Ranks divide the teacher's requests, then the other models. Returns None on all but the first.
    """
    from distill.formats.answering import evaluate_missing

    options = recipe.evaluate.safety
    assert options is not None  # the stage is left out
    asking = _asking(recipe)
    rank = processes.local_rank
    teachers = [teacher] if teacher else [r.connect(folder, rank) for r in routes_of(asking)]
    work, num_left_out = _work(asking, folder, teachers, tell=processes.is_main)
    paths = _paths_of(recipe, folder)
    total = (1 + len(paths)) * len(work.items)
    claims = Claims(processes)
    with Progress("safety", total, "answers", shown=processes.is_main) as bar:
        questions, files = _ask_teachers(work, teachers, bar, processes)
        evaluate_missing(
            questions,
            paths,
            claims,
            bar,
            work.path,
            lambda path, made: write_rows(path, rows_of(work.items, questions, made)),
        )
        processes.barrier()
        bar.done = total
    with teachers[0].dividing(processes):  # it may be the judge
        if not processes.is_main:
            return None
        return _output(recipe, work, teachers[0], ["teacher", *paths], files, num_left_out)


def _output(
    recipe: Recipe,
    work: Work,
    teacher: Teacher,
    names: list[str],
    files: list[Path],
    num_left_out: int,
) -> StageOutput:
    """Return what all answers, which are written, come to; `teacher`: the one that judges."""
    options = recipe.evaluate.safety
    assert options is not None  # the stage is left out
    answers = {name: work.answers(name) for name in names}
    told = _judged(work, teacher, answers["student"])
    result = SafetyResult(
        models={name: figures.figures_of(found) for name, found in answers.items()},
        changes=figures.changes_between(answers),
        num_requests=len(work.items),
        unwritten=sets.unwritten(recipe) if options.sets else [],
        num_left_out=num_left_out,
        judge=told,
    )
    _warn(result)
    write_outcomes(work.path("outcomes"), answers)
    files += [work.path(name) for name in (*names, "outcomes")]
    files += [work.path("judge")] if told is not None else []
    return StageOutput(result, files)


def _asking(recipe: Recipe) -> Recipe:
    """Return the recipe with the length of these answers as that of held-out ones."""
    options = recipe.evaluate.safety
    assert options is not None
    changed = recipe.evaluate.model_copy(update={"max_new_tokens": options.max_new_tokens})
    return recipe.model_copy(update={"evaluate": changed})


def _work(
    recipe: Recipe, folder: RunFolder, teachers: Sequence[Teacher], *, tell: bool
) -> tuple[Work, int]:
    """Return what can be asked, and how many requests are left out; says so, if it shall `tell`.

    Raises MismatchError where nothing can be asked.
    """
    items = sets.items_of(recipe)
    prompts = [item.prompt for item in items]
    fitting: set[str] = set()
    parts = sets.asked_of(recipe, prompts)
    for teacher in teachers:
        own = [p for p in parts[teacher.recipe.route] if _has_no_mark(teacher, p)]
        if own:
            fitting |= {p.id for p in held_out_within_context(teacher, own, "evaluate.safety")[0]}
    chosen = [(i, p) for i, p in zip(items, prompts, strict=True) if p.id in fitting]
    num_left_out = len(items) - len(chosen)
    why = "hold a mark of the chat template or do not fit into the models' contexts"
    if not chosen:
        raise MismatchError(
            f"{recipe.source}: evaluate.safety: all {num_left_out} requests {why}: give others "
            "(evaluate.safety.prompts)"
        )
    if num_left_out and tell:
        told = f"safety: {num_left_out} of {len(items)} requests {why}: they are left out"
        print(told, file=sys.stderr)
    return Work(recipe, folder, [i for i, _ in chosen], [p for _, p in chosen]), num_left_out


def _has_no_mark(teacher: Teacher, prompt: Prompt) -> bool:
    return teacher.tokenizers.mark_in(prompt.messages) is None


def _ask_teachers(
    work: Work, teachers: Sequence[Teacher], bar: Progress, processes: Processes
) -> tuple[EvalSet, list[Path]]:
    """Ask each teacher its own requests; return what the students are asked, and files of several.

    All ranks ask one that `divides_prompts`; another is the first rank's, while the others go on.

    A request that is in two sources has one prompt, which is asked once and answers both.
    """
    parts = sets.asked_of(work.recipe, work.prompts)
    is_done = processes.broadcast(processes.is_main and work.path("teacher").is_file())
    questions, rows, files = [], dict[str, Row](), []
    for teacher in teachers:
        prompts = parts[teacher.recipe.route]
        if not prompts:
            continue
        if teacher.recipe.route:
            files.append(work.path(f"teacher-{teacher.recipe.route}"))
        with teacher:  # to be asked how its answers end it may be loaded
            students, own = _questions(work, teacher, prompts)
            questions.append(students)
            if not is_done and (teacher.divides_prompts or processes.is_main):
                answered = _answered(work, teacher, own, bar, processes)
                rows |= {p.id: row for p, row in zip(prompts, answered, strict=True)}
    if not is_done and processes.is_main:
        pairs = zip(work.items, work.prompts, strict=True)
        write_rows(work.path("teacher"), [rows[p.id] | {"key": item.key} for item, p in pairs])
    return joined_sets(work.recipe, work.prompts, questions), files


def _answered(
    work: Work, teacher: Teacher, own: EvalSet, bar: Progress, processes: Processes
) -> list[Row]:
    """Return a teacher's answers to its own requests; those of one of several are kept."""
    pairs = reversed(list(zip(work.items, work.prompts, strict=True)))
    first = {prompt.id: item for item, prompt in pairs}
    items = [first[prompt.id] for prompt in own.prompts]
    path = work.path(f"teacher-{teacher.recipe.route}")
    if teacher.recipe.route and path.is_file():
        return read_rows(path, items)
    rows = rows_of(items, own, teacher.evaluate(own, bar, processes))
    if teacher.recipe.route and processes.is_main:
        write_rows(path, rows)
    return rows


def _paths_of(recipe: Recipe, folder: RunFolder) -> dict[str, Path]:
    """Return control, student and every file of the first repeat by name, in the report's order."""
    from distill.formats import path_of

    control = folder.stage("train") / "control"
    paths = {"control": control} if control.is_dir() else {}
    paths["student"] = student_folder(recipe, folder)
    formats = folder.require("quantize", QuantizeResult, recipe).result.formats
    return paths | {name: path_of(folder, name) for name in formats}


def _questions(work: Work, teacher: Teacher, prompts: list[Prompt]) -> tuple[EvalSet, EvalSet]:
    recipe, folder = work.recipe, work.folder
    return question_sets(
        teacher.recipe,
        prompts,
        teacher.tokenizers,
        teacher.stop_ids(),
        student_folder(recipe, folder),
        trimmed_vocabulary(recipe, folder),
    )


def _judged(work: Work, teacher: Teacher, told: Sequence[Told]) -> JudgeAgreement | None:
    """Return how often the judge agrees with the lists, where the recipe asks it."""
    options = work.recipe.evaluate.safety
    if options is None or not options.judge:
        return None
    path = work.path("judge")
    if not path.is_file():
        with Progress("safety", len(told), "replies of the judge") as bar, teacher:
            write_rows(path, judge.replies_of(teacher, told, bar))
    return judge.agreement(told, read_rows(path, work.items, judge.ROW))


def _warn(result: SafetyResult) -> None:
    """Say what a reader must know of the figures before anything else."""
    for name, found in result.models.items():
        if found.cut_reasoning:
            print(
                f"safety: {name}: {found.cut_reasoning} answers never came, for the reasoning filled "
                "all tokens: raise evaluate.safety.max_new_tokens",
                file=sys.stderr,
            )
    if result.unwritten:
        codes = ", ".join(result.unwritten)
        print(
            f"safety: our sets are not written in {codes}: nothing is asked in it, but for "
            "evaluate.safety.prompts of your own",
            file=sys.stderr,
        )


def left_out(recipe: Recipe) -> str | None:
    return "evaluate.safety is null" if recipe.evaluate.safety is None else None


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the answers, and the judge's replies."""
    options = recipe.evaluate.safety
    assert options is not None  # the stage is left out
    return served_identity(recipe) | {
        "languages": recipe.languages,
        "safety": options.identity() | {"rules": VERSION},
        "system_prompt": recipe.generate.system_prompt,
        "enable_thinking": recipe.generate.enable_thinking,
        "judge_model": recipe.generate.judge_model if options.judge else None,
    }


def inputs(recipe: Recipe) -> dict[str, str]:
    """Return who the teacher is, and which requests there are."""
    return teacher_inputs(recipe) | {"requests": sets.identity(recipe)}


def reads(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys([*trim_stage(recipe), "train", student_stage(recipe), "quantize"]))


def cost(work: Workload) -> Cost:
    """Reckon the short answers of teacher and every model."""
    options = work.recipe.evaluate.safety
    assert options is not None  # the stage is left out
    asked = sets.requests_of(work.recipe)
    num = sum(map(len, asked.values()))
    num_students = 3 + len(work.recipe.quantize.formats)  # control, student, w16a16, the files
    share = min(1.0, options.max_new_tokens / max(1, work.demand.answer))
    seconds = 3.0 * (1 + num_students)
    for part in work.turns:
        seconds += share * part.teacher_seconds(len(asked[part.recipe.route]))
    if options.judge:
        seconds += _judge_seconds(work, num)
    weight_bytes = 2 * work.student.parameters
    seconds += (
        num_students
        * share
        * work.answer_seconds(work.student, weight_bytes, num, options.max_new_tokens)
    )
    memory = PROCESS_BYTES + max(part.asking_bytes for part in work.turns)
    return Cost(memory, seconds, disk=(1 + num_students) * num * 500)


def _judge_seconds(work: Workload, num: int) -> float:
    """Reckon the replies of the judge: its own server, or the first teacher."""
    if work.recipe.generate.judge_server is None:
        return work.turns[0].teacher_seconds(num)
    return num * work.server_seconds


STAGE = Stage(
    "safety",
    "every model on requests that show refusals and bias",
    run,
    SafetyResult,
    section,
    inputs,
    by_seed,
    reads=reads,
    left_out=left_out,
    cost=cost,
    check_launch=check_teachers_processes,
    shared=True,
)
