"""Prompts from every kind of file, with columns mapped, normalised and judged before they cost anything."""

import json
import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
import yaml
from run_helpers import ROOT

from distill import generate
from distill.core.jsonl import write_jsonl
from distill.data import sources
from distill.data.samples import Prompt, by_shares, mixed, read_prompts, split_prompts
from distill.data.translation import chrf, wrong_translation
from distill.errors import DataError, MissingError, RecipeError
from distill.filters.prompt_filters import judge_prompts
from distill.recipe import load_recipe

ROWS = [
    {"q": "Una mbuzi wangapi?", "lang": "sw", "a": 12, "n": "x1"},
    {"q": "How many goats do you have?", "lang": "en", "a": 12, "n": "x2"},
    {"q": "Combien de chèvres avez-vous ?", "lang": "fr", "a": 12, "n": "x3"},
]
MAPPED = "columns: {prompt: q, language: lang, reference: a, id: n}"


@pytest.fixture
def recipe(tmp_path):
    """`recipe("[{file: a.txt}]")`: a recipe whose prompts are these."""

    def make(prompts, *overrides):
        text = f"""
name: t
languages: [en, sw]
teacher: {{model: ./none}}
student: {{method: random}}
generate: {{prompts: {prompts}}}
"""
        (tmp_path / "r.yaml").write_text(text)
        return load_recipe(tmp_path / "r.yaml", overrides)

    return make


def read(recipe, *, needs_reference=False, skipped=None):
    return read_prompts(
        recipe,
        "generate.prompts",
        recipe.generate.prompts,
        needs_reference=needs_reference,
        skipped=skipped,
    )


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
    skipped = Counter()
    made = recipe(f"[{{file: p.{kind}, {MAPPED}}}]")
    found = read(made, needs_reference=True, skipped=skipped)
    assert [(p.text, p.language, p.reference, p.source_id, p.source) for p in found] == [
        ("Una mbuzi wangapi?", "sw", "12", "x1", f"p.{kind}"),
        ("How many goats do you have?", "en", "12", "x2", f"p.{kind}"),
    ]
    assert skipped == {"other_language": 1}  # French is not the recipe's


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


def test_translation_pairs_go_both_ways_and_are_not_held_out(recipe, tmp_path):
    write_jsonl(
        tmp_path / "t.jsonl",
        [
            {"en": "Good morning.", "swahili": "Habari za asubuhi.", "fr": "Bonjour."},
            {"en": "Alone."},
        ],
    )
    write_jsonl(
        tmp_path / "p.jsonl", [{"prompt": f"Count to {n}.", "language": "en"} for n in range(20)]
    )
    made = recipe("[{file: t.jsonl, translate: {en: en, sw: swahili, fr: fr}}, {file: p.jsonl}]")
    pairs = [p for p in read(made) if p.is_translation]
    assert [(p.language, p.reference, p.text) for p in pairs] == [
        (
            "sw",
            "Habari za asubuhi.",
            "Translate into Swahili. Give the translation only.\n\nGood morning.",
        ),
        (
            "en",
            "Good morning.",
            "Translate into English. Give the translation only.\n\nHabari za asubuhi.",
        ),
        ("en", "Good morning.", "Translate into English. Give the translation only.\n\nBonjour."),
        (
            "sw",
            "Habari za asubuhi.",
            "Translate into Swahili. Give the translation only.\n\nBonjour.",
        ),
    ]
    learn, held_out = split_prompts(made)
    assert (
        held_out
        and not any(p.is_translation for p in held_out)
        and sum(p.is_translation for p in learn) == 4
    )


