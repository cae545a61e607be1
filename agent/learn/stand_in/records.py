"""Flower's records as an app sees them: typed dictionaries of arrays, metrics and settings.

Rule 1: what is put in is checked as flwr checks it, and raises ``TypeError`` as there.
Rule 2: an array is serialised when somebody asks for its bytes, and not before.

Source: flwr.app of flwr 1.41, whose names and behaviour these are.
"""

import io
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.contract import records as wire

STYPE: Final = "numpy.ndarray"
V = TypeVar("V")


class Array:
    """A serialised array: from an ndarray, a torch tensor, or its four fields."""

    def __init__(
        self,
        *given: Any,
        dtype: str | None = None,
        shape: tuple[int, ...] | None = None,
        stype: str | None = None,
        data: bytes | None = None,
        ndarray: NDArray[Any] | None = None,
        torch_tensor: Any = None,
    ) -> None:
        fields = given if len(given) > 1 else (dtype, shape, stype, data)
        one = given[0] if len(given) == 1 else ndarray
        one = torch_tensor if one is None else one
        self._array: NDArray[Any] | None = None
        self._content: bytes | None = None
        if one is not None and not isinstance(one, np.ndarray):
            one = _of_tensor(one)
        if one is not None:
            self._array = one
            self.dtype, self.shape, self.stype = str(one.dtype), tuple(one.shape), STYPE
            return
        if len(fields) != 4 or any(field is None for field in fields):  # noqa: PLR2004 - its four fields
            raise TypeError(
                "Invalid arguments for Array. Expected either a PyTorch tensor, a NumPy ndarray, "
                "or explicit dtype/shape/stype/data values."
            )
        self.dtype, self.shape, self.stype, self._content = fields
        self.shape = tuple(self.shape)

    @classmethod
    def from_numpy_ndarray(cls, ndarray: NDArray[Any]) -> Self:
        """Return an array of this ndarray."""
        return cls(ndarray)

    @classmethod
    def from_torch_tensor(cls, tensor: Any) -> Self:
        """Return an array of a torch tensor."""
        return cls(_of_tensor(tensor))

    def npy(self) -> bytes:
        """Return its .npy bytes."""
        if self._content is None:
            content = io.BytesIO()
            np.save(content, self.view(), allow_pickle=False)
            self._content = content.getvalue()
        return self._content

    data = property(npy)  # as flwr calls it

    def view(self) -> NDArray[Any]:
        """Return the values; what is changed in them is changed in this array."""
        if self._array is None:
            if self.stype != STYPE:
                raise TypeError(
                    f"Unsupported serialization type for numpy conversion: '{self.stype}'"
                )
            self._array = np.load(io.BytesIO(self._content or b""), allow_pickle=False)
        return self._array

    def numpy(self) -> NDArray[Any]:
        """Return the values as an ndarray of the caller's own."""
        return np.array(self.view())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.stype, self.npy()) == (
            other.dtype,
            other.shape,
            other.stype,
            other.npy(),
        )

    __hash__ = None  # type: ignore[assignment]  # it can be changed, as in flwr

    def __repr__(self) -> str:
        return f"Array(dtype={self.dtype!r}, shape={self.shape!r}, stype={self.stype!r})"


