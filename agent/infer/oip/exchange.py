"""Requests and answers of the Open Inference Protocol version 2: bytes in, values out.

JSON, with tensors inside of it or, by the binary tensor data extension, behind it in the
order in which it names them. Both directions are here: the server's side, and that of a
client of another server. Metadata and errors are in ``documents``.

Rule 1: pure, and nothing that came is believed: the JSON has a limit before it is parsed, and
        a tensor is compared with the model's before its elements are read.
Rule 2: members that are not known here are ignored, as the protocol wants; members that ask
        for something that is not done here (shared memory) are refused.
Rule 3: what does not parse is ``MalformedError``, what the model does not take
        ``InputRefusedError``; both are the caller's fault.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from agent.contract.manifest import Tensor
from agent.errors import InputRefusedError, MalformedError
from agent.infer.oip import members
from agent.infer.oip.tensors import (
    BYTES,
    datatype_of,
    dtype_of,
    from_bytes,
    from_json,
    require_fit,
    to_bytes,
    to_json,
)
from agent.infer.requests import Request, Response, Stream
from agent.infer.runtime import Array
from agent.refusals import OversizedError

MAX_JSON_BYTES: Final = 4 * 1024 * 1024
_ENCODER = msgspec.json.Encoder()
_REQUEST = msgspec.json.Decoder(members.RequestDocument)
_RESPONSE = msgspec.json.Decoder(members.ResponseDocument)
_NO_PARAMETERS = members.RequestParameters()
_NO_WISHES = members.WantedParameters()
_NO_PLACE = members.TensorParameters()
M = TypeVar("M")


class Framed(Struct, frozen=True, kw_only=True, gc=False):
    """A body as it travels.

    Attributes:
        content: JSON, and behind it the raw tensors.
        json_length: Bytes of the JSON where something stands behind it
            (``Inference-Header-Content-Length``); None where nothing does.

    """

    content: bytes
    json_length: int | None = None


class Form(Struct, frozen=True, kw_only=True, gc=False):
    """How one output is to be written.

    Attributes:
        binary: As raw bytes; None as the request says for all.
        classes: Above 0, not the tensor but its so many largest entries, as text (Triton's
            classification extension).

    """

    binary: bool | None = None
    classes: int = 0


class Asked(Struct, frozen=True, kw_only=True, gc=False):
    """A request, and how its answer is wanted.

    Attributes:
        request: For the model.
        binary: Outputs are wanted as raw bytes where ``forms`` does not say otherwise.
        forms: By the name of the output.
        timeout_seconds: The caller does not want an answer that comes later.

    """

    request: Request
    binary: bool = False
    forms: Mapping[str, Form] = msgspec.field(default_factory=dict)
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What another server answered."""

    outputs: dict[str, Array]
    model_name: str = ""
    model_version: str = ""
    id: str = ""


def read_request(
    body: bytes,
    json_length: int | None,
    tensors: Sequence[Tensor] | None,
    *,
    json_limit: int = MAX_JSON_BYTES,
) -> Asked:
    """Read an inference request.

    Args:
        body: The whole body; arrays of raw tensors are views of it.
        json_length: As in ``Framed``.
        tensors: The model's inputs; None takes whatever is sent.
        json_limit: Of the JSON, in bytes.

    Raises:
        MalformedError: Not such a request, or more than the limit.
        InputRefusedError: A tensor is unknown, named twice, or not what the model takes.

    """
    text, behind = _split(body, json_length, json_limit)
    found = _decode(_REQUEST, text, "the request")
    known = None if tensors is None else {tensor.name: tensor for tensor in tensors}
    inputs = _read_tensors(found.inputs, behind, known)
    said = found.parameters or _NO_PARAMETERS
    outputs = tuple(output.name for output in found.outputs or ())
    if len(set(outputs)) != len(outputs):
        raise InputRefusedError("an output is asked for twice")
    forms = {o.name: _form(o.name, o.parameters) for o in found.outputs or () if o.parameters}
    # 0 and "" are Triton's own words for no sequence
    stream = (
        Stream(id=str(said.sequence_id), starts=said.sequence_start, ends=said.sequence_end)
        if said.sequence_id not in (0, "")
        else None
    )
    return Asked(
        request=Request(inputs=inputs, outputs=outputs, id=found.id, stream=stream),
        binary=said.binary_data_output,
        forms=forms,
        timeout_seconds=said.timeout / 1e6 if said.timeout else None,
    )


def write_response(
    answer: Response, asked: Asked, *, model: str, classes: Sequence[str] = ()
) -> Framed:
    """Return the answer to a request as its caller wants it.

    The prediction's own id, its label and its confidence stand among the parameters.

    Args:
        answer: What the model said.
        asked: The request, for its id and the form of each output.
        model: The name it was asked by.
        classes: Names of the classes, for outputs that are wanted as classes.

    Raises:
        ModelError: An output cannot be said so; the sentence says how it could.
        InputRefusedError: Classes are wanted of a tensor that has none.

    """
    outputs: list[members.Written] = []
    behind: list[bytes] = []
    for name, x in answer.outputs.items():
        form = asked.forms.get(name)
        binary = asked.binary if form is None or form.binary is None else form.binary
        said = (
            x if form is None or not form.classes else _classified(name, x, form.classes, classes)
        )
        outputs.append(_write_tensor(name, said, behind if binary else None))
    parameters: dict[str, str | float] = {"prediction_id": answer.id}
    if answer.label:
        parameters |= {"label": answer.label, "confidence": answer.confidence}
    if answer.began and asked.request.stream is not None:
        parameters["sequence_began"] = True  # afresh, told to or not
    return _framed(
        members.Answer(
            model_name=model,
            model_version=answer.version,
            id=asked.request.id,
            outputs=outputs,
            parameters=parameters,
        ),
        behind,
    )


