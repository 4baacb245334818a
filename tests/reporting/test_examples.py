"""The examples on the page: one prompt a language, answered by the 16-bit models."""

import json

from report_helpers import read_results

from distill.reporting.examples import Answer, read_examples


def test_the_first_prompt_of_each_language_with_each_models_answer(tmp_path, manifests):
    for model in ("teacher", "control", "student"):
        rows = [
            {
                "prompt_id": str(n),
                "prompt": f"prompt {n}",
                "language": language,
                "answer": f"{model} {n}",
                "right": n == 0,
                "nll": None,
                "num_tokens": 1,
            }
            for n, language in enumerate(["en", "en", "sw"])
        ]
        (tmp_path / f"{model}.json").write_text(json.dumps({"examples": rows}), encoding="utf-8")
    result = read_results(manifests).evaluate
    examples = read_examples(tmp_path, result)
    assert [example.prompt for example in examples] == ["prompt 0", "prompt 2"]
    assert examples[1].answers == [
        Answer("teacher", "teacher 2", False),
        Answer("student", "student 2", False),
        Answer("control", "control 2", False),
    ]
    del result.models["control"]
    (tmp_path / "control.json").unlink()
    assert [answer.model for answer in read_examples(tmp_path, result)[0].answers] == [
        "teacher",
        "student",
    ]
