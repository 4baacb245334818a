"""The optimizers of a training run."""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from distill.errors import RecipeError
from distill.recipe.sections import Train
from distill.training.muon import Muon

BETAS = (0.9, 0.95)


def build_optimizer(
    trainable: dict[str, nn.Parameter], options: Train, outer: Collection[nn.Parameter] = ()
) -> Any:
    """Return the optimizer of `options`, with weight decay on matrices only.

    `outer`: the embedding, the output head and what else is no hidden layer, which Muon leaves to
    AdamW. The 8-bit ones are from bitsandbytes; raises RecipeError for one without a CUDA GPU.
    """
    matrices = [p for p in trainable.values() if p.ndim >= 2]
    vectors = [p for p in trainable.values() if p.ndim < 2]
    if options.optimizer == "muon":
        return _muon(matrices, vectors, options, set(outer))
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


def _muon(
    matrices: list[nn.Parameter],
    vectors: list[nn.Parameter],
    options: Train,
    outer: set[nn.Parameter],
) -> Muon:
    """Return a Muon for the matrices of hidden layers; of the stacked ones of experts it makes no use."""
    hidden = [p for p in matrices if p.ndim == 2 and p not in outer]
    others = [p for p in matrices if p.ndim > 2 or p in outer]
    groups = [
        {"params": hidden, "weight_decay": options.weight_decay, "orthogonal": True},
        {"params": others, "weight_decay": options.weight_decay, "orthogonal": False},
        {"params": vectors, "weight_decay": 0.0, "orthogonal": False},
    ]
    groups = [group for group in groups if group["params"]]
    return Muon(groups, lr=options.learning_rate, betas=BETAS)
