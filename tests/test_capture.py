"""capture in this process: which sequences a job captures, and what a trimmed student is told."""

import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from generate_helpers import HOT, generate_hot
from pieces_helpers import in_pieces, pieces_of
from run_helpers import QUICKSTART, ROOT
from trimmed_helpers import trimmed_by_hand, write_trim

from distill import capture
from distill.core import shutdown
from distill.core.jsonl import write_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.stored_samples import read_samples
from distill.errors import DataError, MismatchError, RecipeError, Stopped
from distill.formats.gguf.write import write_gguf
from distill.models.load import load_tokenizer
from distill.planning.costs import Workload, signal_bytes_per_token
from distill.planning.machine import Machine
from distill.recipe import load_recipe
from distill.signals.collate import hidden_targets
from distill.signals.hidden_states import bytes_per_token
from distill.signals.pieces import Pieces
from distill.signals.store import SignalStore, sequence_key
from distill.teachers import split

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
MACHINE = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)
TRIMMED = ["student.vocabulary={size: 700}", "teacher.batch_tokens=1500"]


def test_capture_in_shards_divides_the_samples_by_what_they_are(tmp_path):
    _, kept = generate_hot(tmp_path / "one", "teacher.batch_tokens=600")
    shutil.copytree(tmp_path / "one/generate", tmp_path / "two/generate")
    write_jsonl(tmp_path / "two/generate/kept.jsonl", kept[1:])  # a sample less, in front
    captured = []
    for job, name in enumerate(("one", "two")):
        recipe = load_recipe(
            QUICKSTART, [*HOT, f"run_folder={tmp_path / name}", "teacher.batch_tokens=600"]
        )
        capture.run(recipe, RunFolder.of(recipe), Processes(job=job, num_jobs=2))
        (folder,) = (tmp_path / name / "capture/signals").iterdir()
        captured.append({*SignalStore(folder).keys()})
    wanted = [
        sequence_key(row["prompt_ids"] + row["answer_ids"], len(row["prompt_ids"])) for row in kept
    ]
    assert (
        all(captured)
        and not captured[0] & captured[1]
        and {*wanted[1:]} <= captured[0] | captured[1] <= {*wanted}
    )


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return trimmed_by_hand(TEACHER, tmp_path_factory.mktemp("by hand") / "tokenizer", 300)


@pytest.fixture(scope="module")
def generated(tmp_path_factory, vocabulary):
    """The run folder of answers, which are there in the trimmed tokens, too."""
    folder = tmp_path_factory.mktemp("trimmed")
    generate_hot(folder)
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={folder}"])
    write_trim(RunFolder.of(recipe), TEACHER, vocabulary)
    return folder


@pytest.fixture
def folder(generated, tmp_path):
    shutil.copytree(generated, tmp_path / "run")
    return tmp_path / "run"


def recipe_of(folder, *more):
    return load_recipe(QUICKSTART, [*HOT, *TRIMMED, f"run_folder={folder}", *more])


def captured(folder, *more, processes=None):
    recipe = recipe_of(folder, *more)
    output = capture.run(recipe, RunFolder.of(recipe), processes or Processes())
    assert output is not None
    return output.result, SignalStore(folder / "capture/signals" / output.result.folder)


def key_of(sample):
    return sequence_key(sample.ids, len(sample.prompt_ids))


@pytest.fixture(scope="module")
def teacher():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32).eval()


