#!/usr/bin/env python3
"""Memory and speed of a deployed student of 1.0 B parameters on this machine, file by file, as `distill bench` measures them.

    python scripts/measure_edge.py                          # a quarter of an hour on 2 cores, 8 GB of memory, 5 GB of disk
    python scripts/measure_edge.py --write BENCHMARKS.md    # replaces its own section there

The student has 14 layers of Qwen3-1.7B, all its tokens, and random weights: how fast a file is does not depend
on their values. Its tokenizer is the quickstart's, which no speed depends on either.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from benchmark_sections import machine, replace_section, table
from transformers import Qwen3Config, Qwen3ForCausalLM

from distill.deploy import bandwidth, speed
from distill.deploy.targets import target
from distill.formats.gguf.write import write_gguf
from distill.models.load import load_tokenizer, quiet

HEADING = "## Edge figures"
FORMATS = ("f16", "q8_0", "q4_k_m", "q4_0", "q2_k", "tq2_0")
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 14,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}


def student(folder: Path) -> int:
    """Write the student; its number of parameters."""
    tokenizer = load_tokenizer(str(ROOT / "recipes" / "quickstart" / "teacher"))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **SHAPE,
        )
    )
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument(
        "--target", default="Raspberry Pi 5", help="for the last column, an estimate"
    )
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the table into this file, too"
    )
    options = parser.parse_args()
    quiet()
    elsewhere = target(options.target)
    counts = speed.thread_counts(len(os.sched_getaffinity(0)))
    read = {count: bandwidth.read_bandwidth(count) for count in counts}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        num_parameters = student(Path(name))
        for kind in options.formats.split(","):
            path = Path(name) / f"{kind}.gguf"
            write_gguf(Path(name), path, kind)
            for count in counts:
                found = speed.measure(path, kind, count, read[count])
                slow, fast = elsewhere.decode(found.bytes_per_token)
                rows.append(
                    [
                        kind,
                        f"{found.bytes / 1e6:,.0f}",
                        f"{(found.peak_memory or 0) / 1e6:,.0f}",
                        str(count),
                        f"{found.prefill:,.1f}",
                        f"{found.decode:,.1f}",
                        f"{found.share:.0%}",
                        f"{slow:.1f} to {fast:.1f}",
                    ]
                )
                print(" ".join(rows[-1]), file=sys.stderr, flush=True)
            path.unlink()
    head = [
        "file",
        "MB",
        "peak memory, MB",
        "threads",
        "prefill, tokens/s",
        "decode, tokens/s",
        "of the bandwidth",
        f"{elsewhere.name}",
    ]
    speeds = " and ".join(
        f"{value / 1e9:.1f} GB/s with {count} thread{'s' * (count > 1)}"
        for count, value in read.items()
    )
    section = (
        f"{HEADING}\n\n`scripts/measure_edge.py`: a student of {num_parameters / 1e9:.2f} B parameters (the shape of "
        f"recipes/qwen_to_1b.yaml's, random weights) in llama.cpp.\n{machine()}; memory read at {speeds}. One sequence, medians of "
        f"{speed.REPEATS},\nafter {speed.PROMPT_TOKENS} tokens. Of the bandwidth: bytes of weights a token times tokens a second, over "
        "what was read. Last column: decode there,\nan estimate from public figures (`distill bench --target`), not a measurement.\n\n"
        + table(head, rows)
        + "\n"
    )
    print(section)
    if options.write:
        replace_section(options.write, section)


if __name__ == "__main__":
    main()
