"""capture from a server that scores given ids (capture.from_server: scores): whose answers, what it stores, what it asks."""

import json
import shutil

import numpy as np
import pytest
from generate_helpers import HOT, generate_hot
from raw_server_helpers import http
from run_helpers import QUICKSTART
from server_helpers import TEACHER, log_probs_against_the_weights

from distill import capture, generate, teachers
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.data.stored_samples import read_samples
from distill.errors import DataError, RecipeError, ServerError, Stopped
from distill.formats.gguf.write import write_gguf
from distill.pilot import estimate
from distill.planning import preflight
from distill.planning.costs import Workload
from distill.planning.destinations import text_of_destinations
from distill.planning.machine import Machine
from distill.planning.scoring import capture_told, scoring_demand
from distill.recipe import load_recipe
from distill.signals.store import SignalStore
from distill.teachers.listening import header_of
from distill.teachers.server.scoring import ScoringTeacher

TOP_K = 20
SCORED = ["capture.signal=top_k", f"capture.top_k={TOP_K}", "capture.from_server=scores"]
MACHINE = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Answers that the teacher's weights gave, without any log-prob."""
    folder = tmp_path_factory.mktemp("by weights")
    generate_hot(folder)
    return folder


@pytest.fixture
def folder(generated, tmp_path):
    shutil.copytree(generated, tmp_path / "run")
    return tmp_path / "run"


def recipe_of(folder, url, *more):
    served = [] if url is None else [f"teacher.server={url}", "generate.concurrency=4"]
    return load_recipe(QUICKSTART, [*HOT, f"run_folder={folder}", *served, *SCORED, *more])


def captured(recipe, **processes):
    return capture.run(recipe, RunFolder.of(recipe), Processes(**processes))


def store_of(folder):
    (signals,) = (folder / "capture/signals").iterdir()
    return SignalStore(signals)


def test_answers_that_the_weights_gave_earlier_are_scored_and_nothing_is_asked_twice(
    folder, scores, capsys
):
    recipe = recipe_of(folder, scores.url)
    by_weights = load_recipe(QUICKSTART, [*HOT, f"run_folder={folder}"])
    assert generate.STAGE.fingerprint(recipe) == generate.STAGE.fingerprint(by_weights)
    output = captured(recipe)
    assert output is not None
    result = output.result
    samples = read_samples(folder / "generate/kept.jsonl")
    assert sorted(scores.scored) == sorted({tuple(sample.ids) for sample in samples})
    assert result.num_unknown == 0
    assert f"{scores.url} scores given tokens, 20 likeliest ids at each" in capsys.readouterr().err

    asked = len(scores.asked)
    captured(recipe)
    assert len(scores.asked) == asked
    (folder / "capture/manifest.json").write_text(json.dumps({"result": vars(result)}))
    _, worst, in_common = log_probs_against_the_weights(folder)
    assert worst < 1e-3 and in_common > 19.9


def test_what_was_scored_before_a_server_went_wrong_stays(folder, scores):
    """It is on disk before the error, and is not scored again."""
    recipe = recipe_of(folder, scores.url, "generate.concurrency=1")
    scores.trouble = lambda number, body: http({}, 404) if number == 5 else None
    with pytest.raises(ServerError, match=r"status 404.*tokens.*the same command again"):
        captured(recipe)
    before = list(scores.scored)
    assert 3 <= len(store_of(folder)) < len(before)
    scores.trouble = lambda number, body: None
    captured(recipe)
    assert {*before} & {*scores.scored[len(before) :]} == {before[-1]}  # the one that failed
    with pytest.raises(Stopped, match="max_requests"):
        captured(
            recipe_of(folder, scores.url, "generate.max_requests=1", "capture.top_k=7"),
        )


def test_a_gguf_files_answers_are_scored_by_a_server(scores, tmp_path):
    """The file answers, and keeps answering; the server is sent what is kept alone."""
    path = tmp_path / "teacher.gguf"
    write_gguf(TEACHER, path, "f16", metadata={})
    few = (f"teacher.gguf={path}", "generate.num_prompts=6")
    before = recipe_of(tmp_path, None, *few, "capture.from_server=false")
    generate.run(before, RunFolder.of(before), Processes())
    assert not scores.asked
    recipe = recipe_of(tmp_path, scores.url, *few, "teacher.server_model=other")
    assert generate.STAGE.fingerprint(recipe) == generate.STAGE.fingerprint(before)
    assert not teachers.connect(recipe).on_server
    assert isinstance(teachers.connect_to_capture(recipe), ScoringTeacher)
    captured(recipe)
    kept = {tuple(s.ids) for s in read_samples(tmp_path / "generate/kept.jsonl")}
    assert set(scores.scored) == kept
    assert {body["model"] for _, body in scores.asked} == {"other"}
    sent = "\n".join(text_of_destinations(recipe, *split_prompts(recipe)))
    assert "with each kept answer to be scored" in sent


def test_another_name_on_the_server_is_another_model_and_scores_anew(folder, scores):
    captured(recipe_of(folder, scores.url))
    asked = len(scores.asked)
    other = recipe_of(folder, scores.url, "teacher.server_model=other")
    assert capture.STAGE.fingerprint(other) != capture.STAGE.fingerprint(
        recipe_of(folder, scores.url)
    )
    one, two = (
        header_of(teachers.connect_to_capture(recipe))
        for recipe in (recipe_of(folder, scores.url), other)
    )
    assert [name for name, _, _ in one.differences(two)] == ["fingerprints.server_model"]
    assert len(scores.asked) == asked


