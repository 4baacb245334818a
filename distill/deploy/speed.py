"""Time a GGUF file on this machine: memory, prefill and decoding, in a process of its own."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from distill.llama_cpp.gguf_header import TensorInfo, read_tensor_infos
from distill.llama_cpp.process import LlamaProcess

CONTEXT = 512  # tokens: keys and values are part of the memory measured
PROMPT_TOKENS, NEW_TOKENS, REPEATS = 128, 64, 3


@dataclass(frozen=True)
class FileSpeed:
    """One file at one number of threads.

    `prefill` and `decode` are tokens a second, `peak_memory` bytes, where the system says it.
    `share` is what decoding reaches of the bandwidth measured at the same number of threads.
    """

    format: str
    bytes: int
    bytes_per_token: int
    num_threads: int
    peak_memory: int | None
    prefill: float
    decode: float
    share: float


def measure(path: Path, format_name: str, num_threads: int, bandwidth: float) -> FileSpeed:
    """Load the file in a process of its own and time it.

    `bandwidth`: bytes of memory that so many threads read a second.
    """
    with LlamaProcess(
        path,
        num_threads=num_threads,
        context_length=CONTEXT,
        kv_type="f16",
        exact_threads=True,
    ) as llama:
        speeds = [llama.speed(PROMPT_TOKENS, NEW_TOKENS) for _ in range(REPEATS)]
        peak_memory = llama.peak_memory()
    decode = statistics.median(speed.decode for speed in speeds)
    num_bytes = bytes_per_token(read_tensor_infos(path))
    return FileSpeed(
        format=format_name,
        bytes=path.stat().st_size,
        bytes_per_token=num_bytes,
        num_threads=num_threads,
        peak_memory=peak_memory,
        prefill=statistics.median(speed.prefill for speed in speeds),
        decode=decode,
        share=decode * num_bytes / bandwidth,
    )


def bytes_per_token(tensors: list[TensorInfo]) -> int:
    """Return the bytes of weights that one decoding step reads.

    It reads all of them, but of an embedding that is not the head too only one row.
    """
    is_untied = any(tensor.name == "output.weight" for tensor in tensors)
    return sum(
        tensor.bytes for tensor in tensors if not (is_untied and tensor.name == "token_embd.weight")
    )


def thread_counts(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return sorted({min(2**n, most) for n in range(most.bit_length() + 1)})
