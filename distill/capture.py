"""capture: store what the teacher says about each answer token of the kept samples.

    capture/signals/<header>/*.shard     append-only shards, a file whole or absent; the folder's
                                         name is the header's hash
    capture/signals/<header>/split.json  where the student's tokenizer was trimmed: what that costs
                                         the teacher (teachers/split.py)
    capture/chunks.jsonl                 signal: chunks alone, which is of the teacher's own tokens:
                                         which of them the student's are (teachers/byte_chunks.py)

It takes one teacher-forced pass over the samples. By `capture.from_server: true` there is none: a
server gave the log-probs with its answers, and they are taken from there. By `scores` the pass is a
server's, which is sent the samples (teachers/server/scoring.py).

What an earlier or a killed run captured is never captured again (teachers/listening.py).

A student with a trimmed tokenizer learns tokens that are the teacher's own under other numbers. The
teacher is shown its ids of them, and what it says of others is told in those that the student writes
instead (signals/pieces.py).

Independent jobs (`--shard 1/4`) divide the sequences by their keys, in one run folder, or each in
its own: then copy their generate/raw/ and capture/signals/ into one, and the whole recipe asks
nothing again. (In folders of their own, on processors of several kinds, they may choose several
types for the teacher, which make several signals: say teacher.dtype there.) The processes of a job
share its batches.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import chat, teachers
from distill.chat.token_bytes import TokenBytes
from distill.core.digests import digest
from distill.core.jsonl import write_jsonl
from distill.core.leases import assigned_blocks
from distill.core.processes import Processes
from distill.core.results import CaptureResult, TeacherSignal
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Sample
from distill.data.stored_samples import Samples, read_samples
from distill.errors import DataError
from distill.planning.costs import (
    PROCESS_BYTES,
    Workload,
    in_turn,
    pass_bytes,
    signal_bytes_per_token,
)
from distill.planning.scoring import scoring_demand
from distill.recipe import Recipe
from distill.shaping.trimmed import (
    KEPT,
    TOLD,
    TrimmedVocabulary,
    kept_path,
    samples_stage,
    tells_pieces,
    trimmed_vocabulary,
)
from distill.signals.alignment import ALIGNMENT_FILE
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers import byte_chunks, split
from distill.teachers.base import SignalSequence, Teacher
from distill.teachers.fingerprint import teacher_identity, teacher_inputs
from distill.teachers.launch import check_teachers_processes
from distill.teachers.listening import (
    Listening,
    columns_of,
    folder_of_signal,
    header_of,
    listen,
    sequence_of,
)
from distill.teachers.routes import routes_of
from distill.teachers.signals import joined, require_one_width

if TYPE_CHECKING:
    from distill.signals.store import SignalStore

SPLIT = "split.json"


def run(
    recipe: Recipe, folder: RunFolder, processes: Processes, *, teacher: Teacher | None = None
) -> StageOutput | None:
    """Capture what is missing; `teacher`: the one to listen to, if not the recipe's.

    Of several teachers one is listened to after the other. Returns None on all processes but the
    first, and in a shard.
    """
    if recipe.capture.signal == "none":
        return StageOutput(CaptureResult("none"), [])
    of_own_tokens = recipe.capture.signal == "chunks"
    trimmed = None if of_own_tokens else trimmed_vocabulary(recipe, folder)
    samples = read_samples(kept_path(recipe, folder))
    if teacher is not None or recipe.teachers is None:
        teacher = teacher or teachers.connect_to_capture(recipe, folder, processes.local_rank)
        return _capture_all(teacher, trimmed, samples, folder, processes)
    return _of_several(recipe, trimmed, samples, folder, processes)


def _of_several(
    recipe: Recipe,
    trimmed: TrimmedVocabulary | None,
    samples: Samples,
    folder: RunFolder,
    processes: Processes,
) -> StageOutput | None:
    """Capture what each of several teachers says of its own samples; text alone is counted."""
    routes = routes_of(recipe)
    asked = [route.connect_to_capture(folder, processes.local_rank) for route in routes]
    require_one_width(routes, asked)
    outputs: dict[str, StageOutput | None] = {}
    told: list[TeacherSignal] = []
    for route, teacher in zip(routes, asked, strict=True):
        own = samples.where(sample.teacher == route.name for sample in samples)
        if route.gives_signal:
            outputs[route.name] = _capture_all(teacher, trimmed, own, folder, processes)
            continue
        num_tokens = sum(len(sample.answer_ids) for sample in own)
        told.append(TeacherSignal(route.name, len(own), num_tokens, why_text=route.why_text))
        if processes.is_main:
            print(
                f"capture: {route.name}: no signal of its {len(own):,} samples ({num_tokens:,} answer "
                f"tokens): {route.why_text}; the student learns their text, by cross-entropy"
            )
    finished = {name: output for name, output in outputs.items() if output is not None}
    if len(finished) < len(outputs) or not processes.is_main:
        return None
    return joined(recipe, finished, told)


def _capture_all(
    teacher: Teacher,
    trimmed: TrimmedVocabulary | None,
    samples: Sequence[Sample],
    folder: RunFolder,
    processes: Processes,
) -> StageOutput | None:
    """Capture what is missing of these samples, which one teacher answered."""
    from distill.signals.store import SignalStore

    recipe, stage = teacher.recipe, folder.stage("capture")
    own_tokens = None
    header = header_of(teacher, trimmed)
    if recipe.capture.signal == "chunks":
        sequences = byte_chunks.own_sequences(recipe, teacher, folder, samples)
        own_tokens = byte_chunks.teachers_bytes(teacher)
        columns = byte_chunks.own_columns(own_tokens)
    else:
        _check_ids(samples, header.vocab_size, recipe, folder)
        sequences = [sequence_of(sample, trimmed) for sample in samples]
        columns = columns_of(teacher, trimmed, folder)
    shards = folder_of_signal(stage / "signals", header)
    with teacher:
        if trimmed is not None:
            _measure_split(teacher, columns, sequences, folder, shards / SPLIT, processes)
        listening = Listening(teacher, header, columns, shards, stage / "leases", "capture")
        listen(listening, sequences, processes)
    processes.barrier()
    if not processes.is_main or processes.is_partial_job:
        return None
    store = SignalStore(shards, header)
    output = _summary(teacher, header, store, {s.key for s in sequences})
    if own_tokens is not None:
        output = _with_chunks(output, folder, teacher, own_tokens, store, sequences, samples)
    if num := output.result.num_unknown:
        print(
            f"capture: warning: of {num:,} of {output.result.num_tokens:,} tokens the server told "
            "nothing; they get no soft loss. llama.cpp leaves out the parts of a character: vLLM, "
            "teacher.gguf or the weights give them",
            file=sys.stderr,
        )
    return output


def _check_ids(
    samples: Sequence[Sample], vocab_size: int, recipe: Recipe, folder: RunFolder
) -> None:
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
    if not sequences or processes.job > 0:
        return
    with teacher.dividing(processes):
        if not processes.is_main:
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
    return split.SplitSample(chosen, [sequence_of(sample) for sample in samples], num_bytes)


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
        precision=teacher.type_told,
    )
    return StageOutput(result, [*store.paths, *([store.folder / SPLIT] if measured else [])])


def _with_chunks(
    output: StageOutput,
    folder: RunFolder,
    teacher: Teacher,
    own_tokens: TokenBytes,
    store: "SignalStore",
    sequences: list[SignalSequence],
    samples: Sequence[Sample],
) -> StageOutput:
    """Write which tokens of teacher and student are the same bytes; return the output with their counts."""
    trimmed = trimmed_vocabulary(teacher.recipe, folder)
    student = teacher.tokenizers.student if trimmed is None else trimmed.tokenizer
    counts = byte_chunks.ChunkCounts()
    rows = byte_chunks.aligned(
        sequences,
        samples,
        own_tokens,
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


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the signal."""
    values = teacher_identity(recipe) | {"capture": recipe.capture.identity()}
    if recipe.capture.scores_answers:
        names = {view.route: view.teacher.scoring_name for view in recipe.views}
        values["scored by"] = names
    if tells_pieces(recipe):
        values["removed tokens"] = TOLD
    return values


