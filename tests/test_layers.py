"""The floors of the house: a file imports only floors below its own, or files of its own folder."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "distill"
FLOORS = [
    {"errors"},
    {"catalog", "losses", "text"},
    {"privacy"},
    {"recipe"},
    {"core"},
    {"llama_cpp", "models", "signals", "tasks"},
    {"data"},
    {"chat", "filters", "training"},
    {"shaping"},
    {"evaluation", "benchmarks"},
    {"formats", "teachers", "synthesis"},
    {"conduct"},
    {"planning", "reporting", "on_policy"},
    {
        "plan",
        "generate",
        "trim",
        "capture",
        "initialize",
        "train",
        "rounds",
        "quantize",
        "evaluate",
        "benchmark",
        "safety",
        "gates",
        "report",
    },
    {"pipeline", "deploy"},
    {"pilot", "race"},
    {"__init__"},
    {"__main__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def imports(path: Path) -> set[str]:
    """First name below `distill` of every import in a file, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "distill"
        ):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("distill.")}
    return found


def place(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_a_file_imports_only_floors_below_it(path):
    mine = place(path)
    assert mine in FLOOR, f"{mine} has no floor: add it to the table"
    for other in imports(path) - {mine}:
        if path.name == "train.py" and other == "__main__":
            continue  # the guard that turns the script into the command
        assert FLOOR[other] < FLOOR[mine], (
            f"{path.name} ({mine}, floor {FLOOR[mine]}) imports {other} (floor {FLOOR[other]})"
        )


def test_files_keep_one_subject():
    long = {
        str(p.relative_to(PACKAGE)): n
        for p in PACKAGE.rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 500
    }
    assert not long, f"over 500 lines: {long}"
