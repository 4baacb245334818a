"""benchmark: every model of the run on the benchmarks of evaluate.benchmarks.

    benchmark/<model>/<benchmark>.<language>.json   a row a question

Multiple choice by log-likelihood, numbers by a greedy answer: in transformers, and in llama.cpp for
GGUF files. The context of a question is read once for all its choices. A rank loads one model after
the other; what is there already is not asked again, and a kill loses a block of questions. A teacher on a server is not asked: servers do
not score what they are given. Of a training that was repeated, the first repeat's models are asked,
whose student is quantized.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from distill import chat
from distill.benchmarks.answering import Answerer, InLlamaCpp, InTransformers, Model, opened
from distill.benchmarks.asking import AskedRow, ask
from distill.benchmarks.copies import num_copied
from distill.benchmarks.definition import read_benchmark
from distill.benchmarks.encoding import LONGEST
from distill.benchmarks.items import Questions, languages_of, rows_identity
from distill.benchmarks.reading import read_all
from distill.benchmarks.scores import (
    Rows,
    differences_of,
    facts_of,
    scores_of,
    with_all_languages,
)
from distill.benchmarks.stored import FIRST_SCORING, SCORING, path_of, read_rows, write_rows
from distill.core.benchmark_results import BenchmarkResult
from distill.core.claims import Claims
from distill.core.cores import usual_threads
from distill.core.digests import canonical_json, digest
from distill.core.final_student import student_folder, student_stage
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage, by_seed
from distill.models import find, load
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.lengths import context_of, text_config
from distill.recipe import Recipe
from distill.teachers import connect
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import teacher_inputs
from distill.teachers.launch import check_teachers_processes

QUESTION_TOKENS = 300  # of a question with its choices; those with long passages have more
QUESTIONS = 1000  # of a benchmark in a language, where the recipe does not say
NUMBER_TOKENS = 200  # of an answer that calculates
BLOCK = 256  # questions, after which rows are written


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput | None:
    """Ask every model what it was not asked yet, and compare them.

    Ranks divide the models, and at the end their questions. Returns None on all but the first.
    """
    stage = folder.stage("benchmark")
    asked = read_all(recipe)
    models, not_asked = models_of(recipe, folder, processes.local_rank)
    _ask_all(stage, asked, models, processes)
    if not processes.is_main:
        return None
    rows: list[dict[str, list[AskedRow]]] = [
        {m.name: read_rows(path_of(stage, m.name, questions), m, questions) for m in models}
        for questions in asked
    ]
    samples = (row for _, row in read_jsonl(folder.stage("generate") / "kept.jsonl"))
    copied = num_copied(asked, samples)
    result = _result(asked, copied, rows, not_asked)
    files = [path_of(stage, model.name, questions) for model in models for questions in asked]
    return StageOutput(result, files)


def _ask_all(
    stage: Path, asked: Sequence[Questions], models: Sequence[Model], processes: Processes
) -> None:
    """Ask the models all that is missing, with the other ranks.

    First a teacher that several ranks hold, by all of them. Of the others each takes whole models, so
    that none is loaded by two; whoever finds none left helps with the questions of those under way.
    """
    total = len(models) * sum(len(questions.items) for questions in asked)
    claims = Claims(processes)
    own = [model for model in models if model.held_with is None]
    with Progress("benchmark", total, "questions", shown=processes.is_main) as bar:
        for model in models:
            if model.held_with is not None:
                with model.held_with(processes) as sharing:
                    _ask_model(stage, asked if sharing else [], model, claims, bar)
        for model in claims.of("model", own):
            _ask_model(stage, asked, model, claims, bar)
        for model in own:
            _ask_model(stage, asked, model, claims, bar)
        processes.barrier()
        bar.done = total


def _ask_model(
    stage: Path, asked: Sequence[Questions], model: Model, claims: Claims, bar: Progress
) -> None:
    """Ask a model what nobody has taken; it is loaded only where rows are missing."""
    with ExitStack() as until_asked:
        answerer = None
        for questions in asked:
            path = path_of(stage, model.name, questions)
            if not claims.take(str(path.relative_to(stage))):
                continue
            rows = read_rows(path, model, questions)
            bar.advance(len(rows), note=model.name)
            if len(rows) < len(questions.items):
                answerer = answerer or until_asked.enter_context(model.open())
                _ask_rest(path, model, answerer, questions, rows, bar)


def _ask_rest(
    path: Path,
    model: Model,
    answerer: Answerer,
    questions: Questions,
    rows: list[AskedRow],
    bar: Progress,
) -> None:
    """Add the rows that are missing, a block after the other, and write them."""
    advance = partial(
        bar.advance, note=f"{model.name}, {questions.benchmark.name} {questions.language}"
    )
    while len(rows) < len(questions.items):
        end = (len(rows) // BLOCK + 1) * BLOCK
        block = replace(questions, items=questions.items[len(rows) : end])
        rows += ask(model, answerer, block, advance)
        write_rows(path, model, questions, rows)


def _result(
    asked: Sequence[Questions],
    copied: Sequence[int],
    rows: Sequence[Rows],
    not_asked: dict[str, str],
) -> BenchmarkResult:
    facts, scores, differences = [], [], []
    for name in dict.fromkeys(questions.benchmark.name for questions in asked):
        numbers = [i for i, questions in enumerate(asked) if questions.benchmark.name == name]
        facts.append(facts_of([(asked[i], copied[i]) for i in numbers]))
        by_language = {asked[i].language: rows[i] for i in numbers}
        for language, of_models in with_all_languages(by_language).items():
            scores += scores_of(name, language, of_models)
            differences += differences_of(name, language, of_models)
    return BenchmarkResult(facts, scores, differences, not_asked)


def models_of(
    recipe: Recipe, folder: RunFolder, local_rank: int = 0
) -> tuple[list[Model], dict[str, str]]:
    """Return the models to ask, in the order of the report, and why others are not."""
    models, not_asked = [], {}
    for view in recipe.views:
        name = f"teacher-{view.route}" if view.route else "teacher"
        if view.teacher.answers_on_server:
            not_asked[name] = "it is on a server, which does not score what it is given"
        else:
            models.append(_teacher(view, name, local_rank))
    return [*models, *_students(recipe, folder)], not_asked


def _teacher(view: Recipe, name: str, local_rank: int) -> Model:
    teacher = connect(view, local_rank=local_rank)
    tokenizer = teacher.tokenizers.asked
    revision = view.teacher.revision
    config = text_config(teacher.location, revision)
    stops = find.stop_ids_of_files(teacher.location, revision)
    path = view.gguf_teacher
    if path is None:
        open_it = partial(_loaded_teacher, teacher)
    else:
        open_it = opened(partial(InLlamaCpp, path, _threads(view)))
    weights = digest(teacher.identity, canonical_json(view.teacher.identity()))
    model = _model(view, name, weights, tokenizer, config, stops, open_it)
    if view.teacher.num_parts == 1 or path is not None:
        return model
    return replace(model, held_with=partial(_held_with, teacher))


@contextmanager
def _loaded_teacher(teacher: Teacher) -> Iterator[Answerer]:
    from distill.teachers.local import LocalTeacher

    assert isinstance(teacher, LocalTeacher)  # else it is on a server, or in a GGUF file
    with teacher:
        batch_tokens = teacher.recipe.teacher.batch_tokens
        yield InTransformers(teacher.model_here, teacher.tokenizers.asked, batch_tokens)


@contextmanager
def _held_with(teacher: Teacher, processes: Processes) -> Iterator[Processes | None]:
    """Divide the teacher's questions over those that hold it, and unload it on all of them."""
    with teacher, teacher.dividing(processes) as sharing:
        yield sharing


