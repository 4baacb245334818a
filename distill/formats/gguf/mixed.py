"""Choose a type for each tensor of a file under a budget of bytes.

One tensor at a time is rounded to its probe type, and the KL divergence of the student's
distribution from the unrounded one is measured at the answer tokens of calibration samples. For
small errors the divergence is quadratic in them, so at another type it is the measured one times
the ratio of the squared rounding errors, weighed as the importance matrix weighs them. With a cost
in nats and a size for every type the choice is a knapsack; it is filled along the lower convex hull
of each tensor's (bytes, nats), the steepest step first (Everett 1963: optimal for the bytes that it
ends at).

The sum over tensors is a prediction. So all tensors together are measured as well, beside
llama.cpp's own mixtures that fit into the same bytes, every one of them, and the best of all is
taken.
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

from distill.core.progress import Progress
from distill.errors import DataError
from distill.formats.export import Export
from distill.formats.gguf.tensors import Tensor as FileTensor
from distill.formats.gguf.tensors import matrix_types, tensors_of
from distill.formats.rounding import as_stored
from distill.llama_cpp import ggml
from distill.losses.divergences import forward_kl
from distill.models.batching import batches_by_length
from distill.models.head import head_of
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
# the first that fits the row: an error that is seen and still small
PROBES = (Type.Q3_K, Type.Q4_0, Type.F16)
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
    """What was chosen.

    `types` by GGUF tensor name. `name` is BY_TENSOR, or the stock mixture that was better; `nats`
    holds the measured KL divergence a token of all that were compared.
    """

    name: str
    types: dict[str, Type]
    nats: dict[str, float]


class SensitivityMeter:
    """Measures how far a model with rounded tensors is from itself, on the answers of `sequences`.

    Holds the unrounded model's hidden states at N answer tokens, [N, H] float32, and the head;
    distributions are made in chunks from both.
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
        # stays as it is when the parameter is rounded
        self._unrounded_head = replace(self._head, weight=self._head.weight.data)
        self._unrounded_NH = self._hidden_states()

    def _hidden_states(self) -> Tensor:
        states = []
        for batch in self._batches:
            states += answer_hidden_states(self.model, batch, self._pad_id)
        return torch.cat(states).float()

    @torch.no_grad()
    def nats(self) -> float:
        """Return KL(unrounded ‖ model as it is now), nats a token."""
        hidden_NH = self._hidden_states()
        total = 0.0
        both = zip(
            logit_chunks(self._unrounded_head, self._unrounded_NH),
            logit_chunks(self._head, hidden_NH),
            strict=True,
        )
        for (_, unrounded_nV), (_, logits_nV) in both:
            logp_nV = self._log_probs(logits_nV)
            total += float(forward_kl(logp_nV, self._log_probs(unrounded_nV)).sum())
        return total / len(hidden_NH)

    def _log_probs(self, logits_nV: Tensor) -> Tensor:
        return logits_nV[:, : self._vocab_size].log_softmax(-1)


def choose_types(export: Export, importance: Mapping[str, np.ndarray], max_bytes: int) -> Choice:
    """Return the best types for the student's tensors within `max_bytes` for all of them.

    Raises DataError if even the smallest types do not fit.
    """
    tensors = tensors_of(export.student, STOCK[-1])
    stock = {name: matrix_types(export.student, name) for name in STOCK}
    meter = SensitivityMeter(
        export.load_student(),
        export.training_sequences(export.recipe.quantize.num_sequences),
        export.recipe.teacher.batch_tokens,
        export.tokenizer.pad_token_id,
        len(export.tokenizer),
    )
    num_steps = len(stock[STOCK[0]]) + 1 + len(STOCK)
    with Progress("choose types", num_steps, "tensors") as bar:
        return choose(meter, tensors, stock, importance, max_bytes, lambda _: bar.advance(1))


def choose(
    meter: SensitivityMeter,
    tensors: Sequence[FileTensor],
    stock: Mapping[str, Mapping[str, Type]],
    importance: Mapping[str, np.ndarray],
    max_bytes: int,
    on_step: OnStep,
) -> Choice:
    """Return the best types for the matrices among `tensors` within `max_bytes` for all of them.

    `stock` are llama.cpp's mixtures by name, as types by tensor name. `on_step` is told each tensor
    and mixture as it was measured. Raises DataError if even the smallest types do not fit.
    """
    matrices = [t for t in tensors if t.is_matrix]
    room = max_bytes - bytes_of([t for t in tensors if not t.is_matrix], {})
    options = {}
    for tensor in matrices:
        options[tensor.name] = _options(meter, tensor, importance.get(tensor.name))
        on_step(tensor.name)
    choices = {BY_TENSOR: fill(options, room)}
    for name, types in stock.items():
        if bytes_of(matrices, types) <= room:
            choices[name] = dict(types)
    nats = {}
    for name, types in choices.items():
        with rounded(meter.model, matrices, types, importance):
            nats[name] = meter.nats()
        on_step(name)
    best = min(nats, key=lambda name: nats[name])
    return Choice(best, choices[best], nats)


