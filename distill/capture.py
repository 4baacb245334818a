"""capture: one teacher-forced pass over the kept samples stores what the teacher said about each answer token.

    capture/signals/<header>/*.shard     append-only shards, a file whole or absent; the folder's name is the header's hash

By `capture.from_server` there is no pass: a server gave the log-probs with its answers, and they are taken from there.

A sequence is a key made of its token ids, so what an earlier or a killed run captured is never captured again. Batches
are cut from all samples, so every sequence is computed in the same company.

Ranks share the batches, and so do independent jobs (`--shard 1/4`): in one run folder, or each in its own; then copy
their generate/raw/ and capture/signals/ into one, and the whole recipe asks nothing again.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from distill import interrupts
from distill.errors import DataError
from distill.models import load
from distill.models.by_length import batches_by_length
from distill.processes import Processes
from distill.progress import Progress
from distill.recipe import Recipe
from distill.rows import canonical_json, digest, row_logs
from distill.run_folder import RunFolder, StageOutput
from distill.signals import from_server, hidden_states
from distill.signals.encoding import SignalRecord, regroup
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.requests import LOG_PROBS
from distill.text import chat
from distill.text.samples import Sample, read_samples

SERVED = "server"  # in place of dtype and quantization, which a server does not tell


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput:
    stage = folder.stage("capture")
    if recipe.capture.signal == "none":
        return StageOutput({"signal": "none", "num_tokens": 0, "num_bytes": 0, "bytes_per_token": 0.0}, [])
    samples = read_samples(folder.stage("generate") / "kept.jsonl")
    location = recipe.model_location(recipe.teacher.model)
    tokenizer = load.load_tokenizer(location, recipe.teacher.revision, trust_remote_code=recipe.teacher.trust_remote_code)
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

    batches = batches_by_length([len(s.ids) for s in samples], recipe.teacher.batch_tokens)
    mine = [b for i, b in enumerate(batches) if i % processes.num_shares == processes.share]
    todo = [b for b in mine if any(keys[i] not in have for i in b)]
    if todo:
        way = _take_over if recipe.capture.from_server else _capture_gguf if recipe.teacher.gguf else _capture
        way(recipe, location, header, shards, samples, keys, have, todo, tokenizer, processes)
    processes.barrier()
    if not processes.is_main or processes.num_jobs > 1:
        return StageOutput({}, [])
    output = _summary(header, SignalStore(shards, header), set(keys))
    if num := output.result["num_unknown"]:
        print(
            f"capture: warning: of {num:,} of {output.result['num_tokens']:,} tokens the server told nothing; they get no soft loss. "
            "llama.cpp leaves out the parts of a character: vLLM, teacher.gguf or the weights give them", file=sys.stderr,
        )  # fmt: skip
    return output


def header_of(recipe: Recipe, location: str, tokenizer: Any) -> SignalHeader:
    """What the signal is and whose: compared field by field before anyone trains on it."""
    options = recipe.capture
    if options.from_server:
        dtype = quantization = SERVED
    elif recipe.teacher.gguf:
        from distill.export import gguf_teacher

        dtype, quantization = "gguf", gguf_teacher.quantization(recipe)
    else:
        where = load.placement(recipe.teacher.device, recipe.teacher.dtype, recipe.teacher.quantization)
        dtype, quantization = where.dtype, where.quantization
    assert options.signal != "none"
    return SignalHeader(
        kind=options.signal, vocab_size=len(tokenizer),
        num_draws=options.num_draws if options.signal == "sampled" else None,
        top_k=min(options.top_k, len(tokenizer) - 1) if options.signal == "top_k" else None,
        hidden_size=_hidden_size(recipe, location) if options.hidden_states == "int8" else None,
        fingerprints={
            "teacher": load.teacher_identity(recipe), "teacher_dtype": dtype, "teacher_quantization": quantization,
            "tokenizer": chat.fingerprint_of_tokenizer(tokenizer), "chat_template": chat.fingerprint_of_template(tokenizer),
        },
    )  # fmt: skip


def _hidden_size(recipe: Recipe, location: str) -> int:
    """Width of the teacher's hidden states; where a config has parts, that of its language model."""
    config = load.read_config(location, recipe.teacher.revision)
    return config.get("text_config", config)["hidden_size"]


def _capture(
    recipe: Recipe, location: str, header: SignalHeader, shards: Any, samples: list[Sample], keys: list[str],
    have: set[str], todo: list[list[int]], tokenizer: Any, processes: Processes,
) -> None:  # fmt: skip
    from distill.models.score import TokenSequence, answer_hidden_states

    where = load.placement(recipe.teacher.device, recipe.teacher.dtype, recipe.teacher.quantization)
    model = load.load_model(
        location, where, revision=recipe.teacher.revision, trust_remote_code=recipe.teacher.trust_remote_code,
        local_rank=processes.local_rank,
    )  # fmt: skip
    head = load.head_of(model)
    total = sum(len(samples[i].answer_ids) for b in todo for i in b)
    writer = SignalWriter(shards, header, writer=f"share{processes.share}", shard_tokens=recipe.capture.shard_tokens)
    with writer, Progress(f"capture ({where})", total, "tokens", shown=processes.is_main) as bar:
        for batch in todo:
            sequences = [TokenSequence(samples[i].ids, len(samples[i].prompt_ids)) for i in batch]
            hidden = answer_hidden_states(model, sequences, tokenizer.pad_token_id)
            records = records_of(header, head, hidden, [samples[i].answer_ids for i in batch], [keys[i] for i in batch])
            for i, record, hidden_TH in zip(batch, records, hidden, strict=True):
                if keys[i] not in have:
                    states = hidden_states.quantize(hidden_TH.float().cpu().numpy()) if header.hidden_size else None
                    writer.add(keys[i], record, states)
            bar.advance(sum(len(samples[i].answer_ids) for i in batch))
            interrupts.check()


