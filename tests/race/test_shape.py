"""distill shape: students that fit a budget race; killed in the middle the race ends as it would have."""

import json
import os
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from run_helpers import QUICKSTART, ROOT, SMALL, made_once, run_forked, signal_when, start_forked
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from distill import initialize
from distill.core.named_run import open_run
from distill.core.results import TrainResult
from distill.core.run_folder import RunFolder
from distill.core.stored_json import write_json
from distill.errors import DataError, MismatchError, MissingError, RecipeError
from distill.models import load
from distill.models.load import config_of
from distill.pilot import fetch
from distill.race import report, shape, write
from distill.race.candidates import LeftOut
from distill.race.report import outcome_of
from distill.race.stages import Folders
from distill.race.stored import Wishes, store_race, stored_race
from distill.recipe import load_recipe

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"
OVERRIDES = [
    *SMALL,
    "student.method=base",
    f"student.model={TEACHER}",
    "student.budget_mb=1.2",
    "quantize.formats=[f16, q4_0]",
    "train.precision=auto",
]
CHOSEN = {"dtype": "float32", "speedup": 1.0}  # as where bfloat16 is no faster, on any machine
CUT = "trimmed+even4"
OPTIONS = ["--tokens", "2048", "--only", f"even4,{CUT}"]
WISHES = Wishes(2048, ("even4", CUT))


def words(folder, *more):
    return [QUICKSTART, *OVERRIDES, f"run_folder={folder}", *OPTIONS, *more]


def recipe_of(folder, *more):
    return load_recipe(QUICKSTART, [*OVERRIDES, f"run_folder={folder}", *more])


def table(text):
    return text[text.index("shape: student.budget_mb 1.2; ") :]


@pytest.fixture(scope="session")
def raced(tmp_path_factory, finished):
    """A finished race in a run that had its answers and signals. Do not change it."""

    def make(folder):
        shutil.copytree(finished, folder / "run")
        write_json(folder / "run/shape/precision.json", CHOSEN)
        result = run_forked(*words(folder / "run"), word="shape")
        assert result.returncode == 0, result.stderr[-3000:]
        (folder / "said.txt").write_text(result.stdout, encoding="utf-8")
        (folder / "shown.txt").write_text(result.stderr, encoding="utf-8")

    return made_once(tmp_path_factory, "raced", make)


@pytest.fixture
def said(raced):
    return (raced / "said.txt").read_text(encoding="utf-8")


@pytest.fixture
def outcome(raced):
    found = report.finished(recipe_of(raced / "run"), WISHES)
    assert found is not None
    return found


def test_what_fits_is_distilled_and_the_table_says_who_won(raced, said, outcome):
    plan, _, rest = said.partition("held_out ...")
    assert "2 candidates, 2,048 tokens each: about" in plan and "minutes" in plan
    assert "left out: smaller base: the catalogue knows none" in plan and "GB stay below" in plan
    assert {row.name for row in outcome.rows} == {"even4", CUT}
    for row in outcome.rows:
        planned = next(c for c in outcome.race.candidates if c.name == row.name)
        assert row.fits and row.num_bytes <= 1.2e6
        assert row.num_bytes == pytest.approx(planned.size.num_bytes, rel=0.01)
        assert row.measured.num_parameters == planned.size.parameters
        assert row.measured.nll_after < row.measured.nll_before
        nats, num_bytes = sum(row.measured.nats), sum(row.measured.num_bytes)
        assert nats / num_bytes == pytest.approx(row.measured.nll_after, abs=1e-6)
    healed = [row.measured.nll_after for row in outcome.rows]
    assert healed == sorted(healed) and outcome.winner is outcome.rows[0]
    assert f"{outcome.rows[0].name} wins: " in rest and "one training each" in rest


def test_signals_are_shared_with_the_run_and_weights_do_not_stay(raced):
    run = raced / "run"
    for name in ("whole", "trimmed"):
        assert (run / "shape/vocabulary" / name / "capture/signals").resolve() == (
            run / "capture/signals"
        )
    shown = (raced / "shown.txt").read_text(encoding="utf-8")
    captured = [line for line in shown.splitlines() if line.startswith("  capture (")]
    assert len(captured) == 1, "the run had those of its own tokens"
    assert shown.index(captured[0]) > shown.index("train student"), "the second candidate's"
    assert not list((run / "shape").rglob("*.safetensors"))
    assert not list((run / "shape").rglob("checkpoints/*"))
    told = "float32: bfloat16 1.0 times as fast where it began, measured"
    for name in ("even4", CUT):  # one type for all, or types would be compared
        trained = RunFolder(run / "shape" / name).require("train", TrainResult).result
        assert trained.precision == told
    recipe, folder = open_run(str(run / "shape" / CUT))
    assert recipe.train.max_steps == 4 and (folder.path / "quantize/q4_0.gguf").is_file()


