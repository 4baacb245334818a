"""Whether a text is in its language: a gate on Unicode scripts, then sentence by sentence.

The gate finds exactly what teachers leak most (Han in Swahili). Then at least half of the text must
be in the language (identification.py), and no single sentence may surely be in another.

A single sentence that leaked counts only if the open choice is sure of it: of 15,000 sentences of
SIB-200 in 15 languages it was never sure of another language than their own, and it was sure of
96 % of the English ones.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from distill.text.identification import MIN_LETTERS, SentenceIdentifier, label_of
from distill.text.scripts import SCRIPTS, UNSPACED, letters_by_script, scripts_of
from distill.text.text import Text

# share of letters in scripts that are neither the language's own nor Latin
MAX_FOREIGN = 0.05
# a text in a script of its own may name things in Latin letters, but not be mostly that
MIN_OWN = 0.2
# What a sentence that leaked has: letters of a foreign script (8 Han), or letters and words of
# another language.
LEAK_SCRIPT, LEAK_LETTERS, LEAK_WORDS = 24, 30, 7


def wrong_language(
    text: Text, language: str, languages: Sequence[str], prompt: str = ""
) -> str | None:
    """Return why the text is not in `language`, e.g. "script: 45 % Han in sw".

    None if it is, or if nothing in it can be judged. `languages` are the recipe's: with en and zh
    they are what a sentence may be mistaken for.

    At least half of the judged text must be in `language`, and no sentence of some length surely in
    another, quotations apart: unless the `prompt` itself is in the language and has such a
    sentence. Chinese in simplified and traditional characters is not told apart.
    """
    plain = text.prose
    if not plain.letters:
        return None
    identifier = SentenceIdentifier(language, languages)
    reason = _script_gate(plain, language) or _minority(plain, [language], identifier)
    if reason is not None:
        return reason
    leak = _leak(plain, identifier)
    if leak is not None and prompt and _has_leak_of_its_own(Text(prompt).prose, identifier):
        return None
    return leak


def wrong_reasoning_language(
    text: Text, language: str, languages: Sequence[str], prompt: str = ""
) -> str | None:
    """Return why reasoning is in neither English nor `language`, or None.

    It may mix the two, and speak of what is in the prompt in the prompt's scripts.
    """
    plain = text.prose
    allowed = {*scripts_of(language), *letters_by_script(prompt), "Latin"}
    foreign = {script: num for script, num in plain.letters.items() if script not in allowed}
    reason = _too_foreign(foreign, sum(plain.letters.values()), language)
    if reason is not None:
        return reason
    return _minority(plain, [language, "en"], SentenceIdentifier(language, languages))


def _script_gate(plain: Text, language: str) -> str | None:
    letters = plain.letters
    total = sum(letters.values())
    own_scripts = scripts_of(language)
    allowed = {*own_scripts, "Latin"}
    foreign = {script: num for script, num in letters.items() if script not in allowed}
    reason = _too_foreign(foreign, total, language)
    if reason is not None:
        return reason
    num_own = sum(letters.get(script, 0) for script in own_scripts)
    if num_own < MIN_OWN * total and total >= MIN_LETTERS:
        return f"script: {round(100 * letters.get('Latin', 0) / total)} % Latin in {language}"
    return None


def _too_foreign(foreign: dict[str, int], total: int, language: str) -> str | None:
    """Return why letters in foreign scripts are too many of `total`, or None.

    A name or a term (four Han characters) is not too much, whatever its share; where it is all
    there is, it is.
    """
    num = sum(foreign.values())
    is_little = num <= MAX_FOREIGN * total
    is_name = num <= MIN_LETTERS and num * 2 <= total
    if is_little or is_name:
        return None
    script = _most_frequent(foreign)
    return f"script: {round(100 * foreign[script] / total)} % {script} in {language}"


def _most_frequent(letters: dict[str, int]) -> str:
    return max(letters, key=lambda script: letters[script])


def _minority(plain: Text, wanted: Sequence[str], identifier: SentenceIdentifier) -> str | None:
    """Return why less than half of what can be judged is in a `wanted` language, or None."""
    lengths: Counter[str] = Counter()
    num_sentences: Counter[str] = Counter()
    for sentence in plain.sentences:
        code, length = identifier.identify(sentence)
        if code is not None:
            lengths[code] += length
            num_sentences[code] += 1
    codes = [label_of(language) for language in wanted]
    if sum(lengths[code] for code in codes) * 2 >= lengths.total():
        return None
    others = [code for code in lengths if code not in codes]
    other = max(others, key=lambda code: lengths[code])
    return (
        f"language: {num_sentences[other]} of {num_sentences.total()} sentences look like {other}"
    )


def _has_leak_of_its_own(prompt: Text, identifier: SentenceIdentifier) -> bool:
    """Return whether a prompt in the language brings a sentence in another one itself."""
    is_in_language = _minority(prompt, [identifier.language], identifier) is None
    return is_in_language and _leak(prompt, identifier) is not None


def _leak(plain: Text, identifier: SentenceIdentifier) -> str | None:
    """Return the first passage that is surely in another script or language, quotations apart."""
    for sentence in plain.without_quotations.sentences:
        between = _between_own_letters(sentence, identifier.language)
        leak = _leaked_script(between, identifier.language)
        if leak is not None:
            return leak
        for piece in (*_clauses(sentence), *between):
            other = identifier.surely_other(piece) if _is_long(piece) else None
            if other is not None:
                return f"language: looks like {other}: {piece.raw[:60]!r}"
    return None


_COLON = re.compile(r"[:;]\s+")


def _clauses(sentence: Text) -> list[Text]:
    """Return what colons and semicolons divide; the sentence itself where there are none."""
    clauses = _COLON.split(sentence.raw)
    return [sentence] if len(clauses) == 1 else [Text(clause) for clause in clauses]


def _between_own_letters(sentence: Text, language: str) -> list[Text]:
    """Return what is between letters of the language's scripts, where other scripts are much."""
    own_scripts = scripts_of(language)
    foreign = (num for script, num in sentence.letters.items() if script not in own_scripts)
    if sum(foreign) < LEAK_SCRIPT:
        return []
    return [Text(piece.strip()) for piece in _letters_of(own_scripts).split(sentence.raw)]


@lru_cache(maxsize=64)
def _letters_of(scripts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"[{''.join(_character_ranges(scripts))}]+")


def _character_ranges(scripts: Sequence[str]) -> Iterator[str]:
    for script in scripts:
        for low, high in SCRIPTS[script]:
            yield f"{chr(low)}-{chr(high)}"


def _leaked_script(pieces: Sequence[Text], language: str) -> str | None:
    for piece in pieces:
        foreign = {script: num for script, num in piece.letters.items() if script != "Latin"}
        if sum(foreign.values()) >= LEAK_SCRIPT:
            return f"script: {_most_frequent(foreign)} in {language}: {piece.raw[:60]!r}"
    return None


def _is_long(piece: Text) -> bool:
    if len(piece.raw) * 3 < LEAK_LETTERS or sum(piece.letters.values()) < LEAK_LETTERS:
        return False
    return _most_frequent(piece.letters) in UNSPACED or len(piece.raw.split()) >= LEAK_WORDS
