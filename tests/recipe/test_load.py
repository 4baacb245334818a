import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distill.errors import MissingError, RecipeError
from distill.recipe import Recipe, explain, load_recipe, to_yaml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_loads_and_its_files_are_there(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    for source in [*recipe.generate.prompts, *(recipe.evaluate.prompts or [])]:
        recipe.existing_file("prompts", source.file)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_field_of_a_recipe_carries_a_comment(path):
    lines = path.read_text().splitlines()
    bare = [
        n
        for n, line in enumerate(lines, 1)
        if line.startswith("  ") and "#" not in line and line.strip()
    ]
    assert len(bare) <= 0.6 * len([line for line in lines if line.startswith("  ")]), (
        f"lines without a comment: {bare}"
    )


def problem(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(QUICKSTART, overrides)
    return str(caught.value)


def test_a_misspelt_key_gets_the_nearest_name():
    assert "train.lerning_rate: unknown key; did you mean learning_rate?" in problem(
        "train.lerning_rate=1e-3"
    )
    assert "trian: unknown key; did you mean train?" in problem("trian.epochs=1")


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("generate.think=drop", "reasoning"),
        ("generate.thinking=false", "enable_thinking"),
        ("generate.prompts=[{expand: magpie, num: 3, steer: {sw: Msaidie.}}]", "system_prompts"),
    ],
)
def test_a_field_s_old_name_is_an_unknown_key_that_names_the_new_one(override, new):
    assert f"unknown key; did you mean {new}?" in problem(override)


def test_all_problems_are_reported_at_once_each_with_file_field_and_value():
    lines = problem("train.epochs=0", "capture.num_draws=many", "seed=-1").splitlines()
    assert len(lines) == 3
    assert all(line.startswith(str(QUICKSTART)) for line in lines)
    assert any("train.epochs: 0: input should be greater than 0" in line for line in lines)
    assert any(
        "capture.num_draws: 'many': input should be a valid integer" in line for line in lines
    )


def test_values_that_do_not_fit_together_are_refused_with_the_way_out():
    assert "there is nothing to learn" in problem("train.soft_weight=0", "train.hard_weight=0")
    assert "set capture.signal to top_k or dense" in problem("train.divergence=reverse_kl")
    assert "use jsd_normalised" in problem("train.divergence=jsd", "train.beta=0.01")
    assert (
        "train.hidden_weight 0.5 needs the teacher's hidden states: set capture.hidden_states to int8"
        in problem("train.hidden_weight=0.5")
    )
    assert (
        "capture.signal none asks for nothing, capture.hidden_states int8 for something"
        in problem(
            "capture.signal=none",
            "train.soft_weight=0",
            "train.hard_weight=1",
            "capture.hidden_states=int8",
        )
    )
    assert "needs student.model" in problem("student.method=base")
    assert "needs a pinned revision" in problem("teacher.trust_remote_code=true")
    assert "holds no row of max_length" in problem("train.micro_batch_tokens=100")
    assert "num_heads 8 is not a multiple of num_kv_heads 3" in problem(
        "student.num_heads=8", "student.num_kv_heads=3"
    )


def test_only_what_rounding_took_can_be_recovered():
    assert "recover: f16: there is nothing to win back" in problem(
        "quantize.formats=[f16]", "quantize.recover=[f16]"
    )
    assert "recover: q2_k is not among formats" in problem(
        "quantize.formats=[f16]", "quantize.recover=[q2_k]"
    )


def test_mixed_types_and_their_budget_belong_together():
    for overrides in (
        ["quantize.formats=[mixed]"],
        ["quantize.budget_mb=3", "quantize.formats=[q8_0]"],
    ):
        assert "formats: mixed and budget_mb belong together" in problem(*overrides)
    assert (
        load_recipe(
            QUICKSTART, ["quantize.formats=[mixed]", "quantize.budget_mb=3"]
        ).quantize.budget_mb
        == 3
    )


@pytest.mark.parametrize(
    ("divergence", "parameter", "learns"),
    [
        ("jsd", "beta=0.01", False),
        ("jsd", "beta=0.05", True),
        ("jsd", "beta=0.95", True),
        ("jsd", "beta=0.97", False),
        ("jsd", "beta=0", True),
        ("jsd", "beta=1", True),
        ("jsd_normalised", "beta=0.01", True),
        ("jsd_normalised", "beta=0.99", True),
        ("skew_kl", "alpha=1", False),
        ("skew_kl", "alpha=0.99", True),
        ("skew_reverse_kl", "alpha=1", False),
        ("adaptive_kl", "alpha=1", True),
        ("forward_kl", "alpha=1", True),
    ],
)
def test_a_divergence_that_learns_nothing_is_refused_when_the_recipe_is_read(
    divergence, parameter, learns
):
    """The same rule as in the losses, so that no run comes as far as training to hear of it."""
    overrides = ["capture.signal=top_k", f"train.divergence={divergence}", f"train.{parameter}"]
    name, _, value = parameter.partition("=")
    if learns:
        assert getattr(load_recipe(QUICKSTART, overrides).train, name) == float(value)
    else:
        assert f"train: {name} {float(value)} with {divergence}" in problem(*overrides)
        assert {"beta": "use jsd_normalised", "alpha": "0.1 is usual"}[name] in problem(*overrides)


