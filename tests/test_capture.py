"""capture in this process: which sequences a job captures."""

import shutil

from run_helpers import QUICKSTART

from distill import capture, generate
from distill.core.jsonl import read_jsonl, write_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.recipe import load_recipe
from distill.signals.store import SignalStore, sequence_key

# hot enough that a good share of the answers is wrong; the English and Chinese prompts of the first 30
HOT = [
    "generate.num_prompts=30",
    "generate.sampling_temperature=1.5",
    "generate.max_new_tokens=64",
    "evaluate.num_examples=5",
]


def run(folder, *more):
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={folder}", *more])
    output = generate.run(recipe, RunFolder.of(recipe), Processes())
    return output.result, [row for _, row in read_jsonl(folder / "generate/kept.jsonl")]


def test_capture_in_shards_divides_the_samples_by_what_they_are(tmp_path):
    _, kept = run(tmp_path / "one", "teacher.batch_tokens=600")
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
