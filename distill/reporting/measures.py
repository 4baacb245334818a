"""The figures by which two models are compared on the same prompts, and how a difference is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.core.intervals import paired_bootstrap, wilson
from distill.core.results import Difference
from distill.evaluation.stored import read_figures

Example = Mapping[str, Any]  # a row of evaluate/<model>.json


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure by which models are compared: of a model's row, and of its examples.

    `heading` is a table's, `short` an axis', `unit` that of a difference. `size`: what the nats of an
    example are shared over.
    """

    key: str
    heading: str
    unit: str
    short: str
    scale: int
    decimals: int
    more_is_better: bool
    size: str | None = None

    def tell(self, value: float, sign: str = "+") -> str:
        return f"{value * self.scale:{sign}.{self.decimals}f}"

    def tell_difference(self, found: Difference) -> str:
        """Return it with its interval: `+5.7 [+2.0, +9.3]`."""
        return self.tell_within(found.difference, (found.low, found.high), "+")

    def tell_within(self, value: float, interval: Sequence[float], sign: str = "") -> str:
        """Return a value with its interval: `90.3 [86.5, 93.2]`."""
        low, high = (self.tell(end, sign) for end in interval)
        return f"{self.tell(value, sign)} [{low}, {high}]"

    def weighed(self, example: Example) -> tuple[float, float] | None:
        """Return (what the example adds, its weight); None where it was not measured."""
        if self.size is None:
            return None if example["right"] is None else (float(example["right"]), 1.0)
        nats, size = example["nll"], example[self.size]
        return None if nats is None or not size else (float(nats), float(size))


EXACT_MATCH = Measure(
    key="exact_match",
    heading="exact match %",
    unit="points of exact match",
    short="exact match, %",
    scale=100,
    decimals=1,
    more_is_better=True,
)
NLL = Measure(
    key="nll",
    heading="NLL",
    unit="nats a token of NLL",
    short="NLL, nats a token",
    scale=1,
    decimals=4,
    more_is_better=False,
    size="num_tokens",
)
NLL_PER_BYTE = Measure(
    key="nll_per_byte",
    heading="NLL/byte",
    unit="nats a byte of NLL",
    short="NLL, nats a byte",
    scale=1,
    decimals=5,
    more_is_better=False,
    size="num_bytes",
)
MEASURES = (EXACT_MATCH, NLL, NLL_PER_BYTE)
# shares of other questions than the held-out prompts: of benchmarks, and of requests of safety sets
ACCURACY = replace(EXACT_MATCH, unit="points of accuracy", short="accuracy, %")
POINTS = replace(EXACT_MATCH, unit="points", short="share, %", decimals=0)


def read_examples_of(stage: Path, models: Sequence[str]) -> dict[str, list[Example]]:
    """Return the examples of each model, from the folder of `evaluate`."""
    return {model: read_figures(stage / f"{model}.json")["examples"] for model in models}


def mean(examples: Sequence[Example], measure: Measure) -> float | None:
    """Return the measure over these examples; None where none of them has it."""
    found = [pair for example in examples if (pair := measure.weighed(example)) is not None]
    if not found:
        return None
    return sum(value for value, _ in found) / sum(weight for _, weight in found)


def share_interval(examples: Sequence[Example]) -> tuple[float, float] | None:
    """Return Wilson's 95 % interval of the exact match; None where no task checks."""
    rights = [bool(example["right"]) for example in examples if example["right"] is not None]
    return wilson(sum(rights), len(rights)) if rights else None


def paired(
    mine: Sequence[Example], others: Sequence[Example], measure: Measure
) -> Difference | None:
    """Return mine minus others' with its 95 % interval, over the prompts that both have.

    NLL is compared only where both were scored on an answer of the same size. None where nothing can
    be compared.
    """
    by_prompt = {key_of(example): example for example in others}
    pairs = []
    for example in mine:
        other = by_prompt.get(key_of(example))
        difference = None if other is None else _difference(example, other, measure)
        if difference is not None:
            pairs.append(difference)
    if not pairs:
        return None
    found = paired_bootstrap(pairs, seed=0)
    return Difference(found["difference"], found["low"], found["high"])


def _difference(mine: Example, other: Example, measure: Measure) -> tuple[float, float] | None:
    """Return (difference, weight) of one prompt, or None where one of the two has no figure."""
    first, second = measure.weighed(mine), measure.weighed(other)
    if first is None or second is None or first[1] != second[1]:
        return None
    return first[0] - second[0], first[1]


def key_of(example: Example) -> tuple[str, str]:
    """Return what tells a prompt from others: its language and its text."""
    return example["language"], example["prompt"]


def of_language(examples: Sequence[Example], language: str) -> list[Example]:
    return [example for example in examples if example["language"] == language]


def languages_of(examples: Sequence[Example]) -> list[str]:
    """Return the languages of the prompts, in their order."""
    return list(dict.fromkeys(example["language"] for example in examples))
