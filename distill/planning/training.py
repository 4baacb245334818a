"""What it takes to train a student on a machine: seconds, and memory."""

from distill.planning.costs import Workload

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
    and of the activations of one micro-batch."""
    options, student = work.recipe.train, work.student
    trained_share = 0.02 if options.lora_rank else 1.0
    weights = student.parameters * (4 + trained_share * (4 + optimizer_bytes(work)))
    head = 0 if options.lora_rank else 8 * student.head
    copies = 400 * 2**20 if work.machine.gpu else 200 * 2**20
    if work.machine.gpu or work.in_bfloat16(options.precision):
        copies += 2 * student.parameters
    kept_per_number = 70 * student.layers  # bytes of activations for each number of the width
    if options.gradient_checkpointing:
        kept_per_number = 4 * student.layers + 70
    activations = options.micro_batch_tokens * student.hidden * kept_per_number
    return weights + head + copies + activations


def checkpoint_bytes(work: Workload) -> float:
    """Return the bytes on disk of a model's checkpoints while it learns."""
    return 3 * work.student.parameters * (4 + optimizer_bytes(work))