def _capture_gguf(
    recipe: Recipe, location: str, header: SignalHeader, shards: Any, samples: list[Sample], keys: list[str],
    have: set[str], todo: list[list[int]], tokenizer: Any, processes: Processes,
) -> None:  # fmt: skip
    """The same from the recipe's GGUF file, a sequence after the other: none shares a batch, so none is computed again."""
    from distill.export import gguf_teacher

    mine = [i for batch in todo for i in batch if keys[i] not in have]
    longest = max(len(samples[i].ids) for i in mine)
    total = sum(len(samples[i].answer_ids) for i in mine)
    label = f"capture (llama.cpp, cpu, {header.fingerprints['teacher_quantization']})"
    writer = SignalWriter(shards, header, writer=f"share{processes.share}", shard_tokens=recipe.capture.shard_tokens)
    with (
        gguf_teacher.loaded(recipe, tokenizer, context_length=longest) as llama, writer,
        Progress(label, total, "tokens", shown=processes.is_main) as bar,
    ):  # fmt: skip
        for i in mine:
            chunks = gguf_teacher.logit_chunks(llama, samples[i].ids, len(samples[i].prompt_ids))
            writer.add(keys[i], next(records_of_logits(header, chunks, [samples[i].answer_ids], [keys[i]])), None)
            bar.advance(len(samples[i].answer_ids))
            interrupts.check()


def _take_over(
    recipe: Recipe, location: str, header: SignalHeader, shards: Any, samples: list[Sample], keys: list[str],
    have: set[str], todo: list[list[int]], tokenizer: Any, processes: Processes,
) -> None:  # fmt: skip
    """The log-probs that the server gave with the answers, from generate's log."""
    assert header.top_k is not None
    log = shards.parents[2] / "generate" / "raw"
    wanted = {(s.key, tuple(s.answer_ids)): i for batch in todo for i in batch if keys[i] not in have for s in [samples[i]]}
    writer = SignalWriter(shards, header, writer=f"share{processes.share}", shard_tokens=recipe.capture.shard_tokens)
    with writer, Progress("capture (from the server's answers)", len(wanted), "samples", shown=processes.is_main) as bar:
        for row in row_logs(log, []):
            index = wanted.pop((row["key"], tuple(row["token_ids"])), None) if LOG_PROBS in row else None
            if index is not None:
                num_tokens = len(samples[index].answer_ids)
                writer.add(keys[index], from_server.unpacked(row[LOG_PROBS], num_tokens, header.top_k, header.vocab_size))
                bar.advance(1)
            interrupts.check()
    if wanted:
        raise DataError(f"{log}: no log-probs with {len(wanted)} of {len(samples)} kept answers; run with --redo generate to ask for them")


def records_of(
    header: SignalHeader, head: load.Head, hidden: Sequence[Any], answers: Sequence[Sequence[int]], keys: Sequence[str]
) -> Iterator[SignalRecord]:
    """What the teacher says at each answer token of a batch, a record a sequence, in order.

    hidden: [T, H] a sequence, what predicts its answer (token ids in `answers`). Logits are made in chunks that do not
    stop at the end of a sequence: short answers would leave a processor idle. Never more than 64 MiB of them at once.
    """
    import torch

    from distill.models.score import logit_chunks

    return records_of_logits(header, logit_chunks(head, torch.cat(list(hidden))), answers, keys)


def records_of_logits(
    header: SignalHeader, logit_chunks: Iterable[tuple[slice, Any]], answers: Sequence[Sequence[int]], keys: Sequence[str]
) -> Iterator[SignalRecord]:
    """The same from (slice of the answer tokens of all sequences, logits [N, V] that predict them)."""
    import torch

    from distill.signals import draws

    lengths = [len(a) for a in answers]
    labels_N = torch.tensor([token for a in answers for token in a], dtype=torch.long)
    rows = draws.Rows.join([draws.Rows.of(draws.seed_of(k), n) for k, n in zip(keys, lengths, strict=True)])

    def chunks() -> Iterator[SignalRecord]:
        for part, logits_NV in logit_chunks:
            if header.num_draws is not None:
                yield draws.draw(
                    logits_NV, labels_N[part], rows[part], num_draws=header.num_draws, vocab_size=header.vocab_size
                )
            elif header.top_k is not None:
                yield draws.top_k(logits_NV, rows[part], k=header.top_k, vocab_size=header.vocab_size)
            else:
                yield draws.dense(logits_NV, rows[part], vocab_size=header.vocab_size)

    return regroup(chunks(), lengths)


def _summary(header: SignalHeader, store: SignalStore, keys: set[str]) -> StageOutput:
    missing = keys - set(store.keys())
    assert not missing, f"{len(missing)} sequences were not captured"
    served = header.fingerprints["teacher_dtype"] == SERVED
    return StageOutput(
        {
            "signal": header.kind, "num_sequences": len(store), "num_tokens": store.num_tokens, "num_bytes": store.num_bytes,
            "bytes_per_token": round(store.num_bytes / max(store.num_tokens, 1), 2), "vocab_size": header.vocab_size,
            "hidden_size": header.hidden_size, "folder": store.folder.name,
            "num_unknown": sum(from_server.num_unknown(store.read(key)) for key in sorted(keys)) if served else 0,
        },
        store.paths,
    )  # fmt: skip
