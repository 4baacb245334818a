"""Which language is a text in: a gate on Unicode scripts first, then py3langid sentence by sentence.

The gate finds exactly what teachers leak most (Han in Swahili). Where the script alone cannot decide, each sentence is
identified among the recipe's languages, English and Chinese only: restricted like that, py3langid 0.4 is right where
the open choice among 139 languages is not (Indonesian or Malay, Hausa, Yoruba), and a mixed text is seen as mixed.

A single sentence that leaked counts, too, if the open choice is sure of it: of 15,000 sentences of SIB-200 in 15 languages
it was never sure of another language than their own, and it was sure of 96 % of the English ones.
"""

import copy
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from distill.errors import RecipeError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Code-point ranges, both ends included (Unicode 15, Scripts.txt; blocks where a script fills them).
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": (
        (0x41, 0x5A),
        (0x61, 0x7A),
        (0xAA, 0xAA),
        (0xBA, 0xBA),
        (0xC0, 0x2AF),
        (0x1E00, 0x1EFF),
        (0x2C60, 0x2C7F),
        (0xA720, 0xA7FF),
        (0xAB30, 0xAB6F),
        (0xFB00, 0xFB06),
        (0xFF21, 0xFF3A),
        (0xFF41, 0xFF5A),
    ),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armenian": ((0x531, 0x58F), (0xFB13, 0xFB17)),
    "Hebrew": ((0x591, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "Syriac": ((0x700, 0x74F),),
    "Thaana": ((0x780, 0x7BF),),
    "Nko": ((0x7C0, 0x7FF),),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Oriya": ((0xB00, 0xB7F),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "Ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F)),
    "Cherokee": ((0x13A0, 0x13FF), (0xAB70, 0xABBF)),
    "Khmer": ((0x1780, 0x17FF),),
    "Mongolian": ((0x1800, 0x18AF),),
    "Ol Chiki": ((0x1C50, 0x1C7F),),
    "Tifinagh": ((0x2D30, 0x2D7F),),
    "Hiragana": ((0x3041, 0x309F),),
    "Katakana": ((0x30A0, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "Bopomofo": ((0x3100, 0x312F), (0x31A0, 0x31BF)),
    "Han": (
        (0x2E80, 0x2FDF),
        (0x3005, 0x3007),
        (0x3400, 0x4DBF),
        (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF),
        (0x20000, 0x323AF),
    ),
    "Adlam": ((0x1E900, 0x1E95F),),
}

# Scripts that put no space between words: there a unit of text is a character (see words.py).
UNSPACED = ("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar")

# One character is a syllable or a word: it counts as three letters when we ask whether there is enough to judge.
_DENSE = ("Han", "Hiragana", "Katakana", "Hangul", "Ethiopic")

_LANGUAGES_OF_SCRIPT = {
    "Latin": "ace af an ay az bcl bm br bs ca ceb crh cs cy da de ee en eo es et eu ext ff fi fil fj fo fon fr fuv fy ga gcf "
    "gcr gd gl gn gug guw ha haw hr hsb ht hu id ig ilo is it jv kab kg ki kik kmb ku la lb lg lij ln lt ltg lu lv "
    "mg mi mos ms mt nd nl nn no nb nr nso ny nyn oc om pap pcm pl pt qu rm rn ro rw sc se sg sk sl sm sn so sq "
    "ss st su sv sw tk tl tn to tpi tr ts tum tw ak umb uz vec vi vo wa war wo xh yo zu",
    "Cyrillic": "ba be bg cv ce kk ky mk mn os ru sah tg tt uk",
    "Arabic": "ar ary arz ckb fa ks prs ps sd sdh ug ur uzs",
    "Devanagari": "awa bho brx doi gom hi mag mai mr ne sa",
    "Bengali": "as bn",
    "Greek": "el grc",
    "Hebrew": "he hbo yi",
    "Ethiopic": "am ti tig gez",
    "Armenian": "hy",
    "Georgian": "ka",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Khmer": "km",
    "Myanmar": "my shn mnw",
    "Tibetan": "bo dz",
    "Thaana": "dv",
    "Nko": "nqo",
    "Tifinagh": "zgh",
    "Ol Chiki": "sat",
}
# Every language that we know, by its ISO 639-1 code, or its ISO 639-3 code where it has no short one.
LANGUAGES: dict[str, tuple[str, ...]] = {
    code: (script,) for script, codes in _LANGUAGES_OF_SCRIPT.items() for code in codes.split()
} | {
    "zh": ("Han", "Bopomofo"),
    "yue": ("Han", "Bopomofo"),
    "wuu": ("Han", "Bopomofo"),
    "ja": ("Han", "Hiragana", "Katakana"),
    "ko": ("Hangul", "Han"),
    "sr": ("Cyrillic", "Latin"),
    "kmr": ("Latin",),
    "mni": ("Bengali",),
}
# ISO 15924 script subtags, as in sr-Latn: they overrule the table.
_SUBTAGS = {
    "Latn": ("Latin",),
    "Cyrl": ("Cyrillic",),
    "Arab": ("Arabic",),
    "Deva": ("Devanagari",),
    "Beng": ("Bengali",),
    "Grek": ("Greek",),
    "Hebr": ("Hebrew",),
    "Ethi": ("Ethiopic",),
    "Armn": ("Armenian",),
    "Geor": ("Georgian",),
    "Guru": ("Gurmukhi",),
    "Gujr": ("Gujarati",),
    "Orya": ("Oriya",),
    "Taml": ("Tamil",),
    "Telu": ("Telugu",),
    "Knda": ("Kannada",),
    "Mlym": ("Malayalam",),
    "Sinh": ("Sinhala",),
    "Thai": ("Thai",),
    "Laoo": ("Lao",),
    "Khmr": ("Khmer",),
    "Mymr": ("Myanmar",),
    "Tibt": ("Tibetan",),
    "Thaa": ("Thaana",),
    "Nkoo": ("Nko",),
    "Tfng": ("Tifinagh",),
    "Olck": ("Ol Chiki",),
    "Adlm": ("Adlam",),
    "Mong": ("Mongolian",),
    "Hans": ("Han", "Bopomofo"),
    "Hant": ("Han", "Bopomofo"),
    "Hani": ("Han",),
    "Jpan": ("Han", "Hiragana", "Katakana"),
    "Kore": ("Hangul", "Han"),
    "Hang": ("Hangul",),
}

MAX_FOREIGN = 0.05  # share of letters in scripts that are neither the language's own nor Latin
MIN_OWN = (
    0.2  # a text in a script of its own may name things in Latin letters, but not be mostly that
)
MIN_LETTERS = 12  # fewer letters in a sentence are not judged
MIN_CONFIDENCE = 0.6  # of py3langid among the candidates; a closer call is not judged
# What a sentence that leaked has: letters of a foreign script (8 Han), or letters and words of another language, of which the open
# choice is this sure where the recipe, English or Chinese is likely, and this where any other language of the world is.
LEAK_SCRIPT, LEAK_LETTERS, LEAK_WORDS = 24, 30, 7
SURE, SURE_OF_ANY = 0.9, 0.99
NO_LANGUAGE = "zxx"


def base_code(language: str) -> str:
    """`pt` for `pt-BR`, `zh` for `zh-Hans`."""
    return language.replace("_", "-").split("-")[0].lower()


def scripts_of(language: str) -> tuple[str, ...]:
    """The scripts a language is written in. Raises RecipeError for a code that we do not know."""
    subtags = language.replace("_", "-").split("-")[1:]
    for subtag in subtags:
        if subtag.title() in _SUBTAGS:
            return _SUBTAGS[subtag.title()]
    if base_code(language) not in LANGUAGES:
        raise RecipeError(
            f"languages: {language!r}: we do not know its script; use an ISO 639-1 code such as sw, or add the script: "
            f"{base_code(language)}-Latn"
        )
    return LANGUAGES[base_code(language)]


@lru_cache(maxsize=1)
def _script_table() -> np.ndarray:
    """uint8[0x110000]: 0 = no letter of a script we know, else 1 + index in SCRIPTS. Only letters and marks count."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for number, ranges in enumerate(SCRIPTS.values(), 1):
        for low, high in ranges:
            for point in range(low, high + 1):
                if unicodedata.category(chr(point))[0] in "LM":
                    table[point] = number
    table[0x3007] = 1 + list(SCRIPTS).index("Han")  # the zero sign is a numeral letter (Nl)
    return table


def letters_by_script(text: str) -> dict[str, int]:
    """How many letters and vowel signs of each script; digits, punctuation and emoji are none."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    counts = np.bincount(_script_table()[points], minlength=len(SCRIPTS) + 1)
    return {name: int(count) for name, count in zip(SCRIPTS, counts[1:], strict=True) if count}


def script_share(text: str, language: str) -> float:
    """Share of the text's letters that are in the language's scripts, 0 to 1; nan for a text without letters."""
    counts = letters_by_script(text)
    total = sum(counts.values())
    return (
        sum(counts.get(script, 0) for script in scripts_of(language)) / total
        if total
        else float("nan")
    )


# A full stop ends a sentence only before a space: 3.5 and e.g. U.S. inside a word stay whole. Thai and Lao separate
# sentences (and clauses) by a space.
_SENTENCE_END = re.compile(
    r"""(?<=[.!?])["'”’»)\]]*\s+|(?<=[。！？｡।॥።፧፨။។៕؟۔])["'”’»」』）]*\s*|(?<=[฀-໿])\s+(?=[฀-໿])|\n+"""
)


def sentences(text: str) -> list[str]:
    """Cut at . ! ? and their likes in Chinese, Hindi, Amharic, Burmese, Khmer, Arabic, Urdu; at spaces in Thai and Lao."""
    return [piece for part in _SENTENCE_END.split(text) if part and (piece := part.strip())]


_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
# Pandoc's rule: no space inside the dollars and no digit after them, so that "$5 and $6" is not a formula.
_LATEX = re.compile(
    r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\$(?=\S)[^$\n]{1,300}?(?<=\S)\$(?!\d)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|\\[a-zA-Z]+\*?",
    re.S,
)
_ADDRESS = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\w+|</?[a-zA-Z][^<>\n]{0,200}>")
_DIGITS = re.compile(r"\d+")
_GREEK_SYMBOL = re.compile(r"(?<![Ͱ-Ͽ])[Ͱ-Ͽ](?![Ͱ-Ͽ])")


def prose(text: str) -> str:
    """The text without code, LaTeX, addresses, tags, digits and single Greek letters: they say nothing about language."""
    if "`" in text:
        text = _CODE.sub(" ", text)
    if "$" in text or "\\" in text:
        text = _LATEX.sub(" ", text)
    text = _ADDRESS.sub(" ", text)
    return _GREEK_SYMBOL.sub(" ", _DIGITS.sub("", text))


# Titles, names, terms and sayings are quoted, given in brackets, or set in italics.
_QUOTED = re.compile(
    r"""“[^”\n]{1,300}”|"[^"\n]{1,300}"|«[^»\n]{1,300}»|‘[^’\n]{1,300}’|「[^」\n]{1,300}」|『[^』\n]{1,300}』|《[^》\n]{1,300}》"""
    r"""|\([^()\n]{1,200}\)|（[^（）\n]{1,200}）|(?<!\*)\*(?![*\s])[^*\n]{1,100}\*(?!\*)|(?<!\w)_[^_\n]{1,100}_(?!\w)"""
)


@lru_cache(maxsize=1)
def _all_languages() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=64)
def _identifier(candidates: frozenset[str]) -> "LanguageIdentifier":
    restricted = copy.copy(_all_languages())
    restricted.set_languages(sorted(candidates))
    return restricted


