"""The page: all that the run found, and nothing that a model, file or recipe says is markup."""

from html.parser import HTMLParser

import pytest
from report_helpers import read_results

from distill.core.results import CaptureResult
from distill.reporting.examples import Answer, AnsweredPrompt
from distill.reporting.page import page, signal_sentence
from distill.reporting.plots import Pictures
from distill.reporting.summary import statements
from distill.reporting.table import model_rows

HOSTILE = "<script>alert('x')</script><img src=x onerror=\"alert('y')\"> & {{ 7 * 7 }}"
EXAMPLES = [
    AnsweredPrompt(
        "How many goats?",
        "en",
        [
            Answer("teacher", "7 goats\n  in all", True),
            Answer("student", "8", False),
            Answer("control", "9", None),
        ],
    )
]
DROPPED = [
    {"prompt": "Ngapi?", "language": "sw", "answer": "Six.", "reason": "wrong_language: 1 of 1"},
    {"prompt": "Tena?", "language": "sw", "answer": "Five.", "reason": "wrong_language: 2 of 2"},
    {"prompt": "Ngapi?", "language": "sw", "reason": "duplicate_prompt: the same as 'Ngapi?'"},
]


def rendered(recipe, manifests, *, examples=EXAMPLES, dropped=DROPPED, verdict="KD beat it."):
    results = read_results(manifests)
    rows = model_rows(results)
    svg = '<svg role="img" aria-label="a"><text>a &amp; b</text></svg>'
    pictures = [Pictures("In <pictures>", {"Speed & size": svg}, "How <to> read")]
    answers = statements(results, rows, {})
    return page(recipe, results, rows, verdict, answers, pictures, examples, dropped)


