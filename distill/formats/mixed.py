"""A type for each tensor of a file under a budget of bytes, chosen by what its rounding does to the student.

One tensor at a time is rounded to its probe type, and the KL divergence of the student's distribution from the whole
one is measured at the answer tokens of calibration samples. For small errors the divergence is quadratic in them, so at
another type it is the measured one times the ratio of the squared rounding errors, weighed as the importance matrix
weighs them. With a cost in nats and a size for every type the choice is a knapsack; it is filled along the lower convex
hull of each tensor's (bytes, nats), the steepest step first (Everett 1963: optimal for the bytes that it ends at).

The sum over tensors is a prediction. So the whole choice is measured as well, beside llama.cpp's own mixtures that fit
into the same bytes, every one of them, and the best of all is taken.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from distill.errors import DataError
from distill.formats.gguf.tensors import Tensor as FileTensor
from distill.formats.rounding import as_stored
from distill.llama_cpp import ggml
from distill.losses.divergences import forward_kl
from distill.models.batching import batches_by_length
from distill.models.head import head_of, logits
from distill.models.score import TokenSequence, answer_hidden_states, logit_chunks

# By size. Where rows are no multiples of 256 the k-quants are out, as in llama.cpp.
CANDIDATES = (
    Type.Q2_K,
    Type.Q3_K,
    Type.Q4_K,
    Type.IQ4_NL,
    Type.Q4_0,
    Type.Q5_K,
    Type.Q5_0,
    Type.Q6_K,
    Type.Q8_0,
    Type.F16,
)
PROBES = (
    Type.Q3_K,
    Type.Q4_0,
    Type.F16,
)  # the first that fits the row: an error that is seen and still small
STOCK = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_nl", "q4_0", "q3_k_m", "q2_k")
ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT  # of a tensor in the file, in bytes
BY_TENSOR = "by tensor"

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Option:
    """A tensor at one type: its bytes, and the nats a token that it is predicted to cost."""

    type: Type
    bytes: int
    nats: float


@dataclass(frozen=True)
class Choice:
    """`types` by GGUF tensor name. `name` is BY_TENSOR, or the stock mixture that was better; `nats` holds the measured KL
    divergence a token of all that were compared."""

    name: str
    types: dict[str, Type]
    nats: dict[str, float]


class Judge:
    """Measures how far a model with rounded tensors is from itself, on the answers of `sequences`.

    Holds the whole model's hidden states at N answer tokens, [N, H] float32, and the head; distributions are made in
    chunks from both.
    """

    def __init__(
        self,
        model: Any,
        sequences: Sequence[TokenSequence],
        batch_tokens: int,
        pad_id: int,
        vocab_size: int,
    ):
        self.model = model
        batches = batches_by_length([len(s.ids) for s in sequences], batch_tokens)
        self._batches = [[sequences[i] for i in batch] for batch in batches]
        self._pad_id, self._vocab_size = pad_id, vocab_size
        self._head = head_of(model)
        self._whole_head = replace(
            self._head, weight=self._head.weight.data
        )  # stays when the parameter is rounded
        self._whole_NH = self._hidden()

    def _hidden(self) -> Tensor:
        found = [
            h
            for batch in self._batches
            for h in answer_hidden_states(self.model, batch, self._pad_id)
        ]
        return torch.cat(found).float()

    @torch.no_grad()
    def nats(self) -> float:
        """KL(whole ‖ model as it is now), nats a token."""
        hidden_NH = self._hidden()
        total = 0.0
        for part, whole_nV in logit_chunks(self._whole_head, self._whole_NH):
            rounded_nV = logits(self._head, hidden_NH[part])
            whole_logp, logp = (
                z[:, : self._vocab_size].log_softmax(-1) for z in (whole_nV, rounded_nV)
            )
            total += float(forward_kl(logp, whole_logp).sum())
        return total / len(hidden_NH)


def choose(
    judge: Judge,
    tensors: Sequence[FileTensor],
    stock: Mapping[str, Mapping[str, Type]],
    importance: Mapping[str, np.ndarray],
    max_bytes: int,
    on_step: OnStep,
) -> Choice:
    """The best types for the matrices among `tensors` within `max_bytes` for all of them.

    `stock` are llama.cpp's mixtures by name, as types by tensor name. `on_step` is told each tensor and mixture as it was
    measured. Raises DataError where even the smallest types do not fit.
    """
    matrices = [t for t in tensors if len(t.shape) == 2]
    room = max_bytes - bytes_of([t for t in tensors if len(t.shape) != 2], {})
    options = {}
    for tensor in matrices:
        options[tensor.name] = _options(judge, tensor, importance.get(tensor.name))
        on_step(tensor.name)
    fitting = {
        name: dict(types) for name, types in stock.items() if bytes_of(matrices, types) <= room
    }
    compared = {BY_TENSOR: fill(options, room)} | fitting
    nats = {}
    for name, types in compared.items():
        with rounded(judge.model, matrices, types, importance):
            nats[name] = judge.nats()
        on_step(name)
    best = min(nats, key=lambda name: nats[name])
    return Choice(best, compared[best], nats)


def fill(options: Mapping[str, Sequence[Option]], max_bytes: int) -> dict[str, Type]:
    """The type of each tensor: the smallest at first, then the steps with the most nats saved for a byte that still fit."""
    hulls = {name: _hull(mine) for name, mine in options.items()}
    taken = dict.fromkeys(hulls, 0)
    room = max_bytes - sum(hull[0].bytes for hull in hulls.values())
    if room < 0:
        raise DataError(
            f"quantize.budget_mb: the smallest types take {(max_bytes - room) / 1e6:.2f} MB, vocabulary and vectors leave room for "
            f"{max_bytes / 1e6:.2f} MB: raise it, or take a smaller student"
        )
    while True:
        steps = [
            ((hull[at].nats - hull[at + 1].nats) / (hull[at + 1].bytes - hull[at].bytes), name)
            for name, hull in hulls.items()
            if (at := taken[name]) + 1 < len(hull) and hull[at + 1].bytes - hull[at].bytes <= room
        ]
        if not steps:
            return {name: hull[taken[name]].type for name, hull in hulls.items()}
        _, name = max(steps)
        hull, at = hulls[name], taken[name]
        room -= hull[at + 1].bytes - hull[at].bytes
        taken[name] += 1


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull of (bytes, nats): every type on it saves less for a byte than the one before."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.nats)):
        if hull and option.nats >= hull[-1].nats:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(smaller: Option, larger: Option) -> float:
    """Nats saved for a byte."""
    return (smaller.nats - larger.nats) / (larger.bytes - smaller.bytes)


def _options(judge: Judge, tensor: FileTensor, importance_C: np.ndarray | None) -> list[Option]:
    parameter = judge.model.get_parameter(tensor.source)
    values_RC = parameter.data.float().cpu().numpy()
    weights_C = np.ones(tensor.shape[-1], np.float32) if importance_C is None else importance_C
    errors, probe = {}, next(t for t in PROBES if fits(t, tensor.shape[-1]))
    nats = 0.0
    for kind in (t for t in CANDIDATES if fits(t, tensor.shape[-1])):
        found_RC = as_stored(values_RC, kind, importance_C, tensor.columns)
        errors[kind] = float(
            (((found_RC - values_RC) ** 2).sum(0, dtype=np.float64) * weights_C).sum()
        )
        if kind == probe:
            with _replaced(parameter, found_RC):
                nats = judge.nats()
    scale = nats / max(errors[probe], 1e-30)
    return [
        Option(kind, bytes_of([tensor], {tensor.name: kind}), scale * e)
        for kind, e in errors.items()
    ]


def fits(kind: Type, num_columns: int) -> bool:
    """Whether rows of this length can be cut into the type's blocks."""
    return num_columns % gguf.GGML_QUANT_SIZES[kind][0] == 0


