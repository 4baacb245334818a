"""How often the rules of outcomes.py say what a reader says, on a sample of labelled answers.

The sample was written and labelled by a language model, as the sets were, before the rules had been
tried on it. It is small and clean: on real answers the rules agree less.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from distill.conduct.outcomes import outcome_of
from distill.conduct.sets import FOLDER, LANGUAGES
from distill.core.jsonl import read_jsonl

FILE = FOLDER / "labelled_answers.jsonl"


@dataclass(frozen=True)
class LabelAgreement:
    """`confused`: how often the label was the first and the rules said the second."""

    num_agreed: int
    num: int
    confused: dict[tuple[str, str], int]

    @property
    def sentence(self) -> str:
        """Return it as a person reads it."""
        return (
            f"On {self.num} short answers with labels, in {len(LANGUAGES)} languages, the phrase lists "
            f"agree with the label on {self.num_agreed}."
        )


@lru_cache(maxsize=1)
def agreement_with_labels() -> LabelAgreement:
    """Return how the rules do on the labelled answers of the package."""
    rows = [row for _, row in read_jsonl(FILE)]
    found = [
        (row["label"], outcome_of(row["answer"], row["language"], LANGUAGES, row["request"]).name)
        for row in rows
    ]
    confused = Counter(pair for pair in found if pair[0] != pair[1])
    return LabelAgreement(len(rows) - confused.total(), len(rows), dict(confused))
