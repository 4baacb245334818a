"""Whether the student as a GGUF file says what the student says: before any rounding is judged.

Everything but the rounding of the other files is wrong, too, if an f16 file differs.
"""

from pathlib import Path

from distill.errors import MismatchError
from distill.formats import compare
from distill.formats.compare import SAME_WEIGHTS, Agreement, Reference
from distill.formats.export import Export
from distill.llama_cpp.process import LlamaProcess

SAME_TOP_TOKEN = 0.995  # of positions where the likeliest token leads clearly


def try_export(export: Export) -> None:
    """Write an f16 file for this check alone. Raises MismatchError if it is not the student."""
    from distill.formats.gguf.write import write_gguf

    path = export.stage / ".export.gguf"
    write_gguf(export.student, path, "f16", metadata={})
    f16 = agreement(export, export.reference, path)
    path.unlink()
    require_right_export(export, f16.max_logp_difference, f16.top_token_agreement_without_ties)


def agreement(export: Export, reference: Reference, path: Path) -> Agreement:
    """Load a GGUF file in llama.cpp and compare it with `reference`."""
    num_threads = export.recipe.quantize.num_threads
    context_length = reference.longest + 8
    with LlamaProcess(path, num_threads=num_threads, context_length=context_length) as llama:
        return compare.in_llama_cpp(reference, llama)


def require_right_export(export: Export, logp_difference: float, top_token_share: float) -> None:
    """Raise MismatchError if an f16 file of the student with these figures is not the student."""
    from distill import formats

    if logp_difference < SAME_WEIGHTS and top_token_share >= SAME_TOP_TOKEN:
        return
    raise MismatchError(
        f"{export.student}: as an f16 file it differs from itself by up to {logp_difference:.3f} "
        f"in log-probability (below {SAME_WEIGHTS:g}), and has the same likeliest token at "
        f"{top_token_share:.1%} of the positions where that leads clearly (at least "
        f"{SAME_TOP_TOKEN:.1%}); the export of this architecture is wrong. "
        f"Take {formats.other_folders()}, which transformers runs, or "
        "no format (quantize.formats: []), and please report this model"
    )
