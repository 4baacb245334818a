"""evaluate: every model of the run on the held-out prompts, the teacher and the control among them.

    evaluate/teacher_answers.jsonl   the teacher's own sampled answers to the held-out prompts
    evaluate/<model>.json            the figures, and one row an example

Two figures: exact match of greedy answers (where there is a task), with Wilson's 95 % interval; and the NLL, in nats a
token, of the teacher's sampled answers: how well a model predicts what the teacher would say. Student and control are
compared example by example, by a paired bootstrap.

A student with a tokenizer of its own (capture.signal: none) is asked in that, and the teacher's answers are scored in its tokens.
The teacher then has no NLL: nats of its own tokens are not nats of the student's.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill import chat, tasks
from distill.chat.tokenizers import Tokenizers, tokenizers_of
from distill.core import shutdown
from distill.core.digests import digest
from distill.core.files import write_atomic
from distill.core.intervals import paired_bootstrap, wilson
from distill.core.jsonl import read_jsonl, write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import Difference, EvaluateResult, ModelFigures, QuantizeResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Prompt, split_prompts
from distill.errors import DataError
from distill.filters.refusals import refusal
from distill.formats import FORMATS, FolderFormat, path_of
from distill.models import find, load
from distill.models.batching import blocks_by_length
from distill.models.head import head_of
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.teachers.fingerprint import answers_fingerprint
from distill.teachers.server.budget import Ledger, Spent
from distill.text.text import Text

LLAMA_SEQUENCES = 8  # answers that llama.cpp writes at once


@dataclass(frozen=True)
class Exam:
    """What every model is asked: prompts as token ids, and the teacher's sampled answers to them (None = cut, left out)."""

    recipe: Recipe
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    teacher_ids: list[list[int] | None]
    tokenizer: Any
    stop_ids: list[int]

    def scored(self) -> list[int]:
        """Numbers of the prompts that have a whole teacher answer."""
        return [i for i, ids in enumerate(self.teacher_ids) if ids is not None]


@dataclass(frozen=True)
class Sitting:
    """What the teacher's examination takes."""

    recipe: Recipe
    stage: Path
    student: Path
    location: str
    prompts: list[Prompt]
    tokenizers: Tokenizers

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """As the teacher reads them."""
        return [self.tokenizers.prompt_ids(self.recipe, list(p.messages)) for p in self.prompts]

    @property
    def answers(self) -> Path:
        return self.stage / "teacher_answers.jsonl"

    @property
    def figures(self) -> Path:
        return self.stage / "teacher.json"


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    stage = folder.stage("evaluate")
    prompts = split_prompts(recipe)[1]
    location = recipe.model_location(recipe.teacher.model)
    tokenizers = tokenizers_of(recipe)
    options = recipe.generate
    tasks.grader(options)  # what this machine lacks for it is said before the work
    sitting = Sitting(
        recipe, stage, folder.stage("train") / "student", location, prompts, tokenizers
    )
    names = _models(recipe, folder)
    total = len(names) * len(prompts)
    with Progress("evaluate", total, "answers") as bar:
        exam = _teacher(sitting, bar)
        for name, place in names.items():
            if name != "teacher" and not (stage / f"{name}.json").is_file():
                _write(stage, name, _examine(exam, name, place, bar))
            bar.done = (list(names).index(name) + 1) * len(prompts)
            bar.advance(0, note=name)
            shutdown.check()
    measured = {name: json.loads((stage / f"{name}.json").read_text()) for name in names}
    against = None
    if "control" in measured:
        against = _against(measured["student"], measured["control"], recipe.seed)
    result = EvaluateResult(
        models={name: _without_examples(figures) for name, figures in measured.items()},
        num_examples=len(prompts),
        task=options.task,
        task_version=tasks.version(options.task),
        student_against_control=against,
    )
    files = [stage / "teacher_answers.jsonl", *(stage / f"{name}.json" for name in names)]
    return StageOutput(result, files)


def _without_examples(figures: dict[str, Any]) -> ModelFigures:
    return ModelFigures(**{key: value for key, value in figures.items() if key != "examples"})


def _models(recipe: Recipe, folder: RunFolder) -> dict[str, Path | None]:
    """Name -> folder or file, in the order of the report; the teacher has none of its own."""
    train = folder.stage("train")
    models: dict[str, Path | None] = {"teacher": None}
    if (train / "control").is_dir():
        models["control"] = train / "control"
    models["student"] = train / "student"
    return models | {
        name: path_of(folder, name)
        for name in folder.require("quantize", QuantizeResult, recipe).result.formats
    }


