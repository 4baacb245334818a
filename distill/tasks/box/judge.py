"""Run the tests on a program that runs in another process.

The tests' values never leave this one: the program is handed the arguments of its functions and
sends back data, which is compared here, by Python's own types. So it can neither read the tests nor
forge a comparison: to pass it must have the right values.

What is no data stands here as `Remote`. The program's own class answers when a test calls a method,
reads an attribute or an item, or compares two objects of its; it is never asked to compare or
reckon with a plain value, for that would hand it what is expected.
"""

import ast
import builtins
import importlib
import linecache
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from .wire import Line, decode, encode

PASSED = 93
# What programs import and tests then use: taken from Python itself, under the same name only.
_MODULES = (
    "bisect collections cmath copy datetime decimal fractions functools heapq itertools math operator "
    "random re statistics string typing"
)
_TRUSTED = frozenset(_MODULES.split())
_SHORT_NAMES = {"np": "numpy", "pd": "pandas"}
_SPECIAL = ("__name__", "__qualname__", "__doc__", "__dict__")
_THE_TESTS = "<tests>"


class Judge:
    """The tests' side."""

    def __init__(self, line: Line):
        self._line = line
        self._functions: list[Callable[..., Any]] = []
        self._exceptions: dict[tuple[str, ...], type[BaseException]] = {}

    def run(self, tests: str) -> None:
        """Run the tests. Raise AssertionError or whatever they raise where they fail."""
        lines = tests.splitlines(keepends=True)
        linecache.cache[_THE_TESTS] = (len(tests), None, lines, _THE_TESTS)  # for tracebacks
        tree = ast.parse(tests, _THE_TESTS)
        if not tree.body:
            raise ValueError("the reference has no tests")
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        namespace = {"__name__": "tests"} | self._defined(sorted(names))
        exec(compile(tree, _THE_TESTS, "exec"), namespace)

    def _defined(self, names: list[str]) -> dict[str, Any]:
        """Return what the program defines of these names."""
        defined = {}
        for name, value, home in self.ask("names", *names):
            if hasattr(builtins, name):
                raise NameError(f"the program redefines {name}, which the tests use")
            if not isinstance(value, Module):
                defined[name] = _own(home, name) or value
            elif _SHORT_NAMES.get(name, name) == value.name:
                defined[name] = importlib.import_module(value.name)
        return defined

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Ask the program's process; what its function changed in place is changed here, too."""
        request = {
            "ask": operation,
            "arguments": [encode(argument, self._stand_in) for argument in arguments],
            "named": [[name, encode(value, self._stand_in)] for name, value in named.items()],
        }
        try:
            reply = self._line.ask(request, self._serve)
        except (EOFError, BrokenPipeError):
            _give_up("the program ended before its tests did")
        if "error" in reply:
            arguments = tuple(decode(argument, self._find) for argument in reply["arguments"])
            raise self._exception(tuple(reply["error"]))(*arguments)
        after, after_named = reply.get("changed", ([], []))
        for old, new in zip(arguments, after, strict=False):
            _change(old, decode(new, self._find))
        for name, new in after_named:
            _change(named[name], decode(new, self._find))
        return decode(reply["value"], self._find)

    def _serve(self, message: dict[str, Any]) -> dict[str, Any]:
        """Call a function of the tests for the program that was given it."""
        try:
            arguments = [decode(argument, self._find) for argument in message["arguments"]]
            value = self._functions[message["number"]](*arguments)
            return {"value": encode(value, self._stand_in)}
        except Exception as error:
            return {"error": type(error).__name__, "text": str(error)}

    def _stand_in(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["program", object.__getattribute__(value, "_number")]
        if not callable(value):
            _give_up(f"the tests hand the program a {type(value).__name__}: no plain value")
        self._functions.append(value)
        return ["tests", len(self._functions) - 1]

    def _find(self, content: list[Any]) -> Any:
        owner, what = content
        if owner == "tests":
            return self._functions[what]
        if owner == "module":
            return Module(what)
        if owner == "exception":
            return self._exception(tuple(what))
        return Remote(self, what)

    def _exception(self, names: tuple[str, ...]) -> type[BaseException]:
        """Return Python's own exception, or one that stands for the program's class."""
        if len(names) == 1:
            kind = getattr(builtins, names[0], None)
            if isinstance(kind, type) and issubclass(kind, BaseException):
                return kind
            return RuntimeError
        if names not in self._exceptions:
            self._exceptions[names] = type(names[0], (self._exception(names[1:]),), {})
        return self._exceptions[names]


class Module:
    """A module that the program imported, by its name."""

    def __init__(self, name: str):
        self.name = name


def _own(home: str | None, name: str) -> Any:
    """Return what `name` is in a module of Python's own; None where it is not from there."""
    return getattr(importlib.import_module(home), name, None) if home in _TRUSTED else None


def _give_up(reason: str) -> NoReturn:
    """End without having passed: no `except` of the tests shall catch it."""
    print(reason, file=sys.stderr, flush=True)
    os._exit(1)


def _change(old: Any, new: Any) -> None:
    """Give a list, dictionary, set or array of the tests the content that the program left."""
    if type(old) is not type(new) or isinstance(old, Remote):
        return
    if isinstance(old, list | deque):
        kept = [_changed(*pair) for pair in zip(old, new, strict=False)]
        items = [*kept, *list(new)[len(kept) :]]
        old.clear()
        old.extend(items)
    elif isinstance(old, dict):
        values = {key: _changed(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(values)
    elif isinstance(old, set):
        old.clear()
        old.update(new)
    elif isinstance(old, bytearray):
        old[:] = new
    elif isinstance(old, tuple):
        for pair in zip(old, new, strict=False):
            _change(*pair)
    elif hasattr(old, "shape") and old.shape == new.shape and old.shape:
        old[...] = new


def _changed(old: Any, new: Any) -> Any:
    """Return `old` with the content of `new` where it is a container, else `new`."""
    if type(old) is not type(new) or not isinstance(old, list | dict | set | deque | bytearray):
        return new
    _change(old, new)
    return old


class Remote:
    """An object, a function or a class of the program's."""

    def __init__(self, judge: Judge, number: int):
        object.__setattr__(self, "_judge", judge)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _SPECIAL:
            raise AttributeError(name)
        return _ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _ask("delattr", self, name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _ask("call", self, *arguments, **named)

    def __enter__(self) -> Any:
        return _ask("getattr", self, "__enter__")()

    def __exit__(self, *error: object) -> Any:
        return _ask("getattr", self, "__exit__")(None, None, None)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(_ask("isinstance", value, self))

    def __iter__(self) -> Any:
        return _ask("iter", self)

    def __contains__(self, value: Any) -> bool:
        return any(item is value or item == value for item in self)


def _ask(operation: str, remote: Remote, *arguments: Any, **named: Any) -> Any:
    judge = object.__getattribute__(remote, "_judge")
    return judge.ask(operation, remote, *arguments, **named)


def _alone(operation: str) -> Callable[..., Any]:
    return lambda self, *arguments: _ask(operation, self, *arguments)


def _with_its_like(operation: str) -> Callable[..., Any]:
    def method(self: Remote, other: Any) -> Any:
        return _ask(operation, self, other) if isinstance(other, Remote) else NotImplemented

    return method


_UNARY = "len next reversed bool str repr hash abs round int float neg"
_WITH_PLAIN = "getitem setitem delitem"
_BINARY = "eq ne lt le gt ge add sub mul matmul truediv floordiv mod pow and_ or_ xor"
for _name in f"{_UNARY} {_WITH_PLAIN}".split():
    setattr(Remote, f"__{_name}__", _alone(_name))
for _name in _BINARY.split():
    setattr(Remote, f"__{_name.rstrip('_')}__", _with_its_like(_name))


def run(line: Line, tests: str | None) -> None:
    """Run the tests when the program is ready; end the process, with PASSED if they pass."""
    status = 1
    try:
        if line.receive() == {"ready": True}:
            if tests is not None:
                Judge(line).run(tests)
            status = PASSED
    except EOFError:
        _give_up("the program ended before its tests did")
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)
