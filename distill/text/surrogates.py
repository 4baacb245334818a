"""Half characters: lone surrogates, which some servers send where they cut a text between two bytes."""

import re
from typing import Any

# perhaps one: as JSON may write it, or as it is
LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def without_lone_surrogates(value: Any) -> Any:
    """Return a text, or JSON with texts in it, with U+FFFD in place of half a character.

    A lone surrogate cannot be written, nor read by a tokenizer; U+FFFD says that it was there.
    """
    if isinstance(value, str):
        return _repaired(value) if LONE_SURROGATE.search(value) else value
    if isinstance(value, list):
        return [without_lone_surrogates(part) for part in value]
    if isinstance(value, dict):
        return {
            without_lone_surrogates(name): without_lone_surrogates(part)
            for name, part in value.items()
        }
    return value


def _repaired(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
