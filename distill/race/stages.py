"""The stages of a race: each candidate is a run folder of its own, made by the ordinary ones.

    shape/held_out/                 the teacher's answers to some held-out prompts, once for all
    shape/vocabulary/<name>/        trim and capture, once for all candidates of one vocabulary
    shape/<candidate>/              initialize, train, quantize, and measure: how well it predicts
                                    the teacher before and after the short distillation

`generate` is the run's own. So are the signals on disk: what a race captures the run finds, and the
other way round.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill import capture, initialize, quantize, tasks, teachers, train, trim
from distill.core.jsonl import write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.core.results import Interval
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.prompts import in_turns, split_prompts
from distill.data.samples import Prompt
from distill.errors import MismatchError
from distill.evaluate import askable, write_answers
from distill.evaluation.eval_set import EvalSet, eval_sets
from distill.evaluation.figures import figures_of
from distill.evaluation.models import evaluate_transformers, nll_of_answers
from distill.formats import FORMATS, W16A16
from distill.models import load
from distill.pipeline import fingerprint_of
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.shaping.trimmed import trim_stage, trimmed_vocabulary
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import answers_inputs, answers_section

NUM_HELD_OUT = 100  # prompts, even over the languages
WEIGHTS = "*.safetensors"


@dataclass(frozen=True)
class HeldOut:
    """How many held-out prompts the teacher answered for the race."""

    num_prompts: int


@dataclass(frozen=True)
class Measured:
    """A candidate before and after the short distillation, on the held-out prompts.

    `nll_before`, `nll_after`: nats a byte of the held-out answers. `nats`, `num_bytes`: after it,
    of each answer that is scored. Exact match and its interval only where a task checks.
    """

    num_parameters: int
    nll_before: float
    nll_after: float
    nats: list[float]
    num_bytes: list[int]
    exact_match: float | None = None
    interval: Interval | None = None


def held_out_prompts(recipe: Recipe, teacher: Teacher) -> list[Prompt]:
    """Return the held-out prompts of the race: some of those that `evaluate` asks."""
    prompts = askable(split_prompts(recipe)[1], teacher)
    return in_turns(recipe, prompts)[:NUM_HELD_OUT]


def answer_held_out(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    """Let the teacher answer the held-out prompts."""
    teacher = teachers.connect(recipe, folder)
    prompts = held_out_prompts(recipe, teacher)
    path = _answers(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Progress("held out", len(prompts), "answers") as bar, teacher:
        write_answers(teacher, prompts, path, bar)
    return StageOutput(HeldOut(len(prompts)), [path])


def _answers(folder: RunFolder) -> Path:
    return folder.stage("held_out") / "teacher_answers.jsonl"


def measure(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    """Measure the candidate on the held-out answers; its own answers are kept where a task checks."""
    teacher = teachers.connect(recipe, folder)
    start, healed = folder.stage("initialize") / "student", folder.stage("train") / "student"
    trimmed = trimmed_vocabulary(recipe, folder)
    prompts = held_out_prompts(recipe, teacher)
    eval_set, _ = eval_sets(recipe, prompts, teacher.tokenizers, _answers(folder), healed, trimmed)
    before = nll_of_answers(eval_set, _loaded(start))
    model = _loaded(healed)
    figures: dict[str, Any] = {}
    files = []
    if tasks.grader(recipe.generate) is not None and any(prompt.verify for prompt in prompts):
        with Progress("measure", len(prompts), "answers") as bar:
            made = evaluate_transformers(eval_set, model, bar)
        after, figures = made.nll, figures_of(eval_set, made)
        files = [folder.stage("measure") / "answers.jsonl"]
        write_jsonl(files[0], figures["examples"])
    else:
        after = nll_of_answers(eval_set, model)
    numbers = sorted(after)
    result = Measured(
        num_parameters=model.num_parameters(),
        nll_before=_nll_per_byte(eval_set, before),
        nll_after=_nll_per_byte(eval_set, after),
        nats=[after[number] for number in numbers],
        num_bytes=[eval_set.num_bytes[number] for number in numbers],
        exact_match=figures.get("exact_match"),
        interval=figures.get("interval"),
    )
    return StageOutput(result, files)


def _quantize(
    recipe: Recipe, folder: RunFolder, processes: Processes = ALONE
) -> StageOutput | None:
    """Write and check the one file that is compared."""
    names = recipe.quantize.formats or [W16A16.name]
    return quantize.run(recipe, folder, processes, formats=[FORMATS[name] for name in names])


def _loaded(folder: Path) -> Any:
    return load.load_model(str(folder), load.placement("auto", "auto"))


def _nll_per_byte(eval_set: EvalSet, nats: dict[int, float]) -> float:
    num_bytes = sum(eval_set.num_bytes[number] for number in nats)
    return round(sum(nats.values()) / max(num_bytes, 1), 6)


def _held_out_cost(work: Workload) -> Cost:
    return Cost(PROCESS_BYTES + work.asking_bytes, work.teacher_seconds(NUM_HELD_OUT), disk=1e5)


def _measure_cost(work: Workload) -> Cost:
    """Reckon two passes over the answers, and greedy answers where a task may check them."""
    parameters = work.student.parameters
    tokens = NUM_HELD_OUT * (work.demand.prompt + work.demand.answer)
    seconds = 3 + 2 * tokens * 2 * parameters / work.machine.flops
    if work.recipe.generate.task is not None:
        longest = work.recipe.evaluate.max_new_tokens
        seconds += work.answer_seconds(work.student, 4 * parameters, NUM_HELD_OUT, longest)
    return Cost(PROCESS_BYTES + 4 * parameters, seconds, disk=1e5)


def _measure_reads(recipe: Recipe) -> list[str]:
    return [*trim_stage(recipe), "held_out", "initialize", "train"]


HELD_OUT = Stage(
    "held_out",
    "the teacher's answers to some held-out prompts",
    answer_held_out,
    HeldOut,
    answers_section,
    answers_inputs,
    cost=_held_out_cost,
)
MEASURE = Stage(
    "measure",
    "how well a candidate predicts the teacher before and after a short distillation",
    measure,
    Measured,
    lambda _: {"num_held_out": NUM_HELD_OUT},
    reads=_measure_reads,
    cost=_measure_cost,
)
OF_VOCABULARY = (trim.STAGE, capture.STAGE)
QUANTIZE = replace(quantize.STAGE, run=_quantize)
OF_CANDIDATE = (initialize.STAGE, train.STAGE, QUANTIZE, MEASURE)


@dataclass(frozen=True)
class Folders:
    """The folders of a race in the run folder `run`."""

    run: RunFolder

    @property
    def path(self) -> Path:
        return self.run.stage("shape")

    @property
    def home(self) -> RunFolder:
        """Return the folder of what all candidates share."""
        return RunFolder(self.path, shared={"generate": self.run})

    def of_vocabulary(self, name: str) -> RunFolder:
        """Return the folder of a vocabulary; its signals lie where the run's own do."""
        folder = RunFolder(self.path / "vocabulary" / name, shared={"generate": self.run})
        signals = self.run.stage("capture") / "signals"
        link = folder.stage("capture") / "signals"
        if not link.exists():
            signals.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(signals, link.parent))
        return folder

    def of_candidate(self, name: str, vocabulary: RunFolder) -> RunFolder:
        """Return the folder of a candidate with this vocabulary."""
        shared = {"generate": self.run, "held_out": self.home}
        shared |= {"trim": vocabulary, "capture": vocabulary}
        return RunFolder(self.path / name, shared=shared)


class RaceChanged(MismatchError):
    """What was made of a race is of another recipe than it would be made by now."""


def race_changed(place: Path, changes: Sequence[str]) -> RaceChanged:
    """Return the error that names what was made by another recipe, and the ways out."""
    return RaceChanged(
        f"{place} was made by another recipe: {'; '.join(changes[:4])}. Set the values back, or let "
        "all race anew with --redo (answers and signals of the teacher stay)"
    )


def is_made(stages: Sequence[Stage], recipe: Recipe, folder: RunFolder) -> bool:
    """Return whether all of these stages are done, whether their files are still there or not.

    Raises RaceChanged where one of them was made by another recipe.
    """
    for stage in stages:
        if stage.left_out(recipe) is not None:
            continue
        if not folder.began(stage.name):
            return False
        if changes := folder.changes(stage.name, fingerprint_of(stage, recipe, folder)):
            raise race_changed(folder.stage(stage.name), changes)
        if folder.manifest(stage.name, stage.result) is None:
            return False
    return True


def remove_weights(folder: RunFolder) -> None:
    """Remove what a measured candidate is not needed for any more: all weights but its file."""
    for stage in ("initialize", "train"):
        for path in (folder.path / stage / "student").glob(WEIGHTS):
            path.unlink()
