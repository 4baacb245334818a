"""What is left in an answer or never closed."""

import pytest

from distill.filters.answer_form import format_problem


@pytest.mark.parametrize(
    "text",
    [
        "It is 48.<|im_end|>\n<|im_start|>user",
        "<｜end▁of▁sentence｜>It is 48.",
        "It is 48.</think>",
        "[INST] How many? [/INST] 48",
        "Kuna maembe 4\ufffd8.",
        "It is 4\ud8008.",
        "So the answer is \\boxed{\\frac{1}{2}.",
        "~~~\ncode\n```\n",
        "````md\n```\ncode\n```\n",
    ],
)
def test_what_is_broken_or_left_open_is_no_format_to_learn(text):
    assert format_problem(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "First \\boxed{1, then \\boxed{2}.",
        "```python\nprint('```')\n```\nand ``inline`` and\n  ```\n  x\n  ```",
        "````md\n```\ncode\n```\n````",
        "In F#, [1; 2] |> List.map f <| x. I think </b> is HTML.",
        "~~strike~~ and a || b |",
    ],
)
def test_code_formulas_and_pipes_are_well_formed(text):
    assert format_problem(text) is None
