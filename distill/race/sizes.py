"""How large a student will be that is not made yet: its tensors, its file, and what fits a budget.

The sizes are those of the file's tensors, each in the type that it will have there, so that a cut can
be chosen to fit. No weights are loaded.
"""

import bisect
import copy
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.formats import FORMATS, W16A16
from distill.models.families import EXPERTS, first_of
from distill.recipe.sections import Quantize, Student
from distill.shaping.layers import evenly_spaced, keep_values_by_layer

FOUR_BITS = ("q4_k_m", "q4_0", "iq4_nl")
LEAST_LAYERS = 2
WIDTH_STEP = 256  # the blocks of the k-quants
NUM_EXPERT_STEPS = 16
KEYS_BYTES = 4000  # of a file's keys beside its vocabulary
TENSOR_BYTES = 64  # what the header says of one tensor, with its name
ALIGNMENT = 32
_LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..*)")


def deployed_format(options: Quantize) -> str:
    """Return the format whose files are compared: the first 4-bit GGUF of the recipe's.

    Else its first GGUF of stock types, else the folder in 16 bits that is always written.
    """
    stock = [n for n in options.formats if not FORMATS[n].is_folder and n != "mixed"]
    four_bits = [name for name in stock if name in FOUR_BITS]
    return next(iter([*four_bits, *stock]), W16A16.name)


@dataclass(frozen=True)
class Budget:
    """What the student may have: bytes of its file, parameters, or both."""

    num_bytes: float
    parameters: float

    @classmethod
    def of(cls, student: Student) -> "Budget":
        megabytes = student.budget_mb or math.inf
        return cls(1e6 * megabytes, student.parameters or math.inf)

    def use(self, size: "Size") -> float:
        """Return how much of the budget is used: 1 is all of it."""
        return max(size.num_bytes / self.num_bytes, size.parameters / self.parameters)

    def __str__(self) -> str:
        limits = []
        if self.num_bytes < math.inf:
            limits.append(f"student.budget_mb {self.num_bytes / 1e6:g}")
        if self.parameters < math.inf:
            limits.append(f"student.parameters {self.parameters:,}")
        return " and ".join(limits)


@dataclass(frozen=True)
class Size:
    """A student's numbers, and the bytes of its file."""

    parameters: int
    num_bytes: int
    layers: int
    hidden: int
    vocabulary: int

    def __str__(self) -> str:
        megabytes = self.num_bytes / 1e6
        return f"{megabytes:,.{1 if megabytes >= 10 else 3}f} MB, {self.parameters:,} parameters"


