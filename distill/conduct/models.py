"""The models of a run beside the teacher, and how each is asked."""

from pathlib import Path

from distill.core.final_student import student_folder
from distill.core.progress import Progress
from distill.core.results import QuantizeResult
from distill.core.run_folder import RunFolder
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_transformers
from distill.models import load
from distill.recipe import Recipe


def paths_of(recipe: Recipe, folder: RunFolder) -> dict[str, Path]:
    """Return control, student and every file of the first repeat by name, in the report's order."""
    from distill.formats import path_of

    control = folder.stage("train") / "control"
    paths = {"control": control} if control.is_dir() else {}
    paths["student"] = student_folder(recipe, folder)
    formats = folder.require("quantize", QuantizeResult, recipe).result.formats
    return paths | {name: path_of(folder, name) for name in formats}


def ask(questions: EvalSet, name: str, path: Path, bar: Progress) -> ModelAnswers:
    """Return the greedy answers of a model: a GGUF file's by llama.cpp."""
    from distill.formats import FORMATS

    if name in FORMATS:
        return FORMATS[name].evaluate(questions, path, bar)
    model = load.load_model(str(path), load.placement("auto", "auto"))
    return evaluate_transformers(questions, model, bar)
