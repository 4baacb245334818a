"""Whole runs with two teachers on the quickstart's prompts: of one tokenizer, and of two."""

import json
import time

import pytest
from log_helpers import read_row_logs
from run_helpers import killed_when, run_forked, sha
from several_helpers import TEACHER, entry, like_the_teacher, with_other_tokens, words

from distill import chat
from distill.data.prompts import split_prompts
from distill.data.routes import route_of
from distill.data.stored_samples import read_samples
from distill.models import load
from distill.pipeline import run
from distill.recipe import load_recipe
from distill.signals.store import SignalStore, sequence_key

MORE = (
    "generate.num_prompts=30",
    "train.control=false",
    "train.epochs=1",
    "quantize.formats=[]",
)
EAST = ("en", "zh")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("teachers")
    return {"other": with_other_tokens(place / "other"), "alike": like_the_teacher(place / "alike")}


def words_of(run_folder, second, *more):
    """The words of a run whose second teacher, in `second`, answers what is not in EAST."""
    teachers = [entry("east", TEACHER, languages="[en, zh]"), entry("south", second)]
    return words(run_folder, *teachers, more=(*MORE, *more))


def recipe_of(run_folder, second, *more):
    source, *overrides = map(str, words_of(run_folder, second, *more))
    return load_recipe(source, overrides)


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """Return the folder of a whole run by its second teacher."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            run(recipe_of(made[name], folders[name]))
        return made[name]

    return of


def result(folder, stage):
    return json.loads((folder / stage / "manifest.json").read_text())["result"]


def samples_of(folder, name):
    return [s for s in read_samples(folder / "generate/kept.jsonl") if s.teacher == name]


def test_each_answer_is_its_own_teachers_and_the_student_learns_in_one_tokenizer(whole, folders):
    folder = whole("other")
    rows = {row["key"]: row for row in read_row_logs(folder / "generate/raw")[0]}
    own = load.load_tokenizer(str(TEACHER))
    for name, place in {"east": TEACHER, "south": folders["other"]}.items():
        tokenizer, samples = load.load_tokenizer(str(place)), samples_of(folder, name)
        assert samples
        for sample in samples:
            assert (sample.language in EAST) == (name == "east")
            row = rows[sample.key]
            assert row["teacher"] == str(place)
            assert chat.text_of(tokenizer, row["token_ids"]) == sample.answer
            assert chat.text_of(own, sample.answer_ids) == sample.answer
    shares = {share["name"]: share for share in result(folder, "generate")["teachers"]}
    assert {name: share["num_kept"] for name, share in shares.items()} == {
        name: len(samples_of(folder, name)) for name in shares
    }
    assert shares["east"]["retokenized"] is None and "id 300" in shares["south"]["retokenized"]


def test_a_teacher_of_other_tokens_gives_text_and_that_is_counted(whole):
    folder = whole("other")
    east, south = result(folder, "capture")["teachers"]
    samples = samples_of(folder, "south")
    assert south["folder"] is None and "has id 300" in south["why_text"]
    assert south["num_sequences"] == len(samples)
    assert south["num_tokens"] == sum(len(s.answer_ids) for s in samples)
    store = SignalStore(folder / "capture/signals" / east["folder"])
    keys = {sequence_key(s.ids, len(s.prompt_ids)) for s in samples_of(folder, "east")}
    assert set(store.keys()) == keys
    report = (folder / "report/report.html").read_text()
    assert "Of south (" in report and "without a soft loss" in report
    assert "learnt from their text alone" in (folder / "report/MODEL_CARD.md").read_text()


def test_teachers_of_one_tokenizer_both_give_a_signal_and_the_store_knows_whose(whole):
    folder = whole("alike")
    signals = result(folder, "capture")["teachers"]
    stores = {s["name"]: SignalStore(folder / "capture/signals" / s["folder"]) for s in signals}
    assert (
        stores["east"].header.fingerprints["teacher"]
        != stores["south"].header.fingerprints["teacher"]
    )
    for name, store in stores.items():
        samples = samples_of(folder, name)
        assert {sequence_key(s.ids, len(s.prompt_ids)) for s in samples} == set(store.keys())


def test_held_out_prompts_are_their_own_teachers_and_the_report_has_a_line_each(whole, folders):
    folder = whole("other")
    recipe = recipe_of(folder, folders["other"])
    evaluated = result(folder, "evaluate")
    held_out = split_prompts(recipe)[1]
    for name in ("east", "south"):
        prompts = [p.id for p in held_out if route_of(recipe, p) == name]
        figures = json.loads((folder / f"evaluate/teacher-{name}.json").read_text())
        assert [e["prompt_id"] for e in figures["examples"]] == prompts
        assert evaluated["teachers"][name]["num_examples"] == len(prompts) > 0
    together = json.loads((folder / "evaluate/teacher.json").read_text())
    assert [e["prompt_id"] for e in together["examples"]] == [p.id for p in held_out]
    num_right = sum(e["right"] for e in together["examples"])
    assert together["exact_match"] == num_right / len(held_out)
    student = json.loads((folder / "evaluate/student.json").read_text())
    num_bytes = [e["num_bytes"] for e in student["examples"]]
    assert num_bytes == [e["num_bytes"] for e in together["examples"]]
    lines = result(folder, "report")["text"].splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "teacher",
        "teacher east",
        "teacher south",
        "student",
    ]
    assert evaluated["tokenizers_differ"] and not evaluated["teachers"]["east"]["tokenizers_differ"]


def test_a_second_run_does_nothing_and_quickly(whole, folders, capsys):
    recipe = recipe_of(whole("other"), folders["other"])
    began = time.process_time()
    run(recipe)
    assert "everything is done" in capsys.readouterr().out
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("second", ["other", "alike"])
def test_killed_in_generate_and_in_capture_it_ends_with_the_same_bits(
    second, whole, folders, tmp_path
):
    unbroken = whole(second)
    arguments = [*words_of(tmp_path, folders[second]), "--stages", "generate,capture"]
    raw = tmp_path / "generate/raw"
    num_first = result(unbroken, "generate")["teachers"][0]["num_asked"]
    in_second = killed_when(arguments, lambda: len(read_row_logs(raw)[0]) > num_first + 2)
    signals = tmp_path / "capture/signals"
    in_capture = killed_when(arguments, lambda: any(signals.glob("*/*.shard")))
    assert in_second != 0 and in_capture in (0, -9)
    done = run_forked(*words_of(tmp_path, folders[second]), "--stages", LEARNING)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("generate/kept.jsonl", "train/student/model.safetensors"):
        assert sha(tmp_path / name) == sha(unbroken / name), name
    rows = read_row_logs(raw)[0]
    assert len({row["key"] for row in rows}) == len(rows), "nothing was asked twice"


LEARNING = "generate,capture,initialize,train"


def test_jobs_that_claim_blocks_make_what_one_run_makes(whole, folders, tmp_path):
    arguments = words_of(tmp_path, folders["alike"])
    for stage in ("generate", "capture"):
        done = run_forked(*arguments, "--shard", "auto", word=stage)
        assert done.returncode == 0, done.stderr[-2000:]
        before = sorted(tmp_path.rglob("*.shard")), read_row_logs(tmp_path / "generate/raw")[0]
        assert run_forked(*arguments, "--stages", stage).returncode == 0
        after = sorted(tmp_path.rglob("*.shard")), read_row_logs(tmp_path / "generate/raw")[0]
        assert before == after, "nothing was asked or captured again"
    assert sha(tmp_path / "generate/kept.jsonl") == sha(whole("alike") / "generate/kept.jsonl")
