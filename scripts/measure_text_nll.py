#!/usr/bin/env python3
"""How well models predict a text, whatever tokenizer each has: nats a byte, and the tokens that it takes.

    python scripts/measure_text_nll.py --texts news.txt wiki.txt --models runs/a/initialize/student runs/a/train/student teacher

A text file has a text a line, each read by itself from the token that begins a text for the model (else the one that ends one). A
model is a folder as transformers saves it. The first model is what the others are compared with.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from benchmark_sections import table

from distill.models.head import head_of
from distill.models.load import Placement, load_model, load_tokenizer
from distill.models.score import score
from distill.models.sequences import TokenSequence

BATCH_TOKENS = 4096


def nats_and_tokens(model: Any, tokenizer: Any, texts: list[str]) -> tuple[float, int]:
    """Return the nats of all texts together, and the tokens that they take."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    sequences = [TokenSequence([first, *ids], 1) for ids in encoded]
    scored = score(
        model,
        head_of(model),
        sequences,
        batch_tokens=BATCH_TOKENS,
        pad_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
    )
    nats = -sum(float(logp_T.double().sum()) for _, logp_T, _ in scored)
    return nats, sum(map(len, encoded))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--texts", nargs="+", type=Path, required=True, metavar="FILE.txt")
    parser.add_argument("--models", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    texts = {path.stem: path.read_text("utf-8").splitlines() for path in arguments.texts}
    rows, base = [], {}
    for folder in arguments.models:
        model = load_model(folder, Placement("cpu", arguments.dtype))
        tokenizer = load_tokenizer(folder)
        row = [folder, f"{model.num_parameters() / 1e6:.1f} M", f"{len(tokenizer):,}"]
        for name, lines in texts.items():
            nats, num_tokens = nats_and_tokens(model, tokenizer, lines)
            found = nats / len("".join(lines).encode()), num_tokens
            nll, tokens = base.setdefault(name, found)
            row.append(
                f"{found[0]:.4f} ({found[0] / nll - 1:+.1%}), {num_tokens / tokens - 1:+.2%}"
            )
        rows.append(row)
        print("; ".join(row), flush=True)
    heads = ["model", "parameters", "tokens", *(f"{name}: nats a byte, tokens" for name in texts)]
    print(table(heads, rows))


if __name__ == "__main__":
    with torch.no_grad():
        main()
