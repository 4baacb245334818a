"""Small inputs of the losses: hidden states, a head, labels, and targets of every kind."""

import torch
from torch import Tensor

from distill.losses.targets import (
    DenseTargets,
    DrawLogProbs,
    SampledTargets,
    Targets,
    TopKTargets,
)

NUM_TOKENS, HIDDEN, VOCAB = 13, 6, 20
DIVERGENCES = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jsd", {"beta": 0.4}),
    ("jsd_normalised", {"beta": 0.02}),
    ("skew_kl", {"alpha": 0.1}),
    ("skew_reverse_kl", {"alpha": 0.1}),
    ("adaptive_kl", {"alpha": 0.5}),
    ("total_variation", {}),
]
CASES = [("sampled", "forward_kl", {})] + [
    (kind, *d) for kind in ("top_k", "dense", "scored") for d in DIVERGENCES
]
# Where student and teacher are equal these cost nothing, whatever was drawn; the others on average.
ZERO_CASES = [
    case
    for case in CASES
    if case[0] != "sampled" and not (case[0] == "scored" and case[1] in ("forward_kl", "skew_kl"))
]


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def teacher_logp(num_tokens: int = NUM_TOKENS, vocab: int = VOCAB, seed: int = 5) -> Tensor:
    return (2 * randn(seed, num_tokens, vocab)).log_softmax(-1)


def top_k(logp_NV: Tensor, k: int = 4) -> TopKTargets:
    top = logp_NV.topk(k)
    return TopKTargets(top.indices, top.values, torch.log1p(-top.values.exp().sum(-1)))


def sampled(logp_NV: Tensor, num_draws: int = 50, seed: int = 7) -> SampledTargets:
    """Counts of `num_draws` draws a row, ids in falling order of count, filled up with -1."""
    generator = torch.Generator().manual_seed(seed)
    draws_ND = torch.multinomial(logp_NV.exp(), num_draws, replacement=True, generator=generator)
    counts_NV = torch.zeros_like(logp_NV).scatter_add_(
        1, draws_ND, torch.ones_like(draws_ND, dtype=logp_NV.dtype)
    )
    counts_NK, ids_NK = counts_NV.topk(int((counts_NV > 0).sum(-1).max()))
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return SampledTargets(ids_NK.masked_fill(counts_NK == 0, -1), counts_NK / num_draws, entropy_N)


def scored(
    logp_NV: Tensor, labels_N: Tensor | None = None, num_draws: int = 6, seed: int = 7
) -> SampledTargets:
    """A few draws with their log-probs and that of the answer's own token (as `inputs` has it)."""
    labels_N = labels() if labels_N is None else labels_N
    drawn = sampled(logp_NV, num_draws, seed)
    return with_log_probs(drawn, logp_NV, labels_N)


def with_log_probs(drawn: SampledTargets, logp_NV: Tensor, labels_N: Tensor) -> SampledTargets:
    ids_NK, labels_N1 = drawn.ids_NK, labels_N[:, None]
    is_filler_NK = ids_NK < 0
    logp_NK = logp_NV.gather(1, ids_NK.clamp(min=0)).masked_fill(is_filler_NK, torch.nan)
    ids_NC = torch.cat([ids_NK, labels_N1], 1)
    known_NC = torch.where(ids_NC < 0, labels_N1, ids_NC)
    tail_N = logp_NV.scatter(1, known_NC, -torch.inf).logsumexp(-1)
    log_probs = DrawLogProbs(logp_NK, logp_NV.gather(1, labels_N1)[:, 0], tail_N)
    return SampledTargets(ids_NK, drawn.weights_NK, drawn.entropy_N, log_probs)


def targets_of(kind: str, logp_NV: Tensor, labels_N: Tensor | None = None) -> Targets:
    if kind == "scored":
        return scored(logp_NV, labels_N)
    return {"sampled": sampled, "top_k": top_k, "dense": DenseTargets}[kind](logp_NV)


def labels() -> Tensor:
    return torch.randint(VOCAB, (NUM_TOKENS,), generator=torch.Generator().manual_seed(3))


def inputs(dtype: torch.dtype = torch.float64, rows: int = VOCAB) -> tuple[Tensor, Tensor, Tensor]:
    labels_N = labels()
    hidden, weight = randn(1, NUM_TOKENS, HIDDEN, dtype=dtype), randn(2, rows, HIDDEN, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), labels_N
