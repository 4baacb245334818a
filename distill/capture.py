"""capture: one teacher-forced pass over the kept samples stores what the teacher said about each answer token.

    capture/signals/<header>/*.shard     append-only shards, a file whole or absent; the folder's name is the header's hash

By `capture.from_server` there is no pass: a server gave the log-probs with its answers, and they are taken from there.

A sequence is a key made of its token ids, so what an earlier or a killed run captured is never captured again. Batches
are cut from all samples of a job, so every sequence is computed in the same company.

Independent jobs (`--shard 1/4`) divide the sequences by their keys, in one run folder, or each in its own: then copy their
generate/raw/ and capture/signals/ into one, and the whole recipe asks nothing again. The processes of a job share its batches.
"""

import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from distill import chat
from distill.core import shutdown
from distill.core.digests import canonical_json, digest
from distill.core.jsonl import row_logs
from distill.core.leases import divided, share
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.core.results import CaptureResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Sample, read_samples
from distill.errors import DataError
from distill.models import find, load
from distill.models.batching import batches_by_length
from distill.models.head import Head, head_of
from distill.planning.costs import PROCESS_BYTES, Workload, pass_bytes, signal_bytes_per_token
from distill.recipe import Recipe
from distill.signals import from_server, hidden_states
from distill.signals.encoding import SignalRecord, regroup
from distill.signals.header import SignalHeader
from distill.signals.hidden_states import bytes_per_token
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.fingerprint import teacher_fingerprint
from distill.teachers.log import LOG_PROBS

SERVED = "server"  # in place of dtype and quantization, which a server does not tell


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput | None:
    stage = folder.stage("capture")
    if recipe.capture.signal == "none":
        return StageOutput(CaptureResult("none"), [])
    samples = read_samples(folder.stage("generate") / "kept.jsonl")
    location = recipe.model_location(recipe.teacher.model)
    tokenizer = load.load_tokenizer(
        location, recipe.teacher.revision, trust_remote_code=recipe.teacher.trust_remote_code
    )
    header = header_of(recipe, location, tokenizer)
    shards = stage / "signals" / digest(canonical_json(header.to_json()))
    shards.mkdir(parents=True, exist_ok=True)
    keys = [sequence_key(s.ids, len(s.prompt_ids)) for s in samples]
    store = SignalStore(shards, header, skip_broken=True)
    have = set(store.keys())
    processes.barrier()  # every rank has seen the same shards before anyone moves or adds one
    for path in store.broken if processes.is_main else ():
        print(f"  capture: {path}: broken; set aside, its sequences are captured anew")
        path.rename(path.with_suffix(".broken"))

    own = [i for i, key in enumerate(keys) if processes.is_mine(key)]
    batches = [
        [own[i] for i in batch]
        for batch in batches_by_length(
            [len(samples[i].ids) for i in own], recipe.teacher.batch_tokens
        )
    ]
    # what a server gave is only taken over: one block, because each reads the whole log
    block_tokens = sys.maxsize if recipe.capture.from_server else recipe.capture.shard_tokens
    blocks = _blocks(batches, [len(s.answer_ids) for s in samples], block_tokens, processes)
    named = {digest(*(keys[i] for batch in block for i in batch)): block for block in blocks}

    def is_done(block: Block) -> bool:
        return all(keys[i] in have for batch in block for i in batch)

    def look_again() -> None:
        have.update(SignalStore(shards, header, skip_broken=True).keys())

    with divided(processes, stage / "leases", named, is_done, look_again) as todo:
        if (first := next(todo, None)) is not None:
            way = (
                _take_over
                if recipe.capture.from_server
                else _capture_gguf
                if recipe.teacher.gguf
                else _capture
            )
            mine = [
                i
                for block in share(processes, blocks)
                for batch in block
                for i in batch
                if keys[i] not in have
            ]
            num_tokens = sum(len(samples[i].answer_ids) for i in mine)
            way(
                Capturing(
                    recipe,
                    location,
                    header,
                    shards,
                    samples,
                    keys,
                    have,
                    chain([first], todo),
                    num_tokens,
                    tokenizer,
                    processes,
                )
            )
    processes.barrier()
    if not processes.is_main or processes.is_part:
        return None
    output = _summary(header, SignalStore(shards, header), set(keys))
    if num := output.result.num_unknown:
        print(
            f"capture: warning: of {num:,} of {output.result.num_tokens:,} tokens the server told nothing; they get no soft loss. "
            "llama.cpp leaves out the parts of a character: vLLM, teacher.gguf or the weights give them",
            file=sys.stderr,
        )
    return output


Block = list[list[int]]  # batches of sequences, by number


def _blocks(
    batches: Block, num_tokens: Sequence[int], block_tokens: int, processes: Processes
) -> list[Block]:
    """What is captured, and claimed, in one go: a share, or batches of about `block_tokens` answer tokens."""
    if not processes.leases:
        return [batches[i :: processes.num] for i in range(processes.num)]
    found: list[Block] = []
    room = 0
    for batch in batches:
        if room <= 0:
            found.append([])
            room = block_tokens
        found[-1].append(batch)
        room -= sum(num_tokens[i] for i in batch)
    return found


