"""The optimizer of a training run: what decays, and what needs a GPU."""

import pytest
import torch
from torch import nn

from distill.errors import RecipeError
from distill.recipe.sections import Train
from distill.training.optimizer import build_optimizer


def trainable() -> dict[str, nn.Parameter]:
    return dict(nn.Linear(4, 3).named_parameters())


def test_weights_of_matrices_decay_and_vectors_do_not() -> None:
    parameters = trainable()
    optimizer = build_optimizer(parameters, Train(weight_decay=0.1))
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {parameters["weight"]: 0.1, parameters["bias"]: 0.0}


def test_a_group_without_parameters_is_left_out() -> None:
    only_matrix = {"weight": trainable()["weight"]}
    assert len(build_optimizer(only_matrix, Train()).param_groups) == 1


def test_muon_takes_the_matrices_of_hidden_layers_alone() -> None:
    parameters = trainable()
    embedding, experts = nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.ones(2, 4, 4))
    parameters |= {"embedding": embedding, "experts": experts}
    options = Train(optimizer="muon", weight_decay=0.1)
    groups = build_optimizer(parameters, options, outer=[embedding]).param_groups
    taken = {p: (g["orthogonal"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert taken == {
        parameters["weight"]: (True, 0.1),
        embedding: (False, 0.1),
        experts: (False, 0.1),
        parameters["bias"]: (False, 0.0),
    }


def test_muon_and_an_adapter_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="lora_rank 8\\): use adamw"):
        Train(optimizer="muon", lora_rank=8)


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_8_bit_states_need_a_gpu_and_the_way_out_is_named(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} needs a CUDA GPU; set train.optimizer to adamw"):
        build_optimizer(trainable(), Train.model_validate({"optimizer": name}))
