"""The ONNX and the TensorFlow Lite form of the motion network are one network."""

import sys
from pathlib import Path

import numpy as np
import pytest

from agent.infer.litert import LIBRARIES, LiteRtRuntime
from agent.infer.onnx import OnnxRuntime
from agent.infer.probing import present

MODELS = Path(__file__).resolve().parents[2] / "scripts" / "base_model"
sys.path.insert(0, str(MODELS))

from graph_tflite import build_tflite  # noqa: E402 - of the checkout's scripts, not a package

OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.0.0"


@pytest.mark.parametrize("library", LIBRARIES)
def test_both_forms_give_the_same_answers_within_a_ten_thousandth(library):
    if library not in present() or (library == "tflite-runtime" and not OLD_NUMPY):
        pytest.skip(f"{library} does not run here")
    onnx = OnnxRuntime(MODELS / "motion-fp32.onnx")
    tflite = LiteRtRuntime(MODELS / "motion.tflite", library)
    assert (tflite.inputs, tflite.outputs) == (onnx.inputs, onnx.outputs)
    with np.load(MODELS / "motion-golden.npz") as golden:
        windows = golden["window"]
    for window in windows:
        pairs = zip(tflite.infer(window[None]), onnx.infer(window[None]), strict=True)
        assert max(float(np.abs(one - other).max()) for one, other in pairs) < 1e-4


def test_the_committed_form_is_made_from_the_committed_weights():
    full = (MODELS / "motion-fp32.onnx").read_bytes()
    assert build_tflite(full) == (MODELS / "motion.tflite").read_bytes()
