"""What a file would do on a machine that is not here: an estimate, never a measurement.

It follows from public figures of that machine's memory, in machines.yaml.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from distill.errors import RecipeError, did_you_mean
from distill.recipe.strict_yaml import StrictLoader

FILE = Path(__file__).with_name("machines.yaml")
MEMORY_BOUND = 32 << 20  # bytes a token: no cache of the machines in the table holds so much


@dataclass(frozen=True)
class Target:
    """A machine of the table.

    `bandwidth` is in bytes a second, `share` what decoding reaches of it, lowest and highest.
    """

    name: str
    bandwidth: float
    memory: str
    source: str
    share: tuple[float, float]
    measured: str

    def decode(self, bytes_per_token: int) -> tuple[float, float]:
        """Return tokens a second, lowest and highest, if a token takes so many bytes."""
        low, high = self.share
        return low * self.bandwidth / bytes_per_token, high * self.bandwidth / bytes_per_token


@cache
def targets() -> dict[str, Target]:
    """Return the machines of machines.yaml, by name."""
    table = yaml.load(FILE.read_text(encoding="utf-8"), Loader=StrictLoader)
    return {name: _target(name, row, table) for name, row in table["machines"].items()}


def _target(name: str, row: dict[str, Any], table: dict[str, Any]) -> Target:
    """Return a row of the table.

    Where it has no share of its own, what was measured elsewhere is taken.
    """
    low, high = row.get("share", table["share"])
    return Target(
        name,
        bandwidth=1e9 * row["gigabytes_per_second"],
        memory=row["memory"],
        source=row["source"],
        share=(low, high),
        measured=row.get("measured", f"elsewhere: {table['measured']}"),
    )


def target(name: str) -> Target:
    """Return the machine of this name, however it is capitalised.

    Raises RecipeError, naming the nearest, if it is not in the table.
    """
    for known, machine in targets().items():
        if known.lower() == name.lower():
            return machine
    hint = did_you_mean(name, targets(), num_hints=2, cutoff=0.4)
    hint = f"{hint} " if hint else ""
    raise RecipeError(
        f"--target {name!r}: not in the table; {hint}{'It' if hint else 'it'} has {', '.join(targets())}"
    )


def estimate(machine: Target, bytes_by_format: dict[str, int]) -> str:
    """Return the lines for `--target`. `bytes_by_format`: bytes of weights that a token reads."""
    low, high = machine.share
    lines = [
        "",
        f"ESTIMATE for {machine.name} (nothing was measured there): "
        f"{machine.bandwidth / 1e9:g} GB/s at most ({machine.memory}), of which decoding reaches "
        f"{low:.0%} to {high:.0%}",
    ]
    for name, num_bytes in bytes_by_format.items():
        if num_bytes >= MEMORY_BOUND:
            slow, fast = machine.decode(num_bytes)
            speed = f"{slow:,.1f} to {fast:,.1f} tokens/s"
        else:
            speed = "too small for memory to bound it: no estimate"
        lines.append(f"  {name:<12} {speed} ({num_bytes / 1e6:,.1f} MB a token)")
    lines.append(f"  bandwidth: {machine.source}")
    lines.append(f"  share: {machine.measured}")
    return "\n".join(lines)
