"""What the README and the pages of recipes/ promise.

Their commands and recipes are valid, the tree is true, links lead somewhere, fields and files exist.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from run_helpers import ROOT, environment
from test_layers import FLOOR

import distill
from distill.__main__ import read
from distill.pipeline import STAGES
from distill.recipe import explain, load_recipe

NAMES = tuple(stage.name for stage in STAGES)
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
HOW_TO = sorted(f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.md"))
PAGES = ["README.md", *HOW_TO, "CONTRIBUTING.md"]
BASE = ROOT / "recipes" / "qwen_to_1b.yaml"  # the recipe that the pages change
MINE = "recipes/my.yaml"  # the reader's copy of it, changed as the page's first YAML block says

# Programs of others, which cannot be checked here; `cp` and `mkdir` run in a test of their own.
OTHERS = {"vllm", "ollama", "cp", "mkdir", "cd", "git"}
# Commands that work on a finished run, not on a recipe.
ON_A_RUN = ("inspect", "compare", "chat", "serve", "bench")
# Commands that need neither a recipe nor a run, and answer in a second.
OFFLINE = ("explain", "teachers")

FIELD = re.compile(
    rf"`((?:teacher|student|{'|'.join(NAMES)})\.(?!(?:py|json|jsonl|html)\b)[a-z_]+(?:\.[a-z_]+)*)"
)
FILE = re.compile(r"`((?:distill|tests|scripts|recipes)/[\w./-]*)`")


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return the commands of a page's shell blocks: without comments, each on one line."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.partition("#")[0].split("&&")]
    return [" ".join(part.split()) for part in parts if part.strip()]


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a command sets, and its words; of `jobs=$(...)` what is inside."""
    inside = re.fullmatch(r"\w+=\$\((.*)\)", command)
    words = shlex.split(inside[1] if inside else command)
    variables = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    return variables, words


EVERY_COMMAND = [
    pytest.param(page, command, id=f"{page}: {command[:70]}")
    for page in PAGES
    for command in commands(text_of(page))
]
EVERY_FRAGMENT = [
    pytest.param(fragment, id=f"{page}-{number}")
    for page in PAGES
    for number, fragment in enumerate(blocks(text_of(page), "yaml"))
]


def test_the_two_commands_stand_first_and_can_be_run():
    assert commands(README)[:2] == ["scripts/quickstart", "scripts/test"]
    for name in ("quickstart", "test", "setup"):
        subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)
    assert "distill/train.py recipes/quickstart.yaml" in (ROOT / "scripts/quickstart").read_text()
    assert "scripts/test" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(("page", "command"), EVERY_COMMAND)
def test_every_command_is_one_that_can_be_given(page, command, tmp_path):
    variables, words = words_of(command)
    program, *rest = words
    if program == "distill":
        _check_distill(rest, variables, page, tmp_path)
    elif program == "accelerate":
        _check_accelerate(rest, page, tmp_path)
    elif program == "nohup":
        _check_torchrun(rest, page, tmp_path)
    elif program == "sbatch":
        script = next(i for i, word in enumerate(rest) if word.endswith(".sbatch"))
        assert os.access(ROOT / rest[script], os.R_OK)
        _check_distill(rest[script + 1 :], variables, page, tmp_path)
    elif program == "pip":
        _check_pip(rest)
    elif program == "export":
        name = rest[0].partition("=")[0]
        assert f"api_key_env: {name} " in text_of(page), "no recipe of the page reads it"
    elif program.startswith("scripts/"):
        assert os.access(ROOT / program, os.X_OK), f"{program} is not executable"
    elif program.startswith(".venv/bin/"):
        assert (Path(sys.executable).parent / Path(program).name).exists()
    else:
        assert program in OTHERS, f"nothing checks {command!r}"


