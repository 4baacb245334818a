"""Which type a model's passes run in where the recipe leaves it to the machine (`auto`) on a CPU.

float32, and bfloat16 where the processor multiplies it and a measurement of a second says that it is
faster for this model. The choice is written down before the work of a stage begins:

    <stage>/precision.json      the type, and how fast bfloat16 was
    <stage>/precision-<name>.json   likewise, of one of several teachers

Whoever goes on with that work (the same run later, another process, rank or shard) takes what stands
there and measures nothing: bits depend on it. On a GPU `auto` is bfloat16, and nothing is written.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from distill.core.stored_json import as_type, read_json, write_json_first
from distill.models import load
from distill.models.product_speed import matrices_of, measured_speedup, multiplies_bfloat16

FILE = "precision.json"
LEAST_SPEEDUP = 1.1  # bfloat16 has 8 bits of a number: for less they are not given away
WAY_OUT = "delete it: what is still missing of this stage is then made in float32"


@dataclass(frozen=True)
class Precision:
    """The chosen type; `speedup`: how many times as fast bfloat16 is as float32, None: not measured."""

    dtype: Literal["float32", "bfloat16"]
    speedup: float | None = None


@dataclass(frozen=True)
class Work:
    """What a stage is about to do with a model.

    `note`: the file of the choice. `began`: returns whether some of it is done already. `num_rows`:
    tokens in one pass. `folder`: returns the model's folder.
    """

    note: Path
    began: Callable[[], bool]
    folder: Callable[[], Path]
    num_rows: int
    trains: bool = False

    def speedup(self) -> float:
        """Measure this work: return how many times as fast it is in bfloat16 as in float32."""
        return measured_speedup(matrices_of(self.folder()), self.num_rows, trains=self.trains)


@dataclass(frozen=True)
class Placed:
    """Where a model runs, in which type; `told`: how that was chosen, None where it was not here."""

    placement: load.Placement
    told: str | None = None


def choose_precision(multiplies: bool, measure: Callable[[], float]) -> Precision:
    """Return the faster type.

    multiplies: whether the processor has instructions for bfloat16; `measure` is called only then,
    and returns how many times as fast bfloat16 is as float32.
    """
    if not multiplies:
        return Precision("float32")
    speedup = round(measure(), 2)
    return Precision("bfloat16" if speedup >= LEAST_SPEEDUP else "float32", speedup)


def placed(device: str, dtype: str, quantization: str, work: Work) -> Placed:
    """Resolve the recipe's `auto`s for this work.

    Raises what `load.placement` raises, DataError for a broken note of the choice.
    """
    where = load.placement(device, dtype, quantization)
    if dtype != "auto" or where.device != "cpu" or quantization != "none":
        return Placed(where)
    # before the file is looked for: who has begun has written it before
    began = work.began()
    path = work.note
    precision, here = _read(path), "where it began"
    if precision is None and began:
        return Placed(where)  # by an earlier version, which knew float32 alone
    if precision is None:
        write_json_first(path, asdict(choose_precision(multiplies_bfloat16(), work.speedup)))
        precision, here = _read(path), "here"
        assert precision is not None, f"{path}: just written"
    elif precision.dtype == "bfloat16" and not multiplies_bfloat16():
        _warn(path)
    return Placed(replace(where, dtype=precision.dtype), _told(precision, here))


def _read(path: Path) -> Precision | None:
    try:
        return as_type(read_json(path, WAY_OUT), Precision, path, WAY_OUT)
    except FileNotFoundError:
        return None


def _told(precision: Precision, where: str) -> str | None:
    """Return the choice in a sentence; None where there was none."""
    if precision.speedup is None:
        return None
    if precision.dtype == "bfloat16":
        return f"bfloat16: {precision.speedup:.1f} times float32 {where}, measured"
    return f"float32: bfloat16 {precision.speedup:.1f} times as fast {where}, measured"


def _warn(path: Path) -> None:
    print(
        f"warning: {path}: this work began in bfloat16, for which this processor has no "
        "instructions: it goes on in it, far slower, and not to the same bits as there. Go on on a "
        f"machine that has them, or {WAY_OUT}",
        file=sys.stderr,
        flush=True,
    )
