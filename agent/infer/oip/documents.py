"""What the Open Inference Protocol says besides inference: metadata, readiness, errors.

The server's side writes; ``read_metadata`` and ``read_error`` are those of a client.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from agent.contract.manifest import Tensor
from agent.errors import MalformedError
from agent.infer.oip.tensors import DATATYPES, dtype_of
from agent.infer.requests import Offered
from agent.refusals import OversizedError

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "sequence",
    "statistics",
)
"""Triton's extensions that are answered here."""


class TensorMetadata(Struct, frozen=True):
    """One input or output; -1 is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """What a model takes and answers.

    Attributes:
        versions: Those that can be asked for.
        platform: Framework and format, ``onnxruntime_onnx``.

    """

    name: str
    versions: tuple[str, ...] = ()
    platform: str = ""
    inputs: Annotated[tuple[TensorMetadata, ...], Meta(max_length=64)] = ()
    outputs: Annotated[tuple[TensorMetadata, ...], Meta(max_length=64)] = ()

    @property
    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs and outputs in our own words.

        Raises:
            MalformedError: A datatype that is not known here.

        """
        return tuple(map(_tensor, self.inputs)), tuple(map(_tensor, self.outputs))


class ServerMetadata(Struct, frozen=True, kw_only=True):
    """Who answers."""

    name: str
    version: str = ""
    extensions: tuple[str, ...] = EXTENSIONS


class Failure(Struct, frozen=True):
    """Every answer that is not 200."""

    error: str


def describe_model(offered: Offered) -> ModelMetadata:
    """Return the metadata of a slot; one without a model has no version and no tensors."""
    return ModelMetadata(
        name=offered.slot,
        versions=(offered.release.version,) if offered.release else (),
        platform=offered.platform,
        inputs=tuple(map(_describe, offered.inputs)),
        outputs=tuple(map(_describe, offered.outputs)),
    )


def read_metadata(body: bytes) -> ModelMetadata:
    """Read another server's metadata of a model.

    Raises:
        MalformedError: It is not, or over the limit.

    """
    if len(body) > MAX_DOCUMENT_BYTES:
        raise OversizedError(f"metadata of {len(body)} bytes is over {MAX_DOCUMENT_BYTES}")
    try:
        return msgspec.json.decode(body, type=ModelMetadata)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise MalformedError(f"the metadata does not parse: {why}") from why


def write_document(document: Struct) -> bytes:
    """Return the JSON of a document of this module."""
    return msgspec.json.encode(document)


def write_error(sentence: str) -> bytes:
    """Return the body of an answer that is not 200."""
    return msgspec.json.encode(Failure(sentence))


def read_error(body: bytes) -> str:
    """Return what another server says went wrong; never fails."""
    try:
        return msgspec.json.decode(body[:MAX_DOCUMENT_BYTES], type=Failure).error[:500]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return f"an answer of {len(body)} bytes that is no error of the protocol"


def _describe(tensor: Tensor) -> TensorMetadata:
    return TensorMetadata(tensor.name, DATATYPES.get(tensor.dtype, tensor.dtype), tensor.shape)


def _tensor(said: TensorMetadata) -> Tensor:
    return Tensor(name=said.name, dtype=dtype_of(said.datatype), shape=said.shape)