def fill(options: Mapping[str, Sequence[Option]], max_bytes: int) -> dict[str, Type]:
    """Return the type of each tensor.

    The smallest at first, then the steps with the most nats saved for a byte that still fit. Raises
    DataError if even the smallest do not fit.
    """
    hulls = {name: _hull(of_tensor) for name, of_tensor in options.items()}
    taken = dict.fromkeys(hulls, 0)
    room = max_bytes - sum(hull[0].bytes for hull in hulls.values())
    if room < 0:
        raise DataError(
            f"quantize.budget_mb: the smallest types take {(max_bytes - room) / 1e6:.2f} MB, "
            f"vocabulary and vectors leave room for {max_bytes / 1e6:.2f} MB: "
            "raise it, or take a smaller student"
        )
    while steps := _steps(hulls, taken, room):
        _, name = max(steps)
        smaller, larger = hulls[name][taken[name] :][:2]
        room -= larger.bytes - smaller.bytes
        taken[name] += 1
    return {name: hull[taken[name]].type for name, hull in hulls.items()}


def _steps(
    hulls: Mapping[str, Sequence[Option]], taken: Mapping[str, int], room: int
) -> list[tuple[float, str]]:
    """Return (nats saved for a byte, tensor) of each step to the next larger type that fits."""
    steps = []
    for name, hull in hulls.items():
        if taken[name] + 1 == len(hull):
            continue
        smaller, larger = hull[taken[name] :][:2]
        if larger.bytes - smaller.bytes <= room:
            steps.append((_slope(smaller, larger), name))
    return steps


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the lower convex hull of (bytes, nats).

    Every type on it saves less for a byte than the one before.
    """
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.nats)):
        if hull and option.nats >= hull[-1].nats:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(smaller: Option, larger: Option) -> float:
    """Return the nats saved for a byte."""
    return (smaller.nats - larger.nats) / (larger.bytes - smaller.bytes)


def _options(
    meter: SensitivityMeter, tensor: FileTensor, importance_C: np.ndarray | None
) -> list[Option]:
    """Return the tensor at each type that fits its rows; only the probe type is measured."""
    parameter = meter.model.get_parameter(tensor.source)
    values_RC = parameter.data.float().cpu().numpy()
    num_columns = tensor.shape[-1]
    weights_C = np.ones(num_columns, np.float32) if importance_C is None else importance_C
    probe = next(t for t in PROBES if fits(t, num_columns))
    errors: dict[Type, float] = {}
    nats = 0.0
    for kind in (t for t in CANDIDATES if fits(t, num_columns)):
        rounded_RC = as_stored(values_RC, kind, importance_C, tensor.columns)
        squares_C = ((rounded_RC - values_RC) ** 2).sum(0, dtype=np.float64)
        errors[kind] = float((squares_C * weights_C).sum())
        if kind == probe:
            with _replaced(parameter, rounded_RC):
                nats = meter.nats()
    scale = nats / max(errors[probe], 1e-30)
    return [
        Option(kind, bytes_of([tensor], {tensor.name: kind}), scale * error)
        for kind, error in errors.items()
    ]


def fits(kind: Type, num_columns: int) -> bool:
    """Return whether rows of this length can be cut into the type's blocks."""
    return num_columns % gguf.GGML_QUANT_SIZES[kind][0] == 0


@contextmanager
def rounded(
    model: Any,
    tensors: Sequence[FileTensor],
    types: Mapping[str, Type],
    importance: Mapping[str, np.ndarray],
) -> Iterator[None]:
    """Give the model these tensors as a file would hold them, within the block."""
    unrounded = []
    try:
        for tensor in tensors:
            parameter = model.get_parameter(tensor.source)
            unrounded.append((parameter, parameter.data))
            values = as_stored(
                parameter.data.float().cpu().numpy(),
                types[tensor.name],
                importance.get(tensor.name),
                tensor.columns,
            )
            parameter.data = torch.from_numpy(values).to(parameter.data)
        yield
    finally:
        for parameter, data in unrounded:
            parameter.data = data


@contextmanager
def _replaced(parameter: Any, values_RC: np.ndarray) -> Iterator[None]:
    unrounded = parameter.data
    parameter.data = torch.from_numpy(values_RC).to(unrounded)
    try:
        yield
    finally:
        parameter.data = unrounded


def bytes_of(tensors: Sequence[FileTensor], types: Mapping[str, Type]) -> int:
    """Return what these tensors take in a file, the filler after each among it.

    Those that are not in `types` (vectors) are in float32.
    """
    total = 0
    for tensor in tensors:
        *rows, columns = tensor.shape
        num_bytes = prod(rows) * ggml.row_bytes(types.get(tensor.name, Type.F32), columns)
        total += -(-num_bytes // ALIGNMENT) * ALIGNMENT
    return total
