"""What is asked of a slot's model by name, and what it answers; shared by every interface.

The Open Inference Protocol over HTTP and MQTT, the program that embeds the agent and an
external worker all speak in these values, so that none of them knows the others.

Rule 1: a prediction has one id for ever on its device: eight digits drawn at random when
        this process began, and a number in it.
Rule 2: arrays are handed over by reference and not changed by either side.
Rule 3: these values are structs, because some are made for each request: a frozen dataclass
        of this size costs 2 µs, a tenth of a small model.
"""

from collections.abc import Mapping
from itertools import count
from secrets import token_hex

from msgspec import Struct

from agent.contract.manifest import Release, Tensor
from agent.infer.runtime import Array

_PROCESS = token_hex(4)
_numbers = count(1)

_PLATFORMS = {"onnx": "onnxruntime_onnx"}
"""Names of the Open Inference Protocol for runtimes that it names."""


class Stream(Struct, frozen=True, kw_only=True, gc=False):
    """Which sequence a request belongs to: Triton's sequence extension of the protocol.

    Attributes:
        id: The caller's name for it (``sequence_id``).
        starts: Whether it begins here, so that older state is forgotten.
        ends: Whether it ends with this request, so that its state may be forgotten.

    """

    id: str
    starts: bool = False
    ends: bool = False


class Request(Struct, frozen=True, kw_only=True, gc=False):
    """Inputs by name.

    Attributes:
        inputs: Exactly the model's inputs, each of its dtype and shape.
        outputs: Names of the outputs wanted; empty for all.
        id: The caller's own; nothing here looks at it.
        stream: For a stateful model, whose state goes on; without, the state is fresh.

    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] = ()
    id: str = ""
    stream: Stream | None = None


class Response(Struct, frozen=True, kw_only=True, gc=False):
    """What the model said.

    Attributes:
        id: The prediction's own, see rule 1.
        slot: Where it was asked.
        release: Manifest digest of the release that answered.
        version: Its ``Release.version``.
        outputs: By name, in the model's order; those that were asked for.
        label: Class name, "" for a model without classes; of the first row of a batch.
        confidence: Probability of that class, 0 to 1; 0 without classes.
        labels, confidences: The same for every row; empty without classes.
        latency_us: Of the inference alone.
        began: Whether a stateful model began afresh with this request, because it was told
            to, or because it knew no such stream (any more).

    """

    id: str
    slot: str
    release: str
    version: str
    outputs: dict[str, Array]
    label: str
    confidence: float
    labels: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    latency_us: float
    began: bool = False


class Offered(Struct, frozen=True, kw_only=True, gc=False):
    """A slot as it may be asked now.

    Attributes:
        slot: Its name.
        release, digest: What answers; None before the first model.
        inputs, outputs: What callers give and get; the tensors of states are not among them.
        ready: Whether a request would be answered.
        platform: The runtime by its name in the Open Inference Protocol; "" without a model.
        stateful: Whether the model keeps a state along a ``Stream``.
        apart: Whether it runs in a process of its own.

    """

    slot: str
    release: Release | None = None
    digest: str | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    ready: bool = False
    platform: str = ""
    stateful: bool = False
    apart: bool = False


def prediction_id() -> str:
    """Return the id of the next prediction of this process."""
    return f"{_PROCESS}-{next(_numbers)}"


def platform_of(runtime: str) -> str:
    """Return what the Open Inference Protocol calls a runtime.

    >>> platform_of("onnx"), platform_of("tflite")
    ('onnxruntime_onnx', 'tflite')
    """
    return _PLATFORMS.get(runtime, runtime)
