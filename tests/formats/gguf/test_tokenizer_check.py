"""What llama.cpp reads, text and conversations, is what the student has learnt: also where a vocabulary lacks bytes, or adds a bos."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from format_helpers import SENTENCES, TEACHER, change_tokenizer, trained, with_bos

from distill.errors import MismatchError
from distill.formats import FORMATS
from distill.formats.export import Export
from distill.formats.gguf import write
from distill.formats.gguf.byte_tokens import NEVER_IN_TEXT, texts_with
from distill.formats.gguf.tokenizer_check import require_same_tokens
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.llama_cpp.process import LlamaProcess
from distill.models import load
from distill.text.byte_tokens import byte_level_tokens

SMOLLM2_LACKS = (0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100))
TEXT_BYTES = [byte for byte in range(256) if byte not in NEVER_IN_TEXT]


def without_bytes(folder: Path, numbers: tuple[int, ...]) -> None:
    """Give the tokens of these bytes other texts, which no merge makes, and drop the merges with them."""
    tokens = [byte_level_tokens()[number] for number in numbers]

    def drop(content: dict[str, Any]) -> None:
        model = content["model"]
        absent = {token: f"<no {number}>" for token, number in zip(tokens, numbers, strict=True)}
        gone = {text for text in model["vocab"] if set(text) & set(tokens)}
        absent |= {text: f"<none {n}>" for n, text in enumerate(sorted(gone - set(tokens)))}
        model["vocab"] = {absent.get(text, text): i for text, i in model["vocab"].items()}
        model["merges"] = [m for m in model["merges"] if not set("".join(m)) & set(tokens)]

    change_tokenizer(folder, drop)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    recipe, folder = trained(tmp_path / "run")
    return Export.of(recipe, folder)


def checked(export: Export, **options: Any) -> str:
    """Return what the check of the student's f16 file says."""
    again = Export.of(export.recipe, export.folder)
    path = write_gguf(again.student, again.stage / "f16.gguf", "f16", **options).path
    with LlamaProcess(path, num_threads=1, context_length=64) as llama:
        return require_same_tokens(again, path, llama)


def test_a_vocabulary_without_the_bytes_that_smollm2_lacks_is_exported_and_its_lack_told(
    export: Export,
) -> None:
    without_bytes(export.student, SMOLLM2_LACKS)
    assert checked(export).endswith(
        "conversations; no token for 0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2, "
        "which a text can hold"
    )


def test_before_the_first_file_quantize_tells_what_a_vocabulary_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = trained(tmp_path, "quantize.formats=[f16, q8_0]")
    export = Export.of(recipe, folder)
    without_bytes(export.student, (0xFF, 0x06))
    for name in recipe.quantize.formats:
        FORMATS[name].prepare(export)
        (export.stage / f"{name}.json").write_text("{}")
    assert capsys.readouterr().out.count("no token for 0x06, which a text can hold") == 1


def test_bytes_that_no_text_holds_lack_nothing(export: Export) -> None:
    without_bytes(export.student, tuple(NEVER_IN_TEXT))
    assert checked(export).endswith("conversations")


def test_every_byte_of_a_text_has_a_text_that_holds_it() -> None:
    for byte, text in zip(TEXT_BYTES, texts_with(TEXT_BYTES), strict=True):
        assert text.encode().count(byte) >= 2, hex(byte)


@pytest.mark.parametrize("seed", range(8))
def test_control_characters_and_planes_without_a_token_are_left_out_by_both(
    tmp_path: Path, seed: int
) -> None:
    place = random.Random(seed)
    folder = Path(shutil.copytree(TEACHER, tmp_path / "student"))
    rare = [byte for byte in range(0x20) if chr(byte) not in "\t\n\r"] + [0x7F, 0xF1, 0xF2, 0xF3]
    absent = sorted(place.sample(rare, place.randint(1, len(rare))))
    without_bytes(folder, tuple(absent))
    tokenizer = load.load_tokenizer(str(folder))
    odd = [text.split(" ")[1] for text in texts_with(absent)]
    words = [*" ".join(SENTENCES).split(" "), *odd]
    texts = [" ".join(place.choices(words, k=20)) for _ in range(40)]
    texts += ["".join(place.choice("abकख天 ") + place.choice(odd) for _ in range(9))]
    path = write_gguf(folder, tmp_path / "f16.gguf", "f16").path
    with LlamaModel(path, num_threads=1, context_length=64) as llama:
        for text in [*texts, *odd, *texts_with(absent)]:
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
            assert llama.tokenize(text) == ids, text


def test_a_vocabulary_without_a_letter_is_refused_where_the_tokens_differ(export: Export) -> None:
    """The tokenizer leaves the letter out before it joins its neighbours, llama.cpp after."""
    without_bytes(export.student, (ord("b"),))
    with pytest.raises(MismatchError, match=r"llama\.cpp reads .* the student as \d+; from token"):
        checked(export)


@pytest.mark.parametrize("eos", [False, True])
@pytest.mark.parametrize("template_writes", [False, True])
@pytest.mark.parametrize("tokenizer_adds", [False, True])
def test_bos_and_eos_go_around_a_conversation_as_in_training(
    export: Export, tokenizer_adds: bool, template_writes: bool, eos: bool
) -> None:
    with_bos(
        export.student, tokenizer_adds=tokenizer_adds, template_writes=template_writes, eos=eos
    )
    assert "conversations" in checked(export, trained=export.recipe.generate)


@pytest.mark.parametrize("wrong", [{"add_bos": True}, {"add_eos": True}])
def test_a_file_that_adds_what_training_had_not_is_refused(
    export: Export, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, bool]
) -> None:
    with_bos(export.student, tokenizer_adds=True, template_writes=False, eos=False)
    right = write.read_vocabulary
    monkeypatch.setattr(write, "read_vocabulary", lambda *args: replace(right(*args), **wrong))
    with pytest.raises(MismatchError, match=r"a llama\.cpp server reads .* the student as \d+"):
        checked(export)


def test_conversations_have_the_recipes_system_prompt(tmp_path: Path) -> None:
    recipe, folder = trained(tmp_path, "generate.system_prompt='Jibu “kwa” Kiswahili.'")
    with_bos(
        folder.stage("train") / "student", tokenizer_adds=True, template_writes=False, eos=False
    )
    assert "conversations" in checked(Export.of(recipe, folder), trained=recipe.generate)
