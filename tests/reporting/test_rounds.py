"""The report's table of rounds: a cell for each heading, also where there is nothing to say."""

from distill.core.results import Round, RoundGuards, RoundsResult, RoundValidation
from distill.reporting.rounds import HEADINGS, rounds_lines
from distill.reporting.table import NONE

VALIDATION = RoundValidation(9, 0.5, 0.2, 0.0, 0.0)
GUARDS = RoundGuards(16, 200, 0.0, 0.0, 0.0, 0.0, 12.5, 20.0)


def test_answers_that_were_too_long_have_a_column():
    rounds = [
        Round(0, "", "", validation=VALIDATION),
        Round(1, "", "", validation=VALIDATION, guards=GUARDS, num_too_long=1234),
    ]
    lines = rounds_lines(RoundsResult(rounds, 0, "all 1 rounds are done", "weights", []))
    assert [len(line) for line in lines] == [len(HEADINGS)] * 2
    assert [line[HEADINGS.index("too long")] for line in lines] == [NONE, "1,234"]
