"""W16A16 folders: every architecture loads from one and says what the student says; a 16-bit student is linked."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.core.files import files_under
from distill.formats import w16a16
from distill.models import find, load

FolderMaker = Callable[..., Path]
FURTHER = "additional_chat_templates/tool_use.jinja"
IDS = torch.arange(40)[None] * 13 % 600


@torch.no_grad()
def log_probs(folder: Path, dtype: str) -> torch.Tensor:
    return (
        load.load_model(str(folder), load.Placement("cpu", dtype))(IDS)
        .logits.float()
        .log_softmax(-1)
    )


def with_further_template(folder: Path, place: Path) -> Path:
    """Return a copy with a second chat template, as transformers saves one."""
    copy = Path(shutil.copytree(folder, place / "student"))
    (copy / FURTHER).parent.mkdir()
    (copy / FURTHER).write_text("{{ messages }}", encoding="utf-8")
    return copy


def names_under(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in files_under(folder)}


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "ernie", "qwen3.5"])
def test_a_float32_student_becomes_float16_and_says_the_same(
    model_folder: FolderMaker, tmp_path: Path, kind: str
) -> None:
    folder, out = with_further_template(model_folder(kind), tmp_path), tmp_path / "out"
    out.mkdir()
    assert w16a16.dtypes(folder) == ("float16", "bfloat16")
    w16a16.write_w16a16(folder, out, "float16")
    model = w16a16.load_w16a16(out)
    assert model.dtype == torch.float16 and w16a16.tensor_types(out).keys() <= {"F16", "F32"}
    exact = log_probs(folder, "float32")
    with torch.no_grad():
        found = model(IDS).logits.float().log_softmax(-1)
    assert 0 < (exact - found).abs().max() < 0.05
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (out / FURTHER).read_bytes() == (folder / FURTHER).read_bytes()
    assert find.stop_ids_of_files(str(out)) == find.stop_ids_of_files(str(folder))


def test_a_bfloat16_student_takes_no_disk_twice(
    model_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model_folder("qwen3", dtype=torch.bfloat16, shard_size="1MB")
    folder = with_further_template(made, tmp_path)
    assert w16a16.dtypes(folder) == ("bfloat16",)
    out, copied = tmp_path / "out", tmp_path / "copied"
    out.mkdir()
    w16a16.write_w16a16(folder, out, "bfloat16")
    assert names_under(out) == names_under(folder) and len(list(out.glob("*.safetensors"))) > 1
    assert all((out / name).samefile(folder / name) for name in names_under(out))
    assert torch.equal(log_probs(out, "bfloat16"), log_probs(folder, "bfloat16"))

    def refuse(*_: object) -> None:
        raise PermissionError("this file system has no hard links")

    monkeypatch.setattr(w16a16.os, "link", refuse)
    copied.mkdir()
    w16a16.write_w16a16(folder, copied, "bfloat16")
    assert names_under(copied) == names_under(folder)
    for name in names_under(copied):
        assert (copied / name).read_bytes() == (folder / name).read_bytes()
