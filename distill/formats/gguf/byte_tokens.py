"""What a text loses where a vocabulary has no token for some of its bytes.

Text is UTF-8. The bytes 0xC0, 0xC1 and 0xF5 to 0xFF are in no text, so a vocabulary without them
lacks nothing. Where others are absent (SmolLM2's has no token for six control characters, nor for
the first byte of characters that Unicode has not assigned), a byte-level tokenizer leaves the byte
out, and so does llama.cpp: quantize asks every file whether it really does. One difference remains:
the tokenizer leaves it out before it joins the neighbours, llama.cpp after.
"""

from collections.abc import Mapping, Sequence

NEVER_IN_TEXT = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})
# the last characters of these first bytes; after the others any bytes may follow
LAST_OF = {0xED: "\ud7ff", 0xF4: "\U0010ffff"}


def missing_bytes(vocab: Mapping[str, int], tokens: Sequence[str]) -> list[int]:
    """Return the bytes that a text can hold and `vocab` has no token for, ascending."""
    absent = {byte for byte, token in enumerate(tokens) if token not in vocab}
    return sorted(absent - NEVER_IN_TEXT)


def lack(numbers: Sequence[int]) -> str:
    """Return what a vocabulary without these bytes lacks, in words."""
    names = ", ".join(f"0x{number:02X}" for number in numbers)
    return f"no token for {names}, which a text can hold"


def texts_with(numbers: Sequence[int]) -> list[str]:
    """Return a text for each of these bytes whose UTF-8 holds it, between letters and spaces."""
    return [f"a {_character_with(number)} b{_character_with(number)}c" for number in numbers]


def _character_with(byte: int) -> str:
    """Return a character whose UTF-8 holds this byte."""
    if byte < 0x80:
        return chr(byte)
    if byte < 0xC0:
        return bytes([0xC2, byte]).decode()
    if byte in LAST_OF:
        return LAST_OF[byte]
    num_following = 1 + (byte >= 0xE0) + (byte >= 0xF0)
    return bytes([byte, *[0xBF] * num_following]).decode()
