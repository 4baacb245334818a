"""A sequence whose items are read or made when they are asked for."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

Item = TypeVar("Item")
Several = TypeVar("Several", bound=Sequence[Any])


class LazySequence(Sequence[Item], Generic[Item, Several]):
    """Items by their number, and some of them by a slice: of the type `Several`.

    It is equal to every sequence of the same items.
    """

    @abstractmethod
    def _item(self, number: int) -> Item:
        """Return an item; a negative number counts from the end."""

    @abstractmethod
    def _some(self, chosen: slice) -> Several:
        """Return some of the items, without asking for one."""

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> Several: ...
    def __getitem__(self, number: int | slice) -> Item | Several:
        return self._some(number) if isinstance(number, slice) else self._item(number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == others for mine, others in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
