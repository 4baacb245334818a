"""Render a chat template within bounds: a template is code that came with a model.

It renders as transformers does (the same sandbox, filters and names), which bounds nothing: a
template may loop for hours, print gigabytes, or compute 9 ** 9 ** 9. Here each step and each value
is counted, and what could be too large is refused before it is made. What no chat template needs
and can be large (lipsum, center, batch, ...) is not there.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from distill.chat.bounds import (
    CALL,
    MOST_SOURCE,
    MOST_TEXT,
    Budget,
    TooMuch,
    checked_filter,
    checked_method,
    current,
    limited,
    require_room_for_power,
    require_room_to_format,
    require_room_to_repeat,
)

NOT_NEEDED = (
    *("batch", "center", "filesizeformat", "pprint", "random", "slice", "sum", "urlize"),
    *("wordwrap", "xmlattr"),
)


class _Counted:
    """What a loop goes over, each step counted; as long as it is, where that is known."""

    def __init__(self, items: Iterable[Any]):
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        budget = current()
        for item in self._items:
            budget.step()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type] - a TypeError where it has no length


class _Generation(Extension):
    """{% generation %}, which marks what a model says in a template for training: no more than its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """The name `dict` of templates: to call, and fromkeys."""

    def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
        return dict(*args, **fields)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """The name `namespace` of templates. Written out it does not show what is in it."""

    def __repr__(self) -> str:
        return "<Namespace>"


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment in which transformers renders chat templates, bounded by the thread's budget."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, now: Callable[[str], str]):
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.filters["tojson"] = _to_json
        self.filters = {
            name: _bounded(name, function)
            for name, function in self.filters.items()
            if name not in NOT_NEEDED
        }
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self.finalize = _finalize
        self.concat = _concat

    def counted(self, items: Iterable[Any]) -> _Counted:
        return _Counted(items)

    def joined(self, *values: Any) -> str:
        """Return what `a ~ b ~ c` means."""
        return _concat([str(value) for value in values])

    def measured(self, value: Any) -> Any:
        return current().measured(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _watched(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.step(CALL)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes | int | float):
            args = checked_method(owner, __obj.__name__, args)
        return budget.measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = current()
        if operator == "**":
            require_room_for_power(left, right)
        elif operator == "*":
            require_room_to_repeat(left, right)
            require_room_to_repeat(right, left)
        elif operator == "%" and isinstance(left, str):
            require_room_to_format(left, left.count("%"), [right])
        return budget.measured(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatter = super().wrap_str_format(value)
        if formatter is None:
            return None
        text = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            given = [*args, *kwargs.values()]
            require_room_to_format(text, text.count("{"), given)
            return formatter(*args, **kwargs)

        return bounded


def _watched(tree: nodes.Template) -> nodes.Template:
    """Return the template with each loop, list and `~` going through the environment's methods."""
    for node in reversed(list(tree.find_all(nodes.Node))):  # what is inside first
        for name, child in list(node.iter_fields()):
            if isinstance(child, list):
                setattr(node, name, [_watched_child(node, name, item) for item in child])
            else:
                setattr(node, name, _watched_child(node, name, child))
    return tree


def _watched_child(parent: nodes.Node, field: str, node: Any) -> Any:
    is_display = isinstance(node, nodes.List | nodes.Dict) or (
        isinstance(node, nodes.Tuple) and node.ctx == "load"
    )
    if isinstance(node, nodes.Concat):
        node = _call("joined", node.nodes, node)
    elif is_display:
        node = _call("measured", [node], node)
    if isinstance(parent, nodes.For) and field == "iter":
        node = _call("counted", [node], node)
    return node


def _call(method: str, args: Sequence[nodes.Expr], at: nodes.Node) -> nodes.Call:
    function = nodes.EnvironmentAttribute(method)
    call = nodes.Call(function, list(args), [], None, None)
    call.set_lineno(at.lineno)
    if at.environment is not None:
        call.set_environment(at.environment)
    return call


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and (len(str(indent)) > 2 or len(str(value)) > MOST_TEXT):
        raise TooMuch("indents a large text")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _finalize(value: Any) -> Any:
    return current().measured(value)


def _concat(parts: Iterable[str]) -> str:
    parts = list(parts)
    current().require_room(sum(map(len, parts)))
    return "".join(parts)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter with its steps and its results counted."""
    place = 1 if hasattr(function, "jinja_pass_arg") else 0  # jinja2's own argument comes first

    @wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.step(CALL)
        own, values = args[:place], checked_filter(name, args[place:], kwargs)
        return budget.measured(function(*own, *values, **kwargs))

    return bounded


@lru_cache(maxsize=64)
def _compiled(template: str, now: Callable[[str], str]) -> Any:
    return BoundedEnvironment(now).from_string(template)


def render(template: str, variables: Mapping[str, Any], now: Callable[[str], str]) -> str:
    """Return what a template writes. `now`: what `strftime_now` is to it.

    Raises TooMuch, TemplateError, and what a template can make Python raise (ZeroDivisionError,
    RecursionError, ...).
    """
    if len(template) > MOST_SOURCE:
        raise TooMuch(f"is longer than {MOST_SOURCE:,} characters")
    messages = variables["messages"]
    length = sum(len(str(text)) for message in messages for text in message.values())
    budget = Budget(length, len(messages))
    written: list[str] = []
    length = 0
    with limited(budget):
        for part in _compiled(template, now).generate(variables):
            written.append(part)
            length += len(part)
            if length > budget.room:
                raise TooMuch(f"writes more than {budget.room:,} characters")
    return "".join(written)
