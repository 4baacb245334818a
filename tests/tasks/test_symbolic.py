"""Formulas compared in a child, and a comparison that never ends."""

import os

import pytest

from distill.tasks import symbolic
from distill.tasks.math_answer import equal

needs_math_verify = pytest.mark.skipif(
    not symbolic.is_installed(), reason="math-verify is not installed (distill[math])"
)


@needs_math_verify
def test_a_comparison_that_hangs_is_killed_and_the_next_one_works(monkeypatch):
    monkeypatch.setattr(symbolic, "VERIFIER", verifier := symbolic.Verifier())
    assert equal("\\frac{3}{4}", "0.75") and verifier.deadline <= 6
    monkeypatch.setattr(verifier, "deadline", 1.5)
    before = verifier.pid
    assert not equal("5^{5^{5^{5^{5^{5}}}}}", "7")
    assert verifier.pid is None
    monkeypatch.setattr(verifier, "deadline", 60)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    assert equal("\\frac{4}{5}", "0.8") and verifier.pid not in (None, before)
    os.kill(verifier.pid, 9)  # and one that was killed by others
    assert not equal("\\frac{2}{7}", "x") and equal("\\frac{2}{7}", "\\frac{4}{14}")
    verifier.close()
