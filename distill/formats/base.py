"""What a format for deployment is to the stages: how a file is written, loaded back and measured.

A new format is a subclass in the file of its family, and an instance in `distill.formats.FORMATS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from distill import chat
from distill.core.files import FolderWriter
from distill.core.progress import Progress
from distill.core.results import Agreement, FileCheck
from distill.core.stage import Cost
from distill.errors import MismatchError
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_transformers
from distill.formats import compare, measure
from distill.formats.compare import Reference
from distill.formats.export import Export
from distill.formats.folders import weight_bytes
from distill.formats.measure import Measured
from distill.formats.planned_student import PlannedStudent
from distill.models import find, load

Rounding = Callable[[Any], Any]  # a weight to the one that the file will hold
BYTES_PER_WEIGHT_IN_MEMORY = 6
WEIGHTS_A_SECOND = 2e7


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """A format that the student can be written in.

    `runtime`: where a file is loaded back, as the report says it; `in_vllm`: vLLM reads it, too.
    `bytes_per_weight`: on disk, for the plan. `row_multiple`: rows of other lengths cannot be
    written; `block`: in rows that are no multiple of it a file holds larger types. `recoverable`:
    `roundings` says what rounding does to each weight, so that quantize.recover can train on it.
    """

    name: str
    runtime: str
    bytes_per_weight: float
    row_multiple: int = 1
    block: int = 1
    recoverable: bool = False
    in_vllm: bool = False
    is_folder: ClassVar[bool]
    seconds: ClassVar[float]  # of loading, whatever the size
    bytes_to_make: ClassVar[float] = BYTES_PER_WEIGHT_IN_MEMORY  # for each weight
    takes_long: ClassVar[bool] = False  # much longer than others: it is begun first

    @abstractmethod
    def path(self, stage: Path) -> Path:
        """Return where a file of this format is in the folder `quantize`."""

    @staticmethod  # noqa: B027 - few need it
    def check(student: PlannedStudent, names: Sequence[str]) -> None:
        """Refuse a student that cannot be written, before the teacher has cost anything.

        Asked once for all formats `names` that share it. Raises MismatchError, and MissingError for
        a package.
        """

    def prepare(self, export: Export) -> None:  # noqa: B027 - few need it
        """Do what must come before the files of the family, for all of them. Raises MismatchError."""

    @property
    def has_preparation(self) -> bool:
        return type(self).prepare is not Format.prepare

    @abstractmethod
    def write(self, export: Export, model_folder: Path, path: Path) -> None:
        """Write `model_folder` (the student, or a trained copy of it) to `path`."""

    @abstractmethod
    def agreement(self, export: Export, reference: Reference, path: Path) -> Agreement:
        """Load the file in its runtime and compare it with `reference`."""

    @abstractmethod
    def measure(self, export: Export, path: Path) -> FileCheck:
        """Load the file in its runtime and measure it. Raises MismatchError for other tokens."""

    @abstractmethod
    def evaluate(self, eval_set: EvalSet, path: Path, bar: Progress) -> ModelAnswers:
        """Load the file in its runtime, and return what it makes of the held-out prompts."""

    def make(self, export: Export, model_folder: Path, path: Path) -> FileCheck:
        """Write the file, load it back and measure it."""
        self.write(export, model_folder, path)
        return self.measure(export, path)

    def roundings(self, export: Export, model: Any) -> Mapping[str, Rounding]:
        """Return what a file makes of each weight of the float32 `model`, by parameter name.

        Asked of a `recoverable` format alone.
        """
        raise NotImplementedError(f"{self.name}: it is not recoverable")

    def cost(self, work: Any) -> Cost:
        """Reckon the writing and checking of one file, beside the process that does it.

        `work`: a planning.costs.Workload.
        """
        num_weights = work.student.parameters
        return Cost(
            self.bytes_to_make * num_weights,
            self.seconds + num_weights / WEIGHTS_A_SECOND,
            disk=self.bytes_per_weight * num_weights,
        )


@dataclass(frozen=True, kw_only=True)
class FolderFormat(Format):
    """A folder for transformers. A family says how it is filled and loaded."""

    is_folder: ClassVar[bool] = True
    seconds: ClassVar[float] = 8.0

    def path(self, stage: Path) -> Path:
        return stage / self.name

    @staticmethod
    @abstractmethod
    def load(folder: Path) -> Any:
        """Load the model in evaluation mode.

        A function that can be imported: a process of its own calls it to measure memory and speed.
        """

    @abstractmethod
    def fill(self, export: Export, model_folder: Path, folder: Path) -> None:
        """Write `model_folder` into the empty `folder`."""

    def write(self, export: Export, model_folder: Path, path: Path) -> None:
        with FolderWriter(path) as temporary:
            self.fill(export, model_folder, temporary)

    def agreement(self, export: Export, reference: Reference, path: Path) -> Agreement:
        return compare.in_transformers(reference, export.in_transformers(self.load(path)))

    def evaluate(self, eval_set: EvalSet, path: Path, bar: Progress) -> ModelAnswers:
        return evaluate_transformers(eval_set, self.load(path), bar)

    def measure(self, export: Export, path: Path) -> FileCheck:
        _require_tokenizer(export, path)
        num_bytes = weight_bytes(path)
        measured = measure.measure(self.load, path)
        return file_check(
            self.agreement(export, export.reference, path),
            measured,
            bytes=num_bytes,
            bits_per_weight=round(8 * num_bytes / find.num_parameters(export.student), 2),
            runtime=self.runtime,
            tokenization=f"identical on {len(export.probes)} probes",
        )


def file_check(agreement: Agreement, measured: Measured, **facts: Any) -> FileCheck:
    """Return the check of a file, of what was found out about it."""
    of_all = asdict(agreement) | {"by_language": agreement.by_language}
    return FileCheck(
        **of_all,
        peak_memory=measured.peak_memory,
        prefill_speed=round(measured.prefill, 1),
        decode_speed=round(measured.decode, 1),
        **facts,
    )


def _require_tokenizer(export: Export, path: Path) -> None:
    """Raise MismatchError if the folder's tokenizer is not the student's."""
    probes = {str(number): text for number, text in enumerate(export.probes)}
    tokenizer = load.load_tokenizer(str(path))
    if difference := chat.same_tokenizer(export.tokenizer, tokenizer, probes):
        raise MismatchError(
            f"{path}: its tokenizer is not the student's: {difference}. "
            "Please report this tokenizer"
        )
