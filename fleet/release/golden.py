"""Golden vectors: inputs and the outputs that every device must reproduce.

Made by the device's own runtime and code (``agent.infer``), so that what is promised
is what a device computes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def golden_vectors(model: bytes, inputs: Sequence[NDArray[np.float32]]) -> bytes:
    """Run the model on each input and return the golden ``.npz``.

    Args:
        model: ONNX bytes that were admitted.
        inputs: Arrays of the shape of the model's one input.

    Raises:
        AdmissionError: The device's runtime does not load or run it.

    """
    raise NotImplementedError


def synthetic_inputs(
    shape: tuple[int, ...], *, count: int = 8, seed: int = 7
) -> tuple[NDArray[np.float32], ...]:
    """Return seeded inputs for models that come without examples; -1 becomes 1."""
    raise NotImplementedError