@dataclass(frozen=True)
class Outline:
    """A student's tensors before there is one.

    `config`: transformers' config of the language model. `shapes`: by transformers' names; a tied
    head is not among them. `vocabulary_bytes`: of the tokenizer in a file.
    """

    config: Any
    shapes: Mapping[str, tuple[int, ...]]
    vocabulary_bytes: int

    @classmethod
    def of(cls, config: Any, tokenizer: Path) -> "Outline":
        """Return the outline of a config. `tokenizer`: a folder with its tokenizer.json."""
        config = copy.deepcopy(config.get_text_config())
        return cls(config, _shapes(config), vocabulary_bytes(tokenizer))

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        """Return the width of the feed-forward."""
        return self.config.intermediate_size

    @property
    def num_experts(self) -> int:
        """Return the experts of a layer; 0 of a dense model."""
        return first_of(self.config.to_dict(), EXPERTS)

    def with_layers(self, num_kept: int) -> "Outline":
        """Return it with so many layers, evenly spaced: in most families all are alike."""
        kept = evenly_spaced(self.num_layers, num_kept / self.num_layers)
        numbers = {old: new for new, old in enumerate(kept)}
        shapes = {}
        for name, shape in self.shapes.items():
            found = _LAYER.fullmatch(name)
            if found is None:
                shapes[name] = shape
            elif int(found[2]) in numbers:
                shapes[f"{found[1]}{numbers[int(found[2])]}{found[3]}"] = shape
        config = copy.deepcopy(self.config)
        keep_values_by_layer(config, kept)
        return replace(self, config=config, shapes=shapes)

    def with_width(self, width: int) -> "Outline":
        """Return it with another width of the feed-forward."""
        config = copy.deepcopy(self.config)
        config.intermediate_size = width
        return replace(self, config=config, shapes=_shapes(config))

    def with_experts(self, num_kept: int) -> "Outline":
        """Return a mixture with fewer experts a layer."""
        config = copy.deepcopy(self.config)
        name = next(name for name in EXPERTS if getattr(config, name, None))
        setattr(config, name, num_kept)
        config.num_experts_per_tok = min(config.num_experts_per_tok, num_kept)
        return replace(self, config=config, shapes=_shapes(config))

    def with_vocabulary(self, tokenizer: Path, num_ids: int) -> "Outline":
        """Return it with the tokens of another tokenizer, in the folder `tokenizer`."""
        tables = ("model.embed_tokens.weight", "lm_head.weight")
        shapes = {
            name: (num_ids, *shape[1:]) if name in tables else shape
            for name, shape in self.shapes.items()
        }
        config = copy.deepcopy(self.config)
        config.vocab_size, config.pad_token_id = num_ids, None  # its id there is another
        return Outline(config, shapes, vocabulary_bytes(tokenizer))

    def size(self, format_name: str) -> Size:
        """Return its size in a format. Raises MismatchError where it has no place in the format."""
        config = self.config
        parameters = sum(math.prod(shape) for shape in self.shapes.values())
        if FORMATS[format_name].is_folder:
            num_bytes = round(parameters * FORMATS[format_name].bytes_per_weight)
        else:
            tensors = _tensor_bytes(self, format_name)
            num_bytes = KEYS_BYTES + self.vocabulary_bytes + TENSOR_BYTES * len(self.shapes)
            num_bytes += sum(-(-n // ALIGNMENT) * ALIGNMENT for n in tensors)
        return Size(parameters, num_bytes, self.num_layers, config.hidden_size, config.vocab_size)


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors by its config, and note its class there."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes


def _tensor_bytes(outline: Outline, format_name: str) -> Iterator[int]:
    """Yield the bytes of each tensor in a GGUF file of this format."""
    from gguf import GGML_QUANT_SIZES

    from distill.formats.gguf.tensors import planned_tensors
    from distill.formats.gguf.weights import PlannedWeights

    weights = PlannedWeights(outline.shapes)
    for tensor in planned_tensors(outline.config, weights, format_name, {}):
        block, num_bytes = GGML_QUANT_SIZES[tensor.type]
        yield math.prod(tensor.shape) * num_bytes // block


def vocabulary_bytes(folder: Path) -> int:
    """Return what a GGUF file holds of a tokenizer: its tokens, their types, its merges."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return 0
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    tokens = model["vocab"] if isinstance(model["vocab"], dict) else [t for t, _ in model["vocab"]]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])]
    texts = [*tokens, *merges]
    return sum(8 + len(text.encode("utf-8")) for text in texts) + 4 * len(tokens)


Fits = Callable[[Outline], bool]  # whether a student may be so large


def most_layers(outline: Outline, fits: Fits) -> int | None:
    """Return the most layers that fit, fewer than there are; None where none do."""
    for num_kept in range(outline.num_layers - 1, LEAST_LAYERS - 1, -1):
        if fits(outline.with_layers(num_kept)):
            return num_kept
    return None


def widest(outline: Outline, fits: Fits) -> int | None:
    """Return the widest feed-forward that fits, narrower than it is, in steps; None where none does."""
    widths = range(WIDTH_STEP, outline.width, WIDTH_STEP)
    num_fit = bisect.bisect_left(widths, True, key=lambda n: not fits(outline.with_width(n)))
    return widths[num_fit - 1] if num_fit else None


def expert_counts(outline: Outline) -> list[int]:
    """Return how many experts a layer of a mixture may be cut to, ascending.

    Sixteenths of them, so that they share out evenly over processors; no fewer than a token goes to,
    and as many of each of the router's groups, two at least.
    """
    config = outline.config
    groups = getattr(config, "n_group", None) or 1
    step = math.lcm(groups, max(1, outline.num_experts // NUM_EXPERT_STEPS))
    least = max(config.num_experts_per_tok, 2 * groups if groups > 1 else 1)
    return [count for count in range(step, outline.num_experts, step) if count >= least]


def most_experts(outline: Outline, fits: Fits) -> int | None:
    """Return the most experts a layer that fit, fewer than there are; None where none do."""
    counts = expert_counts(outline)
    num_fit = bisect.bisect_left(counts, True, key=lambda n: not fits(outline.with_experts(n)))
    return counts[num_fit - 1] if num_fit else None
