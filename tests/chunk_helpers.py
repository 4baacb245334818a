"""Tokenizers of other kinds than the quickstart's, and random texts to align them on."""

import json
import random
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

from format_helpers import TEACHER
from run_helpers import script
from shaping_helpers import SCRIPTS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TWELVE = (
    *("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari"),
    *("Bengali", "Tamil", "Thai", "Han", "Kana", "Hangul"),
)
ZEROS = {"Arabic": "٠", "Devanagari": "०", "Bengali": "০", "Thai": "๐", "Tamil": "௦"}


def byte_level_tokenizer(vocab_size: int = 256 + len(SPECIAL), texts: Iterable[str] = ()) -> Any:
    """Byte-level BPE with the quickstart's splits and template, trained on `texts`; as small as can be: bytes alone."""
    return measure_chunks()["tokenizer_of"](vocab_size, texts)


@cache
def measure_chunks() -> dict[str, Any]:
    return script("measure_chunks")


@cache
def quickstart_texts() -> list[str]:
    rows = (TEACHER.parent / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(row)["prompt"] for row in rows]


def random_text(draw: random.Random) -> str:
    """A short text in one of twelve scripts, or a mixture: words, numbers, white space, emoji and single characters."""
    script = draw.choice(TWELVE)
    words = SCRIPTS[script].split()
    zero = ord(ZEROS.get(script, "0"))

    def piece() -> str:
        kind = draw.randrange(12)
        if kind < 5:
            return draw.choice(words)
        if kind < 7:
            return "".join(chr(zero + draw.randrange(10)) for _ in range(draw.randrange(1, 5)))
        if kind == 7:
            return str(draw.randrange(10_000))
        if kind == 8:
            return draw.choice(SCRIPTS["emoji"].split())
        if kind == 9:
            return "".join(draw.sample(SCRIPTS[draw.choice(TWELVE)], 3))
        return draw.choice([" ", "\n\n", "  ", "\t", ".", ", ", "(x)", "=", "=\r\n"])

    text = "".join(piece() + draw.choice(["", " "]) for _ in range(draw.randrange(1, 4)))
    return unicodedata.normalize("NFC", text)
