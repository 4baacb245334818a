"""Rows of prompts from files and data sets, and what they are refused for."""

import json

import pytest

from distill.core.digests import file_sha256
from distill.core.jsonl import write_jsonl
from distill.data import sources
from distill.data.bad_rows import Left
from distill.data.prompts import read_prompts
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


def with_media(num_rows):
    """A data set with a column of sound and one of pictures, neither of which can be decoded."""
    import datasets
    import pyarrow
    from datasets.table import InMemoryTable

    columns = {
        "q": datasets.Value("string"),
        "sound": datasets.Audio(),
        "picture": datasets.Image(),
    }
    features = datasets.Features(columns)
    media = [{"bytes": b"x", "path": None}] * num_rows
    rows = {"q": [f"Hi {n}?" for n in range(num_rows)], "sound": media, "picture": media}
    table = pyarrow.table(rows, schema=features.arrow_schema)
    return datasets.Dataset(InMemoryTable(table), info=datasets.DatasetInfo(features=features))


def test_a_column_that_is_not_mapped_is_not_read(recipe, tmp_path):
    with_media(3).save_to_disk(str(tmp_path / "media"))
    of_text = recipe("[{dataset: ./media, language: en, columns: {prompt: q}}]")
    assert [p.text for p in read(of_text)] == ["Hi 0?", "Hi 1?", "Hi 2?"]
    for columns in ("", ", columns: {prompt: sound}", ", columns: {prompt: picture}"):
        with pytest.raises(
            DataError, match=r"\./media, row 1: cannot be read \(.*name the columns"
        ) as caught:
            read(recipe(f"[{{dataset: ./media, language: en{columns}}}]"))
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"no column 'question'; there are q, sound, picture"):
        read(recipe("[{dataset: ./media, language: en, columns: {prompt: question}}]"))
    pairs = recipe("[{dataset: ./media, translate: {en: english, sw: swahili}}]")
    with pytest.raises(DataError, match=r"none of the columns|cannot be read"):
        read(pairs)


def test_a_damaged_data_set_is_refused_by_name(recipe, tmp_path):
    with_media(3).save_to_disk(str(tmp_path / "media"))
    made = recipe("[{dataset: ./media, language: en, columns: {prompt: q}}]")
    for file in (tmp_path / "media").iterdir():
        whole = file.read_bytes()
        for content in (b"", b"[]", whole[: len(whole) // 2]):
            file.write_bytes(content)
            with pytest.raises((MissingError, DataError), match=r"\./media") as caught:
                read(made)
            assert len(str(caught.value)) < 600
        file.write_bytes(whole)
    assert len(read(made)) == 3


def test_one_bad_row_of_many_is_left_out_and_told_and_too_many_are_refused(recipe, tmp_path):
    good, bad = '{"prompt": "Hi %d?", "language": "en"}\n', '{"prompt": "Hi?"\n'
    made = recipe("./p.jsonl")

    def of(num_good, num_bad, *overrides):
        (tmp_path / "p.jsonl").write_text(
            "".join(good % n for n in range(num_good)) + bad * num_bad
        )
        left = Left()
        read(recipe("./p.jsonl", *overrides) if overrides else made, left=left)
        return left

    # at most a hundredth; of few rows at most a tenth, up to ten
    for num_good, allowed in ((9, 1), (90, 10), (500, 10), (2970, 30)):
        assert of(num_good, allowed).by_reason == {"not_json": allowed}
        with pytest.raises(DataError, match=f"{allowed + 1:,} of .* rows are bad: not_json"):
            of(num_good, allowed + 1)
    with pytest.raises(DataError, match=r"line 10: not JSON .*1 of 10 rows .*max_bad_rows"):
        of(9, 1, "generate.max_bad_rows=0")
    assert of(10, 30, "generate.max_bad_rows=0.75").by_reason == {"not_json": 30}
    assert of(10, 30, "generate.max_bad_rows=0.75").notes == [
        "generate.prompts: ./p.jsonl: 30 of 40 rows are left out (not_json 30), such as "
        f"{tmp_path}/p.jsonl, line 11: not JSON (Expecting ',' delimiter at column 17)"
    ]
    with pytest.raises(DataError, match=r"line 1: not JSON"):
        of(0, 300_000)


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
    with pytest.raises(DataError, match=r"unknown field 'q'.*columns"):
        read(recipe("./p.csv"))
    with pytest.raises(DataError, match="no prompts in it in en, sw"):
        (tmp_path / "f.jsonl").write_text(json.dumps(ROWS[2]))
        read(recipe(f"[{{file: f.jsonl, {MAPPED}}}]"))
    with pytest.raises(MissingError, match=r"generate\.prompts\.file: '\./no\.txt': no such file"):
        read(recipe("./no.txt"))


def test_the_way_out_of_an_unknown_field_of_sharegpt_works(recipe, tmp_path):
    turns = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}]
    write_jsonl(tmp_path / "p.jsonl", [{"conversations": turns, "language": "en", "lang": "x"}])
    with pytest.raises(DataError, match=r"unknown field 'lang' \(is it language\?\)") as caught:
        read(recipe("./p.jsonl"))
    way_out = str(caught.value).partition("generate.prompts=")[2].replace("...", "p.jsonl")
    assert [p.text for p in read(recipe(way_out))] == ["Hi?"]


