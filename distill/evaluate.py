"""evaluate: every model of the run on the held-out prompts, the teacher and the control among them.

    evaluate/teacher_answers.jsonl   the teacher's own sampled answers to the held-out prompts
    evaluate/<model>.json            the figures, and one row an example
    evaluate/repeat-2/student.json   those of student and control of each repeat of the training

Two figures: exact match of greedy answers (where there is a task), with Wilson's 95 % interval; and
the NLL of the teacher's sampled answers: how well a model predicts what the teacher would say. It is
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

from distill import tasks, teachers
from distill.core import shutdown
from distill.core.jsonl import write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.repeats import repeat_folder
from distill.core.results import EvaluateResult, QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Prompt, split_prompts
from distill.errors import DataError
from distill.evaluation.eval_set import EvalSet, ModelAnswers, eval_sets
from distill.evaluation.figures import against, figures_of
from distill.evaluation.models import evaluate_transformers
from distill.evaluation.stored import model_figures, read_figures, write_figures
from distill.models import load
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.shaping.trimmed import TrimmedVocabulary, trim_stage, trimmed_vocabulary
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import answers_fingerprint
from distill.teachers.requests import RequestOptions


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
    def answers(self) -> Path:
        return self.stage / "teacher_answers.jsonl"

    @property
    def figures(self) -> Path:
        return self.stage / "teacher.json"


def run(
    recipe: Recipe,
    folder: RunFolder,
    processes: Processes = ALONE,
    *,
    teacher: Teacher | None = None,
) -> StageOutput:
    """Evaluate what has no figures yet; `teacher`: the one to ask, if not the recipe's."""
    stage = folder.stage("evaluate")
    teacher = teacher or teachers.connect(recipe, folder)
    prompts = askable(split_prompts(recipe)[1], teacher)
    options = recipe.generate
    tasks.grader(options)  # what this machine lacks for it is said before the work
    trimmed = trimmed_vocabulary(recipe, folder)
    own = TeacherEval(teacher, stage, folder.stage("train") / "student", prompts, trimmed)
    repeats = _repeats(folder.stage("train"))
    paths = _student_paths(recipe, folder, repeats)
    names = ["teacher", *paths]
    with Progress("evaluate", len(names) * len(prompts), "answers") as bar:
        with teacher:
            eval_set = evaluate_teacher(own, bar)
        _advance_to(bar, len(prompts), "teacher")
        for number, (name, path) in enumerate(paths.items(), 2):
            if not (stage / f"{name}.json").is_file():
                _write(stage / f"{name}.json", eval_set, evaluate_model(eval_set, name, path, bar))
            _advance_to(bar, number * len(prompts), name)
    measured = {name: read_figures(stage / f"{name}.json") for name in names}
    tokenizers_differ = trimmed is not None or not teacher.tokenizers.same
    student_against_control = None
    if "control" in measured:
        students, controls = (
            [measured[names_of[role]] for names_of in repeats] for role in ("student", "control")
        )
        student_against_control = against(
            students, controls, recipe.seed, by_byte=tokenizers_differ
        )
    figures = {
        name: model_figures(stage / f"{name}.json", values) for name, values in measured.items()
    }
    of_repeats = [
        {role: figures.pop(name) for role, name in names_of.items()} for names_of in repeats[1:]
    ]
    result = EvaluateResult(
        models=figures,
        num_examples=len(prompts),
        task=options.task,
        task_version=tasks.version(options.task),
        student_against_control=student_against_control,
        repeats=of_repeats,
        tokenizers_differ=tokenizers_differ,
    )
    return StageOutput(result, [own.answers, *(stage / f"{name}.json" for name in names)])


def askable(held_out: list[Prompt], teacher: Teacher) -> list[Prompt]:
    """Return the prompts that hold no mark of a chat template; say how many do.

    Raises DataError where all do.
    """
    marks = [teacher.tokenizers.mark_in(prompt.messages) for prompt in held_out]
    prompts = [p for p, mark in zip(held_out, marks, strict=True) if mark is None]
    if len(prompts) == len(held_out):
        return prompts
    found = ", ".join(sorted({repr(mark) for mark in marks if mark is not None})[:3])
    told = (
        f"{len(held_out) - len(prompts)} of {len(held_out)} held-out prompts hold what would be read "
        f"as a mark of the chat template ({found})"
    )
    if not prompts:
        raise DataError(f"{teacher.recipe.source}: evaluate.prompts: {told}: give others")
    print(f"evaluate: {told}: they are left out", file=sys.stderr)
    return prompts


