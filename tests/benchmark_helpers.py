"""Small benchmarks of our own, as their users would write them."""

import json
from pathlib import Path
from typing import Any

from distill.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
FRUIT = """
name: fruit
title: Fruit
kind: choices
licence: CC0-1.0
source: our own
fields: [text, one, two, right]
prompt: "{{ words.question }}: {{ text }}\\n{{ words.answer }}:"
choices: ["{{ one }}", "{{ two }}"]
answer: "{{ right }}"
question: "{{ text }}"
words:
  en: {question: Question, answer: Answer}
  sw: {question: Swali, answer: Jibu}
"""
FRUIT_ROWS = [
    {"text": "Which one is a fruit?", "one": "a mango", "two": "a hammer and a nail", "right": 0},
    {"text": "What is sold by the kilogram?", "one": "a song", "two": "rice", "right": "rice"},
    {"text": "What grows on a tree?", "one": "coconuts", "two": "salt", "right": "0"},
    {"text": "What does a cow give?", "one": "petrol", "two": "milk", "right": 1},
]
SUMS = """
name: sums
title: Sums
kind: number
licence: CC0-1.0
source: our own
fields: [question, answer]
prompt: "{{ question }}"
answer: "{{ answer }}"
chat: true
max_new_tokens: 24
"""
SUMS_ROWS = [{"question": f"How much is {n} + {n}?", "answer": 2 * n} for n in (1, 2, 3)]


def write(folder: Path, text: str, rows: list[dict[str, Any]], *languages: str) -> dict[str, Any]:
    """Write a benchmark and its rows, the same in each language; return how a recipe names it."""
    name = text.partition("name: ")[2].partition("\n")[0]
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    files = {}
    for language in languages:
        path = folder / f"{name}_{language}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files[language] = str(path)
    return {"name": str(folder / f"{name}.yaml"), "files": files}


def with_benchmarks(*uses: Any, more: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(RECIPE, [f"evaluate.benchmarks={json.dumps(list(uses))}", *more])
