#!/usr/bin/env python3
"""Build the quickstart's embedded teacher, its tokenizer and its data.

    python scripts/build_quickstart_teacher.py            # writes recipes/quickstart/, about 40 minutes on 2 cores

The teacher is a small Qwen3 trained from scratch on right answers in many wordings (distill/tasks/market.py), to the
problems whose hash falls in the `teacher` split; prompts.jsonl and eval.jsonl come from the other two splits. A killed
build goes on from its last save.
"""

import argparse
import itertools
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from distill.core.jsonl import write_jsonl
from distill.models.decode import answer as decode
from distill.models.sampling import Sampling
from distill.tasks import market

VOCABULARY = 1024
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# the split pattern of Qwen2 and Qwen3: every digit is a token, and llama.cpp knows it as `qwen2`
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
}
BATCH = 64
POOL = 20  # batches that are drawn together and sorted by length
WARMUP = 60
# (steps, peak learning rate), each with a cosine to 0 and a fresh optimizer, from the shipped weights of the one before
ROUNDS = ((2000, 3e-3), (500, 1.5e-3))
# in the order of market.KINDS. A total needs the most reckoning; after the first round nearly every mistake was in
# change, discount and total (20, 11 and 7 of 39 in 500), mostly differences that it had never met: see market.split_of
WEIGHTS = ((2, 1, 1, 1, 1, 1), (5, 3, 1, 1, 1, 2))
SPLITS = (("teacher",), ("teacher", "facts"))
# Chinese has the shortest texts: copying and reckoning are learnt on it first, the other languages then reuse them
CHINESE_POOLS = 8
SAVE_EVERY = 100


