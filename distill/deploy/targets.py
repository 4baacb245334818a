"""What a file would do on a machine that is not here, from public figures of its memory: an estimate, never a measurement."""

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from distill.errors import RecipeError
from distill.recipe.strict_yaml import StrictLoader

FILE = Path(__file__).with_name("machines.yaml")


@dataclass(frozen=True)
class Target:
    """A machine of the table; bandwidth in bytes a second, `share` of it what decoding reaches, lowest and highest."""

    name: str
    bandwidth: float
    memory: str
    source: str
    share: tuple[float, float]
    measured: str

    def decode(self, bytes_per_token: int) -> tuple[float, float]:
        """Tokens a second, lowest and highest, of a model that reads so many bytes for each."""
        low, high = self.share
        return low * self.bandwidth / bytes_per_token, high * self.bandwidth / bytes_per_token


@cache
def targets() -> dict[str, Target]:
    """The machines of machines.yaml, by name."""
    table = yaml.load(FILE.read_text(encoding="utf-8"), Loader=StrictLoader)
    return {
        name: Target(
            name,
            1e9 * row["gigabytes_per_second"],
            row["memory"],
            row["source"],
            tuple(row.get("share", table["share"])),
            row.get("measured", f"elsewhere: {table['measured']}"),
        )
        for name, row in table["machines"].items()
    }


def target(name: str) -> Target:
    """The machine of this name, however it is capitalised; RecipeError naming the nearest if it is not in the table."""
    known = {machine.lower(): machine for machine in targets()}
    if name.lower() in known:
        return targets()[known[name.lower()]]
    near = [known[n] for n in difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.4)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise RecipeError(f"--target {name!r}: not in the table; {hint}It has {', '.join(targets())}")