@dataclass(frozen=True)
class _Students:
    """What all that was made of the student has in common: the student's own tokens and context."""

    recipe: Recipe
    tokenizer: Any
    config: Mapping[str, Any]
    stop_ids: list[int]

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder) -> "_Students":
        student = str(student_folder(recipe, folder))
        tokenizer = load.load_tokenizer(student)
        return cls(recipe, tokenizer, text_config(student, None), find.stop_ids_of_files(student))

    def model(self, name: str, path: Path, load_folder: Callable[[Path], Any]) -> Model:
        """Return a folder, which `load_folder` loads, or a GGUF file."""
        weights = find.identity(str(path)) if path.is_dir() else find.digest_of_files([path])

        def answerer() -> Answerer:
            if path.is_file():
                return InLlamaCpp(path, _threads(self.recipe))
            batch_tokens = self.recipe.teacher.batch_tokens
            return InTransformers(load_folder(path), self.tokenizer, batch_tokens)

        return _model(
            self.recipe, name, weights, self.tokenizer, self.config, self.stop_ids, opened(answerer)
        )


def _students(recipe: Recipe, folder: RunFolder) -> list[Model]:
    """Return the control, the student before the rounds, the student, and each file."""
    from distill.formats import FORMATS, path_of

    train = folder.stage("train")
    folders = {"control": train / "control"}
    if recipe.rounds is not None:
        folders["before_rounds"] = train / "student"
    folders["student"] = student_folder(recipe, folder)
    of = _Students.of(recipe, folder)
    models = [of.model(name, path, _trained) for name, path in folders.items() if path.is_dir()]
    for name in folder.require("quantize", QuantizeResult, recipe).result.formats:
        load_folder = getattr(FORMATS[name], "load", _trained)
        models.append(of.model(name, path_of(folder, name), load_folder))
    return models


