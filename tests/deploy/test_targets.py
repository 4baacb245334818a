"""A machine that is not here: an estimate from its memory, and where the figures are from."""

import re

import pytest

from distill.deploy.targets import estimate, target, targets
from distill.errors import RecipeError


def test_an_estimate_is_a_share_of_the_bandwidth_over_the_bytes() -> None:
    pi = target("Raspberry Pi 5")
    assert pi.decode(int(2e9)) == pytest.approx(
        (0.53 * 17 / 2, 0.66 * 17 / 2)
    )  # a file of 2 GB: 4.5 to 5.6 were measured
    text = estimate(pi, {"q4_k_m": int(2e9), "tiny": 1000})
    assert (
        "q4_k_m       4.5 to 5.6 tokens/s (2,000.0 MB a token)" in text
        and "tiny         too small" in text
    )
    assert pi.source in text and pi.measured in text


def test_every_machine_has_a_source_with_its_date_and_a_share() -> None:
    for machine in targets().values():
        assert 1e9 < machine.bandwidth < 1e12 and 0 < machine.share[0] < machine.share[1] < 1, (
            machine.name
        )
        assert re.search(r"20\d\d|product brief|\d MT/s", machine.source), machine.name
        assert re.search(r"20\d\d-\d\d", machine.measured), machine.name
    with pytest.raises(RecipeError, match="not in the table"):
        target("toaster")
