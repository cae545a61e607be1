"""Flower's older apps: a ``NumPyClient`` or ``Client`` behind the messages of today.

Legacy records carry arrays without names, dtypes and shapes: they stand in the bytes.

Source: flwr.compat of flwr 1.41, whose names and behaviour these are.
"""

import io
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learn.stand_in.messages import Message
from agent.learn.stand_in.records import (
    STYPE,
    Array,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    RecordDict,
)

Scalar = bool | bytes | float | int | str
NDArrays = list[NDArray[Any]]


class Code(Enum):
    """How a legacy client did."""

    OK = 0
    GET_PROPERTIES_NOT_IMPLEMENTED = 1
    GET_PARAMETERS_NOT_IMPLEMENTED = 2
    FIT_NOT_IMPLEMENTED = 3
    EVALUATE_NOT_IMPLEMENTED = 4


@dataclass
class Status:
    """How a legacy client did, and a sentence."""

    code: Code
    message: str


@dataclass
class Parameters:
    """Arrays as .npy bytes, without names."""

    tensors: list[bytes]
    tensor_type: str


@dataclass
class FitIns:
    """Asks to train."""

    parameters: Parameters
    config: dict[str, Scalar]


@dataclass
class FitRes:
    """What came of training."""

    status: Status
    parameters: Parameters
    num_examples: int
    metrics: dict[str, Scalar]


@dataclass
class EvaluateIns:
    """Asks to evaluate."""

    parameters: Parameters
    config: dict[str, Scalar]


@dataclass
class EvaluateRes:
    """What came of evaluating."""

    status: Status
    loss: float
    num_examples: int
    metrics: dict[str, Scalar]


class Client:
    """A legacy client; ``fit`` and ``evaluate`` are its own."""

    def fit(self, ins: FitIns) -> FitRes:
        """Train."""
        raise NotImplementedError(f"{type(self).__name__} has no fit")

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """Evaluate."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluate")

    def to_client(self) -> "Client":
        """Return itself."""
        return self


class NumPyClient:
    """A legacy client of ndarrays; ``fit`` and ``evaluate`` are its own."""

    def fit(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[NDArrays, int, dict[str, Scalar]]:
        """Train; return arrays, the number of examples, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} has no fit")

    def evaluate(
        self, parameters: NDArrays, config: dict[str, Scalar]
    ) -> tuple[float, int, dict[str, Scalar]]:
        """Evaluate; return the loss, the number of examples, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluate")

    def to_client(self) -> Client:
        """Return a client of bytes around this one."""
        return _Around(self)


class _Around(Client):
    def __init__(self, inner: NumPyClient) -> None:
        self._inner = inner

    def fit(self, ins: FitIns) -> FitRes:
        found = self._inner.fit(parameters_to_ndarrays(ins.parameters), ins.config)
        match found:
            case (list() as arrays, int(count), dict() as metrics):
                return FitRes(_OK, ndarrays_to_parameters(arrays), count, metrics)
        raise TypeError("fit of a NumPyClient returns a list of ndarrays, an int and a dict")

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        found = self._inner.evaluate(parameters_to_ndarrays(ins.parameters), ins.config)
        match found:
            case (float(loss), int(count), dict() as metrics):
                return EvaluateRes(_OK, loss, count, metrics)
        raise TypeError("evaluate of a NumPyClient returns a float, an int and a dict")


_OK = Status(Code.OK, "Success")


def ndarrays_to_parameters(ndarrays: NDArrays) -> Parameters:
    """Return arrays as legacy parameters."""
    return Parameters([ndarray_to_bytes(a) for a in ndarrays], STYPE)


def parameters_to_ndarrays(parameters: Parameters) -> NDArrays:
    """Return the arrays of legacy parameters."""
    return [bytes_to_ndarray(tensor) for tensor in parameters.tensors]


def ndarray_to_bytes(ndarray: NDArray[Any]) -> bytes:
    """Return the .npy bytes of an array."""
    content = io.BytesIO()
    np.save(content, ndarray, allow_pickle=False)
    return content.getvalue()


def bytes_to_ndarray(tensor: bytes) -> NDArray[Any]:
    """Return the array of .npy bytes."""
    return np.asarray(np.load(io.BytesIO(tensor), allow_pickle=False))


def answer_legacy(client: Client, message: Message) -> Message:
    """Let a legacy client answer a message.

    Raises:
        ValueError: The message asks for something else than training or evaluating.

    """
    match message.metadata.message_type:
        case "train":
            parameters, config = _asked(message.content, "fitins")
            return Message(_trained(client.fit(FitIns(parameters, config))), reply_to=message)
        case "evaluate":
            parameters, config = _asked(message.content, "evaluateins")
            found = client.evaluate(EvaluateIns(parameters, config))
            return Message(_evaluated(found), reply_to=message)
        case other:
            raise ValueError(f"Invalid message type: {other}")


def _asked(content: RecordDict, name: str) -> tuple[Parameters, dict[str, Scalar]]:
    arrays = content.array_records[f"{name}.parameters"]
    config = content.config_records[f"{name}.config"]
    return Parameters([a.npy() for k, a in arrays.items() if k != "_empty"], STYPE), dict(config)


def _trained(found: FitRes) -> RecordDict:
    tensors = found.parameters.tensors
    return RecordDict(
        {
            "fitres.metrics": ConfigRecord(found.metrics),
            "fitres.num_examples": MetricRecord({"num_examples": found.num_examples}),
            "fitres.parameters": ArrayRecord(
                {str(n): Array(bytes_to_ndarray(t)) for n, t in enumerate(tensors)}
            ),
            "fitres.status": _status(found.status),
        }
    )


def _evaluated(found: EvaluateRes) -> RecordDict:
    return RecordDict(
        {
            "evaluateres.loss": MetricRecord({"loss": found.loss}),
            "evaluateres.num_examples": MetricRecord({"num_examples": found.num_examples}),
            "evaluateres.metrics": ConfigRecord(found.metrics),
            "evaluateres.status": _status(found.status),
        }
    )


def _status(status: Status) -> ConfigRecord:
    return ConfigRecord({"code": status.code.value, "message": status.message})