@dataclass(frozen=True)
class Capturing:
    """Blocks to capture, as they are claimed; `have`, the keys of what is on disk, grows."""

    recipe: Recipe
    location: str
    header: SignalHeader
    shards: Path
    samples: list[Sample]
    keys: list[str]
    have: set[str]
    blocks: Iterator[Block]
    num_tokens: int
    tokenizer: Any
    processes: Processes

    @property
    def longest(self) -> int:
        return max(len(s.ids) for s in self.samples)

    def bar(self, where: str) -> Progress:
        return Progress(
            f"capture ({where})", self.num_tokens, "tokens", shown=self.processes.is_main
        )

    def writer(self) -> SignalWriter:
        name = f"share{self.processes.rank}"
        if self.processes.num_jobs > 1:  # its folder is merged with others'
            name = f"job{self.processes.job}of{self.processes.num_jobs}share{self.processes.rank}"
        if self.processes.leases:  # two may work in this folder at once
            name = re.sub(r"[^A-Za-z0-9_-]", "-", f"{socket.gethostname()}-{os.getpid()}")
        return SignalWriter(
            self.shards, self.header, writer=name, shard_tokens=self.recipe.capture.shard_tokens
        )

    def finish(self, block: Block, writer: SignalWriter) -> None:
        """A block is done when it is on disk."""
        writer.flush()
        self.have.update(self.keys[i] for batch in block for i in batch)


def header_of(recipe: Recipe, location: str, tokenizer: Any) -> SignalHeader:
    """What the signal is and whose: compared field by field before anyone trains on it."""
    options = recipe.capture
    if options.from_server:
        dtype = quantization = SERVED
    elif recipe.teacher.gguf:
        from distill.teachers import gguf_teacher

        dtype, quantization = "gguf", gguf_teacher.quantization(recipe)
    else:
        where = load.placement(
            recipe.teacher.device, recipe.teacher.dtype, recipe.teacher.quantization
        )
        dtype, quantization = where.dtype, where.quantization
    assert options.signal != "none"
    return SignalHeader(
        kind=options.signal,
        vocab_size=len(tokenizer),
        num_draws=options.num_draws if options.signal == "sampled" else None,
        top_k=min(options.top_k, len(tokenizer) - 1) if options.signal == "top_k" else None,
        hidden_size=_hidden_size(recipe, location) if options.hidden_states == "int8" else None,
        fingerprints={
            "teacher": load.teacher_identity(recipe),
            "teacher_dtype": dtype,
            "teacher_quantization": quantization,
            "tokenizer": chat.fingerprint_of_tokenizer(tokenizer),
            "chat_template": chat.fingerprint_of_template(tokenizer),
        },
    )


def _hidden_size(recipe: Recipe, location: str) -> int:
    """Width of the teacher's hidden states; where a config has parts, that of its language model."""
    config = find.read_config(location, recipe.teacher.revision)
    return config.get("text_config", config)["hidden_size"]


def _capture(work: Capturing) -> None:
    from distill.models.score import TokenSequence, answer_hidden_states

    recipe, samples, keys = work.recipe, work.samples, work.keys
    where = load.placement(recipe.teacher.device, recipe.teacher.dtype, recipe.teacher.quantization)
    model = load.load_model(
        work.location,
        where,
        revision=recipe.teacher.revision,
        trust_remote_code=recipe.teacher.trust_remote_code,
        local_rank=work.processes.local_rank,
    )
    head = head_of(model)
    with work.writer() as writer, work.bar(str(where)) as bar:
        for block in work.blocks:
            for batch in block:
                if all(keys[i] in work.have for i in batch):
                    continue
                sequences = [
                    TokenSequence(samples[i].ids, len(samples[i].prompt_ids)) for i in batch
                ]
                hidden = answer_hidden_states(model, sequences, work.tokenizer.pad_token_id)
                records = records_of(
                    work.header,
                    head,
                    hidden,
                    [samples[i].answer_ids for i in batch],
                    [keys[i] for i in batch],
                )
                for i, record, hidden_TH in zip(batch, records, hidden, strict=True):
                    if keys[i] not in work.have:
                        states = (
                            hidden_states.quantize(hidden_TH.float().cpu().numpy())
                            if work.header.hidden_size
                            else None
                        )
                        writer.add(keys[i], record, states)
                        bar.advance(len(samples[i].answer_ids))
                shutdown.check()
            work.finish(block, writer)


def _capture_gguf(work: Capturing) -> None:
    """The same from the recipe's GGUF file, a sequence after the other: none shares a batch, so none is computed again."""
    from distill.teachers import gguf_teacher

    samples, keys = work.samples, work.keys
    with (
        gguf_teacher.loaded(work.recipe, work.tokenizer, context_length=work.longest) as llama,
        work.writer() as writer,
        work.bar(f"llama.cpp, cpu, {work.header.fingerprints['teacher_quantization']}") as bar,
    ):
        for block in work.blocks:
            for i in (i for batch in block for i in batch if keys[i] not in work.have):
                chunks = gguf_teacher.logit_chunks(
                    llama, samples[i].ids, len(samples[i].prompt_ids)
                )
                writer.add(
                    keys[i],
                    next(
                        records_of_logits(work.header, chunks, [samples[i].answer_ids], [keys[i]])
                    ),
                    None,
                )
                bar.advance(len(samples[i].answer_ids))
                shutdown.check()
            work.finish(block, writer)


