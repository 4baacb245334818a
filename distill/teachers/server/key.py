"""The key of a server: it is never printed and never written, in whatever form it comes back."""

import base64
import html
import os
import re
from functools import cached_property

from distill.errors import RecipeError

MASK = "***"
# A shorter value ("EMPTY", "none") is what servers without keys are given: an answer may hold it
# by chance
SECRET_LENGTH = 16
LONGEST_FORM = 12  # characters that one of the key's may be escaped to
SHORTEST_IN_BASE64 = 8  # of fewer characters too little is left that says whose they are


def key_from_environment(name: str | None) -> str | None:
    """Return the key.

    Raises RecipeError where the recipe names a variable that is not set, or holds no key.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()  # a line end comes along from files
    if not key:
        raise RecipeError(
            f"teacher.api_key_env: {name!r}: no such environment variable; "
            "set it to the server's key"
        )
    if not (key.isascii() and key.isprintable()):  # the HTTP library would refuse it, and quote it
        raise RecipeError(
            f"teacher.api_key_env: {name!r}: a key is printable ASCII, "
            "and this variable's value is not; set it again"
        )
    return key


class KeyMask:
    """It puts *** in the place of the key in a text.

    The key is known as it is, percent-coded, escaped as JSON or HTML do (each of its characters by
    itself), and in base64, alone or amid other bytes. `mask` without a key changes nothing.
    """

    def __init__(self, key: str | None):
        self._key = key or ""

    def mask(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._key else text

    def start_of(self, text: str, length: int) -> str:
        """Return the first characters of a long text, masked; no key is cut in two by that."""
        longest = LONGEST_FORM * len(self._key)
        masked = self.mask(text[: length + longest])
        if len(text) > length + longest:
            masked = masked[: len(masked) - longest]
        return masked[:length]

    def is_in(self, text: str) -> bool:
        """Return whether the text holds the key; False for one too short to be a secret."""
        return len(self._key) >= SECRET_LENGTH and self._pattern.search(text) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        forms = ["".join(map(_any_form, self._key))]
        if len(self._key) >= SHORTEST_IN_BASE64:
            forms += ["".join(map(_base64_form, form)) for form in _in_base64(self._key)]
        return re.compile("|".join(forms))


def _any_form(character: str) -> str:
    """Return the pattern of a character as it is, and as it is escaped."""
    code = ord(character)
    forms = [
        re.escape(character),
        rf"%(?:25){{0,2}}(?i:{code:02x})",
        rf"\\{{1,4}}[uU](?i:{code:04x})",
        rf"\\{{1,4}}x(?i:{code:02x})",
        rf"&#0{{0,4}}{code};?",
        rf"&#[xX]0{{0,4}}(?i:{code:x});?",
    ]
    if not character.isalnum():
        forms.append(r"\\{1,4}" + re.escape(character))
    if (named := html.escape(character)) != character:
        forms.append(re.escape(named))
    if character == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(forms)})"


def _base64_form(character: str) -> str:
    """Return the same of a character of base64, of which most are never escaped."""
    return character if character.isalnum() else _any_form(character)


def _in_base64(key: str) -> list[str]:
    """Return what base64 makes of the key wherever it begins in what is coded.

    A character of base64 holds six bits: those that bits of neighbours share are left out.
    """
    found = []
    for num_before in range(3):
        data = bytes(num_before) + key.encode()
        first = -(-8 * num_before // 6)
        last = 8 * len(data) // 6
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            found.append(code(data).decode()[first:last])
    return found
