"""The tokens by which vocabularies of byte-pair encoding spell single bytes, and a space."""

SPACE = "▁"  # how SentencePiece writes a space


def byte_level_tokens() -> list[str]:
    """Return the 256 characters by which byte-level BPE writes bytes (GPT-2's table), by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    written = {byte: chr(byte) for byte in printable}
    written |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [written[byte] for byte in range(256)]


def sentencepiece_tokens() -> list[str]:
    """Return the 256 tokens by which SentencePiece writes bytes, by byte."""
    return [f"<0x{byte:02X}>" for byte in range(256)]
