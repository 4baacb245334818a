"""The type of a teacher that is loaded here: chosen for what it is about to do, in the run's folder."""

import gc
import weakref

import pytest
from run_helpers import QUICKSTART
from several_helpers import TEACHER, entry, words

from distill.core.run_folder import RunFolder
from distill.models import precision
from distill.models.load import Placement
from distill.race.stages import Folders
from distill.recipe import load_recipe
from distill.teachers import connect, connect_to_capture

FLOAT32, BFLOAT16 = Placement("cpu", "float32"), Placement("cpu", "bfloat16")
WORDS = [
    "teacher.device=cpu",
    "teacher.dtype=auto",
    "teacher.batch_tokens=1500",
    "generate.max_new_tokens=100",
]


@pytest.fixture
def measured(monkeypatch):
    """Make this a machine that multiplies bfloat16 twice as fast; return what was measured on it."""
    asked = []

    def twice(matrices, num_rows, *, trains):
        asked.append((matrices.num_numbers, num_rows, trains))
        return 2.0

    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "measured_speedup", twice)
    return asked


def test_answers_are_measured_with_few_rows_and_capture_with_many(measured, tmp_path):
    recipe, folder = load_recipe(QUICKSTART, WORDS), RunFolder(tmp_path)
    for teacher in (connect(recipe, folder), connect_to_capture(recipe, folder)):
        assert teacher.describe() == "cpu, bfloat16"
        assert teacher.precision() == ("bfloat16", "none")
        assert teacher.type_told == "bfloat16: 2.0 times float32 here, measured"
    assert [rows for _, rows, _ in measured] == [15, 1500]
    assert {numbers > 2e6 and not trains for numbers, _, trains in measured} == {True}
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json")) == [
        "capture/precision.json",
        "generate/precision.json",
    ]
    again = connect(recipe, folder)
    assert again.type_told == "bfloat16: 2.0 times float32 where it began, measured"
    assert len(measured) == 2


@pytest.mark.parametrize("made", ["generate/raw/a.jsonl", "capture/signals/1f/a.shard"])
def test_what_an_earlier_version_has_made_is_gone_on_with_in_float32(measured, tmp_path, made):
    recipe, folder = load_recipe(QUICKSTART, WORDS), RunFolder(tmp_path)
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).touch()
    kinds = {"generate": connect, "capture": connect_to_capture}
    dtypes = {name: kind(recipe, folder).precision()[0] for name, kind in kinds.items()}
    began = made.partition("/")[0]
    assert dtypes.pop(began) == "float32" and set(dtypes.values()) == {"bfloat16"}
    assert not (tmp_path / began / "precision.json").exists()


def test_signals_that_lie_in_another_folder_have_that_ones_type(measured, tmp_path):
    """A vocabulary of a race links to the run's signals: one teacher, in one type."""
    recipe, run = load_recipe(QUICKSTART, WORDS), RunFolder(tmp_path / "run")
    raced = Folders(run).of_vocabulary("trimmed")
    first = connect_to_capture(recipe, raced)
    assert first.precision() == ("bfloat16", "none")
    shard = raced.stage("capture") / "signals" / "1f" / "a.shard"
    shard.parent.mkdir(parents=True)
    shard.touch()
    for folder in (run, Folders(run).of_vocabulary("whole")):
        later = connect_to_capture(recipe, folder)
        assert later.precision() == ("bfloat16", "none")
        assert later.type_told == "bfloat16: 2.0 times float32 where it began, measured"
    assert len(measured) == 1
    assert [p.parent.name for p in tmp_path.rglob("precision.json")] == ["capture"]


def test_each_of_several_teachers_has_a_type_of_its_own(measured, tmp_path):
    east = entry("east", TEACHER, device="cpu", dtype="auto", languages="[en, zh]")
    south = entry("south", TEACHER, device="cpu", dtype="auto")
    source, *overrides = map(str, words(tmp_path, east, south))
    recipe = load_recipe(source, overrides)
    folder = RunFolder(tmp_path)
    views = recipe.views
    first = connect(views[0], folder)
    assert first.precision() == ("bfloat16", "none")
    answer = tmp_path / "generate" / "raw" / "a.jsonl"
    answer.parent.mkdir()
    answer.touch()
    second = connect(views[1], folder)
    assert second.precision() == ("bfloat16", "none"), "what the first has written is not its own"
    assert len(measured) == 2 and str(second.type_told).endswith("here, measured")


def test_a_type_that_the_recipe_says_is_not_measured(measured, tmp_path):
    recipe = load_recipe(QUICKSTART, [*WORDS, "teacher.dtype=float32"])
    assert connect(recipe, RunFolder(tmp_path)).describe() == "cpu, float32"
    assert not measured and not list(tmp_path.iterdir())


def test_once_it_is_closed_its_weights_are_gone_though_nothing_else_collects_them(tmp_path):
    """A model is a ring of references, and the next one may need its memory."""
    recipe = load_recipe(QUICKSTART, [*WORDS, "teacher.dtype=float32"])
    gc.disable()
    try:
        with connect(recipe, RunFolder(tmp_path)) as teacher:
            model = weakref.ref(teacher.model_here)
            assert teacher.head is not None and model() is not None
        assert model() is None
    finally:
        gc.enable()
