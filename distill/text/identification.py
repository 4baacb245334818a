"""Which language a sentence is in: its script narrows the candidates, py3langid decides.

Where the script alone cannot decide, each sentence is identified among the recipe's languages,
English and Chinese only: restricted like that, py3langid 0.4 is right where the open choice among
139 languages is not (Indonesian or Malay, Hausa, Yoruba), and a mixed text is seen as mixed.
"""

import copy
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from distill.text.codes import base_code, classifier_label, subtags
from distill.text.scripts import LANGUAGES, scripts_of
from distill.text.text import Text

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

MIN_LETTERS = 12  # fewer letters in a sentence are not judged
MIN_CONFIDENCE = 0.6  # of py3langid among the candidates; a closer call is not judged
# Confidence from which the open choice is sure: of the recipe's languages, English and Chinese, and
# of any other language of the world.
SURE, SURE_OF_ANY = 0.9, 0.99
NO_LANGUAGE = "zxx"


class Identified(NamedTuple):
    """A sentence's language.

    `code`: the classifier's label, None where it cannot be told (a script's name where no candidate is
    written in it). `length`: in letters, those of dense scripts as three.
    """

    code: str | None
    length: int


@lru_cache(maxsize=1)
def _all_languages() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=64)
def _identifier(candidates: frozenset[str]) -> "LanguageIdentifier":
    restricted = copy.copy(_all_languages())
    restricted.set_languages(sorted(candidates))
    return restricted


@lru_cache(maxsize=256)
def _rivals(language: str, languages: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return candidates by script: the wanted language, the recipe's, English and Chinese."""
    by_script: dict[str, list[str]] = {}
    for code in dict.fromkeys((language, *languages, "en", "zh")):
        for script in scripts_of(code):
            candidates = by_script.setdefault(script, [])
            if label_of(code) not in candidates:
                candidates.append(label_of(code))
    return {script: tuple(codes) for script, codes in by_script.items()}


@lru_cache(maxsize=1)
def _labels() -> frozenset[str]:
    return frozenset(_all_languages().labels)


@lru_cache(maxsize=256)
def label_of(language: str) -> str:
    """Return what py3langid calls a language; the whole code in a script not its own (hi-Latn).

    The classifier knows Hindi in Devanagari only.
    """
    code = base_code(language)
    if set(scripts_of(language)) <= set(LANGUAGES.get(code, ())):
        return classifier_label(language)
    return "-".join([code, *subtags(language)])


def can_identify(language: str) -> bool:
    """Return whether py3langid knows the language, or no other is written in its script.

    If neither holds, only what is surely something else is found in an answer: another script, a
    language of the recipe, English or Chinese.
    """
    return label_of(language) in _labels() or _is_alone_in_its_script(language)


def _is_alone_in_its_script(language: str) -> bool:
    scripts = set(scripts_of(language))
    return sum(not scripts.isdisjoint(others) for others in LANGUAGES.values()) == 1


def by_script_only(languages: Sequence[str]) -> str | None:
    """Return what to tell a user whose languages are not all known to the classifier, or None."""
    unknown = [code for code in languages if not can_identify(code)]
    if not unknown:
        return None
    return (
        f"{', '.join(unknown)}: no classifier here knows {'it' if len(unknown) == 1 else 'them'}, "
        "so only another script, and what is surely English, Chinese or another language of the "
        "recipe is found; read some answers (`distill inspect`)"
    )


def _open_choice(sentence: Text) -> tuple[str, float]:
    """Return (language, confidence) among all that py3langid knows."""
    return _all_languages().classify(sentence.raw)


def identify(sentence: Text, language: str, languages: Sequence[str]) -> Identified:
    """Identify a sentence among `language`, the recipe's `languages`, English and Chinese."""
    length = sum(sentence.letters.values())
    if length < MIN_LETTERS:
        return Identified(None, length)
    script = _main_script(sentence.letters, scripts_of(language))
    rivals = _rivals(language, tuple(languages)).get(script, ())
    if not rivals:
        return Identified(script, length)
    if len(rivals) == 1:
        return Identified(rivals[0], length)
    return Identified(_likeliest(sentence, label_of(language), rivals), length)


def _main_script(lengths: dict[str, int], wanted: Sequence[str]) -> str:
    # kana beside Han is Japanese, whichever is more
    if "Hiragana" in lengths or "Katakana" in lengths:
        return "Hiragana"
    return max(lengths, key=lambda script: (lengths[script], script in wanted))


def _likeliest(sentence: Text, wanted: str, rivals: Sequence[str]) -> str | None:
    """Return which of the rivals, languages of one script, the sentence is in; None if unsure."""
    known = _labels().intersection(rivals)
    if wanted in rivals and wanted not in known:
        # among the candidates it would have to be something else
        other, confidence = _open_choice(sentence)
        return other if other in known and confidence > SURE else wanted
    code, confidence = _identifier(known).classify(sentence.raw)
    return code if confidence >= MIN_CONFIDENCE else None


class SentenceIdentifier:
    """Identifies the sentences of one text that should be in `language`, each distinct one once."""

    def __init__(self, language: str, languages: Sequence[str]):
        self.language = language
        self.languages = languages
        self._code = label_of(language)
        self._likely = {label_of(code) for code in (*languages, "en", "zh")}
        self._identified: dict[str, Identified] = {}  # by the sentence

    @cached_property
    def _trusts_candidates(self) -> bool:
        # among a few candidates French is the likeliest English, so in Latin letters the open
        # choice is asked about every sentence
        return "Latin" not in scripts_of(self.language) or self._code not in _labels()

    def identify(self, sentence: Text) -> Identified:
        """Identify a sentence, as the function `identify` does."""
        identified = self._identified.get(sentence.raw)
        if identified is None:
            identified = identify(sentence, self.language, self.languages)
            self._identified[sentence.raw] = identified
        return identified

    def surely_other(self, sentence: Text) -> str | None:
        """Return the code of another language that a sentence is surely in, or None."""
        if self._trusts_candidates and self.identify(sentence).code == self._code:
            return None
        code, confidence = _open_choice(sentence)
        threshold = SURE if code in self._likely else SURE_OF_ANY
        if code in (self._code, NO_LANGUAGE) or confidence <= threshold:
            return None
        return code
