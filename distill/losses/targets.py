"""What the teacher predicts at N positions, in one of four forms; `linear_head_loss` takes any.

Ids are those that teacher and student share, 0 .. vocab_size-1. Probabilities are at the loss
temperature: a signal keeps the temperature at which it was captured. Tensors of floats are float32,
or float64 where everything is.

N: positions, K: ids kept for a position, V: shared ids, H: the teacher's hidden width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.losses.head import Head, softcapped


@dataclass(frozen=True, eq=False)
class DrawLogProbs:
    """The teacher's log-probabilities at the ids that were drawn.

    logp_NK: beside each id; what stands beside a -1 is not read. target_logp_N: of the answer's own
    token, whether it was drawn or not. tail_logp_N: log of the mass of all other ids.
    """

    logp_NK: Tensor
    target_logp_N: Tensor
    tail_logp_N: Tensor

    def __getitem__(self, part: slice) -> "DrawLogProbs":
        return DrawLogProbs(self.logp_NK[part], self.target_logp_N[part], self.tail_logp_N[part])

    def to(self, device: torch.device | str) -> "DrawLogProbs":
        return DrawLogProbs(
            self.logp_NK.to(device), self.target_logp_N.to(device), self.tail_logp_N.to(device)
        )


@dataclass(frozen=True, eq=False)
class SampledTargets:
    """Random-sampling KD (arXiv 2503.16870): ids drawn from the teacher's distribution.

    ids_NK: int64; -1 fills a row that has fewer than K ids.
    weights_NK: share of each id in the draws, counts / n; a row sums to 1. What stands beside a -1
        is not read.
    entropy_N: the teacher's entropy in nats, or None. It turns the reported cross-entropy into an
        estimate of the KL divergence; the gradient is the same.
    log_probs: of the ids, or None. Without them only the forward KL can be learnt.
    """

    ids_NK: Tensor
    weights_NK: Tensor
    entropy_N: Tensor | None = None
    log_probs: DrawLogProbs | None = None

    def __post_init__(self) -> None:
        _check_ids(self.ids_NK)
        _check_shape("weights_NK", self.weights_NK, self.ids_NK.shape)
        if self.entropy_N is not None:
            _check_shape("entropy_N", self.entropy_N, self.ids_NK.shape[:1])
        if self.log_probs is not None:
            _check_shape("logp_NK", self.log_probs.logp_NK, self.ids_NK.shape)
            for name in ("target_logp_N", "tail_logp_N"):
                _check_shape(name, getattr(self.log_probs, name), self.ids_NK.shape[:1])

    def __len__(self) -> int:
        return len(self.ids_NK)

    def __getitem__(self, part: slice) -> "SampledTargets":
        entropy_N = None if self.entropy_N is None else self.entropy_N[part]
        log_probs = None if self.log_probs is None else self.log_probs[part]
        return SampledTargets(self.ids_NK[part], self.weights_NK[part], entropy_N, log_probs)

    def to(self, device: torch.device | str) -> "SampledTargets":
        entropy_N = None if self.entropy_N is None else self.entropy_N.to(device)
        log_probs = None if self.log_probs is None else self.log_probs.to(device)
        return SampledTargets(
            self.ids_NK.to(device), self.weights_NK.to(device), entropy_N, log_probs
        )

    def support(self, labels_N: Tensor) -> "TopKTargets":
        """Return the ids drawn and the answer's own token, with all others in one bucket.

        labels_N: the answer's tokens. Needs `log_probs`; those of a row are made to sum to 1, which
        they do up to the rounding that they were stored with.
        """
        assert self.log_probs is not None
        logp_NK = self.log_probs.logp_NK
        labels_N1 = labels_N[:, None]
        target_logp_N1 = self.log_probs.target_logp_N[:, None].to(logp_NK.dtype)
        is_drawn_N1 = (self.ids_NK == labels_N1).any(1, keepdim=True)
        # One that the teacher excludes stays in the bucket: alone it would cost the reverse KL all.
        is_left_out_N1 = is_drawn_N1 | (target_logp_N1 == -math.inf)
        ids_NC = torch.cat([self.ids_NK, labels_N1.masked_fill(is_left_out_N1, -1)], 1)
        known_NC = torch.cat([logp_NK, target_logp_N1], 1).masked_fill(ids_NC < 0, -math.inf)
        tail_N1 = self.log_probs.tail_logp_N[:, None].to(logp_NK.dtype)
        logp_ND = torch.cat([known_NC, tail_N1], 1).log_softmax(-1)
        return TopKTargets(ids_NC, logp_ND[:, :-1], logp_ND[:, -1], is_likeliest=False)


@dataclass(frozen=True, eq=False)
class TopKTargets:
    """Some ids, the teacher's likeliest ones, and one bucket for the rest.

    ids_NK: int64, no id twice in a row; -1 fills a row that has fewer than K ids, from the end. A
        row of -1 alone, with tail_logp 0, says nothing: its loss and gradient are 0.
    logp_NK: their log-probabilities. What stands beside a -1 is not read.
    tail_logp_N: log of the mass outside the K ids; -inf if there is none.
    is_likeliest: no other id is likelier than one of these; not so where they were drawn.
    """

    ids_NK: Tensor
    logp_NK: Tensor
    tail_logp_N: Tensor
    is_likeliest: bool = True

    def __post_init__(self) -> None:
        _check_ids(self.ids_NK)
        _check_shape("logp_NK", self.logp_NK, self.ids_NK.shape)
        _check_shape("tail_logp_N", self.tail_logp_N, self.ids_NK.shape[:1])

    def __len__(self) -> int:
        return len(self.ids_NK)

    def __getitem__(self, part: slice) -> "TopKTargets":
        return TopKTargets(
            self.ids_NK[part], self.logp_NK[part], self.tail_logp_N[part], self.is_likeliest
        )

    def to(self, device: torch.device | str) -> "TopKTargets":
        return TopKTargets(
            self.ids_NK.to(device),
            self.logp_NK.to(device),
            self.tail_logp_N.to(device),
            self.is_likeliest,
        )


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """The whole distribution, for tests and small vocabularies.

    logp_NV: log-probabilities, renormalised over the V shared ids. May stay in host memory: the
        loss slices a chunk and moves only that.
    """

    logp_NV: Tensor

    def __post_init__(self) -> None:
        if self.logp_NV.dim() != 2:
            raise ValueError(
                f"logp_NV has shape {tuple(self.logp_NV.shape)}, expected [positions, ids]"
            )

    def __len__(self) -> int:
        return len(self.logp_NV)

    def __getitem__(self, part: slice) -> "DenseTargets":
        return DenseTargets(self.logp_NV[part])

    def to(self, device: torch.device | str) -> "DenseTargets":
        return DenseTargets(self.logp_NV.to(device))


@dataclass(frozen=True, eq=False)
class HeadTargets:
    """The whole distribution of another model, made from its hidden states a slice at a time.

    [N, V] is never held. head: the other model's, cut to the rows of the V shared ids.
    """

    hidden_NH: Tensor
    head: Head

    def __len__(self) -> int:
        return len(self.hidden_NH)

    def __getitem__(self, part: slice) -> DenseTargets:
        logits_nV = self.hidden_NH[part] @ self.head.weight.T
        if self.head.bias is not None:
            logits_nV = logits_nV + self.head.bias
        logits_nV = logits_nV.float() * self.head.scale
        return DenseTargets(softcapped(logits_nV, self.head.softcap).log_softmax(-1))


ChunkTargets = SampledTargets | TopKTargets | DenseTargets  # what a slice of Targets is
Targets = ChunkTargets | HeadTargets


def _check_ids(ids_NK: Tensor) -> None:
    if ids_NK.dim() != 2 or ids_NK.dtype != torch.int64 or ids_NK.shape[1] == 0:
        raise ValueError(
            f"ids_NK is {ids_NK.dtype} {tuple(ids_NK.shape)}, "
            "expected int64 [positions, at least one id]"
        )


def _check_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    # Checked because a wrong one would broadcast, in silence, to a wrong loss.
    if tensor.shape != shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)} as ids_NK has"
        )
