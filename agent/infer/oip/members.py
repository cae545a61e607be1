"""Members of the Open Inference Protocol's documents, as they stand in JSON.

Rule 1: what is read has a limit on each member; what is written leaves out what is not said.
Rule 2: nothing but ``oip`` looks at these: the program sees requests and arrays.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

MAX_TENSORS: Final = 64
MAX_TIMEOUT_US: Final = 10**10

Text = Annotated[str, Meta(max_length=256)]
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=32)]
Size = Annotated[int, Meta(ge=0, le=2**40)]


class TensorParameters(Struct, frozen=True, omit_defaults=True):
    """Where a tensor's elements are, when they are not in ``data``."""

    binary_data_size: Size | None = None
    shared_memory_region: str | None = None


class SentTensor(Struct, frozen=True, omit_defaults=True):
    """A tensor that came; ``data`` is read when its shape is believed."""

    name: Text
    shape: Shape
    datatype: str
    parameters: TensorParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class WantedParameters(Struct, frozen=True, omit_defaults=True):
    """How one output is wanted."""

    binary_data: bool | None = None
    classification: Annotated[int, Meta(ge=0, le=2**31)] = 0
    shared_memory_region: str | None = None


class Wanted(Struct, frozen=True, omit_defaults=True):
    """One output that is wanted."""

    name: Text
    parameters: WantedParameters | None = None


class RequestParameters(Struct, frozen=True, omit_defaults=True):
    """What a request says besides tensors; ``timeout`` is in microseconds."""

    binary_data_output: bool = False
    sequence_id: int | Text = 0
    sequence_start: bool = False
    sequence_end: bool = False
    timeout: Annotated[int, Meta(ge=0, le=MAX_TIMEOUT_US)] | None = None


class RequestDocument(Struct, frozen=True, omit_defaults=True):
    """A request that came."""

    inputs: Annotated[tuple[SentTensor, ...], Meta(max_length=MAX_TENSORS)]
    id: Text = ""
    parameters: RequestParameters | None = None
    outputs: Annotated[tuple[Wanted, ...], Meta(max_length=MAX_TENSORS)] | None = None


class ResponseDocument(Struct, frozen=True):
    """Another server's answer that came."""

    outputs: Annotated[tuple[SentTensor, ...], Meta(max_length=MAX_TENSORS)]
    model_name: str = ""
    model_version: str | None = None
    id: str | None = None


class Written(Struct, frozen=True, omit_defaults=True):
    """A tensor that is sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class Answer(Struct, frozen=True, omit_defaults=True):
    """An answer that is sent."""

    model_name: str
    model_version: str
    outputs: list[Written]
    id: str = ""
    parameters: dict[str, str | float] | None = None


class Question(Struct, frozen=True, omit_defaults=True):
    """A request that is sent to another server."""

    inputs: list[Written]
    parameters: RequestParameters
    id: str = ""
    outputs: list[Wanted] | None = None
