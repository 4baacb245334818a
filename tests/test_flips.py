"""Flipped bits, cuts and junk in every kind of file of a run folder: refused by name, or no change."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_helpers import Tally

from distill import quantize
from distill.core.checksums import CHECKSUMS, checksum_problem, write_checksums
from distill.core.jsonl import row_logs
from distill.core.leases import Leases
from distill.core.run_folder import Fingerprint, RunFolder
from distill.core.stored_json import write_json
from distill.core.verification import verifying
from distill.errors import DataError, DistillError
from distill.evaluation.stored import read_figures
from distill.pipeline import STAGES
from distill.recipe import load_recipe
from distill.signals.store import SignalStore
from distill.teachers.log import read_pilot
from distill.training import checkpoints

NUM_A_KIND = 200


@dataclass(frozen=True)
class Kind:
    """A kind of file. `paths`: those of it that are damaged; `read`: our reader, which verifies.

    `same(found, whole)`: whether what was read still means what it did.
    """

    name: str
    paths: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], Any]
    same: Callable[[Any, Any], bool] = lambda found, whole: found == whole


def damaged(place: random.Random, data: bytes) -> bytes:
    """Return the bytes as a disk, a cable or a power cut leaves them."""
    at = place.randrange(len(data))
    way = place.choice(["bit"] * 6 + ["cut", "sector", "junk", "twice", "other"])
    if way == "bit":
        return data[:at] + bytes([data[at] ^ 1 << place.randrange(8)]) + data[at + 1 :]
    if way == "cut":
        return data[:at]
    if way == "sector":
        end = min(len(data), at + 512)
        return data[:at] + bytes(end - at) + data[end:]
    if way == "junk":
        return data + place.randbytes(place.randrange(1, 40))
    if way == "twice":
        return data[:at] + data[at // 2 : at] + data[at:]
    return data[:at] + place.randbytes(8) + data[at + 8 :]


def stage_of(folder: Path, path: Path) -> str:
    return path.relative_to(folder).parts[0]


def read_manifest(folder: Path, path: Path) -> Any:
    stage = next(stage for stage in STAGES if stage.name == path.parent.name)
    return RunFolder(folder).manifest(stage.name, stage.result)


def read_started(folder: Path, path: Path) -> Any:
    del folder
    begun = Fingerprint({"train": {"epochs": 2, "alpha": 0.1}}, {"generate": "a" * 32}, 7)
    return RunFolder(path.parent.parent).changes(path.parent.name, begun)


def read_verified(folder: Path, path: Path) -> Any:
    """Do what every stage does before it reads the files of those before it."""
    recorded = RunFolder(folder).recorded_files(stage_of(folder, path))
    files = [file for file in recorded if file.path == path]
    assert len(files) == 1, f"{path}: no manifest stands for it"
    with verifying(files):
        return path.read_bytes()


def read_shard(folder: Path, path: Path) -> Any:
    del folder
    store = SignalStore(path.parent)
    records = [store.read(key) for key in sorted(store.keys())]
    return store.header, sorted(store.keys()), records


def same_signal(found: Any, whole: Any) -> bool:
    pairs = zip(found[2], whole[2], strict=True)
    arrays = [(vars(one)[name], vars(two)[name]) for one, two in pairs for name in vars(two)]
    return found[:2] == whole[:2] and all(np.array_equal(one, two) for one, two in arrays)


def read_log(folder: Path, path: Path) -> Any:
    del folder
    broken: list[str] = []
    rows = list(row_logs(path.parent, broken))
    if broken:  # generate says so and asks for these anew
        raise DataError(f"{path}: {len(broken)} broken lines")
    return rows


def only_lost_rows(found: Any, whole: Any) -> bool:
    """Whether every row is one that was written: a cut between two lines loses what is asked anew."""
    return all(row in whole for row in found)


def read_checkpoint(folder: Path, path: Path) -> Any:
    del folder
    layer = torch.nn.Linear(4, 3)
    found = checkpoints.load_newest(path.parents[1], torch.optim.AdamW(layer.parameters()))
    assert found is not None
    best = checkpoints.load_best(path.parents[1], 1)
    tensors = [*found.model.items(), *best.items()]
    return found.step, found.state, [(name, tensor.tolist()) for name, tensor in tensors]


def read_trained(folder: Path, path: Path) -> Any:
    del path
    sums = folder / "train" / "checkpoints" / f"student.{CHECKSUMS}"
    if problem := checksum_problem(folder / "train" / "student", sums):
        raise DataError(f"{folder}: {problem}")
    return sorted(file.name for file in (folder / "train" / "student").iterdir())


def read_claims(folder: Path, path: Path) -> Any:
    del folder
    with Leases(path.parent, {"a": 1, "b": 2}, {2}.__contains__, lambda: None) as mine:
        return list(mine)


KINDS = [
    Kind("manifests", lambda f: sorted(f.glob("*/manifest.json")), read_manifest),
    Kind("started.json", lambda f: [f / "begun" / "train" / "started.json"], read_started),
    Kind(
        "recipe.yaml of a run folder",
        lambda f: [f / "recipe.yaml"],
        lambda _, path: load_recipe(path).model_dump(),
    ),
    Kind("shards", lambda f: sorted(f.glob("one/*.shard")), read_shard, same_signal),
    Kind("logs of answers", lambda f: sorted(f.glob("generate/raw/*")), read_log, only_lost_rows),
    Kind("samples", lambda f: sorted(f.glob("generate/*.jsonl")), read_verified),
    Kind("students before training", lambda f: files(f / "initialize/student"), read_verified),
    Kind("trained students", lambda f: files(f / "train/student"), read_verified),
    Kind("metrics", lambda f: sorted(f.glob("train/*.jsonl")), read_verified),
    Kind("trained students that wait", lambda f: files(f / "train/student"), read_trained),
    Kind("checkpoints", lambda f: files(f / "few"), read_checkpoint),
    Kind(
        "checks of files", lambda f: [f / "quantize/q8_0.json"], lambda _, p: quantize._stored(p)[0]
    ),
    Kind(
        "figures of models",
        lambda f: [f / "evaluate/student.json"],
        lambda _, path: (lambda figures: {n: figures[n] for n in ("nll", "examples")})(
            read_figures(path)
        ),
    ),
    Kind("teacher's answers", lambda f: [f / "evaluate/teacher_answers.jsonl"], read_verified),
    Kind(
        "probe.json",
        lambda f: [f / "generate/probe.json"],
        lambda f, _: [read_pilot(f / "generate").get(name) for name in ("groups", "verdicts")],
    ),
    Kind("claims", lambda f: [f / "claims/a.0"], read_claims),
]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A finished run, with what else there is while it works."""
    folder = tmp_path_factory.mktemp("flips") / "run"
    shutil.copytree(finished, folder)
    begun = Fingerprint({"train": {"epochs": 2, "alpha": 0.1}}, {"generate": "a" * 32}, 7)
    RunFolder(folder / "begun").start("train", begun)
    (folder / "one").mkdir()
    shard = next(folder.glob("capture/signals/*/*.shard"))
    shutil.copy(shard, folder / "one" / shard.name)
    write_json(folder / "generate/probe.json", {"groups": [["a" * 32]], "verdicts": {"en": "fit"}})
    write_checksums(
        folder / "train/student", folder / "train" / "checkpoints" / f"student.{CHECKSUMS}"
    )
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    checkpoints.save_best(folder / "few", 1, weights)
    checkpoints.save(folder / "few", 2, weights, optimizer, {"best_step": 1, "seconds": 1.5})
    (folder / "claims").mkdir()
    (folder / "claims/a.0").write_text("host 1234\n")
    return folder


def read_by_name(kind: Kind, folder: Path, path: Path) -> Any:
    try:
        return kind.read(folder, path)
    except DistillError as error:
        assert path.name in str(error) or path.parent.name in str(error), f"names none: {error}"
        raise


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_damage_is_refused_by_name_or_changes_nothing(folder, kind):
    tally = Tally(f"flips and cuts: {kind.name}")
    place = random.Random(kind.name)
    paths = kind.paths(folder)
    assert paths
    wholes = {path: (path.read_bytes(), kind.read(folder, path)) for path in paths}
    while tally.tried < NUM_A_KIND:
        path = place.choice(paths)
        data, meant = wholes[path]
        bad = damaged(place, data) if data else b"\0"
        if bad == data:
            continue
        path.write_bytes(bad)
        tally.refuse_or(
            f"{path.name}, {tally.tried}",
            lambda path=path: read_by_name(kind, folder, path),
            lambda found, meant=meant: kind.same(found, meant),
        )
        path.write_bytes(data)
    print(
        f"\ntried: {tally.kind}: {tally.tried} ({tally.refused} refused, {tally.accepted} accepted)"
    )