class Typed(MutableMapping[str, V]):
    """A dictionary from texts to values of one kind."""

    def __init__(self) -> None:
        self._items: dict[str, V] = {}

    def check(self, value: Any) -> None:
        """Return if a value may stand here; raises ``TypeError`` otherwise."""

    def __setitem__(self, key: str, value: V) -> None:
        if not isinstance(key, str):
            raise TypeError(f"Key must be of type `str` but `{type(key)}` was passed.")
        self.check(value)
        self._items[key] = value

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __delitem__(self, key: str) -> None:
        del self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, Typed) else other)

    __hash__ = None  # type: ignore[assignment]  # it can be changed, as in flwr

    def copy(self) -> Self:
        """Return a shallow copy."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.__dict__["_items"] = dict(self._items)
        return new


class ArrayRecord(Typed[Array]):
    """Named arrays: from Arrays by name, a list of ndarrays, or a torch state_dict."""

    def __init__(
        self,
        given: Any = None,
        *,
        array_dict: Mapping[str, Array] | None = None,
        numpy_ndarrays: list[NDArray[Any]] | None = None,
        torch_state_dict: Mapping[str, Any] | None = None,
        keep_input: bool = True,
    ) -> None:
        super().__init__()
        ways = (given, array_dict, numpy_ndarrays, torch_state_dict)
        chosen = [way for way in ways if way is not None]
        if len(chosen) > 1:
            raise TypeError("ArrayRecord takes one of arrays, ndarrays and a state_dict")
        source = chosen[0] if chosen else {}
        if isinstance(source, list):
            for place, array in enumerate(source):
                if not isinstance(array, np.ndarray):
                    raise TypeError(f"ArrayRecord takes ndarrays in a list, not {type(array)}")
                self[str(place)] = Array(array)
        elif isinstance(source, Mapping):
            for name, value in source.items():
                self[name] = value if isinstance(value, Array) else Array(_of_tensor(value))
        else:
            raise TypeError(
                "Invalid arguments for ArrayRecord. Expected either a list of NumPy ndarrays, a "
                "PyTorch state_dict, or a dictionary of Arrays."
            )
        if not keep_input and isinstance(source, list | dict):
            source.clear()

    @classmethod
    def from_array_dict(cls, array_dict: dict[str, Array], *, keep_input: bool = True) -> Self:
        """Return a record of Arrays by name."""
        return cls(array_dict=array_dict, keep_input=keep_input)

    @classmethod
    def from_numpy_ndarrays(cls, ndarrays: list[NDArray[Any]], *, keep_input: bool = True) -> Self:
        """Return a record of ndarrays, named by their place."""
        return cls(numpy_ndarrays=ndarrays, keep_input=keep_input)

    @classmethod
    def from_torch_state_dict(cls, state_dict: dict[str, Any], *, keep_input: bool = True) -> Self:
        """Return a record of the tensors of a model."""
        return cls(torch_state_dict=state_dict, keep_input=keep_input)

    def check(self, value: Any) -> None:
        """Return if it is an Array."""
        if not isinstance(value, Array):
            raise TypeError(f"Value must be of type `{Array}` but `{type(value)}` was passed.")

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[NDArray[Any]]:
        """Return the arrays in their order."""
        arrays = [array.numpy() for array in self.values()]
        if not keep_input:
            self.clear()
        return arrays

    def to_torch_state_dict(self, *, keep_input: bool = True) -> "OrderedDict[str, Any]":
        """Return the arrays as torch tensors by name."""
        torch = sys.modules.get("torch")
        if torch is None:
            raise RuntimeError("PyTorch is required to use to_torch_state_dict")
        found = OrderedDict((name, torch.from_numpy(a.numpy())) for name, a in self.items())
        if not keep_input:
            self.clear()
        return found


class _Values(Typed[Any]):
    kinds: ClassVar[tuple[type, ...]] = ()

    def __init__(self, given: Mapping[str, Any] | None = None, *, keep_input: bool = True) -> None:
        super().__init__()
        for name, value in (given or {}).items():
            self[name] = value
        if not keep_input and isinstance(given, dict):
            given.clear()

    def check(self, value: Any) -> None:
        """Return if it is a scalar of ``kinds``, or a list of one kind of them."""
        parts = value if isinstance(value, list) else [value]
        if all(self._is(part) for part in parts) and len({type(part) for part in parts}) <= 1:
            return
        names = ", ".join(kind.__name__ for kind in self.kinds)
        raise TypeError(f"Not all values are of valid type. Expected {names} or a list of one.")

    def _is(self, part: Any) -> bool:
        return isinstance(part, self.kinds) and (bool in self.kinds or not isinstance(part, bool))


class MetricRecord(_Values):
    """Named numbers, or lists of numbers."""

    kinds = (int, float)


class ConfigRecord(_Values):
    """Named settings."""

    kinds = (int, float, str, bytes, bool)


Record = ArrayRecord | MetricRecord | ConfigRecord


class _Chosen(Typed[Any]):
    """The records of one kind; what is changed here is changed in the whole."""

    def __init__(self, whole: "RecordDict", kind: type) -> None:
        super().__init__()
        self._items = {name: r for name, r in whole.items() if isinstance(r, kind)}
        self._whole, self._kind = whole, kind

    def check(self, value: Any) -> None:
        """Return if it is of the kind."""
        if not isinstance(value, self._kind):
            raise TypeError(f"Expected `{self._kind.__name__}`, but received `{type(value)}`.")

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._whole[key] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        del self._whole[key]


class RecordDict(Typed[Record]):
    """Records by name: the content of a message, or the state of a context."""

    def __init__(self, records: Mapping[str, Record] | None = None) -> None:
        super().__init__()
        for name, record in (records or {}).items():
            self[name] = record

    def check(self, value: Any) -> None:
        """Return if it is a record."""
        if not isinstance(value, Record):
            raise TypeError(
                "Expected `ArrayRecord`, `MetricRecord`, or `ConfigRecord` but received "
                f"`{type(value).__name__}` for the value."
            )

    @property
    def array_records(self) -> Typed[ArrayRecord]:
        """The array records."""
        return _Chosen(self, ArrayRecord)

    @property
    def metric_records(self) -> Typed[MetricRecord]:
        """The metric records."""
        return _Chosen(self, MetricRecord)

    @property
    def config_records(self) -> Typed[ConfigRecord]:
        """The config records."""
        return _Chosen(self, ConfigRecord)

    parameters_records, metrics_records, configs_records = (
        array_records,
        metric_records,
        config_records,
    )


def from_wire(records: Mapping[str, wire.Record]) -> RecordDict:
    """Return what came as an app sees it."""
    found = RecordDict()
    for name, record in records.items():
        match record:
            case wire.ArrayRecord(items=arrays):
                found[name] = ArrayRecord({k: Array(a) for k, a in arrays.items()})
            case wire.MetricRecord(items=values):
                found[name] = MetricRecord(_lists(values.items()))
            case wire.ConfigRecord(items=values):
                found[name] = ConfigRecord(_lists(values.items()))
    return found


def to_wire(records: RecordDict) -> dict[str, wire.Record]:
    """Return what an app made as it travels."""
    found: dict[str, wire.Record] = {}
    for name, record in records.items():
        match record:
            case ArrayRecord():
                found[name] = wire.ArrayRecord({k: array.view() for k, array in record.items()})
            case MetricRecord():
                found[name] = wire.MetricRecord(_tuples(record.items()))
            case ConfigRecord():
                found[name] = wire.ConfigRecord(_tuples(record.items()))
    return found


def _lists(values: Iterable[tuple[str, wire.Value]]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values}


def _tuples(values: Iterable[tuple[str, Any]]) -> dict[str, wire.Value]:
    return {
        name: tuple(_plain(part) for part in v) if isinstance(v, list) else _plain(v)
        for name, v in values
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _of_tensor(value: Any) -> NDArray[Any]:
    """Return the values of a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        raise TypeError(f"expected an Array, an ndarray or a PyTorch tensor, not {type(value)}")
    return np.asarray(value.detach().cpu().numpy())
