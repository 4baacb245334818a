"""A whole run on a real pretrained model: what random weights and trained tokenizers never show."""

import json

from run_helpers import run

QUESTIONS = """What is the capital of France?
Name three colours.
Write a short greeting for a friend.
How many days are in a week?
What do bees make?
What is the opposite of hot?""".splitlines()

RECIPE = """
name: smollm2
languages: [en]
teacher: {model: TEACHER, licence: apache-2.0, device: cpu, dtype: float32}
student: {method: layers, model: TEACHER, num_layers: 15}
generate: {prompts: prompts.jsonl, max_new_tokens: 32, sampling_temperature: 0}
capture: {num_draws: 20}
train:
  max_steps: 2
  batch_tokens: 128
  micro_batch_tokens: 128
  max_length: 128
  control: false
  device: cpu
quantize: {formats: [q8_0], num_sequences: 2, min_top_token_share: 0, max_kl: null}
evaluate: {num_examples: 1}
"""
STAGES = "plan,generate,capture,initialize,train,quantize"


def test_a_real_model_cut_to_half_its_layers_is_trained_and_exported(smollm2, tmp_path):
    """Its tokenizer lacks bytes, and so few layers amplify every rounding: neither is an error."""
    rows = [json.dumps({"prompt": question, "language": "en"}) for question in QUESTIONS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("TEACHER", str(smollm2)))
    result = run(recipe, f"run_folder={tmp_path / 'run'}", "--stages", STAGES)
    assert result.returncode == 0, result.stderr[-3000:]
    check = json.loads((tmp_path / "run/quantize/q8_0.json").read_text())
    assert check["num_tokens"] > 0 and check["top_token_agreement"] > 0.5
    assert (result.stdout + result.stderr).count("no token for 0x04") == 1  # told once
    kept = (tmp_path / "run/generate/kept.jsonl").read_text()
    assert "Paris" in kept  # real weights know something
