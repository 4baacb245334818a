"""How many questions of a benchmark stand in the training data, in a prompt or in an answer."""

from collections.abc import Iterable

from distill.benchmarks.items import Questions
from distill.core.jsonl import Row
from distill.filters.contamination import EvalIndex
from distill.text.text import Text


def num_copied(of_each: list[Questions], samples: Iterable[Row]) -> list[int]:
    """Return how many items of each are copied. `samples`: with `prompt` and `answer`."""
    indices = [EvalIndex(item.question for item in questions.items) for questions in of_each]
    copied: list[set[int]] = [set() for _ in of_each]
    for sample in samples:
        for name in ("prompt", "answer"):
            text = Text(sample[name])
            for index, found in zip(indices, copied, strict=True):
                if (item := index.item_in(text)) is not None:
                    found.add(item)
    return [len(found) for found in copied]
