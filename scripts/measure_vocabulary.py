#!/usr/bin/env python3
"""How many of a tokenizer's tokens some languages need, and what a model without the others weighs and how fast it decodes.

    python scripts/measure_vocabulary.py TOKENIZER --counted en=en.txt sw=sw.txt --judged en=en2.txt sw=sw2.txt --pairs en+sw
    python scripts/measure_vocabulary.py TOKENIZER ... --speed 0.6b 1.7b-14 --ids 49152    # writes the files and times them

TOKENIZER is a folder as transformers saves it. A file holds a text a line. Tokens are counted in the texts of `--counted` and taken
away by distill's own trimming (distill/shaping). Two numbers of tokens are told for each share by which the texts of the worse
language may grow: the one at which student.vocabulary.max_fertility_loss stops, which judges by the counted texts themselves, and
the fewest with which the texts of `--judged`, which nobody counted, grow by no more.

A model's parameters and the bytes of its q4_k_m file are reckoned from its shape, as `distill shape` does. With `--speed` the shapes
named are written with random weights, with all tokens and with `--ids` of them counted for the first pair, and decode in turns.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from benchmark_sections import machine, table
from transformers import Qwen3Config, Qwen3ForCausalLM

from distill.core.progress import Progress
from distill.deploy import bandwidth, speed
from distill.formats.gguf.write import write_gguf
from distill.models.load import load_tokenizer, quiet
from distill.race.sizes import Outline
from distill.recipe import Recipe, load_recipe
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.corpus import Corpus, count_tokens, num_tokens
from distill.shaping.pruning import MULTIPLE, Limits, prune
from distill.shaping.required import required_ids
from distill.shaping.rewrite import trimmed_tokenizer
from distill.shaping.trimmed import TrimmedVocabulary

FORMAT = "q4_k_m"
STEP = 4 * MULTIPLE  # how exactly the fewest tokens are searched for
SMALL = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
LARGE = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
SHAPES = {  # of Qwen3, and of students cut from it
    "0.6b": SMALL,
    "1.7b": LARGE,
    "1.7b-19": {**LARGE, "num_hidden_layers": 19},  # recipes/qwen_to_1b.yaml
    "1.7b-14": {**LARGE, "num_hidden_layers": 14},
}
ROWS = 151_936  # of their tables


@dataclass(frozen=True)
class Texts:
    """The texts of some languages, by language: those that are counted, and those that are judged by."""

    counted: dict[str, list[str]]
    judged: dict[str, list[str]]


class Trimmer:
    """Trims a tokenizer to a number of tokens, or to a limit, by the texts of some languages."""

    def __init__(self, folder: Path, recipe: Recipe, texts: Texts):
        self.parent = load_tokenizer(str(folder))
        self.vocabulary = BpeVocabulary.of(self.parent)
        self.counted, self.judged = Corpus(recipe, texts.counted), Corpus(recipe, texts.judged)
        with _silent() as bar:
            rows = self.vocabulary.num_rows
            self.counts_VL = count_tokens(self.parent, self.counted, rows, bar).counts_VL
            self.before = num_tokens(self.parent, self.judged, bar)
        self.required = required_ids(recipe, self.parent, self.vocabulary)
        self.judged_loss = cache(self._judged_loss)

    def to_limit(self, max_loss: float) -> int:
        """Return how many tokens `max_fertility_loss` keeps."""
        return len(self._kept(Limits(None, max_loss)))

    def to_size(self, num_ids: int) -> TrimmedVocabulary:
        return trimmed_tokenizer(self.parent, self.vocabulary, self._kept(Limits(num_ids, None)))

    def _judged_loss(self, num_ids: int) -> float:
        """Return the share by which the judged texts of the worse language grow with so many tokens."""
        with _silent() as bar:
            after = num_tokens(self.to_size(num_ids).tokenizer, self.judged, bar)
        return max(a / b - 1 for a, b in zip(after, self.before, strict=True))

    def fewest(self, max_loss: float) -> int:
        """Return the fewest tokens, in steps, with which the judged texts grow by no more."""
        most = len(self.vocabulary.tokens)
        low, high = len(self.required) // STEP, -(-most // STEP)
        while low + 1 < high:
            middle = (low + high) // 2
            if self.judged_loss(middle * STEP) <= max_loss:
                high = middle
            else:
                low = middle
        return min(high * STEP, most)

    def _kept(self, limits: Limits) -> list[int]:
        return prune(self.vocabulary, self.counts_VL, self.required, limits).kept


def _silent() -> Progress:
    return Progress("", 1, "", shown=False)


def recipe_of(folder: Path, languages: Sequence[str], work: Path) -> Recipe:
    """Return a recipe whose student is trimmed for these languages."""
    path = work / "recipe.yaml"
    path.write_text(
        f"name: vocabulary\nlanguages: [{', '.join(languages)}]\n"
        f"teacher: {{model: {folder}}}\n"
        f"student: {{method: base, model: {folder}, vocabulary: {{max_fertility_loss: 0.01}}}}\n"
        "generate: {prompts: none.jsonl}\n"
    )
    return load_recipe(path)


def config_of(shape: str, num_ids: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=num_ids,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **SHAPES[shape],
    )


def write_file(shape: str, tokenizer: Any, num_ids: int, folder: Path) -> Path:
    """Write a model of this shape with random weights as a file below `folder`."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen3ForCausalLM(config_of(shape, num_ids))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    path = folder / f"{FORMAT}.gguf"
    write_gguf(folder, path, FORMAT)
    (folder / "model.safetensors").unlink()
    return path