def test_reading_a_recipe_needs_no_torch():
    code = "import sys, distill.recipe; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=QUICKSTART.parent.parent, check=False
        ).returncode
        == 0
    )


def test_a_name_cannot_leave_the_runs_folder():
    assert "name: '../x'" in problem("name=../x")


def test_overrides_are_yaml_and_paths_in_them_belong_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(
        QUICKSTART,
        [
            "train.learning_rate=1e-4",
            "languages=[en, zh]",
            "run_folder=here",
            "generate.prompts=p.jsonl",
        ],
    )
    assert recipe.train.learning_rate == 1e-4
    assert recipe.languages == ["en", "zh"]
    assert recipe.run_folder == str(tmp_path / "here")
    assert recipe.path(recipe.generate.prompts[0].file) == tmp_path / "p.jsonl"
    with pytest.raises(RecipeError, match=r"write dotted\.path=value"):
        load_recipe(QUICKSTART, ["train.epochs"])


def test_broken_yaml_and_double_keys_name_the_line(tmp_path):
    path = tmp_path / "r.yaml"
    for text, said in (
        ("name: a\nteacher: [\n", r"r\.yaml, line \d: not YAML"),
        ("name: a\nseed: 1\nname: b\n", r"line 3: not YAML: key 'name' is given twice"),
        ("[1]: {a: 1}\n", r"line 1: not YAML: \[.*\] cannot be a key"),
        ("name: a\0\n", r"r\.yaml: not YAML: .*special characters"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=said):
            load_recipe(path)
    with pytest.raises(MissingError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "http://",
        "http://h:99999",
        "http://h:abc",
        "http://[::1",
        "http://a b",
        "ftp://h",
    ],
)
def test_an_address_that_is_none_is_refused(address):
    assert "is not a URL: write http://host:port" in problem(f"teacher.server={address}")
    assert "is not a URL" in problem(
        f"generate.judge_server={address}", "generate.judge_model=m", "generate.judge_min_score=4"
    )
    load_recipe(QUICKSTART, ["teacher.server=https://[::1]:8000/v1"])


@pytest.mark.parametrize("name", ["teacher", "judge"])
@pytest.mark.parametrize(
    "value",
    [
        "sk-SECRET123",
        "SECRET.abc",
        "1SECRET",
        "S" + "ECRET" * 30,
        "[SECRET]",
        "{a: SECRET}",
        "SECRET: b: c",
    ],
)
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown(name, value):
    place = "teacher.api_key_env" if name == "teacher" else "generate.judge_api_key_env"
    said = problem(
        f"{place}={value}",
        "generate.judge_server=http://h",
        "generate.judge_model=m",
        "generate.judge_min_score=4",
    )
    assert "api_key_env" in said and "SECRET" not in said
    load_recipe(QUICKSTART, ["teacher.api_key_env=DEEPSEEK_KEY_2"])


@pytest.mark.parametrize("place", ["teacher.server", "generate.judge_server"])
@pytest.mark.parametrize(
    "address",
    [
        "http://user:SECRET@h:1",
        "https://SECRET@h/v1",
        "https://h/v1?api_key=SECRET",
        "http://h/#SECRET",
        "user:SECRET@h ost",
        "[SECRET]",
    ],
)
def test_an_address_that_holds_a_key_is_refused_and_not_shown(place, address):
    said = problem(f"{place}={address}", "generate.judge_model=m", "generate.judge_min_score=4")
    assert "server" in said and "SECRET" not in said


def test_a_limit_of_cost_without_prices_is_refused():
    assert "max_cost 20 without prices stops nothing" in problem("generate.max_cost=20")
    load_recipe(QUICKSTART, ["generate.max_cost=20", "generate.price_answer=1.2"])


def test_python_objects_in_yaml_are_not_built(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(path)


def test_a_missing_model_folder_is_named():
    recipe = load_recipe(QUICKSTART, ["teacher.model=./not/here"])
    with pytest.raises(MissingError, match=r"no config\.json in .*not/here"):
        recipe.model_location(recipe.teacher.model)


def test_the_resolved_recipe_is_itself_a_recipe(tmp_path):
    recipe = load_recipe(QUICKSTART)
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe))
    assert load_recipe(path).model_dump() == recipe.model_dump()


def test_fields_about_the_machine_do_not_make_a_stage_stale():
    slow = load_recipe(QUICKSTART, ["train.checkpoint_minutes=1", "train.micro_batch_tokens=512"])
    assert slow.train.identity() == load_recipe(QUICKSTART).train.identity()
    other = load_recipe(QUICKSTART, ["train.learning_rate=1" + "e-5"])
    assert other.train.identity() != slow.train.identity()


def test_every_field_explains_itself():
    for section in yaml.safe_load(QUICKSTART.read_text()):
        assert explain(section)
    assert explain("train.schedule").startswith(
        "train.schedule (default 'cosine'; cosine | linear | constant):"
    )
    with pytest.raises(RecipeError, match="did you mean learning_rate"):
        explain("train.learnrate")
    assert len(explain().splitlines()) == len(Recipe.model_fields)
