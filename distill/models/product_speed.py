"""How much faster this CPU is with a model's matrices in bfloat16 than in float32: measured.

What is measured are the products of the model's own matrices, in their own numbers: as many of them
as fit into a second, by as many rows as a pass has. With few rows (decoding) that is the speed of
the memory, with many the processor's; a step of training multiplies each matrix three times, casts
it as autocast does, and has the output head with its loss.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.losses.head import Head
from distill.models.find import read_config
from distill.models.model_files import stored_tensors, weight_files

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 0.6  # of measuring, both types together, after a first pass of each
MOST_ROWS = 512  # beyond them a product's speed is the same
MOST_NUMBERS = 48 << 20  # in the matrices: far more than a processor's cache holds
MOST_PRODUCTS = 5e9  # multiplications in one pass: a quarter of a second on a slow core
LEAST_SIDE = 16  # what is smaller is no matrix to speak of

# What torch.cpu.get_capabilities says of processors that multiply bfloat16: Intel's AMX, AVX512-BF16
# (Intel's and AMD's), and ARM's instructions, with and without SVE. AVX-NE-CONVERT only converts.
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions that multiply bfloat16, as far as torch says.

    Versions of torch that cannot say it count as no.
    """
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in INSTRUCTIONS)


@dataclass(frozen=True)
class Matrices:
    """A model's matrices, the embedding apart.

    `layers`: how many there are of each shape (rows out, width in), `experts`: of those of experts.
    `head`: the output head's shape.
    """

    layers: Counter[tuple[int, int]] = field(default_factory=Counter)
    head: tuple[int, int] | None = None
    experts: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def num_numbers(self) -> int:
        head = self.head[0] * self.head[1] if self.head else 0
        counted = [*self.layers.items(), *self.experts.items()]
        return head + sum(rows * width * num for (rows, width), num in counted)


def matrices_of(folder: Path) -> Matrices:
    """Return the matrices of a model folder, from the headers of its files alone.

    Raises what `stored_tensors` and `read_config` raise.
    """
    config = read_config(str(folder))
    vocab_size = (config.get("text_config") or config).get("vocab_size")
    layers: Counter[tuple[int, int]] = Counter()
    experts: Counter[tuple[int, int]] = Counter()
    head = None
    for name, tensor in stored_tensors(weight_files(folder)).items():
        if len(tensor.shape) not in (2, 3) or min(tensor.shape[-2:]) < LEAST_SIDE:
            continue
        rows, width = tensor.shape[-2:]
        if rows == vocab_size:
            head = (rows, width)  # the embedding is either tied to it, or only looked up
        else:
            of_kind = experts if ".experts." in name else layers
            of_kind[rows, width] += tensor.size // (rows * width)  # 3: all experts of a layer
    return Matrices(layers, head, experts)


def measured_speedup(matrices: Matrices, num_rows: int, *, trains: bool) -> float:
    """Return how many times as fast passes of `num_rows` tokens are in bfloat16 as in float32.

    trains: forward and backward in float32 weights under autocast, which leaves experts as they are
    (transformers multiplies them together, by torch's grouped_mm); else forward in weights of the
    type. Takes about a second, and up to 300 MB.
    """
    import torch

    num_rows = max(1, min(num_rows, MOST_ROWS))
    few = _some_of(matrices, num_rows * (3 if trains else 1))
    if not few.num_numbers:
        return 1.0  # there is no matrix to speak of
    make = _training_pass if trains else _forward_pass
    passes = {dtype: make(few, num_rows, dtype) for dtype in (torch.float32, torch.bfloat16)}
    for work in passes.values():
        work()  # the first one of a process is slower, and does not count
    best = {dtype: _seconds(work) for dtype, work in passes.items()}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for dtype, work in passes.items():
            # other processes only ever slow it down
            best[dtype] = min(best[dtype], _seconds(work))
    return best[torch.float32] / best[torch.bfloat16]


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _some_of(matrices: Matrices, products_a_number: int) -> Matrices:
    """Return an even part of the matrices, so small that a pass over it takes part of a second.

    A part of a matrix is some of its rows.
    """
    room = min(MOST_NUMBERS, MOST_PRODUCTS / products_a_number)
    share = min(1.0, room / max(1, matrices.num_numbers))
    head = None
    if matrices.head is not None:
        head = (max(64, _even(matrices.head[0] * share)), matrices.head[1])
    return Matrices(_share_of(matrices.layers, share), head, _share_of(matrices.experts, share))


def _share_of(counts: Counter[tuple[int, int]], share: float) -> Counter[tuple[int, int]]:
    some: Counter[tuple[int, int]] = Counter()
    for (rows, width), num in counts.items():
        whole, part = divmod(num * share, 1)
        if whole:
            some[rows, width] += int(whole)
        if (rows_of_part := _even(rows * part)) > 0:
            some[rows_of_part, width] += 1
    return some


def _even(rows: float) -> int:
    return round(rows / LEAST_SIDE) * LEAST_SIDE


def _tensors(shapes: Counter[tuple[int, int]], dtype: Any, **options: Any) -> "list[Tensor]":
    """Return matrices of these shapes. What is in them makes no difference to their speed."""
    import torch

    return [torch.full(shape, 0.01, dtype=dtype, **options) for shape in shapes.elements()]


def _forward_pass(some: Matrices, num_rows: int, dtype: Any) -> Callable[[], None]:
    import torch
    from torch.nn.functional import linear

    weights = _tensors(some.layers + some.experts, dtype)
    if some.head is not None:
        weights.append(torch.full(some.head, 0.01, dtype=dtype))
    widths = {weight.shape[1] for weight in weights}
    inputs = {width: torch.full((num_rows, width), 0.01, dtype=dtype) for width in widths}

    @torch.no_grad()
    def work() -> None:
        for weight in weights:
            linear(inputs[weight.shape[1]], weight)

    return work


def _training_pass(some: Matrices, num_rows: int, dtype: Any) -> Callable[[], None]:
    import torch
    from torch.nn.functional import linear

    from distill.losses.linear_head import linear_head_loss

    weights = _tensors(some.layers, torch.float32, requires_grad=True)
    experts = _tensors(some.experts, torch.float32, requires_grad=True)
    head = None
    if some.head is not None:
        head = torch.full(some.head, 0.01, requires_grad=True)
    labels = torch.zeros(num_rows, dtype=torch.long)

    def both_ways(weights: "list[Tensor]") -> None:
        for weight in weights:
            states = torch.full((num_rows, weight.shape[1]), 0.01, requires_grad=True)
            out = linear(states, weight)
            out.backward(torch.ones_like(out))
            weight.grad = None

    def work() -> None:
        both_ways(experts)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            both_ways(weights)
            if head is not None:
                states = torch.full((num_rows, head.shape[1]), 0.01, requires_grad=True)
                loss, _ = linear_head_loss(
                    states, Head(head), labels, None, soft_weight=0.0, hard_weight=1.0
                )
                loss.backward()
                head.grad = None

    return work
