"""The stage trim: from a run's samples to the same samples in fewer tokens, and the student for them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from format_helpers import save
from run_helpers import QUICKSTART, SMALL

from distill import chat, initialize, pipeline, trim
from distill.core.run_folder import RunFolder
from distill.data.stored_samples import read_samples
from distill.errors import DataError, MismatchError, RecipeError
from distill.models import load
from distill.recipe import load_recipe
from distill.shaping.coverage import told
from distill.shaping.trimmed import TrimmedVocabulary, kept_path, samples_stage, trimmed_vocabulary

TEACHER = str(QUICKSTART.parent / "quickstart" / "teacher")
TO_768 = "student.vocabulary={size: 768, max_fertility_loss: null}"
TEXT = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]


@pytest.fixture
def generated(finished, tmp_path):
    """A run folder as generate leaves it."""
    shutil.copytree(finished / "generate", tmp_path / "run" / "generate")
    return RunFolder(tmp_path / "run")


def recipe_of(folder, *more):
    return load_recipe(QUICKSTART, [*SMALL, f"run_folder={folder.path}", TO_768, *more])


def trimmed(folder, *more):
    recipe = recipe_of(folder, *more)
    result = pipeline.run(recipe, stages=["trim"]).manifests["trim"].result
    return recipe, result


def contents(folder):
    return {
        path.name: path.read_bytes() for path in folder.stage("trim").rglob("*") if path.is_file()
    }


def test_samples_are_the_same_texts_in_the_trimmed_ids(generated, capsys):
    recipe, result = trimmed(generated)
    vocabulary = trimmed_vocabulary(recipe, generated)
    assert vocabulary is not None and len(vocabulary) == result.vocab_size == 768
    assert samples_stage(recipe) == "trim"
    before = read_samples(generated.stage("generate") / "kept.jsonl")
    after = read_samples(kept_path(recipe, generated))
    teacher = load.load_tokenizer(TEACHER)
    num_longer = 0
    for old, new in zip(before, after, strict=True):
        assert replace(new, prompt_ids=old.prompt_ids, answer_ids=old.answer_ids) == old
        for ids, as_parent in (
            (new.prompt_ids, old.prompt_ids),
            (new.answer_ids, old.answer_ids),
        ):
            text = teacher.decode(as_parent)
            assert vocabulary.tokenizer.decode(ids) == text
            assert teacher.decode(vocabulary.parents_of(ids)) == text
        assert (
            new.answer_ids
            == vocabulary.tokenizer(
                teacher.decode(old.answer_ids), add_special_tokens=False
            ).input_ids
        )
        num_longer += len(new.ids) > len(old.ids)
    assert num_longer > 10
    assert (result.tokens_before, result.tokens_after) == tuple(
        sum(len(sample.ids) for sample in samples) for samples in (before, after)
    )
    assert [row.language for row in result.coverage] == recipe.languages
    assert all(row.loss > 0 for row in result.coverage)
    printed = capsys.readouterr()
    assert told(result) in printed.out and "768 of 1,024 tokens stay (75%)" in printed.out
    assert "little text to count tokens in" in printed.err, "40 prompts are little"


def test_it_is_made_again_to_the_same_bytes_and_kept_by_a_run_that_has_it(generated, capsys):
    recipe, _ = trimmed(generated)
    first = contents(generated)
    pipeline.run(recipe, stages=["trim"])
    assert "everything is done (trim)" in capsys.readouterr().out
    pipeline.run(recipe, stages=["trim"], redo="trim")
    assert contents(generated).keys() == first.keys()
    for name in ("tokenizer.json", "parent_ids.json", "kept.jsonl"):
        assert contents(generated)[name] == first[name]
    with pytest.raises(MismatchError, match=r"trim was made by another recipe.*--redo trim"):
        trimmed(generated, "student.vocabulary.size=896")


def test_rows_of_a_model_whose_tokenizer_was_not_trimmed_are_not_taken(generated):
    """Another id for a token is another row: the student would be noise."""
    recipe, _ = trimmed(generated, f"student.model={TEACHER}", "student.method=base")
    made = TrimmedVocabulary.read(generated.stage("trim"))
    removed = next(i for i in range(1024) if i not in made.parent_ids)
    others = tuple(sorted({*made.parent_ids[:-1], removed}))
    with pytest.raises(MismatchError, match=r"student\.model: .*is not its token.*--redo trim"):
        initialize.build(recipe, replace(made, parent_ids=others))
    initialize.build(recipe, made)


def test_texts_that_the_recipe_names_keep_their_tokens(generated, tmp_path):
    """The quickstart's prompts hold no such words; with the file they stay, and it is an input."""
    (tmp_path / "more.txt").write_text("university library dictionary\n" * 300)
    named = f"student.vocabulary.texts=[{{file: {tmp_path / 'more.txt'}, language: en}}]"
    _, plain = trimmed(generated)
    before = set(trimmed_vocabulary(recipe_of(generated), generated).parent_ids)
    recipe = recipe_of(generated, named)
    pipeline.run(recipe, stages=["trim"], redo="trim")
    after = set(trimmed_vocabulary(recipe, generated).parent_ids)
    assert after != before and len(after) == plain.vocab_size
    (tmp_path / "more.txt").write_text("another\n")
    with pytest.raises(MismatchError, match=r"student\.vocabulary\.texts"):
        pipeline.run(recipe, stages=["trim"])


