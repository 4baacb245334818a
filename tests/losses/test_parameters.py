"""Which parameters a divergence cannot learn with, and what a recipe is told about them."""

import pytest

from distill.losses.parameters import parameter_problem


@pytest.mark.parametrize(
    ("divergence", "parameters", "problem"),
    [
        ("jsd", {"beta": 0.01}, "beta 0.01 with jsd learns ~100 times slower than beta 0"),
        ("jsd", {"beta": 0.96}, "use jsd_normalised, or a beta from 0.05 to 0.95"),
        ("jsd_normalised", {"beta": 1.5}, "beta 1.5 is outside [0, 1]: choose a value between"),
        ("adaptive_kl", {"alpha": -1.0}, "alpha -1.0 is outside [0, 1]: choose a value between"),
        ("skew_kl", {"alpha": 1.0}, "at 1 it is 0 for every student: 0.1 is usual"),
    ],
)
def test_a_parameter_that_learns_nothing_is_named_with_the_way_out(
    divergence: str, parameters: dict[str, float], problem: str
) -> None:
    assert problem in (parameter_problem(divergence, **parameters) or "")


@pytest.mark.parametrize(
    ("divergence", "parameters"),
    [
        ("jsd", {"beta": 0.0}),
        ("jsd", {"beta": 0.05}),
        ("jsd_normalised", {"beta": 0.01}),
        ("adaptive_kl", {"alpha": 1.0}),
        ("skew_kl", {"alpha": 0.0, "beta": 7.0}),
        ("forward_kl", {"alpha": 7.0, "beta": 7.0}),
        ("jsd", {}),
    ],
)
def test_what_learns_or_is_not_taken_is_no_problem(
    divergence: str, parameters: dict[str, float]
) -> None:
    assert parameter_problem(divergence, **parameters) is None
