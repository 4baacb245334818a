"""The examples on the page: one prompt a language, answered by the 16-bit models."""

from distill.reporting.examples import Answer, side_by_side


def test_the_first_prompt_of_each_language_with_each_models_answer():
    examples = {}
    for model in ("control", "teacher", "student", "q8_0"):
        examples[model] = [
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
    prompts = side_by_side(examples)
    assert [(prompt.prompt, prompt.language) for prompt in prompts] == [
        ("prompt 0", "en"),
        ("prompt 2", "sw"),
    ]
    assert prompts[1].answers == [
        Answer("teacher", "teacher 2", False),
        Answer("student", "student 2", False),
        Answer("control", "control 2", False),
    ]
    del examples["control"]
    models = [answer.model for answer in side_by_side(examples)[0].answers]
    assert models == ["teacher", "student"]
