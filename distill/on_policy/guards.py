"""What tells that rounds go wrong: the figures of a round's answers, and which of them is red.

T: answer tokens of a sequence.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.core.intervals import wilson
from distill.core.results import RoundGuards, RoundValidation
from distill.models.sequences import TokenSequence
from distill.on_policy.own_answers import OwnAnswer
from distill.recipe.sections import Guards
from distill.signals.encoding import DenseRecord, SampledRecord, SignalRecord, TopKRecord

if TYPE_CHECKING:
    from distill.signals.stores import SignalStores

NUM_COMPARED = 256  # answers at which teacher and student are compared


def guards_of(answers: Sequence[OwnAnswer]) -> RoundGuards:
    """Return the figures that the answers alone tell."""
    num = len(answers)
    lengths = np.array([len(answer.drawn.answer_ids) for answer in answers])
    return RoundGuards(
        num_answers=num,
        num_tokens=int(lengths.sum()),
        cut=sum(a.is_cut for a in answers) / num,
        loops=sum(a.loops for a in answers) / num,
        empty=sum(a.is_empty for a in answers) / num,
        other_language=sum(a.other_language for a in answers) / num,
        mean_length=round(float(lengths.mean()), 2),
        p95_length=round(float(np.quantile(lengths, 0.95)), 1),
    )


def compared(answers: Sequence[OwnAnswer]) -> list[OwnAnswer]:
    """Return the answers at which teacher and student are compared: those with the smallest keys."""
    learnt = [answer for answer in answers if answer.sample is not None]
    return sorted(learnt, key=lambda answer: answer.drawn.key)[:NUM_COMPARED]


def with_teacher(
    guards: RoundGuards,
    answers: Sequence[OwnAnswer],
    store: "SignalStores",
    model: Any,
    tokenizer: Any,
    stop_ids: Sequence[int],
    batch_tokens: int,
) -> RoundGuards:
    """Return the figures with those of teacher and student at the tokens of some answers.

    `model`: the student that wrote them.
    """
    from distill.signals.store import sequence_key

    samples = [a.sample for a in answers if a.sample is not None]
    of_student = _student_at(model, tokenizer, samples, stop_ids, batch_tokens)
    logps, same, teachers_ends, students_ends = [], [], [], []
    for number, answer in enumerate(answers):
        sample = samples[number]
        record = store.read(sequence_key(sample.ids, len(sample.prompt_ids)))
        likeliest_T, end_mass = of_student[number]
        same.append(likeliest_of(record) == likeliest_T)
        logp_T = logp_of(record, sample.answer_ids)
        if logp_T is not None:
            logps.append(logp_T)
        if answer.ends and not answer.is_cut:
            teachers_ends.append(mass_at_end(record, stop_ids))
            students_ends.append(end_mass)
    return replace(
        guards,
        end_mass_of_teacher=_mean(teachers_ends),
        end_mass_of_student=_mean(students_ends),
        logp_of_teacher=_mean(np.concatenate(logps)) if logps else None,
        same_likeliest=_mean(np.concatenate(same)),
    )


def _mean(values: Any) -> float | None:
    return round(float(np.mean(values)), 5) if len(values) else None


def _student_at(
    model: Any, tokenizer: Any, samples: Sequence[Any], stop_ids: Sequence[int], batch_tokens: int
) -> list[tuple[np.ndarray, float]]:
    """Return for each sample (the student's likeliest tokens [T], its mass on ends at the last one)."""
    from distill.models.head import head_of
    from distill.models.score import score

    end_mass: dict[int, float] = {}
    ends = list(stop_ids)

    def note_end(index: int, part: slice, logp_NV: Any) -> None:
        if part.stop == len(samples[index].answer_ids):
            end_mass[index] = float(logp_NV[-1, ends].exp().sum())

    scores = score(
        model,
        head_of(model),
        [TokenSequence(s.ids, len(s.prompt_ids)) for s in samples],
        batch_tokens=batch_tokens,
        pad_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        on_chunk=note_end,
    )
    likeliest = {index: top_T.numpy() for index, _, top_T in scores}
    return [(likeliest[i], end_mass[i]) for i in range(len(samples))]


def likeliest_of(record: SignalRecord) -> np.ndarray:
    """Return the teacher's likeliest token at each position [T]; by draws the commonest one."""
    if isinstance(record, SampledRecord):
        starts = record.offsets[:-1]
        most_T = np.maximum.reduceat(record.counts, starts)
        position_U = np.repeat(np.arange(record.num_tokens), np.diff(record.offsets))
        is_most_U = record.counts == most_T[position_U]
        first_T = np.unique(position_U[is_most_U], return_index=True)[1]
        return record.ids[is_most_U][first_T]
    if isinstance(record, TopKRecord):
        return np.take_along_axis(record.ids, record.logp.argmax(1)[:, None], 1)[:, 0]
    return record.logp.argmax(1)


def logp_of(record: SignalRecord, answer_ids: Sequence[int]) -> np.ndarray | None:
    """Return the teacher's log-prob of each token of the answer [T].

    Of the likeliest ids alone a token beyond them has no log-prob: it counts as all of the others
    together, which is at least as much.
    """
    if isinstance(record, SampledRecord):
        return record.target_logp
    if isinstance(record, DenseRecord):
        return record.logp[np.arange(record.num_tokens), answer_ids]
    assert isinstance(record, TopKRecord), "rounds and chunks do not go together"
    is_it_TK = record.ids == np.asarray(answer_ids)[:, None]
    own_T = np.where(is_it_TK, record.logp, -np.inf).max(1)
    return np.where(is_it_TK.any(1), own_T, record.tail_logp)


def mass_at_end(record: SignalRecord, stop_ids: Sequence[int]) -> float:
    """Return the teacher's mass on all ends at the last position: they are one class."""
    if isinstance(record, SampledRecord):
        last = slice(record.offsets[-2], record.offsets[-1])
        is_end = np.isin(record.ids[last], list(stop_ids))
        return float(record.counts[last][is_end].sum() / record.counts[last].sum())
    if isinstance(record, TopKRecord):
        is_end = np.isin(record.ids[-1], list(stop_ids))
        return float(np.exp(record.logp[-1][is_end]).sum())
    return float(np.exp(record.logp[-1, list(stop_ids)]).sum())


def red_of_answers(guards: RoundGuards, first: RoundGuards, limits: Guards) -> str | None:
    """Return which figure of a round's answers is red, with its values, or None.

    `first`: the figures of round 1, whose answers are the trained student's.
    """
    shares = (
        ("cut answers", "cut", "max_cut"),
        ("answers that loop", "loops", "max_loops"),
        ("answers without text", "empty", "max_empty"),
        ("answers in another language", "other_language", "max_other_language"),
    )
    for what, name, limit in shares:
        share, before = getattr(guards, name), getattr(first, name)
        if red := _red_share(what, share, guards.num_answers, before, limits, limit):
            return red
    growth = guards.mean_length / max(first.mean_length, 1.0)
    if growth > limits.max_length_growth:
        return (
            f"answers of {guards.mean_length:.0f} tokens, before the rounds "
            f"{first.mean_length:.0f} (rounds.guards.max_length_growth "
            f"{limits.max_length_growth:g})"
        )
    return None


def red_of_validation(
    validation: RoundValidation, first: RoundValidation, limits: Guards
) -> str | None:
    """Return the same of a round's greedy answers to the validation prompts."""
    for what, name, limit in (
        ("cut validation answers", "cut", "max_cut"),
        ("validation answers that loop", "loops", "max_loops"),
    ):
        share, before = getattr(validation, name), getattr(first, name)
        if red := _red_share(what, share, validation.num_prompts, before, limits, limit):
            return red
    return None


def _red_share(
    what: str, share: float, num: int, before: float, limits: Guards, limit: str
) -> str | None:
    """Return that a share of `num` answers is red: few answers alone must not make it so.

    It is where even the low end of its 95 % interval has risen by more than the limit.
    """
    most = getattr(limits, limit)
    low, _ = wilson(round(share * num), num)
    if low - before <= most:
        return None
    return f"{share:.1%} {what}, before the rounds {before:.1%} (rounds.guards.{limit} {most:g})"