def decode_in_turns(paths: Sequence[Path], rounds: int, num_threads: int) -> list[list[float]]:
    """Return the tokens a second of each file in each round, a list a file."""
    read = bandwidth.read_bandwidth(num_threads)
    found: list[list[float]] = [[] for _ in paths]
    for _ in range(rounds):
        for path, speeds in zip(paths, found, strict=True):
            speeds.append(speed.measure(path, FORMAT, num_threads, read).decode)
    return found


def pair_rows(
    pair: str, trimmer: Trimmer, losses: Sequence[float], sizes: Sequence[int]
) -> list[list[str]]:
    """Return the lines of a pair of languages: one for each loss, and one for each size."""
    rows = []
    for loss in losses:
        limit, fewest = trimmer.to_limit(loss), trimmer.fewest(loss)
        judged = f"{trimmer.judged_loss(limit):.1%}"
        rows.append([pair, f"{loss:.0%}", f"{limit:,}", judged, f"{fewest:,}"])
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    for size in sizes:
        rows.append([pair, "", f"{size:,}", f"{trimmer.judged_loss(size):.1%}", ""])
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def size_rows(trimmer: Trimmer, sizes: Sequence[int]) -> list[list[str]]:
    """Return a line for each shape and number of tokens: parameters, megabytes."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        trimmer.parent.save_pretrained(name)
        wholes = {shape: Outline.of(config_of(shape, ROWS), Path(name)) for shape in SHAPES}
        for num_ids in [ROWS, *sizes]:
            if num_ids != ROWS:
                trimmer.to_size(num_ids).tokenizer.save_pretrained(name)
            for shape, whole in wholes.items():
                outline = whole.with_vocabulary(Path(name), num_ids)
                size, before = outline.size(FORMAT), whole.size(FORMAT)
                row = [shape, f"{num_ids:,}", f"{size.parameters / 1e6:,.0f}"]
                rows.append(
                    [
                        *row,
                        f"{size.num_bytes / 1e6:,.0f}",
                        f"{size.num_bytes / before.num_bytes:.0%}",
                    ]
                )
    return sorted(rows, key=lambda row: list(SHAPES).index(row[0]))


def speed_rows(
    shapes: Sequence[str], trimmer: Trimmer, sizes: Sequence[int], rounds: int, num_threads: int
) -> list[list[str]]:
    """Return a line for each shape and number of tokens: the file written, and how fast it decodes."""
    rows = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as name:
            paths = []
            for num_ids in [ROWS, *sizes]:
                tokenizer = (
                    trimmer.parent if num_ids == ROWS else trimmer.to_size(num_ids).tokenizer
                )
                paths.append(write_file(shape, tokenizer, num_ids, Path(name) / str(num_ids)))
            found = decode_in_turns(paths, rounds, num_threads)
            for num_ids, path, speeds in zip([ROWS, *sizes], paths, found, strict=True):
                ratios = [a / b for a, b in zip(speeds, found[0], strict=True)]
                row = [shape, f"{num_ids:,}", f"{path.stat().st_size / 1e6:,.0f}"]
                row.append(f"{statistics.median(speeds):.1f}")
                row.append(
                    f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
                )
                rows.append(row)
                print(" ".join(row), file=sys.stderr, flush=True)
    return rows


def texts_of(named: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of the files named as language=file."""
    texts = {}
    for word in named:
        language, _, path = word.partition("=")
        texts[language] = [line for line in Path(path).read_text("utf-8").splitlines() if line]
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--counted", nargs="+", required=True, metavar="LANGUAGE=FILE")
    parser.add_argument("--judged", nargs="+", required=True, metavar="LANGUAGE=FILE")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="LANGUAGE+LANGUAGE")
    parser.add_argument("--losses", nargs="*", type=float, default=[0.0, 0.01, 0.03])
    parser.add_argument("--ids", nargs="*", type=int, default=[49_152, 32_768])
    parser.add_argument("--speed", nargs="*", choices=SHAPES, default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    quiet()
    counted, judged = texts_of(options.counted), texts_of(options.judged)
    rows, first = [], None
    with tempfile.TemporaryDirectory() as name:
        for pair in options.pairs:
            languages = pair.split("+")
            recipe = recipe_of(options.tokenizer.resolve(), languages, Path(name))
            texts = Texts({k: counted[k] for k in languages}, {k: judged[k] for k in languages})
            trimmer = Trimmer(options.tokenizer, recipe, texts)
            rows += pair_rows(pair, trimmer, options.losses, options.ids)
            first = first or trimmer
    assert first is not None  # there is a pair
    print(machine())
    head = ["languages", "loss at most", "tokens by the counted texts", "then lost by the judged"]
    print(table([*head, "tokens by the judged"], rows))
    head = ["shape", "tokens", "million parameters", f"MB of {FORMAT}", "of the whole"]
    print(table(head, size_rows(first, options.ids)))
    if options.speed:
        head = ["shape", "tokens", "MB written", "decode, tokens/s", "of the whole, in turns"]
        print(
            table(
                head, speed_rows(options.speed, first, options.ids, options.rounds, options.threads)
            )
        )


if __name__ == "__main__":
    main()
