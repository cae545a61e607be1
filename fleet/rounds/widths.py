"""An app's arrays keep the width of their floats that they had when it first sent them.

Beside numpy 2 some of Flower's strategies (FedAdam, QFedAvg) make float64 of float32, since a
NumPy scalar widens an array there. Devices would be sent twice the bytes, and answer with
float32 what was asked as float64.

Rule 1: only floats are narrowed, only to what the array of that name was at first, and only
        where its shape is the same.
Rule 2: the app's own records are left as they are.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

_BITS = {"float16": 16, "float32": 32, "float64": 64}


class Widths:
    """Remembers how each array was at first, by its name."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._made: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}

    def new_push(self) -> None:
        """Forget what was narrowed for the messages of the push before."""
        self._made.clear()

    def narrow(self, content: RecordDict) -> RecordDict:
        """Return records as they were at first; the same object where nothing is wider."""
        found = {name: self.record(record) for name, record in content.array_records.items()}
        if all(record is content[name] for name, record in found.items()):
            return content
        return RecordDict({name: found.get(name, record) for name, record in content.items()})

    def record(self, record: ArrayRecord) -> ArrayRecord:
        """Return one record as it was at first; the same object where nothing is wider."""
        made = self._made.get(id(record))
        if made is not None:
            return made[1]
        arrays = {key: self._array(key, array) for key, array in record.items()}
        same = all(array is record[key] for key, array in arrays.items())
        narrowed = record if same else ArrayRecord(arrays)
        self._made[id(record)] = (record, narrowed)
        return narrowed

    def _array(self, key: str, array: Array) -> Array:
        now = (str(array.dtype), tuple(array.shape))
        first = self._first.setdefault(key, now)
        if first == now or first[1] != now[1]:
            return array
        was, bits = _BITS.get(first[0], 64), _BITS.get(now[0], 0)
        if bits <= was:
            return array
        return Array(np.asarray(array.numpy()).astype(first[0]))
