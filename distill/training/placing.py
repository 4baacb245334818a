"""Where a student is trained, and in which type: the same for every model of a run, rounds among them."""

from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.errors import MismatchError
from distill.models.precision import FILE, Placed, Work, placed
from distill.recipe import Recipe


def check_ranks(recipe: Recipe, processes: Processes) -> None:
    """Raise MismatchError where the student is to be divided over ranks that cannot divide it.

    Every rank calls it.
    """
    shard = recipe.train.shard
    if shard == "none":
        return
    if processes.num == 1:
        raise MismatchError(
            f"train.shard {shard}: it divides the student over several processes, and there is one; "
            "start them with `accelerate launch --multi_gpu --num_processes N distill/train.py "
            "RECIPE`, or set train.shard=none"
        )
    from torch import distributed

    from distill.training.sharding import ranks_a_node

    if recipe.train.device == "cpu" and distributed.get_backend() == "nccl":
        raise MismatchError(
            f"train.device cpu with train.shard {shard}: the processes of this launch talk over "
            "NCCL, which knows no CPU; set train.device=cuda or train.shard=none"
        )
    if shard == "hybrid":
        ranks_a_node(processes)


def training_placed(recipe: Recipe, folder: RunFolder) -> Placed:
    """Return where all models of the run are trained, and the type of their passes.

    Raises what `placed` raises.
    """
    stage, options = folder.stage("train"), recipe.train
    work = Work(
        note=stage / FILE,
        began=lambda: any(stage.rglob("state.json")) or any(stage.rglob("training.json")),
        folder=lambda: folder.stage("initialize") / "student",
        num_rows=options.micro_batch_tokens,
        trains=True,
    )
    return placed(options.device, options.precision, "none", work)
