"""evaluate: every model of the run on the held-out prompts, the teacher and the control among them.

    evaluate/teacher_answers.jsonl   the teacher's own sampled answers to the held-out prompts
    evaluate/<model>.json            the figures, and one row an example

Two figures: exact match of greedy answers (where there is a task), with Wilson's 95 % interval; and
the NLL, in nats a token, of the teacher's sampled answers (the logarithm of its perplexity): how
well a model predicts what the teacher would say. Student and control are compared example by
example, by a paired bootstrap.

A student with a tokenizer of its own (capture.signal: none) is asked in that, and the teacher's
answers are scored in its tokens. The teacher then has no NLL: nats of its own tokens are not nats
of the student's.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import tasks, teachers
from distill.core import shutdown
from distill.core.files import write_atomic
from distill.core.jsonl import write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import EvaluateResult, ModelFigures, QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Prompt, split_prompts
from distill.evaluation.eval_set import EvalSet, ModelAnswers, eval_sets
from distill.evaluation.figures import against, figures_of
from distill.evaluation.models import evaluate_transformers
from distill.formats import FORMATS, path_of
from distill.models import load
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import answers_fingerprint
from distill.teachers.requests import RequestOptions


@dataclass(frozen=True)
class TeacherEval:
    """What the teacher's evaluation takes. `student`: the trained student's folder."""

    teacher: Teacher
    stage: Path
    student: Path
    prompts: list[Prompt]

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
    prompts = split_prompts(recipe)[1]
    teacher = teacher or teachers.connect(recipe, folder)
    options = recipe.generate
    tasks.grader(options)  # what this machine lacks for it is said before the work
    own = TeacherEval(teacher, stage, folder.stage("train") / "student", prompts)
    paths = _student_paths(recipe, folder)
    names = ["teacher", *paths]
    _remove_broken(stage / f"{name}.json" for name in names)
    with Progress("evaluate", len(names) * len(prompts), "answers") as bar:
        with teacher:
            eval_set = evaluate_teacher(own, bar)
        _advance_to(bar, len(prompts), "teacher")
        for number, (name, path) in enumerate(paths.items(), 2):
            if not (stage / f"{name}.json").is_file():
                _write(stage / f"{name}.json", eval_set, evaluate_model(eval_set, name, path, bar))
            _advance_to(bar, number * len(prompts), name)
    measured = {name: json.loads((stage / f"{name}.json").read_text()) for name in names}
    student_against_control = None
    if "control" in measured:
        student_against_control = against(measured["student"], measured["control"], recipe.seed)
    result = EvaluateResult(
        models={name: _without_examples(figures) for name, figures in measured.items()},
        num_examples=len(prompts),
        task=options.task,
        task_version=tasks.version(options.task),
        student_against_control=student_against_control,
    )
    return StageOutput(result, [own.answers, *(stage / f"{name}.json" for name in names)])


def _remove_broken(files: Iterable[Path]) -> None:
    """Remove figures of a run that was stopped which cannot be read, to have them anew."""
    for path in files:
        if path.is_file() and not _are_figures(path):
            print(f"evaluate: {path}: damaged; evaluated again", flush=True)
            path.unlink()


def _are_figures(path: Path) -> bool:
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        _without_examples(figures)
        return isinstance(figures["examples"], list)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _advance_to(bar: Progress, num_answers: int, name: str) -> None:
    """Show that a model is done, whatever of it was there already."""
    bar.done = num_answers
    bar.advance(0, note=name)
    shutdown.check()


def _without_examples(figures: dict[str, Any]) -> ModelFigures:
    return ModelFigures(**{key: value for key, value in figures.items() if key != "examples"})


def _student_paths(recipe: Recipe, folder: RunFolder) -> dict[str, Path]:
    """Return the folder or file of each model but the teacher, in the order of the report."""
    train = folder.stage("train")
    paths: dict[str, Path] = {}
    if (train / "control").is_dir():
        paths["control"] = train / "control"
    paths["student"] = train / "student"
    formats = folder.require("quantize", QuantizeResult, recipe).result.formats
    return paths | {name: path_of(folder, name) for name in formats}


def evaluate_teacher(own: TeacherEval, bar: Progress) -> EvalSet:
    """Return what the students are evaluated on, with the teacher's sampled answers.

    The teacher itself is evaluated while it is loaded.
    """
    teacher, recipe = own.teacher, own.teacher.recipe
    tokenizers = teacher.tokenizers
    if not own.answers.is_file():
        prompt_ids = [tokenizers.prompt_ids(recipe, list(p.messages)) for p in own.prompts]
        options = RequestOptions.of(recipe).with_sampling(num_log_probs=0)
        answers = teacher.answer_held_out(own.prompts, prompt_ids, options, bar)
        stop_ids = teacher.stop_ids()
        rows = [
            {"prompt_id": p.id, "token_ids": ids, "finish_reason": why, "stop_ids": stop_ids}
            for p, (ids, why) in zip(own.prompts, answers, strict=True)
        ]
        write_jsonl(own.answers, rows)
    students, teachers_own = eval_sets(recipe, own.prompts, tokenizers, own.answers, own.student)
    if not own.figures.is_file():
        _write(own.figures, teachers_own, teacher.evaluate(teachers_own, bar))
    return students


def evaluate_model(eval_set: EvalSet, name: str, path: Path, bar: Progress) -> ModelAnswers:
    """Return what a model made of the EvalSet: student or control, or a file of the format `name`."""
    if name in FORMATS:
        return FORMATS[name].evaluate(eval_set, path, bar)
    model = load.load_model(str(path), load.placement("auto", "auto"))
    return evaluate_transformers(eval_set, model, bar)


def _write(path: Path, eval_set: EvalSet, made: ModelAnswers) -> None:
    write_atomic(path, json.dumps(figures_of(eval_set, made), ensure_ascii=False))


def cost(work: Workload) -> Cost:
    """Reckon the teacher's and every model's answers, and the scoring of the teacher's."""
    recipe, num_prompts = work.recipe, work.demand.num_held_out
    num_students = recipe.train.num_roles + 1 + len(recipe.quantize.formats)
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
    reads=("train", "quantize"),
    cost=cost,
)
