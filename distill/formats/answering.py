"""How the models of the run answer an EvalSet: in transformers, or in the runtime of their format."""

from collections.abc import Callable, Mapping
from pathlib import Path

from distill.core import shutdown
from distill.core.claims import Claims
from distill.core.progress import Progress
from distill.evaluation.eval_set import EvalSet, ModelAnswers
from distill.evaluation.models import evaluate_transformers
from distill.formats import FORMATS
from distill.models import load


def evaluate_missing(
    eval_set: EvalSet,
    paths: Mapping[str, Path],
    claims: Claims,
    bar: Progress,
    file_of: Callable[[str], Path],
    write: Callable[[Path, ModelAnswers], None],
) -> None:
    """Evaluate the models that have no file yet, with the other ranks, when the teacher is done.

    `paths`: of the models, by name. `write` makes the file of a model, `file_of` its name. `bar`
    counts the answers of the teacher and of all models, whoever gave them.
    """
    num_answers = bar.total // (1 + len(paths))
    _advance_to(bar, num_answers, "teacher")
    for name, path in paths.items():
        if not file_of(name).is_file() and claims.take(name):
            write(file_of(name), evaluate_model(eval_set, name, path, bar))
        num_done = 1 + sum(file_of(done).is_file() for done in paths)
        _advance_to(bar, num_done * num_answers, name)


def _advance_to(bar: Progress, num_answers: int, name: str) -> None:
    """Show that so many answers are there; `name`: of the last."""
    bar.done = num_answers
    bar.advance(0, note=name)
    shutdown.check()


def evaluate_model(eval_set: EvalSet, name: str, path: Path, bar: Progress) -> ModelAnswers:
    """Return what a model made of the EvalSet: a folder of weights, or a file of the format `name`."""
    if name in FORMATS:
        return FORMATS[name].evaluate(eval_set, path, bar)
    model = load.load_model(str(path), load.placement("auto", "auto"))
    return evaluate_transformers(eval_set, model, bar)
