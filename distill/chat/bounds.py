"""What a chat template may use up when it is rendered, and what would be more than that.

The limits are far above what real templates do, and far below what a machine feels.
"""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MOST_SOURCE = 1_000_000  # characters of a template; real ones have 30,000 at most
MOST_STEPS = 300_000  # of loops; a call counts as CALL of them
STEPS_A_MESSAGE = 1000  # beside them; a template takes some dozens
CALL = 10
MOST_SECONDS = 10.0  # of this thread's time on a core; it takes milliseconds
MOST_TEXT = 500_000  # characters that a value may have beside what the messages have
MOST_MADE = 50_000_000  # characters of all values that are made on the way
MOST_ITEMS = 50_000  # in a list, and in the lists in it
ITEMS_A_MESSAGE = 20  # beside them
MOST_BITS = 10_000  # of a whole number
STEPS_A_LOOK = 200  # at the clock
_WIDE = re.compile(r"\d{5}|\*|\{[^{}]*\{")  # a width in a format that is large, or computed
_LARGE_NUMBER = f"makes a number of more than {MOST_BITS:,} bits"


class TooMuch(Exception):
    """A template does more than any chat template has to do."""


class Budget:
    """What a rendering has used up. `written`: characters of the messages, `num_messages` of them."""

    def __init__(self, written: int, num_messages: int):
        self.room = MOST_TEXT + 8 * written
        self.most_made = MOST_MADE + 1000 * written
        self.most_steps = MOST_STEPS + STEPS_A_MESSAGE * num_messages
        self.most_items = MOST_ITEMS + ITEMS_A_MESSAGE * num_messages
        self.made = self.steps = 0
        self.next_look = STEPS_A_LOOK
        self.started = time.thread_time()

    def step(self, num: int = 1) -> None:
        self.steps += num
        if self.steps < self.next_look:
            return
        self.next_look = self.steps + STEPS_A_LOOK
        if self.steps > self.most_steps:
            raise TooMuch(f"goes on after {self.most_steps:,} steps")
        if time.thread_time() - self.started > MOST_SECONDS:
            raise TooMuch(f"goes on after {MOST_SECONDS:.0f} seconds")

    def require_room(self, num_characters: int) -> None:
        """Raise TooMuch where a text of that length may not be made; else count it."""
        if num_characters > self.room:
            raise TooMuch(f"makes a text of more than {self.room:,} characters")
        self.made += num_characters
        if self.made > self.most_made:
            raise TooMuch(f"makes more than {self.most_made:,} characters on the way")

    def measured(self, value: Any) -> Any:
        """Return the value. Raises TooMuch where it is too large."""
        if isinstance(value, str):
            self.require_room(len(value))
        elif isinstance(value, int):
            if value.bit_length() > MOST_BITS:
                raise TooMuch(_LARGE_NUMBER)
        elif isinstance(value, list | tuple | dict | set):
            self._require_small(value)
        return value

    def _require_small(self, container: Any) -> None:
        """Raise TooMuch for a list with too much in it, and in the lists in it, each time it is there.

        The texts in it are not new: they count for its length when it is written out, no more.
        """
        num_items = num_characters = 0
        left = [container]
        while left:
            item = left.pop()
            if isinstance(item, str):
                num_characters += len(item)
            elif isinstance(item, Mapping):
                left += [*item, *item.values()]
            elif isinstance(item, list | tuple | set):
                left += item
            num_items += 1
            if num_items + len(left) > self.most_items:
                raise TooMuch(f"makes a list of more than {self.most_items:,} items")
        if num_characters > self.room:
            raise TooMuch(f"makes a list of more than {self.room:,} characters")
        self.require_room(num_items)


_rendering = threading.local()


def current() -> Budget:
    """Return the budget of this thread's rendering."""
    return _rendering.budget


@contextmanager
def limited(budget: Budget) -> Iterator[None]:
    """Within the block this is the thread's budget."""
    outer = getattr(_rendering, "budget", None)
    _rendering.budget = budget
    try:
        yield
    finally:
        _rendering.budget = outer


def checked_filter(
    name: str, values: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Return a filter's arguments. Raises TooMuch where its result would be too large."""
    budget, options = current(), [*values[1:], *kwargs.values()]
    if name == "round":
        if any(isinstance(option, int) and abs(option) > 100 for option in options):
            raise TooMuch("rounds to more than 100 places")
    elif name == "indent":
        widths = [len(o) if isinstance(o, str) else o for o in options if isinstance(o, str | int)]
        budget.require_room((str(values[0]).count("\n") + 1) * max([4, *widths]))
    elif name == "replace":
        texts = [str(value) for value in (values[0], *options)]
        require_room_to_replace(*texts[:3])
    elif name == "format":
        text = str(values[0])
        require_room_to_format(text, text.count("%"), options)
    elif name == "join":
        items = listed(values[0])
        budget.require_room(len(items) * max((len(str(o)) for o in options), default=0))
        return items, *values[1:]
    elif name == "list":
        return listed(values[0]), *values[1:]
    return values


def checked_method(owner: Any, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a method of `owner`, a text or a number.

    Raises TooMuch where its result would be too large, or it is none of the common ones.
    """
    if not isinstance(owner, str) or name in ("encode", "expandtabs", "maketrans", "translate"):
        raise TooMuch(f"calls {name}, which is more")
    if name in ("center", "ljust", "rjust", "zfill") and args:
        current().require_room(args[0])
    elif name == "replace" and len(args) > 1:
        require_room_to_replace(owner, args[0], args[1])
    elif name == "join" and args:
        items = listed(args[0])
        current().require_room(len(items) * len(owner))
        return (items,)
    return args


def listed(values: Iterable[Any]) -> Sequence[Any]:
    """Return the values as a list, each counted as it comes."""
    if isinstance(values, list | tuple | str):
        return values
    budget, items, size = current(), [], 0
    for value in values:
        budget.step()
        size += len(value) if isinstance(value, str) else 1
        if size > budget.room:
            budget.require_room(size)
        items.append(value)
    return items


def require_room_to_replace(text: str, old: str, new: str) -> None:
    current().require_room(len(text) + text.count(old) * len(new))


def require_room_to_repeat(value: Any, times: Any) -> None:
    """Raise TooMuch where value * times would be too large; of a number times a number nothing."""
    if not isinstance(times, int):
        return
    if isinstance(value, str):
        current().require_room(len(value) * max(times, 0))
    elif isinstance(value, list | tuple) and len(value) * times > MOST_ITEMS:
        raise TooMuch(f"makes a list of more than {MOST_ITEMS:,} items")


def require_room_to_format(text: str, num_fields: int, given: Sequence[Any]) -> None:
    """Raise TooMuch where a text with that many fields would be too large with what is given."""
    if _WIDE.search(text):
        raise TooMuch("formats a text with a width that is large or computed")
    longest = max((len(str(value)) for value in given), default=0)
    current().require_room(len(text) + num_fields * longest)


def require_room_for_power(base: Any, exponent: Any) -> None:
    """Raise TooMuch where base ** exponent would be too large a whole number."""
    are_whole = isinstance(base, int) and isinstance(exponent, int)
    if are_whole and base.bit_length() * exponent > MOST_BITS:
        raise TooMuch(_LARGE_NUMBER)
