"""YAML as people mean it: 1e-4 is a number, `no` is text, and a key given twice is a mistake.

YAML 1.1 makes a number of 1:30 (90), another of 0777 (511), false of `no` (a language), and an object
of a date. YAML 1.2 does none of that, and no more is read here. Nothing in a text makes it grow, or
sends the reader round in circles.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from distill.errors import in_short, one_line, shown

MOST_VALUES = 10_000  # with all anchors written out
MOST_DIGITS = 20
TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
SCALARS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"^<<$"), ["<"]),
)


class NotYaml(ValueError):
    """A text is not YAML, or none that is read here. `line`: from 1, None where it is not known."""

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason)
        self.line = line


def parse(text: str) -> Any:
    """Return the value that a YAML text stands for. Raises NotYaml."""
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        problem = one_line(error.problem or "broken")
        if "'\\t'" in problem or "tab character" in problem:
            problem = "a tab where YAML takes spaces alone: use spaces"
        raise NotYaml(in_short(problem, 200), line) from None
    except yaml.reader.ReaderError as error:
        raise NotYaml(f"character U+{_code(error.character):04X}: {error.reason}") from None
    except yaml.YAMLError as error:
        raise NotYaml(in_short(one_line(str(error)), 200)) from None
    except RecursionError:
        raise NotYaml("sections are nested too deeply") from None


def _code(character: str | bytes | int) -> int:
    return character if isinstance(character, int) else ord(character)


class StrictLoader(yaml.SafeLoader):
    """YAML's safe loader with the scalars of YAML 1.2, which refuses a key given twice."""

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _error(f"tags such as {shown(event.tag)} are not read here", event)
        if _SURROGATE.search(getattr(event, "value", None) or ""):
            raise _error("half a character (a surrogate) is no text", event)
        return super().compose_node(parent, index)


def _error(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _size(node: Node, known: dict[int, int | None]) -> int:
    """Return how many values a node stands for, its anchors written out. Raises MarkedYAMLError.

    `known`: by the node's identity, None while it is being counted.
    """
    if isinstance(node, ScalarNode):
        return 1
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise _error("an anchor contains itself", node)
        return size
    known[id(node)] = None
    size = 1 + sum(_size(child, known) for child in _children(node))
    if size > MOST_VALUES:
        raise _error(f"with its anchors written out it has more than {MOST_VALUES:,} values", node)
    known[id(node)] = size
    return size


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    assert isinstance(node, SequenceNode)
    return node.value


def _unique_mapping(loader: StrictLoader, node: MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = key_node.value if key_node.tag == f"{TAG}merge" else loader.construct_object(key_node)
        if not isinstance(key, str | int | float | None):
            raise _error(f"{shown(key)} cannot be a key", key_node)
        if key in seen:
            raise _error(f"key {shown(key)} is given twice", key_node)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _whole_number(loader: StrictLoader, node: ScalarNode) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    if len(text) > MOST_DIGITS:
        raise _error(f"{shown(text)}: a number of more than {MOST_DIGITS} digits", node)
    return int(text, 0)


StrictLoader.yaml_implicit_resolvers = {}  # none of YAML 1.1
for _name, _pattern, _first in SCALARS:
    StrictLoader.add_implicit_resolver(f"{TAG}{_name}", _pattern, _first)
_CONSTRUCTORS: dict[str, Callable[..., Any]] = {"map": _unique_mapping, "int": _whole_number}
for _name, _constructor in _CONSTRUCTORS.items():
    StrictLoader.add_constructor(f"{TAG}{_name}", _constructor)


class StrictDumper(yaml.SafeDumper):
    """YAML's safe dumper that quotes what `StrictLoader` would not read as text."""


StrictDumper.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+.0123456789"))
