"""The GGUF formats: files for llama.cpp, Ollama and LM Studio."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from distill.core.cores import usual_threads
from distill.core.progress import Progress
from distill.core.results import Agreement, FileCheck
from distill.core.stage import Cost
from distill.errors import MismatchError
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_gguf
from distill.formats import compare
from distill.formats.base import Format, Rounding, file_check
from distill.formats.compare import Reference
from distill.formats.export import Export
from distill.formats.gguf import export_check
from distill.formats.gguf.byte_tokens import lack
from distill.formats.gguf.preflight import check_student
from distill.formats.gguf.tokenizer_check import require_same_tokens
from distill.formats.gguf.vocabulary import absent_bytes
from distill.formats.measure import Measured
from distill.llama_cpp.model import NUM_NEW_TOKENS, NUM_PROMPT_TOKENS
from distill.llama_cpp.process import LlamaProcess


@dataclass(frozen=True, kw_only=True)
class GgufFormat(Format):
    """A file of one of llama.cpp's stock mixtures of types.

    `weighted`: ggml's quantizer looks at the importance of each input.
    """

    runtime: str = "llama.cpp"
    weighted: bool = True
    is_folder: ClassVar[bool] = False
    seconds: ClassVar[float] = 2.0
    check = staticmethod(check_student)

    def path(self, stage: Path) -> Path:
        return stage / f"{self.name}.gguf"

    def prepare(self, export: Export) -> None:
        """Say what the vocabulary lacks, try the export, and measure the importance matrix.

        The export is tried where no f16 file will show that it is right.
        """
        from distill.formats.gguf.imatrix import importance_of

        wanted = [f for f in FORMATS if f.name in export.recipe.quantize.formats]
        if not any((export.stage / f"{format.name}.json").is_file() for format in wanted):
            self._check_export(export, with_f16=F16 in wanted)
        if any(format.weighted for format in wanted):
            importance_of(export)  # a file: ranks that write side by side find it there

    def _check_export(self, export: Export, *, with_f16: bool) -> None:
        if absent := absent_bytes(export.student):
            print(
                f"quantize: {export.student / 'tokenizer.json'}: {lack(absent)}: the student "
                "leaves such a byte out, and so does llama.cpp",
                flush=True,
            )
        if not with_f16:
            export_check.require_right_export(export)

    def write(self, export: Export, model_folder: Path, path: Path) -> None:
        self.write_types(export, model_folder, path, self.name)

    def write_types(
        self,
        export: Export,
        model_folder: Path,
        path: Path,
        file_type: str,
        types: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a file of this mixture, or with these types by GGUF tensor name."""
        from distill.formats.gguf.provenance import provenance
        from distill.formats.gguf.write import write_gguf

        write_gguf(
            model_folder,
            path,
            file_type,
            metadata=provenance(export.recipe),
            importance=self.importance(export),
            types=types,
            trained=export.recipe.generate,
        )

    def importance(self, export: Export) -> Mapping[str, Any] | None:
        """Return the importance matrix, if it is wanted and makes a difference to this format."""
        from distill.formats.gguf.imatrix import importance_of

        return importance_of(export) if self.weighted else None

    def agreement(self, export: Export, reference: Reference, path: Path) -> Agreement:
        return export_check.agreement(export, reference, path)

    def measure(self, export: Export, path: Path) -> FileCheck:
        from distill.formats.gguf.write import describe

        with _loaded(export, path) as llama:
            speed = llama.speed()
            measured = Measured(speed.prefill, speed.decode, llama.peak_memory())
            tokenization = require_same_tokens(export, path, llama)
            agreement = compare.in_llama_cpp(export.reference, llama)
        written = describe(path)
        return file_check(
            agreement,
            measured,
            bytes=written.bytes,
            bits_per_weight=round(written.bits_per_weight, 2),
            runtime=self.runtime,
            tokenization=tokenization,
            tensor_types=written.tensor_types,
            importance_matrix=self.importance(export) is not None,
        )

    def evaluate(self, eval_set: EvalSet, path: Path, bar: Progress) -> ModelAnswers:
        return evaluate_gguf(eval_set, path, bar)

    def roundings(self, export: Export, model: Any) -> Mapping[str, Rounding]:
        from distill.formats.rounding import gguf_roundings

        return gguf_roundings(export.student, self.name, self.importance(export))


