"""Translation pairs: how a translation is asked for, and whether it says what a person's says."""

from collections import Counter

from distill.errors import DataError
from distill.text.language import base_code, letters_by_script
from distill.text.words import folded

NAMES = {
    "am": "Amharic",
    "ar": "Arabic",
    "as": "Assamese",
    "az": "Azerbaijani",
    "bm": "Bambara",
    "bn": "Bengali",
    "de": "German",
    "ee": "Ewe",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "ff": "Fulah",
    "fil": "Filipino",
    "fr": "French",
    "gu": "Gujarati",
    "ha": "Hausa",
    "hi": "Hindi",
    "ht": "Haitian Creole",
    "id": "Indonesian",
    "ig": "Igbo",
    "it": "Italian",
    "ja": "Japanese",
    "jv": "Javanese",
    "kk": "Kazakh",
    "km": "Khmer",
    "kn": "Kannada",
    "ko": "Korean",
    "lg": "Luganda",
    "ln": "Lingala",
    "lo": "Lao",
    "mg": "Malagasy",
    "ml": "Malayalam",
    "mn": "Mongolian",
    "mr": "Marathi",
    "ms": "Malay",
    "my": "Burmese",
    "ne": "Nepali",
    "nso": "Northern Sotho",
    "ny": "Chichewa",
    "om": "Oromo",
    "or": "Odia",
    "pa": "Punjabi",
    "ps": "Pashto",
    "pt": "Portuguese",
    "qu": "Quechua",
    "rn": "Kirundi",
    "ru": "Russian",
    "rw": "Kinyarwanda",
    "sd": "Sindhi",
    "si": "Sinhala",
    "sn": "Shona",
    "so": "Somali",
    "st": "Sesotho",
    "su": "Sundanese",
    "sw": "Swahili",
    "ta": "Tamil",
    "te": "Telugu",
    "tg": "Tajik",
    "th": "Thai",
    "ti": "Tigrinya",
    "tl": "Tagalog",
    "tn": "Setswana",
    "tr": "Turkish",
    "ts": "Tsonga",
    "tw": "Twi",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "uz": "Uzbek",
    "vi": "Vietnamese",
    "wo": "Wolof",
    "xh": "Xhosa",
    "yo": "Yoruba",
    "yue": "Cantonese",
    "zh": "Chinese",
    "zu": "Zulu",
}

_MAX_N, _BETA = 6, 2.0
# Two different sentences of one language (SIB-200 dev, 300 pairs each): at most 0.32 (sw, ha, my), 0.07 (zh), 0.15 (am).
MIN_CHRF, MIN_CHRF_DENSE = 0.33, 0.16
_DENSE = (
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Ethiopic",
)  # a character is a syllable or a word: few n-grams repeat


def name_of(language: str) -> str:
    """Its English name. DataError where we know none."""
    if base_code(language) not in NAMES:
        raise DataError(
            f"language {language!r}: we know no English name to ask for it by; its prompts must be written out"
        )
    return NAMES[base_code(language)]


def request(language: str) -> str:
    """The line that stands before the text to be translated into `language`."""
    return f"Translate into {name_of(language)}. Give the translation only."


def wrong_translation(answer: str, reference: str) -> str | None:
    """Why the answer is no translation like the reference, or None. Another wording passes, another sentence does not."""
    letters = letters_by_script(reference)
    dense = 2 * sum(letters.get(script, 0) for script in _DENSE) > sum(letters.values())
    least, found = MIN_CHRF_DENSE if dense else MIN_CHRF, chrf(answer, reference)
    return (
        None if found >= least else f"chrF {found:.2f} against {reference[:60]!r}, at least {least}"
    )


def chrf(answer: str, reference: str) -> float:
    """Mean F2 over character 1- to 6-grams, 0 to 1 (Popović 2015). White space and case do not count."""
    ours, theirs = ("".join(folded(text).split()) for text in (answer, reference))
    precisions, recalls = [], []
    for n in range(1, min(_MAX_N, len(ours), len(theirs)) + 1):
        a, b = (
            Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (ours, theirs)
        )
        common = (a & b).total()
        precisions.append(common / a.total())
        recalls.append(common / b.total())
    if not precisions or not (precision := sum(precisions) / len(precisions)):
        return 0.0
    recall = sum(recalls) / len(recalls)
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)
