"""The one protocol behind which every inference runtime stands.

Rule 1: an input of the wrong shape or type, or with a NaN or an infinity, never reaches
        a model: an int8 model turns all-NaN into a class with high confidence.
Rule 2: a runtime belongs to one thread at a time; it reuses its buffers.
Rule 3: what ``infer`` returns is a copy that the caller may keep.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Tensor
from agent.errors import InputRefusedError

Array = NDArray[Any]

DTYPES: Final = frozenset(
    {"bool", "float16", "float32", "float64", "string"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""What elements of tensors may be, as a ``Tensor`` calls it."""

_MOST_WEIGHTS: Final = 2**18


class Runtime(Protocol):
    """A loaded model.

    Attributes:
        name: The runtime, as in ``Variant.runtime``.
        version: Of the runtime's library.
        inputs, outputs: In the model's order; a dimension of -1 is free.

    """

    @property
    def name(self) -> str:
        """The runtime's name."""

    @property
    def version(self) -> str:
        """The version of its library."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the model takes."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What the model answers."""

    def infer(self, x: Array) -> tuple[Array, ...]:
        """Run a model of one input; outputs come in the order of ``outputs``.

        Raises:
            InputRefusedError: ``x`` has the wrong dtype or shape, or is not finite.
            ModelError: The model failed, or it takes more than one input.

        """

    def infer_one(self, x: Array, place: int) -> Array:
        """Run as ``infer`` does, for the output of one place only; to be read at once.

        What is returned may be the runtime's own buffer, which its next call overwrites.

        Raises:
            InputRefusedError, ModelError: As ``infer``.

        """

    def infer_named(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any model; inputs and outputs by name.

        Raises:
            InputRefusedError: An input is missing, unknown, or not acceptable.
            ModelError: The model failed.

        """

    def close(self) -> None:
        """Give the memory back; the runtime cannot be used after."""


def require_input(tensor: Tensor, x: Array) -> None:
    """Return if ``x`` fits the tensor and is finite.

    Raises:
        InputRefusedError: It does not; the sentence says what was wanted.

    """
    found = dtype_name(x)
    if not x.dtype.isnative:
        raise InputRefusedError(f"input {tensor.name!r} is of the other byte order")
    if found != tensor.dtype:
        raise InputRefusedError(f"input {tensor.name!r} is {found}; wanted {tensor.dtype}")
    fits = len(x.shape) == len(tensor.shape) and all(
        want in (-1, have) for want, have in zip(tensor.shape, x.shape, strict=True)
    )
    if not fits:
        raise InputRefusedError(
            f"input {tensor.name!r} is of shape {x.shape}; wanted {tensor.shape}"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise not_finite(tensor)


def dtype_name(x: Array) -> str:
    """Return an array's dtype as a ``Tensor`` calls it; ``string`` for texts and objects."""
    return "string" if x.dtype.kind in "OSU" else x.dtype.name


def read_texts(tensor: Tensor, x: Array) -> Array:
    """Return an array of texts as one of ``str`` objects; bytes are read as UTF-8.

    Raises:
        InputRefusedError: An element is neither text nor UTF-8.

    """
    texts = np.empty(x.shape, object)
    for place, element in enumerate(x.flat):
        match element:
            case str():
                texts.flat[place] = str(element)
            case bytes():
                try:
                    texts.flat[place] = element.decode()
                except UnicodeDecodeError as why:
                    raise InputRefusedError(f"input {tensor.name!r} is not UTF-8: {why}") from why
            case _:
                kind = type(element).__name__
                raise InputRefusedError(f"input {tensor.name!r} holds a {kind}; wanted texts")
    return texts


def finite_weights(tensor: Tensor) -> Array | None:
    """Return weights with which an input adds up to something finite if, and only if, it is.

    One pass over the input instead of two; so small that no sum of finite numbers overflows,
    of which numpy 2 would warn. None for types and shapes without such weights, and for
    inputs beside which they would not be small.
    """
    fixed = tensor.dtype in ("float32", "float64") and -1 not in tensor.shape
    if not fixed or prod(tensor.shape) > _MOST_WEIGHTS:
        return None
    return np.full(prod(tensor.shape), 2.0**-40, tensor.dtype)


def not_finite(tensor: Tensor) -> InputRefusedError:
    """Return the refusal of an input that holds NaN or infinity."""
    return InputRefusedError(f"input {tensor.name!r} holds a NaN or an infinity")


def require_named(tensors: tuple[Tensor, ...], inputs: Mapping[str, Array]) -> None:
    """Return if ``inputs`` are exactly the tensors wanted, each acceptable.

    Raises:
        InputRefusedError: One is missing, unknown, or does not fit.

    """
    require_names(tensors, inputs)
    for tensor in tensors:
        require_input(tensor, inputs[tensor.name])


def require_names(tensors: tuple[Tensor, ...], inputs: Mapping[str, Array]) -> None:
    """Return if ``inputs`` are of exactly the names wanted.

    Raises:
        InputRefusedError: One is missing or unknown.

    """
    wanted = {tensor.name for tensor in tensors}
    if wanted != set(inputs):
        raise InputRefusedError(f"inputs {sorted(inputs)} were given; wanted {sorted(wanted)}")
