"""Several stores of one kind of signal, read as one."""

from collections.abc import Iterable, Sequence

from distill.errors import MissingError
from distill.signals.encoding import SignalRecord
from distill.signals.header import SignalHeader
from distill.signals.hidden_states import HiddenStates
from distill.signals.store import SignalStore


class SignalStores:
    """Records of several folders by key; the first that has one gives it.

    `header`: what all of them are, hidden states apart, which only some need to have.
    """

    def __init__(self, stores: Sequence[SignalStore]):
        self._stores = list(stores)

    @property
    def header(self) -> SignalHeader:
        return self._stores[0].header

    @property
    def hidden_size(self) -> int:
        return self._stores[0].hidden_size

    def __contains__(self, key: str) -> bool:
        return any(key in store for store in self._stores)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those of `keys` that are in none, in order."""
        return [key for key in keys if key not in self]

    def read(self, key: str) -> SignalRecord:
        """Return the record of a sequence. Raises MissingError if none has it."""
        return self._store_of(key).read(key)

    def read_hidden_states(self, key: str) -> HiddenStates:
        """Return the teacher's hidden states of a sequence. Raises MissingError if none has them."""
        return self._store_of(key).read_hidden_states(key)

    def _store_of(self, key: str) -> SignalStore:
        for store in self._stores:
            if key in store:
                return store
        folders = ", ".join(str(store.folder) for store in self._stores)
        raise MissingError(f"{folders}: no signal for sequence {key}; run the same command again")
