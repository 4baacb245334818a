"""Save a model that one rank alone has: transformers, where ranks have met, writes the first one's only."""

from pathlib import Path
from typing import Any


def save_model(model: Any, folder: Path) -> None:
    """Write a model to `folder`, whichever rank this is; the folder is no other rank's."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    model.save_pretrained(folder)
