"""A GGUF file as the teacher: what it says is what transformers says of the same weights, and nothing is asked twice."""

import json

import numpy as np
import pytest
from log_helpers import read_row_logs
from run_helpers import QUICKSTART, ROOT

from distill import capture, evaluate, generate, plan
from distill.core import shutdown
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.errors import MismatchError, MissingError, RecipeError, Stopped
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.pipeline import PLANNED
from distill.recipe import load_recipe
from distill.signals.store import SignalStore
from distill.teachers import connect
from distill.teachers.keys import request_maker
from distill.teachers.listening import header_of
from distill.teachers.requests import RequestOptions

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
FEW = [
    "generate.num_prompts=24",
    "generate.max_new_tokens=48",
    "teacher.batch_tokens=500",
    "evaluate.num_examples=4",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    def write(kind):
        path = tmp_path_factory.mktemp("gguf") / f"{kind}.gguf"
        write_gguf(TEACHER, path, kind, metadata={})
        return path

    return {kind: write(kind) for kind in ("f32", "q8_0")}


def recipe_of(folder, file, *more):
    source = [f"teacher.gguf={file}"] if file else []
    return load_recipe(QUICKSTART, [*FEW, *source, f"run_folder={folder}", *more])


def asked(recipe):
    output = generate.run(recipe, RunFolder.of(recipe), Processes())
    rows = read_row_logs(RunFolder.of(recipe).stage("generate") / "raw")[0]
    return output.result, rows


def test_killed_in_the_middle_it_goes_on_to_the_same_answers_and_asks_none_twice(
    tmp_path, file, monkeypatch
):
    result, whole = asked(recipe_of(tmp_path / "whole", file["q8_0"]))
    assert result.num_kept > 5 and len({len(row["token_ids"]) for row in whole}) > 5

    recipe, count = recipe_of(tmp_path / "killed", file["q8_0"]), iter(range(100))
    with monkeypatch.context() as patch:

        def stop():
            if next(count) == 7:
                raise Stopped("here")

        patch.setattr(shutdown, "check", stop)
        with pytest.raises(Stopped):
            asked(recipe)
    _, rows = asked(recipe)
    assert sorted(r["key"] for r in rows) == sorted({r["key"] for r in whole})
    assert {r["key"]: r["token_ids"] for r in rows} == {r["key"]: r["token_ids"] for r in whole}
    kept = [(tmp_path / name / "generate/kept.jsonl").read_bytes() for name in ("whole", "killed")]
    assert kept[0] == kept[1]


def test_its_signal_is_that_of_the_model_it_was_made_from(tmp_path, file):
    asked(recipe_of(tmp_path, file["f32"]))
    stores = []
    for source in (file["f32"], None):
        recipe = recipe_of(tmp_path, source)
        output = capture.run(recipe, RunFolder.of(recipe), Processes())
        stores.append(SignalStore(tmp_path / "capture/signals" / output.result.folder))
    ours, theirs = stores
    assert (
        ours.folder != theirs.folder
        and set(ours.keys()) == set(theirs.keys())
        and ours.num_tokens == theirs.num_tokens
    )
    fingerprints = ours.header.fingerprints
    assert (fingerprints["teacher_dtype"], fingerprints["teacher_quantization"]) == ("gguf", "F32")
    same = 0
    for key in ours.keys():  # noqa: SIM118 - not a dict
        a, b = ours.read(key), theirs.read(key)
        assert (
            np.abs(a.target_logp - b.target_logp).max() < 2e-3
            and np.abs(a.entropy - b.entropy).max() < 2e-2
        )
        pairs = zip(np.split(a.ids, a.offsets[1:-1]), np.split(b.ids, b.offsets[1:-1]), strict=True)
        same += sum(np.array_equal(x, y) for x, y in pairs)
    assert same > 0.98 * ours.num_tokens, "the same uniform numbers draw the same ids"


def test_another_file_is_another_teacher(tmp_path, file):
    prompts, _ = generate.split_prompts(recipe_of(tmp_path, None))
    teachers = [connect(recipe_of(tmp_path, f)) for f in (None, *file.values())]
    keys = {
        request_maker(teacher, RequestOptions.of(teacher.recipe))(prompts[0], 0).key
        for teacher in teachers
    }
    assert len(keys) == 3
    headers = [header_of(teacher).fingerprints for teacher in teachers[1:]]
    assert [h["teacher_quantization"] for h in headers] == ["F32", "Q8_0"] and headers[0][
        "teacher"
    ] != headers[1]["teacher"]


def test_it_is_evaluated_like_the_model_it_was_made_from(tmp_path, file):
    found = []
    for source in (file["f32"], None):
        recipe = recipe_of(tmp_path, source, "evaluate.max_new_tokens=32")
        prompts = generate.split_prompts(recipe)[1]
        own = evaluate.TeacherEval(connect(recipe), tmp_path, tmp_path, prompts)
        (tmp_path / "teacher.json").unlink(
            missing_ok=True
        )  # the answers stay: both are scored on the same
        with Progress("evaluate", len(prompts), "answers", shown=False) as bar:
            eval_set = evaluate.evaluate_teacher(own, bar)
        assert any(eval_set.teacher_ids)
        found.append(json.loads((tmp_path / "teacher.json").read_text()))
    ours, theirs = found
    assert ours["runtime"] == "llama.cpp, cpu" and ours["nll"] == pytest.approx(
        theirs["nll"], abs=1e-3
    )
    assert [e["answer"] for e in ours["examples"]] == [e["answer"] for e in theirs["examples"]]


def test_what_a_file_cannot_do_is_refused_with_the_way_out(tmp_path, file, model_folder):
    for more, words in (
        (["capture.hidden_states=int8"], "llama.cpp gives logits only: set hidden_states to none"),
        (["teacher.server=http://localhost:1"], "remove one of them"),
        (["teacher.quantization=nf4"], "remove gguf"),
    ):
        with pytest.raises(RecipeError, match=words):
            recipe_of(tmp_path, file["q8_0"], *more)
    with pytest.raises(MissingError, match=r"teacher\.gguf: .*no such file"):
        asked(recipe_of(tmp_path, tmp_path / "absent.gguf"))
    other = tmp_path / "other.gguf"
    write_gguf(model_folder("qwen3"), other, "f16")
    with pytest.raises(
        MismatchError, match=r"teacher\.gguf: .*another tokenizer than teacher\.model"
    ):
        asked(recipe_of(tmp_path, other))


def test_the_plan_counts_the_file(tmp_path, file):
    costs = []
    for source in (file["q8_0"], None):
        recipe = recipe_of(tmp_path, source)
        costs.append(plan.make_plan(recipe, RunFolder.of(recipe), PLANNED).stages["capture"].memory)
    assert costs[0] < costs[1]


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_neighbours_do_not_move_a_quantized_files_logits(tmp_path, model_folder, kind):
    """What lets a killed run go on with the missing answers alone."""
    path = tmp_path / f"{kind}.gguf"
    write_gguf(model_folder("qwen3"), path, kind)
    prompts = [[5 + i, 6, 7, *range(20, 20 + i)] for i in range(7)]
    seen = []
    for num_sequences in (1, 3):
        logits = {}

        def choose(logits_NV, places, logits=logits):
            logits.update(
                {place: row.tobytes() for place, row in zip(places, logits_NV, strict=True)}
            )
            return [int(row[:500].argmax()) for row in logits_NV]

        with LlamaModel(
            path, num_threads=1, context_length=40, num_sequences=num_sequences
        ) as llama:
            llama.generate(prompts, 10, [], choose=choose)
        seen.append(logits)
    assert len(seen[0]) == 70 and seen[0] == seen[1]
