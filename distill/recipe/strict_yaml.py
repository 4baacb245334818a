"""YAML as people mean it: 1e-4 is a number, and a key given twice is a mistake."""

import re
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-4 as a number and refuses a key given twice."""


def _unique_mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str | int | float | None):
            raise yaml.MarkedYAMLError(
                problem=f"{key!r} cannot be a key", problem_mark=key_node.start_mark
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)
# YAML 1.1 wants a dot before an exponent and would read 1e-4 as text
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
