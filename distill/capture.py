"""capture: store what the teacher says about each answer token of the kept samples.

    capture/signals/<header>/*.shard     append-only shards, a file whole or absent; the folder's
                                         name is the header's hash
    capture/signals/<header>/split.json  where the student's tokenizer was trimmed: what that costs
                                         the teacher (teachers/split.py)
    capture/chunks.jsonl                 signal: chunks alone, which is of the teacher's own tokens:
                                         which of them the student's are (teachers/byte_chunks.py)

It takes one teacher-forced pass over the samples. By `capture.from_server` there is none: a server
gave the log-probs with its answers, and they are taken from there.

A sequence is a key made of its token ids, so what an earlier or a killed run captured is never
captured again. Batches are cut from all samples of a job, so every sequence is computed in the same
batch.

A student with a trimmed tokenizer learns tokens that are the teacher's own under other numbers. The
teacher is shown its ids of them, and what it says of each is told in the student's.

Independent jobs (`--shard 1/4`) divide the sequences by their keys, in one run folder, or each in
its own: then copy their generate/raw/ and capture/signals/ into one, and the whole recipe asks
nothing again. The processes of a job share its batches.
"""

import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from distill import chat, teachers
from distill.core import shutdown
from distill.core.digests import canonical_json, digest
from distill.core.jsonl import write_jsonl
from distill.core.leases import assigned_blocks, static_share
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.core.results import CaptureResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Sample, read_samples
from distill.errors import DataError, MismatchError, RecipeError
from distill.models import find
from distill.models.batching import batches_by_length
from distill.planning.costs import PROCESS_BYTES, Workload, pass_bytes, signal_bytes_per_token
from distill.recipe import Recipe
from distill.recipe.rules import fewer_ids_problem
from distill.shaping.trimmed import (
    KEPT,
    TrimmedVocabulary,
    kept_path,
    samples_stage,
    trimmed_vocabulary,
)
from distill.signals.alignment import ALIGNMENT_FILE
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers import byte_chunks, split
from distill.teachers.base import Signals, SignalSequence, Teacher
from distill.teachers.fingerprint import teacher_fingerprint

if TYPE_CHECKING:
    from distill.signals.store import SignalStore, SignalWriter

Batch = list[SignalSequence]
Block = list[Batch]  # what is captured, and claimed, in one go

SPLIT = "split.json"


def run(
    recipe: Recipe, folder: RunFolder, processes: Processes, *, teacher: Teacher | None = None
) -> StageOutput | None:
    """Capture what is missing; `teacher`: the one to listen to, if not the recipe's.

    Returns None on all processes but the first, and in a shard.
    """
    from distill.signals.store import SignalStore

    stage = folder.stage("capture")
    if recipe.capture.signal == "none":
        return StageOutput(CaptureResult("none"), [])
    of_own_tokens = recipe.capture.signal == "chunks"
    trimmed = None if of_own_tokens else trimmed_vocabulary(recipe, folder)
    samples = read_samples(kept_path(recipe, folder))
    teacher = teacher or teachers.connect_to_capture(recipe, folder, processes.local_rank)
    header = header_of(teacher, trimmed)
    if of_own_tokens:
        sequences = byte_chunks.own_sequences(recipe, teacher, folder, samples)
        columns = byte_chunks.own_columns(teacher)
    else:
        _check_ids(samples, header.vocab_size, recipe, folder)
        sequences = [_sequence(sample, trimmed) for sample in samples]
        columns = _columns(teacher, trimmed, folder)
    shards = stage / "signals" / digest(canonical_json(header.to_json()))
    shards.mkdir(parents=True, exist_ok=True)
    with teacher:
        if trimmed is not None:
            _measure_split(teacher, columns, sequences, folder, shards / SPLIT, processes)
        _capture(teacher, header, columns, sequences, shards, stage / "leases", processes)
    processes.barrier()
    if not processes.is_main or processes.is_partial_job:
        return None
    store = SignalStore(shards, header)
    output = _summary(teacher, header, store, {s.key for s in sequences})
    if of_own_tokens:
        output = _with_chunks(output, recipe, folder, teacher, store, sequences, samples)
    if num := output.result.num_unknown:
        print(
            f"capture: warning: of {num:,} of {output.result.num_tokens:,} tokens the server told "
            "nothing; they get no soft loss. llama.cpp leaves out the parts of a character: vLLM, "
            "teacher.gguf or the weights give them",
            file=sys.stderr,
        )
    return output


def _columns(teacher: Teacher, trimmed: TrimmedVocabulary | None, folder: RunFolder) -> Columns:
    """Return which of the teacher's ids the student has.

    Raises MismatchError for ids that are not the teacher's.
    """
    num_ids = len(teacher.tokenizers.asked)
    if trimmed is None:
        return Columns(num_ids)
    if trimmed.parent_ids[-1] >= num_ids:
        raise MismatchError(
            f"{folder.stage('trim')}: the trimmed vocabulary has the teacher's id "
            f"{trimmed.parent_ids[-1]}, and the teacher's tokenizer has {num_ids:,} ids: run "
            "`distill run RECIPE --redo trim`"
        )
    return Columns(num_ids, trimmed.parent_ids)


