"""A wrong export is caught, whatever the student; a right one is never called wrong, however far 16 bits are from the student."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from format_helpers import trained
from safetensors.torch import load_file, save_file

from distill import quantize
from distill.errors import DataError, MismatchError
from distill.formats import FORMATS
from distill.formats.export import Export
from distill.formats.gguf import export_check, write
from distill.recipe.sections import Quantize

Weights = dict[str, torch.Tensor]
NORM, UP, DOWN = (
    "model.norm.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
)


def moved_by_rounding(weights: Weights) -> None:
    """Every log-prob fifty times as far apart, and so is what rounding does to it."""
    weights[NORM] *= 50


def activations_beyond_float16(weights: Weights) -> None:
    """What is read is within 65,504, what the first layer makes of it is not."""
    weights[DOWN] *= 1e4
    weights[UP] *= 1e3


def weight_beyond_float16(weights: Weights) -> None:
    weights[UP][3, 4] = 1e5


ODD = [moved_by_rounding, activations_beyond_float16, weight_beyond_float16]


def export_of(
    folder: Path, change: Callable[[Weights], None] | None, formats: str = "[q8_0]"
) -> Export:
    recipe, run = trained(folder, f"quantize.formats={formats}")
    path = run.stage("train") / "student" / "model.safetensors"
    weights = load_file(path)
    if change is not None:
        change(weights)
    save_file(weights, path, {"format": "pt"})
    return Export.of(recipe, run)


@pytest.mark.parametrize("change", [None, *ODD])
def test_a_right_export_is_never_called_wrong(tmp_path: Path, change: Any) -> None:
    export = export_of(tmp_path, change)
    FORMATS["q8_0"].prepare(export)
    assert export_check.require_right_export(export) < export_check.SAME_IN_FLOAT32 / 2
    assert not list(export.stage.glob(".*"))


def check_of_f16(export: Export) -> Any:
    format = FORMATS["f16"]
    return format.make(export, export.student, format.path(export.stage))


def test_an_f16_file_that_16_bits_move_is_written_and_its_distance_told(tmp_path: Path) -> None:
    check = check_of_f16(export_of(tmp_path, moved_by_rounding, "[f16]"))
    assert check.max_logp_difference > export_check.SAME_WEIGHTS
    assert f"up to {check.max_logp_difference:.3f} from the student" in check.note
    assert "the export is right" in check.note


def test_a_student_beyond_float16_fails_its_gate_as_f16_and_not_as_bf16(tmp_path: Path) -> None:
    export = export_of(tmp_path, activations_beyond_float16, "[f16, bf16]")
    check = check_of_f16(export)
    assert check.note == "float16 does not hold the numbers of this student: take bf16"
    assert quantize.failure(check, Quantize()) is not None
    format = FORMATS["bf16"]
    check = format.make(export, export.student, format.path(export.stage))
    assert quantize.failure(check, Quantize()) is None


def test_a_weight_beyond_float16_names_the_way_out(tmp_path: Path) -> None:
    export = export_of(tmp_path, weight_beyond_float16, "[f16]")
    with pytest.raises(DataError, match="does not fit float16: take the format bf16 instead"):
        check_of_f16(export)
    FORMATS["bf16"].write(export, export.student, FORMATS["bf16"].path(export.stage))


# --- wrong exports ---


def swapped(first: str, second: str) -> Callable[[Any], Any]:
    """Give two tensors of one shape each other's values."""

    def change(tensors: list[Any]) -> list[Any]:
        sources = {t.name: t.source for t in tensors}
        others = {first: sources[second], second: sources[first]}
        return [replace(t, source=others.get(t.name, t.source)) for t in tensors]

    return change


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda tensors: [replace(t, change=change) if t.name == name else t for t in tensors]


WRONG_TENSORS = {
    "two swapped": swapped("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"),
    "two norms swapped": swapped("blk.2.ffn_norm.weight", "blk.2.attn_norm.weight"),
    "keys of another layer": swapped("blk.3.attn_k.weight", "blk.4.attn_k.weight"),
    "a norm 5 % too large": changed("blk.5.ffn_norm.weight", lambda x: 1.05 * x),
    "rows in another order": changed("blk.0.attn_q.weight", lambda x: x[:].flip(0)),
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_wrong_tensors_are_a_wrong_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    export = export_of(tmp_path, moved_by_rounding)
    right = write.planned_tensors
    monkeypatch.setattr(write, "planned_tensors", lambda *args: WRONG_TENSORS[wrong](right(*args)))
    with pytest.raises(MismatchError, match="the export of this architecture is wrong"):
        FORMATS["q8_0"].prepare(export)


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps"])
def test_a_wrong_key_is_a_wrong_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    export = export_of(tmp_path, moved_by_rounding)
    right = write.read_config

    def wrong(folder: Path) -> Any:
        config = right(folder)
        if key == "rope_theta":
            config.rope_parameters["rope_theta"] *= 1.2
        else:
            config.rms_norm_eps = 1e-2
        return config

    monkeypatch.setattr(write, "read_config", wrong)
    with pytest.raises(MismatchError, match="the export of this architecture is wrong"):
        FORMATS["q8_0"].prepare(export)


@pytest.mark.parametrize("change", [None, moved_by_rounding])
def test_a_wrong_f16_file_is_a_wrong_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    export = export_of(tmp_path, change, "[f16]")
    right = write.planned_tensors
    wrong = WRONG_TENSORS["two swapped"]
    monkeypatch.setattr(write, "planned_tensors", lambda *args: wrong(right(*args)))
    with pytest.raises(MismatchError, match="the export of this architecture is wrong"):
        check_of_f16(export)
