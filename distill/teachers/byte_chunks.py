"""The signal of a teacher for a student of another tokenizer (`capture.signal: chunks`).

The teacher is listened to at its own tokens of an answer: what is stored is about those alone, and
serves every student. What one student can learn of it is the alignment of both tokenizers' tokens,
which `capture` finds anew, and stores beside the signal:

    capture/chunks.jsonl    a row a sample: its key, that of its signal, and its alignment
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from distill import chat
from distill.chat.byte_chunks import align
from distill.chat.token_bytes import TokenBytes
from distill.core.jsonl import Row, read_jsonl
from distill.core.run_folder import RunFolder
from distill.data.samples import Sample
from distill.errors import DataError
from distill.models import find
from distill.recipe import Recipe
from distill.signals.alignment import LEARNT, SPLIT_DIGITS, Alignment, joined
from distill.signals.columns import Columns
from distill.teachers.base import SignalSequence, Teacher
from distill.teachers.log import read_best_rows


@dataclass
class ChunkCounts:
    """What a student can learn from: chunks of it, and what it learns nothing from but the text.

    split_digits: chunks in which a number is split otherwise. left_out: tokens of the student's.
    """

    chunks: int = 0
    split_digits: int = 0
    left_out: int = 0


def own_columns(table: TokenBytes) -> Columns:
    """Return the teacher's ids, whose bytes `table` has, and which of them begin a word or end an
    answer."""
    return Columns(
        len(table.by_id), None, boundary_ids=table.boundary_ids, end_ids=sorted(table.stop_ids)
    )


def teachers_bytes(teacher: Teacher) -> TokenBytes:
    """Return the bytes of the teacher's tokens; nothing of it is loaded."""
    tokenizer = teacher.tokenizers.asked
    ids = find.stop_ids_of_files(teacher.location, teacher.recipe.teacher.revision)
    return TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, ids))


def students_bytes(tokenizer: Any) -> TokenBytes:
    return TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, None))


def own_sequences(
    recipe: Recipe, teacher: Teacher, folder: RunFolder, samples: Sequence[Sample]
) -> list[SignalSequence]:
    """Return each sample as the teacher read and wrote it, what the student learns of it alone.

    Raises DataError for a sample whose answer is not in the log.
    """
    from distill.signals.store import sequence_key

    log = teacher.logs.answers
    rows = read_best_rows(log)
    prompts = folder.stage("generate") / "prompts.jsonl"
    messages = {row["prompt_id"]: row["messages"] for _, row in read_jsonl(prompts)}
    sequences = []
    for sample in samples:
        if sample.key not in rows or sample.prompt_id not in messages:
            raise DataError(
                f"{log.folder}: the answer {sample.key} of kept.jsonl is not there, or its prompt is "
                f"not in {prompts}: run `distill run RECIPE --redo generate`"
            )
        asked = messages[sample.prompt_id]
        prompt_ids = teacher.tokenizers.prompt_ids(recipe, asked)
        answer_ids = chat.target_ids(
            recipe, teacher.tokenizers.asked, asked, prompt_ids, rows[sample.key]["token_ids"]
        )
        key = sequence_key(prompt_ids + answer_ids, len(prompt_ids))
        sequences.append(SignalSequence(key, sample.key, prompt_ids, answer_ids))
    return sequences


def aligned(
    sequences: Sequence[SignalSequence],
    samples: Sequence[Sample],
    teacher: TokenBytes,
    student: TokenBytes,
    read: Any,
    counts: ChunkCounts,
) -> Iterator[Row]:
    """Yield the rows of chunks.jsonl. `read`: returns the record of a signal's key."""
    for sequence, sample in zip(sequences, samples, strict=True):
        alignment = alignment_of(sequence.answer_ids, sample.answer_ids, teacher, student)
        record = read(sequence.key)
        closed = _closed(alignment, sequence.answer_ids, sample.answer_ids, teacher, student)
        alignment = joined(alignment, record.boundary_logp.tolist(), closed)
        add_counts(counts, alignment)
        yield {"key": sample.key, "signal": sequence.key, **alignment.row()}


def alignment_of(
    teachers_ids: Sequence[int],
    students_ids: Sequence[int],
    teacher: TokenBytes,
    student: TokenBytes,
) -> Alignment:
    """Return which tokens of two models' answers, their ends among them, are the same bytes."""
    own, own_ends = teacher.of_answer(teachers_ids)
    others, others_end = student.of_answer(students_ids)
    return align(own, others, (own_ends, others_end))


def _closed(
    alignment: Alignment,
    teachers_ids: Sequence[int],
    students_ids: Sequence[int],
    teacher: TokenBytes,
    student: TokenBytes,
) -> list[bool]:
    """Return of each segment whether no token goes on from its last ones, in both vocabularies."""
    stops, own_stops = accumulate(alignment.teacher), accumulate(alignment.student)
    return [
        teachers_ids[i - 1] in teacher.closed_ids and students_ids[j - 1] in student.closed_ids
        for i, j in zip(stops, own_stops, strict=True)
    ]


def add_counts(counts: ChunkCounts, alignment: Alignment) -> None:
    counts.chunks += sum(alignment.count(kind) for kind in LEARNT)
    counts.split_digits += alignment.count(SPLIT_DIGITS)
    counts.left_out += alignment.num_tokens_left_out


def token_sets(tokenizer: Any) -> Any:
    """Return which of the student's ids begin a word or end an answer, and which end one: bool [2, V]."""
    from distill.losses.byte_chunks import sets_of

    table = students_bytes(tokenizer)
    return sets_of(table.boundary_ids, sorted(table.stop_ids), len(tokenizer))