def test_the_first_candidates_type_is_the_races_and_stays(tmp_path):
    first, race, second = (
        tmp_path / name / "precision.json" for name in ("a/train", ".", "b/train")
    )
    write_json(first, CHOSEN)
    shape._keep_choice(first, race)
    shape._keep_choice(race, second)
    assert second.read_bytes() == race.read_bytes() == first.read_bytes()
    write_json(second, {**CHOSEN, "speedup": 2.0})
    shape._keep_choice(second, race)
    assert race.read_bytes() == first.read_bytes()
    shape._keep_choice(tmp_path / "none.json", tmp_path / "copy.json")
    assert not (tmp_path / "copy.json").exists()


def test_a_finished_race_is_printed_again_at_once(raced, said, monkeypatch, capsys):
    monkeypatch.setattr(shape, "run", lambda *_, **__: pytest.fail("it races again"))
    from distill.__main__ import main

    assert main(["shape", *map(str, words(raced / "run"))]) == 0
    assert capsys.readouterr().out == table(said)
    assert main(["shape", *map(str, words(raced / "run", "--target", "raspberry pi 5"))]) == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown and "ESTIMATE for Raspberry Pi 5" in shown


@pytest.mark.parametrize("place", ["even4/train/checkpoints/student", f"{CUT}/initialize"])
def test_killed_in_the_middle_it_ends_with_the_same_table(finished, raced, said, tmp_path, place):
    if place.startswith("even4"):
        shutil.copytree(finished, tmp_path / "run")
        write_json(tmp_path / "run/shape/precision.json", CHOSEN)
    else:  # the first candidate is there; the second is begun anew
        shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
        shutil.rmtree(tmp_path / "run/shape" / CUT)
        (tmp_path / "run/shape/shape.json").unlink()
        shutil.rmtree(tmp_path / "run/shape/vocabulary/trimmed")
    child = start_forked(*words(tmp_path / "run"), word="shape")
    path = tmp_path / "run/shape" / place
    assert signal_when(child, path.exists, signal.SIGKILL) == -signal.SIGKILL
    before = (tmp_path / "run/shape/race.json").read_bytes()
    result = run_forked(*words(tmp_path / "run"), word="shape")
    assert result.returncode == 0, result.stderr[-3000:]
    assert table(result.stdout) == table(said)
    assert (tmp_path / "run/shape/race.json").read_bytes() == before
    if not place.startswith("even4"):
        assert "initialize ..." not in result.stdout.split(CUT + "\n")[0], "even4 is made again"


def test_the_winner_is_written_into_the_recipe_and_the_race_still_stands(raced, said, tmp_path):
    (tmp_path / "quickstart").symlink_to(QUICKSTART.parent / "quickstart")
    text = QUICKSTART.read_text(encoding="utf-8")
    start, end = text.index("student:"), text.index("generate:")
    section = text[start:end].replace("method: random", "method: base  ").rstrip()
    section += f"\n  model: {TEACHER}  # the teacher\n  budget_mb: 1.2  # of the phone\n\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text[:start] + section + text[end:], encoding="utf-8")
    path.chmod(0o640)
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    more = [*OVERRIDES[-2:], f"run_folder={tmp_path / 'run'}"]
    arguments = [path, *SMALL, *more, *OPTIONS, "--write"]
    result = run_forked(*arguments, word="shape")
    assert result.returncode == 0, result.stderr
    winner = report.stored_outcome(Folders(RunFolder(tmp_path / "run"))).winner
    assert f"mine.yaml: student is {winner.name} now" in result.stdout
    written = path.read_text(encoding="utf-8")
    assert written.startswith(text[:start]) and written.endswith(text[end:])
    comments = [line.partition("#")[2] for line in section.splitlines() if "#" in line]
    assert all(f"#{comment}\n" in written for comment in comments), written
    assert path.stat().st_mode & 0o777 == 0o640
    recipe = load_recipe(path, [*SMALL, *more])
    assert recipe.student.method == "layers" and recipe.student.budget_mb == 1.2
    again = run_forked(*arguments, word="shape")
    assert table(again.stdout).startswith(table(result.stdout).rpartition("\n")[0][:500])
    assert "already" in again.stdout and path.read_text(encoding="utf-8") == written