def _sequence(sample: Sample, trimmed: TrimmedVocabulary | None = None) -> SignalSequence:
    """Return a sample as the teacher is shown it; `trimmed`: its ids are this one's."""
    from distill.signals.store import sequence_key

    key = sequence_key(sample.ids, len(sample.prompt_ids))
    teacher_ids = None if trimmed is None else trimmed.parents_of(sample.ids)
    return SignalSequence(key, sample.key, sample.prompt_ids, sample.answer_ids, teacher_ids)


def _check_ids(samples: list[Sample], vocab_size: int, recipe: Recipe, folder: RunFolder) -> None:
    """Raise DataError for a sample with token ids that its tokenizer does not have.

    Earlier versions took such from a server; now their rows in the log are set aside.
    """
    for sample in samples:
        largest = max(sample.ids, default=0)
        if largest >= vocab_size:
            stage = samples_stage(recipe)
            whose = "teacher's" if stage == "generate" else "trimmed"
            raise DataError(
                f"{kept_path(recipe, folder)}: the answer {sample.key} has token id {largest}, and "
                f"the {whose} tokenizer has {vocab_size:,} ids: run `distill run RECIPE --redo "
                f"{stage}`, which makes it again"
            )


def _measure_split(
    teacher: Teacher,
    columns: Columns,
    sequences: list[SignalSequence],
    folder: RunFolder,
    path: Path,
    processes: Processes,
) -> None:
    """Measure once what a trimmed tokenizer costs the teacher; the first process does it, and tells.

    Of several jobs the first one, or the one that claims it.
    """
    if not sequences or not processes.is_main or processes.job > 0:
        return
    sample = _split_sample(teacher, sequences, folder)
    with assigned_blocks(
        processes,
        path.parents[2] / "leases",
        {digest(SPLIT, path.parent.name, sample.digest()): sample},
        is_done=lambda block: split.read_split(path, block) is not None,
        refresh=lambda: None,
    ) as todo:
        for block in todo:
            teacher.load(max(block.longest, *(len(s.ids) for s in sequences)))
            split.write_split(path, split.measure(teacher, columns, block), block)
    if (measured := split.read_split(path, sample)) is not None:
        split.tell(measured)


def _split_sample(
    teacher: Teacher, sequences: list[SignalSequence], folder: RunFolder
) -> split.SplitSample:
    """Return some sequences, and the same samples in the teacher's own tokens."""
    chosen = split.sampled(sequences)
    path = folder.stage("generate") / KEPT
    own = {sample.key: sample for sample in read_samples(path)}
    if missing := [s.answer_key for s in chosen if s.answer_key not in own]:
        raise DataError(
            f"{path}: the answer {missing[0]} is not there, and it is among the trimmed samples: "
            "run `distill run RECIPE --redo trim`"
        )
    samples = [own[s.answer_key] for s in chosen]
    tokenizer = teacher.tokenizers.asked
    texts = [chat.text_of(tokenizer, sample.answer_ids) for sample in samples]
    num_bytes = sum(len(text.encode("utf-8")) for text in texts)
    return split.SplitSample(chosen, [_sequence(sample) for sample in samples], num_bytes)


