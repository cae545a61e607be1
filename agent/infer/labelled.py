"""A model over many windows at once: right answers and embeddings.

Used where no live stream is involved: the device's own labelled windows, before and
after an update, and the embeddings that the head trainer learns from. Window by window,
because models are exported for one window.
"""

import numpy as np
from numpy.typing import NDArray

from agent.contract.messages import Quality
from agent.errors import InputRefusedError, ModelError
from agent.infer.runtime import Runtime


def place_of(runtime: Runtime, output: str) -> int:
    """Return the place of an output by name.

    Raises:
        ModelError: The model has no such output.

    """
    for place, tensor in enumerate(runtime.outputs):
        if tensor.name == output:
            return place
    known = ", ".join(tensor.name for tensor in runtime.outputs)
    raise ModelError(f"the model has no output {output!r}; it has {known}")


def right_answers(
    runtime: Runtime, x: NDArray[np.float32], y: NDArray[np.int64], probabilities: str
) -> NDArray[np.bool_]:
    """Return for each window whether the most probable class is its label.

    Args:
        runtime: The loaded model.
        x: Windows (n, channels, samples) float32.
        y: Labels (n,).
        probabilities: Name of the output with one probability a class.

    Returns:
        (n,) bool. A window that the model refuses or answers with a NaN is not right.

    Raises:
        ModelError: The model failed, or has no such output.

    """
    place = place_of(runtime, probabilities)
    right = np.zeros(len(x), np.bool_)
    for row, (window, label) in enumerate(zip(x, y, strict=True)):
        try:
            answer = runtime.infer(window[np.newaxis])[place].reshape(-1)
        except InputRefusedError:
            continue
        right[row] = bool(np.isfinite(answer).all()) and int(answer.argmax()) == int(label)
    return right


def evaluate(
    runtime: Runtime, x: NDArray[np.float32], y: NDArray[np.int64], probabilities: str
) -> Quality:
    """Return the quality of a model on labelled windows; see ``right_answers``."""
    right = right_answers(runtime, x, y, probabilities)
    return Quality(right=int(right.sum()), windows=len(right))


def embed(runtime: Runtime, x: NDArray[np.float32], embedding: str) -> NDArray[np.float32]:
    """Return the embedding of each window.

    Args:
        runtime: The loaded model.
        x: Windows (n, channels, samples) float32.
        embedding: Name of the output with the embedding, (1, width).

    Returns:
        (n, width) float32.

    Raises:
        InputRefusedError: A window does not fit, or is not finite.
        ModelError: The model failed, or has no such output.

    """
    place = place_of(runtime, embedding)
    width = abs(int(np.prod(runtime.outputs[place].shape)))
    rows = np.zeros((len(x), width), np.float32)
    for row, window in enumerate(x):
        rows[row] = runtime.infer(window[np.newaxis])[place].reshape(-1)
    return rows