def _take_over(work: Capturing) -> None:
    """The log-probs that the server gave with the answers, from generate's log."""
    header, samples = work.header, work.samples
    assert header.top_k is not None
    log = work.shards.parents[2] / "generate" / "raw"
    with work.writer() as writer, work.bar("from the server's answers") as bar:
        for block in work.blocks:
            todo = [i for batch in block for i in batch if work.keys[i] not in work.have]
            wanted = {(samples[i].key, tuple(samples[i].answer_ids)): i for i in todo}
            for row in row_logs(log, []):
                i = (
                    wanted.pop((row["key"], tuple(row["token_ids"])), None)
                    if LOG_PROBS in row
                    else None
                )
                if i is None:
                    continue
                num_tokens = len(samples[i].answer_ids)
                writer.add(
                    work.keys[i],
                    from_server.unpacked(
                        row[LOG_PROBS], num_tokens, header.top_k, header.vocab_size
                    ),
                )
                bar.advance(num_tokens)
                shutdown.check()
            if wanted:
                raise DataError(
                    f"{log}: no log-probs with {len(wanted)} of {len(todo)} kept answers; run with --redo generate to ask for them"
                )
            work.finish(block, writer)


def records_of(
    header: SignalHeader,
    head: Head,
    hidden: Sequence[Any],
    answers: Sequence[Sequence[int]],
    keys: Sequence[str],
) -> Iterator[SignalRecord]:
    """What the teacher says at each answer token of a batch, a record a sequence, in order.

    hidden: [T, H] a sequence, what predicts its answer (token ids in `answers`). Logits are made in chunks that do not
    stop at the end of a sequence: short answers would leave a processor idle. Never more than 64 MiB of them at once.
    """
    import torch

    from distill.models.score import logit_chunks

    return records_of_logits(header, logit_chunks(head, torch.cat(list(hidden))), answers, keys)


def records_of_logits(
    header: SignalHeader,
    logit_chunks: Iterable[tuple[slice, Any]],
    answers: Sequence[Sequence[int]],
    keys: Sequence[str],
) -> Iterator[SignalRecord]:
    """The same from (slice of the answer tokens of all sequences, logits [N, V] that predict them)."""
    import torch

    from distill.signals import draws

    lengths = [len(a) for a in answers]
    labels_N = torch.tensor([token for a in answers for token in a], dtype=torch.long)
    rows = draws.Rows.join(
        [draws.Rows.of(draws.seed_of(k), n) for k, n in zip(keys, lengths, strict=True)]
    )

    def chunks() -> Iterator[SignalRecord]:
        for part, logits_NV in logit_chunks:
            if header.num_draws is not None:
                yield draws.draw(
                    logits_NV,
                    labels_N[part],
                    rows[part],
                    num_draws=header.num_draws,
                    vocab_size=header.vocab_size,
                )
            elif header.top_k is not None:
                yield draws.top_k(
                    logits_NV, rows[part], k=header.top_k, vocab_size=header.vocab_size
                )
            else:
                yield draws.dense(logits_NV, rows[part], vocab_size=header.vocab_size)

    return regroup(chunks(), lengths)


def _summary(header: SignalHeader, store: SignalStore, keys: set[str]) -> StageOutput:
    missing = keys - set(store.keys())
    assert not missing, f"{len(missing)} sequences were not captured"
    num_unknown = 0
    if header.fingerprints["teacher_dtype"] == SERVED:
        num_unknown = sum(from_server.num_unknown(store.read(key)) for key in sorted(keys))
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
    )
    return StageOutput(result, store.paths)


def fingerprint(recipe: Recipe) -> Fingerprint:
    teacher = teacher_fingerprint(recipe)
    section = teacher.section | {"capture": recipe.capture.identity()}
    return Fingerprint(section, teacher.inputs)


def cost(work: Workload) -> Cost:
    """Reckon one pass of the teacher over the samples, and the signal on disk."""
    recipe, teacher = work.recipe, work.teacher
    answer_tokens = work.num_samples * work.demand.answer
    width = teacher.hidden if recipe.capture.hidden_states == "int8" else None
    stored = signal_bytes_per_token(recipe, teacher.vocabulary) + bytes_per_token(width)
    memory, seconds = PROCESS_BYTES, 0.0
    if work.captures:
        memory += work.teacher_bytes + pass_bytes(teacher, recipe.teacher.batch_tokens)
        seconds = work.sample_tokens * 2 * teacher.parameters / work.machine.flops
    download = work.teacher_download if work.on_server else 0
    return Cost(memory, seconds, disk=answer_tokens * stored, download=download)


STAGE = Stage(
    "capture",
    "store the teacher's distribution at each answer token",
    run,
    CaptureResult,
    fingerprint,
    reads=("generate",),
    cost=cost,
    shared=True,
    asks_teacher=True,
)
