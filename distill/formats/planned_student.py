"""What can be known of a student before there is one: its config, the widths of its matrices."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill.catalog import catalog
from distill.errors import MissingError
from distill.models import find
from distill.models.families import EXPERTS, first_of
from distill.recipe import Recipe


def is_mixture(config: Mapping[str, Any] | None, model: str) -> bool:
    """Return whether a model is a mixture of experts, by its config.json, or else by the catalogue."""
    if config is not None:
        return first_of(config.get("text_config") or config, EXPERTS) > 0
    known = catalog.find(model)
    return known is not None and known.active is not None


@dataclass(frozen=True)
class PlannedStudent:
    """The student that a recipe asks for."""

    recipe: Recipe

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """Return the config.json that the student begins with.

        None for a random student, and for one that is not on this machine.
        """
        student = self.recipe.student
        if not student.model:
            return None
        try:
            return find.read_config(self.recipe.model_location(student.model), student.revision)
        except MissingError:
            return None

    @property
    def text_config(self) -> Mapping[str, Any]:
        """Return the config of the language model, where it is a part of several; {} if unknown."""
        config = self.config or {}
        return config.get("text_config") or config

    @property
    def architecture(self) -> str:
        return ((self.config or {}).get("architectures") or ["none"])[0]

    @property
    def is_mixture(self) -> bool:
        """Return whether it is a mixture of experts, by config.json, or else by the catalogue."""
        return is_mixture(self.config, self.recipe.student.model or "")

    @property
    def row_sizes(self) -> dict[str, int]:
        """Return the row lengths of the student's matrices, which decide the GGUF types.

        As far as its config.json or the catalogue say. Raises KeyError for a config of another
        kind.
        """
        config = self.text_config
        if self.recipe.student.method == "random":
            config = self.recipe.student.model_dump()
        elif self.config is None:
            return self._row_sizes_in_catalog()
        hidden = config["hidden_size"]
        heads = config.get("num_attention_heads") or config["num_heads"]
        return {
            "hidden_size": hidden,
            "intermediate_size": self.recipe.student.ffn_width or config["intermediate_size"],
            "heads x head_dim": heads * (config.get("head_dim") or hidden // heads),
        }

    def _row_sizes_in_catalog(self) -> dict[str, int]:
        model = catalog.find(self.recipe.student.model or "")
        if model is None or not model.shape:
            return {}
        _, hidden, heads, _, head_dim = model.shape
        sizes = {"hidden_size": hidden}
        if heads and head_dim:
            sizes["heads x head_dim"] = heads * head_dim
        return {name: size for name, size in sizes.items() if size}
