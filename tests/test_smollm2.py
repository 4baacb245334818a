"""A run on a real pretrained model: what random weights and trained tokenizers never show."""

import json

import pytest
from run_helpers import ROOT, SHARED_DATA, run

from distill.core.jsonl import read_jsonl

RECIPE = ROOT / "recipes" / "smollm2_laptop.yaml"
FRANCE = "What is the capital of France? Answer in one sentence."
# fewer layers and short answers take less time; the search by NLL takes a minute
SMALL = [
    "student.layer_share=0.5",
    "student.layers_by=block_influence",
    "generate.sampling_temperature=0",
    "generate.max_new_tokens=32",
    "capture.num_draws=20",
    "train.max_steps=2",
    "train.batch_tokens=128",
    "train.micro_batch_tokens=128",
    "train.max_length=128",
    "train.validation_share=0.2",
    "train.control=false",
    "quantize.formats=[q8_0]",
    "quantize.num_sequences=2",
    "quantize.min_top_token_share=0",
    "quantize.max_kl=null",
]
STAGES = "plan,generate,trim,capture,initialize,train,quantize"


def few_prompts() -> list[str]:
    """Return lines of the recipe's prompts: its first, and one that real weights answer rightly."""
    rows = [row for _, row in read_jsonl(RECIPE.with_suffix("") / "prompts.jsonl")]
    return [json.dumps(row) for row in rows[:5] + [r for r in rows if r["prompt"] == FRANCE]]


@pytest.fixture(scope="module")
def made(smollm2, tmp_path_factory):
    """What the run is of, its folder, and what it said."""
    folder = tmp_path_factory.mktemp("smollm2")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(few_prompts()))
    given = [f"teacher.model={smollm2}", f"student.model={smollm2}", f"run_folder={folder / 'run'}"]
    given += [f"generate.prompts={prompts}", *SMALL]
    return given, folder / "run", run(RECIPE, *given, "--stages", STAGES)


def test_the_laptops_recipe_runs_on_the_real_model_with_half_its_layers(made):
    """Its tokenizer lacks bytes, and so few layers amplify every rounding: neither is an error."""
    _, folder, result = made
    assert result.returncode == 0, result.stderr[-3000:]
    check = json.loads((folder / "quantize/q8_0.json").read_text())
    assert check["num_tokens"] > 0 and check["top_token_agreement"] > 0.5
    assert (result.stdout + result.stderr).count("no token for 0x04") == 1  # told once
    kept = [row for _, row in read_jsonl(folder / "generate" / "kept.jsonl")]
    assert any("Paris" in row["answer"] for row in kept)  # real weights know something
    trimmed = json.loads((folder / "trim/manifest.json").read_text())["result"]
    assert (trimmed["vocab_size"], trimmed["parent_vocab_size"]) == (16384, 49152)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is not there")
def test_benchmarks_and_delicate_requests_of_others_are_asked_of_it_and_of_its_file(made, tmp_path):
    """SIB-200, MGSM, XSTest and deccp as they are published, a few rows of each."""
    given, folder, _ = made
    few = {}
    for name, rows in (("sib200/eng_Latn_test.tsv", 5), ("mgsm/mgsm_en.tsv", 2)):
        few[name] = tmp_path / name.replace("/", "_")
        few[name].write_text("\n".join((SHARED_DATA / name).read_text().splitlines()[:rows]) + "\n")
    sib, mgsm = few.values()
    columns = "columns: {question: '0', answer_number: '1'}"
    benchmarks = (
        f"evaluate.benchmarks=[{{name: sib200, files: {{en: {sib}}}}}, "
        f"{{name: mgsm, files: {{en: {mgsm}}}, {columns}, few_shot: 0, max_new_tokens: 8}}]"
    )
    (xstest,) = (SHARED_DATA / "xstest").glob("*.csv")
    short = tmp_path / "xstest.csv"
    short.write_text("\n".join(xstest.read_text().splitlines()[:3]) + "\n")
    deccp = tmp_path / "deccp.txt"
    deccp.write_text(
        "\n".join((SHARED_DATA / "deccp/censored.txt").read_text().splitlines()[:2]) + "\n"
    )
    safety = (
        "evaluate.safety={sets: [], max_new_tokens: 8, prompts: ["
        f"{{file: {short}, language: en, columns: {{id: id, prompt: prompt, reference: label}}}}, "
        f"{{file: {deccp}, language: en, refusals: keep}}]}}"
    )
    result = run(RECIPE, *given, benchmarks, safety, "--stages", "benchmark,safety")
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((folder / "benchmark/manifest.json").read_text())["result"]
    models = {"teacher", "student", "w16a16", "q8_0"}
    asked = {(score["benchmark"], score["model"]): score["num"] for score in found["scores"]}
    sizes = {"sib200": 4, "mgsm": 2}
    assert asked == {(name, model): num for name, num in sizes.items() for model in models}
    safety_found = json.loads((folder / "safety/manifest.json").read_text())["result"]
    assert set(safety_found["models"]) == models and safety_found["num_requests"] == 4