def test_a_recipe_without_student_vocabulary_has_no_such_stage(finished):
    recipe = load_recipe(QUICKSTART, [*SMALL, f"run_folder={finished}"])
    assert trimmed_vocabulary(recipe, RunFolder(finished)) is None
    assert samples_stage(recipe) == "generate"
    with pytest.raises(RecipeError, match=r"no stage trim .*student\.vocabulary is null"):
        pipeline.run(recipe, stages=["trim"])


@pytest.mark.parametrize("method", ["base", "layers", "random"])
def test_the_student_begins_with_the_rows_of_its_tokens(generated, method):
    student = {"method": method, "vocabulary": {"size": 768, "max_fertility_loss": None}}
    if method != "random":
        student |= {"model": TEACHER, "layers_by": "even"}
    recipe = recipe_of(generated, f"student={json.dumps(student)}")
    trim.run(recipe, generated)
    result = initialize.run(recipe, generated).result
    folder = str(generated.stage("initialize") / "student")
    model = load.load_model(folder, load.Placement("cpu", "float32"))
    tokenizer, vocabulary = load.load_tokenizer(folder), trimmed_vocabulary(recipe, generated)
    assert chat.same_tokenizer(tokenizer, vocabulary.tokenizer) is None
    assert tokenizer.chat_template == load.load_tokenizer(TEACHER).chat_template
    assert result.vocab_size == model.config.vocab_size == len(tokenizer) == 768
    assert model.generation_config.eos_token_id in (
        tokenizer.eos_token_id,
        [tokenizer.eos_token_id],
    )
    assert model.config.pad_token_id == tokenizer.pad_token_id
    if method != "random":
        teacher = load.load_model(TEACHER, load.Placement("cpu", "float32"))
        rows = teacher.get_input_embeddings().weight[list(vocabulary.parent_ids)]
        assert torch.equal(model.get_input_embeddings().weight, rows)


def test_a_student_with_a_tokenizer_of_its_own_is_trimmed_in_that(tmp_path):
    save(tmp_path / "llama", "llama", tie_word_embeddings=False)
    vocabulary = {"size": 448, "max_fertility_loss": None}
    student = {"method": "base", "model": str(tmp_path / "llama"), "vocabulary": vocabulary}
    folder = RunFolder(tmp_path / "run")
    recipe = recipe_of(
        folder,
        *TEXT,
        "generate.num_prompts=10",
        f"student={json.dumps(student)}",
    )
    result = (
        pipeline.run(recipe, stages=["generate", "trim", "initialize"]).manifests["trim"].result
    )
    own = load.load_tokenizer(str(tmp_path / "llama"))
    assert result.parent_vocab_size == len(own) > result.vocab_size
    made = TrimmedVocabulary.read(folder.stage("trim"))
    before = read_samples(folder.stage("generate") / "kept.jsonl")
    for old, new in zip(before, read_samples(kept_path(recipe, folder)), strict=True):
        for ids, as_parent in (
            (new.prompt_ids, old.prompt_ids),
            (new.answer_ids, old.answer_ids),
        ):
            assert own.decode(made.parents_of(ids)) == own.decode(as_parent)


