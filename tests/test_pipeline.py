"""The pipeline knows no stage by name: one that is defined here runs in its place."""

import re
import shutil
from dataclasses import dataclass, replace

import pytest
from run_helpers import QUICKSTART, SMALL

from distill import pipeline
from distill.core.jsonl import read_jsonl
from distill.core.results import GenerateResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage, always, nothing
from distill.errors import DataError, MismatchError, MissingError, RecipeError
from distill.plan import stage_costs
from distill.planning.costs import Workload
from distill.planning.machine import Machine
from distill.recipe import load_recipe

FEW = ["generate.num_prompts=6", "generate.max_new_tokens=200", "generate.task=null"]
MACHINE = Machine(cores=2, memory=1e12, disk_free=1e12, gpu=None, gpu_memory=0.0, flops=1e9)


@dataclass(frozen=True)
class CountResult:
    num_characters: int
    longest: str


def count(recipe, folder, processes):
    samples = [row for _, row in read_jsonl(folder.stage("generate") / "kept.jsonl")]
    answers = [row["answer"] for row in samples]
    path = folder.stage("count") / "counts.txt"
    path.write_text(f"{len(''.join(answers))}\n")
    return StageOutput(CountResult(len("".join(answers)), max(answers, key=len)), [path])


COUNT = Stage(
    "count",
    "count the characters of the answers",
    count,
    CountResult,
    section=lambda recipe: {"languages": recipe.languages},
    reads=always("generate"),
    cost=lambda work: Cost(memory=1e6, seconds=work.num_samples / 1e3),
)
PLACE = [stage.name for stage in pipeline.STAGES].index("capture")
WITH_COUNT = (*pipeline.STAGES[:PLACE], COUNT, *pipeline.STAGES[PLACE:])


@pytest.fixture
def recipe(tmp_path):
    return lambda *more: load_recipe(QUICKSTART, [*FEW, f"run_folder={tmp_path / 'run'}", *more])


def run(recipe, *stages, **options):
    return pipeline.run(recipe, stages=stages, pipeline=WITH_COUNT, **options)


def test_a_stage_defined_here_runs_in_its_place(recipe, capsys):
    with pytest.raises(MissingError, match=r"generate: not finished; run `distill generate"):
        run(recipe(), "count")
    result = run(recipe(), "count", "generate")  # in the pipeline's order, not in ours
    lines = capsys.readouterr().out.splitlines()
    assert lines.index("generate ...") < lines.index("count ...")
    assert list(result.manifests) == ["generate", "count"]
    assert result.manifests["count"].result.num_characters >= len(
        result.manifests["count"].result.longest
    )
    assert list(result.manifests["count"].files) == ["counts.txt"]

    run(recipe(), "generate", "count")
    assert "everything is done (generate, count)" in capsys.readouterr().out


def test_what_makes_it_stale_is_told_and_it_is_made_anew_on_demand(recipe):
    first = run(recipe(), "generate", "count").manifests["count"]
    folder = RunFolder.of(recipe())
    assert folder.changes("count", Fingerprint({"languages": ["en"]}, first.inputs)) == [
        f"languages was {first.section['languages']!r}, is now ['en']"
    ]
    with pytest.raises(MismatchError, match=r"generate was made by another recipe"):
        run(recipe("generate.max_new_tokens=201"), "generate", "count")
    again = run(recipe(), "generate", "count", redo="count").manifests["count"]
    assert again.result == first.result and (folder.path / "count.replaced-1").is_dir()
    assert not list(folder.path.glob("generate.replaced-*")), "it comes before"


def test_an_earlier_stage_of_another_recipe_is_told_before_one_stage_reads_it(recipe, capsys):
    """Nothing but the recipe is asked: the prompts may be on another machine."""
    run(recipe(), "generate")
    capsys.readouterr()
    run(recipe(), "count", redo="count")
    assert "warning" not in capsys.readouterr().err
    other = recipe("generate.sampling_temperature=0.123", "generate.prompts=elsewhere.jsonl")
    told = r"warning: .*/generate was made by another recipe: .*temperature was .* now 0\.123"
    run(other, "count", redo="count")
    assert re.search(told, capsys.readouterr().err)
    pipeline.run_shard(other, "capture", (0, 2))
    assert re.search(told, capsys.readouterr().err)


