"""A whole run on a real pretrained model: what random weights and trained tokenizers never show."""

import json

import pytest
from run_helpers import run

QUESTIONS = """What is the capital of France?
Name three colours.
Why is the sky blue?
Write a short greeting for a friend.
How many days are in a week?
What do bees make?
Tell me a fact about the moon.
What is the opposite of hot?
Give one tip for sleeping well.
Who wrote Romeo and Juliet?
What is water made of?
List two fruits.""".splitlines()

RECIPE = """
name: smollm2
languages: [en]
teacher: {model: TEACHER, licence: apache-2.0, device: cpu, dtype: float32}
student: {method: layers, model: TEACHER, num_layers: 15}
generate: {prompts: prompts.jsonl, max_new_tokens: 32, sampling_temperature: 0.7}
capture: {num_draws: 20}
train:
  {max_steps: 4, batch_tokens: 256, micro_batch_tokens: 256, max_length: 128, control: false, device: cpu}
quantize: {formats: [q8_0], num_sequences: 2, min_top_token_share: 0}
evaluate: {num_examples: 2, max_new_tokens: 8}
"""


@pytest.fixture(scope="module")
def finished_smollm2(smollm2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2_run")
    rows = [json.dumps({"prompt": question, "language": "en"}) for question in QUESTIONS]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("TEACHER", str(smollm2)))
    result = run(recipe, f"run_folder={folder / 'run'}")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "run", result


def test_a_real_model_cut_to_half_its_layers_is_trained_exported_and_told(finished_smollm2):
    """Its tokenizer lacks bytes that no text needs, and so few layers amplify every rounding."""
    folder, result = finished_smollm2
    check = json.loads((folder / "quantize/q8_0.json").read_text())
    assert check["num_tokens"] > 0 and "wrong" not in result.stderr
    assert "q8_0" in result.stdout and (folder / "report/report.html").is_file()


def test_the_student_keeps_the_teachers_sense_where_it_is_whole(finished_smollm2):
    """Bytes that the tokenizer has no token for are told once, and the file is still made."""
    _, result = finished_smollm2
    assert (result.stdout + result.stderr).count("no token for") == 1
