"""capture in this process: which sequences a job captures."""

import shutil

from generate_helpers import HOT, generate_hot
from run_helpers import QUICKSTART

from distill import capture
from distill.core.jsonl import write_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.recipe import load_recipe
from distill.signals.store import SignalStore, sequence_key


def test_capture_in_shards_divides_the_samples_by_what_they_are(tmp_path):
    _, kept = generate_hot(tmp_path / "one", "teacher.batch_tokens=600")
    shutil.copytree(tmp_path / "one/generate", tmp_path / "two/generate")
    write_jsonl(tmp_path / "two/generate/kept.jsonl", kept[1:])  # a sample less, in front
    captured = []
    for job, name in enumerate(("one", "two")):
        recipe = load_recipe(
            QUICKSTART, [*HOT, f"run_folder={tmp_path / name}", "teacher.batch_tokens=600"]
        )
        capture.run(recipe, RunFolder.of(recipe), Processes(job=job, num_jobs=2))
        (folder,) = (tmp_path / name / "capture/signals").iterdir()
        captured.append({*SignalStore(folder).keys()})
    wanted = [
        sequence_key(row["prompt_ids"] + row["answer_ids"], len(row["prompt_ids"])) for row in kept
    ]
    assert (
        all(captured)
        and not captured[0] & captured[1]
        and {*wanted[1:]} <= captured[0] | captured[1] <= {*wanted}
    )
