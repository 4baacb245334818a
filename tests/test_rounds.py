"""Rounds in whole small runs: what they make, killed anywhere, in two processes, and done twice."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from log_helpers import read_row_logs
from pieces_helpers import in_pieces, pieces_of
from run_helpers import ROOT, call_distill, environment, killed_when, made_once, sha, small
from safetensors.torch import load_file
from server_helpers import TEACHER
from sharding_helpers import ranks

from distill import pipeline
from distill.core.processes import ALONE
from distill.core.results import EvaluateResult, ReportResult, RoundsResult
from distill.core.run_folder import RunFolder
from distill.core.stored_json import read_json, write_json
from distill.data.stored_samples import read_samples, split_samples
from distill.errors import DataError, MismatchError, RecipeError
from distill.formats.gguf.write import write_gguf
from distill.models import load
from distill.on_policy.guards import logp_of
from distill.on_policy.student_answers import student_digest
from distill.on_policy.work import Work
from distill.recipe import load_recipe
from distill.shaping.trimmed import trimmed_vocabulary
from distill.signals.store import SignalStore, sequence_key

ROUNDS = [
    "rounds.num_rounds=2",
    "rounds.prompts_per_round=16",
    "rounds.max_new_tokens=24",
    "rounds.guards.max_cut=1",
    "rounds.guards.max_loops=1",
    "rounds.guards.max_other_language=1",
    "rounds.guards.max_length_growth=99",
    "rounds.student_as=weights",
]


def with_rounds(folder, *more):
    return small(folder, *ROUNDS, *more)


def recipe_of(folder, *more):
    file, *overrides = with_rounds(folder, *more)
    return load_recipe(file, list(map(str, overrides)))


def make(folder, *more, redo=None):
    return pipeline.run(recipe_of(folder, *more), stages=["rounds"], redo=redo)


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory):
    """An unbroken run with rounds. Do not change it: `rounds_copy` is there for that."""

    def run(folder):
        shutil.copytree(finished, folder)
        make(folder)

    return made_once(tmp_path_factory, "rounds", run)


@pytest.fixture
def rounds_copy(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def result_of(folder) -> RoundsResult:
    manifest = RunFolder(folder).manifest("rounds", RoundsResult)
    assert manifest is not None
    return manifest.result


def without_times(result):
    """What must not depend on interruptions."""
    untimed = []
    for made in result.rounds:
        trained = made.trained and replace(made.trained, seconds=0, tokens_per_second=0)
        untimed.append(replace(made, seconds={}, trained=trained))
    return replace(result, rounds=untimed)


def answers_in(folder):
    return read_row_logs(folder / "rounds/answers")[0]


def scored_in(folder):
    return list(folder.glob("rounds/signals/*/*.shard"))


def test_a_round_learns_from_what_the_student_wrote_and_the_teacher_scored(made):
    result = result_of(made)
    first, second = result.rounds[1:]
    assert first.num_samples["earlier"] == 0 < first.num_samples["teacher"]
    assert second.num_samples["earlier"] > 0
    assert first.guards and first.guards.num_answers == 16 and first.guards.logp_of_teacher < 0
    samples = read_samples(made / "rounds/round-1/samples.jsonl")
    assert len(samples) == first.num_samples["current"] > 0
    by_key = {row["key"]: row for row in answers_in(made)}
    for sample in samples:
        ids = by_key[sample.key]["token_ids"]
        assert sample.answer_ids == ids[: len(sample.answer_ids)]


def test_prompts_of_the_validation_and_the_exam_are_never_answered(made):
    recipe = recipe_of(made)
    samples = read_samples(made / "generate/kept.jsonl")
    validation = split_samples(samples, recipe.train.validation_share)[1]
    answered = {row["prompt_id"] for row in answers_in(made)}
    assert answered.isdisjoint({sample.prompt_id for sample in validation})
    rounds = [
        {s.prompt_id for s in read_samples(made / f"rounds/round-{n}/samples.jsonl")}
        for n in (1, 2)
    ]
    assert rounds[0] != rounds[1], "each round goes on where the last one ended"


def test_rounds_are_compared_over_one_exam_so_another_one_makes_them_anew(made):
    def decides(num):
        recipe = recipe_of(made, f"rounds.num_validated={num}")
        return Work.of(recipe, RunFolder(made), ALONE).made_from(1, "a student")

    num_prompts = result_of(made).rounds[0].validation.num_prompts
    assert decides(512) == decides(num_prompts) != decides(num_prompts - 1)


def test_the_student_is_that_of_the_best_round(made):
    result = result_of(made)
    best = result.rounds[result.best]
    assert student_digest(made / "rounds/student") == best.student
    for other in result.rounds:
        assert other.red is None
        merit = (other.validation.exact_match, -other.validation.nll_per_byte)
        assert merit <= (best.validation.exact_match, -best.validation.nll_per_byte)


KILLS = [
    lambda f: len(answers_in(f)) >= 3,
    lambda f: len(scored_in(f)) >= 1,
    lambda f: lines(f / "rounds/round-1/student.metrics.jsonl") >= 1,
    lambda f: list(f.glob("rounds/round-1/checkpoints/student/step-*")),
    lambda f: (f / "rounds/round-1/student").exists(),
    lambda f: (f / "rounds/round-1/round.json").exists(),
    lambda f: len(answers_in(f)) >= 20,
    lambda f: lines(f / "rounds/round-2/student.metrics.jsonl") >= 2,
    lambda f: (f / "rounds/round-2/student").exists(),
    lambda f: (f / "rounds/.student.tmp").exists() or (f / "rounds/student").exists(),
]


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_in_every_step_of_a_round_it_ends_with_the_same_bits(made, copy):
    statuses = []
    for ready in KILLS:
        arguments = [*with_rounds(copy), "--stages", "rounds"]
        statuses.append(killed_when(arguments, lambda ready=ready: bool(ready(copy))))
    assert statuses.count(-signal.SIGKILL) >= 5, f"too fast to be killed: {statuses}"
    make(copy)
    assert without_times(result_of(copy)) == without_times(result_of(made))
    assert sha(copy / "rounds/student/model.safetensors") == sha(
        made / "rounds/student/model.safetensors"
    )
    keys = [row["key"] for row in answers_in(copy)]
    assert len(keys) == len(set(keys)), "no answer was drawn twice"


def test_a_second_run_is_done_at_once_and_touches_nothing(rounds_copy, capsys):
    before = {p: p.stat().st_mtime_ns for p in rounds_copy.rglob("*") if p.is_file()}
    started = time.monotonic()
    make(rounds_copy)
    assert time.monotonic() - started < 1
    assert "everything is done" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in rounds_copy.rglob("*") if p.is_file()} == before


def test_another_mix_answers_and_scores_nothing_of_round_1_again(rounds_copy):
    more = ["rounds.mix.current=0.8", "rounds.mix.earlier=0.1", "rounds.mix.teacher=0.1"]
    with pytest.raises(MismatchError, match=r"rounds\.mix\.current was 0\.5, is now 0\.8"):
        make(rounds_copy, *more)
    first = {row["key"] for row in answers_in(rounds_copy)}
    shards = {p.name for p in scored_in(rounds_copy)}
    make(rounds_copy, *more, "rounds.num_rounds=1", redo="rounds")
    assert {row["key"] for row in answers_in(rounds_copy)} == first
    assert {p.name for p in scored_in(rounds_copy)} == shards
    assert result_of(rounds_copy).rounds[1].num_samples["teacher"] < 5


def test_a_finished_run_is_told_how_it_gets_rounds_before_they_are_made(copy):
    recipe = recipe_of(copy)
    for redo in (None, "evaluate"):
        with pytest.raises(
            MismatchError, match=r"quantize was made without rounds, .* --redo quant"
        ):
            pipeline.run(recipe, redo=redo)
    assert not (copy / "rounds").exists()


def test_more_rounds_go_on_after_those_that_are_done(rounds_copy):
    done = result_of(rounds_copy).rounds
    make(rounds_copy, "rounds.num_rounds=3", "rounds.patience=9", redo="rounds")
    result = result_of(rounds_copy)
    assert result.rounds[:3] == done and len(result.rounds) == 4


def test_a_damaged_student_of_a_round_is_made_again(rounds_copy, made, capsys):
    best = result_of(made).best
    folder = rounds_copy / f"rounds/round-{best}/student"
    (folder / "model.safetensors").unlink()
    make(rounds_copy, redo="rounds")
    assert "gone or damaged; made again" in capsys.readouterr().out
    assert without_times(result_of(rounds_copy)) == without_times(result_of(made))


def test_a_broken_record_of_a_round_is_named_with_the_way_out(rounds_copy):
    path = rounds_copy / "rounds/round-1/round.json"
    values = read_json(path, "") | {"guards": 3}
    write_json(path, values)
    with pytest.raises(
        DataError, match=r"round-1/round\.json: broken .*delete it and run the same"
    ):
        make(rounds_copy, redo="rounds")


def test_a_red_guard_ends_the_rounds_and_keeps_the_last_good_student(copy, capsys):
    """At such a learning rate the student forgets all it knew."""
    recipe = recipe_of(copy, "rounds.learning_rate=0.5", "rounds.guards.max_length_growth=1.02")
    guards = recipe.rounds.guards.model_copy(update={"max_cut": 0.1, "max_loops": 0.1})
    rounds = recipe.rounds.model_copy(update={"guards": guards})
    pipeline.run(recipe.model_copy(update={"rounds": rounds}), stages=["rounds"])
    result = result_of(copy)
    last = result.rounds[-1]
    assert last.red and result.ended == f"round {last.number} is red: {last.red}"
    assert result.best == 0
    assert student_digest(copy / "rounds/student") == student_digest(copy / "train/student")
    assert "the last good student is kept" in capsys.readouterr().err


def test_where_passes_are_in_bfloat16_what_a_round_learnt_is_not_rounded_away_before_the_next(
    copy, monkeypatch
):
    """At such a rate no step reaches half of one in 16 bits. The kept student alone is in those."""
    rate = 1e-7
    more = ["train.precision=bfloat16", f"rounds.learning_rate={rate}", "rounds.patience=9"]
    make(copy, *more, "rounds.num_rounds=1")
    first = weights_in(copy / "rounds/round-1/student")
    monkeypatch.setattr("distill.on_policy.rounds.best_round", lambda rounds: len(rounds) - 1)
    make(copy, *more, "rounds.num_rounds=2", redo="rounds")
    second = weights_in(copy / "rounds/round-2/student")
    for number, before, after in (
        (1, weights_in(copy / "train/student"), first),
        (2, first, second),
    ):
        most = 2 * rate * result_of(copy).rounds[number].trained.num_steps
        changes = {name: (after[name] - before[name]).abs().max() for name in before}
        assert all(0 < change < most for change in changes.values()), changes
    kept = weights_in(copy / "rounds/student")
    assert all(torch.equal(kept[name], second[name].bfloat16()) for name in second)


def weights_in(folder):
    return load_file(folder / "model.safetensors")


def test_two_processes_share_a_round_and_end_alike(copy, tmp_path):
    """Each answers, scores and learns its part; what is drawn does not depend on how many there are.

    Nor does it where they divide the student while it learns.
    """
    alone, divided = tmp_path / "alone", tmp_path / "divided"
    for folder in (alone, divided):
        shutil.copytree(copy, folder)
    more = ["rounds.num_rounds=1", "rounds.prompts_per_round=null"]
    make(alone, *more)
    launched = launch(copy, *more)
    assert launched.returncode == 0, launched.stderr[-3000:]
    one, two = result_of(alone).rounds[1], result_of(copy).rounds[1]
    assert read_samples(alone / "rounds/round-1/samples.jsonl") == read_samples(
        copy / "rounds/round-1/samples.jsonl"
    )
    assert one.guards == two.guards and one.num_samples == two.num_samples
    assert len(list(copy.glob("rounds/answers/*.jsonl"))) == 2, "each wrote its own answers"
    assert {path.name.split("-")[1] for path in scored_in(copy)} == {"share0", "share1"}
    assert two.validation.nll_per_byte == pytest.approx(one.validation.nll_per_byte, rel=1e-3)

    words = with_rounds(divided, *more, "train.shard=full")
    started = ranks(call_distill, 2, ["run", *map(str, words), "--stages", "rounds"])
    assert [rank.result().returncode for rank in started] == [0, 0]
    of_divided = result_of(divided).rounds[1].validation
    assert of_divided.nll_per_byte == pytest.approx(two.validation.nll_per_byte, rel=1e-5)


def launch(folder, *more):
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *["--multi_gpu", "--num_processes", "2", "--num_machines", "1"],
        *["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29577"],
        str(ROOT / "distill/train.py"),
        *map(str, with_rounds(folder, *more)),
        *["--stages", "rounds"],
    ]
    return subprocess.run(
        command,
        env=environment(ACCELERATE_USE_CPU="true"),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )


def test_the_student_may_answer_as_a_gguf_file(copy, capsys):
    make(copy, "rounds.student_as=gguf", "rounds.num_rounds=1")
    result = result_of(copy)
    assert result.answered_with == "gguf" and len(answers_in(copy)) == 16
    assert result.rounds[1].guards.logp_of_teacher < 0
    assert not list(copy.glob("rounds/*.gguf")), "it is needed no longer"


def test_the_faster_way_to_answer_is_measured_once_told_and_kept(copy, capsys):
    make(copy, "rounds.student_as=auto", "rounds.num_rounds=1")
    told = capsys.readouterr().out
    assert "rounds: the student answers with" in told and "tokens/s with its weights" in told
    chosen = read_json(copy / "rounds/student_as.json", "")["answered_with"]
    assert result_of(copy).answered_with == chosen
    make(copy, "rounds.student_as=auto", "rounds.num_rounds=2", redo="rounds")
    assert "tokens/s with its weights" not in capsys.readouterr().out


FROM_NOTHING = [
    "generate.num_prompts=12",
    "generate.task=null",
    "generate.max_new_tokens=48",
    "train.epochs=1",
    "train.control=false",
    "rounds.num_rounds=1",
    "rounds.prompts_per_round=6",
]


def test_a_gguf_file_as_teacher_scores_what_each_repeats_student_wrote(tmp_path):
    file, folder = tmp_path / "teacher.gguf", tmp_path / "run"
    write_gguf(TEACHER, file, "q8_0", metadata={})
    recipe = recipe_of(folder, f"teacher.gguf={file}", "train.repeats=2", *FROM_NOTHING)
    pipeline.run(recipe, stages=["generate", "capture", "initialize", "train", "rounds"])
    result = result_of(folder)
    made = result.rounds[1]
    assert made.guards.num_answers == 6 and made.guards.logp_of_teacher < 0
    assert made.validation.exact_match is None, "there is no task"
    (others,) = result.repeats
    assert others[0].student != result.rounds[0].student and others[1].trained is not None
    assert (folder / "rounds/repeat-2/student/model.safetensors").is_file()
    assert len(answers_in(folder)) == 12


def test_a_server_that_scores_given_ids_is_the_teacher_of_a_whole_round(finished, scores, tmp_path):
    """It wrote none of the answers; of the student's it says what the weights say."""
    folder = tmp_path / "run"
    shutil.copytree(finished / "generate", folder / "generate")
    served = [f"teacher.server={scores.url}", "generate.concurrency=4", "capture.signal=top_k"]
    short = ["train.max_steps=2", "rounds.max_steps=2", "capture.from_server=scores"]
    recipe = recipe_of(folder, *FROM_NOTHING, *served, *short)
    pipeline.run(recipe, stages=["capture", "initialize", "train"])
    num_captured = len(scores.scored)
    pipeline.run(recipe, stages=["rounds"])
    samples = read_samples(folder / "rounds/round-1/samples.jsonl")
    assert sorted(scores.scored[num_captured:]) == sorted({tuple(s.ids) for s in samples})
    made = result_of(folder).rounds[1]
    (shards,) = folder.glob("rounds/signals/*")
    store, sample = SignalStore(shards), samples[0]
    start = len(sample.prompt_ids)
    with torch.no_grad():
        logp_TV = scores.model(torch.tensor([sample.ids])).logits[0, start - 1 : -1].log_softmax(-1)
    record = store.read(sequence_key(sample.ids, start))
    own = logp_TV.gather(1, torch.tensor(record.ids, dtype=torch.int64))
    assert record.logp == pytest.approx(own.numpy(), abs=0.02, rel=1e-2)
    assert made.guards.logp_of_teacher < 0 and made.trained is not None