def _capture(
    teacher: Teacher,
    header: SignalHeader,
    columns: Columns,
    sequences: list[SignalSequence],
    shards: Path,
    leases: Path,
    processes: Processes,
) -> None:
    """Capture the sequences of this process that are not on disk."""
    from distill.signals.store import SignalStore, SignalWriter

    captured = _on_disk(header, shards, processes)
    blocks = _blocks(teacher, sequences, processes)
    with assigned_blocks(
        processes,
        leases,
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
        label = f"capture ({teacher.signal_source})"
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
                said = teacher.signals(header, columns, block, captured)
                _write_block(said, block, captured, writer, bar)


def _write_block(
    said: Signals,
    block: Block,
    captured: set[str],
    writer: "SignalWriter",
    bar: Progress,
) -> None:
    """Write what is missing of a block; it is done when it is on disk."""
    for sequence, record, hidden_states in said:
        if sequence.key not in captured:
            writer.add(sequence.key, record, hidden_states)
            bar.advance(len(sequence.answer_ids))
        shutdown.check()
    writer.flush()
    captured.update(s.key for batch in block for s in batch)


def _on_disk(header: SignalHeader, shards: Path, processes: Processes) -> set[str]:
    """Return the keys of what is captured; a broken shard is set aside, and captured anew."""
    from distill.signals.store import SignalStore

    store = SignalStore(shards, header, skip_broken=True)
    captured = set(store.keys())
    processes.barrier()  # every rank has seen the same shards before anyone moves or adds one
    if processes.is_main:
        for path in store.broken:
            print(f"  capture: {path}: broken; set aside, its sequences are captured anew")
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
    if trimmed is not None:
        fingerprints["parent_ids"] = digest(canonical_json(list(trimmed.parent_ids)))
        if problem := fewer_ids_problem(options, vocab_size):
            raise RecipeError(f"{teacher.recipe.source}: {problem}")
    return SignalHeader(
        kind=options.signal,
        vocab_size=vocab_size,
        num_draws=options.num_draws if options.signal == "sampled" else None,
        top_k=min(options.top_k, vocab_size - 1) if options.signal == "top_k" else None,
        hidden_size=_hidden_size(teacher) if options.hidden_states == "int8" else None,
        fingerprints=fingerprints,
    )


def _hidden_size(teacher: Teacher) -> int:
    """Return the width of the teacher's hidden states.

    Where a config has parts it is that of its language model.
    """
    config = find.read_config(teacher.location, teacher.recipe.teacher.revision)
    return (config.get("text_config") or config)["hidden_size"]


def _summary(
    teacher: Teacher, header: SignalHeader, store: "SignalStore", keys: set[str]
) -> StageOutput:
    from distill.signals import from_server

    missing = keys - set(store.keys())
    if missing:
        raise DataError(
            f"{store.folder}: {len(missing)} of {len(keys)} sequences are gone while the others were "
            "captured: were files deleted there? Run the same command: they are captured anew"
        )
    num_unknown = 0
    if not teacher.tells_every_token:
        num_unknown = sum(from_server.num_unknown(store.read(key)) for key in sorted(keys))
    measured = split.read_split(store.folder / SPLIT)
    result = CaptureResult(
        signal=header.kind,
        num_sequences=len(store),
        num_tokens=store.num_tokens,
        num_bytes=store.num_bytes,
        bytes_per_token=round(store.num_bytes / max(store.num_tokens, 1), 2),
        vocab_size=header.vocab_size,
        hidden_size=header.hidden_size,
        folder=store.folder.name,
        num_unknown=num_unknown,
        removed_mass_mean=measured and measured.removed_mass_mean,
        removed_mass_p99=measured and measured.removed_mass_p99,
        split_loss=measured and measured.loss,
    )
    return StageOutput(result, [*store.paths, *([store.folder / SPLIT] if measured else [])])


def _with_chunks(
    output: StageOutput,
    recipe: Recipe,
    folder: RunFolder,
    teacher: Teacher,
    store: "SignalStore",
    sequences: list[SignalSequence],
    samples: list[Sample],
) -> StageOutput:
    """Write which tokens of teacher and student are the same bytes; return the output with their counts."""
    trimmed = trimmed_vocabulary(recipe, folder)
    student = teacher.tokenizers.student if trimmed is None else trimmed.tokenizer
    counts = byte_chunks.ChunkCounts()
    rows = byte_chunks.aligned(
        sequences,
        samples,
        byte_chunks.teachers_bytes(teacher),
        byte_chunks.students_bytes(student),
        store.read,
        counts,
    )
    path = folder.stage("capture") / ALIGNMENT_FILE
    write_jsonl(path, rows)
    if not counts.chunks:
        raise DataError(
            f"{path}: teacher and student have no piece of any answer in common: a tokenizer that "
            "changes the text? Learn from the text alone: capture.signal=none train.soft_weight=0 "
            "train.hard_weight=1"
        )
    result = replace(
        output.result,
        num_chunks=counts.chunks,
        num_split_digits=counts.split_digits,
        num_left_out=counts.left_out,
    )
    return StageOutput(result, [*output.files, path])


def fingerprint(recipe: Recipe) -> Fingerprint:
    teacher = teacher_fingerprint(recipe)
    section = teacher.section | {"capture": recipe.capture.identity()}
    return Fingerprint(section, teacher.inputs)


def cost(work: Workload) -> Cost:
    """Reckon one pass of the teacher over the samples, and the signal on disk."""
    from distill.signals.hidden_states import bytes_per_token

    recipe, teacher = work.recipe, work.teacher
    answer_tokens = work.num_samples * work.demand.answer
    width = teacher.hidden if recipe.capture.hidden_states == "int8" else None
    trims = recipe.student.vocabulary is not None and recipe.capture.signal != "chunks"
    vocabulary = work.student.vocabulary if trims else teacher.vocabulary
    stored = signal_bytes_per_token(recipe, vocabulary) + bytes_per_token(width)
    memory, seconds = PROCESS_BYTES, 0.0
    if work.captures:
        memory += work.teacher_bytes + pass_bytes(teacher, recipe.teacher.batch_tokens)
        seconds = work.sample_tokens * 2 * teacher.parameters / work.machine.flops
        if trims:  # both splits of a part of them, before
            seconds *= 1 + 2 * min(1.0, split.num_measured(answer_tokens) / answer_tokens)
    download = work.teacher_download if work.on_server else 0
    return Cost(memory, seconds, disk=answer_tokens * stored, download=download)


STAGE = Stage(
    "capture",
    "store the teacher's distribution at each answer token",
    run,
    CaptureResult,
    fingerprint,
    reads=lambda recipe: sorted({"generate", samples_stage(recipe)}),
    cost=cost,
    shared=True,
    asks_teacher=True,
)