def write_request(
    inputs: Mapping[str, Array],
    *,
    outputs: Collection[str] = (),
    id: str = "",  # noqa: A002 -- the protocol's word
    stream: Stream | None = None,
    binary: bool = True,
) -> Framed:
    """Return a request to another server, by default with raw tensors in both directions.

    Raises:
        ModelError: The protocol has no datatype for an input, or ``binary`` is false and
            JSON cannot say one.

    """
    behind: list[bytes] = []
    written = [_write_tensor(n, x, behind if binary else None) for n, x in inputs.items()]
    said = members.RequestParameters(binary_data_output=binary)
    if stream is not None:
        said = members.RequestParameters(
            binary_data_output=binary,
            sequence_id=stream.id,
            sequence_start=stream.starts,
            sequence_end=stream.ends,
        )
    wanted = [members.Wanted(name) for name in outputs] or None
    return _framed(members.Question(inputs=written, parameters=said, id=id, outputs=wanted), behind)


def read_response(
    body: bytes, json_length: int | None, *, json_limit: int = MAX_JSON_BYTES
) -> Answered:
    """Read what another server answered with status 200.

    Raises:
        MalformedError: Not such an answer, or more than the limit.

    """
    text, behind = _split(body, json_length, json_limit)
    found = _decode(_RESPONSE, text, "the answer")
    try:
        outputs = _read_tensors(found.outputs, behind, None)
    except InputRefusedError as why:
        raise MalformedError(f"the answer does not hold what it says: {why}") from why
    return Answered(
        outputs=outputs,
        model_name=found.model_name,
        model_version=found.model_version or "",
        id=found.id or "",
    )


def _split(body: bytes, json_length: int | None, limit: int) -> tuple[bytes, memoryview]:
    length = len(body) if json_length is None else json_length
    if not 0 < length <= len(body):
        raise MalformedError(f"JSON of {length} bytes is announced in a body of {len(body)}")
    if length > limit:
        raise OversizedError(
            f"JSON of {length} bytes is over the limit of {limit}: send tensors as binary data"
        )
    return (body if length == len(body) else body[:length]), memoryview(body)[length:]


def _decode(decoder: "msgspec.json.Decoder[M]", text: bytes, what: str) -> M:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise MalformedError(f"{what} does not parse: {why}") from why


def _read_tensors(
    tensors: Sequence[members.SentTensor], behind: memoryview, known: Mapping[str, Tensor] | None
) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    at = 0
    for tensor in tensors:
        name, datatype = tensor.name, tensor.datatype
        dtype_of(datatype)
        if name in arrays:
            raise InputRefusedError(f"tensor {name!r} is given twice")
        if known is not None:
            if name not in known:
                raise InputRefusedError(
                    f"there is no input {name!r}; the model takes {', '.join(map(repr, known))}"
                )
            require_fit(known[name], datatype, tensor.shape)
        place = tensor.parameters or _NO_PLACE
        if place.shared_memory_region is not None:
            raise MalformedError(f"tensor {name!r} is in shared memory, which is not read here")
        text = bytes(tensor.data)
        size = place.binary_data_size
        if (size is None) is (not text):
            raise MalformedError(f"tensor {name!r} needs either data or binary_data_size")
        if size is None:
            arrays[name] = from_json(name, datatype, tensor.shape, text)
            continue
        if size > len(behind) - at:
            raise MalformedError(
                f"tensor {name!r} announces {size} bytes; {len(behind) - at} stand behind the JSON"
            )
        arrays[name] = from_bytes(name, datatype, tensor.shape, behind[at : at + size])
        at += size
    if at != len(behind):
        raise MalformedError(f"{len(behind) - at} bytes behind the JSON belong to no tensor")
    return arrays


def _form(name: str, said: members.WantedParameters | None) -> Form:
    said = said or _NO_WISHES
    if said.shared_memory_region is not None:
        raise MalformedError(f"output {name!r} is wanted in shared memory, which is not done here")
    return Form(binary=said.binary_data, classes=said.classification)


def _write_tensor(name: str, x: Array, behind: list[bytes] | None) -> members.Written:
    datatype = datatype_of(x)
    if behind is None:
        return members.Written(name, datatype, x.shape, None, to_json(name, x))
    raw = to_bytes(x)
    behind.append(raw)
    return members.Written(name, datatype, x.shape, {"binary_data_size": len(raw)})


def _framed(document: Struct, behind: list[bytes]) -> Framed:
    text = _ENCODER.encode(document)
    if not behind:
        return Framed(content=text)
    return Framed(content=b"".join((text, *behind)), json_length=len(text))


def _classified(name: str, x: Array, count: int, classes: Sequence[str]) -> Array:
    """Return the largest entries along the last axis as ``value:index[:label]``."""
    if x.ndim == 0 or x.dtype.kind not in "fiu":
        raise InputRefusedError(f"output {name!r} has no classes that could be counted")
    order = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")[..., :count]
    found = np.empty(order.shape, object)
    for place in np.ndindex(order.shape):
        index = int(order[place])
        value = x[(*place[:-1], index)].item()
        label = f":{classes[index]}" if len(classes) == x.shape[-1] else ""
        found[place] = f"{value:f}:{index}{label}"
    return found


__all__ = [
    "BYTES",
    "MAX_JSON_BYTES",
    "Answered",
    "Asked",
    "Form",
    "Framed",
    "read_request",
    "read_response",
    "write_request",
    "write_response",
]