def test_a_trimmed_students_answers_are_shown_to_the_teacher_in_its_own_ids(tmp_path):
    folder = tmp_path / "run"
    recipe = recipe_of(folder, "student.vocabulary={size: 700}", *FROM_NOTHING)
    pipeline.run(recipe, stages=["generate", "trim", "capture", "initialize", "train", "rounds"])
    trimmed = trimmed_vocabulary(recipe, RunFolder(folder))
    samples = read_samples(folder / "rounds/round-1/samples.jsonl")
    assert max(max(s.ids) for s in samples) < len(trimmed)
    (shards,) = folder.glob("rounds/signals/*")
    store, sample = SignalStore(shards), samples[0]
    record = store.read(sequence_key(sample.ids, len(sample.prompt_ids)))
    with torch.no_grad():
        shown = trimmed.parents_of(sample.ids)
        teacher = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
        logits_TC = teacher(torch.tensor([shown])).logits[0, :, :1024]
    logp_TC = logits_TC[len(sample.prompt_ids) - 1 : -1].double().log_softmax(-1)
    pieces = pieces_of(TEACHER, trimmed)
    logp_TV = in_pieces(logp_TC, sample.answer_ids, trimmed.parent_ids, pieces)
    own = logp_TV[range(len(sample.answer_ids)), sample.answer_ids].numpy()
    found = logp_of(record, sample.answer_ids)
    likely = own > -12  # of less the tokens that are not followed up are a part
    assert likely.sum() > 10
    assert found[likely] == pytest.approx(own[likely], abs=0.02, rel=1e-2)


def test_independent_jobs_cannot_divide_rounds_and_are_told_what_they_can(tmp_path):
    with pytest.raises(RecipeError, match="can divide generate, capture, and not rounds"):
        pipeline.run_shard(recipe_of(tmp_path / "run"), "rounds", (0, 2))


def test_the_report_tells_of_the_rounds(rounds_copy, capsys):
    recipe = recipe_of(rounds_copy, "quantize.formats=[]")
    pipeline.run(recipe, redo="quantize")
    page = (rounds_copy / "report/report.html").read_text()
    card = (rounds_copy / "report/MODEL_CARD.md").read_text()
    evaluated = RunFolder(rounds_copy).manifest("evaluate", EvaluateResult).result
    assert list(evaluated.models)[:4] == ["teacher", "control", "before_rounds", "student"]
    assert evaluated.student_against_before is not None
    assert "<h2>Rounds</h2>" in page and "(kept)" in page
    assert "Rounds on its own answers" in card and "`rounds/student`" in card
    text = RunFolder(rounds_copy).manifest("report", ReportResult).result.text
    assert "the student before them" in text
