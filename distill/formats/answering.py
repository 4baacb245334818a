"""How a model of the run answers an EvalSet: in transformers, or in the runtime of its format."""

from pathlib import Path

from distill.core.progress import Progress
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_transformers
from distill.formats import FORMATS
from distill.models import load


def evaluate_model(eval_set: EvalSet, name: str, path: Path, bar: Progress) -> ModelAnswers:
    """Return what a model made of the EvalSet: a folder of weights, or a file of the format `name`."""
    if name in FORMATS:
        return FORMATS[name].evaluate(eval_set, path, bar)
    model = load.load_model(str(path), load.placement("auto", "auto"))
    return evaluate_transformers(eval_set, model, bar)
