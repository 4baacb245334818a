"""Run the program, then do what the tests ask of it: the names it defines, calls, attributes.

It never has the tests, only what they hand to the program's functions.
"""

import builtins
import operator
import os
import sys
import traceback
import types
from typing import Any

from .wire import Line, decode, encode


class Candidate:
    """The program's side. Objects that are no data go by number: `_objects` holds them."""

    def __init__(self, line: Line):
        self._line = line
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}  # by id(): the objects are held, so it stays theirs
        self._operations = _OPERATIONS | {"names": self._names}
        self._module = types.ModuleType("answer")

    def run(self, folder: str) -> None:
        """Run `answer.py` of the folder, say so, and serve until the tests end."""
        sys.path.insert(0, folder)
        # as a module: what stands under `if __name__ == "__main__"` is not asked for
        self._module = __import__("answer")
        self._line.send({"ready": True})
        while True:
            self._line.send(self._serve(self._line.receive()))

    def _serve(self, message: dict[str, Any]) -> dict[str, Any]:
        sent = [message["arguments"], message.get("named", [])]
        try:
            arguments = [decode(value, self._find) for value in sent[0]]
            named = {name: decode(value, self._find) for name, value in sent[1]}
            value = self._operations[message["ask"]](*arguments, **named)
            reply = {"value": encode(value, self._stand_in)}
            left = [
                [encode(argument, self._stand_in) for argument in arguments],
                [[name, encode(argument, self._stand_in)] for name, argument in named.items()],
            ]
            return reply if left == sent else reply | {"changed": left}
        except BaseException as error:  # the tests see it, SystemExit too
            return {"error": _ancestors(type(error)), "arguments": self._arguments_of(error)}

    def _arguments_of(self, error: BaseException) -> list[Any]:
        try:
            return [encode(argument, self._stand_in) for argument in error.args]
        except Exception:
            return [str(error)]

    def _names(self, *names: str) -> list[list[Any]]:
        """Return (name, value, where it is from) of each that the program has."""
        defined = vars(self._module)
        return [
            [name, defined[name], _home(name, defined[name])] for name in names if name in defined
        ]

    def _stand_in(self, value: Any) -> list[Any]:
        if isinstance(value, TestsFunction):
            return ["tests", value.number]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["exception", _ancestors(value)]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return ["program", self._numbers[id(value)]]

    def _find(self, content: list[Any]) -> Any:
        owner, number = content
        return TestsFunction(self, number) if owner == "tests" else self._objects[number]

    def call_tests(self, number: int, arguments: tuple[Any, ...]) -> Any:
        """Call a function that the tests handed to the program."""
        sent = [encode(argument, self._stand_in) for argument in arguments]
        request = {"ask": "call", "number": number, "arguments": sent}
        reply = self._line.ask(request, self._serve)
        if "error" in reply:
            kind = getattr(builtins, reply["error"], RuntimeError)
            raise kind(reply["text"])
        return decode(reply["value"], self._find)


class TestsFunction:
    """What stands for a function of the tests that the program was given."""

    def __init__(self, candidate: Candidate, number: int):
        self.candidate = candidate
        self.number = number

    def __call__(self, *arguments: Any) -> Any:
        return self.candidate.call_tests(self.number, arguments)


def _call(function: Any, /, *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


_BUILTIN = "getattr setattr delattr len iter next reversed bool str repr hash isinstance abs round int float"
_OF_OPERATOR = (
    "getitem setitem delitem contains eq ne lt le gt ge add sub mul matmul truediv floordiv mod pow "
    "and_ or_ xor neg"
)
_OPERATIONS = {"call": _call}
_OPERATIONS |= {name: getattr(builtins, name) for name in _BUILTIN.split()}
_OPERATIONS |= {name: getattr(operator, name) for name in _OF_OPERATOR.split()}


def _home(name: str, value: Any) -> str | None:
    """Return the module that has the value under the same name, where it is not the program's."""
    home = getattr(value, "__module__", None)
    module = sys.modules.get(home) if isinstance(home, str) else None
    return home if getattr(module, name, None) is value and home != "answer" else None


def _ancestors(kind: type) -> list[str]:
    """Return the class's name and its ancestors' up to the first of Python's own."""
    names = []
    for ancestor in kind.__mro__:
        names.append(ancestor.__name__)
        if getattr(builtins, ancestor.__name__, None) is ancestor:
            break
    return names


def run(line: Line, folder: str) -> None:
    """Run the program and serve; end the process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the tests stood there
    try:
        Candidate(line).run(folder)
    except (EOFError, BrokenPipeError):
        pass  # the tests have ended
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)