def build_tokenizer(folder: Path) -> Any:
    """A byte-level BPE of VOCABULARY ids, trained on an equal share of each language."""
    rng = random.Random("tokenizer")
    texts = []
    for made in market.problems(10_000, seed=900, splits=["teacher"]):
        # Devanagari and Han need several bytes a character: more of them, or they get no merges
        texts += [made.prompt + "\n" + market.answer(made, rng)] * (
            2 if made.language in ("hi", "zh") else 1
        )
    core = Tokenizer(BPE(byte_fallback=False))
    core.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    assert len(tokenizer) == VOCABULARY
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode(tokenizer: Any, prompt: str, answer: str | None = None) -> tuple[list[int], int]:
    """(ids of ChatML prompt and answer with its end token, where the answer begins)."""
    start = tokenizer(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n").input_ids
    return start + (tokenizer(answer + "<|im_end|>").input_ids if answer is not None else []), len(
        start
    )


def draw(rng: random.Random, languages: tuple[str, ...], number: int) -> market.Problem:
    """A problem that the teacher may be trained on in round `number`."""
    while True:
        made = market.problem(
            rng, rng.choice(languages), rng.choices(market.KINDS, WEIGHTS[number])[0]
        )
        if market.split_of(made) in SPLITS[number]:
            return made


def lessons(
    seed: int, number: int, first: int = 0
) -> Iterator[tuple[list[tuple[str, str]], random.Random]]:
    """Pools of BATCH * POOL (question, answer) of round `number`, from pool `first` on, endless; each with its generator."""
    pool = first
    while True:
        rng = random.Random(
            f"build/{seed}/{pool}" if number == 0 else f"build/{seed}/{number}/{pool}"
        )
        languages = ("zh",) if number == 0 and pool < CHINESE_POOLS else market.LANGUAGES
        drawn = []
        for _ in range(BATCH * POOL):
            made = draw(rng, languages, number)
            drawn.append((made.prompt, market.answer(made, rng)))
        yield drawn, rng
        pool += 1


def questions_taught(seed: int) -> set[str]:
    """Every question that the teacher is trained on, drawn again."""
    return {
        question
        for number, (num_steps, _) in enumerate(ROUNDS)
        for pool, _ in itertools.islice(lessons(seed, number), math.ceil(num_steps / POOL))
        for question, _ in pool
    }


def batches(
    tokenizer: Any, seed: int, number: int, first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of similar length, from number `first` on: (ids [B, T], labels [B, T], -100 outside the answer)."""
    for pool, (drawn, rng) in enumerate(lessons(seed, number, first // POOL), first // POOL):
        rows = [encode(tokenizer, question, answer) for question, answer in drawn]
        rows.sort(key=lambda r: len(r[0]))
        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(parts)
        for part in parts[first % POOL if pool == first // POOL else 0 :]:
            width = max(len(ids) for ids, _ in part)
            ids_BT = torch.zeros((len(part), width), dtype=torch.long)
            labels_BT = torch.full((len(part), width), -100)
            for b, (ids, start) in enumerate(part):
                ids_BT[b, : len(ids)] = torch.tensor(ids)
                labels_BT[b, start : len(ids)] = torch.tensor(ids[start:])
            yield ids_BT, labels_BT


def train(tokenizer: Any, work: Path, teacher: Path, number: int, seed: int) -> Qwen3ForCausalLM:
    """Round `number`: from random weights, or from those of the round before in `teacher`."""
    num_steps, peak = ROUNDS[number]
    torch.manual_seed(seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        **SHAPE,
    )
    model = (
        Qwen3ForCausalLM.from_pretrained(teacher, dtype=torch.float32)
        if number
        else Qwen3ForCausalLM(config)
    )
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak,
        betas=(0.9, 0.98),
        fused=True,
    )
    first = 0
    if (work / "state.json").exists():
        first = json.loads((work / "state.json").read_text())["step"]
        model.load_state_dict(load_file(work / "model.safetensors"), strict=False)
        model.tie_weights()
        moments = load_file(work / "optimizer.safetensors")
        state = {
            i: {k: moments[f"{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            for i in range(len(matrices) + len(vectors))
        }
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
    started, seen = time.time(), 0
    for step, (ids_BT, labels_BT) in enumerate(batches(tokenizer, seed, number, first), first):
        if step >= num_steps:
            break
        rate = (
            peak * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        hidden_BTH = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
        chosen = labels_BT[:, 1:] >= 0
        logits_NV = hidden_BTH[chosen] @ model.lm_head.weight.T
        loss = torch.nn.functional.cross_entropy(logits_NV, labels_BT[:, 1:][chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += ids_BT.numel()
        if (step + 1) % 20 == 0:
            rate_now = seen / (time.time() - started)
            left = (num_steps - step - 1) * (time.time() - started) / (step + 1 - first)
            print(
                f"step {step + 1}/{num_steps}, loss {loss.item():.4f}, {rate_now:,.0f} tokens/s, {left / 60:.1f} min left",
                flush=True,
            )
        if (step + 1) % SAVE_EVERY == 0:
            save(work, model, optimizer, step + 1)
        if (step + 1) % 400 == 0:
            share, _ = exact_match(
                model, tokenizer, market.problems(100, seed=77, splits=["eval"]), Sampling(0.0)
            )
            print(f"step {step + 1}: exact match {share:.1%} on 100 problems", flush=True)
    return model


def save(work: Path, model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    state = optimizer.state_dict()["state"]
    save_file(
        {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"},
        work / "model.safetensors",
    )
    save_file(
        {f"{i}.{k}": v for i, values in state.items() for k, v in values.items()},
        work / "optimizer.safetensors",
    )
    (work / "state.json").write_text(json.dumps({"step": step}))


def exact_match(
    model: Qwen3ForCausalLM, tokenizer: Any, problems: list[market.Problem], sampling: Sampling
) -> tuple[float, dict[str, float]]:
    """(share of right answers, the same by language and by kind)."""
    model.eval()
    right: dict[int, bool] = {}
    for start in range(0, len(problems), 100):
        part = problems[start : start + 100]

        def record(
            i: int,
            ids: list[int],
            reason: str,
            start: int = start,
            part: list[market.Problem] = part,
        ) -> None:
            right[start + i] = market.grade(
                tokenizer.decode(ids, skip_special_tokens=True), part[i].row()
            )

        decode(
            model,
            [encode(tokenizer, p.prompt)[0] for p in part],
            seeds=range(start, start + len(part)),
            sampling=replace(sampling, max_new_tokens=96, stop_ids=(tokenizer.eos_token_id,)),
            pad_id=tokenizer.pad_token_id,
            on_finished=record,
        )
    model.train()
    shares = {}
    for group in (*market.LANGUAGES, *market.KINDS):
        mine = [right[i] for i, p in enumerate(problems) if group in (p.language, p.kind)]
        shares[group] = round(sum(mine) / len(mine), 4)
    return sum(right.values()) / len(right), shares


@torch.no_grad()
def entropy(model: Qwen3ForCausalLM, tokenizer: Any) -> tuple[float, float]:
    """(mean entropy of the teacher in nats per answer token, mean answer length in tokens) on held-out problems."""
    model.eval()
    rng = random.Random("entropy")
    total, count, answers = 0.0, 0, 0
    for made in market.problems(200, seed=78, splits=["eval"]):
        ids, start = encode(tokenizer, made.prompt, market.answer(made, rng))
        logp_TV = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
        total += -(logp_TV.exp() * logp_TV).sum().item()
        count += len(logp_TV)
        answers += 1
    return total / count, count / answers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "recipes" / "quickstart")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "build_quickstart_teacher",
        help="where a build continues",
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    teacher = options.out / "teacher"
    teacher.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(teacher)
    prompts = market.examples(
        6000, seed=2, splits=["teacher", "facts", "prompts"], without=questions_taught(options.seed)
    )
    write_jsonl(options.out / "prompts.jsonl", prompts)
    write_jsonl(options.out / "eval.jsonl", market.examples(300, seed=3, splits=["eval"]))
    figures_file = teacher / "figures.json"
    done = json.loads(figures_file.read_text())["rounds"] if figures_file.is_file() else 0
    for number in range(done, len(ROUNDS)):
        model = train(tokenizer, options.work, teacher, number, options.seed)
        model.bfloat16()
        model.save_pretrained(teacher)
        figures = {"rounds": number + 1, **measure(teacher, tokenizer)}
        figures_file.write_text(json.dumps(figures, indent=1) + "\n")
        print(figures_file.read_text())
        shutil.rmtree(options.work, ignore_errors=True)


def measure(teacher: Path, tokenizer: Any) -> dict[str, Any]:
    """Figures of the teacher as it is shipped: bfloat16 weights, computed in float32."""
    model = Qwen3ForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    held_out = market.problems(500, seed=4, splits=["eval"])
    greedy, groups = exact_match(model, tokenizer, held_out, Sampling(0.0))
    sampled, _ = exact_match(model, tokenizer, held_out, Sampling(1.0))
    cooler, _ = exact_match(model, tokenizer, held_out, Sampling(0.8))
    nats, length = entropy(model, tokenizer)
    return {
        "parameters": model.num_parameters(),
        "bytes": (teacher / "model.safetensors").stat().st_size,
        "exact_match_500": greedy,
        "by_group": groups,
        "exact_match_sampled": sampled,
        "exact_match_sampled_at_0.8": cooler,
        "entropy_nats_per_token": round(nats, 4),
        "tokens_per_answer": round(length, 1),
    }


if __name__ == "__main__":
    main()
