"""A teacher of another kind: one small class, and generate, capture and evaluate work with it."""

import json
import shutil

import numpy as np
import pytest
import torch
from run_helpers import QUICKSTART, ROOT

from distill import capture, evaluate, generate
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE
from distill.core.results import QuantizeResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.recipe import load_recipe
from distill.signals.store import SignalStore
from distill.tasks import market
from distill.teachers.base import Teacher
from distill.teachers.requests import Completion

TEACHER = ROOT / "recipes" / "quickstart" / "teacher"


class AnswerKey(Teacher):
    """Knows the right answers, and is sure of each of its tokens."""

    identity = "answer-key-1"
    asked: list[str]

    def describe(self):
        return "the key of the exercises"

    def precision(self):
        return "exact", "none"

    def answer(self, job):
        tokenizer, (stop, *_) = self.tokenizers.asked, self.stop_ids()
        for block in job.blocks:
            for request in job.missing(block):
                prompt = request.prompt
                text = f"= {prompt.reference}\n{market.WORDING[prompt.language].final}"
                text += f"{prompt.reference}"
                ids = [*tokenizer(text, add_special_tokens=False).input_ids, stop]
                self.asked.append(prompt.id)
                job.on_answer(request, Completion(text, "stop", ids))

    def logit_chunks(self, sequence):
        labels = torch.tensor(sequence.answer_ids)
        for first in range(0, len(labels), 7):
            part = slice(first, min(first + 7, len(labels)))
            logits_NV = torch.zeros(part.stop - first, len(self.tokenizers.asked))
            logits_NV[range(part.stop - first), labels[part]] = 30.0
            yield part, logits_NV


@pytest.fixture
def recipe(tmp_path):
    few = ["generate.num_prompts=30", "evaluate.num_examples=6", "evaluate.max_new_tokens=32"]
    return load_recipe(QUICKSTART, [*few, f"run_folder={tmp_path}"])


@pytest.fixture
def teacher(recipe):
    made = AnswerKey(recipe)
    made.asked = []
    return made


def students(recipe, folder):
    """What evaluate finds of the stages before it: a student, and no files."""
    shutil.copytree(TEACHER, folder.stage("train") / "student")
    folder.stage("quantize").mkdir()
    folder.finish("quantize", Fingerprint(), StageOutput(QuantizeResult({}, 1), []), started=0.0)


def test_it_answers_once_and_every_right_answer_is_kept(recipe, teacher):
    folder = RunFolder.of(recipe)
    output = generate.run(recipe, folder, ALONE, teacher=teacher)
    assert output is not None and output.result.num_kept == output.result.num_asked > 20
    assert len(set(teacher.asked)) == len(teacher.asked) == output.result.num_asked
    again = generate.run(recipe, folder, ALONE, teacher=teacher)
    assert again is not None and again.result == output.result
    assert len(teacher.asked) == output.result.num_asked, "nothing is asked twice"
    rows = [row for _, row in read_jsonl(folder.stage("generate") / "kept.jsonl")]
    assert all(row["answer"].startswith(f"= {row['reference']}\n") for row in rows)


def test_its_signal_is_captured_and_says_whose_it_is(recipe, teacher):
    folder = RunFolder.of(recipe)
    generate.run(recipe, folder, ALONE, teacher=teacher)
    output = capture.run(recipe, folder, ALONE, teacher=teacher)
    assert output is not None
    store = SignalStore(folder.stage("capture") / "signals" / output.result.folder)
    fingerprints = store.header.fingerprints
    assert (fingerprints["teacher"], fingerprints["teacher_dtype"]) == ("answer-key-1", "exact")
    entropies = np.concatenate([store.read(key).entropy for key in store.keys()])  # noqa: SIM118
    assert len(entropies) == output.result.num_tokens and entropies.max() < 0.01, "it is sure"


def test_it_is_evaluated_and_its_answers_are_what_students_are_scored_on(recipe, teacher):
    folder = RunFolder.of(recipe)
    students(recipe, folder)
    output = evaluate.run(recipe, folder, ALONE, teacher=teacher)
    figures = output.result.models
    assert figures["teacher"].exact_match == 1.0 and figures["teacher"].nll is None
    assert figures["teacher"].unscored == "where it runs, nothing is scored"
    assert figures["teacher"].runtime == "the key of the exercises"
    assert figures["student"].nll is not None and figures["student"].nll > 0
    answers = json.loads((folder.stage("evaluate") / "student.json").read_text())["examples"]
    assert len(answers) == output.result.num_examples == 6