def test_what_is_changed_of_the_stage_itself_is_no_news_to_it(copy, capsys):
    """The plan, which the report reads, was made by the whole recipe."""
    recipe = load_recipe(QUICKSTART, [*SMALL, f"run_folder={copy}", "report.title=Mine"])
    pipeline.run(recipe, stages=["report"])
    assert "warning" not in capsys.readouterr().err
    recipe = load_recipe(QUICKSTART, [*SMALL, f"run_folder={copy}", "teacher.licence=mit"])
    pipeline.run(recipe, stages=["report"])
    told = capsys.readouterr().err
    assert "/plan was made by another recipe: teacher.licence was " in told
    assert "/generate was made by another recipe" in told


def test_a_stage_that_reads_another_one_now_is_told(recipe, capsys):
    """Files that were made of one student are not shown as another one's in silence."""
    run(recipe(), "generate", "count")
    plain = tuple(replace(s, reads=nothing) if s is COUNT else s for s in WITH_COUNT)
    last = replace(COUNT, name="last", reads=always("count"))
    capsys.readouterr()
    with pytest.raises(ValueError, match="subpath"):  # it writes into the other stage's folder
        pipeline.run(recipe(), stages=["last"], pipeline=(*plain, last))
    assert "its input `generate` has changed. It is read as it is" in capsys.readouterr().err


def test_a_plan_made_anew_leaves_what_the_run_has_made(copy, capsys):
    recipe = load_recipe(QUICKSTART, [*SMALL, f"run_folder={copy}"])
    pipeline.run(recipe, stages=["plan"], redo="plan")
    assert "plan: done in" in capsys.readouterr().out
    assert not list(copy.glob("*.replaced-*"))
    pipeline.run(recipe)
    assert "train: already done" in (said := capsys.readouterr().out) and "train ..." not in said


def test_what_a_redo_sets_aside_is_told(recipe, capsys):
    run(recipe(), "generate", "count")
    capsys.readouterr()
    run(recipe(), "count", redo="count")
    assert "--redo count: what was made before is in count.replaced-1\n" in capsys.readouterr().out


def test_a_redo_that_could_not_go_on_sets_nothing_aside(recipe):
    run(recipe(), "generate", "count")
    folder = RunFolder.of(recipe())
    with pytest.raises(
        MismatchError, match=r"generate was made by another recipe.*--redo generate"
    ):
        run(recipe("generate.sampling_temperature=0.123"), "generate", "count", redo="count")
    with pytest.raises(
        RecipeError, match=r"--redo generate sets aside .*`distill run .* --redo generate`"
    ):
        run(recipe(), "count", redo="generate")
    reads_more = replace(COUNT, reads=always("generate", "capture"))
    stages = tuple(reads_more if s is COUNT else s for s in WITH_COUNT)
    with pytest.raises(MissingError, match=r"capture: not finished"):
        pipeline.run(recipe(), stages=["count"], redo="count", pipeline=stages)
    assert folder.manifest("count", CountResult) is not None
    assert not list(folder.path.glob("*.replaced-*"))


def test_what_is_only_planned_is_not_noted_as_what_the_folder_was_made_by(recipe):
    run(recipe(), "generate")
    made_by = RunFolder.of(recipe()).path / "recipe.yaml"
    before = made_by.read_bytes()
    run(recipe("train.epochs=17"), "plan")
    assert made_by.read_bytes() == before


