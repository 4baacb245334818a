"""What the README promises: its commands exist, its tree is true, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import ROOT, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_the_two_commands_stand_first_and_can_be_run():
    assert COMMANDS[:2] == ["scripts/quickstart", "scripts/test"]
    for name in ("quickstart", "test", "setup"):
        path = ROOT / "scripts" / name
        assert path.stat().st_mode & 0o111, f"{path} is not executable"
        subprocess.run(["bash", "-n", path], check=True)
    assert "distill/train.py recipes/quickstart.yaml" in (ROOT / "scripts/quickstart").read_text()
    assert "scripts/test" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.startswith(("distill ", "accelerate "))]
)
def test_every_command_names_words_and_recipes_that_exist(command):
    words = shlex.split(command)
    if words[0] == "accelerate":
        assert words[2] == "distill/train.py"
        words = ["distill", "run", *words[3:]]
    from distill.__main__ import read

    options = read(words[1:])
    if options.command == "explain":
        shown = subprocess.run(
            [sys.executable, "-m", "distill", *words[1:]],
            env=environment(),
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        assert options.field in shown.stdout
        return
    if options.command in (
        "teachers",
        "inspect",
        "chat",
        "serve",
        "bench",
    ):  # they name no recipe, but a run that is there
        return
    from distill.recipe import load_recipe

    load_recipe(ROOT / options.recipe, options.overrides)


def test_the_tree_is_true():
    tree = README.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    named = set(re.findall(r"\b(\w+)\.py\b", tree)) | set(
        re.findall(r"^ *(\w+)/", tree, re.MULTILINE)
    )
    real = {p.stem for p in (ROOT / "distill").glob("*.py")}
    real |= {p.name for p in (ROOT / "distill").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert real <= named, f"not in the README's tree: {real - named}"
    assert named - real <= {"recipes", "quickstart", "scripts", "tests", "distill"}, (
        f"in the tree only: {named - real}"
    )


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links
    for link in links:
        assert link.startswith("https://") or Path(ROOT, link).exists(), link


def test_the_chinese_readme_has_the_same_commands_and_figures():
    chinese = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert command.split("  ")[0] in chinese, command
    rows = [line for line in README.splitlines() if line.startswith("| ") and "–" in line]
    assert len(rows) > 5 and all(row in chinese for row in rows)


def test_a_mistake_in_a_command_is_one_line_and_status_2():
    result = subprocess.run(
        [sys.executable, "-m", "distill", "run", "recipes/nothing.yaml"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("distill: ") and result.stderr.count("\n") == 1
