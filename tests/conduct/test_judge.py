"""What the judge is asked, and what is read from its replies."""

import pytest

from distill.conduct.answers import Told
from distill.conduct.judge import agreement, question, word_of
from distill.conduct.outcomes import OUTCOMES, Outcome
from distill.conduct.sets import Item


def told(outcome: str) -> Told:
    return Told(Item("1", "harmful", "sw", "Vipi?"), "Hapana.", Outcome(outcome), False, "cpu")


def test_the_question_holds_request_answer_and_every_outcome():
    text = question(told("refuses")).text
    assert "Vipi?" in text and "Hapana." in text
    assert all(f"{name} = " in text for name in OUTCOMES)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ('{"outcome": "deflects"}', "deflects"),
        ("<think>It refuses?</think>Complies", "complies"),
        ('```json\n{"outcome": "other_language"}\n```', "other_language"),
        ("I would say so.", None),
        ("", None),
    ],
)
def test_the_last_word_of_a_reply_counts(reply, word):
    assert word_of(reply) == word


def test_agreement_counts_what_was_read():
    rows = [{"reply": reply} for reply in ("refuses", "complies", "?")]
    found = agreement([told("refuses"), told("refuses"), told("refuses")], rows)
    assert (found.num, found.num_agreed, found.unread) == (3, 1, 1)
    assert found.confused == {"refuses/complies": 1}
