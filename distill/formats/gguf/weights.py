"""The weights of a model folder, read lazily from one safetensors file or many."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distill.errors import DataError, MissingError
from distill.models.model_files import weight_files


class Weights:
    """The safetensors files of a folder. Use as a context manager."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._stack = ExitStack()
        self._stored: dict[str, tuple[Any, str]] = {}  # name -> file, name in it

    def __enter__(self) -> "Weights":
        """Open the files. Raises MissingError and DataError for those that are gone or cut off."""
        for path in weight_files(self.folder):
            opened = self._open(path)
            for stored in opened.keys():  # noqa: SIM118 - it is no dict
                # a language model that was a part of a larger one keeps that name
                self._stored[stored.replace("model.language_model.", "model.", 1)] = opened, stored
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return self._stack.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise DataError(
                f"{path}: not a whole safetensors file ({error}); copy it again"
            ) from None

    def names(self) -> set[str]:
        return set(self._stored)

    def slice_of(self, name: str) -> Any:
        """Return the tensor as safetensors' slice, which reads the rows that are asked for.

        Raises MissingError if the folder has no such tensor.
        """
        if name not in self._stored:
            raise MissingError(
                f"{self.folder}: tensor {name} is not in its safetensors files; "
                "save the model again"
            )
        opened, stored = self._stored[name]
        return opened.get_slice(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.slice_of(name).get_shape())


class PlannedWeights(Weights):
    """Weights of which the shapes are known, and nothing else yet."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        super().__init__(Path("a planned student"))
        self._shapes = shapes

    def names(self) -> set[str]:
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]
