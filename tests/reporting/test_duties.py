"""Every licence of the catalogue: the card does what it asks for, or says who must."""

import dataclasses

import pytest
from report_helpers import read_results

from distill.catalog import catalog, facts
from distill.planning.licences import licence_verdict
from distill.reporting.duties import duty_lines, notice_sentences
from distill.reporting.model_card import model_card
from distill.reporting.page import page
from distill.reporting.table import model_rows

HUNYUAN = "teacher={model: tencent/Hunyuan-7B-Instruct}"


def results_of(recipe, manifests):
    verdict = licence_verdict(recipe)
    manifests["plan"].result["licence"] = dataclasses.asdict(verdict)
    return read_results(manifests)


def card(recipe, manifests) -> str:
    results = results_of(recipe, manifests)
    return model_card(recipe, results, model_rows(results), "KD beat the control.")


def named(key: str) -> str:
    prefix = [duty.says for duty in facts.licences()[key].duties if duty.kind == "name"]
    return f"report.title={(prefix or ['The'])[0]} Goats"


@pytest.mark.parametrize("key", list(facts.licences()))
def test_the_card_fulfils_each_duty_of_a_licence(recipe, manifests, key):
    base = f"student={{method: base, model: someone/base, licence: {key}}}"
    made = recipe(base, named(key))
    text = card(made, manifests)
    terms = catalog.licence(key)
    results = read_results(manifests)
    owed = [duty for duty in results.licence.owed if duty.model == "someone/base"]
    assert len(owed) == len(terms.duties_of("weights"))
    for duty in owed:
        assert f"- someone/base: {duty.sentence}. " in text
        if duty.kind == "name":
            assert f"# {duty.says} Goats" in text and "Done: in the title." in text
        if duty.kind == "attribution":
            assert f"\n\n**{duty.says}**\n\n" in text
        if duty.kind == "notice":
            assert duty.says in notice_sentences(results.licence)
        if duty.kind == "use":
            assert duty.says in text
        if duty.kind == "text" and terms.text is not None:
            assert "Done: in `LICENSE` beside this card, as everybody uses it. **To do**" in text
        if duty.kind == "text" and terms.text is None:
            assert "put the file LICENSE of someone/base" in text
            assert terms.link is None or terms.link in text
        if duty.kind == "threshold":
            assert "above " in duty.sentence and "It holds for whoever uses the student." in text


def test_a_title_without_the_beginning_that_a_licence_wants_gets_it(recipe, manifests):
    for more, title in (((), "quickstart"), (("report.title=Goats",), "Goats")):
        made = recipe("teacher={model: meta-llama/Llama-3.2-1B}", *more)
        text = card(made, manifests)
        assert f"# Llama {title}\n" in text and "Done: in the title." in text
        results = read_results(manifests)
        assert f"<h1>Llama {title}</h1>" in page(
            made, results, model_rows(results), "", [], [], [], []
        )


def test_a_model_of_this_machine_brings_its_own_text(recipe, manifests, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "License.md").write_text("MIT, Copyright (c) 2025 Somebody")
    base = f"student={{method: base, model: {tmp_path}, licence: mit}}"
    assert "permission notice. Done: in `LICENSE` beside this card.\n" in card(
        recipe(base), manifests
    )


def test_a_makers_own_licence_does_not_stand_for_llamas(recipe, manifests, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "LICENSE").write_text("MIT License, Copyright (c) 2025 DeepSeek")
    base = f"student={{method: base, model: {tmp_path}, licence: mit-llama3.1}}"
    text = card(recipe(base), manifests)
    assert "the MIT notice. Done: in `LICENSE` beside this card.\n" in text
    assert "the Llama licence. **To do**: the model's own file is another licence; put " in text
    (tmp_path / "LICENSE").write_text("MIT License; Llama 3.1 Community License Agreement")
    assert "the Llama licence. Done: in `LICENSE`" in card(recipe(base), manifests)


def test_the_reason_stands_in_card_and_page_word_for_word(recipe, manifests):
    reason = "Tencent's letter of 3 May 2026 allows it"
    made = recipe(HUNYUAN, f'licence_accepted="{reason}"')
    text = card(made, manifests)
    assert f"The reason that was given:\n\n> {reason}\n" in text
    results = read_results(manifests)
    html = page(made, results, model_rows(results), "", [], [], [], [])
    assert "<blockquote>Tencent&#39;s letter of 3 May 2026 allows it</blockquote>" in html


def test_a_reason_that_nothing_needs_is_not_shown(recipe, manifests):
    assert "The reason" not in card(recipe("licence_accepted=just so"), manifests)


def test_the_licences_of_the_data_are_told_where_they_are_declared(recipe, manifests):
    prompts = "generate.prompts=[{dataset: a/b, licence: cc-by-4.0}, {dataset: c/d}]"
    text = card(recipe(prompts), manifests)
    link = "https://creativecommons.org/licenses/by/4.0/"
    assert f"Licences of the data: `a/b`: [CC BY 4.0]({link}); `c/d`: not declared." in text
    assert "- a/b: credit the data and its licence. Done: under Lineage, and here.\n" in text
    assert "Licences of the data" not in card(recipe(), manifests)


def test_the_words_of_an_older_run_are_shown_as_they_are(manifests):
    licence = read_results(manifests).licence
    assert not licence.owed and duty_lines(licence, []) == licence.duties
