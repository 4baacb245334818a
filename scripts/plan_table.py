#!/usr/bin/env python3
"""What `distill plan` says of the recipes on GPUs of several sizes, as the table in the READMEs.

    python scripts/plan_table.py            # prints it, in some 20 seconds
    python scripts/plan_table.py --write    # replaces it in README.md and README.zh.md

tests/test_plan_table.py fails where they say something else than the plan. Which GPUs: an RTX 4060 or 3060 (reckoned with
the plan's speed of GPUs that it does not know), an RTX 3090, an A100; nothing here was measured on them.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.data.prompts import split_prompts
from distill.pipeline import PLANNED
from distill.planning.costs import Workload
from distill.planning.demands import SplitPrompts
from distill.planning.launches import Launch, launch_of
from distill.planning.machine import GB, GPU_SPEEDS, OTHER_GPU_SPEEDS, Machine
from distill.recipe import load_recipe

RECIPES = ROOT / "recipes"
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
SMALL = ("quickstart", "smollm2_laptop")  # that need no GPU
HEAD = ["GB, hours", "8 GB", "12 GB", "24 GB", "80 GB", "4 x 24 GB", "8 x 80 GB"]
SHARDED = ["train.shard=full", "train.optimizer=adamw"]
LARGER = ["student={method: base, model: Qwen/Qwen3-8B}", "teacher.model=Qwen/Qwen3-14B"]


@dataclass(frozen=True)
class Case:
    """So many GPUs of a size on one node."""

    gigabytes: int
    speeds: tuple[float, float]
    num: int = 1

    @property
    def machine(self) -> Machine:
        memory, disk = 16 * self.num * 8 * GB, 1000 * GB
        gpu = (f"{self.gigabytes} GB", self.gigabytes * GB, *self.speeds)
        return Machine(8 * self.num, memory, disk, *gpu, num_gpus=self.num)


CASES = {
    "8 GB": Case(8, OTHER_GPU_SPEEDS),
    "12 GB": Case(12, OTHER_GPU_SPEEDS),
    "24 GB": Case(24, GPU_SPEEDS["3090"]),
    "80 GB": Case(80, GPU_SPEEDS["A100"]),
    "4 x 24 GB": Case(24, GPU_SPEEDS["3090"], 4),
    "8 x 80 GB": Case(80, GPU_SPEEDS["A100"], 8),
}


def changes_of_head(recipe: Path) -> dict[str, list[str]]:
    """Return what a recipe's first lines set on the command line for a GPU's size: {"8 GB": [...]}."""
    found: dict[str, list[str]] = {}
    overrides: list[str] = []
    for line in recipe.read_text(encoding="utf-8").splitlines():
        match = re.match(r"# {3,4}(\d+ GB) +\d+ +\d+ GB(.*)", line)
        if match is not None:
            overrides = found[match[1]] = match[2].split()
        elif overrides and re.match(r"# {20,}\w+\.\w+=", line):
            overrides += line[1:].split()
        else:
            overrides = []
    return found


def rows() -> list[tuple[str, Path, dict[str, list[str]]]]:
    """Return for each row its title, the recipe, and what is changed for the cases that it has."""
    found = []
    for recipe in sorted(RECIPES.glob("*.yaml")):
        if recipe.stem not in SMALL:
            changes = {name: [] for name in CASES} | changes_of_head(recipe)
            changes["8 x 80 GB"] = changes["80 GB"]
            found.append((f"[{recipe.stem}](recipes/{recipe.name})", recipe, changes))
    recipe = RECIPES / "qwen_to_1b.yaml"
    larger = {name: LARGER for name, case in CASES.items() if case.num > 1}
    return [*found, (f"[{recipe.stem}](recipes/{recipe.name}), a student of 8 B", recipe, larger)]


@cache
def prompts_of(recipe: Path) -> SplitPrompts:
    return split_prompts(load_recipe(recipe))


def launch(recipe: Path, case: Case, changes: Sequence[str]) -> Launch:
    """Return what the processes of a case take, one a GPU."""
    read = load_recipe(recipe, [*changes, f"num_processes={case.num}"])
    vocabulary = read.student.vocabulary
    size = vocabulary.size if vocabulary else None
    return launch_of(Workload.of(read, case.machine, prompts_of(recipe), size), PLANNED)


def cell(recipe: Path, case: Case, changes: Sequence[str]) -> str:
    """Return GB, hours and, of several GPUs, the share that they wait; GB alone where there are fewer."""
    found, told = launch(recipe, case, changes), ""
    if found.memory > case.gigabytes * GB and case.num > 1:
        found, told = launch(recipe, case, [*changes, *SHARDED]), ", sharded"
    if found.memory > case.gigabytes * GB:
        return f"needs {ceil(found.memory / GB)}"
    hours = f"{found.seconds / 3600:.{0 if found.seconds > 36000 else 1}f} h"
    waiting = f", {found.waiting:.0%}" if case.num > 1 else ""
    return f"{found.memory / GB:.0f}, {hours}{waiting}{told}"


def table() -> str:
    """Return the table, in Markdown."""
    lines = [HEAD, ["---", *["--:"] * len(CASES)]]
    for title, recipe, changes in rows():
        cells = [
            cell(recipe, case, changes[name]) if name in changes else "–"
            for name, case in CASES.items()
        ]
        lines.append([title, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def in_text(text: str) -> str:
    """Return the table as a page has it. Raises ValueError where it has none."""
    head = re.escape(f"| {' | '.join(HEAD)} |")
    match = re.search(rf"^{head}\n(?:\|.*\n)+", text, re.MULTILINE)
    if match is None:
        raise ValueError(f"no table that begins with | {' | '.join(HEAD)} |")
    return match[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace it in the READMEs")
    options = parser.parse_args()
    made = table()
    print(made, end="")
    for page in READMES if options.write else ():
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(in_text(text), made), encoding="utf-8")


if __name__ == "__main__":
    main()