def _teacher(sitting: Sitting, bar: Progress) -> Exam:
    """The students' exam, with the teacher's sampled answers; the teacher itself is examined while it is loaded."""
    recipe = sitting.recipe
    if recipe.teacher.server:
        return _teacher_on_server(sitting, bar)
    if recipe.teacher.gguf:
        return _teacher_of_gguf(sitting, bar)
    tokenizer = sitting.tokenizers.asked
    model: Any = None
    if not (sitting.answers.is_file() and sitting.figures.is_file()):
        where = load.placement(
            recipe.teacher.device, recipe.teacher.dtype, recipe.teacher.quantization
        )
        model = load.load_model(
            sitting.location,
            where,
            revision=recipe.teacher.revision,
            trust_remote_code=recipe.teacher.trust_remote_code,
        )
        stop_ids = chat.stop_ids(tokenizer, load.stop_ids(model))
        if not sitting.answers.is_file():
            options = recipe.generate
            sampling = options.sampling_temperature, options.top_p, options.top_k
            empty = Exam(recipe, sitting.prompts, sitting.prompt_ids, [], tokenizer, [])
            _write_answers(
                sitting.answers,
                sitting.prompts,
                _answer(model, empty, stop_ids, options.max_new_tokens, sampling),
                stop_ids,
            )
    exam, own = _exams(sitting)
    if not sitting.figures.is_file():
        _write(sitting.stage, "teacher", _examine_transformers(own, model, bar))
    return exam


def _write_answers(
    path: Path, prompts: list[Prompt], found: list[tuple[list[int], str]], stop_ids: list[int]
) -> None:
    write_jsonl(
        path,
        [
            {"prompt_id": p.id, "token_ids": ids, "finish_reason": why, "stop_ids": stop_ids}
            for p, (ids, why) in zip(prompts, found, strict=True)
        ],
    )


def _exams(sitting: Sitting) -> tuple[Exam, Exam]:
    """(the students' exam, the teacher's): the same where they have one tokenizer, else each in its own, and the teacher's
    without answers to score."""
    recipe, prompts, tokenizers = sitting.recipe, sitting.prompts, sitting.tokenizers
    rows = [row for _, row in read_jsonl(sitting.answers)]
    asked, stop_ids = tokenizers.asked, rows[0]["stop_ids"]
    lessons = [
        tokenizers.lesson(
            recipe, p.messages, ids, row["token_ids"], chat.text_of(asked, row["token_ids"])
        )
        if row["finish_reason"] == "stop"
        else None
        for p, ids, row in zip(prompts, sitting.prompt_ids, rows, strict=True)
    ]
    if not any(lessons):
        raise DataError(
            f"{sitting.answers}: the teacher finished none of {len(rows)} answers; raise generate.max_new_tokens"
        )
    learnt = [lesson and lesson[1] for lesson in lessons]
    if tokenizers.same:
        exam = Exam(recipe, prompts, sitting.prompt_ids, learnt, asked, stop_ids)
        return exam, exam
    student = tokenizers.student
    learnt = [
        ids if ids and len(ids) > 1 else None for ids in learnt
    ]  # the end alone: reasoning that never came to an answer
    students_ids = [tokenizers.students_prompt_ids(recipe, p.messages) for p in prompts]
    ends = chat.stop_ids(student, find.stop_ids_of_files(str(sitting.student)))
    nothing: list[list[int] | None] = [None] * len(prompts)
    return Exam(recipe, prompts, students_ids, learnt, student, ends), Exam(
        recipe, prompts, sitting.prompt_ids, nothing, asked, stop_ids
    )


def _teacher_of_gguf(sitting: Sitting, bar: Progress) -> Exam:
    """The same by the recipe's GGUF file."""
    from distill.teachers import gguf_teacher

    recipe, prompts = sitting.recipe, sitting.prompts
    if not sitting.answers.is_file():
        stop_ids = chat.stop_ids(
            sitting.tokenizers.asked,
            find.stop_ids_of_files(sitting.location, recipe.teacher.revision),
        )
        found: dict[int, tuple[list[int], str]] = {}
        gguf_teacher.answer(
            recipe,
            sitting.tokenizers.asked,
            sitting.prompt_ids,
            seeds=[_seed(recipe, p) for p in prompts],
            stop_ids=stop_ids,
            on_finished=_collector(found, range(len(prompts)), None),
        )
        _write_answers(sitting.answers, prompts, [found[i] for i in range(len(prompts))], stop_ids)
    exam, own = _exams(sitting)
    if not sitting.figures.is_file():
        assert recipe.gguf_teacher is not None
        _write(sitting.stage, "teacher", _examine_gguf(own, recipe.gguf_teacher, bar))
    return exam


