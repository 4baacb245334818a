"""Rows of prompts from files and data sets, and what they are refused for."""

import json

import pytest

from distill.core.digests import file_sha256
from distill.core.jsonl import write_jsonl
from distill.data import sources
from distill.data.bad_rows import Left
from distill.data.samples import read_prompts
from distill.errors import DataError, MissingError, RecipeError


def read(recipe, *, needs_reference=False, left=None):
    return read_prompts(
        recipe,
        "generate.prompts",
        recipe.generate.prompts,
        needs_reference=needs_reference,
        left=left,
    )


ROWS = [
    {"q": "Una mbuzi wangapi?", "lang": "sw", "a": 12, "n": "x1"},
    {"q": "How many goats do you have?", "lang": "en", "a": 12, "n": "x2"},
    {"q": "Combien de chèvres avez-vous ?", "lang": "fr", "a": 12, "n": "x3"},
]
MAPPED = "columns: {prompt: q, language: lang, reference: a, id: n}"


def write_as(kind, path):
    if kind == "jsonl":
        write_jsonl(path, ROWS)
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        mark = "\t" if kind == "tsv" else ","
        lines = [
            mark.join(ROWS[0]),
            *(
                mark.join(f'"{v}"' if kind == "csv" else str(v) for v in row.values())
                for row in ROWS
            ),
        ]
        path.write_text("\n".join(lines))


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "tsv"])
def test_every_kind_of_file_gives_the_same_prompts(recipe, tmp_path, kind):
    write_as(kind, tmp_path / f"p.{kind}")
    left = Left()
    made = recipe(f"[{{file: p.{kind}, {MAPPED}}}]")
    found = read(made, needs_reference=True, left=left)
    assert [(p.text, p.language, p.reference, p.source_id, p.source) for p in found] == [
        ("Una mbuzi wangapi?", "sw", "12", "x1", f"p.{kind}"),
        ("How many goats do you have?", "en", "12", "x2", f"p.{kind}"),
    ]
    assert left.by_reason == {"other_language": 1}  # French is not the recipe's


def test_a_data_set_of_the_datasets_library(recipe, tmp_path):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    write_as("parquet", tmp_path / "files" / "test.parquet")
    for place, split in (("./saved", "train"), ("./files", "test")):
        made = recipe(f"[{{dataset: {place}, split: {split}, {MAPPED}}}]")
        assert [p.source_id for p in read(made)] == ["x1", "x2"]
    with pytest.raises(
        MissingError,
        match=r"generate\.prompts: data set './files/validation'.*check its name, config and split",
    ):
        read(recipe(f"[{{dataset: ./files, split: validation, {MAPPED}}}]"))
    with pytest.raises(MissingError, match="no such folder"):
        read(recipe("[{dataset: ./nowhere}]"))


def test_text_files_and_files_without_a_head_line(recipe, tmp_path):
    (tmp_path / "p.txt").write_text("Una mbuzi wangapi?\n\n  Una ng'ombe\u2028wangapi?  \n")
    (tmp_path / "p.tsv").write_text('He said "no.\t3\nNext\t4\n')
    made = recipe(
        "[{file: p.txt, language: sw}, {file: p.tsv, language: en, columns: {prompt: '0', reference: '1'}}]"
    )
    found = [(p.text, p.language, p.reference) for p in read(made)]
    assert found == [
        ("Una mbuzi wangapi?", "sw", None),
        ("Una ng'ombe\u2028wangapi?", "sw", None),
        ('He said "no.', "en", "3"),
        ("Next", "en", "4"),
    ]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("[{file: p.jsonl, dataset: x}]", "either file or dataset"),
        (
            "[{file: p.jsonl, colums: {}}]",
            "generate.prompts.0.colums: unknown key; did you mean columns",
        ),
        (
            "[{file: p.jsonl, columns: {promt: q}}]",
            "columns.promt: unknown key: input should be 'prompt'",
        ),
        ("[{file: p.doc}]", "does not end in .jsonl"),
        ("[{file: p.txt, split: test}]", "split belongs to a dataset"),
        ("[{file: p.jsonl, columns: {language: l}}]", "map either prompt"),
        ("[{file: p.jsonl, translate: {en: a}}]", "two languages"),
        ("[]", "at least 1"),
    ],
)
def test_a_wrong_source_is_refused_with_the_way_out(recipe, prompts, words):
    with pytest.raises(RecipeError, match=r"r\.yaml: generate\.prompts") as caught:
        recipe(prompts)
    assert words in str(caught.value)


def test_a_missing_column_file_or_language_is_named(recipe, tmp_path):
    write_as("csv", tmp_path / "p.csv")
    with pytest.raises(
        DataError, match=r"p\.csv, line 2: no column 'question' for prompt; there are q, lang, a, n"
    ):
        read(recipe("[{file: p.csv, columns: {prompt: question}}]"))
    with pytest.raises(DataError, match=r"unknown field 'a'.*columns"):
        read(recipe("./p.csv"))
    with pytest.raises(DataError, match="no prompts in it in en, sw"):
        (tmp_path / "f.jsonl").write_text(json.dumps(ROWS[2]))
        read(recipe(f"[{{file: f.jsonl, {MAPPED}}}]"))
    with pytest.raises(MissingError, match=r"generate\.prompts\.file: '\./no\.txt': no such file"):
        read(recipe("./no.txt"))


def test_three_letter_codes_are_the_recipes_languages_and_unknown_ones_are_named(recipe, tmp_path):
    mapped = "[{file: p.jsonl, columns: {prompt: q, language: lang}}]"
    codes = ["eng_Latn", "swh_Latn", "fra_Latn", "English", "English", "x" * 100]
    rows = [{"q": f"question {n}", "lang": code} for n, code in enumerate(codes)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    left = Left()
    assert [p.language for p in read(recipe(mapped), left=left)] == ["en", "sw"]
    assert left.by_reason == {"other_language": 1, "unknown_language": 3}
    assert f"nobody knows: 'English' (2), '{'x' * 39} (1)" in left.notes[0]
    write_jsonl(tmp_path / "p.jsonl", rows[2:])
    words = r"no prompts in it in en, sw; its languages are 'English' \(2\), 'fra_Latn' \(1\), 'x"
    with pytest.raises(DataError, match=words):
        read(recipe(mapped))


def test_a_changed_file_is_a_changed_input_and_one_plain_file_has_the_identity_it_had(
    recipe, tmp_path
):
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "language": "en"}])
    made = recipe("./p.jsonl")
    assert sources.identity(made, "generate.prompts", made.generate.prompts) == file_sha256(
        tmp_path / "p.jsonl"
    )
    assert made.generate.identity()["prompts"] == "./p.jsonl"
    two = recipe("[{file: p.jsonl}, {file: p.jsonl, language: en}]")
    before = sources.identity(two, "generate.prompts", two.generate.prompts)
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "b", "language": "en"}])
    assert sources.identity(two, "generate.prompts", two.generate.prompts) != before
    assert (
        recipe("[{file: p.jsonl}]", "generate.prompts=[{file: q.txt}]")
        .generate.prompts[0]
        .file.startswith("/")
    )
