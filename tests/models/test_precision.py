"""Which type `auto` is on a CPU: chosen by a measurement, once for a stage's work, and written down."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from distill.core.stored_json import write_json
from distill.models import load, precision
from distill.models.precision import Precision, Work, choose_precision, placed

KIND = "notes of a chosen type"
FLOAT32, BFLOAT16 = load.Placement("cpu", "float32"), load.Placement("cpu", "bfloat16")


def never() -> float:
    raise AssertionError("nothing is to be measured")


class Measured(Work):
    """Work whose speedup is known."""

    known = 1.8

    def speedup(self) -> float:
        return self.known


def work(stage: Path, *, began: bool = False, speedup: float | None = 1.8) -> Work:
    made = Measured(stage / precision.FILE, lambda: began, lambda: stage, num_rows=4)
    object.__setattr__(made, "known", speedup)
    return made


def auto(made: Work) -> precision.Placed:
    return placed("cpu", "auto", "none", made)


@pytest.fixture
def multiplies(monkeypatch):
    """Return what makes this machine one that does, or does not, multiply bfloat16."""

    def now(has: bool) -> None:
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: has)

    now(True)
    return now


@pytest.mark.parametrize(
    ("speedup", "dtype"),
    [(1.8, "bfloat16"), (1.1, "bfloat16"), (1.09, "float32"), (0.1, "float32")],
)
def test_the_faster_type_is_taken_where_it_is_clearly_faster(speedup, dtype):
    assert choose_precision(True, lambda: speedup) == Precision(dtype, speedup)


def test_without_the_instructions_nothing_is_measured():
    assert choose_precision(False, never) == Precision("float32")


def test_the_choice_is_told_and_written(multiplies, tmp_path):
    assert auto(work(tmp_path)) == precision.Placed(
        BFLOAT16, "bfloat16: 1.8 times float32 here, measured"
    )
    stored = json.loads((tmp_path / "precision.json").read_text())
    assert (stored["dtype"], stored["speedup"]) == ("bfloat16", 1.8)
    slower = auto(work(tmp_path / "other", speedup=0.5))
    assert slower.placement == FLOAT32
    assert slower.told == "float32: bfloat16 0.5 times as fast here, measured"


def test_who_goes_on_takes_what_is_written_whatever_a_measurement_would_say(multiplies, tmp_path):
    auto(work(tmp_path / "bfloat16"))
    auto(work(tmp_path / "float32", speedup=0.9))
    for began in (False, True):
        again = auto(work(tmp_path / "bfloat16", began=began, speedup=0.2))
        assert again.placement == BFLOAT16
        assert again.told == "bfloat16: 1.8 times float32 where it began, measured"
        assert auto(work(tmp_path / "float32", began=began)).placement == FLOAT32


def test_a_machine_without_the_instructions_goes_on_in_it_and_says_so(multiplies, tmp_path, capsys):
    auto(work(tmp_path))
    assert not capsys.readouterr().err
    multiplies(False)
    assert auto(work(tmp_path, began=True)).placement == BFLOAT16
    warning = capsys.readouterr().err
    assert f"{tmp_path / 'precision.json'}: this work began in bfloat16" in warning
    (tmp_path / "precision.json").unlink()  # the way out that it names
    assert auto(work(tmp_path, began=True)).placement == FLOAT32
    assert auto(work(tmp_path / "not begun")).placement == FLOAT32


def test_a_machine_with_them_goes_on_in_float32_where_one_without_them_began(multiplies, tmp_path):
    multiplies(False)
    assert auto(work(tmp_path)) == precision.Placed(FLOAT32)
    multiplies(True)
    assert auto(work(tmp_path, speedup=9.0)) == precision.Placed(FLOAT32)


def test_what_an_earlier_version_began_goes_on_in_float32(multiplies, tmp_path):
    assert auto(work(tmp_path, began=True)) == precision.Placed(FLOAT32)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dtype", "quantization", "taken"),
    [
        ("bfloat16", "none", "bfloat16"),
        ("float32", "none", "float32"),
        ("auto", "nf4", "float32"),
        ("auto", "int8", "float32"),
    ],
)
def test_what_the_recipe_says_is_taken_and_nothing_is_written(
    multiplies, dtype, quantization, taken, tmp_path
):
    where = placed("cpu", dtype, quantization, work(tmp_path))
    assert where == precision.Placed(load.Placement("cpu", taken, quantization))
    assert not list(tmp_path.iterdir())


def test_processes_that_begin_together_take_one_choice(multiplies, tmp_path):
    """Each measures something else, and none of their notes gets lost or is torn."""
    num, rounds = 8, 6
    together = Barrier(num)

    def one(stage: Path, number: int) -> load.Placement:
        together.wait()
        return auto(work(stage, speedup=0.5 + number)).placement

    with ThreadPoolExecutor(num) as pool:
        for number in range(rounds):
            stage = tmp_path / str(number)
            taken = list(pool.map(one, [stage] * num, range(num)))
            assert len(set(taken)) == 1
            assert [path.name for path in stage.iterdir()] == ["precision.json"]


def test_a_damaged_note_is_refused_and_its_way_out_works(multiplies, tmp_path, tally):
    auto(work(tmp_path))
    path = tmp_path / "precision.json"
    good, rng = path.read_bytes(), random.Random(15)
    for made in (
        {"dtype": "float16", "speedup": 1.8},
        {"dtype": None, "speedup": 1.8},
        {"dtype": "bfloat16", "speedup": "fast"},
        {"dtype": "bfloat16", "speedup": [1.8]},
        {"speedup": 1.8},
        {},
    ):
        write_json(path, made)
        message = tally.must_refuse(str(made), lambda: auto(work(tmp_path)))
        assert str(path) in message and "delete it" in message
    for number in range(600):
        torn = bytearray(good[: rng.randrange(len(good) - 1)])
        if number % 3:
            torn = bytearray(good)
            torn[rng.randrange(len(torn))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(torn))
        # the name of the checksum is the one place where a bit changes nothing
        tally.refuse_or(
            f"{torn!r}", lambda: auto(work(tmp_path)).placement, lambda taken: taken == BFLOAT16
        )
    path.unlink()
    assert auto(work(tmp_path)).placement == BFLOAT16
