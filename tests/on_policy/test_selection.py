"""Which round is kept, and when the rounds end."""

from distill.core.results import Round, RoundValidation
from distill.on_policy.selection import best_round, why_ended


def rounds(*merits, red=()):
    made = []
    for number, (exact_match, nll) in enumerate(merits):
        found = RoundValidation(10, exact_match, nll, 0.0, 0.0)
        reason = "loops" if number in red else None
        made.append(Round(number, "m", "s", validation=found, red=reason))
    return made


def test_the_best_is_found_by_exact_match_then_by_the_nll_and_the_earlier_of_equals():
    assert best_round(rounds((0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5))) == 2
    assert best_round(rounds((0.5, 1.0), (0.5, 1.0))) == 0
    assert best_round(rounds((None, 1.0), (None, 0.9), (None, 1.1))) == 1


def test_a_red_round_is_never_kept():
    assert best_round(rounds((0.5, 1.0), (0.9, 0.1), red=[1])) == 0
    assert why_ended(rounds((0.5, 1.0), (0.9, 0.1), red=[1]), 5, 5) == "round 1 is red: loops"


def test_rounds_end_when_patience_is_used_up_or_all_are_done():
    worse = rounds((0.5, 1.0), (0.6, 1.0), (0.6, 1.1), (0.5, 1.0))
    assert why_ended(worse[:3], 9, 2) is None
    assert why_ended(worse, 9, 2) == "2 rounds in a row brought nothing better (rounds.patience 2)"
    assert why_ended(worse[:2], 1, 2) == "the round is done"
