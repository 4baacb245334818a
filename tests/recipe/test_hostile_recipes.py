"""Recipes that a person, an editor or a generator wrote badly: refused clearly, or what was meant."""

import random
import re

import pytest
import yaml
from recipe_helpers import problem
from run_helpers import QUICKSTART, ROOT

from distill import plan
from distill.errors import MissingError, RecipeError
from distill.recipe import load_recipe, to_yaml

KIND = "recipes"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)),
        "languages: *a8",
    ]
)
BASE = """name: r
languages: [en]
teacher: {model: ./t}
student: {method: random}
generate: {prompts: p.jsonl}
"""


def loaded(tmp_path, text, overrides=()):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return load_recipe(path, overrides)


def reads_back(tmp_path, recipe):
    """Whether the resolved recipe is itself a recipe, and the same one."""
    (tmp_path / "again.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    return load_recipe(tmp_path / "again.yaml").model_dump() == recipe.model_dump()


REFUSED = {
    "a number of 5,000 digits": BASE + "seed: " + "9" * 5000,
    "a quoted number of 4,000 digits": BASE + f"train: {{epochs: '{'9' * 4000}'}}",
    "more than 64 bits": BASE + "train: {epochs: 99999999999999999999}",
    "!!int x": BASE + "seed: !!int x",
    "!!binary": BASE + "run_folder: !!binary aGVsbG8=",
    "!!set": BASE + "train: !!set {a, b}",
    "a tag of its own": BASE + "train: !epochs 3",
    "python": BASE + "train: !!python/object/apply:os.system ['true']",
    "deep list": BASE + "languages: " + "[" * 3000,
    "deep list that ends": BASE + "x: " + "[" * 2000 + "]" * 2000,
    "deep mapping": BASE + "x: " + "{a: " * 2000 + "1" + "}" * 2000,
    "deep by indentation": "\n".join(" " * n + "a:" for n in range(1500)),
    "an anchor bomb": BASE + BOMB,
    "an anchor that holds itself": BASE + "x: &x [*x]",
    "a mapping that holds itself": BASE + "x: &x {y: *x}",
    "an anchor that is not there": BASE + "x: *nothing",
    "a merge of a number": BASE + "train: {<<: 5}",
    "a merge of a list of numbers": BASE + "train: {<<: [1, 2]}",
    "a merge twice": "a: &a {b: 1}\nc: {<<: *a, <<: *a}",
    "a tab": "name: r\n\tlanguages: [en]",
    "NUL": BASE + "run_folder: a\0b",
    "NUL by escape": BASE + 'run_folder: "a\\0b"',
    "not UTF-8": b"name: \xff\xfe\n",
    "UTF-16": BASE.encode("utf-16"),
    "a lone surrogate": BASE + 'run_folder: "\\ud800"',
    "empty": "",
    "only a comment": "# nothing\n",
    "a list": "[1, 2]",
    "a text": "hello",
    "binary junk": bytes(range(256)),
    "two documents": BASE + "---\n" + BASE,
    "a list as key": "[1, 2]: 3",
    "a mapping as key": "{a: 1}: 3",
    "a number as key": BASE + "1: 2",
    "null as key": BASE + "~: 2",
    "nan as key": BASE + ".nan: 2",
    "a key of 100,000 characters": BASE + f"{'k' * 100_000}: 1",
    "a value of 100,000 characters": BASE + f"train: {{schedule: {'v' * 100_000}}}",
    "2,000 unknown keys": BASE + "train: {" + ", ".join(f"k{n}: 1" for n in range(2000)) + "}",
    "larger than a recipe is": BASE + "#" * (1 << 20),
    "an infinite weight": BASE + "train: {soft_weight: .inf}",
    "a weight by its text": BASE + "train: {soft_weight: 'inf'}",
    "a weight of nan": BASE + "train: {soft_weight: .nan}",
    "a weight beyond doubles": BASE + "train: {soft_weight: 1e999}",
    "a share of nan": BASE.replace("p.jsonl", "p.jsonl, shares: {en: .nan}"),
    "true epochs": BASE + "train: {epochs: true}",
    "a true weight": BASE + "train: {soft_weight: true}",
    "a time for hours": BASE.replace("p.jsonl", "p.jsonl, max_hours: 1:30"),
    "no such user": BASE + "run_folder: ~nosuchuser/x",
    "a teacher of no such user": BASE.replace("./t", "~nosuchuser/t"),
    "a name over 255 bytes": BASE + f"run_folder: /data/{'n' * 256}",
    "a name over 255 bytes in Chinese": BASE + f"run_folder: {'名' * 86}",
    "a path over 4,095 bytes": BASE + f"run_folder: {'/abc' * 1100}",
    "a long name of the run": BASE.replace("name: r", f"name: {'r' * 256}"),
    "a date as name": BASE.replace("name: r", "name: [2020-13-45]"),
}
MEANT = {
    "a date": ("name: 2020-13-45", lambda r: r.name == "2020-13-45"),
    "a right date": ("name: 2024-05-01", lambda r: r.name == "2024-05-01"),
    "Norwegian": ("languages: [no, en]", lambda r: r.languages == ["no", "en"]),
    "a switch by yes": ("train: {control: yes}", lambda r: r.train.control is True),
    "a switch by off": ("train: {control: off}", lambda r: r.train.control is False),
    "1e-4": ("train: {learning_rate: 1e-4}", lambda r: r.train.learning_rate == 1e-4),
    "1_000": ("train: {max_steps: 1_000}", lambda r: r.train.max_steps == 1000),
    "0777": ("train: {max_steps: 0777}", lambda r: r.train.max_steps == 777),
    "a commit that looks like a number": (
        "teacher: {model: ./t, revision: 0123456}",
        lambda r: r.teacher.revision == "0123456",
    ),
    "a quoted number as text": (
        "teacher: {model: ./t, revision: '1e5'}",
        lambda r: r.teacher.revision == "1e5",
    ),
    "an anchor": (
        "report: &r {title: a}\nevaluate: {prompts: &p p.jsonl}",
        lambda r: r.report.title == "a",
    ),
    "a merge": (
        "teacher: {<<: &m {model: ./m, device: cpu}, model: ./t}",
        lambda r: r.teacher.model == "./t" and r.teacher.device == "cpu",
    ),
    "a mark at the beginning": ("\ufeffname: r", lambda r: r.name == "r"),
    "=": ("report: {title: =}", lambda r: r.report.title == "="),
    "a title of any text": (
        'report: {title: "a\\tb\\x85\\u2028 \\U0001f600 #: [x] 1e5"}',
        lambda r: r.report.title == "a\tb\x85\u2028 \U0001f600 #: [x] 1e5",
    ),
}


def test_what_cannot_be_read_is_refused_in_a_line(tmp_path, tally):
    for name, text in REFUSED.items():
        said = tally.must_refuse(name, lambda text=text: loaded(tmp_path, text))
        assert "r.yaml" in said, f"{name}: {said}"


def test_what_has_one_meaning_is_read_so(tmp_path, tally):
    for name, (line, right) in MEANT.items():
        key = line.lstrip("\ufeff").partition(":")[0]
        rest = [each for each in BASE.splitlines() if not each.startswith(f"{key}:")]
        recipe = loaded(tmp_path, "\n".join([line, *rest]))
        assert right(recipe), name
        tally.must_accept(name, lambda recipe=recipe: reads_back(tmp_path, recipe), True)


SCALARS = [
    *("~", "''", "yes", "no", "1:30", "0o17", "0x1F", "1_0", "+1", "-0", "1e5", "1e400", "-1"),
    *(".inf", "-.inf", ".nan", "2020-13-45", "2001-01-01T00:00:00Z", "!!int x", "!!str 5", "<<"),
    *(
        "'\\0'",
        '"\\0"',
        '"\\ud800"',
        '"\\U0001F600"',
        "*a",
        "&a 5",
        "[]",
        "{}",
        "[[[[1]]]]",
        "{a: {b: 1}}",
    ),
    *("~nosuchuser", "~/x", "/proc/self/mem", "/etc/passwd", "../../x", "x" * 300, "名" * 300),
    *("9" * 19, "9" * 30, "9" * 5000, "0.1.2", "0" * 40, "x" * 100_000, "true", "[true]", "-", "?"),
    *("null", "5", "3.0", "0.5", "cpu", "[en]", "{en: 1.0}", "p.jsonl", "[p.jsonl, q.jsonl]"),
]


def mutated(place, text):
    """Return a recipe's text with one thing changed, as hands, editors and disks change it."""
    lines = text.splitlines()
    number = place.randrange(len(lines))
    line = lines[number]
    way = place.randrange(8)
    if way == 0:
        lines[number] = f"{line.partition(':')[0]}: {place.choice(SCALARS)}"
    elif way == 1:
        lines[number] = re.sub(r"^(\s*)(\w+)", lambda m: f"{m[1]}{m[2]}x", line)
    elif way == 2:
        lines[number] = place.choice(["\t", " ", "  ", "- "]) + line
    elif way == 3:
        lines.insert(number, line)
    elif way == 4:
        del lines[number]
    elif way == 5:
        lines[number] = f"{line.rstrip()}: {place.choice(SCALARS)}"
    elif way == 6:
        cut = place.randrange(len(text))
        return text[:cut]
    else:
        cut = place.randrange(len(text))
        return text[:cut] + chr(place.choice([0, 7, 9, 0x85, 0xA0, 0xFEFF, 0x200B])) + text[cut:]
    return "\n".join(lines)


def meaning(text):
    """Return what a YAML text says, by a reader that is not ours; None where it says something else."""
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # every scalar as its text
    except (yaml.YAMLError, RecursionError):
        return None


def means(recipe, text):
    """Whether each scalar that the text gives stands in the recipe, as far as it can be text."""
    said = meaning(text)
    assert isinstance(said, dict)
    values = recipe.model_dump(mode="json")
    return all(_same(values[name], value) for name, value in said.items())


def _same(made, said):
    if isinstance(said, dict) and isinstance(made, dict):
        return all(_same(made.get(name), value) for name, value in said.items())
    if isinstance(said, list) and isinstance(made, list):
        return len(said) == len(made) and all(map(_same, made, said))
    if isinstance(said, str) and isinstance(made, bool):
        return said.lower() in (("true", "yes", "on", "1") if made else ("false", "no", "off", "0"))
    if isinstance(said, str) and isinstance(made, int | float):
        number = said.replace("_", "")
        return float(int(number, 0) if "x" in number else number) == float(made)
    if made is None:
        return said in ("", "~", "null", {})
    return isinstance(said, dict | list) or made == said


@pytest.mark.parametrize("seed", range(8))
def test_a_spoilt_recipe_is_refused_or_is_what_it_says(tmp_path, tally, seed):
    place = random.Random(seed)
    texts = [_without_comments(path.read_text(encoding="utf-8")) for path in RECIPES]
    for number in range(45):
        text = mutated(place, place.choice([*texts, BASE]))
        tally.refuse_or(
            f"{seed}/{number}: {text[:200]!r}",
            lambda text=text: loaded(tmp_path, text),
            lambda recipe, text=text: means(recipe, text) and reads_back(tmp_path, recipe),
        )


def _without_comments(text):
    """Return a recipe's YAML without its comments, so that what is changed is what is read."""
    return yaml.safe_dump(yaml.safe_load(text), sort_keys=False, allow_unicode=True)


FIELDS = [
    *("name", "seed", "languages", "run_folder", "teacher.model", "teacher.gguf", "teacher.server"),
    *(
        "student.method",
        "student.model",
        "generate.prompts",
        "generate.shares",
        "generate.max_hours",
    ),
    *("capture.top_k", "train.soft_weight", "train.epochs", "train.control", "train.divergence"),
    *(
        "quantize.formats",
        "quantize.max_kl",
        "evaluate.prompts",
        "report.title",
        "train",
        "",
        "a..b",
    ),
    *(
        "generate.prompts.0.file",
        "generate.system_prompt",
        "x" * 5000,
        "train.\ud800",
        "num_processes",
    ),
]


@pytest.mark.parametrize("seed", range(4))
def test_an_odd_override_is_refused_or_is_what_it_says(tmp_path, tally, seed):
    place = random.Random(seed)
    for _ in range(45):
        field, value = place.choice(FIELDS), place.choice(SCALARS)
        tally.refuse_or(
            f"{field[:50]}={value[:50]}",
            lambda override=f"{field}={value}": load_recipe(QUICKSTART, [override]),
            lambda recipe: reads_back(tmp_path, recipe),
        )


NO_RECIPES = [
    *("~nosuchuser/r.yaml", "a\0b", "n" * 300, "/proc/self/mem", "/dev/zero", "/proc", "", "/"),
    *("x" * 5000, "\ud800", "~", "/proc/self/environ"),
]


@pytest.mark.parametrize("source", NO_RECIPES)
def test_what_cannot_be_a_recipe_is_refused_by_name(tally, source):
    tally.must_refuse(source[:40], lambda: load_recipe(source))


def test_a_current_folder_that_is_gone_is_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(MissingError, match="no such recipe"):
        load_recipe("r.yaml")
    with pytest.raises(RecipeError, match="run_folder"):
        load_recipe(QUICKSTART, ["run_folder=here"])


def test_the_line_and_the_reason_are_told_of_an_override():
    assert "9999 ... 9999" in problem("seed=" + "9" * 5000)
    assert "tags such as '!!int'" in problem("seed=!!int x") or "tag" in problem("seed=!!int x")
    assert "soft_weight" in problem("train.soft_weight=.inf")


def test_a_teacher_file_of_another_kind_is_refused_before_anything_is_asked(tmp_path):
    recipe = load_recipe(QUICKSTART, ["teacher.gguf=/etc/passwd"])
    with pytest.raises(RecipeError, match=r"teacher\.gguf: /etc/passwd: not a GGUF file"):
        plan.stage([]).fingerprint(recipe)
