"""What counts of an answer: nothing of one that was cut inside its reasoning."""

import pytest
from benchmark_helpers import RECIPE, SUMS, SUMS_ROWS, with_benchmarks, write

from distill.benchmarks.answering import Model
from distill.benchmarks.asking import ask
from distill.benchmarks.definition import read_benchmark
from distill.benchmarks.items import read_questions
from distill.benchmarks.scores import scores_of
from distill.models.load import load_tokenizer


class Written:
    """Answers each question with the next of some texts."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, texts

    def answers(self, prompts, num, stop_ids, on_done):
        return [self.tokenizer(text, add_special_tokens=False).input_ids for text in self.texts]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(RECIPE.parent / "quickstart" / "teacher"))


def test_an_answer_that_is_cut_inside_its_reasoning_is_wrong_and_told(tokenizer, tmp_path):
    recipe = with_benchmarks(write(tmp_path, SUMS, SUMS_ROWS, "en"))
    use = recipe.evaluate.benchmarks[0]
    questions = read_questions(recipe, use, read_benchmark(recipe, use), "en")
    model = Model("student", "", tokenizer, 500, [], None, None, None)
    texts = ["<think>1 + 1 is 2", "<think>2 + 2 is 5</think>It is 4.", "It is 7."]
    rows = ask(model, Written(tokenizer, texts), questions, lambda _: None)
    assert [(row["answer"].strip(), row["right"]) for row in rows] == [
        ("", False),
        ("It is 4.", True),
        ("It is 7.", False),
    ]
    (score,) = scores_of("sums", "en", {"student": rows})
    assert score.num_unanswered == 1
