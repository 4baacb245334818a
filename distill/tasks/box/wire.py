"""Values on their way between program and tests: data alone, in JSON.

What is no data (an object of a class of the program's own, a function) goes as a number, which its
owner knows: nothing that one side sends is ever run by the other. Types are compared exactly, so
that a subclass with an `__eq__` of its own is no number and no list.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

Owner = Callable[[Any], Any]  # makes what stands for an object, or the object again

_LISTS = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}
_MAPS = {
    "dict": dict,
    "OrderedDict": collections.OrderedDict,
    "Counter": collections.Counter,
    "defaultdict": dict,  # what makes its missing values is no data
}
# written by `str`, read by the type or by its `fromisoformat`
_TEXTS = {
    "Fraction": (fractions.Fraction, fractions.Fraction),
    "Decimal": (decimal.Decimal, decimal.Decimal),
    "complex": (complex, complex),
    "date": (datetime.date, datetime.date.fromisoformat),
    "datetime": (datetime.datetime, datetime.datetime.fromisoformat),
    "time": (datetime.time, datetime.time.fromisoformat),
}
_NAMES = {kind: name for name, kind in {**_LISTS, **_MAPS}.items() if kind is not dict}
_NAMES |= {kind: name for name, (kind, _) in _TEXTS.items()}
_NAMES |= {dict: "dict", collections.defaultdict: "defaultdict"}
_PLAIN = (type(None), bool, float, str)
_SMALL = 1 << 62  # whole numbers beyond go in hexadecimal: decimal digits are limited
_ARRAY_KINDS = "biufcSU?"


def encode(value: Any, stand_in: Owner) -> Any:
    """Return JSON data for a value; `stand_in` makes that of what is no data."""
    kind = type(value)
    if kind in _PLAIN or (kind is int and abs(value) < _SMALL):
        return value
    name = _NAMES.get(kind)
    if name in _LISTS:
        return [name, [encode(item, stand_in) for item in value]]
    if name in _MAPS:
        return [name, [[encode(part, stand_in) for part in pair] for pair in value.items()]]
    if name is not None:
        return [name, str(value)]
    return _encode_other(value, kind, stand_in)


def _encode_other(value: Any, kind: type, stand_in: Owner) -> Any:
    if kind is int:
        return ["int", hex(value)]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.decode("latin-1")]
    if kind in (range, slice):
        parts = (value.start, value.stop, value.step)
        return [kind.__name__, [encode(part, stand_in) for part in parts]]
    if kind is datetime.timedelta:
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    if kind is type and getattr(builtins, value.__name__, None) is value:
        return ["type", value.__name__]
    fields = getattr(kind, "_fields", None)
    if fields is not None and isinstance(value, tuple):
        return ["namedtuple", [kind.__name__, list(fields), encode(tuple(value), stand_in)]]
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        array = numpy.asarray(value)
        if array.dtype.kind in _ARRAY_KINDS:
            is_scalar = isinstance(value, numpy.generic)
            content = array.tobytes().hex()
            return ["array", [array.dtype.str, list(array.shape), content, is_scalar]]
    return ["object", stand_in(value)]


def decode(data: Any, find: Owner) -> Any:
    """Return the value of JSON data; `find` gives what stands for an object. Raise ValueError."""
    if not isinstance(data, list):
        return data
    name, content = data
    if name == "object":
        return find(content)
    if name in _LISTS:
        return _LISTS[name](decode(item, find) for item in content)
    if name in _MAPS:
        return _MAPS[name]({decode(key, find): decode(value, find) for key, value in content})
    if name in _TEXTS:
        return _TEXTS[name][1](content)
    return _decode_other(name, content, find)


def _decode_other(name: str, content: Any, find: Owner) -> Any:
    if name == "int":
        return int(content, 16)
    if name in ("bytes", "bytearray"):
        return getattr(builtins, name)(content, "latin-1")
    if name in ("range", "slice"):
        return getattr(builtins, name)(*(decode(part, find) for part in content))
    if name == "timedelta":
        return datetime.timedelta(*content)
    if name == "type" and isinstance(getattr(builtins, content, None), type):
        return getattr(builtins, content)
    if name == "namedtuple":
        kind, fields, values = content
        return collections.namedtuple(kind, fields)._make(decode(values, find))
    if name == "array":
        return _array(*content)
    raise ValueError(f"no value is called {name!r}")


def _array(dtype: str, shape: list[int], content: str, is_scalar: bool) -> Any:
    import numpy

    kind = numpy.dtype(dtype)
    if kind.kind not in _ARRAY_KINDS:
        raise ValueError(f"no array of {dtype}")
    array = numpy.frombuffer(bytes.fromhex(content), kind).reshape(shape).copy()
    return array[()] if is_scalar else array


class Line:
    """Two pipes, one each way, and a message a line: `ask` marks those that want a reply."""

    def __init__(self, read: int, write: int):
        self._read: IO[str] = open(read, encoding="ascii")  # noqa: SIM115 - until the process ends
        self._write = write

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raise BrokenPipeError where nobody listens."""
        left = memoryview(json.dumps(message).encode() + b"\n")
        while left:
            left = left[os.write(self._write, left) :]

    def ask(self, request: dict[str, Any], serve: Owner) -> dict[str, Any]:
        """Send a request and return the reply; meanwhile `serve` answers what the other asks."""
        self.send(request)
        while "ask" in (message := self.receive()):
            self.send(serve(message))
        return message

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raise EOFError where the other side has ended."""
        line = self._read.readline()
        if not line.endswith("\n"):
            raise EOFError
        return json.loads(line)