def test_two_jobs_divide_what_is_scored(folder, scores):
    recipe = recipe_of(folder, scores.url)
    for job in (0, 1):
        captured(recipe, job=job, num_jobs=2)
    kept = {tuple(s.ids) for s in read_samples(folder / "generate/kept.jsonl")}
    assert sorted(scores.scored) == sorted(kept)


def test_a_server_that_cannot_score_is_refused_at_plan_and_the_ways_out_are_taken(
    llama_server, tmp_path
):
    recipe = recipe_of(tmp_path, llama_server)
    with pytest.raises(ServerError, match="vLLM alone gives") as found:
        preflight.check_scoring(recipe)
    assert "set capture.from_server to true" in str(found.value)
    for way_out in ("capture.from_server=true", "capture.from_server=false"):
        assert preflight.check_scoring(recipe_of(tmp_path, llama_server, way_out)) is None
    path = tmp_path / "x.gguf"
    write_gguf(TEACHER, path, "f16", metadata={})
    beside = recipe_of(tmp_path, llama_server, f"teacher.gguf={path}")
    with pytest.raises(ServerError, match=r"from_server to false and teacher\.server to null"):
        preflight.check_scoring(beside)
    way_out = [f"teacher.gguf={path}", "capture.from_server=false"]
    assert preflight.check_scoring(recipe_of(tmp_path, None, *way_out)) is None


@pytest.mark.parametrize(
    ("fields", "message", "way_out"),
    [
        (["capture.signal=sampled"], "set signal to top_k", ["capture.signal=top_k"]),
        (["capture.signal=dense"], "set signal to top_k", ["capture.signal=top_k"]),
        (
            ["capture.hidden_states=int8"],
            "set hidden_states to none",
            ["capture.hidden_states=none"],
        ),
        (["privacy=redact"], "set from_server to true", ["capture.from_server=true"]),
        (["teacher.server=null"], "name the server", ["teacher.server=http://h:1"]),
        (
            ["teacher.gguf=x.gguf", "capture.from_server=false"],
            "set capture.from_server to scores",
            ["capture.from_server=scores"],
        ),
        (["capture.from_server=score"], "input should be 'scores'", ["capture.from_server=scores"]),
    ],
)
def test_what_scores_cannot_be_is_refused_and_the_way_out_is_taken(fields, message, way_out):
    given = ["teacher.server=http://h:1", *SCORED, *fields]
    with pytest.raises(RecipeError, match=message):
        load_recipe(QUICKSTART, given)
    load_recipe(QUICKSTART, [*given, *way_out])


def test_reasoning_that_is_dropped_is_no_obstacle_for_scores():
    load_recipe(QUICKSTART, ["teacher.server=http://h:1", *SCORED, "generate.reasoning=drop"])


def test_plan_says_which_path_is_taken_and_counts_it(tmp_path):
    url = "http://127.0.0.1:9"
    work = {
        from_server: Workload.of(
            recipe_of(tmp_path, url, f"capture.from_server={from_server}"), MACHINE
        )
        for from_server in ("false", "true", "scores")
    }
    told = {name: "\n".join(capture_told(of)) for name, of in work.items()}
    assert "the teacher's weights are loaded here" in told["false"]
    assert "gives 20 log-probs with each answer; nothing is scored" in told["true"]
    assert "scores the kept answers (prompt_logprobs): about" in told["scores"]
    costs = {name: capture.cost(of) for name, of in work.items()}
    demand = scoring_demand(work["scores"])
    assert demand.requests == work["scores"].num_samples > 0
    assert costs["scores"].traffic == demand.num_bytes > costs["true"].traffic == 0
    assert costs["false"].memory > costs["scores"].memory == costs["true"].memory
    assert generate.cost(work["true"]).traffic > generate.cost(work["scores"]).traffic
    assert "capture: whether" not in "\n".join(told.values())
    away = preflight.check_scoring(work["scores"].recipe)
    assert away is not None and away.startswith("capture.from_server scores: whether")


def test_an_estimate_counts_what_is_to_be_scored_and_holds_it_against_the_limits(folder, scores):
    recipe = recipe_of(folder, scores.url, "generate.max_requests=4")
    ((_, found),) = estimate.estimates(recipe, RunFolder.of(recipe), 8, Processes())
    low, mean, high = found.scoring["requests"]
    assert 0 < low <= mean <= high <= found.num_wanted and mean == pytest.approx(
        found.num_wanted * (8 - sum(found.reasons.values())) / 8
    )
    said = estimate.text(recipe, found)
    assert "to be scored by the server afterwards" in said
    assert "generate.max_requests 4 would stop it before the end" in said
    assert np.all(found.scoring["prompt tokens"] > 20 * found.scoring["requests"])
    plain = recipe_of(folder, scores.url, "capture.from_server=false")
    ((_, found),) = estimate.estimates(plain, RunFolder.of(plain), 8, Processes())
    assert not found.scoring and "to be scored" not in estimate.text(plain, found)


def test_a_sample_that_the_vocabulary_does_not_have_is_refused_before_anything_is_sent(
    folder, scores
):
    path = folder / "generate/kept.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    row["answer_ids"][0] = 5000
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="has token id 5000"):
        captured(recipe_of(folder, scores.url))
    assert not scores.asked
