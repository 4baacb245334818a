#!/usr/bin/env python3
"""What quantization-aware distillation (quantize.recover) wins back, on a student of a run and on one of 20 M parameters.

    python scripts/measure_recovery.py --run runs/quickstart --text FOLDER    # half an hour or more on 2 cores
    python scripts/measure_recovery.py --text FOLDER --write BENCHMARKS.md    # replaces its own section there

--run: the student of a finished run, on its own kept answers. Its width of 128 leaves k-quants and ternary weights to few
of its tensors. --text: a Qwen3 of 512 x 6 with the quickstart's tokenizer is trained here on lines of *.txt and *.tsv, by
cross-entropy; all its rows are multiples of 256.

For each format the model with its weights rounded once (plain), and after the recovery that `distill quantize` does, is compared
with the model itself on held-out sequences, by the same code (distill/formats/compare.py). That a file says what the
rounded model says is checked by quantize and by tests.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from benchmark_sections import machine, replace_section, table
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from distill.data.samples import Sample
from distill.data.stored_samples import read_samples, split_samples
from distill.formats import compare, rounding
from distill.formats.compare import TransformersModel
from distill.formats.gguf import imatrix
from distill.formats.gguf.architectures import ARCHITECTURES
from distill.formats.gguf.format import WEIGHTED
from distill.losses.head import Head
from distill.losses.linear_head import linear_head_loss
from distill.models.find import num_parameters
from distill.models.head import head_of
from distill.models.load import Placement, load_model, load_tokenizer
from distill.models.score import TokenSequence
from distill.recipe.sections import Quantize
from distill.training.batches import collate
from distill.training.recover import RecoveryPlan, recover, with_rounded_weights

HEADING = "## What recovery wins back"
LONGEST = 128  # tokens of a line


def lines_of(folder: Path, tokenizer: Any) -> list[Sample]:
    """A sample for each line of text, its first token given."""
    texts = [
        line.split("\t")[0]
        if path.suffix == ".tsv" and len(line.split("\t")[0]) > 20
        else line.replace("\t", " ")
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".txt", ".tsv")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    texts = sorted({t.strip() for t in texts if len(t.strip()) > 20})
    random.Random(0).shuffle(texts)
    rows = [tokenizer(text).input_ids[:LONGEST] for text in texts]
    return [
        Sample(str(n), str(n), "", "", None, "", ids[:1], ids[1:]) for n, ids in enumerate(rows)
    ]


def trained(tokenizer: Any, samples: list[Sample], num_steps: int) -> Any:
    """A student of 20 M parameters after `num_steps` of cross-entropy."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=128,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    head, order = head_of(model), random.Random(1)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 20) * (1 - step / num_steps)
        batch = collate([[(s.ids, 1)] for s in order.sample(samples, 16)], tokenizer.pad_token_id)
        states = model.model(
            input_ids=batch.input_ids_BT, position_ids=batch.position_ids_BT, use_cache=False
        ).last_hidden_state
        loss, _ = linear_head_loss(
            states.flatten(0, 1)[batch.positions_N],
            Head(head.weight),
            batch.labels_N,
            None,
            soft_weight=0.0,
            hard_weight=1.0,
        )
        (loss / len(batch.labels_N)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            print(
                f"student, step {step + 1}: {float(loss.detach()) / len(batch.labels_N):.3f} nats",
                file=sys.stderr,
                flush=True,
            )
    return model.eval()


def importance_of(folder: Path, samples: list[Sample], path: Path) -> Any:
    """The importance matrix as quantize measures it."""
    model = load_model(str(folder), Placement("cpu", "float32"))
    chosen = samples[: Quantize().importance_sequences]
    sums, num_tokens = imatrix.collect(
        model, [s.ids for s in chosen], ARCHITECTURES[model.config.architectures[0]]
    )
    imatrix.write(path, sums, num_tokens, len(chosen), str(folder))
    return imatrix.read(path)


def rows_of(
    folder: Path,
    learn: list[Sample],
    check: list[Sample],
    formats: list[str],
    num_steps: int,
    learning_rate: float,
) -> list[list[str]]:
    """A row of the table for each format, for the model in `folder`."""
    tokenizer = load_tokenizer(str(folder))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "distributions.npy"
        importance = importance_of(folder, learn, Path(name) / "imatrix.gguf")
        for kind in formats:
            model = load_model(str(folder), Placement("cpu", "float32"))
            student = TransformersModel(model, tokenizer, 4096)
            reference = compare.refer_to(student, check, path)
            weighted = importance if kind in WEIGHTED else None
            roundings = (
                rounding.nf4_roundings(model)
                if kind == "nf4"
                else rounding.gguf_roundings(folder, kind, weighted)
            )
            figures = []
            for after in (False, True):
                if after:
                    recover(
                        model,
                        [TokenSequence(s.ids, len(s.prompt_ids)) for s in learn],
                        roundings,
                        RecoveryPlan(num_steps, learning_rate, 0),
                        pad_id=tokenizer.pad_token_id,
                        vocab_size=len(tokenizer),
                        label=f"recover {kind}",
                    )
                with with_rounded_weights(model, roundings):
                    figures.append(compare.in_transformers(reference, student))
            plain, won = figures
            rows.append(
                [
                    kind,
                    *(
                        f"{f.nll_change:+.4f} / {f.kl:.4f} / {f.top_token_agreement:.1%}"
                        for f in figures
                    ),
                    f"**{1 - won.kl / plain.kl:.0%}**",
                ]
            )
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a finished run folder")
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FOLDER",
        help="of .txt and .tsv files, for the student of 20 M parameters",
    )
    parser.add_argument("--steps", type=int, default=Quantize().recover_steps, help="of recovery")
    parser.add_argument("--learning-rate", type=float, default=Quantize().recover_learning_rate)
    parser.add_argument("--formats", default="q2_k,tq2_0,q4_0,nf4")
    parser.add_argument(
        "--student",
        type=Path,
        metavar="FOLDER",
        help="that student: kept there, and taken from there if it is there",
    )
    parser.add_argument(
        "--train-steps", type=int, default=600, help="of that student's own training"
    )
    parser.add_argument(
        "--write", type=Path, metavar="BENCHMARKS.md", help="put the tables into this file, too"
    )
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    head = [
        "format",
        "plain: NLL change / KL / same top token",
        f"after {options.steps} steps",
        "KL won back",
    ]
    parts, how = [], (options.formats.split(","), options.steps, options.learning_rate)
    if options.run:
        samples = list(read_samples(options.run / "generate" / "kept.jsonl"))
        learn, check = split_samples(samples, 0.05)
        random.Random(0).shuffle(learn)
        rows = rows_of(options.run / "train" / "student", learn, check, *how)
        parts.append(f"The student of {options.run.name}:\n\n" + table(head, rows))
    if options.text:
        tokenizer = load_tokenizer(str(ROOT / "recipes" / "quickstart" / "teacher"))
        samples = lines_of(options.text, tokenizer)
        if len(samples) < 1000:
            sys.exit(
                f"--text {options.text}: {len(samples)} lines of text in *.txt and *.tsv; a thousand are needed"
            )
        check, learn = samples[:200], samples[200:]
        with tempfile.TemporaryDirectory() as name:
            folder = options.student or Path(name)
            if not (folder / "config.json").is_file():
                trained(tokenizer, learn, options.train_steps).save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            what = f"A student of {num_parameters(folder) / 1e6:.1f} M parameters, trained by cross-entropy on {len(learn):,} lines"
            parts.append(f"{what}:\n\n" + table(head, rows_of(folder, learn, check, *how)))
    section = (
        f"{HEADING}\n\n`scripts/measure_recovery.py`; its first lines say how. {machine()}. NLL change and KL (to the model "
        f"before) in nats a token,\non held-out sequences. Peak learning rate: {options.learning_rate:g} of each tensor's rounding "
        "error.\n\n" + "\n\n".join(parts) + "\n"
    )
    print(section)
    if options.write:
        replace_section(options.write, section)


if __name__ == "__main__":
    main()
