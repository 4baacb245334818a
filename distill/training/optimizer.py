"""The optimizers of a training run."""

from typing import Any

import torch
from torch import nn

from distill.errors import RecipeError
from distill.recipe.sections import Train

BETAS = (0.9, 0.95)


def build_optimizer(trainable: dict[str, nn.Parameter], options: Train) -> Any:
    """Return an AdamW with weight decay on matrices only; the 8-bit ones are from bitsandbytes.

    Raises RecipeError for an 8-bit one without a CUDA GPU.
    """
    matrices = [p for p in trainable.values() if p.ndim >= 2]
    vectors = [p for p in trainable.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS, fused=True)
    if not matrices[0].is_cuda:
        raise RecipeError(
            f"train.optimizer {options.optimizer} needs a CUDA GPU; set train.optimizer to adamw"
        )
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    is_paged = options.optimizer == "paged_adamw_8bit"
    optimizer_class = PagedAdamW8bit if is_paged else AdamW8bit
    return optimizer_class(groups, lr=options.learning_rate, betas=BETAS)
