"""A folder for transformers, loaded in a process of its own, where its memory is its own and its speed that of a fresh start.

python -m distill.formats.measure nf4 FOLDER --num-threads 2    # prints a line of JSON
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.core.subprocesses import environment, peak_memory
from distill.errors import DataError
from distill.llama_cpp.model import NUM_NEW_TOKENS, NUM_PROMPT_TOKENS, Speed
from distill.recipe.sections import BITSANDBYTES, W16A16


@dataclass(frozen=True)
class Measured:
    """Tokens a second of one sequence, read and written; bytes that the process held at most, Python and torch included (on a
    GPU: what torch held there), None without /proc."""

    prefill: float
    decode: float
    peak_memory: int | None


def load(name: str, place: Path) -> Any:
    """The model in the folder of this format, ready to run."""
    if name in BITSANDBYTES:
        from distill.formats.bitsandbytes import load_bnb

        return load_bnb(place)
    if name == W16A16:
        from distill.formats.w16a16 import load_w16a16

        return load_w16a16(place)
    from distill.formats.w4a16 import load_w4a16

    return load_w4a16(place)


def measure(name: str, place: Path) -> Measured:
    """Load it elsewhere and time it, with as many threads as torch has here. DataError where that process fails."""
    import torch

    words = [name, str(place.absolute()), "--num-threads", str(torch.get_num_threads())]
    found = subprocess.run(  # -P: the working folder may hold files named like modules
        [sys.executable, "-P", "-m", "distill.formats.measure", *words],
        env=environment(),
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )
    if found.returncode:
        said = found.stderr.strip().splitlines() or ["it said nothing"]
        raise DataError(
            f"{place}: a process that loaded it ended with status {found.returncode}: {said[-1]}"
        )
    return Measured(**json.loads(found.stdout.splitlines()[-1]))


def speed(model: Any) -> Speed:
    """Of one sequence of arbitrary tokens after a warm-up: what `LlamaModel.speed` measures for a GGUF file."""
    import torch

    ids_1T = (
        torch.arange(NUM_PROMPT_TOKENS, device=model.device)[None]
        % model.config.get_text_config().vocab_size
    )
    with torch.no_grad():
        model(input_ids=ids_1T[:, :8])
        start = time.perf_counter()
        said = model(input_ids=ids_1T, use_cache=True, logits_to_keep=1)
        token_11 = said.logits[:, -1:].argmax(-1)
        int(token_11)  # waits for a GPU
        middle = time.perf_counter()
        for _ in range(NUM_NEW_TOKENS):
            said = model(input_ids=token_11, past_key_values=said.past_key_values, use_cache=True)
            token_11 = said.logits[:, -1:].argmax(-1)
        int(token_11)
        end = time.perf_counter()
    return Speed(NUM_PROMPT_TOKENS / (middle - start), NUM_NEW_TOKENS / (end - middle))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-threads", type=int, required=True)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.num_threads)
    model = load(options.name, options.folder)
    found = speed(model)
    memory = (
        torch.cuda.max_memory_allocated() if model.device.type == "cuda" else peak_memory("self")
    )
    print(json.dumps(asdict(Measured(found.prefill, found.decode, memory))))


if __name__ == "__main__":
    main()
