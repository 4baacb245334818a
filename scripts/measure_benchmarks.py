#!/usr/bin/env python3
"""Time and memory of a benchmark beside lm-evaluation-harness.

    python scripts/measure_benchmarks.py FOLDER --rows en=eng_Latn_test.tsv --num 20 --rounds 3             # needs .[agreement]
    python scripts/measure_benchmarks.py FOLDER --rows en=eng_Latn_test.tsv --num 20 --rounds 3 --letters
    python scripts/measure_benchmarks.py FOLDER --rows en=eng_Latn_test.tsv --num 20 --rounds 3 --shots eng_Latn_dev.tsv --few-shot 5

FOLDER is a model as transformers saves it, the rows are SIB-200's. Both score the same rows by the same
templates in float32 on the CPU, in turns, each time in a process of its own: the CPU seconds of tokenizing and
scoring, without imports and loading, and the peak memory of the process. The log-likelihoods must be the
same. With `--letters` the topics stand in the question, and the choices are letters of one token, for which the
harness reads the context once, too. With `--few-shot` so many of the rows of `--shots` stand before each question.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import yaml

from distill.benchmarks.answering import InTransformers, Model, opened
from distill.benchmarks.asking import ask
from distill.benchmarks.definition import shipped
from distill.benchmarks.items import Questions
from distill.benchmarks.reading import read_all
from distill.models import load
from distill.recipe import load_recipe

NAME = "sib200"
TOLERANCE = 1e-3  # nats
HARNESS_BATCH = 8
BATCH_TOKENS = 16384  # as a recipe has it


def definition(folder: Path, *, letters: bool) -> str:
    """Return what a recipe calls SIB-200, or the file of it with letters as choices."""
    if not letters:
        return NAME
    values = shipped(NAME).model_dump(mode="json", exclude_defaults=True)
    topics = values["choices"]
    marks = [chr(ord("A") + i) for i in range(len(topics))]
    listed = "".join(f"\n{mark}. {topic}" for mark, topic in zip(marks, topics, strict=True))
    values |= {
        "name": f"{NAME}_letters",
        "prompt": f"Text: {{{{ text }}}}\nTopic:{listed}\nAnswer:",
        "choices": marks,
        "answer": f"{{{{ {topics}.index(category) }}}}",
    }
    path = folder / f"{NAME}_letters.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return str(path)


def questions_of(name: str, options: argparse.Namespace) -> Questions:
    """Return the questions of the language, at most `--num`."""
    language, path = options.rows.split("=", 1)
    use = {"name": name, "files": {language: str(Path(path).resolve())}}
    use |= {"num_examples": options.num, "few_shot": options.few_shot}
    if options.shots:
        use |= {"shots": {language: str(options.shots.resolve())}}
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    return read_all(load_recipe(quickstart, [f"evaluate.benchmarks={json.dumps([use])}"]))[0]


def loaded(folder: Path) -> tuple[Model, InTransformers]:
    """Return a folder as a model to ask, and what answers for it."""
    tokenizer = load.load_tokenizer(str(folder))
    network = load.load_model(str(folder), load.placement("cpu", "float32"))
    answerer = InTransformers(network, tokenizer, BATCH_TOKENS)
    longest = network.config.max_position_embeddings
    opening = opened(lambda: answerer)
    return Model("model", "", tokenizer, longest, [], None, None, opening), answerer


def score_here(folder: Path, questions: Questions) -> tuple[float, list[list[float]]]:
    """Return the seconds and the log-likelihoods of each question."""
    model, answerer = loaded(folder)
    started = time.process_time()
    rows = ask(model, answerer, questions, lambda _: None)
    return time.process_time() - started, [row["log_likelihoods"] for row in rows]


def score_in_harness(folder: Path, questions: Questions) -> tuple[float, list[list[float]]]:
    """Do the same in lm-evaluation-harness, whose own requests are made of our questions' texts."""
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    model = HFLM(str(folder), dtype="float32", device="cpu", batch_size=HARNESS_BATCH)
    delimiter = questions.benchmark.delimiter
    requests = [
        Instance("loglikelihood", {}, (item.context, delimiter + choice), number)
        for item in questions.items
        for number, choice in enumerate(item.choices)
    ]
    started = time.process_time()
    answers = [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)]
    seconds = time.process_time() - started
    width = len(questions.items[0].choices)
    return seconds, [answers[i : i + width] for i in range(0, len(answers), width)]


def side(options: argparse.Namespace) -> None:
    """Score on one side, in this process, and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        name = definition(Path(folder), letters=options.letters)
        questions = questions_of(name, options)
    score = {"distill": score_here, "harness": score_in_harness}[options.side]
    seconds, values = score(options.folder, questions)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "values": values}))


def in_turns(options: argparse.Namespace) -> None:
    """Measure both sides in turns and print each round, the medians and their ratio."""
    found: dict[str, list[dict[str, Any]]] = {"distill": [], "harness": []}
    for number in range(options.rounds):
        for name, of_side in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            of_side.append(json.loads(done.stdout.splitlines()[-1]))
            last = of_side[-1]
            told = f"{last['seconds']:.1f} s, {last['peak_mb']:,.0f} MB"
            print(f"round {number + 1}: {name} {told}", flush=True)
    check_equal(found["distill"][0]["values"], found["harness"][0]["values"])
    seconds, peaks = (
        {name: statistics.median(one[key] for one in of) for name, of in found.items()}
        for key in ("seconds", "peak_mb")
    )
    print(
        f"{len(found['distill'][0]['values'])} questions, medians: distill {seconds['distill']:.1f} s, "
        f"{peaks['distill']:,.0f} MB; harness {seconds['harness']:.1f} s, {peaks['harness']:,.0f} MB; "
        f"{seconds['harness'] / seconds['distill']:.2f} times as fast"
    )


def check_equal(mine: list[list[float]], theirs: list[list[float]]) -> None:
    for number, (here, there) in enumerate(zip(mine, theirs, strict=True)):
        gap = max(abs(a - b) for a, b in zip(here, there, strict=True))
        if gap > TOLERANCE:
            raise SystemExit(f"question {number}: log-likelihoods differ by {gap:.4f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", required=True, metavar="LANGUAGE=FILE")
    parser.add_argument("--num", type=int, help="at most so many questions of a language")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--letters", action="store_true")
    parser.add_argument("--shots", type=Path, metavar="FILE")
    parser.add_argument("--few-shot", type=int, default=0, metavar="N")
    parser.add_argument("--side", choices=["distill", "harness"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options)
    else:
        in_turns(options)


if __name__ == "__main__":
    main()
