"""Where a student is trained, and in which type: the same for every model of a run, rounds among them."""

from distill.core.run_folder import RunFolder
from distill.models.precision import Placed, Work, placed
from distill.recipe import Recipe


def training_placed(recipe: Recipe, folder: RunFolder) -> Placed:
    """Return where all models of the run are trained, and the type of their passes.

    Raises what `placed` raises.
    """
    stage, options = folder.stage("train"), recipe.train
    work = Work(
        stage=stage,
        began=lambda: any(stage.rglob("state.json")) or any(stage.rglob("training.json")),
        folder=lambda: folder.stage("initialize") / "student",
        num_rows=options.micro_batch_tokens,
        trains=True,
    )
    return placed(options.device, options.precision, "none", work)