def _threads(recipe: Recipe) -> int:
    return recipe.quantize.threads or usual_threads()


def _trained(path: Path) -> Any:
    return load.load_model(str(path), load.placement("auto", "auto"))


def _model(
    recipe: Recipe,
    name: str,
    weights: str,
    tokenizer: Any,
    config: Mapping[str, Any],
    stops: list[int],
    open_it: Callable[[], AbstractContextManager[Answerer]],
) -> Model:
    thinking = chat.thinking_of(tokenizer, recipe.generate.enable_thinking)
    asked_how = canonical_json([recipe.generate.system_prompt, thinking])
    return Model(
        name=name,
        digest=digest(weights, asked_how, chat.fingerprint_of_tokenizer(tokenizer)),
        tokenizer=tokenizer,
        longest=context_of(config) or LONGEST,
        stop_ids=chat.stop_ids(tokenizer, stops),
        system_prompt=recipe.generate.system_prompt,
        enable_thinking=thinking,
        open=open_it,
    )


def left_out(recipe: Recipe) -> str | None:
    return None if recipe.evaluate.benchmarks else "evaluate.benchmarks is empty"


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the questions, and how models are asked."""
    uses = recipe.evaluate.benchmarks
    values = {
        "evaluate.benchmarks": [use.model_dump(mode="json", exclude_defaults=True) for use in uses],
        "languages": recipe.languages,
        "system_prompt": recipe.generate.system_prompt,
        "enable_thinking": recipe.generate.enable_thinking,
    }
    if SCORING > FIRST_SCORING:  # folders that were made before it was told stay valid
        values["scoring"] = SCORING
    return values


def inputs(recipe: Recipe) -> dict[str, str]:
    """Return who the teacher is, and which questions there are."""
    found = teacher_inputs(recipe)
    for number, use in enumerate(recipe.evaluate.benchmarks):
        benchmark = read_benchmark(recipe, use)
        rows = rows_identity(recipe, use, benchmark)
        found[f"evaluate.benchmarks.{number} ({use.name})"] = digest(benchmark.digest, rows)
    return found


def reads(recipe: Recipe) -> Sequence[str]:
    stages = ["generate", "train", student_stage(recipe), "quantize"]
    return list(dict.fromkeys(stages))


def cost(work: Workload) -> Cost:
    """Reckon the reading of each question by each model, and the answers that calculate."""
    recipe = work.recipe
    num_choices, num_numbers = _num_questions(recipe)
    num_students = recipe.train.num_roles + 1 + len(recipe.quantize.formats)
    sizes = [work.student] * num_students
    if not work.on_server:
        sizes.append(work.teacher)
    seconds = 3.0 * len(sizes)  # loading
    for size in sizes:
        flops = num_choices * QUESTION_TOKENS * 2 * size.parameters
        seconds += flops / work.machine.flops
        if num_numbers:
            seconds += work.answer_seconds(size, 2 * size.parameters, num_numbers, NUMBER_TOKENS)
    memory = PROCESS_BYTES + max(part.asking_bytes + part.joined_head_bytes for part in work.turns)
    return Cost(memory, seconds, disk=len(sizes) * (num_choices + num_numbers) * 200)


def _num_questions(recipe: Recipe) -> tuple[int, int]:
    """Return about how many questions have choices, and how many a number as answer."""
    nums = {"choices": 0, "number": 0}
    for use in recipe.evaluate.benchmarks:
        benchmark = read_benchmark(recipe, use)
        num = use.num_examples or QUESTIONS
        nums[benchmark.kind] += num * len(languages_of(recipe, use, benchmark))
    return nums["choices"], nums["number"]


STAGE = Stage(
    "benchmark",
    "every model of the run on benchmarks",
    run,
    BenchmarkResult,
    section,
    inputs,
    by_seed,
    reads=reads,
    left_out=left_out,
    cost=cost,
    check_launch=check_teachers_processes,
    shared=True,
    keeps_files=True,
)