def _advance_to(bar: Progress, num_answers: int, name: str) -> None:
    """Show that a model is done, whatever of it was there already."""
    bar.done = num_answers
    bar.advance(0, note=name)
    shutdown.check()


def _repeats(train: Path) -> list[dict[str, str]]:
    """Return the names of control and student of each repeat of the training, by their roles.

    They are their folders within that of the stage; the first repeat's are the roles themselves.
    """
    repeats: list[dict[str, str]] = []
    place = train
    while not repeats or (place / "student").is_dir():
        roles = ["control", "student"] if (place / "control").is_dir() else ["student"]
        repeats.append({role: str((place / role).relative_to(train)) for role in roles})
        place = repeat_folder(train, len(repeats) + 1)
    return repeats


def _student_paths(
    recipe: Recipe, folder: RunFolder, repeats: list[dict[str, str]]
) -> dict[str, Path]:
    """Return the folder or file of each model but the teacher, in the order of the report."""
    from distill.formats import path_of

    trained = [{name: folder.stage("train") / name for name in names.values()} for names in repeats]
    formats = folder.require("quantize", QuantizeResult, recipe).result.formats
    paths = trained[0] | {name: path_of(folder, name) for name in formats}
    for others in trained[1:]:
        paths |= others
    return paths


def evaluate_teacher(own: TeacherEval, bar: Progress) -> EvalSet:
    """Return what the students are evaluated on, with the teacher's sampled answers.

    The teacher itself is evaluated while it is loaded; where it has no NLL, that is said.
    """
    teacher, recipe = own.teacher, own.teacher.recipe
    if not own.answers.is_file():
        write_answers(teacher, own.prompts, own.answers, bar)
    students, teachers_own = eval_sets(
        recipe, own.prompts, teacher.tokenizers, own.answers, own.student, own.trimmed
    )
    if not own.figures.is_file():
        figures = figures_of(teachers_own, teacher.evaluate(teachers_own, bar))
        if figures["unscored"]:
            print(f"evaluate: the teacher has no NLL: {figures['unscored']}", file=sys.stderr)
        write_figures(own.figures, figures)
    return students


def write_answers(teacher: Teacher, prompts: list[Prompt], path: Path, bar: Progress) -> None:
    """Ask the teacher for an answer to each prompt, and write them to `path`."""
    recipe, tokenizers = teacher.recipe, teacher.tokenizers
    prompt_ids = [tokenizers.prompt_ids(recipe, list(p.messages)) for p in prompts]
    options = RequestOptions.of(recipe).with_sampling(num_log_probs=0)
    answers = teacher.answer_held_out(prompts, prompt_ids, options, bar)
    stop_ids = teacher.stop_ids()
    rows = [
        {"prompt_id": p.id, "token_ids": ids, "finish_reason": why, "stop_ids": stop_ids}
        for p, (ids, why) in zip(prompts, answers, strict=True)
    ]
    write_jsonl(path, rows)


def evaluate_model(eval_set: EvalSet, name: str, path: Path, bar: Progress) -> ModelAnswers:
    """Return what a model made of the EvalSet: student or control, or a file of the format `name`."""
    from distill.formats import FORMATS

    if name in FORMATS:
        return FORMATS[name].evaluate(eval_set, path, bar)
    model = load.load_model(str(path), load.placement("auto", "auto"))
    return evaluate_transformers(eval_set, model, bar)


def _write(path: Path, eval_set: EvalSet, made: ModelAnswers) -> None:
    write_figures(path, figures_of(eval_set, made))


def reads(recipe: Recipe) -> Sequence[str]:
    return (*trim_stage(recipe), "train", "quantize")


def cost(work: Workload) -> Cost:
    """Reckon the teacher's and every model's answers, and the scoring of the teacher's."""
    recipe, num_prompts = work.recipe, work.demand.num_held_out
    num_trained = recipe.train.num_roles * recipe.train.repeats
    num_students = num_trained + 1 + len(recipe.quantize.formats)
    num_models = 2 + num_students
    seconds = work.teacher_seconds(2 * num_prompts) + 3.0 * num_models  # loading and scoring
    weight_bytes = 2 * work.student.parameters
    seconds += num_students * work.answer_seconds(
        work.student, weight_bytes, num_prompts, recipe.evaluate.max_new_tokens
    )
    memory = PROCESS_BYTES + work.asking_bytes
    return Cost(memory, seconds, disk=num_models * num_prompts * 1000)


STAGE = Stage(
    "evaluate",
    "every model of the run on held-out prompts",
    run,
    EvaluateResult,
    answers_fingerprint,
    reads=reads,
    cost=cost,
)
