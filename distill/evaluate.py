"""evaluate: every model of the run on the held-out prompts, the teacher and the control among them.

    evaluate/teacher_answers.jsonl   the teacher's own sampled answers to the held-out prompts, and those
                                     that their rows have (`answers: given`)
    evaluate/<model>.json            the figures, and one row an example
    evaluate/teacher-<name>.json     those of each of several teachers; their answers likewise
    generate/held_out/               each answer of the teacher as it ended: it is asked once
    evaluate/repeat-2/student.json   those of student and control of each repeat of the training
    evaluate/before_rounds.json      of the student that `train` made, where rounds came after

Two figures: exact match of greedy answers (where there is a task), with Wilson's 95 % interval; and
the NLL of the teacher's sampled answers: how well a model predicts what the teacher would say, or
what the data says where a held-out row has its answer (`answers: given`). It is
told in nats a token (the logarithm of the perplexity) and in nats a byte: the nats of all that is
scored, end token included, over the UTF-8 bytes of its text. Student and control are compared
example by example, by a paired bootstrap, and where training was repeated over its repeats, too.

A student with a tokenizer of its own, or a trimmed one, is asked in that, and the teacher's answers
are scored in its tokens. The teacher is scored on the same texts in its own tokens: its NLL a byte
can then be compared with the student's, its NLL a token cannot. One that is on a server, or would
not write what is scored, has none, and that is said.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill import tasks
from distill.core.claims import Claims
from distill.core.final_student import student_folder, student_stage
from distill.core.jsonl import Row, write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.repeats import repeat_folder
from distill.core.results import Difference, EvaluateResult, QuantizeResult, TeacherFigures
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.prompts import split_prompts
from distill.data.routes import routed
from distill.data.samples import GIVEN, Prompt
from distill.errors import DataError
from distill.evaluation.eval_set import EvalSet, eval_sets
from distill.evaluation.figures import against, figures_of
from distill.evaluation.several import joined_figures, joined_sets
from distill.evaluation.stored import model_figures, read_figures, write_figures
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.lengths import held_out_within_context, left_out_note
from distill.recipe import Recipe
from distill.shaping.trimmed import TrimmedVocabulary, trim_stage, trimmed_vocabulary
from distill.teachers import held_out
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import answers_inputs, answers_section
from distill.teachers.launch import check_teachers_processes
from distill.teachers.requests import RequestOptions
from distill.teachers.routes import routes_of

BEFORE = "before_rounds"  # what the student that `train` made is called, where rounds came after


@dataclass(frozen=True)
class TeacherEval:
    """What the teacher's evaluation takes.

    `student`: the trained student's folder. `trimmed`: its vocabulary, where that is trimmed.
    """

    teacher: Teacher
    stage: Path
    student: Path
    prompts: list[Prompt]
    trimmed: TrimmedVocabulary | None = None

    @property
    def name(self) -> str:
        """Return the teacher's name; "" where it is the only one."""
        return self.teacher.recipe.route

    @property
    def _suffix(self) -> str:
        return f"-{self.name}" if self.name else ""

    @property
    def answers(self) -> Path:
        return self.stage / f"teacher_answers{self._suffix}.jsonl"

    @property
    def figures(self) -> Path:
        return self.stage / f"teacher{self._suffix}.json"


def run(
    recipe: Recipe,
    folder: RunFolder,
    processes: Processes = ALONE,
    *,
    teacher: Teacher | None = None,
) -> StageOutput | None:
    """Evaluate what has no figures yet; `teacher`: the one to ask, if not the recipe's.

    Of several teachers one is asked after the other. Ranks divide the teacher's prompts, then the
    other models. Returns None on all but the first.
    """
    from distill.formats.answering import evaluate_missing

    stage = folder.stage("evaluate")
    asked = [teacher] if teacher else _connected(recipe, folder, processes)
    tasks.grader(recipe.generate)  # what this machine lacks for it is said before the work
    trimmed = trimmed_vocabulary(recipe, folder)
    held_out = split_prompts(recipe)[1]
    own = _teacher_evals(recipe, asked, held_out, folder, trimmed, tell=processes.is_main)
    ids = {prompt.id for one in own for prompt in one.prompts}
    prompts = [prompt for prompt in held_out if prompt.id in ids]
    repeats = _repeats(recipe, folder)
    paths = _student_paths(recipe, folder, repeats)
    total = (1 + len(paths)) * len(prompts)
    claims = Claims(processes)
    with Progress("evaluate", total, "answers", shown=processes.is_main) as bar:
        eval_set = _evaluate_teachers(recipe, own, prompts, bar, processes)
        evaluate_missing(
            eval_set,
            paths,
            claims,
            bar,
            lambda name: stage / f"{name}.json",
            lambda path, made: write_figures(path, figures_of(eval_set, made)),
        )
        processes.barrier()
        bar.done = total
    if not processes.is_main:
        return None
    return _output(recipe, asked, own, prompts, repeats, ["teacher", *paths])


