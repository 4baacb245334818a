"""All that the report knows of a run: the results of the stages before it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill.catalog.catalog import LicenceVerdict
from distill.core.benchmark_results import BenchmarkResult
from distill.core.results import (
    CaptureResult,
    EvaluateResult,
    GenerateResult,
    InitializeResult,
    ModelFigures,
    PlanResult,
    QuantizeResult,
    RoundsResult,
    TrainResult,
    TrimResult,
)
from distill.core.run_folder import Manifest, RunFolder
from distill.core.safety_results import GatesResult, SafetyResult, with_gates
from distill.recipe import Recipe

READS = {
    "plan": PlanResult,
    "generate": GenerateResult,
    "trim": TrimResult,
    "capture": CaptureResult,
    "initialize": InitializeResult,
    "train": TrainResult,
    "rounds": RoundsResult,
    "quantize": QuantizeResult,
    "evaluate": EvaluateResult,
    "safety": SafetyResult,
    "gates": GatesResult,
    "benchmark": BenchmarkResult,
}
ROLES = ("student", "control", "before_rounds")  # what is trained anew in each repeat


@dataclass(frozen=True)
class StageRun:
    """When, where and how long a stage ran.

    `precision`: how the type of its passes was chosen, where the machine did by a measurement.
    """

    stage: str
    seconds: float
    machine: str
    finished: str
    precision: str | None = None


@dataclass(frozen=True)
class RunResults:
    """What the report tells of; `soft_weight` and `versions` are the training's.

    `trim` is None where the recipe trims no vocabulary, `rounds` and `benchmark` where it has none.
    """

    licence: LicenceVerdict
    generate: GenerateResult
    trim: TrimResult | None
    capture: CaptureResult
    initialize: InitializeResult
    train: TrainResult
    rounds: RoundsResult | None
    quantize: QuantizeResult
    evaluate: EvaluateResult
    soft_weight: float
    versions: dict[str, str]
    stage_runs: list[StageRun]
    safety: SafetyResult | None = None
    gates: GatesResult | None = None
    benchmark: BenchmarkResult | None = None

    @classmethod
    def of(cls, manifests: Mapping[str, Manifest[Any]]) -> "RunResults":
        """Gather the results of the recipe's stages in READS, from their manifests.

        A file that failed a gate of `evaluate.gates` is marked failed.
        """
        gates = manifests["gates"].result if "gates" in manifests else None
        quantize = manifests["quantize"].result
        return cls(
            licence=manifests["plan"].result.licence,
            generate=manifests["generate"].result,
            trim=manifests["trim"].result if "trim" in manifests else None,
            capture=manifests["capture"].result,
            initialize=manifests["initialize"].result,
            train=manifests["train"].result,
            rounds=manifests["rounds"].result if "rounds" in manifests else None,
            quantize=replace(quantize, formats=with_gates(quantize.formats, gates)),
            evaluate=manifests["evaluate"].result,
            soft_weight=manifests["train"].section["train"]["soft_weight"],
            versions=manifests["train"].versions,
            stage_runs=[
                StageRun(
                    stage,
                    manifest.seconds,
                    manifest.machine,
                    manifest.finished,
                    getattr(manifest.result, "precision", None),
                )
                for stage, manifest in manifests.items()
            ],
            safety=manifests["safety"].result if "safety" in manifests else None,
            gates=gates,
            benchmark=manifests["benchmark"].result if "benchmark" in manifests else None,
        )

    @property
    def repeats(self) -> list[dict[str, ModelFigures]]:
        """Return the figures of what was trained in each repeat of the training, the first's first."""
        models = self.evaluate.models
        first = {role: models[role] for role in ROLES if role in models}
        return [first, *self.evaluate.repeats]

    @property
    def modified_on(self) -> str:
        """Return the day on which the student's files were made: some licences want it told."""
        finished = next(run.finished for run in self.stage_runs if run.stage == "quantize")
        return finished.partition("T")[0]

    @property
    def training_machine(self) -> str:
        return next(run.machine for run in self.stage_runs if run.stage == "train")


def read_results(folder: RunFolder, recipe: Recipe) -> RunResults:
    """Read the results of a run. Raises MissingError, naming the command, if a stage has not finished."""
    return RunResults.of(
        {stage: folder.require(stage, READS[stage], recipe) for stage in reads(recipe)}
    )


def reads(recipe: Recipe) -> list[str]:
    """Return the stages that the report of a recipe tells of."""
    left_out = {
        "trim": recipe.student.vocabulary is None,
        "rounds": recipe.rounds is None,
        "safety": recipe.evaluate.safety is None,
        "gates": recipe.evaluate.gates is None,
        "benchmark": not recipe.evaluate.benchmarks,
    }
    return [stage for stage in READS if not left_out.get(stage)]