def _check_distill(words: list[str], variables: dict[str, str], page: str, folder: Path) -> None:
    """Parse the command as the command line does; run it, or load its recipe with its overrides."""
    options = read(words)
    if options.command in ON_A_RUN:
        return
    if options.command in OFFLINE:
        answer = subprocess.run(
            [sys.executable, "-m", "distill", *words],
            env=environment(),
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        if options.command == "explain":
            assert options.field in answer.stdout
        return
    recipe = load_recipe(_recipe_of(options.recipe, page, folder), options.overrides)
    if options.command == "run" and recipe.rounds is not None:
        assert options.redo, "a finished run is refused, whose files are of the student before"
    keys = {name for name in variables if name.endswith("_KEY")}
    assert keys <= {recipe.teacher.api_key_env}, "the recipe reads the key from another variable"


def _check_torchrun(words: list[str], page: str, folder: Path) -> None:
    """Parse what nohup is given: `torchrun ... distill/train.py ... >>LOG 2>&1 &`."""
    from torch.distributed.run import get_args_parser

    end = next(place for place, word in enumerate(words) if word.startswith(">"))
    assert words[0] == "torchrun" and words[end + 1 :] == ["2>&1", "&"]
    options = get_args_parser().parse_args(words[1:end])
    assert options.training_script == "distill/train.py"
    _check_distill(["run", *options.training_script_args], {}, page, folder)


def _check_accelerate(words: list[str], page: str, folder: Path) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    options = launch_command_parser().parse_args(words[1:])
    assert options.training_script == "distill/train.py"
    _check_distill(["run", *options.training_script_args], {}, page, folder)


def _check_pip(words: list[str]) -> None:
    """`pip install -e .`, or with extras that pyproject.toml has."""
    assert words[:2] == ["install", "-e"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    extra = re.fullmatch(r"\.(?:\[(\w+)\])?", words[2])
    assert extra and (extra[1] is None or extra[1] in extras)


def _recipe_of(name: str, page: str, folder: Path) -> Path:
    """Return the recipe's path; the reader's own is made of BASE and the page's first YAML block."""
    if name != MINE:
        return ROOT / name
    values = yaml.safe_load(BASE.read_text(encoding="utf-8"))
    for section, fields in yaml.safe_load(blocks(text_of(page), "yaml")[0]).items():
        values.setdefault(section, {}).update(fields)
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.parametrize("fragment", EVERY_FRAGMENT)
def test_every_piece_of_a_recipe_goes_into_the_real_one(fragment):
    load_recipe(
        BASE,
        [
            f"{section}.{name}={yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)}"
            for section, fields in yaml.safe_load(fragment).items()
            for name, value in fields.items()
        ],
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_field_that_is_named_exists(page):
    for name in FIELD.findall(text_of(page)):
        explain(name)


@pytest.mark.parametrize("page", PAGES)
def test_shell_and_python_blocks_have_no_mistake_of_syntax(page):
    for block in blocks(text_of(page), "sh"):
        subprocess.run(["bash", "-n", "-c", block], check=True)
    for block in blocks(text_of(page), "python"):
        for node in ast.parse(block).body:
            if isinstance(node, ast.ImportFrom):
                assert node.module == "distill"
                assert all(hasattr(distill, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", HOW_TO)
def test_a_page_says_whom_it_is_for_and_begins_with_its_commands(page):
    title, empty, audience, empty_too, fence, *_ = text_of(page).splitlines()
    assert title.startswith("# ") and audience.startswith("For ")
    assert empty == empty_too == "" and fence.startswith("```")


@pytest.mark.parametrize("page", HOW_TO)
def test_both_readmes_point_to_every_page(page):
    assert f"]({page})" in README and f"]({page})" in CHINESE


def test_the_usb_stick_carries_the_work_of_two_machines_to_a_third(tmp_path):
    _fetching, asking, training = blocks(text_of("recipes/offline.md"), "sh")
    files = [
        "generate/raw_prompts/{}.jsonl",
        "generate/raw/{}.jsonl",
        "capture/signals/header/{}.shard",
    ]
    for machine in ("one", "two"):
        for file in files:
            path = tmp_path / machine / "runs" / "qwen_to_1b" / file.format(machine)
            path.parent.mkdir(parents=True)
            path.write_text(machine)
        _copy(asking, tmp_path / machine, tmp_path / "usb")
    (tmp_path / "three").mkdir()
    _copy(training, tmp_path / "three", tmp_path / "usb")
    folder = tmp_path / "three" / "runs" / "qwen_to_1b"
    arrived = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert arrived == {file.format(machine) for file in files for machine in ("one", "two")}


def _copy(block: str, machine: Path, stick: Path) -> None:
    """Run a block's `mkdir` and `cp` in the folder of a machine."""
    for line in block.splitlines():
        if line.startswith(("mkdir ", "cp ")):
            shell = line.replace("/media/usb", str(stick))
            subprocess.run(["bash", "-c", shell], cwd=machine, check=True)


def drawn(tree: str) -> list[str]:
    """Return the names of the files and folders of distill/ in the tree, as they stand there."""
    inside = tree.partition("distill/\n")[2]
    return re.findall(r"^[ │▼]*(\w+)(?:/|\.py) ", inside, re.MULTILINE)


def test_the_tree_is_true():
    tree = README.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    names = drawn(tree)
    inside = [path for path in (ROOT / "distill").iterdir() if path.name != "__pycache__"]
    real = {path.stem for path in inside if path.is_dir() or path.suffix == ".py"}
    assert sorted(names) == sorted(real), f"in one only: {set(names) ^ real}"
    assert tuple(names[: len(NAMES)]) == NAMES
    floors = [FLOOR[name] for name in names[len(NAMES) :]]
    assert floors == sorted(floors), "the rooms stand from the ground up"


@pytest.mark.parametrize("page", ["README.zh.md", *PAGES])
def test_links_lead_somewhere(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text_of(page))]
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("page", ["README.md", *HOW_TO])
def test_files_that_are_named_exist(page):
    for name in FILE.findall(text_of(page)):
        assert name == MINE or (ROOT / name).exists(), name


def test_the_chinese_readme_has_the_same_commands_and_figures():
    assert commands(CHINESE) == commands(README)
    rows = [line for line in README.splitlines() if line.startswith("| ") and "–" in line]
    assert len(rows) > 5 and all(row in CHINESE for row in rows)


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