def _loaded(export: Export, path: Path) -> LlamaProcess:
    """Return the file in a llama.cpp of its own, with room for the samples and for the timing."""
    longest = max(NUM_PROMPT_TOKENS + NUM_NEW_TOKENS, export.reference.longest)
    num_threads = export.recipe.quantize.threads or usual_threads()
    return LlamaProcess(path, num_threads=num_threads, context_length=longest + 8)


@dataclass(frozen=True, kw_only=True)
class F16Format(GgufFormat):
    """The student's own weights: where such a file is far from it, the export must be proved right."""

    def measure(self, export: Export, path: Path) -> FileCheck:
        check = super().measure(export, path)
        if export_check.is_the_student(check):
            return check
        in_float32 = export_check.require_right_export(export)
        return replace(check, note=export_check.what_float16_costs(check, in_float32))


@dataclass(frozen=True, kw_only=True)
class MixedFormat(GgufFormat):
    """A file within quantize.budget_mb, a type for each tensor."""

    bytes_to_make: ClassVar[float] = 10
    takes_long: ClassVar[bool] = True

    def make(self, export: Export, model_folder: Path, path: Path) -> FileCheck:
        from distill.formats.gguf import mixed
        from distill.formats.gguf.tensor_types import file_type_of

        budget_mb = export.recipe.quantize.budget_mb or 0
        most = int(budget_mb * 1e6)
        overhead = self._bytes_beside_tensors(export, model_folder, path)
        importance = self.importance(export) or {}
        choice = mixed.choose_types(export, importance, most - overhead)
        file_type = file_type_of(choice.types.values())
        self.write_types(export, model_folder, path, file_type, choice.types)
        check = self.measure(export, path)
        if check.bytes > most:
            raise MismatchError(
                f"{path}: {check.bytes:,} bytes, quantize.budget_mb allows {most:,}: "
                "the sizes were reckoned wrong"
            )
        kl_of_choices = {name: round(nats, 6) for name, nats in choice.nats.items()}
        ranked = sorted(kl_of_choices.items(), key=lambda item: item[1])
        compared = ", ".join(f"{name} {nats:.5f}" for name, nats in ranked)
        return replace(
            check,
            budget_mb=budget_mb,
            chosen=choice.name,
            kl_of_choices=kl_of_choices,
            note=f"of what fits into {budget_mb:g} MB, {choice.name} is nearest to the student "
            f"(KL on training samples: {compared})",
        )

    def _bytes_beside_tensors(self, export: Export, model_folder: Path, path: Path) -> int:
        """Return how much a file holds beside its tensors, by writing the smallest."""
        from distill.formats.gguf import mixed
        from distill.formats.gguf.tensors import tensors_of

        file_type = mixed.STOCK[-1]
        self.write_types(export, model_folder, path, file_type)
        num_bytes = path.stat().st_size
        path.unlink()
        tensors = tensors_of(model_folder, file_type)
        return num_bytes - mixed.bytes_of(tensors, {t.name: t.type for t in tensors})

    def cost(self, work: Any) -> Cost:
        """Reckon a forward pass over the samples for each tensor, beside the file itself."""
        options, student = work.recipe.quantize, work.student
        cost = super().cost(work)
        tokens = options.num_sequences * (work.demand.prompt + work.demand.answer)
        passes = 7 * student.layers * tokens * 2 * student.parameters / work.machine.flops
        return replace(
            cost,
            seconds=cost.seconds + passes,
            disk=(options.budget_mb or 0) * 1e6,
        )


def _k_quant(name: str, bytes_per_weight: float) -> GgufFormat:
    return GgufFormat(name=name, bytes_per_weight=bytes_per_weight, block=256, recoverable=True)


F16 = F16Format(name="f16", bytes_per_weight=2.0, weighted=False)
FORMATS = (
    F16,
    GgufFormat(name="bf16", bytes_per_weight=2.0, weighted=False),
    GgufFormat(name="q8_0", bytes_per_weight=1.06, weighted=False, recoverable=True),
    _k_quant("q6_k", 0.82),
    _k_quant("q5_k_m", 0.71),
    _k_quant("q4_k_m", 0.61),
    GgufFormat(name="q4_0", bytes_per_weight=0.57, recoverable=True),
    GgufFormat(name="iq4_nl", bytes_per_weight=0.57, recoverable=True),
    _k_quant("q3_k_m", 0.53),
    _k_quant("q2_k", 0.45),
    replace(_k_quant("tq2_0", 0.37), weighted=False),
    MixedFormat(name="mixed", bytes_per_weight=0.61, block=256),  # the budget says its bytes
)
WEIGHTED = tuple(format.name for format in FORMATS if format.weighted)
