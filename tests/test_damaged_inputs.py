"""Every stage refuses every file of every stage that it reads, where one bit of it was flipped."""

from pathlib import Path

import pytest
from run_helpers import QUICKSTART, small

from distill import pipeline
from distill.core.run_folder import RunFolder
from distill.errors import DataError
from distill.recipe import load_recipe


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def files_of(folder: RunFolder, stage: str) -> list[Path]:
    """Return what the stage made, as it lies on the disk.

    Not the logs of answers, of which no other stage reads a line that does not match its checksum.
    """
    made = [path for path in folder.stage(stage).rglob("*") if path.is_file()]
    of_itself = {"manifest.json", "started.json", "raw", "held_out", "judged"}
    return sorted(p for p in made if not of_itself & {*p.parts} and p.stat().st_size > 0)


RECIPE = load_recipe(QUICKSTART)
READING = [
    (stage.name, read)
    for stage in pipeline.STAGES
    if stage.left_out(RECIPE) is None
    for read in stage.reads(RECIPE)
]


@pytest.mark.parametrize(("stage", "read"), READING, ids=map("-".join, READING))
def test_nothing_is_made_of_a_flipped_bit(copy, stage, read):
    source, *overrides = map(str, small(copy))
    recipe, folder = load_recipe(source, overrides), RunFolder(copy)
    recorded = {file.path for file in folder.recorded_files(read)}
    (folder.stage(stage) / "manifest.json").unlink()
    for path in files_of(folder, read):
        whole = path.read_bytes()
        path.write_bytes(flipped(whole))
        assert path in recorded, f"{path}: no manifest stands for it"
        with pytest.raises(DataError, match=f"{path.name}: its content .*--redo {read}"):
            pipeline.run(recipe, stages=[stage])
        path.write_bytes(whole)
