"""A student of another tokenizer learns from a signal: of weights, of a GGUF file, and of a server's log-probs."""

import json
import re
import signal

import numpy as np
import pytest
import torch
from chunk_helpers import byte_level_tokenizer, quickstart_texts
from conftest import tiny_qwen3
from run_helpers import QUICKSTART, killed_when, run_forked, small

from distill import chat, plan
from distill.core.jsonl import read_jsonl, write_jsonl
from distill.core.run_folder import RunFolder
from distill.data.stored_samples import read_samples
from distill.errors import DataError, RecipeError
from distill.formats.gguf.write import write_gguf
from distill.models import load
from distill.pipeline import run
from distill.recipe import load_recipe
from distill.signals.alignment import CHUNK, CLOSED, END, LEARNT, LEFT_OUT, Alignment, joined
from distill.signals.encoding import LikelihoodRecord
from distill.signals.store import SignalStore
from distill.teachers import connect
from distill.teachers.byte_chunks import own_sequences, teachers_bytes
from distill.training.run import chunk_examples

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
CHUNKS = ["capture.signal=chunks", "train.hard_weight=1", "train.control=false"]
FEW = [
    *("generate.num_prompts=30", "train.max_steps=2", "evaluate.num_examples=5"),
    *("evaluate.max_new_tokens=48", "quantize.formats=[]", "capture.shard_tokens=300"),
]
LEARN = ["generate", "capture", "initialize", "train"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A random student of two layers with a BPE of 600 ids of its own."""
    folder = tmp_path_factory.mktemp("own") / "student"
    tokenizer = byte_level_tokenizer(600, quickstart_texts()[:500])
    tokenizer.save_pretrained(folder)
    model = tiny_qwen3(vocabulary=len(tokenizer))
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.save_pretrained(folder)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    return folder


def of(folder, student, *more):
    return [
        *CHUNKS,
        *FEW,
        f"student={{method: base, model: {student}, licence: apache-2.0}}",
        f"run_folder={folder}",
        *map(str, more),
    ]


def captured(folder):
    return json.loads((folder / "capture/manifest.json").read_text())["result"]


def check_signal(folder, recipe, most=1e-3):
    """Compare the stored likelihoods with the teacher's own forward pass, and the chunks with the bytes."""
    result, run_folder = captured(folder), RunFolder(folder)
    samples = read_samples(folder / "generate/kept.jsonl")
    teacher = connect(recipe, run_folder)
    table = teachers_bytes(teacher)
    sequences = own_sequences(recipe, teacher, run_folder, samples)
    store = SignalStore(folder / "capture/signals" / result["folder"])
    assert store.header.kind == "chunks" and result["num_sequences"] == len(
        {s.key for s in sequences}
    )
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    farthest, known = [], []
    for sequence in sequences[:12]:
        record = store.read(sequence.key)
        assert isinstance(record, LikelihoodRecord)
        start = len(sequence.prompt_ids)
        with torch.no_grad():
            logp = model(torch.tensor([sequence.ids])).logits[0, start - 1 : -1].log_softmax(-1)
        own = logp.gather(1, torch.tensor(sequence.answer_ids)[:, None])[:, 0].numpy()
        begins = logp[:, table.boundary_ids].logsumexp(-1).numpy()
        for found, expected in ((record.logp, own), (np.exp(record.boundary_logp), np.exp(begins))):
            is_known = np.isfinite(found)
            known.append(is_known.mean())
            gap = np.abs(found - expected) / (1 + np.abs(expected))
            farthest.append(gap[is_known].max())
    assert max(farthest) < most, max(farthest)
    check_alignment(folder, sequences, samples, table, teacher.tokenizers.student)
    return result, float(np.mean(known))


def check_alignment(folder, sequences, samples, table, own):
    students = {i: own.decode([i]).encode() for i in range(len(own))}
    rows = {row["key"]: row for _, row in read_jsonl(folder / "capture/chunks.jsonl")}
    num_chunks = 0
    for sequence, sample in zip(sequences, samples, strict=True):
        row, i, j = rows[sample.key], 0, 0
        assert row["signal"] == sequence.key
        for m, n, kind in zip(row["teacher"], row["student"], row["kinds"], strict=True):
            if kind in (CHUNK, CLOSED):
                mine = b"".join(table.by_id[t] for t in sequence.answer_ids[i : i + m])
                if "\ufffd" not in mine.decode("utf-8", "replace"):
                    assert mine == own.decode(sample.answer_ids[j : j + n]).encode()
            num_chunks += kind in LEARNT
            i, j = i + m, j + n
        assert (i, j) == (len(sequence.answer_ids), len(sample.answer_ids)), students and row
        assert row["kinds"][-1] == END
    assert num_chunks == captured(folder)["num_chunks"] > len(samples)


def test_from_weights_killed_in_capture_and_resumed(student, tmp_path):
    folder = tmp_path / "run"
    given = small(folder, *of(folder, student, "train.control=true"))
    status = killed_when(given, lambda: any(folder.glob("capture/signals/*/*.shard")))
    before = {path.name for path in folder.glob("capture/signals/*/*.shard")}
    assert status in (0, -signal.SIGKILL) and before
    result = run_forked(*given)
    assert result.returncode == 0, result.stderr[-3000:]
    recipe = load_recipe(QUICKSTART, [str(value) for value in given[1:]])
    found, known = check_signal(folder, recipe)
    assert before <= {path.name for path in folder.glob("capture/signals/*/*.shard")}
    assert known == 1 and found["num_unknown"] == 0 and found["num_split_digits"] == 0
    size = sum(path.stat().st_size for path in folder.glob("capture/signals/*/*.shard"))
    assert 4 <= size / found["num_tokens"] < 12  # 4, and each shard's head and index

    trained = load.load_tokenizer(str(folder / "train/student"))
    assert len(trained) == 600
    logged = [row for _, row in read_jsonl(folder / "train/student.metrics.jsonl")]
    assert all(row["soft"] > 0 and row["hard"] > 0 for row in logged)
    page = (folder / "report/report.html").read_text()
    assert "pieces that both tokenizers cut alike" in page and "NLL/byte" in page
    card = (folder / "report/MODEL_CARD.md").read_text()
    assert "byte-aligned chunks" in card
    text = json.loads((folder / "plan/manifest.json").read_text())["result"]["text"]
    assert "the student learns the answers' text in its own tokenizer" in text
    assert re.search(r"capture\.signal chunks: \d\.\d\d of the student's tokens between", text)


def test_one_store_serves_another_student(student, tmp_path):
    """The byte tokenizer learns from what was captured for the BPE: nothing is asked, nothing captured."""
    run(load_recipe(QUICKSTART, of(tmp_path, student)), stages=LEARN)
    shards = {p.name for p in tmp_path.glob("capture/signals/*/*.shard")}
    other = tmp_path / "bytes"
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(other)
    model = tiny_qwen3(vocabulary=len(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(other)
    recipe = load_recipe(QUICKSTART, of(tmp_path, other, "train.max_length=512"))
    run(recipe, stages=LEARN, redo="generate")
    assert {p.name for p in tmp_path.glob("capture/signals/*/*.shard")} == shards
    check_signal(tmp_path, recipe)


def test_from_a_gguf_file(student, tmp_path):
    path = tmp_path / "teacher.gguf"
    write_gguf(TEACHER, path, "f16", metadata={})
    recipe = load_recipe(QUICKSTART, of(tmp_path / "run", student, f"teacher.gguf={path}"))
    run(recipe, stages=LEARN)
    _, known = check_signal(tmp_path / "run", recipe, most=0.05)
    assert known == 1


def test_from_a_servers_log_probs(student, proxy, tmp_path):
    """What the likeliest twenty leave open is not made up: no boundary there, and the chunk stays."""
    served = (f"teacher.server={proxy.url}", "capture.from_server=true", "capture.top_k=20")
    recipe = load_recipe(QUICKSTART, of(tmp_path, student, *served))
    run(recipe, stages=LEARN)
    result, known = check_signal(tmp_path, recipe, most=0.06)
    assert result["num_unknown"] <= 0.02 * result["num_tokens"] and known > 0.9
    asked = len(proxy.asked)
    run(recipe, stages=["capture"], redo="capture")
    assert len(proxy.asked) == asked


def test_a_server_scores_chunks_to_the_last_token(student, scores, tmp_path):
    """Each token's own log-prob comes, also where it is not among the likeliest."""
    run(load_recipe(QUICKSTART, of(tmp_path, student)), stages=["generate"])
    served = (f"teacher.server={scores.url}", "capture.from_server=scores", "capture.top_k=20")
    recipe = load_recipe(QUICKSTART, of(tmp_path, student, *served))
    run(recipe, stages=["capture"])
    result, known = check_signal(tmp_path, recipe, most=0.06)
    assert result["num_unknown"] == 0 and known > 0.9


def test_a_trimmed_student_learns_from_chunks(student, tmp_path):
    recipe = load_recipe(QUICKSTART, of(tmp_path, student, "student.vocabulary={size: 450}"))
    run(recipe, stages=["generate", "trim", *LEARN[1:]])
    assert captured(tmp_path)["num_chunks"] > 30
    assert captured(tmp_path)["removed_mass_mean"] is None
    trained = load.load_tokenizer(str(tmp_path / "train/student"))
    assert len(trained) < 600


def test_with_the_teachers_own_tokenizer_chunks_are_its_words(tmp_path):
    """A new student has the teacher's tokenizer: each segment has as many tokens of both."""
    recipe = load_recipe(QUICKSTART, [*CHUNKS, *FEW, f"run_folder={tmp_path}"])
    run(recipe, stages=LEARN)
    for _, row in read_jsonl(tmp_path / "capture/chunks.jsonl"):
        assert row["teacher"] == row["student"]
    assert captured(tmp_path)["num_split_digits"] == 0


@pytest.mark.parametrize(
    ("more", "way_out"),
    [
        (["capture.hidden_states=int8"], "set hidden_states to none"),
        (["rounds={}"], "set rounds to null"),
        (["train.stop_tokens=together"], r"remove train\.stop_tokens"),
        (["train.divergence=reverse_kl"], r"remove train\.divergence"),
        (["capture.from_server=true"], "name the server"),
        (
            ["teacher.server=http://h:1", "teacher.server_gives=text"],
            r"Set capture\.signal to none",
        ),
    ],
)
def test_what_chunks_cannot_be_is_refused_with_the_way_out(more, way_out, student, tmp_path):
    with pytest.raises(RecipeError, match=way_out):
        load_recipe(QUICKSTART, of(tmp_path, student, *more))


def test_plan_says_what_both_cut_alike(student, tmp_path):
    recipe = load_recipe(QUICKSTART, of(tmp_path, student))
    assert "its own tokenizer" in (
        plan._check_tokenizers(recipe, plan._tokenizers_here(recipe)) or ""
    )
    assert chat.same_tokenizer(
        connect(recipe).tokenizers.teacher, load.load_tokenizer(str(student))
    )


def test_an_alignment_that_is_not_the_samples_is_not_trained_on(student, tmp_path):
    run(load_recipe(QUICKSTART, of(tmp_path, student)), stages=["generate", "capture"])
    samples = read_samples(tmp_path / "generate/kept.jsonl")
    path = tmp_path / "capture/chunks.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    assert len(chunk_examples(path, samples)) == len(samples)
    changes = [
        lambda row: row["student"].__setitem__(0, 99),
        lambda row: row["student"].__setitem__(0, -1),
        lambda row: row.pop("kinds"),
        lambda row: row["kinds"].append(1),
        lambda row: row.__setitem__("key", "another"),
        lambda row: row.__setitem__("teacher", "1, 1"),
    ]
    for change in changes:
        changed = json.loads(json.dumps(rows))
        change(changed[0])
        write_jsonl(path, changed)
        with pytest.raises(DataError, match="--redo capture"):
            chunk_examples(path, samples)


def test_chunks_are_joined_until_a_word_begins():
    alignment = Alignment([1, 2, 1, 1, 1, 1], [1, 1, 1, 2, 1, 1], [1, 1, 1, 2, 1, 3])
    sure, not_sure = 0.0, -9.0
    no = [False] * 6
    found = joined(alignment, [sure, not_sure, 0, sure, sure, sure, sure], no)
    assert found.segments() == [(3, 2, CHUNK), (1, 1, CHUNK), (1, 2, 2), (1, 1, CHUNK), (1, 1, END)]
    found = joined(alignment, [sure, sure, 0, sure, not_sure, sure, not_sure], no)
    assert found.segments()[2] == (1, 1, LEFT_OUT) and found.segments()[-2] == (1, 1, LEFT_OUT)
    assert joined(alignment, [float("nan")] * 7, no).segments() == alignment.segments()
    found = joined(alignment, [not_sure] * 7, [True, False, True, True, True, True])
    assert found.segments()[:2] == [(1, 1, CLOSED), (3, 2, CLOSED)]
