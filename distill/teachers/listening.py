"""Listen to a teacher: store what it says at each answer token of some sequences.

A sequence is a key made of its token ids, so what is on disk is never captured again. Batches are cut
from all sequences of a job, so every sequence is computed in the same batch, whatever a killed run
had done. The processes of a job share its batches; independent jobs divide the sequences by their
keys, or claim blocks of them (core/leases.py).
"""

import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from distill import chat
from distill.core import shutdown
from distill.core.digests import canonical_json, digest
from distill.core.leases import assigned_blocks, static_share
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.data.samples import Sample
from distill.errors import MismatchError, RecipeError
from distill.models import find
from distill.models.batching import batches_by_length
from distill.recipe.rules import fewer_ids_problem
from distill.shaping.reencode import Reencoder
from distill.shaping.trimmed import TOLD, TrimmedVocabulary
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers.base import Signals, SignalSequence, Teacher

if TYPE_CHECKING:
    from distill.signals.store import SignalWriter

Batch = list[SignalSequence]
Block = list[Batch]  # what is captured, and claimed, in one go


@dataclass(frozen=True)
class Listening:
    """A teacher that is listened to, and where what it says is stored.

    `shards`: the folder of the signal, `leases`: where jobs claim blocks. `stage`: whose work it is,
    as it is shown.
    """

    teacher: Teacher
    header: SignalHeader
    columns: Columns
    shards: Path
    leases: Path
    stage: str


def listen(listening: Listening, sequences: list[SignalSequence], processes: Processes) -> None:
    """Capture the sequences of this process that are not on disk."""
    captured = _on_disk(listening, processes)
    with listening.teacher.dividing(processes) as sharing:
        if sharing is not None:
            _listen_to_share(listening, sequences, sharing, captured)


def _listen_to_share(
    listening: Listening,
    sequences: list[SignalSequence],
    processes: Processes,
    captured: set[str],
) -> None:
    """Capture what is this process's and not `captured`."""
    from distill.signals.store import SignalStore, SignalWriter

    teacher, header, shards = listening.teacher, listening.header, listening.shards
    blocks = _blocks(teacher, sequences, processes)
    with assigned_blocks(
        processes,
        listening.leases,
        {digest(*(s.key for batch in block for s in batch)): block for block in blocks},
        is_done=lambda block: all(s.key in captured for batch in block for s in batch),
        refresh=lambda: captured.update(SignalStore(shards, header, skip_broken=True).keys()),
    ) as todo:
        first = next(todo, None)
        if first is None:
            return
        mine = static_share(processes, blocks)
        missing = (s for block in mine for batch in block for s in batch if s.key not in captured)
        num_tokens = sum(len(s.answer_ids) for s in missing)
        teacher.load(max(len(s.ids) for s in sequences))
        label = f"{listening.stage} ({teacher.signal_source})"
        with (
            SignalWriter(
                shards,
                header,
                writer=_writer_name(processes),
                shard_tokens=teacher.recipe.capture.shard_tokens,
            ) as writer,
            Progress(label, num_tokens, "tokens", shown=processes.is_main) as bar,
        ):
            for block in chain([first], todo):
                said = teacher.signals(header, listening.columns, block, captured)
                _write_block(said, block, captured, writer, bar, checks=not teacher.stops_by_itself)


def _write_block(
    said: Signals,
    block: Block,
    captured: set[str],
    writer: "SignalWriter",
    bar: Progress,
    *,
    checks: bool,
) -> None:
    """Write what is missing of a block; it is done when it is on disk.

    `checks`: a stop signal ends it between two sequences.
    """
    for sequence, record, hidden_states in said:
        if sequence.key not in captured:
            writer.add(sequence.key, record, hidden_states)
            bar.advance(len(sequence.answer_ids))
        if checks:
            shutdown.check()
    writer.flush()
    captured.update(s.key for batch in block for s in batch)


def _on_disk(listening: Listening, processes: Processes) -> set[str]:
    """Return the keys of what is captured; a broken shard is set aside, and captured anew."""
    from distill.signals.store import SignalStore

    store = SignalStore(listening.shards, listening.header, skip_broken=True)
    captured = set(store.keys())
    processes.barrier()  # every rank has seen the same shards before anyone moves or adds one
    if processes.is_main:
        for path in store.broken:
            print(
                f"  {listening.stage}: {path}: broken; set aside, its sequences are captured anew"
            )
            path.rename(path.with_suffix(".broken"))
    return captured


def _blocks(
    teacher: Teacher, sequences: Sequence[SignalSequence], processes: Processes
) -> list[Block]:
    """Return what is captured, and claimed, in one go: a share, or some batches."""
    of_job = [s for s in sequences if processes.is_mine(s.key)]
    lengths = [len(s.ids) for s in of_job]
    batches = [
        [of_job[i] for i in batch]
        for batch in batches_by_length(lengths, teacher.recipe.teacher.batch_tokens)
    ]
    if not processes.leases:
        return [batches[i :: processes.num] for i in range(processes.num)]
    return list(_claims(batches, teacher.tokens_a_block))


