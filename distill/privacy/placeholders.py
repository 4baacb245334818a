"""Stable placeholders for personal data: put in before a conversation is sent, taken out of its answer."""

import re
from collections import Counter
from collections.abc import Sequence

from distill.privacy.personal_data import find

_PLACEHOLDER = re.compile(r"\[?\b(EMAIL|CARD|IBAN|PHONE|ID)_(\d+)\b\]?")


class Placeholders:
    """The placeholders of one conversation: each string has one, wherever it stands."""

    def __init__(self, countries: Sequence[str]):
        self.countries = countries
        self._of: dict[str, str] = {}  # by string
        self._strings: dict[tuple[str, int], str] = {}
        self._last: Counter[str] = Counter()

    @property
    def num(self) -> int:
        """Return how many different strings were replaced."""
        return len(self._of)

    def redact(self, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """Return the conversation with a placeholder for whatever looks like personal data."""
        for message in messages:
            self._leave_out(message["content"])
        return [{**message, "content": self._redacted(message["content"])} for message in messages]

    def restore(self, text: str) -> str:
        """Return a text with the strings that its placeholders stand for.

        Those that stand for nothing stay as they are.
        """
        return _PLACEHOLDER.sub(self._string_of, text)

    def _leave_out(self, text: str) -> None:
        """Let no placeholder be one that somebody wrote."""
        for kind, number in _PLACEHOLDER.findall(text):
            self._last[kind] = max(self._last[kind], int(number[:6]))

    def _redacted(self, text: str) -> str:
        parts, position = [], 0
        for finding in find(text, self.countries):
            parts += [text[position : finding.start]]
            parts += [self._placeholder(finding.kind, text[finding.start : finding.end])]
            position = finding.end
        return "".join([*parts, text[position:]])

    def _placeholder(self, kind: str, string: str) -> str:
        if string not in self._of:
            name = kind.upper()
            self._last[name] += 1
            self._of[string] = f"[{name}_{self._last[name]}]"
            self._strings[name, self._last[name]] = string
        return self._of[string]

    def _string_of(self, match: re.Match[str]) -> str:
        name, number = match.groups()
        return self._strings.get((name, int(number[:9])), match.group())
