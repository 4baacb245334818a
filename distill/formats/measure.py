"""Load a folder for transformers in a process of its own, and measure its memory and speed.

There its memory is its own and its speed that of a fresh start.

python -m distill.formats.measure distill.formats.bitsandbytes:load_bnb FOLDER --num-threads 2

prints a line of JSON.
"""

import argparse
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.core.subprocesses import environment, peak_memory
from distill.errors import DataError
from distill.llama_cpp.model import NUM_NEW_TOKENS, NUM_PROMPT_TOKENS, Speed


@dataclass(frozen=True)
class Measured:
    """Speed and memory of one file.

    Tokens a second of one sequence, read and written; bytes that the process held at most, Python
    and the runtime included (on a GPU: what torch held there), None without /proc.
    """

    prefill: float
    decode: float
    peak_memory: int | None


def measure(load: Callable[[Path], Any], path: Path) -> Measured:
    """Load `path` elsewhere and time it, with as many threads as torch has here, on the same GPU.

    `load`: a function that can be imported. Raises DataError if that process fails.
    """
    import torch

    function = f"{load.__module__}:{load.__qualname__}"
    words = [function, str(path.absolute()), "--num-threads", str(torch.get_num_threads())]
    if torch.cuda.is_available():
        words += ["--gpu", str(torch.cuda.current_device())]
    done = subprocess.run(  # -P: the working folder may hold files named like modules
        [sys.executable, "-P", "-m", "distill.formats.measure", *words],
        env=environment(),
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise DataError(
            f"{path}: a process that loaded it ended with status {done.returncode}: {lines[-1]}"
        )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def speed(model: Any) -> Speed:
    """Time one sequence of arbitrary tokens after a warm-up, as `LlamaModel.speed` does."""
    import torch

    vocab_size = model.config.get_text_config().vocab_size
    ids_1T = torch.arange(NUM_PROMPT_TOKENS, device=model.device)[None] % vocab_size
    with torch.no_grad():
        model(input_ids=ids_1T[:, :8])
        start = time.perf_counter()
        output = model(input_ids=ids_1T, use_cache=True, logits_to_keep=1)
        token_11 = output.logits[:, -1:].argmax(-1)
        int(token_11)  # waits for a GPU
        middle = time.perf_counter()
        for _ in range(NUM_NEW_TOKENS):
            cache = output.past_key_values
            output = model(input_ids=token_11, past_key_values=cache, use_cache=True)
            token_11 = output.logits[:, -1:].argmax(-1)
        int(token_11)
        end = time.perf_counter()
    return Speed(NUM_PROMPT_TOKENS / (middle - start), NUM_NEW_TOKENS / (end - middle))


def main() -> None:
    """Measure the folder of the command line and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("load", type=pkgutil.resolve_name)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--gpu", type=int, default=0)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.num_threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(options.gpu)
    model = options.load(options.folder)
    timed = speed(model)
    memory = peak_memory("self")
    if model.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    print(json.dumps(asdict(Measured(timed.prefill, timed.decode, memory))))


if __name__ == "__main__":
    main()
