"""Mathematics with a final answer: the last \\boxed{}, or what follows "Answer:".

It is right if it means what the reference means. From cheap to dear: the letter of a choice, the
same text, the same number as people of that language write it, and last the same formula by
math-verify (`pip install 'distill[math]'`), in a process that is killed after 5 seconds.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from distill.errors import MissingError
from distill.recipe.sections import Generate
from distill.tasks import Grade, numerals, symbolic
from distill.tasks.final_number import NUMBER
from distill.tasks.local_numbers import readings
from distill.tasks.numerals import plain

VERSION = 2

_MARKS = (
    r"####|final answer|answer|最终答案|答案|最后结果|jibu|jawaban|उत्तर|উত্তর|réponse|respuesta|resposta|antwort|đáp án|đáp số|"
    r"คำตอบ|amsa|ìdáhùn|idahun|መልስ|விடை|జవాబు|جواب|الإجابة|الجواب|ответ|答え|정답|답"
)
_IS = r"(?:is|are|ni|adalah|ialah|est|es|é|ist|là|ita ce|هو|هي|это)\b|是|为|為|คือ|は|은|는"
_MARKED = re.compile(
    rf"(?:####|(?:{_MARKS})[）)\s]*(?:(?:{_IS})\s*[:：]?|[:：=]))\s*(.+)", re.IGNORECASE
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_SENTENCE_END = re.compile(r"[。।]|[.!?](?=\s|$)")
_CHOICE = re.compile(r"\(?([A-J])(?:[).:、\s]|$)")
_ONE_CHOICE = re.compile(r"[(\[]?([A-J])[)\].:、]?|\(([A-J])\).*")
_ANY_CHOICE = re.compile(r"(?<![\w\\])\(?([A-J])\)?(?!\w)")
_NAMED = re.compile(r"([a-zA-Z](?:_\w)?)\s*=\s*([^=]+)")
_LATEX = [
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:left|right|displaystyle|!)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\{?\\circ\}?|°"), ""),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"(?<!\\)\\[,;:> ]|~"), "\u202f"),
]

SMALL = Fraction(1, 1000)  # below it six places are too few
LONGEST_FORMULA = 2000  # characters; math-verify reads longer ones until its deadline


def grader(options: Generate) -> Grade:
    """Return `grade`. Raise MissingError where math-verify is not installed."""
    if not symbolic.is_installed():
        raise MissingError(
            "generate.task math_answer needs math-verify, which is not installed: "
            "pip install 'distill[math]'"
        )
    return grade


def reference_problem(text: str) -> str | None:
    """Return why no answer could mean this reference, or None."""
    expected = _named_answer(text) or text
    return None if clean(expected) else "nothing in it that an answer could equal"


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Return whether the final answer of `answer_text` equals that of `row["reference"]`.

    Numbers are read as in `row["language"]`; a reference that is a number, not text, is compared as
    one. What math-verify cannot decide in five seconds counts as wrong.
    """
    if numerals.is_typed(row["reference"]):
        answer = final_answer(answer_text)
        return answer is not None and _is_number(answer, row["reference"], row.get("language"))
    reference = str(row["reference"])
    expected = _named_answer(reference) or reference  # it may be a whole solution
    letter = _letter(expected)
    answer = final_answer(answer_text, choice=letter is not None)
    if answer is None:
        return False
    if letter is not None:
        chosen = _CHOICE.match(clean(answer))
        return chosen is not None and chosen[1] == letter
    return equal(answer, expected, row.get("language"))


def final_answer(text: str, *, choice: bool = False) -> str | None:
    """Return the last \\boxed{}; else what follows the last "Answer:" or ####.

    "Answer:" may be in any of 25 languages. Else the last formula of the last line; else the last
    number, or with `choice` the last lone capital letter. None where there is none of it.
    """
    named = _named_answer(text)
    if named is not None:
        return named
    lines = [line for line in text.splitlines() if line.strip()]
    formula = _last(_FORMULA, lines[-1]) if lines else None
    if formula is not None:
        return _inside(formula)
    match = _last(_ANY_CHOICE if choice else NUMBER, plain(text))
    return match.group() if match else None


