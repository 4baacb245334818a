"""A folder for transformers in a process of its own: what it takes there is measured there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distill.errors import DataError
from distill.formats import FORMATS, FolderFormat, measure
from distill.formats.bitsandbytes import load_bnb, write_bnb
from distill.formats.w16a16 import write_w16a16

TEACHER = Path(__file__).parents[2] / "recipes" / "quickstart" / "teacher"


@pytest.mark.parametrize("name", ["w16a16", "nf4"])
def test_a_folder_is_loaded_and_timed_elsewhere(tmp_path: Path, name: str) -> None:
    place = tmp_path / "somewhere else"
    place.mkdir()
    if name == "w16a16":
        write_w16a16(TEACHER, place, "float16")
    else:
        write_bnb(TEACHER, place, name)
    format = FORMATS[name]
    assert isinstance(format, FolderFormat)
    found = measure.measure(format.load, place)
    assert found.prefill > 0 and found.decode > 0
    assert found.peak_memory is not None and 100e6 < found.peak_memory < 4e9, "torch is part of it"
    model = format.load(place)
    assert (
        model(torch.tensor([[5, 6]])).logits.shape[-1]
        == load_file(TEACHER / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    )


def test_a_process_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: a process that loaded it ended with status 1: .*no config\.json"
    ):
        measure.measure(load_bnb, tmp_path / "nowhere")
