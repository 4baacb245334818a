"""Scripts: their code points, the languages written in them, and their letters in a text."""

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from distill.errors import RecipeError
from distill.text.codes import base_code, subtags

if TYPE_CHECKING:
    import numpy as np

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

# One character is a syllable or a word: it counts as three letters when we ask whether there is
# enough to judge, and its n-grams repeat less often.
DENSE = ("Han", "Hiragana", "Katakana", "Hangul", "Ethiopic")

_LANGUAGES_OF_SCRIPT = {
    "Latin": (
        "ace af an ay az bcl bm br bs ca ceb crh cs cy da de ee en eo es et eu ext ff fi fil "
        "fj fo fon fr fuv fy ga gcf gcr gd gl gn gug guw ha haw hr hsb ht hu id ig ilo is it "
        "jv kab kg ki kik kmb ku la lb lg lij ln lt ltg lu lv mg mi mos ms mt nd nl nn no nb "
        "nr nso ny nyn oc om pap pcm pl pt qu rm rn ro rw sc se sg sk sl sm sn so sq ss st su "
        "sv sw tk tl tn to tpi tr ts tum tw ak umb uz vec vi vo wa war wo xh yo zu"
    ),
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
# Every language that we know, by its ISO 639-1 code, or its ISO 639-3 code where it has no short
# one.
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


@lru_cache(maxsize=1024)
def scripts_of(language: str, field: str = "languages") -> tuple[str, ...]:
    """Return the scripts a language is written in.

    Raise RecipeError, which names the recipe's `field`, for an unknown code.
    """
    for subtag in subtags(language):
        if subtag in _SUBTAGS:
            return _SUBTAGS[subtag]
    code = base_code(language)
    if code not in LANGUAGES:
        is_code = 2 <= len(code) <= 3 and code.isalpha()
        script = f", or add the script: {code}-Latn" if is_code else ""
        raise RecipeError(
            f"{field}: {language!r:.40}: we do not know its script; use an ISO 639 code such as "
            f"sw or swh{script}"
        )
    return LANGUAGES[code]


@lru_cache(maxsize=1024)
def same_language(code: str, languages: tuple[str, ...]) -> str | None:
    """Return which of `languages`, the recipe's, a data set's code means; None if none of them.

    `eng_Latn` is `en`. A script or region that the recipe names must be the data set's: `pt-BR` is
    a `pt`, but no `pt-PT`.
    """
    if code in languages:
        return code
    return next((language for language in languages if _is_kind_of(code, language)), None)


def is_known(code: str) -> bool:
    """Return whether we know a code's script: by its language, or because it is named."""
    return base_code(code) in LANGUAGES or any(tag in _SUBTAGS for tag in subtags(code))


def _is_kind_of(code: str, language: str) -> bool:
    """Return whether a code is the other's language, in a script and a region of its."""
    if base_code(code) != base_code(language) or not is_known(code):
        return False
    wanted = set(subtags(language))
    has_all = {tag for tag in wanted if tag not in _SUBTAGS} <= set(subtags(code))
    forms = [{"Hans", "Hant"} & set(subtags(side)) for side in (code, language)]
    is_other_form = all(forms) and forms[0] != forms[1]
    return has_all and not is_other_form and set(scripts_of(code)) <= set(scripts_of(language))


@lru_cache(maxsize=1)
def _script_table() -> "np.ndarray":
    """Return uint8[0x110000]: 1 + the index in SCRIPTS of each letter and mark, else 0."""
    import numpy as np

    table = np.zeros(0x110000, dtype=np.uint8)
    for number, ranges in enumerate(SCRIPTS.values(), 1):
        for low, high in ranges:
            for point in range(low, high + 1):
                if unicodedata.category(chr(point))[0] in "LM":
                    table[point] = number
    table[0x3007] = 1 + list(SCRIPTS).index("Han")  # the zero sign is a numeral letter (Nl)
    return table


_ASCII_OTHERS = bytes(point for point in range(0x80) if not chr(point).isalpha())


def letters_by_script(text: str) -> dict[str, int]:
    """Count letters and vowel signs of each script; digits, punctuation and emoji are none."""
    if text.isascii():  # a tenth of the time, and what most sentences in Latin letters are
        count = len(text.encode().translate(None, _ASCII_OTHERS))
        return {"Latin": count} if count else {}
    import numpy as np

    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    counts = np.bincount(_script_table()[points], minlength=len(SCRIPTS) + 1)[1:].tolist()
    return {script: count for script, count in zip(SCRIPTS, counts, strict=True) if count}


def weighed(letters: dict[str, int]) -> dict[str, int]:
    """Count a letter of a dense script as three, so that lengths compare across scripts."""
    return {script: num * (3 if script in DENSE else 1) for script, num in letters.items()}
