"""How far a quantized file is from the 16-bit student, on samples that neither was trained on.

NLL of the answers and its change, in nats a token; the largest difference of a token's log-prob; the share of positions
with the same likeliest token; and KL(student || file), exact over the whole vocabulary. For that the student's
distributions lie on disk meanwhile, in at most 512 MiB of float32: at every position, or at as many as fit, taken evenly
over all answers (883 at 151,936 ids). The figures say at how many, and how uncertain the mean over them is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.samples import Sample
from distill.llama_cpp.model import Given
from distill.llama_cpp.process import LlamaProcess
from distill.models.head import head_of

GIVEN_VALUES = 128 << 20  # float32 numbers on disk
# Two files of the same weights may differ so much in a log-prob (llama.cpp rounds activations, too): what is nearer than both
# together is a tie, which either may win.
SAME_WEIGHTS = 0.02
TIE = 2 * SAME_WEIGHTS


@dataclass(frozen=True)
class Reference:
    """What the 16-bit student says on the check samples; its distributions lie in `path`, one for every `every`-th token.

    `lead`: by how much the likeliest token's log-prob is above the second's, at each token.
    """

    samples: list[Sample]
    logp: list[np.ndarray]
    top: list[np.ndarray]
    lead: list[np.ndarray]
    path: Path
    every: int

    @property
    def nll(self) -> float:
        return _nll(self.logp)

    def given(self) -> list[Given]:
        """Which of its distributions belong to which tokens of each sample."""
        found, before = [], 0
        for sample in self.samples:
            places = range(-before % self.every, len(sample.answer_ids), self.every)
            found.append(Given(self.path, -(-before // self.every), places))
            before += len(sample.answer_ids)
        return found


def refer_to(
    model: Any, samples: Sequence[Sample], tokenizer: Any, batch_tokens: int, path: Path
) -> Reference:
    """The student's own figures on `samples`; writes `path` (.npy), which the caller removes after the last comparison."""
    num_tokens, vocab_size = sum(len(s.answer_ids) for s in samples), len(tokenizer)
    every = max(1, -(-num_tokens * vocab_size // GIVEN_VALUES))
    rows_RV = np.lib.format.open_memmap(
        path, "w+", np.float32, (-(-num_tokens // every), vocab_size)
    )
    lead = [np.empty(len(s.answer_ids), np.float32) for s in samples]
    reference = Reference(list(samples), [], [], lead, path, every)
    given = reference.given()

    def keep(index: int, row: int, logp_V: Any) -> None:
        rows_RV[given[index].first + row] = logp_V.numpy()

    def note(index: int, part: slice, logp_NV: Any) -> None:
        two_N2 = logp_NV.topk(2).values
        lead[index][part] = (two_N2[:, 0] - two_N2[:, 1]).cpu().numpy()

    logp, top = _score(model, reference, tokenizer, batch_tokens, keep, note)
    rows_RV.flush()
    reference.logp.extend(logp)
    reference.top.extend(top)
    return reference


def in_transformers(
    reference: Reference, model: Any, tokenizer: Any, batch_tokens: int
) -> dict[str, Any]:
    """The figures of a model that transformers runs."""
    rows_RV = np.load(reference.path, mmap_mode="r")
    given, kl = reference.given(), []

    def compare(index: int, row: int, logp_V: Any) -> None:
        given_V = rows_RV[given[index].first + row].astype(np.float64)
        kl.append(float((np.exp(given_V) * (given_V - logp_V.double().numpy())).sum()))

    logp, top = _score(model, reference, tokenizer, batch_tokens, compare)
    return _figures(reference, logp, top, kl)


def in_llama_cpp(reference: Reference, llama: LlamaProcess) -> dict[str, Any]:
    """The figures of the GGUF file that `llama` has loaded."""
    scored = llama.score([(s.ids, len(s.prompt_ids)) for s in reference.samples], reference.given())
    return _figures(
        reference,
        [s.logp_T for s in scored],
        [s.top_T for s in scored],
        [x for s in scored for x in s.kl_P],
    )


def _score(
    model: Any,
    reference: Reference,
    tokenizer: Any,
    batch_tokens: int,
    on_row: Callable[[int, int, Any], None],
    on_every: Callable[[int, slice, Any], None] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(log-probs of each answer's tokens, likeliest tokens there), in the samples' order; `on_row(sample, row of its given
    ones, log-probs [V])` sees the distributions that are compared, `on_every` all of them as `score` has them."""
    from distill.models.score import TokenSequence, score

    samples, given = reference.samples, reference.given()
    logp: list[Any] = [None] * len(samples)
    top: list[Any] = [None] * len(samples)

    def on_chunk(index: int, part: slice, logp_NV: Any) -> None:
        if on_every is not None:
            on_every(index, part, logp_NV)
        for row, place in enumerate(given[index].places):
            if part.start <= place < part.stop:
                on_row(index, row, logp_NV[place - part.start].float().cpu())

    for index, logp_T, top_T in score(
        model,
        head_of(model),
        [TokenSequence(s.ids, len(s.prompt_ids)) for s in samples],
        batch_tokens=batch_tokens,
        pad_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        on_chunk=on_chunk,
    ):
        logp[index], top[index] = logp_T.numpy(), top_T.numpy()
    return logp, top


def _figures(
    reference: Reference, logp: Sequence[Any], top: Sequence[Any], kl: Sequence[float]
) -> dict[str, Any]:
    nll = _nll(logp)
    same = np.concatenate([a == b for a, b in zip(reference.top, top, strict=True)])
    clear = np.concatenate(reference.lead) > TIE
    error = 1.96 * float(np.std(kl)) / len(kl) ** 0.5
    apart = max(float(abs(a - b).max()) for a, b in zip(reference.logp, logp, strict=True))
    return {
        "max_logp_difference": round(apart, 5),
        "nll": round(nll, 5),
        "student_nll": round(reference.nll, 5),
        "nll_change": round(nll - reference.nll, 5),
        "kl": round(float(np.maximum(0.0, np.mean(kl))), 6),
        "kl_error": round(error, 6),
        "num_kl_tokens": len(kl),
        "top_token_agreement": round(float(same.mean()), 5),
        "num_tokens": len(same),
        "top_token_agreement_without_ties": round(float(same[clear].mean()), 5)
        if clear.any()
        else 1.0,
    }


def _nll(logp: Sequence[Any]) -> float:
    return -float(sum(x.sum() for x in logp)) / sum(len(x) for x in logp)
