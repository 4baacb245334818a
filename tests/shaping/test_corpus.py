"""The texts by which tokens are counted, by language."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from format_helpers import SENTENCES
from recipe_helpers import problem
from run_helpers import QUICKSTART
from shaping_helpers import made

from distill.core.progress import Progress
from distill.errors import DataError
from distill.recipe import load_recipe
from distill.shaping.corpus import Corpus, count_tokens, num_tokens

BAR = Progress("trim", 1, "corpora", shown=False)


def recipe_of(tmp_path, *texts, languages="[en, sw]"):
    named = json.dumps([{**text, "file": str(tmp_path / text["file"])} for text in texts])
    return load_recipe(
        QUICKSTART, [f"languages={languages}", f"student.vocabulary={{texts: {named}}}"]
    )


@pytest.fixture
def files(tmp_path):
    """The same two texts as .txt, .jsonl and .parquet."""
    texts = [SENTENCES[2], SENTENCES[4]]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n\n")
    rows = [{"text": text, "other": 3} for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.table({"said": texts}), tmp_path / "a.parquet")
    return texts


def test_texts_are_counted_in_their_language_from_every_kind_of_file(tmp_path, files):
    tokenizer = made("quickstart")
    ids = [i for text in files for i in tokenizer(text, add_special_tokens=False).input_ids]
    for text in (
        {"file": "a.txt"},
        {"file": "a.jsonl"},
        {"file": "a.parquet", "column": "said"},
    ):
        recipe = recipe_of(tmp_path, {**text, "language": "swh_Latn"})
        corpus = Corpus(recipe, {"en": SENTENCES[:1]})
        counts = count_tokens(tokenizer, corpus, 1024, BAR)
        assert counts.languages == ["en", "sw"]
        assert counts.counts_VL[:, 1].sum() == len(ids)
        assert all(counts.counts_VL[number, 1] == ids.count(number) for number in ids)
        assert counts.num_bytes[1] == sum(len(text.encode()) for text in files)
        after = num_tokens(tokenizer, corpus, BAR)
        assert after == [int(n) for n in counts.counts_VL.sum(0)]
        rows = counts.coverage(after, [None, 0.5])
        assert [row.loss for row in rows] == [0.0, 0.0]
        assert [row.new_text_loss for row in rows] == [None, 0.5]


@pytest.mark.parametrize("batch", [3, 7, 100])
def test_every_tenth_text_is_counted_alone_too(tmp_path, monkeypatch, batch):
    monkeypatch.setattr("distill.shaping.corpus.BATCH", batch)
    tokenizer = made("quickstart")
    texts = [f"Bei ni {number} na {number * 7}." for number in range(34)]
    corpus = Corpus(recipe_of(tmp_path), {"en": SENTENCES[:9], "sw": texts})
    counts = count_tokens(tokenizer, corpus, 1024, BAR)
    assert counts.tenth_VL[:, 0].sum() == 0
    ids = [i for t in texts[9::10] for i in tokenizer(t, add_special_tokens=False).input_ids]
    assert counts.tenth_VL[:, 1].tolist() == np.bincount(ids, minlength=1024).tolist()


def test_a_language_without_any_text_is_refused_with_the_way_out(tmp_path, files):
    corpus = Corpus(recipe_of(tmp_path), {"en": SENTENCES[:1], "sw": []})
    with pytest.raises(DataError, match=r"no text in sw .*student\.vocabulary\.texts"):
        count_tokens(made("quickstart"), corpus, 1024, BAR)


def test_a_text_in_another_language_than_the_recipes_counts_and_is_told(tmp_path, files):
    corpus = Corpus(
        recipe_of(tmp_path, {"file": "a.txt", "language": "hi"}),
        {"en": SENTENCES[:1], "sw": SENTENCES[2:3]},
    )
    assert count_tokens(made("quickstart"), corpus, 1024, BAR).languages == ["en", "sw", "hi"]
    assert corpus.notes() == [
        "student.vocabulary.texts: hi is none of the recipe's languages: its tokens are kept too"
    ]


def test_rows_without_a_text_are_left_out_and_told_or_refused(tmp_path):
    rows = ['{"text": "Habari"}'] * 40 + ['{"text": 3}', '{"text": null}', "no row"]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    recipe = recipe_of(tmp_path, {"file": "a.jsonl", "language": "sw"})
    corpus = Corpus(recipe, {"en": SENTENCES[:1]})
    count_tokens(made("quickstart"), corpus, 1024, BAR)
    assert "2 of 43 rows are left out" in corpus.left.notes[0]
    (tmp_path / "a.jsonl").write_text('{"words": "Habari"}\n')
    with pytest.raises(DataError, match=r"no column 'text'.*there are words"):
        count_tokens(made("quickstart"), corpus, 1024, BAR)


@pytest.mark.parametrize(
    "text, told",
    [
        ("{language: en}", "give either file or dataset"),
        ("{file: a.txt, dataset: b, language: en}", "give either file or dataset"),
        ("{file: a.pdf, language: en}", "does not end in"),
        ("{file: a.txt, config: sw, language: en}", "config belongs to a dataset"),
        ("{file: a.txt}", "language"),
    ],
)
def test_texts_that_cannot_be_read_are_refused_with_the_recipe(text, told):
    assert told in problem(f"student.vocabulary={{texts: [{text}]}}")