def _connected(recipe: Recipe, folder: RunFolder, processes: Processes) -> list[Teacher]:
    return [route.connect(folder, processes.local_rank) for route in routes_of(recipe)]


def _output(
    recipe: Recipe,
    asked: Sequence[Teacher],
    own: Sequence[TeacherEval],
    prompts: list[Prompt],
    repeats: list[dict[str, str]],
    names: list[str],
) -> StageOutput:
    """Return what all models' figures, which are written, come to."""
    stage = own[0].stage
    if own[0].name and not (stage / "teacher.json").is_file():
        of_each = {one.name: read_figures(one.figures) for one in own}
        write_figures(stage / "teacher.json", joined_figures(recipe, prompts, of_each))
    measured = {name: read_figures(stage / f"{name}.json") for name in names}
    is_trimmed = own[0].trimmed is not None
    tokenizers_differ = is_trimmed or not all(one.tokenizers.same for one in asked)

    def student_against(role: str) -> dict[str, Difference] | None:
        if role not in repeats[0]:
            return None
        students, others = (
            [measured[names_of[name]] for names_of in repeats] for name in ("student", role)
        )
        return against(students, others, recipe.seed, by_byte=tokenizers_differ)

    figures = {
        name: model_figures(stage / f"{name}.json", values) for name, values in measured.items()
    }
    of_repeats = [
        {role: figures.pop(name) for role, name in names_of.items()} for names_of in repeats[1:]
    ]
    result = EvaluateResult(
        models=figures,
        num_examples=len(prompts),
        num_given=_num_given(prompts, measured["student"]["examples"]),
        task=recipe.generate.task,
        task_version=tasks.version(recipe.generate.task),
        student_against_control=student_against("control"),
        student_against_before=student_against(BEFORE),
        repeats=of_repeats,
        tokenizers_differ=tokenizers_differ,
        teachers={one.name: _own_figures(one) for one in own if one.name},
    )
    files = [*(one.answers for one in own), *(one.figures for one in own if one.name)]
    return StageOutput(result, [*files, *(stage / f"{name}.json" for name in names)])


def _num_given(prompts: Sequence[Prompt], examples: Sequence[Row]) -> int:
    """Return how many of the examples are scored on an answer that the data has."""
    given = {prompt.id for prompt in prompts if prompt.is_given}
    return sum(row["prompt_id"] in given and row["nll"] is not None for row in examples)


def _teacher_evals(
    recipe: Recipe,
    asked: Sequence[Teacher],
    held_out: list[Prompt],
    folder: RunFolder,
    trimmed: TrimmedVocabulary | None,
    *,
    tell: bool,
) -> list[TeacherEval]:
    """Return what each teacher's evaluation takes; one that no held-out prompt comes to has none."""
    stage, student = folder.stage("evaluate"), student_folder(recipe, folder)
    parts = routed(recipe, held_out)
    evals = []
    for teacher in asked:
        prompts = askable(parts[teacher.recipe.route], teacher, tell=tell)
        if prompts or len(asked) == 1:
            evals.append(TeacherEval(teacher, stage, student, prompts, trimmed))
    return evals


