"""The same choice on every example as lm-evaluation-harness, on the same folder, task and rows.

Its own tasks of Belebele, XCOPA and XStoryCloze with their templates, on rows of the quickstart's
problems in the form of those data sets, against the files that ship with distill; and SIB-200's own
rows by one template in both.
"""

import json
from pathlib import Path

import pytest
from benchmark_helpers import RECIPE, with_benchmarks
from run_helpers import SHARED_DATA

from distill.benchmarks.answering import InTransformers, Model
from distill.benchmarks.asking import ask
from distill.benchmarks.definition import read_benchmark
from distill.benchmarks.items import read_questions
from distill.core.jsonl import read_jsonl
from distill.models import load

lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed: pip install -e .[agreement]"
)
SIB = SHARED_DATA / "sib200"
TEACHER = RECIPE.parent / "quickstart" / "teacher"
NUM = 24


def problems() -> list[dict]:
    rows = [row for _, row in read_jsonl(RECIPE.parent / "quickstart" / "eval.jsonl")]
    return [row for row in rows if row["language"] == "sw"][:NUM]


def belebele_row(number: int, row: dict) -> dict:
    right = int(row["reference"])
    answers = [right + 1, right + 2, right * 3, right - 1]
    answers[number % 4] = right
    question, _, _ = row["prompt"].rpartition(" ")
    return {
        "flores_passage": row["prompt"],
        "question": f" {question}? ",
        **{f"mc_answer{i}": f"shilingi {value}" for i, value in enumerate(answers, 1)},
        "correct_answer_num": str(number % 4 + 1),
    }


def xcopa_row(number: int, row: dict) -> dict:
    right, wrong = f"Jibu ni {row['reference']}.", "Sijui hata kidogo jibu la swali hili ni nini."
    choices = [right, wrong] if number % 2 else [wrong, right]
    return {
        "premise": row["prompt"],
        "choice1": choices[0],
        "choice2": choices[1],
        "question": ("cause", "effect")[number % 3 == 0],
        "label": choices.index(right),
    }


def story_row(number: int, row: dict) -> dict:
    words = row["prompt"].split()
    quarter = len(words) // 4
    parts = [" ".join(words[i * quarter : (i + 1) * quarter]) for i in range(4)]
    endings = [f"Ni {row['reference']}.", "Haijulikani."]
    return {
        **{f"input_sentence_{i}": part for i, part in enumerate(parts, 1)},
        "sentence_quiz1": endings[number % 2],
        "sentence_quiz2": endings[1 - number % 2],
        "answer_right_ending": 1 + number % 2,
    }


TASKS = {
    "belebele": ("belebele_swh_Latn", belebele_row, ("test",)),
    "xcopa": ("xcopa_sw", xcopa_row, ("validation", "test")),
    "xstorycloze": ("xstorycloze_sw", story_row, ("train", "eval")),
}


def theirs(folder: Path, task: dict, *, registered: bool) -> list[dict]:
    """What the harness found on each example: log-likelihoods and its three accuracies.

    A task of its own keeps its templates and takes what `task` sets only as a member of a group.
    """
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm", "acc_bytes")
    ]
    changed = {**task, "metric_list": metrics}
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=[{"group": "compared", "task": [changed]} if registered else changed],
        batch_size=8,
        device="cpu",
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = found["samples"][task["task"]]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def ours(folder: Path, use: dict, language: str) -> list[dict]:
    recipe = with_benchmarks(use)
    use_ = recipe.evaluate.benchmarks[0]
    questions = read_questions(recipe, use_, read_benchmark(recipe, use_), language)
    tokenizer = load.load_tokenizer(str(folder))
    model = load.load_model(str(folder), load.placement("cpu", "float32"))
    student = Model(
        "student", "", tokenizer, model.config.max_position_embeddings, [], None, None, None
    )
    return ask(student, InTransformers(model, tokenizer, 2048), questions, lambda *_: None)


def compare(mine: list[dict], samples: list[dict]) -> None:
    assert len(mine) == len(samples) > 0
    for row, sample in zip(mine, samples, strict=True):
        expected = [value for value, _ in sample["filtered_resps"]]
        assert row["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
        assert float(row["right"]) == sample["acc"]
        assert float(row["right_by_byte"]) == sample["acc_bytes"]


@pytest.mark.parametrize("name", TASKS)
def test_each_example_is_right_or_wrong_as_the_harness_has_it(name, tmp_path):
    task, make, splits = TASKS[name]
    path = tmp_path / "rows.jsonl"
    rows = [make(number, row) for number, row in enumerate(problems())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(path) for split in splits}
    samples = theirs(
        TEACHER,
        {
            "task": task,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
        },
        registered=True,
    )
    compare(ours(TEACHER, {"name": name, "files": {"sw": str(path)}}, "sw"), samples)


@pytest.mark.skipif(not SIB.is_dir(), reason="../shared/data/sib200 is not there")
@pytest.mark.parametrize(
    ("language", "few_shot"), [("eng_Latn", 0), ("swh_Latn", 0), ("eng_Latn", 3)]
)
def test_a_real_model_agrees_on_sib200(language, few_shot, smollm2, tmp_path):
    code = {"eng_Latn": "en", "swh_Latn": "sw"}[language]
    for split in ("test", "dev"):
        lines = (SIB / f"{language}_{split}.tsv").read_text(encoding="utf-8").splitlines()
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines[:25]) + "\n", encoding="utf-8")
    paths = {split: str(tmp_path / f"{split}.tsv") for split in ("test", "dev")}
    use = {"name": "sib200", "files": {code: paths["test"]}, "few_shot": few_shot}
    use |= {"shots": {code: paths["dev"]}} if few_shot else {}
    recipe = with_benchmarks(use)
    benchmark = read_benchmark(recipe, recipe.evaluate.benchmarks[0])
    samples = theirs(
        smollm2,
        {
            "task": f"sib_{code}",
            "dataset_path": "csv",
            "dataset_kwargs": {"data_files": paths, "delimiter": "\t"},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": benchmark.prompt,
            "doc_to_choice": benchmark.choices,
            "doc_to_target": "category",
            "num_fewshot": few_shot,
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "fewshot_delimiter": benchmark.between,
            "target_delimiter": benchmark.delimiter,
        },
        registered=False,
    )
    compare(ours(smollm2, use, code), samples)
