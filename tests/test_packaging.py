"""What the package imports is what pyproject.toml declares: nobody else's dependencies are relied on."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHIPS_ITSELF = {"distill"}


def imported() -> dict[str, Path]:
    """Every third-party module that a file of the package imports, and one file that does."""
    modules: dict[str, Path] = {}
    for path in sorted((ROOT / "distill").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                modules.setdefault(name.partition(".")[0], path.relative_to(ROOT))
    return {
        name: path
        for name, path in modules.items()
        if name not in sys.stdlib_module_names and name not in SHIPS_ITSELF
    }


def declared() -> set[str]:
    """Distributions that the package or one of its extras names, but not those of the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(x for name in extras if name != "test" for x in extras[name]),
    ]
    return {re.split(r"[\[<>=]", line)[0].strip().lower().replace("_", "-") for line in lines}


def test_every_package_that_is_imported_is_declared():
    distributions = packages_distributions()
    undeclared = {
        module: str(path)
        for module, path in imported().items()
        if not {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        & declared()
    }
    assert not undeclared, f"declare them in pyproject.toml: {undeclared}"


def test_files_that_are_no_code_are_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["distill"]
    shipped = {path for pattern in patterns for path in (ROOT / "distill").glob(pattern)}
    data = {
        path
        for path in (ROOT / "distill").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data and not data - shipped
