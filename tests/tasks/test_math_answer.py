"""Final answers by value: local digits, separators by language, and formulas."""

import random

import pytest

from distill.errors import MissingError
from distill.recipe.sections import Generate
from distill.tasks import grader, market, math_answer, symbolic
from distill.tasks.math_answer import final_answer, grade

needs_math_verify = pytest.mark.skipif(
    not symbolic.is_installed(), reason="math-verify is not installed (distill[math])"
)


def right(answer, reference, language=None):
    return grade(answer, {"reference": reference, "language": language})


@pytest.mark.parametrize(
    ("answer", "reference", "language"),
    [
        ("\\boxed{४२}", "42", "hi"),
        ("উত্তর: ৭", "7", "bn"),
        ("الجواب: ١٢", "12", "ar"),
        ("答案：１２", "12", "zh"),
        ("\\boxed{0,75}", "0.75", "id"),
        ("\\boxed{1 000}", "1000", "en"),
        ("Jawaban: 1.000", "1000", "id"),
        ("The total is ₹250", "250", "hi"),
        ("Jibu: KSh 1,250/=", "1250", "sw"),
        ("\\boxed{1,23,456}", "123456", "hi"),
        ("\\boxed{50\\%}", "0.5", "en"),
        ("\\boxed{50\\%}", "50", "en"),
        ("\\boxed{(B)}", "B", "en"),
        ("The answer is (B) 12 km.", "B", "en"),
        ("It must be B", "(B)", "en"),
        ("答案是四十二。", "42", "zh"),
        ("答案：3万元", "30000", "zh"),
        ("\\boxed{25\\text{ m}^2}", "25", "en"),
        ("\\boxed{90^\\circ}", "90", "en"),
        ("first \\boxed{1}, then \\boxed{\\text{x = } 2}, so \\boxed{x = 2}", "2", "en"),
        ("#### 42", "She sold 40 + 2.\n#### 42", "en"),
        ("Answer: **12** apples", "12 apples", "en"),
        ("Therefore x = 7.", "7", "en"),
        ("\\boxed{1/2}", "0.5", "en"),
    ],
)
def test_numbers_and_choices_are_right_without_sympy(answer, reference, language, monkeypatch):
    monkeypatch.setattr(math_answer, "_same_formula", None)  # would raise
    assert right(answer, reference, language)


@needs_math_verify
@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("\\boxed{\\dfrac{1}{2}}", "0.5"),
        ("\\boxed{\\frac{\\sqrt{2}}{2}}", "\\frac{1}{\\sqrt{2}}"),
        ("so we get $x^2+2x+1$", "(x+1)^2"),
        ("\\boxed{\\{1,2\\}}", "\\{2,1\\}"),
        ("**Final answer:** $\\pi/2$", "\\frac{\\pi}{2}"),
        ("\\boxed{\\frac{७}{३}}", "2\\frac{1}{3}"),
        ("\\boxed{y=2x+3}", "3 + 2x"),
        ("\\boxed{\\frac{1}{10^7}}", "0.0000001"),
        ("\\boxed{\\frac{1}{8}}", 0.125),
        ("\\boxed{\\frac{1}{3}}", 1 / 3),
    ],
)
def test_formulas_that_mean_the_same_are_right(answer, reference):
    assert right(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference", "language"),
    [
        ("\\boxed{1.000}", "1000", "en"),  # in English that is one
        ("\\boxed{50\\%}", "0.5\\%", "en"),
        ("\\boxed{四十三}", "42", "zh"),
        ("\\boxed{C}", "B", "en"),
        ("B or C, \\boxed{C}", "B", "en"),
        ("I cannot say.", "5", "en"),
        ("42 is not it; \\boxed{41}", "42", "en"),
        ("\\boxed{-3}", "3", "en"),
    ],
)
def test_other_numbers_and_choices_are_wrong(answer, reference, language):
    assert not right(answer, reference, language)


@needs_math_verify
@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("\\boxed{\\frac{1}{20000000}}", "0.0000001"),
        ("\\boxed{\\frac{1}{20000000}}", 0.0000001),
        ("\\boxed{0.0000001}", "\\frac{1}{20000000}"),
    ],
)
def test_small_numbers_are_not_rounded_away(answer, reference):
    assert not right(answer, reference)


@needs_math_verify
@pytest.mark.parametrize(
    "answer",
    [
        "\\boxed{3x}",
        "\\boxed{2 pi}",
        "\\boxed{x+3}",
        "\\boxed{hello world}",
        "\\boxed{}}{",
        "\\boxed{\\frac{}{0}}",
    ],
)
def test_other_formulas_and_nonsense_are_wrong(answer):
    assert not right(answer, "3")


def test_what_a_text_calls_its_answer_comes_before_what_stands_last():
    assert final_answer("Answer: 5\nChecked twice, in 3 ways.") == "5"
    assert final_answer("\\boxed{\\frac{1}{2}} and an open \\boxed{3") == "\\frac{1}{2}"
    assert final_answer("We solve for y.\n$x = 2$ gives $y = 4$") == "y = 4"
    assert final_answer("nothing") is None


def test_without_math_verify_the_way_out_is_said_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr(symbolic, "is_installed", lambda: False)
    with pytest.raises(MissingError, match=r"distill\[math\]"):
        grader(Generate.model_validate({"prompts": "p.jsonl", "task": "math_answer"}))


def test_it_agrees_with_the_quickstarts_own_verifier():
    rng = random.Random(3)
    for made in market.problems(120, seed=8):
        for text in (
            market.answer(made, rng),
            market.answer(made, rng)[:-1] + rng.choice("0123456789"),
            "?",
        ):
            row = {"reference": made.reference, "language": made.language}
            assert grade(text, row) == market.grade(text, row), (text, made.reference)