@contextmanager
def rounded(
    model: Any,
    tensors: Sequence[FileTensor],
    types: Mapping[str, Type],
    importance: Mapping[str, np.ndarray],
) -> Iterator[None]:
    """The model with these tensors as a file would hold them. The whole ones are kept beside them meanwhile."""
    whole = []
    try:
        for tensor in tensors:
            parameter = model.get_parameter(tensor.source)
            whole.append((parameter, parameter.data))
            values = as_stored(
                parameter.data.float().cpu().numpy(),
                types[tensor.name],
                importance.get(tensor.name),
                tensor.columns,
            )
            parameter.data = torch.from_numpy(values).to(parameter.data)
        yield
    finally:
        for parameter, data in whole:
            parameter.data = data


@contextmanager
def _replaced(parameter: Any, values_RC: np.ndarray) -> Iterator[None]:
    whole = parameter.data
    parameter.data = torch.from_numpy(values_RC).to(whole)
    try:
        yield
    finally:
        parameter.data = whole


def bytes_of(tensors: Sequence[FileTensor], types: Mapping[str, Type]) -> int:
    """What these tensors take in a file, the filler after each among it; those that are not in `types` (vectors) in float32."""
    found = 0
    for tensor in tensors:
        *rows, columns = tensor.shape
        num_bytes = prod(rows) * ggml.row_bytes(types.get(tensor.name, Type.F32), columns)
        found += -(-num_bytes // ALIGNMENT) * ALIGNMENT
    return found