def _teacher_on_server(sitting: Sitting, bar: Progress) -> Exam:
    """The same by the recipe's server. Its own answers cannot be scored there, so the teacher has no NLL."""
    from distill.teachers.answers import served_stop_ids

    recipe, options = sitting.recipe, sitting.recipe.generate
    stop_ids = served_stop_ids(recipe, sitting.location, sitting.tokenizers.asked)
    spent = Spent(Ledger(sitting.stage.parent / "generate", options))
    if not sitting.answers.is_file():
        sampling = (options.sampling_temperature, options.top_p, options.top_k)
        found = _ask_server(sitting, stop_ids, sampling, options.max_new_tokens, bar, spent)
        _write_answers(sitting.answers, sitting.prompts, found, stop_ids)
    exam, own = _exams(sitting)
    if not sitting.figures.is_file():
        started = time.monotonic()
        found = _ask_server(
            sitting, stop_ids, (0.0, 1.0, 0), recipe.evaluate.max_new_tokens, bar, spent
        )
        _write(
            sitting.stage, "teacher", _figures(own, found, {}, time.monotonic() - started, "server")
        )
    return exam


def _ask_server(
    sitting: Sitting,
    stop_ids: list[int],
    sampling: tuple[float, float, int],
    max_new_tokens: int,
    bar: Progress,
    spent: Spent,
) -> list[tuple[list[int], str]]:
    """(answer ids, finish reason) for every prompt, in the prompts' order."""
    from distill.teachers.server.adapters import Answer, Question, Sampling
    from distill.teachers.server.pool import ask_server, question

    recipe, prompts = sitting.recipe, sitting.prompts
    found: dict[str, tuple[list[int], str]] = {}

    def record(asked: Question, answer: Answer) -> None:
        found[asked.key] = (answer.token_ids or [], answer.finish_reason)
        bar.advance(1)

    questions = [
        question(recipe, p.id, p.messages, ids, _seed(recipe, p))
        for p, ids in zip(prompts, sitting.prompt_ids, strict=True)
    ]
    wanted = Sampling(*sampling, max_new_tokens, tuple(stop_ids), recipe.generate.enable_thinking)
    ask_server(recipe, sitting.tokenizers.asked, questions, wanted, record, bar, spent)
    return [found[p.id] for p in prompts]


def _seed(recipe: Recipe, prompt: Prompt) -> int:
    return int(digest("evaluate", str(recipe.seed), prompt.id)[:8], 16) >> 1


def _examine(exam: Exam, name: str, path: Path | None, bar: Progress) -> dict[str, Any]:
    assert path is not None
    format = FORMATS.get(name)
    if format is None:
        model = load.load_model(str(path), load.placement("auto", "auto"))
    elif isinstance(format, FolderFormat):
        model = format.load(path)
    else:
        return _examine_gguf(exam, path, bar)
    return _examine_transformers(exam, model, bar)


def _examine_transformers(exam: Exam, model: Any, bar: Progress) -> dict[str, Any]:
    from distill.models.score import TokenSequence, score

    started = time.monotonic()
    answers = _answer(
        model, exam, exam.stop_ids, exam.recipe.evaluate.max_new_tokens, (0.0, 1.0, 0), bar
    )
    seconds = time.monotonic() - started
    numbers = exam.scored()
    sequences = [
        TokenSequence(exam.prompt_ids[i] + ids, len(exam.prompt_ids[i]))
        for i in numbers
        if (ids := exam.teacher_ids[i])
    ]
    nll: dict[int, float] = {}
    for index, logp, _ in score(
        model,
        head_of(model),
        sequences,
        batch_tokens=exam.recipe.teacher.batch_tokens,
        pad_id=exam.tokenizer.pad_token_id,
        vocab_size=len(exam.tokenizer),
    ):
        nll[numbers[index]] = -float(logp.sum())
    return _figures(exam, answers, nll, seconds, f"transformers, {model.device.type}")


def _examine_gguf(exam: Exam, place: Path, bar: Progress) -> dict[str, Any]:
    from distill.llama_cpp.process import LlamaProcess

    longest = max(map(len, exam.prompt_ids)) + exam.recipe.evaluate.max_new_tokens
    longest = max(
        [
            longest,
            *(len(p) + len(t) for p, t in zip(exam.prompt_ids, exam.teacher_ids, strict=True) if t),
        ]
    )
    threads = exam.recipe.quantize.num_threads
    with LlamaProcess(
        place, num_threads=threads, context_length=longest + 8, num_sequences=LLAMA_SEQUENCES
    ) as llama:
        started = time.monotonic()
        ids = llama.generate(
            exam.prompt_ids,
            max_new_tokens=exam.recipe.evaluate.max_new_tokens,
            stop_ids=exam.stop_ids,
            on_done=lambda *_: bar.advance(1),
        )
        seconds = time.monotonic() - started
        numbers = exam.scored()
        sequences = [
            (exam.prompt_ids[i] + (exam.teacher_ids[i] or []), len(exam.prompt_ids[i]))
            for i in numbers
        ]
        scored = llama.score(sequences) if sequences else []
    answers = [(a, "stop" if a and a[-1] in exam.stop_ids else "length") for a in ids]
    nll = {i: -float(s.logp_T.sum()) for i, s in zip(numbers, scored, strict=True)}
    return _figures(exam, answers, nll, seconds, "llama.cpp, cpu")