def _evaluate_teachers(
    recipe: Recipe,
    own: Sequence[TeacherEval],
    prompts: list[Prompt],
    bar: Progress,
    processes: Processes,
) -> EvalSet:
    """Evaluate the teacher, or each of several in turn, and return what the students are asked."""
    sets = []
    for one in own:
        with one.teacher:
            sets.append(evaluate_teacher(one, bar, processes))
    return joined_sets(recipe, prompts, sets) if own[0].name else sets[0]


def _own_figures(own: TeacherEval) -> TeacherFigures:
    """Return the figures of one of several teachers, on its own prompts."""
    figures = model_figures(own.figures, read_figures(own.figures))
    return TeacherFigures(
        **vars(figures),
        num_examples=len(own.prompts),
        tokenizers_differ=own.trimmed is not None or not own.teacher.tokenizers.same,
    )


def askable(held_out: list[Prompt], teacher: Teacher, *, tell: bool = True) -> list[Prompt]:
    """Return the prompts that hold no mark of a chat template and fit into the models' contexts.

    Says how many do not, if it shall `tell`. Raises DataError where all hold a mark, MismatchError
    where none fits.
    """
    unmarked = _without_marks(held_out, teacher, tell=tell)
    fitting, beyond = held_out_within_context(teacher, unmarked)
    if tell and (note := left_out_note(held_out, beyond)):
        print(f"evaluate: {note}", file=sys.stderr)
    return fitting


def _without_marks(held_out: list[Prompt], teacher: Teacher, *, tell: bool) -> list[Prompt]:
    """Return the prompts that hold no mark; say how many do, if it shall `tell`."""
    marks = [_mark_in(prompt, teacher) for prompt in held_out]
    prompts = [p for p, mark in zip(held_out, marks, strict=True) if mark is None]
    if len(prompts) == len(held_out):
        return prompts
    found = ", ".join(sorted({repr(mark) for mark in marks if mark is not None})[:3])
    given = ", or their given answers," if any(p.is_given for p in held_out) else ""
    told = (
        f"{len(held_out) - len(prompts)} of {len(held_out)} held-out prompts{given} hold what would be read "
        f"as a mark of the chat template ({found})"
    )
    if not prompts:
        raise DataError(f"{teacher.recipe.source}: evaluate.prompts: {told}: give others")
    if tell:
        print(f"evaluate: {told}: they are left out", file=sys.stderr)
    return prompts


def _mark_in(prompt: Prompt, teacher: Teacher) -> str | None:
    """Return a mark in a prompt, or in the answer that its row has."""
    mark = teacher.tokenizers.mark_in(prompt.messages)
    if mark is None and prompt.answer is not None:
        mark = teacher.tokenizers.mark_in_answer(prompt.answer, [])
    return mark


def _repeats(recipe: Recipe, folder: RunFolder) -> list[dict[str, str]]:
    """Return the names of the models of each repeat of the training, by their roles.

    Those of the first repeat are the roles themselves, of the others with the repeat's folder before
    them.
    """
    train = folder.stage("train")
    repeats: list[dict[str, str]] = []
    place = train
    while not repeats or (place / "student").is_dir():
        roles = ["control"] if (place / "control").is_dir() else []
        roles += [BEFORE] if recipe.rounds else []
        within = place.relative_to(train)
        repeats.append({role: str(within / role) for role in [*roles, "student"]})
        place = repeat_folder(train, len(repeats) + 1)
    return repeats


def _student_paths(
    recipe: Recipe, folder: RunFolder, repeats: list[dict[str, str]]
) -> dict[str, Path]:
    """Return the folder or file of each model but the teacher, in the order of the report."""
    from distill.formats import path_of

    trained = [_paths_of(recipe, folder, n, names) for n, names in enumerate(repeats, 1)]
    formats = folder.require("quantize", QuantizeResult, recipe).result.formats
    paths = trained[0] | {name: path_of(folder, name) for name in formats}
    for others in trained[1:]:
        paths |= others
    return paths


def _paths_of(
    recipe: Recipe, folder: RunFolder, repeat: int, names: dict[str, str]
) -> dict[str, Path]:
    """Return the folder of each model of a repeat by its name."""
    train = repeat_folder(folder.stage("train"), repeat)
    final = repeat_folder(folder.stage(student_stage(recipe)), repeat)
    folders = {
        "control": train / "control",
        BEFORE: train / "student",
        "student": final / "student",
    }
    return {name: folders[role] for role, name in names.items()}


