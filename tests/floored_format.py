"""A format that distill does not have: what it takes to add one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.formats import FolderFormat
from distill.formats.export import Export
from distill.formats.folders import copy_tokenizer
from distill.models import load


def load_floored(folder: Path) -> Any:
    return load.load_model(str(folder), load.Placement("cpu", "float32"))


@dataclass(frozen=True, kw_only=True)
class Floored(FolderFormat):
    """A copy of the student whose weights are multiples of `step`."""

    step: float
    load = staticmethod(load_floored)

    def fill(self, export: Export, model_folder: Path, folder: Path) -> None:
        model = load_floored(model_folder)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_((weight / self.step).floor() * self.step)
        model.save_pretrained(folder)
        copy_tokenizer(model_folder, folder)


FLOORED = Floored(name="floored", runtime="transformers", bytes_per_weight=4.0, step=2**-12)
