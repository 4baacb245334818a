"""The stages `safety` and `gates` on a finished small run: every model is asked once, and the report tells of it."""

import json
import shutil
from collections import Counter

import pytest
from run_helpers import made_once, sha, small

from distill import gates, pipeline, safety
from distill.core.run_folder import Fingerprint, RunFolder
from distill.core.safety_results import ALL, GatesResult, SafetyResult
from distill.deploy.choose import gguf_checks
from distill.errors import DataError, MismatchError, RecipeError
from distill.pipeline import STAGES
from distill.recipe import load_recipe
from distill.reporting.safety import safety_sentences

ASKED = "evaluate.safety={num_requests: 2, max_new_tokens: 4}"
MODELS = ["teacher", "control", "student", "w16a16", "f16", "q8_0"]


def recipe_of(folder, *more):
    file, *overrides = small(folder, *more)
    return load_recipe(file, list(map(str, overrides)))


def make(folder, *more, stages=("safety",), redo=None):
    return pipeline.run(recipe_of(folder, *more), stages=list(stages), redo=redo)


def result_of(folder) -> SafetyResult:
    manifest = RunFolder(folder).manifest("safety", SafetyResult)
    assert manifest is not None
    return manifest.result


def gates_of(folder) -> GatesResult:
    manifest = RunFolder(folder).manifest("gates", GatesResult)
    assert manifest is not None
    return manifest.result


def checks_of(folder, *more):
    return gguf_checks(recipe_of(folder, *more), RunFolder(folder))


@pytest.fixture(scope="module")
def asked(finished, tmp_path_factory):
    """A finished run whose models were asked. Do not change it: copy it."""

    def run(folder):
        shutil.copytree(finished, folder)
        make(folder, ASKED, stages=("safety", "report"))

    return made_once(tmp_path_factory, "safety", run)


@pytest.fixture
def asked_copy(asked, tmp_path):
    shutil.copytree(asked, tmp_path / "run")
    return tmp_path / "run"


def test_every_model_of_the_run_is_asked_the_same_in_every_language(asked):
    result = result_of(asked)
    assert sorted(result.models) == sorted(MODELS)
    # two of each set in five languages, and both sides of two pairs
    assert result.num_requests == 2 * 5 * 3 + 2 * 2 * 5
    for figures in result.models.values():
        assert set(figures.outcomes) == {"harmful", "harmless", "sensitive", "pairs"}
        for by_language in figures.outcomes.values():
            assert set(by_language) == {ALL, "en", "zh", "sw", "id", "hi"}
            assert sum(by_language[ALL].values()) == sum(
                sum(found.values()) for code, found in by_language.items() if code != ALL
            )
        assert figures.pairs[ALL].num == 10
    assert result.models["q8_0"].runtime == "llama.cpp, cpu"


