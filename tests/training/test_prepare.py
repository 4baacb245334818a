"""What is done to a model before it is trained."""

import torch
from run_helpers import QUICKSTART

from distill.core.run_folder import RunFolder
from distill.initialize import build
from distill.initialize import run as initialize
from distill.models import load
from distill.recipe import load_recipe
from distill.training.prepare import draw_weights_anew

CPU = load.Placement("cpu", "float32")


def test_weights_drawn_anew_are_those_of_a_recipe_with_that_seed(tmp_path):
    folder = RunFolder(tmp_path)
    initialize(load_recipe(QUICKSTART, ["seed=1"]), folder)
    model = load.load_model(str(folder.stage("initialize") / "student"), CPU)
    ends = model.generation_config.eos_token_id
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draw_weights_anew(model, 8)

    wanted = build(load_recipe(QUICKSTART, ["seed=8"]))[0].state_dict()
    drawn = model.state_dict()
    assert drawn.keys() == wanted.keys()
    assert all(torch.equal(drawn[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(drawn[name], before[name]) for name in before)
    assert model.lm_head.weight is model.model.embed_tokens.weight, "it is still tied"
    assert not model.training and model.generation_config.eos_token_id == ends

    draw_weights_anew(model, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
