"""What every file of a run is made from and compared with: the student and its samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from distill import chat
from distill.core.final_student import student_folder
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Sample
from distill.data.shares import take_turns
from distill.data.stored_samples import Samples, read_samples, split_samples
from distill.formats.compare import Reference, TransformersModel, refer_to
from distill.models import load
from distill.models.sequences import TokenSequence
from distill.recipe import Recipe
from distill.shaping.trimmed import KEPT, kept_path, samples_stage

OWN_PROBES = 3  # samples of each language that tokenizers are compared on
LONGEST_PROBE = 2000  # characters of each


@dataclass(frozen=True)
class Export:
    """The export of one trained student, a model folder, with its tokenizer."""

    recipe: Recipe
    folder: RunFolder
    student: Path
    tokenizer: Any

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder) -> "Export":
        """Return the export of the student that the run has trained."""
        student = student_folder(recipe, folder)
        return cls(recipe, folder, student, load.load_tokenizer(str(student)))

    @property
    def stage(self) -> Path:
        """Return the folder that files are written to."""
        return self.folder.stage("quantize")

    @property
    def distributions(self) -> Path:
        """Return the student's distributions, a file that is there while others are compared."""
        return self.stage / "student_distributions.npy"

    @property
    def samples_name(self) -> str:
        """Return the file of the samples, as it is told in a file that is made of them."""
        return f"{samples_stage(self.recipe)}/{KEPT}"

    @cached_property
    def _samples(self) -> tuple[Samples, Samples]:
        kept = read_samples(kept_path(self.recipe, self.folder))
        return split_samples(kept, self.recipe.train.validation_share)

    @property
    def training_samples(self) -> Samples:
        """Return the samples that the student was trained on."""
        return self._samples[0]

    @property
    def check_samples(self) -> Samples:
        """Return the unseen samples that files are compared on."""
        return self._samples[1][: self.recipe.quantize.num_sequences]

    @cached_property
    def reference(self) -> Reference:
        """Return the student itself on the check samples."""
        student = self.in_transformers(self.load_student())
        return refer_to(student, self.check_samples, self.distributions)

    def share_reference(self, processes: Processes) -> None:
        """Let the first of several ranks make the reference, for all: they read its file."""
        made = self.reference if processes.is_main else None
        vars(self)["reference"] = processes.broadcast(made)  # where cached_property keeps it

    @cached_property
    def probes(self) -> list[str]:
        """Texts on which a file's tokenizer must agree with the student's.

        What is known to be hard, and this run's own samples in each of its languages.
        """
        own = []
        for code in self.recipe.languages:
            of_language = (s for s in self.training_samples if s.language == code)
            for sample in islice(of_language, OWN_PROBES):
                own += [sample.prompt[:LONGEST_PROBE], sample.answer[:LONGEST_PROBE]]
        return [*chat.PROBES.values(), *own]

    def load_student(self) -> Any:
        """Load the student in float32."""
        return load.load_model(str(self.student), load.placement("auto", "float32"))

    def in_transformers(self, model: Any) -> TransformersModel:
        """Return `model` with the student's tokenizer and the recipe's batches, to be scored."""
        return TransformersModel(model, self.tokenizer, self.recipe.teacher.batch_tokens)

    def training_sequences(self, count: int | None = None) -> list[TokenSequence]:
        """Return the first `count` training samples, even over the languages; None: all.

        So the check samples stay unseen.
        """
        samples = even_over_languages(self.training_samples, count)
        return [TokenSequence(s.ids, len(s.prompt_ids)) for s in samples]


def even_over_languages(samples: Sequence[Sample], count: int | None) -> list[Sample]:
    """Return the first `count` samples (None: all), taken from each language in turn."""
    languages = sorted({sample.language for sample in samples})
    return take_turns(samples, lambda sample: sample.language, languages, count)