def test_sources_that_are_not_verified_stand_beside_a_task_and_are_not_held_out(recipe, tmp_path):
    write_jsonl(
        tmp_path / "sums.jsonl",
        [{"prompt": f"{n} + 1 = ?", "language": "en", "reference": str(n + 1)} for n in range(40)],
    )
    (tmp_path / "harm.txt").write_text("\n".join(f"How do I poison well {n}?" for n in range(40)))
    mixed = "[{file: sums.jsonl}, {file: harm.txt, language: en, verify: false, refusals: require}]"
    learn, held_out = split_prompts(recipe(mixed, "generate.task=final_number"))
    assert held_out and {p.source for p in held_out} == {"sums.jsonl"}
    assert {(p.source, p.verify, p.refusals) for p in learn} == {
        ("sums.jsonl", True, "drop"),
        ("harm.txt", False, "require"),
    }
    assert {p.source for p in split_prompts(recipe(mixed))[1]} == {"sums.jsonl", "harm.txt"}
    with pytest.raises(DataError, match="verify: false in this source"):
        split_prompts(recipe("[{file: harm.txt, language: en}]", "generate.task=final_number"))
    with pytest.raises(DataError, match="prompts to evaluate on"):
        split_prompts(
            recipe("[{file: harm.txt, language: en, verify: false}]", "generate.task=final_number")
        )
    with pytest.raises(RecipeError, match="verify: false beside expand"):
        recipe("[{file: sums.jsonl}, {expand: magpie, num: 3}]", "generate.task=final_number")
    assert recipe(
        "[{file: sums.jsonl}, {expand: magpie, num: 3, verify: false}]",
        "generate.task=final_number",
    )
    with pytest.raises(RecipeError, match="verify and refusals"):
        recipe("[{file: sums.jsonl}]", "evaluate.prompts=[{file: harm.txt, refusals: keep}]")


def test_a_translation_in_other_words_passes_and_another_sentence_does_not():
    reference = "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa."
    assert chrf(reference, reference) == 1 and chrf("", reference) == 0
    assert (
        wrong_translation("Watu wote huzaliwa huru na wana hadhi na haki sawa.", reference) is None
    )
    assert "chrF" in (
        wrong_translation("Jaribio hilo lilionyesha kwamba DNA ndiyo nyenzo ya nasaba.", reference)
        or ""
    )
    assert (
        wrong_translation(
            "人人生来自由，尊严和权利一律平等。", "人人生而自由，在尊严和权利上一律平等。"
        )
        is None
    )
    assert wrong_translation(
        "今天的天气很好，我们去市场买菜。", "人人生而自由，在尊严和权利上一律平等。"
    )


def test_prompts_are_normalised_so_that_what_looks_the_same_is_asked_once(recipe, tmp_path):
    text = "Ẹ̀kọ́ ni kí o ṣe?"
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")] + ["\ufeff\x07" + text]
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": form, "language": "en"} for form in forms])
    assert len({p.id for p in read(recipe("./p.jsonl"))}) == 1


def test_a_prompt_in_another_language_or_nearly_asked_before_is_not_asked():
    goats = "Mfugaji mmoja wa Kisumu ana mbuzi ishirini na wanne, anauza saba sokoni na kununua kumi wengine. Ana mbuzi wangapi sasa?"
    prompts = [
        goats,
        goats.replace("Kisumu", "Kitale"),
        goats + " 7",
        "How many goats does the farmer have after he has sold seven of them?",
        "农夫卖掉了七只山羊以后还有多少只山羊？",
    ]
    asked = [Prompt(({"role": "user", "content": text},), "sw") for text in prompts]
    reasons = judge_prompts(asked, languages=["sw", "en"], near_duplicate=0.7)
    assert [r and r.partition(":")[0] for r in reasons] == [
        None,
        "near_duplicate_prompt",
        None,
        "wrong_prompt_language",
        "wrong_prompt_language",
    ]
    assert judge_prompts([replace(p, check_language=False) for p in asked[3:]]) == [None, None]


