"""Count what comes of the bad inputs that a seeded generator makes.

Every input has one of three ends: a clear refusal, a right result, or a failed test. A traceback is
a failed test, and so is a result that is not the one that was meant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from distill.errors import DistillError

Made = TypeVar("Made")
LONGEST_MESSAGE = 1500  # characters: an error does not echo what it was given whole


@dataclass
class Tally:
    """What came of one generator's inputs, for the table in BENCHMARKS.md. `kind`: its row's name."""

    kind: str
    refused: int = 0
    accepted: int = 0

    @property
    def tried(self) -> int:
        return self.refused + self.accepted

    def must_refuse(self, name: str, action: Callable[[], object]) -> str:
        """Try an input that cannot be taken; return the error's message."""
        message = self._refusal(name, action)
        assert message is not None, f"{name}: was taken, and nothing was said"
        return message

    def must_accept(self, name: str, action: Callable[[], Made], expected: Made) -> None:
        """Try an odd input that has one right meaning, `expected`."""
        made: list[Made] = []
        message = self._refusal(name, lambda: made.append(action()))
        assert message is None, f"{name}: was refused: {message}"
        assert made[0] == expected, f"{name}: {made[0]!r}, not {expected!r}"

    def refuse_or(
        self, name: str, action: Callable[[], Made], right: Callable[[Made], bool]
    ) -> None:
        """Try an input that may be refused; where it is taken, `right(result)` must hold."""
        made: list[Made] = []
        if self._refusal(name, lambda: made.append(action())) is None:
            assert right(made[0]), f"{name}: taken for {made[0]!r}"

    def _refusal(self, name: str, action: Callable[[], object]) -> str | None:
        try:
            action()
        except DistillError as error:
            message = str(error)
            assert message.strip(), f"{name}: refused without a word"
            assert len(message) < LONGEST_MESSAGE, f"{name}: {len(message)} characters of error"
            self.refused += 1
            return message
        except Exception as error:
            raise AssertionError(f"{name}: a traceback: {error!r}") from error
        self.accepted += 1
        return None