def test_where_a_recipe_cannot_be_written_its_section_is_printed(raced, outcome, tmp_path):
    path = tmp_path / "recipe.yaml"
    shutil.copy(raced / "run/recipe.yaml", path)  # sealed by a checksum
    before = path.read_bytes()
    said = write.write(load_recipe(path), outcome)
    assert "not written (it is a run folder's own recipe" in said and path.read_bytes() == before
    section = yaml.safe_load(said.partition("\n")[2])["student"]
    assert section["method"] == "layers" and section["model"] == str(TEACHER)


def test_what_a_task_grades_has_its_column_and_another_winner_by_it_is_told(outcome):
    """A student that predicts best need not solve most."""
    winner, second = outcome.rows

    def solving(row, share):
        measured = replace(row.measured, exact_match=share, interval=(share - 0.05, share + 0.05))
        return replace(row, measured=measured)

    def told(of_winner, of_second):
        rows = [solving(winner, of_winner), solving(second, of_second)]
        return report.text(outcome_of(outcome.race, rows, outcome.decided_by), None)

    other = told(0.1, 0.3)
    lines = {line.split()[0]: line for line in other.splitlines() if line.startswith("  ")}
    assert lines["candidate"].endswith("exact match")
    assert lines[winner.name].endswith("10.0%") and lines[second.name].endswith("30.0%")
    assert (
        f"by exact match it would be {second.name}: 30.0% [25.0%, 35.0%], the winner 10.0%" in other
    )
    assert "by exact match it would be" not in told(0.3, 0.3)


def test_the_verdict_says_when_it_may_be_chance(outcome):
    best, _ = outcome.rows
    text = report.text(outcome, None)
    assert f"{best.name} wins: " in text
    assert "chosen on held-out prompts that the run's report scores, too" in text
    alike = outcome_of(
        outcome.race, [best, best.__class__(**{**vars(best), "name": "twin"})], outcome.decided_by
    )
    assert "that may be chance" in report.text(alike, None)
    alone = outcome_of(outcome.race, [best], outcome.decided_by)
    assert "is the only one that fits" in report.text(alone, None)
    large = best.__class__(**{**vars(best), "fits": False})
    nobody = outcome_of(outcome.race, [large], outcome.decided_by)
    assert "no candidate's file fits" in report.text(nobody, None)
    assert "\n* " in report.text(nobody, None)


def test_what_cannot_be_raced_says_what_to_do(raced, tmp_path):
    for values, said in [
        (["student.budget_mb=null"], "student.budget_mb=500"),
        (["student.budget_mb=0.2"], "no student fits; the smallest is .* MB"),
        (["student.budget_mb=null", "student.parameters=1000"], "no student fits"),
    ]:
        with pytest.raises(RecipeError, match=said):
            shape.run(recipe_of(raced / "run", *values), only_plan=True)
    with pytest.raises(RecipeError, match=r"--only 'even5': .*There are whole, even4"):
        shape.run(recipe_of(raced / "run"), wishes=Wishes(None, ("even5",)), only_plan=True)
    with pytest.raises(MissingError, match=r"`distill generate .*quickstart.yaml"):
        shape.run(recipe_of(tmp_path), only_plan=True)
    assert shape.run(recipe_of(raced / "run"), wishes=WISHES, only_plan=True) is None


def test_another_training_than_before_is_refused_before_any_work(raced, tmp_path):
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    os.remove(tmp_path / "run/shape/shape.json")
    with pytest.raises(MismatchError, match=r"train.learning_rate was .*--redo"):
        shape.run(recipe_of(tmp_path / "run", "train.learning_rate=1e-4"), wishes=WISHES)


def test_a_finished_race_is_not_printed_for_another_recipe(raced, tmp_path, capsys):
    from distill.__main__ import main

    (tmp_path / "run/shape").mkdir(parents=True)  # nothing but shape.json is needed
    shutil.copy(raced / "run/shape/shape.json", tmp_path / "run/shape")
    for value in (
        "train.learning_rate=1e-4",
        "generate.sampling_temperature=0.9",
        "capture.num_draws=40",
        "languages=[en]",
        "seed=5",
    ):
        assert main(["shape", *map(str, words(tmp_path / "run", value, "--write"))]) == 2
        out, err = capsys.readouterr()
        assert not out and f"{value.partition('=')[0]} was " in err and "--redo" in err
    for value in ("train.tracker=tensorboard", "train.repeats=3", "train.control=false"):
        same = recipe_of(tmp_path / "run", value)
        assert report.finished(same, WISHES) is not None, value


def test_a_race_of_other_answers_is_not_printed(raced, tmp_path):
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    path = tmp_path / "run/generate/manifest.json"
    values = json.loads(path.read_text())
    del values["sha256"]
    next(iter(values["files"].values()))["sha256"] = "0" * 64
    path.write_text(json.dumps(values))
    assert report.finished(recipe_of(tmp_path / "run"), WISHES) is None