def _answer(
    model: Any,
    exam: Exam,
    stop_ids: list[int],
    max_new_tokens: int,
    sampling: tuple[float, float, int],
    bar: Progress | None = None,
) -> list[tuple[list[int], str]]:
    """(answer ids, finish reason) for every prompt, in the prompts' order."""
    from distill.models.decode import Sampling, answer

    found: dict[int, tuple[list[int], str]] = {}
    widths = [len(ids) + max_new_tokens for ids in exam.prompt_ids]
    for block in blocks_by_length(widths, exam.recipe.teacher.batch_tokens):
        answer(
            model,
            [exam.prompt_ids[i] for i in block.indices],
            sampling=Sampling(*sampling),
            seeds=[_seed(exam.recipe, exam.prompts[i]) for i in block.indices],
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            pad_id=exam.tokenizer.pad_token_id,
            on_finished=_collector(found, block.indices, bar),
            vocab_size=len(exam.tokenizer),
            num_slots=block.num_slots,
        )
    return [found[i] for i in range(len(exam.prompts))]


def _collector(
    found: dict[int, tuple[list[int], str]], batch: Sequence[int], bar: Progress | None
) -> Callable[[int, list[int], str], None]:
    def record(index: int, ids: list[int], reason: str) -> None:
        found[batch[index]] = (ids, reason)
        if bar is not None:
            bar.advance(1)
        shutdown.check()

    return record


def _figures(
    exam: Exam,
    answers: list[tuple[list[int], str]],
    nll: dict[int, float],
    seconds: float,
    runtime: str,
) -> dict[str, Any]:
    """Figures of one model, and a row an example."""
    grade = tasks.grader(exam.recipe.generate)
    examples = []
    for i, (prompt, (ids, reason)) in enumerate(zip(exam.prompts, answers, strict=True)):
        opened = chat.opens_thinking(exam.tokenizer, exam.prompt_ids[i])
        text = chat.split_thinking(chat.text_of(exam.tokenizer, ids), opened=opened)[1]
        right = (
            grade(text, {"reference": prompt.reference, "language": prompt.language})
            if grade
            else None
        )
        examples.append(
            {
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "language": prompt.language,
                "reference": prompt.reference,
                "answer": text,
                "right": right,
                "finish_reason": reason,
                "nll": nll.get(i),
                "num_tokens": len(exam.teacher_ids[i] or []),
            }
        )
    tokens = sum(len(ids) for ids, _ in answers)
    scored = [e for e in examples if e["nll"] is not None]
    figures: dict[str, Any] = {
        "runtime": runtime,
        "nll": round(sum(e["nll"] for e in scored) / sum(e["num_tokens"] for e in scored), 5)
        if scored
        else None,
        "refused": sum(refusal(Text(e["answer"]), e["language"]) is not None for e in examples),
        "cut_answers": sum(e["finish_reason"] == "length" for e in examples),
        "generated_tokens": tokens,
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "examples": examples,
    }
    if grade:
        right = sum(bool(e["right"]) for e in examples)
        figures["exact_match"] = right / len(examples)
        figures["interval"] = wilson(right, len(examples))
        figures["by_language"] = {
            language: sum(bool(e["right"]) for e in mine) / len(mine)
            for language in exam.recipe.languages
            if (mine := [e for e in examples if e["language"] == language])
        }
    return figures


def _write(stage: Path, name: str, figures: dict[str, Any]) -> None:
    write_atomic(stage / f"{name}.json", json.dumps(figures, ensure_ascii=False))


def _against(student: dict[str, Any], control: dict[str, Any], seed: int) -> dict[str, Difference]:
    """Return student minus control with 95 % intervals.

    Exact match (positive is better), where a task checks, and NLL (negative is better).
    """
    pairs = list(zip(student["examples"], control["examples"], strict=True))
    result = {}
    if "exact_match" in student:
        differences = [(float(s["right"]) - float(c["right"]), 1.0) for s, c in pairs]
        result["exact_match"] = Difference(**paired_bootstrap(differences, seed=seed))
    differences = [
        (s["nll"] - c["nll"], float(s["num_tokens"])) for s, c in pairs if s["nll"] is not None
    ]
    result["nll"] = Difference(**paired_bootstrap(differences, seed=seed))
    return result


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