class Elements(HTMLParser):
    """What a browser makes of a page: its tags, their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_what_the_run_found(recipe, manifests):
    html = rendered(recipe("report.title=Goats"), manifests)
    text = " ".join(Elements(html).text.split())
    for part in (
        "Goats: distill report",
        "teacher ./quickstart/teacher → student of 426,752 parameters (random, 2 layers, width 128)",
        "· 7.0 minutes of work on a laptop",
        "KD beat it.",
        "10 held-out prompts. What the figures are NLL: nats a token of the teacher's own sampled answers;",
        "1,060 prompts, 1,061 answers asked (to prompts of ./quickstart/prompts.jsonl 1,060), "
        "52 kept (en 40, sw 12); dropped: wrong_answer 6, truncated 2. 50 samples were learnt from, "
        "2 gave the validation loss, 0 were longer than a row.",
        "Signal: sampled, 1,275 answer tokens, 9.8 bytes a token.",
        "allow: ./quickstart/teacher (apache-2.0): learning from it is allowed",
        "./quickstart/teacher: credit the teacher (a courtesy, no duty)",
        "Quality was measured on 10 prompts of ./quickstart/eval.jsonl: it says nothing about other work",
        "torch 2.9, distill 0.1.0",
        "2026-11-22 10:00 UTC",
    ):
        assert part in text, part
    assert "<td>wrong_answer</td><td>6</td><td>0</td>" in html, "counts by reason and language"
    assert '<td class="text">Q8_0 × 15, F32 × 9</td>' in html
    assert "<td>+0.00006</td>" in html and "<td>1,057</td>" in html and "<td>60.0 s</td>" in html
    assert html.startswith("<!doctype html>") and "http" not in html


def test_answers_stand_side_by_side_as_they_were_written(recipe, manifests):
    html = rendered(recipe(), manifests)
    pre = '<pre dir="auto" lang="en">'
    assert f"<figcaption>teacher ✓</figcaption>{pre}7 goats\n  in all</pre>" in html
    assert f'<figcaption>student <span class="wrong">✗</span></figcaption>{pre}8</pre>' in html
    assert f"<figcaption>control</figcaption>{pre}9</pre>" in html, "no task checked it"


def test_one_dropped_answer_is_shown_for_each_reason(recipe, manifests):
    html = rendered(recipe(), manifests)
    assert (
        '<p class="faint">wrong_language: 1 of 1 (sw)</p>\n<pre dir="auto" lang="sw">Ngapi?\n→ Six.</pre>'
        in html
    )
    assert '<pre dir="auto" lang="sw">Ngapi?\n→ </pre>' in html, (
        "a prompt that was never asked has no answer"
    )
    assert "Five." not in html
    assert "<details>" not in rendered(recipe(), manifests, dropped=[])


def make_hostile(manifests):
    """Put HOSTILE wherever a result holds a text."""
    manifests["generate"].result.update(
        warning=HOSTILE,
        dropped_by_reason={HOSTILE: 1},
        kept_by_language={HOSTILE: 1},
        prompts_by_source={HOSTILE: 1},
        by_language={HOSTILE: {"kept": 1, HOSTILE: 1}},
    )
    manifests["plan"].result["licence"].update(sentences=[HOSTILE, HOSTILE], duties=[HOSTILE])
    manifests["capture"].result["signal"] = HOSTILE
    manifests["initialize"].result["method"] = HOSTILE
    checks = manifests["quantize"].result["formats"]
    checks[HOSTILE] = check = checks.pop("q8_0")
    check.update(failed=HOSTILE, note=HOSTILE, runtime=HOSTILE, tokenization=HOSTILE)
    check["tensor_types"] = {HOSTILE: 1}
    models = manifests["evaluate"].result["models"]
    models[HOSTILE] = models.pop("q8_0")
    models["teacher"]["by_language"] = {HOSTILE: 1.0}
    manifests["train"].versions[HOSTILE] = HOSTILE


def test_nothing_that_a_model_a_file_or_a_recipe_says_is_markup(recipe, manifests):
    plain = Elements(rendered(recipe(), manifests))
    make_hostile(manifests)
    examples = [AnsweredPrompt(HOSTILE, HOSTILE, [Answer("teacher", HOSTILE, True)])]
    dropped = [{"prompt": HOSTILE, "language": HOSTILE, "answer": HOSTILE, "reason": HOSTILE}]
    plain_recipe = recipe()
    hostile_recipe = plain_recipe.model_copy(
        update={
            "report": plain_recipe.report.model_copy(update={"title": HOSTILE}),
            "teacher": plain_recipe.teacher.model_copy(update={"model": HOSTILE}),
        }
    )
    html = rendered(hostile_recipe, manifests, examples=examples, dropped=dropped, verdict=HOSTILE)
    page_elements = Elements(html)
    assert page_elements.tags <= plain.tags | {"br"}
    assert page_elements.attributes <= plain.attributes
    assert "<script" not in html and "<img" not in html
    assert page_elements.text.count(HOSTILE) == 33, "it is all there, as text"


def test_our_own_pictures_are_markup_and_their_captions_are_not(recipe, manifests):
    html = rendered(recipe(), manifests)
    assert "<figcaption>Speed &amp; size</figcaption><svg role" in html
    assert "<text>a &amp; b</text></svg></figure>" in html
    assert "<h2>In &lt;pictures&gt;</h2>" in html and "How &lt;to&gt; read</p>" in html


def test_a_file_that_failed_or_was_recovered_says_so(recipe, manifests):
    assert "failed: " not in rendered(recipe(), manifests)
    check = manifests["quantize"].result["formats"]["q8_0"]
    check |= {"failed": "too <far", "note": "recovery won back 5%"}
    html = rendered(recipe(), manifests)
    assert '<td>q8_0 <span class="wrong">failed: too &lt;far</span>' in html
    assert '<br><span class="faint">recovery won back 5%</span></td>' in html


def test_what_was_not_measured_is_said(recipe, manifests):
    by_language = "Exact match by language"
    html = rendered(recipe(), manifests)
    assert by_language in html and "No task checked the answers" not in html
    for figures in manifests["evaluate"].result["models"].values():
        for name in ("exact_match", "interval", "by_language"):
            del figures[name]
    html = rendered(recipe("generate.task=null", "languages=[en,zh,sw,id,hi,wo]"), manifests)
    assert by_language not in html
    assert "No task checked the answers: only their likelihood was measured." in html
    assert "The language of the answers: wo: no classifier here knows it" in html


def test_rows_of_prompts_that_were_left_out_are_told(recipe, manifests):
    assert "not taken" not in rendered(recipe(), manifests)
    note = "p.csv: 3 of 900 rows are left out (wrong_cells 3), such as p.csv, line 7: <2> cells"
    manifests["generate"].result.update(num_skipped={"wrong_cells": 3}, reading_notes=[note])
    text = " ".join(Elements(rendered(recipe(), manifests)).text.split())
    assert "Rows that were not taken: wrong_cells 3." in text and note in text


def test_what_can_be_compared_with_the_teacher_is_told(recipe, manifests):
    def text():
        return " ".join(Elements(rendered(recipe(), manifests)).text.split())

    alike = (
        "NLL/byte: the same nats, end token included, over the UTF-8 bytes of the answers' text. KL"
    )
    assert alike in text() and "has no NLL" not in text()
    result = manifests["evaluate"].result
    result["tokenizers_differ"] = True
    result["models"]["teacher"]["nll_per_byte"] = 0.1
    assert "answers' text: the teacher's tokens are not the student's, so only this" in text()
    result["models"]["teacher"].update(nll_per_byte=None, unscored="it <b>cannot</b>")
    assert "teacher has no NLL: it <b>cannot</b>" in text() and alike in text()


def test_a_run_without_duties_drops_or_warning_says_nothing_of_them(recipe, manifests):
    assert '<p class="wrong">' not in rendered(recipe(), manifests)
    manifests["generate"].result.update(warning="too long", dropped_by_reason={})
    manifests["plan"].result["licence"]["duties"] = []
    html = rendered(recipe(), manifests)
    assert '<p class="wrong">too long</p>' in html and "dropped: none." in html
    assert "credit the teacher" not in html


@pytest.mark.parametrize(
    ("capture", "difference", "sentence"),
    [
        (
            CaptureResult("none"),
            None,
            "No signal was captured: the student learnt from the answers' text alone.",
        ),
        (
            CaptureResult("none"),
            "other size",
            "No signal was captured: the student learnt from the answers' text alone, in its own "
            "tokenizer (other size): the teacher's NLL a token, in other tokens, cannot be compared.",
        ),
        (
            CaptureResult("top_k", 12345, bytes_per_token=64.04, hidden_size=128, num_unknown=1500),
            None,
            "Signal: top_k, 12,345 answer tokens, 64.0 bytes a token, the last hidden state in 8 bits "
            "among them. Of 1,500 tokens the server told nothing: they had no soft loss.",
        ),
        (
            CaptureResult(
                "sampled",
                12345,
                bytes_per_token=36.0,
                removed_mass_mean=0.0041,
                removed_mass_p99=0.052,
                split_loss=0.0067,
            ),
            None,
            "Signal: sampled, 12,345 answer tokens, 36.0 bytes a token. Of the teacher's mass 0.41% "
            "was on tokens that the student writes in pieces (99th percentile: 5.20%); its NLL a byte "
            "on the student's tokens was +0.67% against that on its own.",
        ),
    ],
)
def test_the_signal_is_told_in_a_sentence(capture, difference, sentence):
    assert signal_sentence(capture, difference) == sentence
