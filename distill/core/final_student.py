"""Which stage made the student that is quantized, evaluated and published: `rounds`, or `train`."""

from pathlib import Path
from typing import Literal

from distill.core.run_folder import RunFolder
from distill.recipe import Recipe

STUDENT = "student"  # its folder, in that of its stage


def student_stage(recipe: Recipe) -> Literal["rounds", "train"]:
    """Return that stage, for the `reads` of one that reads the student."""
    return "train" if recipe.rounds is None else "rounds"


def student_folder(recipe: Recipe, folder: RunFolder) -> Path:
    """Return the model folder of the run's student."""
    return folder.stage(student_stage(recipe)) / STUDENT
