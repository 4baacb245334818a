#!/usr/bin/env python3
"""Make the prompts of recipes/smollm2_laptop.yaml from the subjects beside them.

    python scripts/build_laptop_prompts.py              # writes prompts.jsonl and held_out.jsonl
    python scripts/build_laptop_prompts.py subjects.yaml OUT    # of your own subjects, into OUT

Each subject is asked about once; the wordings of its kind take turns. The same file gives the same
prompts. The kinds are mixed, so that the first hundred prompts hold all of them.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "smollm2_laptop"
# the file's name: the keys of a kind that say what is asked there, and about which texts
FILES = {"prompts.jsonl": ("about", "texts"), "held_out.jsonl": ("held_out", "held_texts")}
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subjects", type=Path, nargs="?", default=FOLDER / "subjects.yaml")
    parser.add_argument("out", type=Path, nargs="?", default=FOLDER, help="an existing folder")
    arguments = parser.parse_args()
    for name, content in build(arguments.subjects.read_text(encoding="utf-8")).items():
        (arguments.out / name).write_text(content, encoding="utf-8")
        print(f"{arguments.out / name}: {content.count(chr(10))} prompts")


def build(subjects: str) -> dict[str, str]:
    """Return the content of each of FILES, one prompt a line. `subjects`: the YAML file's text."""
    kinds: dict[str, dict[str, Any]] = yaml.safe_load(subjects)
    made = {}
    for name, (about, texts) in FILES.items():
        rows = [
            {"prompt": prompt, "language": "en", "kind": kind}
            for kind, asked in kinds.items()
            for prompt in _prompts(asked["ask"], asked[about], asked.get(texts))
        ]
        random.Random(SEED).shuffle(rows)
        made[name] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return made


def _prompts(wordings: list[str], subjects: list[str], texts: list[str] | None) -> Iterator[str]:
    """Yield a prompt for each subject; with `texts` the subjects are questions, one about each."""
    for number, subject in enumerate(subjects):
        wording = wordings[number % len(wordings)]
        if texts is None:
            yield wording.format(subject)
        else:
            yield wording.format(text=texts[number], question=subject)


if __name__ == "__main__":
    main()