def test_shares_hold_and_the_scarcest_language_sets_the_number(recipe, tmp_path):
    write_jsonl(
        tmp_path / "p.jsonl",
        [{"prompt": f"{n}", "language": "sw" if n % 4 == 0 else "en"} for n in range(400)],
    )
    prompts = read(recipe("./p.jsonl"))
    for num, expected in ((None, {"sw": 100, "en": 66}), (50, {"sw": 30, "en": 20})):
        chosen = by_shares(prompts, {"sw": 0.6, "en": 0.4}, num)
        assert Counter(p.language for p in chosen) == expected
    more = by_shares(prompts + prompts[:4], {"sw": 0.6, "en": 0.4}, 50)
    assert {p.id for p in more} == {p.id for p in chosen}, "an appended prompt displaces none"
    with pytest.raises(DataError, match="no usable prompt"):
        by_shares(prompts[1:4], {"sw": 0.5, "en": 0.5}, None)


def test_sources_have_their_shares_after_the_filters(recipe, tmp_path):
    numbers = {"sw.jsonl": 90, "en.jsonl": 200, "safety.jsonl": 30}
    for number, (name, num) in enumerate(numbers.items()):
        write_jsonl(
            tmp_path / name, [{"prompt": f"{number} {n}", "language": "en"} for n in range(num)]
        )
    loaded = recipe(
        "[{file: sw.jsonl, share: 0.6}, {file: en.jsonl, share: 0.3}, {file: safety.jsonl, share: 0.1}]"
    )
    prompts = read(loaded)
    assert Counter(p.source for p in mixed(loaded.generate, prompts)) == {
        "sw.jsonl": 90,
        "en.jsonl": 45,
        "safety.jsonl": 15,
    }
    few = recipe(loaded.generate.model_dump(mode="json")["prompts"], "generate.num_prompts=50")
    assert Counter(p.source for p in mixed(few.generate, prompts)) == {
        "sw.jsonl": 30,
        "en.jsonl": 15,
        "safety.jsonl": 5,
    }
    asked, refused = generate.judge_prompts(few, prompts, [])
    assert len(asked) == 50 and {why for _, why in refused} == {
        "beyond_share: its source has enough prompts"
    }
    assert len(split_prompts(few)[0]) > 250, "num_prompts is taken after the filters"
    with pytest.raises(DataError, match=r"share: safety.jsonl: no usable prompt in that source"):
        mixed(loaded.generate, prompts[:200])


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("[{file: p.jsonl, share: 0.5}, {file: q.jsonl}]", "q.jsonl has no share"),
        ("[{file: p.jsonl, share: 0.5}, {file: q.jsonl, share: 0.4}]", "add up to 0.9"),
        ("[{file: p.jsonl, share: 0.5}, {file: p.jsonl, share: 0.5}]", "the same file"),
        ("[{file: p.jsonl, share: 1}], shares: {en: 0.5, sw: 0.5}", "exclude each other"),
    ],
)
def test_shares_that_cannot_hold_are_refused(recipe, prompts, words):
    with pytest.raises(RecipeError, match=words):
        recipe(prompts)


def test_the_mix_that_the_recipe_for_1b_shows_can_be_had(recipe):
    """The commented lines of recipes/qwen_to_1b.yaml."""
    lines = (ROOT / "recipes/qwen_to_1b.yaml").read_text(encoding="utf-8").splitlines()
    (first,) = [n for n, line in enumerate(lines) if line == "  # prompts:"]
    block = yaml.safe_load(
        "\n".join(line.removeprefix("  #") for line in lines[first + 1 : first + 6])
    )
    kind, shares = recipe(json.dumps(block)).generate.mix or ("", {})
    assert kind == "source" and list(shares.values()) == [0.45, 0.35, 0.1, 0.05, 0.05]
    assert list(shares)[3:] == ["personas of people.txt", "harmful.jsonl"]


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


def test_a_changed_file_is_a_changed_input_and_one_plain_file_has_the_identity_it_had(
    recipe, tmp_path
):
    from distill.core.digests import file_sha256

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
