"""The signals of several teachers, each in a store of its own, read as one."""

from collections.abc import Mapping

from distill.errors import DataError
from distill.signals.encoding import SignalRecord
from distill.signals.hidden_states import HiddenStates
from distill.signals.store import SignalStore


class SignalsOfSeveral:
    """What each sequence's own teacher said of it.

    `stores`: by the teacher's name. `teacher_of`: the name of the teacher of each sequence, by its
    key: another's record of the same tokens is never taken for its own. Raises DataError where
    sequences have no record.
    """

    def __init__(self, stores: Mapping[str, SignalStore], teacher_of: Mapping[str, str]):
        self._stores = stores
        self._teacher_of = teacher_of
        for name, store in stores.items():
            keys = [key for key, teacher in teacher_of.items() if teacher == name]
            if missing := store.missing(keys):
                raise DataError(
                    f"{store.folder}: no signal of {name} for {len(missing)} of its {len(keys)} "
                    "samples; run `distill run RECIPE --redo capture`"
                )

    @property
    def hidden_size(self) -> int:
        """Width of the teachers' hidden states. Raises what SignalStore.hidden_size raises."""
        return next(iter(self._stores.values())).hidden_size

    def read(self, key: str) -> SignalRecord:
        """Return the record of a sequence."""
        return self._stores[self._teacher_of[key]].read(key)

    def read_hidden_states(self, key: str) -> HiddenStates:
        """Return the teacher's hidden states of a sequence."""
        return self._stores[self._teacher_of[key]].read_hidden_states(key)