def can_identify(language: str) -> bool:
    """Whether py3langid knows the language or its script is its alone; of an answer in another, only what is surely something else
    is found: another script, a language of the recipe, English or Chinese."""
    return base_code(language) in _all_languages().labels or _is_alone(language)


def by_script_only(languages: Sequence[str]) -> str | None:
    """What to tell a user whose languages are not all known to the classifier, or None."""
    unknown = [code for code in languages if not can_identify(code)]
    if not unknown:
        return None
    return (
        f"{', '.join(unknown)}: no classifier here knows {'it' if len(unknown) == 1 else 'them'}, so only another script, and what is "
        "surely English, Chinese or another language of the recipe is found; read some answers (`distill inspect`)"
    )


def _is_alone(language: str) -> bool:
    wanted = scripts_of(language)
    return sum(bool({*wanted} & {*scripts}) for scripts in LANGUAGES.values()) == 1


@lru_cache(maxsize=256)
def _rivals(language: str, languages: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Candidate languages by script: the recipe's, English, Chinese and the wanted one."""
    by_script: dict[str, list[str]] = {}
    for code in dict.fromkeys((language, *languages, "en", "zh")):
        for script in scripts_of(code):
            known = by_script.setdefault(script, [])
            if base_code(code) not in known:
                known.append(base_code(code))
    return {script: tuple(codes) for script, codes in by_script.items()}


def identify(sentence: str, language: str, languages: Sequence[str]) -> tuple[str | None, int]:
    """(base code of the sentence's language or None if it cannot be told, its length in letters, dense ones as three).

    The script narrows the candidates (the wanted language, the recipe's, en and zh); py3langid decides among the rest.
    """
    return _identified(sentence, language, tuple(languages))


@lru_cache(maxsize=256)  # asked for the whole, and for what is not quoted
def _identified(sentence: str, language: str, languages: tuple[str, ...]) -> tuple[str | None, int]:
    counts = letters_by_script(sentence)
    lengths = _weighed(counts)
    length = sum(lengths.values())
    if length < MIN_LETTERS:
        return None, length
    wanted = scripts_of(language)
    has_kana = (
        "Hiragana" in counts or "Katakana" in counts
    )  # beside Han it is Japanese, whichever is more
    script = "Hiragana" if has_kana else max(lengths, key=lambda s: (lengths[s], s in wanted))
    rivals = _rivals(language, languages).get(script, ())
    if len(rivals) < 2:
        return (rivals[0] if rivals else script), length
    known = frozenset(code for code in rivals if code in _all_languages().labels)
    if base_code(language) in rivals and base_code(language) not in known:
        other, confidence = _open_choice(
            sentence
        )  # among the candidates it would have to be something else
        return (other if other in known and confidence > SURE else base_code(language)), length
    found, confidence = _identifier(known).classify(sentence)
    return (found if confidence >= MIN_CONFIDENCE else None), length


@lru_cache(maxsize=64)  # asked for the whole, and for what is not quoted
def _open_choice(sentence: str) -> tuple[str, float]:
    """(language, confidence), of all that py3langid knows."""
    return _all_languages().classify(sentence)


def wrong_language(
    text: str, language: str, languages: Sequence[str], prompt: str = ""
) -> str | None:
    """None if the text is in `language` or nothing in it can be judged; else why not, e.g. "script: 45 % Han in sw".

    `languages` are the recipe's: with en and zh they are what a sentence may be mistaken for. At least half of the
    judged text must be in `language`, and no sentence of some length surely in another, quotations apart: unless the `prompt`
    itself is in the language and has such a sentence. Chinese in simplified and traditional characters is not told apart.
    """
    plain = prose(text)
    counts = _weighed(letters_by_script(plain))
    total = sum(counts.values())
    if not total:
        return None
    reason = _script_gate(counts, total, language) or _most(plain, (language,), languages)
    if reason is not None:
        return reason
    leak = _leak(plain, language, languages)
    if (
        leak is not None
        and prompt
        and _most(prose(prompt), (language,), languages) is None
        and _leak(prose(prompt), language, languages)
    ):
        return None
    return leak


def wrong_reasoning_language(
    text: str, language: str, languages: Sequence[str], prompt: str = ""
) -> str | None:
    """The same of reasoning, which may be in English or in `language`, or mix them; it may speak of what is in the prompt in
    the prompt's scripts."""
    plain = prose(text)
    counts = _weighed(letters_by_script(plain))
    allowed = {*scripts_of(language), *letters_by_script(prompt), "Latin"}
    foreign = {script: n for script, n in counts.items() if script not in allowed}
    return _too_foreign(foreign, sum(counts.values()), language) or _most(
        plain, (language, "en"), languages
    )


def _most(plain: str, wanted: Sequence[str], languages: Sequence[str]) -> str | None:
    """Why less than half of what can be judged is in a `wanted` language, the first of which it may be mistaken for; or None."""
    judged: Counter[str] = Counter()
    found: list[str] = []
    for sentence in sentences(plain):
        code, length = identify(sentence, wanted[0], languages)
        if code is not None:
            judged[code] += length
            found.append(code)
    codes = [base_code(language) for language in wanted]
    if sum(judged[code] for code in codes) * 2 >= judged.total():
        return None
    other = max((code for code in judged if code not in codes), key=lambda code: judged[code])
    return f"language: {found.count(other)} of {len(found)} sentences look like {other}"


def _leak(plain: str, language: str, languages: Sequence[str]) -> str | None:
    """The first passage that is surely in another script or language, quotations apart."""
    wanted, mine = scripts_of(language), base_code(language)
    likely = {base_code(code) for code in (*languages, "en", "zh")}
    # among a few candidates French is the likeliest English, so in Latin letters the open choice is asked about every sentence
    is_latin = "Latin" in wanted and mine in _all_languages().labels
    for sentence in sentences(_QUOTED.sub(" ", plain)):
        counts = _weighed(letters_by_script(sentence))
        between: list[str] = []  # the letters that the language has
        if sum(n for script, n in counts.items() if script not in wanted) >= LEAK_SCRIPT:
            between = [piece.strip() for piece in _letters_of(wanted).split(sentence)]
        for piece in between:
            counts = _weighed(letters_by_script(piece))
            foreign = {script: n for script, n in counts.items() if script != "Latin"}
            if sum(foreign.values()) >= LEAK_SCRIPT:
                return f"script: {max(foreign, key=lambda s: foreign[s])} in {language}: {piece[:60]!r}"
        for piece in (*_COLON.split(sentence), *between):
            if not _is_long(piece) or (
                not is_latin and identify(piece, language, languages)[0] == mine
            ):
                continue
            other, confidence = _open_choice(piece)
            if other not in (mine, NO_LANGUAGE) and confidence > (
                SURE if other in likely else SURE_OF_ANY
            ):
                return f"language: looks like {other}: {piece[:60]!r}"
    return None


def _is_long(piece: str) -> bool:
    if len(piece) * 3 < LEAK_LETTERS:
        return False
    counts = _weighed(letters_by_script(piece))
    spaced = max(counts, key=lambda s: counts[s], default="") not in UNSPACED
    return sum(counts.values()) >= LEAK_LETTERS and (not spaced or len(piece.split()) >= LEAK_WORDS)


_COLON = re.compile(r"[:;]\s+")


@lru_cache(maxsize=64)
def _letters_of(scripts: tuple[str, ...]) -> re.Pattern[str]:

    ranges = "".join(
        f"{chr(low)}-{chr(high)}" for script in scripts for low, high in SCRIPTS[script]
    )
    return re.compile(f"[{ranges}]+")


def _weighed(counts: dict[str, int]) -> dict[str, int]:
    return {script: n * (3 if script in _DENSE else 1) for script, n in counts.items()}


def _script_gate(counts: dict[str, int], total: int, language: str) -> str | None:
    wanted = scripts_of(language)
    foreign = {
        script: n for script, n in counts.items() if script not in wanted and script != "Latin"
    }
    if reason := _too_foreign(foreign, total, language):
        return reason
    own = sum(counts.get(script, 0) for script in wanted)
    if own < MIN_OWN * total and total >= MIN_LETTERS:
        return f"script: {round(100 * counts.get('Latin', 0) / total)} % Latin in {language}"
    return None


def _too_foreign(foreign: dict[str, int], total: int, language: str) -> str | None:
    """A name or a term (four Han characters) is not too much, whatever its share; where it is all there is, it is."""
    num = sum(foreign.values())
    if num <= MAX_FOREIGN * total or (num <= MIN_LETTERS and num * 2 <= total):
        return None
    script = max(foreign, key=lambda s: foreign[s])
    return f"script: {round(100 * foreign[script] / total)} % {script} in {language}"