@pytest.mark.parametrize(
    "other",
    ["langauge", "Language", "lang", "ID", "refrence", "answer", "prompts", "message", "system"],
)
def test_a_column_that_may_be_meant_is_refused_and_the_way_out_works(recipe, tmp_path, other):
    rows = [{"prompt": f"Hi {n}?", "language": "en", other: "goats"} for n in range(3)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match=f"unknown field '{other}' \\(is it ") as caught:
        read(recipe("./p.jsonl"))
    way_out = str(caught.value).partition("generate.prompts=")[2].replace("...", "p.jsonl")
    assert [p.text for p in read(recipe(way_out))] == ["Hi 0?", "Hi 1?", "Hi 2?"]


def test_a_harmless_column_costs_one_line_and_no_sheet(recipe, tmp_path):
    others = {"Kommentar": "gut", "difficulty": 3, "source": "web", "topic": "goats", "题目": 1}
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Hi?", "language": "en", **others}] * 3)
    left = Left()
    assert [p.text for p in read(recipe("./p.jsonl"), left=left)] == ["Hi?"] * 3
    assert left.notes == [
        "generate.prompts: ./p.jsonl: columns that are none of ours are left out: "
        "Kommentar, difficulty, source, topic, 题目"
    ]


def test_a_missing_language_says_how_to_give_it_and_that_works(recipe, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Hi?"}])
    with pytest.raises(DataError, match=r"line 1: no language: set `language: en`.*`columns: "):
        read(recipe("./p.jsonl"))
    assert [p.language for p in read(recipe("[{file: p.jsonl, language: en}]"))] == ["en"]


def test_three_letter_codes_are_the_recipes_languages_and_unknown_ones_are_named(recipe, tmp_path):
    mapped = "[{file: p.jsonl, columns: {prompt: q, language: lang}}]"
    codes = ["eng_Latn", "swh_Latn", "fra_Latn", "English", "English", "x" * 100]
    rows = [{"q": f"question {n}", "lang": code} for n, code in enumerate(codes)]
    write_jsonl(tmp_path / "p.jsonl", rows)
    left = Left()
    assert [p.language for p in read(recipe(mapped), left=left)] == ["en", "sw"]
    assert left.by_reason == {"other_language": 1, "unknown_language": 3}
    assert f"nobody knows: 'English' (2), '{'x' * 39} (1)" in left.notes[1]
    assert "1 rows in other languages" in left.notes[0]
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


@pytest.mark.parametrize("kind", ["Parquet", "data set"])
def test_a_float32_is_the_decimal_that_was_written(recipe, tmp_path, kind):
    import datasets
    import pyarrow
    import pyarrow.parquet

    references = pyarrow.array([0.1, 16777.21, -2.5e-7, 3.0, None], pyarrow.float32())
    columns = {"prompt": [f"Sum {n}?" for n in range(5)], "language": ["en"] * 5}
    table = pyarrow.table({**columns, "reference": references})
    if kind == "Parquet":
        pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
        made = recipe("./p.parquet")
    else:
        datasets.Dataset(table).save_to_disk(tmp_path / "set")
        made = recipe("[{dataset: ./set}]")
    assert [prompt.reference for prompt in read(made)] == [0.1, 16777.21, -2.5e-7, 3.0, None]
