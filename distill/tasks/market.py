"""Shop and market problems in five languages, with short step-by-step answers: the quickstart's.

`examples` makes problems, `grade` checks an answer by its final line, `answer` writes a right
answer in one of many wordings: the quickstart's teacher is trained on those, so that its
distribution has something to teach. The languages' words are in market_wording.py.
"""

import random
import unicodedata
from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Any

from distill.core.digests import canonical_json, digest
from distill.recipe.sections import Generate
from distill.tasks import Grade, final_number
from distill.tasks.final_number import reference_problem as reference_problem
from distill.tasks.market_wording import WORDING, Wording

VERSION = 1
LANGUAGES = ("en", "zh", "sw", "id", "hi")
KINDS = ("total", "change", "profit", "stock", "share", "discount")
SPLITS = ("teacher", "facts", "prompts", "eval")


# NFKC makes the wide colon a plain one
FINALS = tuple(unicodedata.normalize("NFKC", w.final).strip() for w in WORDING.values())

# (left, operation, right, result)
Step = tuple[int, str, int, int]


@dataclass(frozen=True)
class Problem:
    """A question with the steps that solve it; the last step's result is the answer."""

    kind: str
    language: str
    prompt: str
    steps: tuple[Step, ...]

    @property
    def reference(self) -> str:
        """Return the right answer."""
        return str(self.steps[-1][3])

    def row(self) -> dict[str, str]:
        """Return the row of a file of prompts."""
        ident = digest("market", str(VERSION), self.prompt)[:16]
        return {
            "id": ident,
            "prompt": self.prompt,
            "language": self.language,
            "reference": self.reference,
            "kind": self.kind,
        }


def problem(rng: random.Random, language: str, kind: str) -> Problem:
    """Make a random problem; numbers are small, so that a tiny model can learn to reckon."""
    w = WORDING[language]
    name = rng.choice(w.names)
    g, h = rng.sample(w.goods, 2)
    a, b, p, q = (rng.randint(2, 9) for _ in range(4))
    m = 0
    if kind == "total":
        # every number of every step has at most two digits
        a = rng.randint(2, 5)
        b = rng.randint(2, 5)
        steps = ((a, "×", p, a * p), (b, "×", q, b * q), (a * p, "+", b * q, a * p + b * q))
    elif kind == "change":
        m = rng.choice([note for note in (20, 50, 100) if note > a * p])
        steps = ((a, "×", p, a * p), (m, "-", a * p, m - a * p))
    elif kind == "profit":
        p, q = sorted((p, q)) if p != q else (p, p + rng.randint(1, 4))
        steps = ((q, "-", p, q - p), (q - p, "×", a, (q - p) * a))
    elif kind == "stock":
        m = rng.randint(12, 60)
        steps = ((m, "-", a, m - a), (m - a, "+", b, m - a + b))
    elif kind == "discount":
        q = rng.randint(2, 9 if a * p > 9 else a * p - 1)
        steps = ((a, "×", p, a * p), (a * p, "-", q, a * p - q))
    else:
        m = a * q
        steps = ((m, "÷", a, q),)
    text = rng.choice(w.prompts[kind]).format(n=name, g=g, h=h, a=a, b=b, p=p, q=q, m=m)
    return Problem(kind, language, text[0].upper() + text[1:], steps)


def examples(
    num: int,
    seed: int,
    languages: tuple[str, ...] = LANGUAGES,
    *,
    splits: Collection[str] = SPLITS,
    without: Set[str] = frozenset(),
) -> list[dict[str, str]]:
    """Return rows of `problems`."""
    return [made.row() for made in problems(num, seed, languages, splits=splits, without=without)]


def problems(
    num: int,
    seed: int,
    languages: tuple[str, ...] = LANGUAGES,
    *,
    splits: Collection[str] = SPLITS,
    without: Set[str] = frozenset(),
) -> list[Problem]:
    """Make `num` different problems, taking turns over languages and kinds.

    They are of `splits` (see split_of) and not asked in `without`.
    """
    rng = random.Random(f"market/{VERSION}/{seed}")
    by_prompt: dict[str, Problem] = {}
    num_misses = 0
    while len(by_prompt) < num:
        language = languages[len(by_prompt) % len(languages)]
        kind = KINDS[len(by_prompt) // len(languages) % len(KINDS)]
        # a kind with few different problems runs dry: then any kind will do
        made = problem(rng, language, kind if num_misses < 200 else rng.choice(KINDS))
        num_misses += 1
        is_new = made.prompt not in by_prompt and made.prompt not in without
        if is_new and split_of(made) in splits:
            by_prompt[made.prompt] = made
            num_misses = 0
    return list(by_prompt.values())


def split_of(made: Problem) -> str:
    """Return `teacher` (84 %), `prompts` (10 %), `eval` (6 %) or `facts`.

    By a hash of the kind and the numbers: numbers of one split are in no other, in any language.
    Two exceptions, for a table with holes cannot be learnt: division has only 64 pairs of numbers
    and is held out by the question; and a difference such as 100-63 comes from one pair of factors
    alone, so half of the questions of `change` and `discount` that `prompts` and `eval` would have
    are `facts`, which may be learnt from.
    """
    key = made.prompt if made.kind == "share" else canonical_json(sorted(made.steps))
    bucket = _percent(made.kind, key)
    if bucket < 84:
        return "teacher"
    if made.kind in ("change", "discount") and _percent("facts", made.prompt) < 50:
        return "facts"
    return "prompts" if bucket < 94 else "eval"


def _percent(*parts: str) -> int:
    """Return 0 to 99, evenly, by a hash of the parts."""
    return int(digest("market split", *parts)[:8], 16) % 100


def answer(made: Problem, rng: random.Random) -> str:
    """Write a right answer in one of many wordings."""
    w = WORDING[made.language]
    steps = list(made.steps)
    if made.kind == "total" and rng.random() < 0.3:
        steps[0], steps[1] = steps[1], steps[0]
        left, _, right, result = steps[2]
        steps[2] = (right, "+", left, result)
    text = rng.choices(["", *w.openings], [0.6, 0.25, 0.15])[0]
    style = rng.choices(["×", "*", "words"], [0.55, 0.2, 0.25])[0]
    for number, step in enumerate(steps):
        text += rng.choices(w.then if number else w.first, [0.5, 0.3, 0.2])[0]
        text += _expression(w, step, style) + w.stop
    return text.strip() + "\n" + w.final + made.reference


def _expression(w: Wording, step: Step, style: str) -> str:
    left, operation, right, result = step
    if style == "words":
        parts = [str(left), w.operations[operation], str(right), w.operations["="], str(result)]
        return w.space.join(parts)
    symbol = {"×": "*", "÷": "/"}.get(operation, operation) if style == "*" else operation
    return f"{left}{symbol}{right}={result}"


def grader(options: Generate) -> Grade:
    """Return `grade`, which needs nothing of the machine."""
    return grade


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Return whether the last final line ("Answer: 57", "答案：57" ...) has the right number."""
    for line in reversed(answer_text.splitlines()):
        if unicodedata.normalize("NFKC", line).strip().startswith(FINALS):
            return final_number.grade(line, row)
    return False
