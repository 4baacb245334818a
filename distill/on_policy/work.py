"""What all rounds of one trained student are made with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from distill.core.digests import canonical_json, digest
from distill.core.processes import Processes
from distill.core.repeats import repeat_folder, repeat_seed
from distill.core.results import CaptureResult
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.data.stored_samples import Samples, read_samples, split_samples
from distill.models import load
from distill.on_policy.prompts import asked_prompts
from distill.on_policy.round_files import RoundFiles
from distill.on_policy.student_answers import student_digest
from distill.on_policy.validation import ValidationSet
from distill.recipe import Recipe
from distill.recipe.sections import Rounds
from distill.shaping.trimmed import (
    TrimmedVocabulary,
    kept_path,
    samples_stage,
    trimmed_vocabulary,
)
from distill.signals.store import SignalStore
from distill.training.placing import training_placed

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """The rounds of one repeat of the training; `learn` and `validation`: the teacher's samples."""

    recipe: Recipe
    folder: RunFolder
    processes: Processes
    learn: Samples
    validation: Samples
    prompts: list[Prompt]
    repeat: int = 1

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder, processes: Processes) -> "Work":
        """Return those of the first repeat; of another one `repeat` alone differs."""
        samples = read_samples(kept_path(recipe, folder))
        fitting = samples.fitting(recipe.train.max_length)
        learn, validation = split_samples(fitting, recipe.train.validation_share)
        prompts = asked_prompts(recipe, folder)
        return cls(recipe, folder, processes, learn, validation, prompts)

    @property
    def options(self) -> Rounds:
        assert self.recipe.rounds is not None
        return self.recipe.rounds

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sample that is learnt."""
        return self.recipe.train.max_length

    @property
    def stage(self) -> Path:
        """Return the stage's folder, where answers and signals of all repeats are."""
        return self.folder.stage("rounds")

    @property
    def place(self) -> Path:
        """Return the folder of this repeat's rounds."""
        return repeat_folder(self.stage, self.repeat)

    @property
    def signals(self) -> Path:
        """Return the folder of what the teacher says of the students' answers."""
        return self.stage / "signals"

    @property
    def seed(self) -> int:
        return repeat_seed(self.recipe.seed, self.repeat)

    @property
    def captured(self) -> Path:
        """Return the folder of the signal of the teacher's own answers."""
        captured = self.folder.require("capture", CaptureResult).result
        assert captured.folder is not None  # the recipe's own check: there is a signal
        return self.folder.stage("capture") / "signals" / captured.folder

    @cached_property
    def captured_store(self) -> SignalStore:
        """Return that signal, whose every byte is read once."""
        return SignalStore(self.captured)

    @cached_property
    def trimmed(self) -> TrimmedVocabulary | None:
        return trimmed_vocabulary(self.recipe, self.folder)

    def files(self, number: int) -> RoundFiles:
        return RoundFiles(self.place / f"round-{number}")

    def student(self, number: int) -> Path:
        """Return the folder of a round's student: that of `train` for round 0."""
        if number:
            return self.files(number).student
        return repeat_folder(self.folder.stage("train"), self.repeat) / "student"

    @cached_property
    def tokenizer(self) -> Any:
        return load.load_tokenizer(str(self.student(0)))

    @cached_property
    def placement(self) -> load.Placement:
        """Return where the student runs, and the type of its passes: as in `train`."""
        return training_placed(self.recipe, self.folder).placement

    @property
    def stop_ids(self) -> list[int]:
        """Return the ids that end the student's answers."""
        return self.validation_set.eval_set.stop_ids

    @cached_property
    def first_digest(self) -> str:
        """Return what tells the trained student from others."""
        return student_digest(self.student(0))

    @cached_property
    def validation_set(self) -> ValidationSet:
        prompts = {prompt.id: prompt for prompt in self.prompts}
        return ValidationSet.of(
            self.recipe, self.validation, prompts, self.tokenizer, self.student(0)
        )

    def made_from(self, number: int, student: str) -> str:
        """Return a digest of what decides a round; `student`: that of the one that answers."""
        return digest(self._basis, str(self.seed), str(number), student)

    @cached_property
    def _basis(self) -> str:
        recipe, generate = self.recipe, self.recipe.generate
        values = {
            "rounds": self.options.for_one_round(),
            "train": recipe.train.identity(),
            "generate": [generate.max_new_tokens, generate.system_prompt, generate.enable_thinking],
            "task": generate.task,
            "evaluate": recipe.evaluate.max_new_tokens,
            "num_validated": len(self.validation_set.eval_set.prompts),
            "languages": recipe.languages,
            "signal": self.captured.name,
            "samples": self.folder.digest(samples_stage(recipe), recipe),
            "seed": recipe.seed,
        }
        return digest(canonical_json(values))

    def title(self, number: int) -> str:
        """Return how a round is told of: `round 2`, or `round 2 of student 3/5`."""
        repeats = self.recipe.train.repeats
        return f"round {number}" + (f" of student {self.repeat}/{repeats}" if repeats > 1 else "")

    def broadcast(self, made: Callable[[], T]) -> T:
        """Return what the first process makes, on all."""
        value = made() if self.processes.is_main else None
        return cast(T, self.processes.broadcast(value))
