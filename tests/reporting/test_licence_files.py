"""LICENSE and NOTICE: the models' own files first, else a text that is shipped, else what is missing is said."""

import pytest
from report_helpers import read_results

from distill.reporting.licence_files import licence_file, licence_texts, notice_file


@pytest.fixture
def model(tmp_path):
    """A model's folder, as far as licences go."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_models_own_files_are_taken_before_the_shipped_text(recipe, model):
    (model / "LICENSE.txt").write_text("MIT, Copyright (c) 2025 Somebody", encoding="utf-8")
    (model / "USE_POLICY.md").write_text("no harm", encoding="utf-8")
    (model / "NOTICE").write_text("Somebody made this", encoding="utf-8")
    (text,) = licence_texts(recipe(f"teacher={{model: {model}, licence: mit}}"))
    assert text.text is not None and "2025 Somebody" in text.text and "no harm" in text.text
    assert "Permission is hereby granted" not in text.text
    assert text.notices == ("Somebody made this",) and "LICENSE.txt" in text.origin
    assert "2025 Somebody" in (licence_file([text]) or "")
    assert notice_file([text], ["Built so"]) == "Built so\n\nSomebody made this\n"


def test_the_shipped_text_serves_where_the_model_has_none(recipe):
    (text,) = licence_texts(recipe())
    assert text.text is not None and "Version 2.0, January 2004" in text.text
    assert "its copyright line" not in text.origin and "copyright line" in text.origin
    assert notice_file([text], []) is None


def test_what_is_not_here_is_named_with_its_address(recipe):
    student = "student={method: base, model: google/gemma-3-1b-pt}"
    teacher, base = licence_texts(recipe("teacher={model: someone/else}", student))
    assert teacher.text is None and teacher.origin == "the file LICENSE of someone/else"
    assert base.text is None and "https://ai.google.dev/gemma/terms" in base.origin
    assert licence_file([teacher, base]) is None


def test_two_models_of_one_text_are_each_named_and_a_model_is_there_once(recipe, model):
    base = f"student={{method: base, model: {model}, licence: mit}}"
    texts = licence_texts(recipe(f"teacher={{model: {model}, licence: mit}}", base))
    assert len(texts) == 1
    two = licence_texts(recipe("teacher={model: zai-org/GLM-4.5}", base))
    written = licence_file(two) or ""
    assert written.count("Permission is hereby granted") == 2
    assert "zai-org/GLM-4.5: MIT License" in written


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x81", b"\xef\xbb\xbfMIT", b""])
def test_odd_bytes_do_not_break_the_report(recipe, model, content):
    (model / "LICENSE").write_bytes(content)
    (model / "LICENSE-dir").mkdir()
    (text,) = licence_texts(recipe(f"teacher={{model: {model}, licence: mit}}"))
    licence_file([text])


def test_a_folder_that_is_gone_is_no_fault_of_the_report(recipe, manifests):
    read_results(manifests)
    (text,) = licence_texts(recipe("teacher={model: ./not-there, licence: gemma-2025}"))
    assert text.text is None
