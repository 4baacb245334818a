"""The stage train: what it takes from the initialized student's folder."""

import json

import pytest
from run_helpers import ROOT

from distill import train
from distill.core.run_folder import RunFolder
from distill.models import load
from distill.recipe.sections import Train


@pytest.mark.parametrize(("config_eos", "ids"), [(None, []), (7, [7]), ([7, 9], [7, 9])])
def test_stop_tokens_together_are_those_at_which_the_student_stops(tmp_path, config_eos, ids):
    student = tmp_path / "initialize" / "student"
    student.mkdir(parents=True)
    (student / "generation_config.json").write_text(json.dumps({"eos_token_id": config_eos}))
    (student / "config.json").write_text("{}")
    tokenizer = load.load_tokenizer(str(ROOT / "recipes/quickstart/teacher"))
    own = train._stop_ids(Train(stop_tokens="together"), RunFolder(tmp_path), tokenizer)
    assert {*ids, tokenizer.eos_token_id} <= set(own) and own == sorted(own)
    assert len(set(own) - set(ids)) <= 2, "and the end of turn of its template"
    assert train._stop_ids(Train(), RunFolder(tmp_path), tokenizer) == []