def test_a_template_that_has_changed_since_is_told(generated, monkeypatch):
    recipe = recipe_of(generated)
    students = trim.students_tokenizer

    def other(recipe, tokenizers):
        tokenizers.student.chat_template += "{{ 'more' }}"
        return students(recipe, tokenizers)

    monkeypatch.setattr(trim, "students_tokenizer", other)
    with pytest.raises(MismatchError, match=r"the prompt of .*--redo\s+generate"):
        trim.run(recipe, generated)


def test_a_language_without_text_is_refused(generated):
    recipe = recipe_of(generated, "languages=[en, zh, sw, id, hi, fr]")
    with pytest.raises(DataError, match=r"no text in fr"):
        trim.run(recipe, generated)


def test_a_language_that_was_taken_out_is_refused_before_the_work(generated):
    with pytest.raises(
        MismatchError, match=r"prompts.jsonl: has prompts in hi, id, .*--redo generate"
    ):
        trim.run(recipe_of(generated, "languages=[en, zh, sw]"), generated)


def test_a_tokenizer_with_several_templates_is_written_with_all_of_them(generated, tmp_path):
    recipe, _ = trimmed(generated)
    vocabulary = trimmed_vocabulary(recipe, generated)
    assert vocabulary is not None
    template = vocabulary.tokenizer.chat_template
    templates = {"default": template, "tool_use": f"{template}{{# with tools #}}"}
    vocabulary.tokenizer.chat_template = templates
    files = vocabulary.write(tmp_path / "made")
    assert sum(path.suffix == ".jinja" for path in files) == 2 and all(map(Path.is_file, files))
    assert TrimmedVocabulary.read(tmp_path / "made").tokenizer.chat_template == templates


def test_a_stage_that_was_cut_off_is_made_whole(generated, monkeypatch):
    recipe, _ = trimmed(generated)
    whole = contents(generated)
    shutil.rmtree(generated.stage("trim"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trim, "write_jsonl", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, stages=["trim"])
    assert not (generated.stage("trim") / "manifest.json").exists()
    pipeline.run(recipe, stages=["trim"])
    for name in ("tokenizer.json", "parent_ids.json", "kept.jsonl"):
        assert contents(generated)[name] == whole[name]


def test_a_whole_run_with_a_trimmed_vocabulary(generated, capsys):
    recipe = recipe_of(generated, "quantize.formats=[q8_0]", "quantize.importance_sequences=4")
    result = pipeline.run(recipe)
    student = load.load_tokenizer(str(generated.stage("train") / "student"))
    vocabulary = trimmed_vocabulary(recipe, generated)
    assert chat.same_tokenizer(student, vocabulary.tokenizer) is None
    stages = ["plan", "generate", "trim", "capture", "initialize", "train", "quantize", "evaluate"]
    assert list(result.manifests) == [*stages, "report"]
    trained = result.manifests["train"]
    assert {"trim", "capture", "initialize"} == trained.inputs.keys()
    check = result.manifests["quantize"].result.formats["q8_0"]
    assert check.tokenization.startswith("identical") and check.top_token_agreement > 0.9
    asked = [
        json.loads(line) for line in (generated.path / "evaluate/teacher_answers.jsonl").open()
    ]
    teacher = load.load_tokenizer(TEACHER)
    assert all(max(row["token_ids"]) < len(teacher) for row in asked)
    figures = result.manifests["evaluate"].result.models
    assert figures["student"].nll is not None and figures["q8_0"].nll is not None
    page = result.report.read_text()
    assert "768 of 1,024 tokens stay" in page and "tokens/word" in page
    card = (generated.path / "report" / "MODEL_CARD.md").read_text()
    assert "with 768 of the 1,024 tokens" in card
    assert "about 768 of 1,024 tokens stay" in result.manifests["plan"].result.text
    assert result.manifests["plan"].result.student["vocabulary"] == 768
    pipeline.run(recipe)
    assert "everything is done" in capsys.readouterr().out
