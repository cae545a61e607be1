"""Static int8 quantisation (QDQ) of an fp32 ONNX model; the trainable head stays float.

The one implementation: the base model's script and the fleet manager both use it.
Method: onnxruntime's static QDQ quantisation, per channel, min-max calibration.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def quantise_static(
    source: Path, target: Path, calibration: Sequence[NDArray[np.float32]], *, keep: Sequence[str]
) -> None:
    """Write the int8 version of ``source`` to ``target``.

    Args:
        source: fp32 ONNX file of opset 13 or newer with one input.
        target: Where the quantised file goes.
        calibration: Inputs of the model's shape, typical for its use.
        keep: Names of nodes that stay float32.

    Raises:
        AdmissionError: The file cannot be quantised, or the result does not load.

    """
    raise NotImplementedError
