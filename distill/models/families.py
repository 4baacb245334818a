"""What families of models call the same thing in their config.json."""

from collections.abc import Mapping, Sequence
from typing import Any

EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
SHARED_EXPERTS = ("n_shared_experts", "moe_num_shared_experts")


def first_of(config: Mapping[str, Any], names: Sequence[str]) -> int:
    """Return the number that the config has under one of these names; 0 if it has none."""
    return next((config[name] for name in names if config.get(name)), 0)
