"""Whether the student as a GGUF file says what the student says: before any rounding is judged.

Decided by a file in float32, in which nothing is rounded: weights, activations and cache are the
student's own. Sixteen bits cannot decide it. A student far from what it was trained for multiplies
the smallest rounding: SmolLM2 with 21 of its 30 layers is off by 0.073 in log-probability as an
f16 file, by 0.155 in float16 in transformers, and still by 0.073 where the f16 file is compared
with weights that float16 holds exactly, for llama.cpp rounds activations, too. As a float32 file it
is off by 0.0001. And a student beyond float16's 65,504 has no f16 file at all.
"""

from pathlib import Path

from distill.core.cores import usual_threads
from distill.core.results import Agreement
from distill.errors import MismatchError
from distill.formats import compare
from distill.formats.compare import SAME_WEIGHTS, Reference
from distill.formats.export import Export
from distill.llama_cpp.process import LlamaProcess

SAME_TOP_TOKEN = 0.995  # of positions where the likeliest token leads clearly
SAME_IN_FLOAT32 = 0.005  # in log-prob; right exports differed by up to 0.0002


def require_right_export(export: Export) -> float:
    """Write a float32 file for this check alone; return its largest difference in log-prob.

    Raises MismatchError if it does not say what the student says.
    """
    from distill.formats.gguf.write import write_gguf

    path = export.stage / ".export.gguf"
    write_gguf(export.student, path, "f32", metadata={})
    try:
        in_float32 = agreement(export, export.reference, path)
    finally:
        path.unlink()
    if not _is_within(in_float32, SAME_IN_FLOAT32):
        raise MismatchError(_what_is_wrong(export, in_float32))
    return in_float32.max_logp_difference


def agreement(export: Export, reference: Reference, path: Path) -> Agreement:
    """Load a GGUF file in llama.cpp and compare it with `reference`."""
    num_threads = export.recipe.quantize.threads or usual_threads()
    context_length = reference.longest + 8
    with LlamaProcess(path, num_threads=num_threads, context_length=context_length) as llama:
        return compare.in_llama_cpp(reference, llama)


def is_the_student(in_float16: Agreement) -> bool:
    """Return whether an f16 file is so near that no other file need be asked."""
    return _is_within(in_float16, SAME_WEIGHTS)


def what_float16_costs(in_float16: Agreement, in_float32: float) -> str:
    """Return what to know of an f16 file that is far from the student though the export is right.

    `in_float32`: the largest difference of the file in float32.
    """
    if in_float16.nll != in_float16.nll:  # no number
        return "float16 does not hold the numbers of this student: take bf16"
    return (
        f"up to {in_float16.max_logp_difference:.3f} from the student in log-probability, though a "
        f"float32 file is within {in_float32:.5f}: the export is right, and this student is easily "
        "moved by rounding; train longer, or keep more layers"
    )


def _is_within(found: Agreement, largest: float) -> bool:
    """Return whether log-probs and likeliest tokens are the student's; False for no numbers."""
    is_near = found.max_logp_difference < largest
    return is_near and found.top_token_agreement_without_ties >= SAME_TOP_TOKEN


def _what_is_wrong(export: Export, found: Agreement) -> str:
    from distill import formats

    return (
        f"{export.student}: as a float32 GGUF file it differs from itself by up to "
        f"{found.max_logp_difference:.3f} in log-probability (below {SAME_IN_FLOAT32:g}), and has "
        f"the same likeliest token at {found.top_token_agreement_without_ties:.1%} of the positions "
        f"where that leads clearly (at least {SAME_TOP_TOKEN:.1%}); the export of this architecture "
        f"is wrong. Take {formats.other_folders()}, which transformers runs, or "
        "no format (quantize.formats: []), and please report this model"
    )
