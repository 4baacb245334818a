"""Compare a quantized file with the 16-bit student, on samples that neither was trained on.

NLL of the answers and its change, in nats a token; the largest difference of a token's log-prob;
the share of positions with the same likeliest token; and KL(student || file), exact over the whole
vocabulary. For that the student's distributions lie on disk meanwhile, in at most 512 MiB of
float32: at every position, or at as many as fit, taken evenly over all answers (883 at 151,936
ids). The figures say at how many, and how uncertain the mean over them is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.results import Agreement, LanguageAgreement
from distill.data.samples import Sample
from distill.llama_cpp.process import LlamaProcess
from distill.llama_cpp.reference_rows import ReferenceRows, kl_divergence
from distill.models.head import head_of

REFERENCE_VALUES = 128 << 20  # float32 numbers on disk
# Two files of the same weights mostly differ less in a log-prob (llama.cpp rounds activations,
# too): what is nearer than both together is a tie, which either may win.
SAME_WEIGHTS = 0.02
TIE = 2 * SAME_WEIGHTS


@dataclass(frozen=True)
class Reference:
    """What the 16-bit student says on the check samples.

    `logp`, `top`: log-prob of each answer token, and the likeliest id there. `lead`: by how much
    the likeliest token's log-prob is above the second's. Distributions lie in `path`, one for every
    `every`-th token.
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

    @property
    def longest(self) -> int:
        """Return the tokens of the longest sample."""
        return max(len(sample.ids) for sample in self.samples)

    def rows(self) -> list[ReferenceRows]:
        """Return which of its distributions belong to which tokens of each sample."""
        rows, num_before = [], 0
        for sample in self.samples:
            positions = range(-num_before % self.every, len(sample.answer_ids), self.every)
            rows.append(ReferenceRows(self.path, -(-num_before // self.every), positions))
            num_before += len(sample.answer_ids)
        return rows


@dataclass(frozen=True)
class TransformersModel:
    """A model that transformers runs, with what scoring it takes."""

    model: Any
    tokenizer: Any
    batch_tokens: int


def refer_to(student: TransformersModel, samples: Sequence[Sample], path: Path) -> Reference:
    """Return the student's own figures on `samples`.

    Writes `path` (.npy), which the caller removes after the last comparison.
    """
    num_tokens = sum(len(s.answer_ids) for s in samples)
    vocab_size = len(student.tokenizer)
    every = max(1, -(-num_tokens * vocab_size // REFERENCE_VALUES))
    num_rows = -(-num_tokens // every)
    rows_RV = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, vocab_size))
    lead = [np.empty(len(s.answer_ids), np.float32) for s in samples]
    reference = Reference(list(samples), [], [], lead, path, every)
    rows = reference.rows()

    def keep(index: int, number: int, logp_V: Any) -> None:
        rows_RV[rows[index].first + number] = logp_V.numpy()

    def note_lead(index: int, part: slice, logp_NV: Any) -> None:
        two_N2 = logp_NV.topk(2).values
        lead[index][part] = (two_N2[:, 0] - two_N2[:, 1]).cpu().numpy()

    logp, top = _score(student, reference, keep, note_lead)
    rows_RV.flush()
    reference.logp.extend(logp)
    reference.top.extend(top)
    return reference


def in_transformers(reference: Reference, file: TransformersModel) -> Agreement:
    """Compare a model that transformers runs."""
    rows = reference.rows()
    kl, languages = [], []

    def compare(index: int, number: int, logp_V: Any) -> None:
        kl.append(kl_divergence(rows[index].row(number), logp_V.double().numpy()))
        languages.append(reference.samples[index].language)

    logp, top = _score(file, reference, compare)
    return _agreement(reference, logp, top, kl, languages)


def in_llama_cpp(reference: Reference, llama: LlamaProcess) -> Agreement:
    """Compare the GGUF file that `llama` has loaded."""
    sequences = [(s.ids, len(s.prompt_ids)) for s in reference.samples]
    scored = llama.score(sequences, reference.rows())
    pairs = list(zip(reference.samples, scored, strict=True))
    return _agreement(
        reference,
        [s.logp_T for s in scored],
        [s.top_T for s in scored],
        [kl for s in scored for kl in s.kl_P],
        [sample.language for sample, s in pairs for _ in s.kl_P],
    )


def _score(
    scored: TransformersModel,
    reference: Reference,
    on_row: Callable[[int, int, Any], None],
    on_every: Callable[[int, slice, Any], None] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return (log-probs of each answer's tokens, likeliest tokens there), in the samples' order.

    `on_row(sample, number of its reference row, log-probs [V])` sees the distributions that are
    compared, `on_every` all of them as `score` has them.
    """
    from distill.models.score import TokenSequence, score

    samples, rows = reference.samples, reference.rows()
    logp: list[Any] = [None] * len(samples)
    top: list[Any] = [None] * len(samples)

    def on_chunk(index: int, part: slice, logp_NV: Any) -> None:
        if on_every is not None:
            on_every(index, part, logp_NV)
        for number, position in enumerate(rows[index].positions):
            if part.start <= position < part.stop:
                on_row(index, number, logp_NV[position - part.start].float().cpu())

    for index, logp_T, top_T in score(
        scored.model,
        head_of(scored.model),
        [TokenSequence(s.ids, len(s.prompt_ids)) for s in samples],
        batch_tokens=scored.batch_tokens,
        pad_id=scored.tokenizer.pad_token_id,
        vocab_size=len(scored.tokenizer),
        on_chunk=on_chunk,
    ):
        logp[index], top[index] = logp_T.numpy(), top_T.numpy()
    return logp, top


def _agreement(
    reference: Reference,
    logp: Sequence[Any],
    top: Sequence[Any],
    kl: Sequence[float],
    languages: Sequence[str],
) -> Agreement:
    """Return the figures; `languages`: of each KL."""
    nll = _nll(logp)
    same = np.concatenate([a == b for a, b in zip(reference.top, top, strict=True)])
    is_clear = np.concatenate(reference.lead) > TIE
    same_where_clear = float(same[is_clear].mean()) if is_clear.any() else 1.0
    # numpy's maximum: Python's passes over what is no number
    largest = float(np.max([abs(a - b).max() for a, b in zip(reference.logp, logp, strict=True)]))
    return Agreement(
        max_logp_difference=round(largest, 5),
        nll=round(nll, 5),
        student_nll=round(reference.nll, 5),
        nll_change=round(nll - reference.nll, 5),
        kl=round(float(np.maximum(0.0, np.mean(kl))), 6),
        kl_error=round(1.96 * float(np.std(kl)) / len(kl) ** 0.5, 6),
        num_kl_tokens=len(kl),
        top_token_agreement=round(float(same.mean()), 5),
        num_tokens=len(same),
        top_token_agreement_without_ties=round(same_where_clear, 5),
        by_language=_by_language(reference, same, np.asarray(kl), np.asarray(languages)),
    )


def _by_language(
    reference: Reference, same_T: np.ndarray, kl_P: np.ndarray, languages_P: np.ndarray
) -> dict[str, LanguageAgreement]:
    """Return the agreement in each language of the samples."""
    samples = reference.samples
    languages_T = np.repeat([s.language for s in samples], [len(s.answer_ids) for s in samples])
    found = {}
    for language in dict.fromkeys(sample.language for sample in samples):
        same = same_T[languages_T == language]
        kl = kl_P[languages_P == language]
        mean = round(float(np.maximum(0.0, kl.mean())), 6) if len(kl) else None
        share = round(float(same.mean()), 5)
        found[language] = LanguageAgreement(share, len(same), mean, len(kl))
    return found


def _nll(logp: Sequence[Any]) -> float:
    return -float(sum(x.sum() for x in logp)) / sum(len(x) for x in logp)
