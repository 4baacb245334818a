"""Several stores of one kind of signal, read as one."""

from collections.abc import Mapping, Sequence

from distill.errors import DataError, MissingError
from distill.signals.encoding import SignalRecord
from distill.signals.hidden_states import HiddenStates
from distill.signals.store import SignalStore


class SignalStores:
    """Records of several folders by key; the first that has one gives it."""

    def __init__(self, stores: Sequence[SignalStore]):
        self._stores = list(stores)

    @property
    def hidden_size(self) -> int:
        """Width of the teachers' hidden states. Raises what SignalStore.hidden_size raises."""
        return self._stores[0].hidden_size

    def __contains__(self, key: str) -> bool:
        return any(key in store for store in self._stores)

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


class SignalsOfSeveral(SignalStores):
    """What each sequence's own teacher said of it.

    `stores`: by the teacher's name. `teacher_of`: the name of the teacher of each sequence, by its
    key: another's record of the same tokens is never taken for its own. Raises DataError where
    sequences have no record.
    """

    def __init__(self, stores: Mapping[str, SignalStore], teacher_of: Mapping[str, str]):
        super().__init__(list(stores.values()))
        self._by_name = stores
        self._teacher_of = teacher_of
        for name, store in stores.items():
            keys = [key for key, teacher in teacher_of.items() if teacher == name]
            if missing := store.missing(keys):
                raise DataError(
                    f"{store.folder}: no signal of {name} for {len(missing)} of its {len(keys)} "
                    "samples; run `distill run RECIPE --redo capture`"
                )

    def _store_of(self, key: str) -> SignalStore:
        return self._by_name[self._teacher_of[key]]
