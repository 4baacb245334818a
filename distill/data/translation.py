"""Translation pairs: how a translation is asked for, and whether it says what a person's says."""

from collections import Counter

from distill.errors import DataError
from distill.text.scripts import DENSE, base_code, letters_by_script
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
# Two different sentences of one language (SIB-200 dev, 300 pairs each): at most 0.32 (sw, ha, my),
# 0.07 (zh), 0.15 (am).
MIN_CHRF, MIN_CHRF_DENSE = 0.33, 0.16


def name_of(language: str) -> str:
    """Return the language's English name. Raise DataError where we know none."""
    if base_code(language) not in NAMES:
        raise DataError(
            f"language {language!r}: we know no English name to ask for it by; "
            "its prompts must be written out"
        )
    return NAMES[base_code(language)]


def request(language: str) -> str:
    """Return the line that stands before the text to be translated into `language`."""
    return f"Translate into {name_of(language)}. Give the translation only."


def wrong_translation(answer: str, reference: str) -> str | None:
    """Return why the answer is no translation like the reference, or None.

    Another wording passes, another sentence does not.
    """
    letters = letters_by_script(reference)
    num_dense = sum(letters.get(script, 0) for script in DENSE)
    is_dense = 2 * num_dense > sum(letters.values())
    least = MIN_CHRF_DENSE if is_dense else MIN_CHRF
    score = chrf(answer, reference)
    if score >= least:
        return None
    return f"chrF {score:.2f} against {reference[:60]!r}, at least {least}"


def chrf(answer: str, reference: str) -> float:
    """Return the mean F2 over character 1- to 6-grams, 0 to 1 (Popović 2015).

    White space and case do not count.
    """
    answer, reference = ("".join(folded(text).split()) for text in (answer, reference))
    precisions, recalls = [], []
    for n in range(1, min(_MAX_N, len(answer), len(reference)) + 1):
        in_answer, in_reference = _ngram_counts(answer, n), _ngram_counts(reference, n)
        num_common = (in_answer & in_reference).total()
        precisions.append(num_common / in_answer.total())
        recalls.append(num_common / in_reference.total())
    if not any(precisions):
        return 0.0
    precision = sum(precisions) / len(precisions)
    recall = sum(recalls) / len(recalls)
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _ngram_counts(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))