def _named_answer(text: str) -> str | None:
    """Return what the text itself calls its answer."""
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    matches = [_last(_MARKED, line) for line in text.replace("**", "").splitlines()]
    marked = [match[1] for match in matches if match is not None]
    if not marked:
        return None
    formula = _FORMULA.search(marked[-1])
    if formula is not None:
        return _inside(formula)
    return _SENTENCE_END.split(marked[-1])[0].strip(" *_`")


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return ([None, *pattern.finditer(text)])[-1]


def _inside(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _last_boxed(text: str) -> str | None:
    """Return what is in the last \\boxed{...} that is closed, braces within it balanced."""
    end = len(text)
    while (start := max(text.rfind("\\boxed{", 0, end), text.rfind("\\fbox{", 0, end))) >= 0:
        first = text.index("{", start) + 1
        depth = 1
        for position in range(first, len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[first:position].strip()
        end = start
    return None


def _letter(reference: str) -> str | None:
    match = _ONE_CHOICE.fullmatch(clean(reference))
    return (match[1] or match[2]) if match else None


def clean(text: str) -> str:
    """Return the text without the LaTeX that says how it looks, with plain digits."""
    for pattern, new in _LATEX:
        text = pattern.sub(new, text)
    return plain(text).strip().strip("$").strip()


def equal(answer: str, reference: str, language: str | None = None) -> bool:
    """Return whether two final answers mean the same.

    50 % is 50 and one half, but 50 % is not 0.5 %.
    """
    answer, reference = _without_names(clean(answer), clean(reference))
    if _squeezed(answer) == _squeezed(reference):
        return True
    values, expected = (readings(side.replace("%", ""), language) for side in (answer, reference))
    if not (values and expected):
        return _same_formula(_formula(reference, expected), _formula(answer, values))
    if ("%" in answer) == ("%" in reference):
        return bool(values & expected)
    percent, number = (values, expected) if "%" in answer else (expected, values)
    return bool(number & _with_hundredths(percent))


def _is_number(answer: str, reference: int | float, language: str | None) -> bool:
    """Return whether a final answer means a typed number."""
    text = numerals.written(reference)
    answer, _ = _without_names(clean(answer), text)
    values = readings(answer.replace("%", ""), language)
    if not values:
        return _same_formula(_formula(text, readings(text, "en")), answer)
    return numerals.equals(_with_hundredths(values) if "%" in answer else values, reference)


def _with_hundredths(values: frozenset[Fraction]) -> frozenset[Fraction]:
    return values | {value / 100 for value in values}


def _formula(text: str, values: frozenset[Fraction]) -> str:
    """Return what math-verify is given: a fraction for a small decimal.

    It rounds decimals to six places, so that 0.333333 is a third; 0.0000001 would be nothing.
    """
    small = [value for value in values if 0 < abs(value) < SMALL]
    if len(values) != 1 or not small:
        return text
    sign = "-" if small[0] < 0 else ""
    return f"{sign}\\frac{{{abs(small[0].numerator)}}}{{{small[0].denominator}}}"


def _without_names(answer: str, reference: str) -> tuple[str, str]:
    """Return both without the `x =` before them, unless they are of different names."""
    names = [_NAMED.fullmatch(side) for side in (answer, reference)]
    if all(names) and names[0][1] != names[1][1]:  # type: ignore[index] - all of them matched
        return answer, reference
    answer, reference = (
        name[2] if name else side for name, side in zip(names, (answer, reference), strict=True)
    )
    return answer, reference


def _squeezed(text: str) -> str:
    return "".join(text.split()).rstrip(".。").casefold()


# each round of draws judges all answers so far: a formula that hangs costs its 5 seconds once
@lru_cache(maxsize=1 << 16)
def _same_formula(reference: str, answer: str) -> bool:
    if max(len(reference), len(answer)) > LONGEST_FORMULA:
        return False
    return bool(symbolic.VERIFIER.equal(reference, answer))
