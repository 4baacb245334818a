"""What it takes to train a student on a machine: seconds, and memory."""

from distill.planning.costs import PROCESS_BYTES, Workload
from distill.planning.machine import GB
from distill.planning.sizes import num_tables

FEWEST_RANKS = 2  # with one nothing is divided
RANKS_TOLD = (2, 4, 8)
OVERHEAD, GPU_OVERHEAD = 1.3, 2.0  # beyond the products' arithmetic


def training_seconds(work: Workload, num_tokens: float) -> float:
    """Return the seconds in which one model learns so many tokens, prompts among them."""
    overhead = GPU_OVERHEAD if work.machine.gpu else OVERHEAD
    if work.recipe.train.gradient_checkpointing:
        overhead *= 4 / 3  # the forward pass once more
    flops = num_tokens * 6 * work.student.parameters
    return flops / work.flops(work.recipe.train.precision) * overhead


def optimizer_bytes(work: Workload) -> int:
    """Return the bytes of the optimizer's state for a parameter."""
    return 2 if "8bit" in work.recipe.train.optimizer else 8


def training_bytes(work: Workload) -> float:
    """Return the bytes of weights, gradients and the optimizer's state in float32; of a copy in 16
    bits where passes are in them; of the gradients of head and embedding before they are added up;
    of the gradients once more where several processes add theirs up (DDP's buckets); and of the
    activations of one micro-batch. Of a sharded student: what one rank takes."""
    options, student = work.recipe.train, work.student
    if options.shard != "none":
        return rank_bytes(work, _num_dividing(work))
    head = 0 if options.lora_rank else 8 * student.head
    copies = 0.0
    if work.machine.gpu or work.in_bfloat16(options.precision):
        copies = 2.0 * student.parameters
    if work.num_processes > 1:
        copies += 4 * _num_trained(work)
    return _state_bytes(work) + head + copies + _pass_bytes(work)


def _num_dividing(work: Workload) -> int:
    """Return how many ranks divide the student: by `hybrid` those of a node."""
    num = work.recipe.num_processes or max(FEWEST_RANKS, work.recipe.team_size)
    return work.machine.processes_a_node(num) if work.recipe.train.shard == "hybrid" else num


def rank_bytes(work: Workload, num_ranks: int) -> float:
    """Return the bytes that one of the ranks takes which divide the student (training/sharding.py).

    Its part of weights, gradients and state; whole, while a pass goes through: what is in no layer,
    with its gradients, and two layers (one at work, the next on its way), with those of one.
    """
    options, student = work.recipe.train, work.student
    outside = num_tables(work.recipe) * student.head
    layer = max(0, student.parameters - outside) / student.layers
    each = 2 if work.machine.gpu or work.in_bfloat16(options.precision) else 4
    whole = 4 * outside + 2 * each * layer
    if not options.lora_rank:
        whole += 4 * outside + (each + 4) * layer
    return _state_bytes(work) / num_ranks + whole + _pass_bytes(work)


def sharding_told(work: Workload) -> str | None:
    """Return what a rank takes of a sharded student, for several numbers of them; None if it is not."""
    options = work.recipe.train
    if options.shard == "none":
        return None
    figures = [
        f"{num} processes: {(PROCESS_BYTES + rank_bytes(work, num)) / GB:.1f} GB"
        for num in RANKS_TOLD
    ]
    of_node = " (of a node)" if options.shard == "hybrid" else ""
    where = "GPU memory" if work.machine.gpu else "memory"
    return (
        f"train.shard {options.shard}: {where} that each process{of_node} takes in train, by their "
        f"number: {', '.join(figures)}; the first also holds the whole student in its host's "
        f"memory, {4 * work.student.parameters / GB:.1f} GB. The table reckons with "
        f"{_num_dividing(work)} (num_processes{of_node})"
    )


def _state_bytes(work: Workload) -> float:
    """Return the bytes of weights, gradients and the optimizer's state."""
    return 4 * work.student.parameters + _num_trained(work) * (4 + optimizer_bytes(work))


def _num_trained(work: Workload) -> float:
    """Return about how many parameters have gradients."""
    return work.student.parameters * (0.02 if work.recipe.train.lora_rank else 1.0)


def _pass_bytes(work: Workload) -> float:
    """Return the bytes of the activations of one micro-batch, and of what the loss works with."""
    options, student = work.recipe.train, work.student
    chunks = 400 * 2**20 if work.machine.gpu else 200 * 2**20
    kept_per_number = 70 * student.layers  # bytes of activations for each number of the width
    if options.gradient_checkpointing:
        kept_per_number = 4 * student.layers + 70
    return chunks + options.micro_batch_tokens * student.hidden * kept_per_number


def checkpoint_bytes(work: Workload) -> float:
    """Return the bytes on disk of a model's checkpoints while it learns."""
    return 3 * work.student.parameters * (4 + optimizer_bytes(work))
