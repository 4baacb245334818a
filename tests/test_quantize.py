"""The quantize stage on a trained model: the importance matrix comes from training samples, even over the languages."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from format_helpers import TEACHER, trained
from result_helpers import file_check

from distill import quantize
from distill.core.run_folder import RunFolder, StageOutput
from distill.errors import DataError, MismatchError
from distill.formats import FORMATS, path_of, w4a16
from distill.formats.export import Export
from distill.formats.gguf import write
from distill.formats.gguf.chat_template import MARK
from distill.models import load
from distill.recipe import Recipe
from distill.recipe.sections import Quantize


def test_a_file_beyond_the_gate_is_failed() -> None:
    check = file_check(top_token_agreement=0.795, kl=0.25, kl_error=0.01)
    share = "79.5% of positions, quantize.min_top_token_share is 80.0%"
    nats = "0.2500 nats a token (± 0.0100) from the student, quantize.max_kl is 0.1"
    assert f"{share}; {nats}; take" in (quantize.failure(check, Quantize()) or "")
    assert (quantize.failure(check, Quantize(min_top_token_share=0.5)) or "").endswith(
        f"{nats}; take a larger format, or train longer"
    )
    assert quantize.failure(check, Quantize(min_top_token_share=0.795, max_kl=None)) is None
    assert quantize.failure(check, Quantize(min_top_token_share=0, max_kl=0.25)) is None
    no_number = file_check(kl=math.nan, kl_error=math.nan)
    assert "nan nats a token" in (quantize.failure(no_number, Quantize()) or "")


@pytest.fixture(scope="module")
def sixteen_bits(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, StageOutput]:
    """A run whose student is there in 16 bits alone."""
    recipe, folder = trained(tmp_path_factory.mktemp("sixteen_bits"), "quantize.formats=[]")
    return folder, quantize.run(recipe, folder)


@pytest.fixture
def begun(
    tmp_path: Path, sixteen_bits: tuple[RunFolder, StageOutput]
) -> Callable[..., tuple[Recipe, RunFolder]]:
    """`trained` where quantize was stopped after the folder in 16 bits, which it writes and times first of all."""

    def make(*overrides: str) -> tuple[Recipe, RunFolder]:
        recipe, folder = trained(tmp_path, *overrides)
        written = path_of(sixteen_bits[0], "w16a16")
        shutil.copytree(written, path_of(folder, "w16a16"))
        shutil.copy2(written.with_name("w16a16.json"), folder.stage("quantize"))
        return recipe, folder

    return make


def test_a_file_of_mixed_types_keeps_its_budget_and_says_how_they_were_chosen(
    begun: Callable[..., tuple[Recipe, RunFolder]],
) -> None:
    recipe, folder = begun("quantize.formats=[mixed]", "quantize.budget_mb=1.9")
    check = quantize.run(recipe, folder).result.formats["mixed"]
    assert 1_800_000 < check.bytes == path_of(folder, "mixed").stat().st_size <= 1_900_000
    assert (
        check.kl_of_choices[check.chosen] == min(check.kl_of_choices.values())
        and len(check.kl_of_choices) > 3
    )
    assert check.top_token_agreement > 0.7 and check.importance_matrix


def test_a_recovered_file_takes_the_place_of_a_worse_plain_one_and_both_are_told(
    begun: Callable[..., tuple[Recipe, RunFolder]], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [
        "quantize.formats=[q2_k, q8_0]",
        "quantize.recover=[q2_k, q8_0]",
        "quantize.recover_steps=12",
    ]
    recipe, folder = begun(*overrides, "quantize.num_sequences=8")
    checks = quantize.run(recipe, folder).result.formats
    printed = capsys.readouterr().out
    for name in ("q2_k", "q8_0"):
        recovery, check = checks[name].recovery, checks[name]
        assert recovery.kept in ("plain", "recovered")
        kept = recovery.plain if recovery.kept == "plain" else recovery.recovered
        assert check.kl == kept.kl <= recovery.plain.kl
        assert check.bytes == path_of(folder, name).stat().st_size
        assert f"quantize: {name}: {check.note}" in printed
    assert (
        checks["q2_k"].recovery.kept == "recovered" and "recovery won back" in checks["q2_k"].note
    )
    left = {path.name for path in folder.stage("quantize").iterdir()}
    assert not [
        name for name in left if "latent" in name or "recovered" in name or name.endswith(".npy")
    ]


def test_an_export_that_says_something_else_is_an_error_whatever_is_shipped(
    begun: Callable[..., tuple[Recipe, RunFolder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = begun("quantize.formats=[q8_0]")
    right = write.planned_tensors

    def wrong(*arguments: Any) -> Any:
        tensors = right(
            *arguments
        )  # the norm before the last layer's feed-forward a little too large
        return [
            replace(t, change=lambda x: 1.05 * x) if t.name == "blk.5.ffn_norm.weight" else t
            for t in tensors
        ]

    monkeypatch.setattr(write, "planned_tensors", wrong)
    with pytest.raises(
        MismatchError,
        match=r"differs from itself by up to 0\.\d+.*the export of this architecture is wrong",
    ):
        quantize.run(recipe, folder)


def test_a_mixed_file_whose_tensors_are_mostly_whole_is_no_f16_file(
    begun: Callable[..., tuple[Recipe, RunFolder]],
) -> None:
    recipe, folder = begun("quantize.formats=[mixed]", "quantize.budget_mb=4.6")
    check = quantize.run(recipe, folder).result.formats["mixed"]
    assert check.bytes <= 4_600_000 and check.tensor_types["F16"] > 1


def test_a_budget_that_no_types_fit_is_an_error(
    begun: Callable[..., tuple[Recipe, RunFolder]],
) -> None:
    recipe, folder = begun("quantize.formats=[mixed]", "quantize.budget_mb=0.5")
    with pytest.raises(DataError, match=r"quantize\.budget_mb: the smallest types take"):
        quantize.run(recipe, folder)


def test_files_below_eight_bits_are_steered_by_an_importance_matrix(
    begun: Callable[..., tuple[Recipe, RunFolder]],
) -> None:
    recipe, folder = begun("quantize.formats=[q8_0, q4_0]")
    output = quantize.run(recipe, folder)
    checks = output.result.formats
    assert [checks[name].importance_matrix for name in ("q8_0", "q4_0")] == [False, True]
    assert checks["q4_0"].top_token_agreement > 0.7
    assert (
        0 <= checks["q8_0"].kl < checks["q4_0"].kl
        and checks["q4_0"].num_kl_tokens == checks["q4_0"].num_tokens
    )
    assert all(
        getattr(checks["q8_0"], name) > 0
        for name in ("peak_memory", "prefill_speed", "decode_speed")
    )
    assert not list(folder.stage("quantize").glob("*.npy"))
    matrix = folder.stage("quantize") / "imatrix.gguf"
    assert matrix in output.files
    modelfiles = [
        folder.stage("quantize") / name
        for name in ("q8_0.Modelfile", "q4_0.Modelfile", "Modelfile")
    ]
    assert set(modelfiles) <= set(output.files)
    assert modelfiles[2].read_text().splitlines()[1] == "FROM ./q4_0.gguf"
    template = gguf.GGUFReader(path_of(folder, "q4_0")).get_field("tokenizer.chat_template")
    assert template is not None and template.contents().startswith(MARK), (
        "any llama.cpp server writes the prompt of training"
    )
    names = {
        t.name.removesuffix(".in_sum2")
        for t in gguf.GGUFReader(matrix).tensors
        if t.name.endswith(".in_sum2")
    }
    assert (
        names <= {t.name for t in gguf.GGUFReader(path_of(folder, "q4_0")).tensors}
        and "blk.0.attn_q.weight" in names
    )


def test_without_formats_there_is_the_student_in_sixteen_bits(
    sixteen_bits: tuple[RunFolder, StageOutput],
) -> None:
    folder, output = sixteen_bits
    student, place = folder.stage("train") / "student", path_of(folder, "w16a16")
    check = output.result.formats["w16a16"]
    assert list(output.result.formats) == ["w16a16"] and check.failed is None
    assert output.result.student_bytes == (student / "model.safetensors").stat().st_size
    assert check.bytes == (
        place / "model.safetensors"
    ).stat().st_size and check.bits_per_weight == pytest.approx(16, abs=0.1)
    assert check.top_token_agreement > 0.99 and check.kl < 1e-3 and check.runtime == "transformers"
    assert {
        place / "model.safetensors",
        place / "tokenizer.json",
        place.with_name("w16a16.json"),
    } <= set(output.files)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_file_that_was_damaged_while_quantize_was_stopped_is_written_again(
    begun: Callable[..., tuple[Recipe, RunFolder]], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = begun("quantize.formats=[]")
    weights = path_of(folder, "w16a16") / "model.safetensors"
    before = weights.read_bytes()
    flip(weights, len(before) // 2)
    check = quantize.run(recipe, folder).result.formats["w16a16"]
    assert "w16a16: not what was checked before; written again" in capsys.readouterr().out
    assert weights.read_bytes() == before and check.failed is None


def test_only_the_file_that_was_checked_keeps_its_check(
    begun: Callable[..., tuple[Recipe, RunFolder]],
) -> None:
    export = Export.of(*begun("quantize.formats=[]"))
    stored = export.stage / "w16a16.json"
    check, sha256 = quantize._stored(stored)
    assert sha256 == quantize._sha256_of(export, FORMATS["w16a16"])
    content = stored.read_text()
    for text in ("[]", "{}", content[:-9], "1e999", content.replace("{", "[", 1), "\ufeff"):
        stored.write_text(text)
        with pytest.raises(DataError, match=r"w16a16\.json: broken .*delete it and run"):
            quantize._stored(stored)
    without = {name: value for name, value in json.loads(content).items() if name != "files"}
    del without["sha256"]
    stored.write_text(json.dumps(without))
    assert quantize._stored(stored) == (check, None), "as an earlier version wrote it"


@pytest.mark.parametrize("beyond", ["what its weights make of a word", "a weight"])
def test_a_student_beyond_float16_is_written_in_bfloat16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], beyond: str
) -> None:
    recipe, folder = trained(tmp_path, "quantize.formats=[]")
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        if beyond == "a weight":
            mlp.up_proj.weight[3, 4] = 1e5
        else:
            mlp.down_proj.weight *= 1e4
            mlp.up_proj.weight *= 1e3
    model.save_pretrained(folder.stage("train") / "student")
    check = quantize.run(recipe, folder).result.formats["w16a16"]
    assert set(check.tensor_types) == {"BF16"} and check.failed is None and math.isfinite(check.nll)
    assert "w16a16: float16 does not hold the numbers of this student" in capsys.readouterr().err


def test_a_w4a16_folder_is_measured_like_every_other(
    begun: Callable[..., tuple[Recipe, RunFolder]],
) -> None:
    pytest.importorskip("compressed_tensors", reason=w4a16.INSTALL)
    recipe, folder = begun("quantize.formats=[w4a16]", "quantize.importance_sequences=8")
    output = quantize.run(recipe, folder)
    check = output.result.formats["w4a16"]
    assert check.runtime == "transformers + compressed-tensors" and check.top_token_agreement > 0.7
    assert path_of(folder, "w4a16") / "model.safetensors" in output.files
