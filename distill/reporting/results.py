"""What the report reads of each stage's result.

This is the only file of the report that opens a manifest's `result`. Page, model card, pictures and
table take the classes below, whose fields are called as in the results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from distill.reporting.data import Counts
from distill.run_folder import Manifest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ResultT = TypeVar("ResultT", bound="DataclassInstance")


@dataclass(frozen=True)
class LicenceVerdict:
    """What the licences of teacher and base allow together."""

    level: str
    sentences: list[str]
    duties: list[str]


@dataclass(frozen=True)
class GenerateResult:
    """The prompts and answers, and what was kept of them.

    `retold` says why the student has the answers in its own tokens; None = it has the teacher's
    tokenizer.
    """

    num_prompts: int
    num_asked: int
    num_kept: int
    kept_by_language: dict[str, int]
    dropped_by_reason: dict[str, int]
    prompts_by_source: dict[str, int]
    by_language: Counts
    retold: str | None
    warning: str | None


@dataclass(frozen=True)
class CaptureResult:
    """The signal that was captured; the last two are not there without one (`signal: none`)."""

    signal: str
    num_tokens: int
    bytes_per_token: float
    hidden_size: int | None = None
    num_unknown: int = 0


@dataclass(frozen=True)
class InitializeResult:
    """The student before training."""

    num_parameters: int
    method: str
    num_layers: int
    hidden_size: int


@dataclass(frozen=True)
class TrainedRole:
    """How long student or control were trained, and the step whose weights were kept."""

    num_steps: int
    kept_step: int


@dataclass(frozen=True)
class TrainResult:
    """The training of student and, if there is one, control, by role."""

    roles: dict[str, TrainedRole]
    num_samples: int
    num_validation: int
    num_too_long: int


@dataclass(frozen=True)
class FileCheck:
    """The check of one quantized file against the student; NLL and KL in nats a token.

    `kl` and `top_token_agreement` compare the student's and the file's distributions over the next
    token.
    """

    bytes: int
    bits_per_weight: float
    runtime: str
    tokenization: str
    nll_change: float
    kl: float
    num_kl_tokens: int
    top_token_agreement: float
    peak_memory: int | None
    prefill_speed: float
    decode_speed: float
    failed: str | None
    note: str | None = None
    tensor_types: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizeResult:
    """The check of every file, by format; and the size of the student's own weights."""

    formats: dict[str, FileCheck]
    student_bytes: int


@dataclass(frozen=True)
class ModelScore:
    """The figures of one model on the held-out prompts.

    `exact_match`, its 95 % `interval` and `by_language` are shares, and there with a task only.
    `nll` is None where the teacher's answers could not be scored. `refused` counts answers.
    """

    runtime: str
    nll: float | None
    refused: int
    tokens_per_second: float
    exact_match: float | None = None
    interval: Sequence[float] | None = None
    by_language: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Student minus control, with the ends of its 95 % interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class EvaluateResult:
    """The figures of every model by name, the teacher first; student against control, if any."""

    models: dict[str, ModelScore]
    num_examples: int
    student_against_control: dict[str, Difference] | None


@dataclass(frozen=True)
class StageRun:
    """When, where and how long a stage ran."""

    stage: str
    seconds: float
    machine: str
    finished: str


@dataclass(frozen=True)
class RunResults:
    """All that the report knows of a run; `soft_weight` and `versions` are the training's."""

    licence: LicenceVerdict
    generate: GenerateResult
    capture: CaptureResult
    initialize: InitializeResult
    train: TrainResult
    quantize: QuantizeResult
    evaluate: EvaluateResult
    soft_weight: float
    versions: dict[str, str]
    stage_runs: list[StageRun]

    @property
    def training_machine(self) -> str:
        return next(run.machine for run in self.stage_runs if run.stage == "train")


def read_results(manifests: Mapping[str, Manifest]) -> RunResults:
    """Return the results of the stages before the report, from their manifests."""
    results = {stage: manifest.result for stage, manifest in manifests.items()}
    return RunResults(
        licence=_pick(LicenceVerdict, results["plan"]["licence"]),
        generate=_pick(GenerateResult, results["generate"]),
        capture=_pick(CaptureResult, results["capture"]),
        initialize=_pick(InitializeResult, results["initialize"]),
        train=_train_result(results["train"]),
        quantize=_quantize_result(results["quantize"]),
        evaluate=_evaluate_result(results["evaluate"]),
        soft_weight=manifests["train"].section["train"]["soft_weight"],
        versions=manifests["train"].versions,
        stage_runs=[
            StageRun(stage, manifest.seconds, manifest.machine, manifest.finished)
            for stage, manifest in manifests.items()
        ],
    )


def _train_result(result: Mapping[str, Any]) -> TrainResult:
    return TrainResult(
        roles=_pick_each(TrainedRole, result["roles"]),
        num_samples=result["num_samples"],
        num_validation=result["num_validation"],
        num_too_long=result["num_too_long"],
    )


def _quantize_result(result: Mapping[str, Any]) -> QuantizeResult:
    return QuantizeResult(_pick_each(FileCheck, result["formats"]), result["student_bytes"])


def _evaluate_result(result: Mapping[str, Any]) -> EvaluateResult:
    differences = result.get("student_against_control")  # not there without a control
    return EvaluateResult(
        models=_pick_each(ModelScore, result["models"]),
        num_examples=result["num_examples"],
        student_against_control=None
        if differences is None
        else _pick_each(Difference, differences),
    )


def _pick(kind: type[ResultT], values: Mapping[str, Any]) -> ResultT:
    """Return a `kind` of the values that it has fields for; the report needs no others."""
    names = [each.name for each in fields(kind)]
    return kind(**{name: values[name] for name in names if name in values})


def _pick_each(kind: type[ResultT], values: Mapping[str, Mapping[str, Any]]) -> dict[str, ResultT]:
    return {name: _pick(kind, each) for name, each in values.items()}
