"""What the backbone of a release makes of windows, by the device's own runtime."""

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Head
from agent.errors import AgentError
from agent.infer.onnx import OnnxRuntime
from fleet.errors import AdmissionError
from fleet.release.admit import admit_onnx


def embed_windows(model: bytes, head: Head, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embeddings (n, width) of windows (n, channels, samples).

    Args:
        model: An ONNX file.
        head: Where its head is.
        windows: Float32, raw units, as a device gives them to the model.

    Raises:
        AdmissionError: The model is not admissible, or does not take these windows.

    """
    admit_onnx(model)
    try:
        runtime = OnnxRuntime(model)
    except AgentError as why:
        raise AdmissionError(f"the model does not load: {why}") from why
    try:
        place = [t.name for t in runtime.outputs].index(head.embedding)
        made = [np.array(runtime.infer(window[np.newaxis])[place]) for window in windows]
    except AgentError as why:
        raise AdmissionError(f"the model does not take these windows: {why}") from why
    finally:
        runtime.close()
    found = np.concatenate(made).astype(np.float32) if made else np.zeros((0, head.width), "<f4")
    if found.shape != (len(windows), head.width):
        raise AdmissionError(f"embeddings are of shape {found.shape}, not one for each window")
    return found