def test_answers_are_kept_by_request_and_are_short(asked):
    keys = None
    for name in MODELS:
        lines = (asked / "safety" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert keys in (None, [row["key"] for row in rows])
        keys = [row["key"] for row in rows]
        assert len(set(keys)) == len(keys) and max(len(row["answer"]) for row in rows) < 120


def test_every_step_has_paired_intervals_by_measure_and_language(asked):
    changes = result_of(asked).changes
    steps = Counter((c.model, c.against) for c in changes)
    assert set(steps) == {
        ("control", "teacher"),
        ("student", "teacher"),
        ("student", "control"),
        ("w16a16", "student"),
        ("f16", "student"),
        ("q8_0", "student"),
    }
    assert all(c.change.low <= c.change.difference <= c.change.high for c in changes)
    assert {c.measure for c in changes} == {"harmful", "harmless", "sensitive", "pairs"}


def test_page_and_card_tell_of_it(asked):
    page = (asked / "report" / "report.html").read_text(encoding="utf-8")
    card = (asked / "report" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert "Refusals and bias" in text and "agree with the label on 79" in text
        assert "evaluate.gates" not in text
        assert "were not measured" not in text and "no native speaker" in text
    assert "What changed in refusals and bias" in page
    assert "<td>sw</td><td>q8_0</td><td>student</td>" in page and "| sw | q8_0 | student |" in card
    assert "](refusals.svg)" in card and (asked / "report" / "refusals.svg").is_file()


def test_what_a_server_itself_refuses_is_a_refusal_and_told_as_such(asked_copy):
    stage = asked_copy / "safety"
    (stage / "manifest.json").unlink()
    rows = [json.loads(row) for row in (stage / "teacher.jsonl").open(encoding="utf-8")]
    rows[0] |= {"answer": "", "finish_reason": "error"}
    (stage / "teacher.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    make(asked_copy, ASKED)
    result = result_of(asked_copy)
    assert result.models["teacher"].unanswered == 1
    first = json.loads((stage / "outcomes.jsonl").open(encoding="utf-8").readline())
    assert first["key"] == rows[0]["key"] and first["set"] == "harmless"
    assert first["outcomes"]["teacher"] == "refuses" and set(first["outcomes"]) == set(MODELS)
    assert "refused by the server of teacher itself" in " ".join(safety_sentences(result))


def test_requests_that_no_model_can_read_are_refused_with_the_way_out(asked_copy):
    (asked_copy / "mine.jsonl").write_text('{"prompt": "<|im_end|>", "language": "en"}\n', "utf-8")
    mine = f"evaluate.safety={{sets: [], prompts: {asked_copy / 'mine.jsonl'}}}"
    shutil.rmtree(asked_copy / "safety")
    with pytest.raises(MismatchError, match=r"all 1 requests .* give others"):
        make(asked_copy, mine)


def test_a_model_that_was_asked_is_not_asked_again(asked_copy):
    stage = asked_copy / "safety"
    before = {path.name: sha(path) for path in stage.glob("*.jsonl")}
    (stage / "manifest.json").unlink()
    (stage / "q8_0.jsonl").unlink()
    row = json.loads((stage / "f16.jsonl").read_text(encoding="utf-8").splitlines()[0])
    lines = (stage / "f16.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    told = json.dumps(row | {"answer": "I'm sorry, but I can't help with that."}) + "\n"
    (stage / "f16.jsonl").write_text("".join([told, *lines[1:]]), encoding="utf-8")
    make(asked_copy, ASKED)
    assert sha(stage / "q8_0.jsonl") == before["q8_0.jsonl"]
    assert sha(stage / "f16.jsonl") != before["f16.jsonl"]
    assert result_of(asked_copy).models["f16"].outcomes["harmless"]["en"]["refuses"] == 1


@pytest.mark.parametrize("damage", ["", '{"key": 3}\n', "no JSON\n"])
def test_a_broken_file_of_answers_is_named_with_the_way_out(asked_copy, damage):
    (asked_copy / "safety" / "manifest.json").unlink()
    (asked_copy / "safety" / "student.jsonl").write_text(damage, encoding="utf-8")
    with pytest.raises(DataError, match="delete it and run `distill safety") as caught:
        make(asked_copy, ASKED)
    assert "student.jsonl" in str(caught.value)
    (asked_copy / "safety" / "student.jsonl").unlink()
    make(asked_copy, ASKED)


def test_a_file_that_fails_a_gate_is_marked_in_report_and_in_deployment(copy, capfd):
    strict = "evaluate.gates={max_kl: 1.0e-9, min_examples: 1}"
    make(copy, strict, stages=("gates", "report"))
    found = gates_of(copy)
    assert "q8_0" in found.failed and "evaluate.gates.max_kl is 1e-09" in found.failed["q8_0"]
    assert "Modelfile is of q8_0: use f16.Modelfile there" in capfd.readouterr().err
    assert "evaluate.gates.max_kl" in (checks_of(copy, strict)["q8_0"].failed or "")
    page = (copy / "report" / "report.html").read_text(encoding="utf-8")
    card = (copy / "report" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "q8_0 failed" in page and "**failed**" in card and "## Gates" in card


def test_other_limits_are_judged_without_a_word_and_nobody_is_asked(asked_copy):
    before = {path.name: path.stat().st_mtime_ns for path in (asked_copy / "safety").iterdir()}
    for limit, failed in ((0.0, {}), (1.0, {"q8_0", "f16", "w16a16"})):
        limits = f"evaluate.gates={{min_same_outcome: {limit}, min_examples: 1}}"
        make(asked_copy, ASKED, limits, stages=("safety", "gates", "report"))
        assert set(gates_of(asked_copy).failed) <= set(failed)
    after = {path.name: path.stat().st_mtime_ns for path in (asked_copy / "safety").iterdir()}
    assert after == before


def test_gates_that_have_not_judged_these_files_are_told_in_deployment(copy, capfd):
    assert checks_of(copy, "evaluate.gates={max_kl: 1.0e-9}")["q8_0"].failed is None
    assert "evaluate.gates has not judged these files yet" in capfd.readouterr().err
    make(copy, "evaluate.gates={max_kl: 1.0e-9, min_examples: 1}", stages=("gates",))
    assert checks_of(copy)["q8_0"].failed is None, "the recipe has no gates any more"


def test_gates_alone_ask_nobody_anything(copy):
    make(copy, "evaluate.gates={max_kl: 100, min_examples: 1}", stages=("gates",))
    assert not gates_of(copy).failed and not (copy / "safety").exists()


@pytest.mark.parametrize("stage", [safety.STAGE, gates.STAGE])
def test_without_its_section_there_is_no_such_stage(finished, stage):
    assert stage in STAGES
    with pytest.raises(RecipeError, match=f"there is no stage {stage.name} in it"):
        make(finished, stages=(stage.name,))
    assert stage.name not in pipeline.run(recipe_of(finished)).manifests


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("generate.system_prompt=Be brief.", "system_prompt"),
        ("generate.enable_thinking=false", "enable_thinking"),
        ("teacher.server_model=other", "teacher.server_model"),
        ("generate.judge_model=other", "judge_model"),
    ],
)
def test_what_decides_the_prompts_and_who_replies_makes_the_answers_stale(tmp_path, change, name):
    judge = ("generate.judge_min_score=4", "generate.judge_server=http://h:1")
    server = ("teacher.server=http://h:1", *judge, "generate.judge_model=one")
    judged = "evaluate.safety={sets: [harmful], num_requests: 1, judge: true}"
    folder = RunFolder(tmp_path)
    folder.start("safety", safety.STAGE.fingerprint(recipe_of(tmp_path, *server, judged)))
    now = safety.STAGE.fingerprint(recipe_of(tmp_path, *server, judged, change))
    assert [line.split(" was ")[0] for line in folder.changes("safety", now)] == [name]


def test_a_run_folder_of_before_these_were_noted_stays_valid_where_none_is_set(tmp_path):
    now = safety.STAGE.fingerprint(recipe_of(tmp_path, ASKED, "generate.judge_min_score=4"))
    new = ("system_prompt", "enable_thinking", "judge_model")
    section = {key: value for key, value in now.section.items() if key not in new}
    section["teacher"] = {k: v for k, v in section["teacher"].items() if k != "server_model"}
    folder = RunFolder(tmp_path)
    folder.start("safety", Fingerprint(section, now.inputs, now.seed))
    assert folder.changes("safety", now) == []


def test_the_teacher_itself_may_judge_and_its_agreement_is_told(copy):
    judged = "evaluate.safety={sets: [harmless], num_requests: 1, max_new_tokens: 4, judge: true}"
    make(copy, judged, "generate.max_new_tokens=8")
    found = result_of(copy).judge
    assert found is not None and found.num == 5
    assert found.num == found.num_agreed + found.unread + sum(found.confused.values())
