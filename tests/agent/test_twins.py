"""One network as ONNX and as TensorFlow Lite, through the agent's own path."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.contract.manifest import Windowing
from agent.contract.messages import Hosted
from agent.infer.litert import LIBRARIES
from agent.infer.loaded import Loaded
from agent.infer.probing import present
from agent.infer.serving import Answer, Serving
from agent.infer.variants import choose, load
from agent.observe.windows import WindowRecorder
from fleet.release.build import Placement, build_release
from fleet.release.forms import Form
from scripts.base_model.recordings import read_recordings, windows_of
from scripts.base_model.tflite_motion import motion_tflite

BASE_MODEL = Path(__file__).parents[2] / "scripts" / "base_model"
OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.0.0"
DESCRIPTION = msgspec.json.decode((BASE_MODEL / "motion-int8.json").read_bytes())
ONNX = Hosted(name="onnx", version="1", library="onnxruntime")


def motion_windows(count: int) -> list[np.ndarray]:
    """Windows (1, 6, 128) of people whom the network never saw."""
    strangers = [r for r in read_recordings() if r.person > 4]
    return [window[None] for r in strangers for window in windows_of(r.samples)[:4]][:count]


def built(kind: str, tolerance: float):
    """The release of the base model with both of its files."""
    placement = Placement(
        family="motion",
        version="v1",
        slot="motion",
        counter=1,
        windowing=msgspec.convert(DESCRIPTION["windowing"], Windowing),
        classes=tuple(DESCRIPTION["classes"]),
        probabilities="probabilities",
        golden_tolerance=tolerance,
    )
    files = [(BASE_MODEL / f"motion-{kind}.{end}").read_bytes() for end in ("onnx", "tflite")]
    return build_release(
        files[0],
        placement,
        golden_inputs=motion_windows(8),
        metrics={},
        now_ms=1,
        forms=[Form(content=files[1], file=f"motion-{kind}.tflite")],
    )


def answers(made, hosted: Hosted, windows, folder: Path) -> list[Answer]:
    """What a device with one runtime answers to some windows."""
    found: list[Answer] = []
    variant = choose(made.release, "generic-linux", (hosted,))
    path = folder / variant.model.digest
    path.write_bytes(made.artifacts[variant.model.digest])
    recorder = WindowRecorder("motion", made.digest, len(made.release.classes), now_ms=0)
    serving = Serving([found.append], slot="motion")
    runtime = load(variant, path, (hosted,))
    assert (runtime.name, variant.runtime) == (hosted.name, hosted.name)
    serving.serve(
        Loaded(digest=made.digest, release=made.release, runtime=runtime, observer=recorder)
    )
    for window in windows:
        serving.answer(window)
    serving.close()
    return found


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("kind", "close", "tolerance"), [("fp32", 1e-4, 1e-3), ("int8", 0.02, 0.05)]
)
def test_both_forms_of_a_network_answer_alike(tmp_path, library, kind, close, tolerance):
    if library not in present() or (library == "tflite-runtime" and not OLD_NUMPY):
        pytest.skip(f"{library} does not run beside numpy {np.__version__}")
    made, windows = built(kind, tolerance), motion_windows(100)
    lite = Hosted(name="tflite", version="1", library=library)
    ours, theirs = (answers(made, hosted, windows, tmp_path) for hosted in (ONNX, lite))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=close)
        if kind == "fp32":
            np.testing.assert_allclose(one.outputs[1], other.outputs[1], atol=close)
    same = [one.label == other.label for one, other in zip(ours, theirs, strict=True)]
    assert np.mean(same) >= (1.0 if kind == "fp32" else 0.95)  # int8: one step decides a tie


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_the_committed_files_are_those_that_the_script_writes(kind):
    twin = (BASE_MODEL / f"motion-{kind}.onnx").read_bytes()
    assert motion_tflite(twin) == (BASE_MODEL / f"motion-{kind}.tflite").read_bytes()
