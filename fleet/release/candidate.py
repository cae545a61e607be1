"""From the arrays of a federated run to the model of a candidate release.

Rule 1: a candidate is the running model with other values in the two named
        initialisers of its head; nothing else in the file may differ.
Rule 2: its lineage names the run, its rounds, its cohort and its parent.
"""

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Head


def read_head(model: bytes, head: Head) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight (classes, width) and bias (classes,) of a model.

    Raises:
        AdmissionError: The model has no such head.

    """
    raise NotImplementedError


def with_head(
    model: bytes, head: Head, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> bytes:
    """Return the model with a new head.

    Args:
        model: ONNX bytes of the running release.
        head: Where its head is.
        weight: (classes, width) float32, finite.
        bias: (classes,) float32, finite.

    Raises:
        AdmissionError: Names, shapes or dtypes do not fit, a value is not finite, or
            something besides the head would change.

    """
    raise NotImplementedError