def test_a_stage_that_the_recipe_leaves_out_is_passed_over(recipe):
    english = replace(COUNT, left_out=lambda r: None if r.languages == ["en"] else "not English")
    stages = (*pipeline.STAGES[:PLACE], english)
    result = pipeline.run(recipe(), stages=["generate"], pipeline=stages)
    assert list(result.manifests) == ["generate"]
    costs = stage_costs(Workload.of(recipe(), MACHINE), stages[1:])
    assert "count" not in costs and "generate" in costs
    refused = pytest.raises(RecipeError, match=r"quickstart\.yaml: .* no stage count .*not English")
    with refused:
        pipeline.run(recipe(), pipeline=stages, stages=["count"])
    with refused:
        pipeline.run(recipe(), pipeline=stages, redo="count")


def test_the_plan_counts_what_it_costs(recipe):
    work = Workload.of(recipe(), MACHINE)
    costs = stage_costs(work, [*pipeline.PLANNED, COUNT])
    assert costs["count"] == Cost(1e6, work.num_samples / 1e3)


def test_results_are_read_as_their_stages_declare_them(recipe):
    result = run(recipe(), "generate", "count")
    assert isinstance(result.manifests["generate"].result, GenerateResult)
    assert isinstance(result.manifests["count"].result, CountResult)


def damage(path, way):
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    if way == "a flipped bit":
        path.write_bytes(data[:100] + bytes([data[100] ^ 4]) + data[101:])
    elif way == "cut at the end of a line":
        path.write_bytes(b"".join(lines[:-1]))
    elif way == "doubled":
        path.write_bytes(data * 2)
    elif way == "other rows, as long":
        path.write_bytes(b"".join(reversed(lines)))
    else:
        path.unlink()


@pytest.mark.parametrize(
    "way", ["a flipped bit", "cut at the end of a line", "doubled", "other rows, as long", "gone"]
)
def test_nothing_is_made_of_a_damaged_file_and_the_way_out_works(recipe, way):
    good = run(recipe(), "generate", "count").manifests["count"].result
    folder = RunFolder.of(recipe())
    damage(folder.stage("generate") / "kept.jsonl", way)
    folder.set_aside("count", keep_files=False)
    with pytest.raises(DataError, match=r"generate/kept\.jsonl: .*--redo generate"):
        run(recipe(), "count")
    again = run(recipe(), "generate", "count", redo="generate")
    assert again.manifests["count"].result == good


def test_a_redo_on_a_damaged_file_is_refused_and_what_was_made_stays(recipe):
    run(recipe(), "generate", "count")
    kept = RunFolder.of(recipe()).stage("generate") / "kept.jsonl"
    whole = kept.read_bytes()
    kept.write_bytes(whole.replace(b"e", b"o", 1))
    with pytest.raises(DataError, match=r"generate/kept\.jsonl: its content is not"):
        run(recipe(), "count", redo="count")
    kept.write_bytes(whole)
    assert RunFolder.of(recipe()).manifest("count", CountResult) is not None


def test_a_finished_stage_whose_file_is_gone_is_not_called_done(recipe):
    run(recipe(), "generate", "count")
    (RunFolder.of(recipe()).stage("count") / "counts.txt").unlink()
    with pytest.raises(DataError, match=r"count/counts\.txt: gone; .*--redo count"):
        run(recipe(), "generate", "count")
    run(recipe(), "generate", "count", redo="count")
    run(recipe(), "generate", "count")


@pytest.mark.parametrize("gone", ["count", "."])
def test_a_folder_that_is_deleted_in_the_middle_is_told_and_the_way_out_works(recipe, gone):
    run(recipe(), "generate")
    folder = RunFolder.of(recipe())

    def count_and_lose(recipe, folder, processes):
        output = count(recipe, folder, processes)
        shutil.rmtree(folder.path / gone)
        return output

    losing = tuple(replace(s, run=count_and_lose) if s is COUNT else s for s in WITH_COUNT)
    with pytest.raises(DataError, match=r"counts\.txt: No such file.*run the same command"):
        pipeline.run(recipe(), stages=("generate", "count"), pipeline=losing)
    run(recipe(), "generate", "count")
    assert folder.manifest("count", CountResult) is not None