def cost(work: Workload) -> Cost:
    """Reckon one pass of each teacher over its samples, and the signal on disk."""
    return in_turn([_cost_of_turn(part) for part in work.turns])


def _cost_of_turn(work: Workload) -> Cost:
    """Return what one teacher's pass and signal take."""
    from distill.signals.hidden_states import bytes_per_token

    recipe, teacher = work.recipe, work.teacher
    answer_tokens = work.answer_tokens
    width = teacher.hidden if recipe.capture.hidden_states == "int8" else None
    trims = tells_pieces(recipe)
    vocabulary = work.student.vocabulary if trims else teacher.vocabulary
    stored = signal_bytes_per_token(recipe, vocabulary) + bytes_per_token(width)
    memory, seconds = PROCESS_BYTES, 0.0
    if work.captures:
        memory += work.bytes_on_a_gpu + work.joined_head_bytes
        memory += pass_bytes(teacher, recipe.teacher.batch_tokens, in_pieces=trims)
        seconds = work.pass_seconds(work.sample_tokens)
        if trims:  # both splits of a part of them, before
            seconds *= 1 + 2 * min(1.0, split.num_measured(answer_tokens) / answer_tokens)
    scoring = scoring_demand(work)
    download = work.teacher_download if work.on_server else 0.0
    seconds += scoring.seconds
    disk = answer_tokens * stored
    return Cost(memory, seconds, disk=disk, download=download, traffic=scoring.num_bytes)


STAGE = Stage(
    "capture",
    "store the teacher's distribution at each answer token",
    run,
    CaptureResult,
    section,
    teacher_inputs,
    reads=lambda recipe: sorted({"generate", samples_stage(recipe)}),
    cost=cost,
    check_launch=check_teachers_processes,
    shared=True,
    asks_teacher=True,
)