def evaluate_teacher(own: TeacherEval, bar: Progress, processes: Processes = ALONE) -> EvalSet:
    """Return what the students are evaluated on, with the teacher's sampled answers.

    The teacher itself is evaluated while it is loaded; where it has no NLL, that is said.
    """
    teacher, recipe = own.teacher, own.teacher.recipe
    # asked by the first alone: what another node's file system said stays in its cache for seconds
    if not processes.broadcast(processes.is_main and own.answers.is_file()):
        write_answers(teacher, own.prompts, own.answers, bar, processes)
    students, teachers_own = eval_sets(
        recipe, own.prompts, teacher.tokenizers, own.answers, own.student, own.trimmed
    )
    if not processes.broadcast(processes.is_main and own.figures.is_file()):
        _evaluate_itself(own, teachers_own, bar, processes)
    return students


def _evaluate_itself(
    own: TeacherEval, eval_set: EvalSet, bar: Progress, processes: Processes
) -> None:
    """Write the teacher's own figures: all ranks find them, or the first while the others go on."""
    teacher = own.teacher
    if not (teacher.divides_prompts or processes.is_main):
        return
    made = teacher.evaluate(eval_set, bar, processes)
    if not processes.is_main:
        return
    figures = figures_of(eval_set, made)
    if figures["unscored"]:
        who = f"the teacher {own.name}" if own.name else "the teacher"
        print(f"evaluate: {who} has no NLL: {figures['unscored']}", file=sys.stderr)
    write_figures(own.figures, figures)


def write_answers(
    teacher: Teacher,
    prompts: list[Prompt],
    path: Path,
    bar: Progress,
    processes: Processes = ALONE,
) -> None:
    """Write an answer to each prompt to `path`, for all ranks: ask the teacher where none is given."""
    recipe, tokenizers = teacher.recipe, teacher.tokenizers
    prompt_ids = [tokenizers.prompt_ids(recipe, list(p.messages)) for p in prompts]
    options = RequestOptions.of(recipe).with_sampling(num_log_probs=0)
    answers = held_out.answers_to(teacher, prompts, prompt_ids, options, bar, processes)
    if processes.is_main:
        stop_ids = teacher.stop_ids()
        rows = [
            {"prompt_id": p.id, "token_ids": ids, "finish_reason": why, "stop_ids": stop_ids}
            | ({GIVEN: True} if p.is_given else {})
            for p, (ids, why) in zip(prompts, answers, strict=True)
        ]
        write_jsonl(path, rows)
    processes.barrier()


def reads(recipe: Recipe) -> Sequence[str]:
    rounds = [] if recipe.rounds is None else ["rounds"]
    return (*trim_stage(recipe), "train", *rounds, "quantize")


def cost(work: Workload) -> Cost:
    """Reckon the teacher's and every model's answers, and the scoring of the teacher's."""
    recipe, num_prompts = work.recipe, work.demand.num_held_out
    num_trained = recipe.train.num_roles * recipe.train.repeats
    if recipe.rounds is not None:
        num_trained += recipe.train.repeats
    num_students = num_trained + 1 + len(recipe.quantize.formats)
    num_models = 2 + num_students
    asking = sum(part.teacher_seconds(2 * part.demand.num_held_out) for part in work.turns)
    seconds = asking + 3.0 * num_models  # loading and scoring
    weight_bytes = 2 * work.student.parameters
    seconds += num_students * work.answer_seconds(
        work.student, weight_bytes, num_prompts, recipe.evaluate.max_new_tokens
    )
    memory = PROCESS_BYTES + max(part.asking_bytes + part.joined_head_bytes for part in work.turns)
    return Cost(memory, seconds, disk=num_models * num_prompts * 1000)


STAGE = Stage(
    "evaluate",
    "every model of the run on held-out prompts",
    run,
    EvaluateResult,
    answers_section,
    answers_inputs,
    reads=reads,
    cost=cost,
    check_launch=check_teachers_processes,
    shared=True,
)
