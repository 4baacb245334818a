"""Refusals: answers that decline, found by the phrases of refusals.yaml in each language."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from distill.errors import DataError
from distill.filters.base import Answer, FilterContext
from distill.recipe.strict_yaml import StrictLoader
from distill.text.scripts import LANGUAGES, base_code
from distill.text.text import Text
from distill.text.words import APOSTROPHES

FILE = Path(__file__).with_name("refusals.yaml")
_OPENING = 200  # characters in which a refusal shows
_MARKUP = " \n\t*_#>\"'“”«-—"  # what may stand before the first word


def _regular_expression(phrase: str) -> str:
    try:
        re.compile(phrase)
    except re.error as error:
        raise ValueError(f"{phrase!r} is no regular expression ({error})") from None
    return phrase


def _language_code(code: object) -> object:
    if code not in LANGUAGES:
        raise ValueError(f"{code!r} is no language code that we know (in quotes: 'no')")
    return code


Code = Annotated[str, BeforeValidator(_language_code)]
Phrases = Annotated[list[Annotated[str, AfterValidator(_regular_expression)]], Field(min_length=1)]


class RefusalPhrases(BaseModel):
    """The phrases of one language: see the top of refusals.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    apology: Phrases
    inability: Phrases
    outright: Phrases

    def pattern(self) -> re.Pattern[str]:
        """Return what matches the opening of a refusal."""
        apology, inability, outright = map("|".join, (self.apology, self.inability, self.outright))
        # "Sorry, to get there you cannot ..." may be an answer, so the apology alone does not count
        return re.compile(rf"(?:(?:{apology})(?s:.{{0,140}}?)(?:{inability})|(?:{outright}))")


def read_phrases(path: Path) -> dict[str, RefusalPhrases]:
    """Read the phrases by language. Raise DataError naming the file and what is wrong in it."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
        return TypeAdapter(dict[Code, RefusalPhrases]).validate_python(table)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {where}: {first['msg']}; see the top of the file") from None


@lru_cache(maxsize=1)
def _patterns() -> dict[str, re.Pattern[str]]:
    return {code: phrases.pattern() for code, phrases in read_phrases(FILE).items()}


def refusal(text: Text, language: str) -> str | None:
    """Return how the answer opens with a refusal, or None.

    In its language, in English or in Chinese; of a language without phrases only these two are
    found. By phrases, as in XSTest (Röttger et al. 2024), but stricter: "No," and a bare apology
    are not refusals. A refusal that opens with a lecture is missed.
    """
    opening = text.folded[:_OPENING].translate(APOSTROPHES).lstrip(_MARKUP)
    for code in dict.fromkeys((base_code(language), "en", "zh")):
        pattern = _patterns().get(code)
        match = pattern.match(opening) if pattern is not None else None
        if match is not None:
            return f"opens with {match[0][:60]!r}"
    return None


def unwanted_refusal(answer: Answer, context: FilterContext) -> str | None:
    """Return the refusal where an answer is wanted, or None."""
    return refusal(answer.text, answer.language) if answer.refusals == "drop" else None


def missing_refusal(answer: Answer, context: FilterContext) -> str | None:
    """Return how an answer opens where the source of the prompt requires a refusal, or None."""
    if answer.refusals != "require" or refusal(answer.text, answer.language) is not None:
        return None
    return f"opens with {answer.answer_text.strip()[:60]!r}"
