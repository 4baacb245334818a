"""recipes/qwen_to_1b.yaml to the end, on two-layer Qwen3 models made here, the teacher loaded and asked here.

It knows a few answers by heart and could write no prompt, so the mix is replaced by what it knows, which can be checked and is
evaluated on, too (test_recipes.py runs the mix itself, its held-out prompts, and Qwen's tokenizer with them). Nothing else is
overridden but the two models, their licences and the number of steps (and where the run lives). The vocabulary is Qwen's own
151,936 where its tokenizer can be built, the quickstart's small one elsewhere.
"""

import json
import random
from pathlib import Path

import pytest
import torch
from run_helpers import ROOT, run_forked

from distill import chat
from distill.core.jsonl import write_jsonl
from distill.tasks import market

# ChatML with Qwen3's switch: without thinking, an empty block opens the answer
TEMPLATE = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
RECIPE = ROOT / "recipes" / "qwen_to_1b.yaml"
PADDED_WIDTH = 151_936


NUM_STEPS, LEARNING_RATE = 50, 1.2e-2


@pytest.fixture(scope="module")
def tokenizer_folder(qwen_tokenizer):
    return qwen_tokenizer or ROOT / "recipes" / "quickstart" / "teacher"


@pytest.fixture(scope="module")
def problems():
    return market.problems(16, seed=11)


@pytest.fixture(scope="module")
def model_folder(tokenizer_folder, problems, tmp_path_factory):
    """A two-layer Qwen3 that has learnt 16 answers by heart, so that something passes the recipe's filters.

    All that it knows is in its first layer, which the recipe keeps: a student that never ends an answer takes long.
    """
    from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.chat_template = TEMPLATE
    width = PADDED_WIDTH if len(tokenizer) > 100_000 else len(tokenizer)
    rng = random.Random(0)
    rows = []
    for made in problems:
        start = chat.prompt_ids(tokenizer, made.prompt, enable_thinking=False)
        answer = [*tokenizer(market.answer(made, rng)).input_ids, tokenizer.eos_token_id]
        rows.append((start + answer, len(start)))
    used = torch.tensor(sorted({i for ids, _ in rows for i in ids}))
    place = {int(i): n for n, i in enumerate(used)}
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    labels_BT = torch.full((len(rows), longest), -100)
    for b, (ids, start) in enumerate(rows):
        places = torch.tensor([place[i] for i in ids])
        ids_BT[b, : len(ids)] = places
        labels_BT[b, start : len(ids)] = places[start:]

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "max_position_embeddings": 4096,
    }
    # learns with the ids that occur alone: the rows of all others would stay zeros, and cost most of the time
    first = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(used), num_hidden_layers=1, **sizes))
    embedding = first.get_input_embeddings().weight
    with torch.no_grad():
        embedding *= 10
    # the ids that do not occur have logits of 0: together they weigh log(their number), exactly
    others = torch.tensor(float(width - len(used))).log()
    optimizer = torch.optim.AdamW(first.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    chosen = labels_BT[:, 1:] >= 0
    for step in range(NUM_STEPS):
        hidden = first.base_model(ids_BT, use_cache=False).last_hidden_state[:, :-1][chosen]
        logits = hidden @ embedding.T
        loss = torch.nn.functional.cross_entropy(
            torch.cat([logits, others.expand(len(logits), 1)], 1), labels_BT[:, 1:][chosen]
        )
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / NUM_STEPS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=width, num_hidden_layers=2, **sizes, **ends))
    model.generation_config = GenerationConfig(**ends)
    with torch.no_grad():
        rows_VH = torch.zeros(width, sizes["hidden_size"])
        rows_VH[used] = embedding
        second = model.model.layers[1]
        for projection in (second.self_attn.o_proj, second.mlp.down_proj):
            projection.weight *= 0.01
    learnt = first.state_dict() | {"model.embed_tokens.weight": rows_VH, "lm_head.weight": rows_VH}
    model.load_state_dict(learnt, strict=False)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_recipe_runs_to_the_end(model_folder, problems, tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", [p.row() for p in problems])
    folder = tmp_path / "run"
    result = run_forked(
        RECIPE,
        f"teacher.model={model_folder}",
        f"student.model={model_folder}",
        f"generate.prompts={tmp_path / 'prompts.jsonl'}",
        "generate.task=final_number",
        "evaluate.prompts=null",
        "train.max_steps=2",
        f"run_folder={folder}",
        "teacher.licence=apache-2.0",
        "student.licence=apache-2.0",
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]

    def manifest(stage: str) -> dict:
        return json.loads((folder / stage / "manifest.json").read_text())["result"]

    assert manifest("initialize")["num_layers"] == 1, "0.68 of two layers"
    assert manifest("generate")["num_kept"] >= 10
    assert manifest("train")["roles"]["student"]["num_steps"] == 2
    formats = manifest("quantize")["formats"]
    assert set(formats) == {"w16a16", "f16", "q8_0", "q4_k_m", "q4_0", "nf4"}
    assert formats["f16"]["top_token_agreement"] >= 0.995
    trim, capture = manifest("trim"), manifest("capture")
    assert capture["vocab_size"] == trim["vocab_size"]
    if trim["parent_vocab_size"] > 100_000:  # Qwen's own
        assert trim["vocab_size"] == 49_152
        assert capture["bytes_per_token"] <= 36, "what the signal store promises"
    assert len(json.loads((folder / "report/manifest.json").read_text())["result"]["table"]) == 9


def test_plan_knows_the_real_models_without_downloading_them(tmp_path):
    result = run_forked(RECIPE, f"run_folder={tmp_path / 'run'}", word="plan")
    assert result.returncode == 0, result.stderr
    assert "teacher 8,190,735,360 parameters" in result.stdout
    assert "1,057,049,344" in result.stdout, "19 of Qwen3-1.7B's 28 layers, 49,152 tokens"
    assert "licences: allow:" in result.stdout
    assert not Path(tmp_path / "run" / "generate").exists()