def _claims(batches: list[Batch], block_tokens: int) -> Iterator[Block]:
    """Yield blocks of about so many answer tokens."""
    block: Block = []
    room = block_tokens
    for batch in batches:
        if room <= 0:
            yield block
            block, room = [], block_tokens
        block.append(batch)
        room -= sum(len(s.answer_ids) for s in batch)
    if block:
        yield block


def _writer_name(processes: Processes) -> str:
    """Return a name for this process's shards that no other writer of the folder has."""
    if processes.leases:  # two may work in this folder at once
        return re.sub(r"[^A-Za-z0-9_-]", "-", f"{socket.gethostname()}-{os.getpid()}")
    if processes.num_jobs > 1:  # its folder is merged with others'
        return f"job{processes.job}of{processes.num_jobs}share{processes.rank}"
    return f"share{processes.rank}"


def columns_of(teacher: Teacher, trimmed: TrimmedVocabulary | None, folder: RunFolder) -> Columns:
    """Return what the teacher's logits are of, and what of it the student has.

    Raises MismatchError for ids that are not the teacher's.
    """
    from distill.signals.pieces import Pieces  # which reads numpy

    num_ids = len(teacher.tokenizers.asked)
    if trimmed is None:
        return Columns(num_ids)
    if trimmed.parent_ids[-1] >= num_ids:
        raise MismatchError(
            f"{folder.stage('trim')}: the trimmed vocabulary has the teacher's id "
            f"{trimmed.parent_ids[-1]}, and the teacher's tokenizer has {num_ids:,} ids: run "
            "`distill run RECIPE --redo trim`"
        )
    pieces = Reencoder.of(teacher.tokenizers.asked, trimmed).pieces_of_removed()
    return Columns(num_ids, Pieces(trimmed.parent_ids, pieces, num_ids))


def sequence_of(sample: Sample, trimmed: TrimmedVocabulary | None = None) -> SignalSequence:
    """Return a sample as the teacher is shown it; `trimmed`: its ids are this one's."""
    from distill.signals.store import sequence_key

    key = sequence_key(sample.ids, len(sample.prompt_ids))
    teacher_ids = None if trimmed is None else trimmed.parents_of(sample.ids)
    return SignalSequence(key, sample.key, sample.prompt_ids, sample.answer_ids, teacher_ids)


def folder_of_signal(signals: Path, header: SignalHeader) -> Path:
    """Return the folder of the signal with this header, which names it; it is made."""
    shards = signals / digest(canonical_json(header.to_json()))
    shards.mkdir(parents=True, exist_ok=True)
    return shards


def header_of(teacher: Teacher, trimmed: TrimmedVocabulary | None = None) -> SignalHeader:
    """Return what the signal is and whose: compared field by field before anyone trains on it.

    `trimmed`: what the student has of the teacher's tokenizer. Raises RecipeError where that is too
    little for the signal.
    """
    options = teacher.recipe.capture
    tokenizer = teacher.tokenizers.asked if trimmed is None else trimmed.tokenizer
    dtype, quantization = teacher.precision()
    assert options.signal != "none"
    vocab_size = len(tokenizer)
    fingerprints = {
        "teacher": teacher.identity,
        "teacher_dtype": dtype,
        "teacher_quantization": quantization,
        "tokenizer": chat.fingerprint_of_tokenizer(tokenizer),
        "chat_template": chat.fingerprint_of_template(tokenizer),
    }
    if options.scores_answers and teacher.recipe.teacher.scoring_name is not None:
        fingerprints["server_model"] = teacher.recipe.teacher.scoring_name
    if trimmed is not None:
        fingerprints["parent_ids"] = digest(canonical_json(list(trimmed.parent_ids)))
        fingerprints["removed_tokens"] = TOLD
        if problem := fewer_ids_problem(options, vocab_size):
            raise RecipeError(f"{teacher.recipe.source}: {problem}")
    return SignalHeader(
        kind=options.signal,
        vocab_size=vocab_size,
        num_draws=options.num_draws if options.signal == "sampled" else None,
        top_k=min(options.top_k, vocab_size - 1) if options.signal == "top_k" else None,
        hidden_size=hidden_size_of(teacher) if options.hidden_states == "int8" else None,
        fingerprints=fingerprints,
        draw_log_probs=options.draw_log_probs,
    )


def hidden_size_of(teacher: Teacher) -> int:
    """Return the width of the teacher's hidden states.

    Where a config has parts it is that of its language model.
    """
    config = find.read_config(teacher.location, teacher.recipe.teacher.revision)
    return (config.get("text_config") or config)["hidden_size"]
