"""The section `train`: what cannot be learnt from is refused."""

import pytest
from recipe_helpers import problem
from run_helpers import QUICKSTART

from distill.recipe import load_recipe


@pytest.mark.parametrize(
    ("divergence", "parameter", "learns"),
    [
        ("jsd", "beta=0.01", False),
        ("jsd", "beta=0.05", True),
        ("jsd", "beta=0.95", True),
        ("jsd", "beta=0.97", False),
        ("jsd", "beta=0", True),
        ("jsd", "beta=1", True),
        ("jsd_normalised", "beta=0.01", True),
        ("jsd_normalised", "beta=0.99", True),
        ("skew_kl", "alpha=1", False),
        ("skew_kl", "alpha=0.99", True),
        ("skew_reverse_kl", "alpha=1", False),
        ("adaptive_kl", "alpha=1", True),
        ("forward_kl", "alpha=1", True),
    ],
)
def test_a_divergence_that_learns_nothing_is_refused_when_the_recipe_is_read(
    divergence, parameter, learns
):
    """The same rule as in the losses, so that no run comes as far as training to hear of it."""
    overrides = ["capture.signal=top_k", f"train.divergence={divergence}", f"train.{parameter}"]
    name, _, value = parameter.partition("=")
    if learns:
        assert getattr(load_recipe(QUICKSTART, overrides).train, name) == float(value)
    else:
        assert f"train: {name} {float(value)} with {divergence}" in problem(*overrides)
        assert {"beta": "use jsd_normalised", "alpha": "0.1 is usual"}[name] in problem(*overrides)


def test_a_loss_has_a_weight_and_a_row_its_place():
    assert "there is nothing to learn" in problem("train.soft_weight=0", "train.hard_weight=0")
    assert "use jsd_normalised" in problem("train.divergence=jsd", "train.beta=0.01")
    assert "holds no row of max_length" in problem("train.micro_batch_tokens=100")
    assert "batch_tokens 100 is less than max_length" in problem("train.batch_tokens=100")
