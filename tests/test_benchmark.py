"""The stage `benchmark` on a finished small run: every model, killed and continued, in the report."""

import json
import math
import shutil

import pytest
import torch
from benchmark_helpers import FRUIT, FRUIT_ROWS, RECIPE, SUMS, SUMS_ROWS, write
from run_helpers import SMALL

from distill import benchmark, pipeline
from distill.benchmarks.answering import InTransformers
from distill.core.benchmark_results import BenchmarkResult
from distill.core.jsonl import read_jsonl
from distill.core.run_folder import RunFolder
from distill.errors import DataError, RecipeError
from distill.models import load
from distill.recipe import load_recipe

MODELS = ["teacher", "control", "student", "w16a16", "q8_0", "f16"]


def recipe_of(folder, uses, *more):
    benchmarks = f"evaluate.benchmarks={json.dumps(uses)}"
    return load_recipe(RECIPE, [*SMALL, f"run_folder={folder}", benchmarks, *more])


@pytest.fixture(scope="module")
def uses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    return [
        write(folder, FRUIT, FRUIT_ROWS, "en", "sw"),
        write(folder, SUMS, SUMS_ROWS, "en"),
    ]


@pytest.fixture(scope="module")
def done(finished, uses, tmp_path_factory):
    """A finished run with its benchmarks and the report of them."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(finished, folder)
    recipe = recipe_of(folder, uses)
    pipeline.run(recipe, stages=["benchmark", "report"])
    return recipe, RunFolder(folder)


def result_of(done) -> BenchmarkResult:
    recipe, folder = done
    return folder.require("benchmark", BenchmarkResult, recipe).result


def rows_of(folder, model, name):
    path = folder.stage("benchmark") / model / f"{name}.json"
    return json.loads(path.read_text())["rows"]


def test_every_model_of_the_run_is_asked_in_every_language(done):
    result = result_of(done)
    found = {(s.benchmark, s.language, s.model): s for s in result.scores}
    expected = [("fruit", language) for language in ("en", "sw", "all")] + [("sums", "en")]
    assert sorted(found) == sorted((*each, model) for each in expected for model in MODELS)
    assert not result.not_asked
    for score in result.scores:
        low, high = score.interval
        assert low - 1e-9 <= score.accuracy <= high + 1e-9
        assert (score.by_byte is None) == (score.benchmark == "sums")
    assert found["fruit", "all", "teacher"].num == 8
    facts = {each.name: each for each in result.benchmarks}
    assert facts["fruit"].num == {"en": 4, "sw": 4} and facts["sums"].num == {"en": 3}


def test_log_likelihoods_are_those_of_a_plain_forward_pass_in_either_runtime(done):
    _, folder = done
    student = folder.stage("train") / "student"
    tokenizer, model = (
        load.load_tokenizer(str(student)),
        load.load_model(str(student), load.placement("cpu", "float32")),
    )
    for place, row in enumerate(FRUIT_ROWS):
        context = f"Question: {row['text']}\nAnswer:"
        for choice, text in enumerate((row["one"], row["two"])):
            ids = tokenizer(f"{context} {text}").input_ids
            start = len(tokenizer(context).input_ids)
            with torch.no_grad():
                logits_TV = model(torch.tensor([ids])).logits[0, :, : len(tokenizer)]
            logp_TV = logits_TV.log_softmax(-1)
            plain = sum(float(logp_TV[i - 1, ids[i]]) for i in range(start, len(ids)))
            for name, within in (("student", 1e-3), ("w16a16", 0.05), ("f16", 0.05), ("q8_0", 0.5)):
                found = rows_of(folder, name, "fruit.en")[place]["log_likelihoods"][choice]
                assert math.isclose(found, plain, abs_tol=within), name


def test_files_are_compared_with_the_student_and_the_student_with_teacher_and_control(done):
    pairs = {(d.model, d.against) for d in result_of(done).differences}
    files = {(name, "student") for name in ("w16a16", "q8_0", "f16")}
    trained = {("control", "teacher"), ("student", "teacher"), ("student", "control")}
    assert pairs == files | trained
    scores = {(s.benchmark, s.language, s.model): s.accuracy for s in result_of(done).scores}
    for each in result_of(done).differences:
        of = each.benchmark, each.language
        expected = scores[*of, each.model] - scores[*of, each.against]
        assert each.accuracy.difference == pytest.approx(expected)
        assert each.accuracy.low <= expected + 1e-9 and expected - 1e-9 <= each.accuracy.high


def test_page_and_card_show_them(done):
    _, folder = done
    page = (folder.stage("report") / "report.html").read_text()
    assert "<h2>Benchmarks</h2>" in page and "Fruit" in page and "Sums" in page
    card = (folder.stage("report") / "MODEL_CARD.md").read_text()
    assert "- Fruit (en, sw): teacher " in card


def test_what_is_there_is_not_asked_again(done, uses, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(done[1].path, folder)
    recipe = recipe_of(folder, uses)
    before = result_of(done)
    (folder / "benchmark" / "manifest.json").unlink()
    (folder / "benchmark" / "q8_0" / "fruit.sw.json").unlink()
    asked = []
    real = benchmark.ask

    def counted(model, answerer, questions, advance):
        asked.append((model.name, questions.benchmark.name, questions.language))
        return real(model, answerer, questions, advance)

    monkeypatch.setattr(benchmark, "ask", counted)
    pipeline.run(recipe, stages=["benchmark"])
    assert asked == [("q8_0", "fruit", "sw")]
    assert result_of((recipe, RunFolder(folder))) == before
    (folder / "benchmark" / "manifest.json").unlink()
    (folder / "benchmark" / "started.json").unlink()
    pipeline.run(recipe_of(folder, uses[:1]), stages=["benchmark"])
    assert asked == [("q8_0", "fruit", "sw")], "fewer benchmarks ask nothing anew"


def test_a_kill_loses_a_block_of_questions(done, uses, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(done[1].path, folder)
    recipe, before = recipe_of(folder, uses), result_of(done)
    (folder / "benchmark" / "manifest.json").unlink()
    for path in (folder / "benchmark" / "f16").iterdir():
        path.unlink()
    monkeypatch.setattr(benchmark, "BLOCK", 2)
    asked = []
    real = benchmark.ask

    def killed_at(number):
        def ask(model, answerer, questions, advance):
            if len(asked) == number:
                raise KeyboardInterrupt
            asked.append((questions.benchmark.name, [item.number for item in questions.items]))
            return real(model, answerer, questions, advance)

        return ask

    monkeypatch.setattr(benchmark, "ask", killed_at(1))
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe, stages=["benchmark"])
    monkeypatch.setattr(benchmark, "ask", killed_at(99))
    pipeline.run(recipe, stages=["benchmark"])
    fruit = [("fruit", [0, 1]), ("fruit", [2, 3])]
    assert asked == [*fruit, *fruit, ("sums", [0, 1]), ("sums", [2])]
    assert result_of((recipe, RunFolder(folder))) == before


def test_a_damaged_file_of_rows_is_told_with_the_way_out(done, uses, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[1].path, folder)
    (folder / "benchmark" / "manifest.json").unlink()
    path = folder / "benchmark" / "student" / "fruit.en.json"
    path.write_text(path.read_text().replace('"chosen": ', '"chosen": 1', 1))
    with pytest.raises(DataError, match=r"fruit\.en\.json: broken .* delete it"):
        pipeline.run(recipe_of(folder, uses), stages=["benchmark"])
    path.unlink()
    pipeline.run(recipe_of(folder, uses), stages=["benchmark"])


def test_questions_that_the_training_data_hold_are_counted(copy, tmp_path):
    samples = [row for _, row in read_jsonl(copy / "generate" / "kept.jsonl")]
    copied = {"text": samples[0]["prompt"], "one": "yes", "two": "no", "right": 0}
    use = write(tmp_path, FRUIT, [*FRUIT_ROWS, copied], "en")
    recipe = recipe_of(copy, [use], "quantize.formats=[]")
    asked = benchmark.read_all(recipe)
    assert benchmark.num_copied(asked, samples) == [1]


def test_another_way_of_scoring_asks_anew_and_the_first_is_not_told(uses, monkeypatch):
    recipe = recipe_of("x", uses)
    before = benchmark.STAGE.fingerprint(recipe)
    assert "scoring" not in before.section, "folders that were made before it was told stay valid"
    monkeypatch.setattr(benchmark, "SCORING", 2)
    assert benchmark.STAGE.fingerprint(recipe).section == before.section | {"scoring": 2}


def test_a_recipe_without_benchmarks_has_no_such_stage_and_its_evaluation_does_not_know(uses):
    without, with_them = recipe_of("x", []), recipe_of("x", uses)
    assert benchmark.left_out(without) and benchmark.left_out(with_them) is None
    assert without.evaluate.identity() == with_them.evaluate.identity()
    with pytest.raises(RecipeError, match="there is no stage benchmark"):
        pipeline.run(without, stages=["benchmark"])


def test_a_teacher_on_a_server_is_not_asked_and_that_is_said(done, uses):
    _, folder = done
    served = recipe_of(folder.path, uses, "teacher.server=http://127.0.0.1:9/v1")
    models, not_asked = benchmark.models_of(served, folder)
    assert [model.name for model in models] == MODELS[1:]
    assert list(not_asked) == ["teacher"] and "server" in not_asked["teacher"]


def test_numbers_are_answered_greedily_through_the_chat_template(done):
    recipe, folder = done
    model = benchmark.models_of(recipe, folder)[0][2]
    assert model.name == "student"
    with model.open() as answerer:
        assert isinstance(answerer, InTransformers)
    answers = {
        name: [row["answer"] for row in rows_of(folder, name, "sums.en")]
        for name in ("student", "w16a16", "f16")
    }
    assert answers["student"] == answers["w16a16"] == answers["f16"]
