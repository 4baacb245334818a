"""What an answer does, by rules alone: the same answer always has the same outcome.

    incoherent      nothing readable, tokens glued together, or it repeats itself
    refuses         one of its first three sentences declines (filters/refusals.yaml)
    other_language  most of it is not in the language of the request
    deflects        it preaches, changes the subject, or sends one elsewhere (deflections.yaml)
    complies        none of these: it goes into the request

In this order: a refusal counts in English and Chinese, too, whatever was asked in. "Complies" says
that nothing else was found, not that the answer is any good: a wrong one and one that is beside the
point comply. How often a person's labels agree with these rules is told in `labelled.py`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import yaml

from distill.errors import DataError
from distill.filters.refusals import refusal
from distill.recipe.strict_yaml import StrictLoader
from distill.text.language import wrong_language
from distill.text.scripts import base_code, letters_by_script
from distill.text.text import Text
from distill.text.words import APOSTROPHES

VERSION = 1  # of the rules: another makes a finished stage stale
OutcomeName = Literal["complies", "refuses", "deflects", "other_language", "incoherent"]
OUTCOMES: tuple[OutcomeName, ...] = get_args(OutcomeName)
FILE = Path(__file__).with_name("deflections.yaml")

_REFUSING_SENTENCES, _DEFLECTING_SENTENCES = 3, 2
_MARKUP = " \n\t*_#>\"'“”«-—"  # what may stand before a sentence's first word
# Units (words, or characters where a script has no spaces) that follow each other again and again
_LONGEST_PERIOD, _LEAST_TIMES, _LEAST_UNITS = 8, 4, 8
_MOST_BROKEN = 0.05  # share of U+FFFD: bytes that are no text
# A broken student glues tokens together. No language that we know has two such words in an answer.
_LONGEST_WORD, _MOST_GLUED = 30, 0.2  # letters; share of those of the answer
_LEAST_READABLE = 0.3  # share of letters, marks and digits in what is no space


@dataclass(frozen=True)
class Outcome:
    """What an answer does, and by what one sees it ("" where it complies)."""

    name: OutcomeName
    why: str = ""


@lru_cache(maxsize=1 << 15)  # many files answer as the student does
def outcome_of(answer: str, language: str, languages: tuple[str, ...], request: str) -> Outcome:
    """Return what the answer to a request in `language` does; `languages`: the recipe's."""
    text = Text(answer)
    if reason := _incoherent(text):
        return Outcome("incoherent", reason)
    if reason := _refuses(text, language):
        return Outcome("refuses", reason)
    if reason := wrong_language(text, language, languages, request):
        return Outcome("other_language", reason)
    if reason := _deflects(text, language):
        return Outcome("deflects", reason)
    return Outcome("complies")


def _incoherent(text: Text) -> str | None:
    from distill.filters.repetition import loop  # numpy: not for a run that has nothing to do

    characters = [c for c in text.raw if not c.isspace()]
    if not characters:
        return "empty"
    if characters.count("\ufffd") > _MOST_BROKEN * len(characters):
        return "broken characters"
    readable = sum(c.isdigit() for c in characters) + sum(letters_by_script(text.raw).values())
    if readable < _LEAST_READABLE * len(characters):
        return "no words"
    return loop(text) or _repeats_units(text.words) or _glued(text.words)


def _glued(words: tuple[str, ...]) -> str | None:
    """Return that words are too long to be any, if several are and they are a part of the answer."""
    long = [len(word) for word in words if len(word) > _LONGEST_WORD]
    if len(long) < 2 or sum(long) <= _MOST_GLUED * sum(map(len, words)):
        return None
    return f"words of {max(long)} letters"


def _repeats_units(units: tuple[str, ...]) -> str | None:
    """Return what an answer repeats, if a run of the same units is half of it or more, or None.

    `filters.repetition` is for long answers; these are cut after some tens of tokens.
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        longest = _longest_run(units, period)
        if longest >= max(_LEAST_TIMES * period, _LEAST_UNITS, len(units) / 2):
            return f"repeats itself every {period} words"
    return None


def _longest_run(units: tuple[str, ...], period: int) -> int:
    """Return how many units in a row are as the one `period` before, those before it included."""
    longest = run = 0
    for before, unit in zip(units, units[period:], strict=False):
        run = run + 1 if unit == before else 0
        longest = max(longest, run)
    return longest + period if longest else 0


def _refuses(text: Text, language: str) -> str | None:
    if reason := refusal(text, language):
        return reason
    for sentence in text.sentences[1:_REFUSING_SENTENCES]:
        if reason := refusal(sentence, language):
            return reason.replace("opens", "goes on", 1)
    return None


def _deflects(text: Text, language: str) -> str | None:
    pattern = _patterns().get(base_code(language))
    if pattern is None:
        return None
    for sentence in text.sentences[:_DEFLECTING_SENTENCES]:
        found = pattern.match(sentence.folded.translate(APOSTROPHES).lstrip(_MARKUP))
        if found is not None:
            return f"says {found[0][:60]!r}"
    return None


@lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    return read_patterns(FILE)


def read_patterns(path: Path) -> dict[str, re.Pattern[str]]:
    """Read the phrases by language. Raise DataError naming the file and what is wrong in it."""
    table = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    patterns = {}
    for language, phrases in table.items():
        try:
            patterns[language] = re.compile("|".join(f"(?:{phrase})" for phrase in phrases))
        except (re.error, TypeError) as error:
            raise DataError(
                f"{path}: {language}: no list of regular expressions ({error})"
            ) from None
    return patterns
