"""What is told of a round while rounds are made."""

from types import SimpleNamespace
from typing import Any

from distill.core.results import Round
from distill.on_policy.rounds import tell

WORK: Any = SimpleNamespace(longest=256, title=lambda number: f"round {number}")


def test_answers_that_are_too_long_to_be_learnt_are_told_of(capsys):
    tell(WORK, Round(1, "made from", "student", num_too_long=1234))
    told = capsys.readouterr().out
    assert "1,234 longer than train.max_length 256 with their prompts, not learnt" in told
    tell(WORK, Round(1, "made from", "student"))
    assert "longer" not in capsys.readouterr().out
