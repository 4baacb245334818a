"""A run on a real pretrained model: what random weights and trained tokenizers never show."""

import json

from run_helpers import ROOT, run

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


def test_the_laptops_recipe_runs_on_the_real_model_with_half_its_layers(smollm2, tmp_path):
    """Its tokenizer lacks bytes, and so few layers amplify every rounding: neither is an error."""
    prompts, folder = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text("\n".join(few_prompts()))
    overrides = [f"teacher.model={smollm2}", f"student.model={smollm2}", f"run_folder={folder}"]
    overrides += [f"generate.prompts={prompts}", *SMALL, "--stages", STAGES]
    result = run(RECIPE, *overrides)
    assert result.returncode == 0, result.stderr[-3000:]
    check = json.loads((folder / "quantize/q8_0.json").read_text())
    assert check["num_tokens"] > 0 and check["top_token_agreement"] > 0.5
    assert (result.stdout + result.stderr).count("no token for 0x04") == 1  # told once
    kept = [row for _, row in read_jsonl(folder / "generate" / "kept.jsonl")]
    assert any("Paris" in row["answer"] for row in kept)  # real weights know something
    trimmed = json.loads((folder / "trim/manifest.json").read_text())["result"]
    assert (trimmed["vocab_size"], trimmed["parent_vocab_size"]) == (16384, 49152)