def files_and_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_plan_changes_nothing_of_a_race(raced, tmp_path, capsys):
    from distill.__main__ import main

    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    before = files_and_times(tmp_path / "run/shape")
    recipe = (tmp_path / "run/recipe.yaml").read_bytes()
    other = ["student.budget_mb=1.1", "--tokens", "512"]
    assert main(["shape", *map(str, words(tmp_path / "run", "--plan", *other[1:]))]) == 0
    assert "512 tokens each" in capsys.readouterr().out
    assert shape.run(recipe_of(tmp_path / "run", other[0]), only_plan=True) is None
    assert (tmp_path / "run/recipe.yaml").read_bytes() == recipe, "what the run was made by"
    for option in ("--redo", "--write"):
        assert main(["shape", *map(str, words(tmp_path / "run", "--plan", option))]) == 2
        assert f"{option} and --plan" in capsys.readouterr().err
    assert files_and_times(tmp_path / "run/shape") == before


def test_a_plan_may_follow_one_of_another_vocabulary(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    vocabulary = "student.vocabulary={{size: {}, max_fertility_loss: null}}"
    for size in (768, 512):
        assert (
            shape.run(recipe_of(tmp_path / "run", vocabulary.format(size)), only_plan=True) is None
        )
    trimmed = json.loads((tmp_path / "run/shape/vocabulary/trimmed/trim/manifest.json").read_text())
    assert trimmed["result"]["vocab_size"] == 512


@pytest.mark.parametrize("is_over", [True, False])
def test_other_tokens_are_refused_with_those_that_it_began_with(raced, tmp_path, is_over):
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    if not is_over:
        os.remove(tmp_path / "run/shape/shape.json")
    before = files_and_times(tmp_path / "run/shape")
    with pytest.raises(MismatchError, match=r"go on with --tokens 2048, or .*--redo"):
        shape.run(recipe_of(tmp_path / "run"), wishes=Wishes(4096, WISHES.only))
    assert files_and_times(tmp_path / "run/shape") == before


def test_a_race_of_more_students_is_refused_before_it_begins_where_one_was_made_otherwise(
    raced, tmp_path
):
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    before = files_and_times(tmp_path / "run/shape")
    other = recipe_of(tmp_path / "run", "train.learning_rate=1e-4")
    with pytest.raises(MismatchError, match=r"train.learning_rate was .*--redo"):
        shape.run(other, wishes=Wishes(None, ("last4", *WISHES.only)))
    assert files_and_times(tmp_path / "run/shape") == before


def refuse_cuts(monkeypatch):
    def refused(*_):
        raise MismatchError("QuickLM: its layers do not run one by one; set student.layers_by=even")

    monkeypatch.setattr(initialize, "cut", refused)


def test_a_candidate_that_its_family_refuses_is_left_out_and_the_others_race(
    raced, tmp_path, monkeypatch
):
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    os.remove(tmp_path / "run/shape/shape.json")
    shutil.rmtree(tmp_path / "run/shape" / CUT)
    refuse_cuts(monkeypatch)
    outcome = shape.run(recipe_of(tmp_path / "run"), wishes=WISHES)
    assert [row.name for row in outcome.rows] == ["even4"]
    text = report.text(outcome, None)
    assert f"left out: {CUT}: QuickLM: its layers do not run" in text
    assert "even4 is the only one that fits" in text


def test_a_race_in_which_nobody_can_take_part_says_why_and_stores_nothing(
    raced, tmp_path, monkeypatch
):
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    os.remove(tmp_path / "run/shape/shape.json")
    shutil.rmtree(tmp_path / "run/shape/even4")
    refuse_cuts(monkeypatch)
    with pytest.raises(MissingError, match=r"no candidate could be raced: even4: QuickLM: its "):
        shape.run(recipe_of(tmp_path / "run"), wishes=Wishes(2048, ("even4",)))
    assert not (tmp_path / "run/shape/shape.json").exists()


def test_a_disk_without_room_is_told_before_the_race(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(shape.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(DataError, match=r"needs about .* GB of disk.*run_folder=PATH"):
        shape.run(recipe_of(tmp_path / "run"), wishes=WISHES)
    assert not Path(tmp_path / "run/shape/even4").exists()


def test_a_student_from_nothing_can_only_be_trimmed(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    overrides = [*SMALL, "student.parameters=430000", f"run_folder={tmp_path / 'run'}"]
    assert shape.run(load_recipe(QUICKSTART, overrides), only_plan=True) is None
    shown = capsys.readouterr().out
    assert "2 candidates" in shown and "random  " in shown and "random+trimmed" in shown


def test_a_mixture_is_planned_with_fewer_experts_in_16_bits(finished, tmp_path, capsys):
    load.load_tokenizer(str(TEACHER)).save_pretrained(tmp_path / "mixture")
    config = Qwen3MoeConfig(
        vocab_size=config_of(TEACHER).vocab_size,
        hidden_size=64,
        moe_intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=2,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "mixture")
    shutil.copytree(finished, tmp_path / "run")
    mixture = [f"student.model={tmp_path / 'mixture'}", "student.licence=apache-2.0"]
    with pytest.raises(MismatchError, match=r"a mixture of experts .*set quantize.formats: \[\]"):
        shape.run(recipe_of(tmp_path / "run", *mixture), only_plan=True)
    limits = ["student.budget_mb=0.7", "quantize.formats=[]"]
    recipe = recipe_of(tmp_path / "run", *mixture, *limits)
    assert shape.run(recipe, only_plan=True) is None
    shown = capsys.readouterr().out
    assert "\n  experts6  " in shown and "\n  trimmed+experts6  " in shown
    assert "left out: GGUF: no such file here holds a mixture" in shown


def in_hub_cache(cache, model_id, **config):
    """Put the quickstart's teacher into a hub cache as a model of this id."""
    folder = cache / f"models--{model_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    shutil.copytree(TEACHER, snapshot)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    values = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps(values | config))


def test_a_smaller_base_of_the_family_races_where_it_is_to_be_had(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    in_hub_cache(tmp_path / "hub", "Qwen/Qwen3-1.7B")
    kinds = ["full_attention"] * 3
    in_hub_cache(tmp_path / "hub", "Qwen/Qwen3-0.6B", num_hidden_layers=3, layer_types=kinds)
    shutil.copytree(finished, tmp_path / "run")
    recipe = recipe_of(tmp_path / "run", "student.model=Qwen/Qwen3-1.7B")
    assert shape.run(recipe, only_plan=True) is None
    shown = capsys.readouterr().out
    assert "\n  Qwen3-0.6B  " in shown and "\n  trimmed+even4  " in shown
    assert "left out: Qwen2.5-1.5B: model 'Qwen/Qwen2.5-1.5B'" in shown
    assert "the hub cannot be reached" in shown
    advised = next(c for c in re.findall(r"`(distill fetch .*?)`", shown) if "Qwen2.5-1.5B" in c)
    _, _, path, *overrides = shlex.split(advised)
    wanted = fetch.wanted_models(load_recipe(path, overrides))
    assert any(one.id == "Qwen/Qwen2.5-1.5B" and w.weights for one, w in wanted.items())


def test_a_finished_race_goes_on_when_a_base_that_was_missing_is_here(
    raced, outcome, tmp_path, monkeypatch
):
    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    recipe = recipe_of(tmp_path / "run")
    missing = LeftOut("Qwen3-0.6B", "not here", missing="Qwen/Qwen3-0.6B")
    race = replace(outcome.race, left_out=[missing])
    report.store(Folders(RunFolder(tmp_path / "run")), replace(outcome, race=race))
    assert report.finished(recipe, WISHES) is not None
    in_hub_cache(hub, "Qwen/Qwen3-0.6B")
    assert report.finished(recipe, WISHES) is None
    next(hub.rglob("*.safetensors")).unlink()
    assert report.finished(recipe, WISHES) is not None, "its weights are not here yet"


def test_a_base_without_its_weights_is_left_out_in_the_race_with_what_brings_it(
    raced, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    in_hub_cache(tmp_path / "hub", "Qwen/Qwen3-0.6B")
    next((tmp_path / "hub").rglob("*.safetensors")).unlink()
    shutil.copytree(raced / "run", tmp_path / "run", symlinks=True)
    recipe = recipe_of(tmp_path / "run")
    folders = Folders(RunFolder(tmp_path / "run"))
    race = stored_race(folders)
    own = race.candidates[0]
    other = replace(own, name="Qwen3-0.6B", values={**own.values, "model": "Qwen/Qwen3-0.6B"})
    store_race(folders, replace(race, candidates=[own, other]))
    outcome = shape.run(recipe, wishes=WISHES)
    (out,) = [out for out in outcome.race.left_out if out.missing]
    assert out.missing == "Qwen/Qwen3-0.6B"
    shown = capsys.readouterr().out
    assert "Qwen3-0.6B is left out: " in shown, shown
    assert "student.model=Qwen/Qwen3-0.6B`" in shown, shown
    assert "RECIPE" not in shown