@torch.no_grad()
def log_probs(teacher, ids, start):
    """The teacher's log-probs at the tokens from `start` on [T, C], in float64."""
    logits = teacher(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
    return logits[:, :1024].double().log_softmax(-1)


@torch.no_grad()
def hidden_states(teacher, ids, start):
    """The teacher's last hidden states from which it tells the tokens from `start` on, [T, H]."""
    return teacher.model(input_ids=torch.tensor([ids])).last_hidden_state[0, start - 1 : -1]


def test_a_trimmed_student_is_told_what_the_teacher_says_of_the_same_tokens(
    folder, vocabulary, teacher
):
    samples = read_samples(folder / "trim/kept.jsonl")
    removed = set(range(1024)) - {*vocabulary.parent_ids}
    assert any({*s.ids} & removed for s in read_samples(folder / "generate/kept.jsonl"))
    result, dense = captured(folder, "capture.signal=dense", "capture.hidden_states=int8")
    assert result.vocab_size == len(vocabulary) == dense.header.vocab_size < 700
    reckoned = signal_bytes_per_token(recipe_of(folder, "capture.signal=dense"), len(vocabulary))
    assert result.bytes_per_token == pytest.approx(reckoned + bytes_per_token(192), rel=0.05)
    result, likeliest = captured(folder, "capture.signal=top_k", "capture.top_k=20")
    top_20 = recipe_of(folder, "capture.signal=top_k", "capture.top_k=20")
    reckoned = signal_bytes_per_token(top_20, len(vocabulary))
    assert result.bytes_per_token == pytest.approx(reckoned, rel=0.1), "less of the shards' heads"
    draws = captured(folder)[1]
    scored = captured(folder, "capture.draw_log_probs=true")[1]
    pieces = pieces_of(TEACHER, vocabulary)
    for sample in samples:
        key, start = key_of(sample), len(sample.prompt_ids)
        logp_TC = log_probs(teacher, vocabulary.parents_of(sample.ids), start)
        logp_TV = in_pieces(logp_TC, sample.answer_ids, vocabulary.parent_ids, pieces)
        shares, top = dense.read(key).logp, likeliest.read(key)
        np.testing.assert_allclose(np.exp(shares), logp_TV.exp(), atol=2e-3)
        np.testing.assert_allclose(
            np.exp(top.logp), logp_TV.gather(1, torch.tensor(top.ids).long()).exp(), atol=2e-3
        )
        np.testing.assert_allclose(np.exp(top.logp).sum(1) + np.exp(top.tail_logp), 1, atol=2e-3)
        target = logp_TV[range(len(logp_TV)), sample.answer_ids]
        np.testing.assert_allclose(draws.read(key).target_logp, target, rtol=2e-3, atol=2e-3)
        drawn = scored.read(key)
        assert np.array_equal(drawn.ids, draws.read(key).ids)
        rows = np.repeat(np.arange(len(logp_TV)), np.diff(drawn.offsets))
        said = logp_TV[rows, torch.from_numpy(drawn.ids).long()]
        np.testing.assert_allclose(drawn.logp, said, rtol=2e-3, atol=2e-3)
        assert draws.read(key).ids.max() < len(vocabulary)
        states = hidden_targets([dense.read_hidden_states(key)], 192, "cpu")
        own_TH = hidden_states(teacher, vocabulary.parents_of(sample.ids), start)
        difference_TH = states.dequantized(torch.float32) - own_TH
        assert difference_TH.norm() < 0.01 * own_TH.norm()


def test_a_gguf_teacher_says_the_same_of_the_trimmed_tokens(folder, tmp_path):
    file = tmp_path / "teacher.gguf"
    write_gguf(TEACHER, file, "f32", metadata={})
    ours_result, ours = captured(folder, f"teacher.gguf={file}", "capture.signal=dense")
    theirs_result, theirs = captured(folder, "capture.signal=dense")
    assert ours.folder != theirs.folder and {*ours.keys()} == {*theirs.keys()}
    for key in theirs.keys():  # noqa: SIM118 - not a dict
        np.testing.assert_allclose(
            np.exp(ours.read(key).logp), np.exp(theirs.read(key).logp), atol=3e-3
        )
    assert ours_result.removed_mass_mean == pytest.approx(theirs_result.removed_mass_mean, abs=1e-4)
    assert ours_result.split_loss == pytest.approx(theirs_result.split_loss, abs=1e-3)


def test_what_trimming_costs_the_teacher_is_measured_and_told(
    folder, vocabulary, teacher, capsys, monkeypatch
):
    result, _ = captured(folder)
    told = capsys.readouterr()
    removed = torch.tensor(sorted(set(range(1024)) - {*vocabulary.parent_ids}))
    tokenizer = load_tokenizer(str(TEACHER))
    pieces = pieces_of(TEACHER, vocabulary)
    masses, nll, own_nll, num_bytes = [], 0.0, 0.0, 0
    own = {s.key: s for s in read_samples(folder / "generate/kept.jsonl")}
    for sample in read_samples(folder / "trim/kept.jsonl"):
        ids, start = vocabulary.parents_of(sample.ids), len(sample.prompt_ids)
        logp_TC = log_probs(teacher, ids, start)
        masses.append(logp_TC[:, removed].exp().sum(1))
        logp_TV = in_pieces(logp_TC, sample.answer_ids, vocabulary.parent_ids, pieces)
        nll -= float(logp_TV[range(len(logp_TV)), sample.answer_ids].sum())
        sample = own[sample.key]
        logp_TC = log_probs(teacher, sample.ids, len(sample.prompt_ids))
        own_nll -= float(logp_TC[range(len(logp_TC)), sample.answer_ids].sum())
        text = tokenizer.decode(sample.answer_ids, skip_special_tokens=True)
        num_bytes += len(text.encode())
    mass = torch.cat(masses)
    assert len(mass) < split.FEWEST_TOKENS, "the samples are so few that all are measured"
    assert result.removed_mass_mean == pytest.approx(float(mass.mean()), rel=1e-4)
    assert result.removed_mass_p99 == pytest.approx(float(mass.quantile(0.99)), rel=1e-4)
    assert result.split_loss == pytest.approx(nll / own_nll - 1, rel=1e-4)
    assert f"{nll / num_bytes:.4f} nats a byte on the student's tokens" in told.out
    assert f"({nll / own_nll - 1:+.2%}); on {len(mass):,} answer tokens" in told.out
    assert "capture: warning: the teacher's NLL a byte is" in told.err
    assert "a larger student.vocabulary.size" in told.err

    monkeypatch.setattr(split, "measure", None)  # it is measured once
    assert captured(folder)[0] == result
    assert "nats a byte on the student's tokens" in capsys.readouterr().out


def test_a_vocabulary_of_which_nothing_is_removed_changes_no_record(folder, tmp_path, capsys):
    whole = trimmed_by_hand(TEACHER, tmp_path / "tokenizer", 10_000)
    recipe = recipe_of(folder)
    write_trim(RunFolder.of(recipe), TEACHER, whole)
    result, ours = captured(folder)
    assert (result.removed_mass_mean, result.removed_mass_p99) == (0, 0)
    assert result.split_loss == pytest.approx(0, abs=1e-6)
    assert "warning" not in capsys.readouterr().err
    result, theirs = captured(folder, "student.vocabulary=null")
    assert result.removed_mass_mean is result.split_loss is None
    assert "parent_ids" in ours.header.fingerprints.keys() - theirs.header.fingerprints.keys()
    for key in theirs.keys():  # noqa: SIM118 - not a dict
        a, b = ours.read(key), theirs.read(key)
        assert all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_a_measurement_that_was_stopped_is_made_anew_and_changes_nothing(
    folder, tmp_path, monkeypatch
):
    shutil.copytree(folder, tmp_path / "unbroken")
    expected = captured(tmp_path / "unbroken")
    with monkeypatch.context() as patch:

        def stop():
            raise Stopped("here")

        patch.setattr(shutdown, "check", stop)
        with pytest.raises(Stopped):
            captured(folder)
    assert not list(folder.rglob(capture.SPLIT)) and not list(folder.rglob("*.shard"))
    found = captured(folder)
    assert found[0] == expected[0]
    names = sorted(path.name for path in expected[1].paths)
    assert sorted(path.name for path in found[1].paths) == names


def test_of_several_jobs_the_first_measures_and_of_those_that_claim_one(folder, monkeypatch):
    measured = []
    measure = split.measure

    def counted(*arguments):
        measured.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(split, "measure", counted)
    recipe = recipe_of(folder)
    for job in (1, 0):
        capture.run(recipe, RunFolder.of(recipe), Processes(job=job, num_jobs=2))
        assert len(measured) == 1 - job
    assert captured(folder)[0].removed_mass_mean > 0 and len(measured) == 1
    shutil.rmtree(folder / "capture")
    for _ in range(2):
        capture.run(recipe, RunFolder.of(recipe), Processes(leases=True))
    assert captured(folder)[0].removed_mass_mean > 0 and len(measured) == 2


def test_what_does_not_fit_a_trimmed_vocabulary_is_refused_with_the_way_out(folder):
    few = f"the trimmed vocabulary has {559} ids: take fewer, capture.signal dense, or a larger"
    for more in (["capture.signal=top_k", "capture.top_k=600"], ["capture.num_draws=600"]):
        with pytest.raises(RecipeError, match=few):
            captured(folder, *more)
    samples = list(read_samples(folder / "trim/kept.jsonl"))
    samples[3].answer_ids[0] = 1000
    write_jsonl(folder / "trim/kept.jsonl", [s.row() for s in samples])
    with pytest.raises(DataError, match=r"has token id 1000, and the trimmed .* --redo trim"):
        captured(folder)
    write_jsonl(folder / "trim/kept.jsonl", [s.row() | {"key": "0"} for s in samples[:2]])
    with pytest.raises(DataError, match=r"the answer 0 is not there, .* --redo trim"):
        captured(folder)
    ids = list(range(559))
    for wrong in ([], ids[::-1], [*ids[:-1], 557], [*ids[:-1], 558.0], [-1, *ids[1:]]):
        (folder / "trim/parent_ids.json").write_text(json.dumps({"parent_ids": wrong}))
        with pytest.raises(DataError, match=r"parent_ids.json: broken .* --redo trim"):
            captured(folder)
    (folder / "trim/parent_ids.json").write_text(json.dumps({"parent_ids": [*ids[:-1], 1024]}))
    write_jsonl(folder / "trim/kept.jsonl", [])
    with pytest.raises(MismatchError, match=r"id 1024, .* tokenizer has 1,024 ids.* --redo trim"):
        captured(folder)


def test_a_broken_measurement_is_told_with_the_way_out(folder):
    _, store = captured(folder)
    path = store.folder / capture.SPLIT
    for text in ("{", "{}", '{"sample": "x"}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"split.json: broken .* delete it and run the same"):
            captured(folder)
    path.unlink()
    assert captured(folder)[0].split_loss is not None


def test_the_cost_of_a_trimmed_signal_is_that_of_the_ids_that_stay():
    work = Workload.of(recipe_of("x", "capture.signal=dense"), MACHINE)
    few = replace(work, student=replace(work.student, vocabulary=work.teacher.vocabulary // 2))
    whole = replace(work, recipe=recipe_of("x", "capture.signal=dense", "student.vocabulary=null"))
    trimmed, untrimmed = capture.cost(few), capture.cost(whole)
    assert trimmed.disk == untrimmed.disk / 2
    assert untrimmed.seconds < trimmed.seconds <= 3 * untrimmed.seconds


def test_the_sample_is_a_tenth_in_bounds_with_the_smallest_keys():
    def sequences(num, length):
        keys = [sequence_key([i], 0) for i in range(num)]
        return [split.SignalSequence(key, key, [1], [2] * length) for key in keys]

    def num_tokens(num, length):
        chosen = split.sampled(sequences(num, length))
        keys = sorted(s.key for s in sequences(num, length))
        assert [s.key for s in chosen] == keys[: len(chosen)]
        return sum(len(s.answer_ids) for s in chosen)

    assert num_tokens(10, 50) == 500 and num_tokens(300, 50) == 2_000
    assert num_tokens(1000, 50) == 5_000 and num_tokens(10_000, 50) == 20_000


def test_the_mass_of_a_gpus_narrow_logits_is_that_of_exact_ones():
    """Half-precision logits lose digits of the sum only if it is taken in their dtype."""
    logits = torch.tensor([[8.0, 7.0, 1.0, 50.0]]).bfloat16()
    mass = Pieces([0], {}, 3).removed_mass(logits)
    assert mass.item() == pytest.approx(
        float(logits[0, :3].double().softmax(-1)[1:].sum()), rel=1e-5
    )
