"""generate in this process on the quickstart's own teacher, hot and small."""

from log_helpers import read_row_logs
from run_helpers import QUICKSTART

from distill import generate
from distill.core.jsonl import read_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.recipe import load_recipe

# hot enough that a good share of the answers is wrong; the English and Chinese prompts of the first 30
HOT = [
    "generate.num_prompts=30",
    "generate.sampling_temperature=1.5",
    "generate.max_new_tokens=64",
    "evaluate.num_examples=5",
]


def generate_hot(folder, *more):
    """Generate into a run folder; return the stage's result and the rows that were kept."""
    recipe = load_recipe(QUICKSTART, [*HOT, f"run_folder={folder}", *more])
    output = generate.run(recipe, RunFolder.of(recipe), Processes())
    return output.result, [row for _, row in read_jsonl(folder / "generate/kept.jsonl")]


def logged_answers(folder):
    return read_row_logs(folder / "generate/raw")[0]
