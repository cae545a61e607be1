"""Writes what every runtime of this environment answers, by the agent's own adapters.

usage: answers.py FILE.npz      answers of all models to the golden inputs, and who gave them

The same program runs on both machines that are compared.
"""

import platform
import sys
from pathlib import Path

import numpy as np

from agent.infer import litert, onnx
from agent.infer.runtime import Runtime

MODELS = Path(__file__).resolve().parents[1] / "base_model"
ONNX = ("motion-int8.onnx", "motion-fp32.onnx")
TFLITE = "motion.tflite"


def main(place: Path) -> None:
    """Ask every runtime for its answers to the golden inputs and write them."""
    with np.load(MODELS / "motion-golden.npz") as golden:
        windows = golden["window"]
    told = {
        "machine": platform.machine(),
        "numpy": np.__version__,
        "onnxruntime": onnx.probe().version,
    }
    answers: dict[str, np.ndarray] = {}
    for model in ONNX:
        answers |= _answers(f"onnxruntime/{model}", onnx.OnnxRuntime(MODELS / model), windows)
    for library in litert.LIBRARIES:
        told[library] = litert.probe(library).version
        runtime = litert.LiteRtRuntime(MODELS / TFLITE, library)
        answers |= _answers(f"{library}/{TFLITE}", runtime, windows)
    np.savez(place, **answers, **{f"told/{name}": np.array(word) for name, word in told.items()})


def _answers(name: str, runtime: Runtime, windows: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for window in windows:
        given = runtime.infer(window[np.newaxis])
        for tensor, answer in zip(runtime.outputs, given, strict=True):
            found.setdefault(f"{name}/{tensor.name}", []).append(answer)
    runtime.close()
    return {output: np.concatenate(rows) for output, rows in found.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    main(Path(sys.argv[1]))
