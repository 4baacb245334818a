"""The report's page as people see it: in its markup, and in a browser where there is one."""

import json
from dataclasses import replace

import page_helpers
import pytest
from browser_helpers import opened, require_browser
from report_helpers import finished_benchmark, finished_examples, finished_safety, read_results

from distill.reporting.examples import Answer, AnsweredPrompt
from distill.reporting.page import page
from distill.reporting.plots import pictures_of
from distill.reporting.summary import statements
from distill.reporting.table import model_rows

PROMPTS = {
    "en": ("How many goats?", "7 goats"),
    "ar": ("كم عدد الماعز في السوق؟", "سبعة ماعز.\n3 + 4 = 7"),
    "ur": ("بازار میں کتنی بکریاں ہیں؟", "سات بکریاں"),
    "hi": ("बाज़ार में कितनी बकरियाँ हैं?", "सात बकरियाँ"),
    "ta": ("சந்தையில் எத்தனை ஆடுகள்?", "ஏழு ஆடுகள்"),
    "zh": ("市场上有几只山羊？", "七只山羊"),
}
# The languages of prompts with a letter that is drawn as a box, as one that no font has is.
BOXES = """[...document.querySelectorAll('p.prompt')].filter(p => {
  const family = OWN;
  const drawn = letter => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 60, height: 40});
    const pen = canvas.getContext('2d');
    pen.font = `20px ${family}`;
    pen.fillText(letter, 10, 30);
    return canvas.toDataURL();
  };
  const box = drawn('\\u{10ABCD}');
  return [...p.textContent].filter(l => /\\p{L}/u.test(l)).some(l => drawn(l) == box);
}).map(p => p.lang)"""


LOWEST_FIGURE = """Math.max(...[...document.querySelectorAll('.card .figure')]
  .map(figure => figure.getBoundingClientRect().bottom))"""


@pytest.fixture
def html(recipe, manifests, tmp_path):
    for role in ("student", "control"):
        rows = [{"step": step, "validation_loss": 9 / step} for step in (7, 14, 21)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{role}.metrics.jsonl").write_text(lines, encoding="utf-8")
    results = read_results(manifests)
    results = replace(
        results,
        safety=finished_safety(results),
        benchmark=finished_benchmark(results, ["en", "sw"]),
    )
    rows = model_rows(results)
    measured = finished_examples(results)
    examples = [
        AnsweredPrompt(
            prompt, language, [Answer("teacher", answer, True), Answer("student", "x" * 90, False)]
        )
        for language, (prompt, answer) in PROMPTS.items()
    ]
    dropped = [{"prompt": "a/" * 300, "language": "sw", "answer": "Six.", "reason": "format: no"}]
    drawn = pictures_of(tmp_path, results, rows, measured)
    answers = statements(results, rows, measured)
    return page(recipe(), results, rows, "KD beat it.", answers, drawn, examples, dropped)


def test_the_page_is_whole_and_asks_nothing_of_anybody(html):
    assert page_helpers.faults_of(html) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("</body>", "<script>1</script></body>", "<script>"),
        (
            "</body>",
            '<img src="https://a.org/b.png" alt="b"></body>',
            "asks for 'https://a.org/b.png'",
        ),
        ("</body>", "<p></body>", "closes"),
        ("</body>", "<table></table></body>", "no box"),
        ('role="img" aria-label', 'role="img" data-label', "no alternative"),
        ("</style>", "p{width:900px}</style>", "a fixed width of 900px"),
        ("</style>", "p{background:url(//a.org)}</style>", "url("),
        ("minmax(min(20rem,100%),1fr)", "minmax(24rem,1fr)", "never narrower than 24rem"),
        ('href="#data"', 'href="#date"', "leads nowhere: #date"),
        ("initial-scale=1", "initial-scale=2", "no viewport"),
    ],
)
def test_a_fault_in_a_page_is_found(html, before, after, fault):
    faults = page_helpers.faults_of(html.replace(before, after))
    assert any(fault in found for found in faults), faults


def test_answers_say_their_language_and_run_as_it_is_written(html):
    for language, (prompt, answer) in PROMPTS.items():
        assert f'<p class="prompt" dir="auto" lang="{language}">{prompt}</p>' in html
        assert f'<pre dir="auto" lang="{language}">{answer}</pre>' in html


def test_the_page_is_readable_in_a_browser(html, tmp_path):
    program = require_browser()
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    with opened(program, tmp_path / "profile") as window:
        page_helpers.look(window, path, tmp_path)
        for width, height in ((1280, 900), (390, 844)):
            window.open(path, width)
            assert window.ask(LOWEST_FIGURE) < height, "the first screen holds all five figures"
        for language, direction in (("ar", "rtl"), ("ur", "rtl"), ("hi", "ltr"), ("en", "ltr")):
            assert window.ask(_direction(language)) == direction
        boxes, boxes_anyhow = (
            window.ask(BOXES.replace("OWN", family))
            for family in ("getComputedStyle(p).fontFamily", "'sans-serif'")
        )
        print(f"no font here for {', '.join(boxes_anyhow) or 'none of them'}")
        assert set(boxes) <= set(boxes_anyhow), "a language that a font here can write shows boxes"


def _direction(language: str) -> str:
    return f"getComputedStyle(document.querySelector('p.prompt[lang={language}]')).direction"
