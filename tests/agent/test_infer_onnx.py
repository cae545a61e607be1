import threading
from pathlib import Path

import numpy as np
import pytest

from agent.contract.messages import Hosted
from agent.errors import InputRefusedError, MismatchError, ModelError, RuntimeMissingError
from agent.infer import onnx
from agent.infer.labelled import embed, evaluate, right_answers
from agent.infer.litert import LiteRtRuntime
from agent.infer.onnx import OnnxRuntime
from agent.infer.variants import choose, load
from tests import small_tflite
from tests.small_models import (
    SAMPLES,
    adder,
    classifier,
    failing,
    negative,
    release_of,
    write_model,
)

INSTALLED = (Hosted(name="onnx", version="1"),)


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32)


def with_one(value):
    x = window()
    x[0, 1, 2] = value
    return x


def test_bound_buffers_answer_like_the_generic_path():
    bound, free = OnnxRuntime(classifier()), OnnxRuntime(classifier(shape=("n", 3, SAMPLES)))
    for seed in range(5):
        x = window(seed)
        for fast, plain in zip(bound.infer(x), free.infer(x), strict=True):
            np.testing.assert_allclose(fast, plain, atol=1e-6)
        named = bound.infer_named({"x": x})
        np.testing.assert_allclose(bound.infer(x)[0], named["probabilities"], atol=1e-6)


def test_an_answer_stays_what_it_was_after_the_next_inference():
    runtime = OnnxRuntime(classifier())
    first = runtime.infer(window(0))
    kept = [output.copy() for output in first]
    runtime.infer(window(1))
    for output, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_an_input_that_is_not_contiguous_is_answered_like_its_copy():
    runtime = OnnxRuntime(classifier())
    turned = np.asfortranarray(window())
    np.testing.assert_array_equal(runtime.infer(turned)[0], runtime.infer(window())[0])


@pytest.mark.parametrize("shape", [(1, 3, SAMPLES), ("n", 3, SAMPLES)], ids=["bound", "generic"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        pytest.param(with_one(np.nan), "NaN or an infinity", id="one NaN"),
        pytest.param(with_one(np.inf), "NaN or an infinity", id="one infinity"),
        pytest.param(np.full((1, 3, SAMPLES), np.nan, np.float32), "NaN", id="all NaN"),
        pytest.param(window().astype(np.float64), "is float64; wanted float32", id="float64"),
        pytest.param(window()[:, :2], "wanted", id="a channel is missing"),
        pytest.param(window()[0], "wanted", id="no batch axis"),
    ],
)
def test_a_window_that_does_not_fit_never_reaches_the_model(shape, x, sentence):
    with pytest.raises(InputRefusedError, match=sentence):
        OnnxRuntime(classifier(shape=shape)).infer(x)


def test_large_finite_values_are_not_taken_for_infinity():
    x = with_one(3e38)
    OnnxRuntime(classifier()).infer(x)
    OnnxRuntime(classifier()).infer(np.full_like(x, 3e38))
    OnnxRuntime(negative()).infer(np.array([3e38], np.float32))


def test_a_model_of_two_inputs_is_run_by_name():
    runtime = OnnxRuntime(adder())
    inputs = {"a": np.array([1, 2], np.float32), "b": np.array([10, 20], np.int64)}
    assert runtime.infer_named(inputs)["sum"].tolist() == [11.0, 22.0]
    with pytest.raises(ModelError, match="takes 2 inputs"):
        runtime.infer(inputs["a"])
    with pytest.raises(InputRefusedError, match=r"\['a'\] were given; wanted \['a', 'b'\]"):
        runtime.infer_named({"a": inputs["a"]})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "not an ONNX file", id="empty"),
        pytest.param(b"\x80\x04\x95 a pickle, renamed" * 9, "not an ONNX file", id="a pickle"),
        pytest.param(classifier()[:300], "not an ONNX file", id="cut short"),
        pytest.param(classifier(opset=99), "is of opset 99; onnxruntime .* knows", id="opset 99"),
    ],
)
def test_a_file_that_cannot_be_a_model_is_one_sentence(tmp_path, content, sentence, capfd):
    with pytest.raises(ModelError, match=sentence) as refusal:
        OnnxRuntime(write_model(tmp_path, content))
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="is not on this disk"):
        OnnxRuntime(tmp_path / "gone.onnx")


def test_a_provider_that_is_not_installed_is_a_missing_runtime():
    with pytest.raises(RuntimeMissingError, match="TensorrtExecutionProvider; this onnxruntime"):
        OnnxRuntime(classifier(), ["TensorrtExecutionProvider"])


def test_a_failure_inside_the_model_is_a_model_error_and_not_the_inputs_fault():
    runtime = OnnxRuntime(failing())
    with pytest.raises(ModelError, match="the model failed") as failure:
        runtime.infer(window())
    assert not isinstance(failure.value, InputRefusedError)


def test_the_embedded_probe_model_is_the_one_that_the_tests_rebuild():
    assert negative() == onnx.PROBE_MODEL


def test_the_first_variant_that_fits_hardware_and_runtime_is_chosen():
    release = release_of(classifier())
    (plain,) = release.variants
    board = _changed(plain, name="board", hardware=("raspberry-pi-5",))
    release = _changed(release, variants=(board, plain))
    assert choose(release, "raspberry-pi-5", INSTALLED) is board
    assert choose(release, "generic-linux", INSTALLED) is plain


def test_a_release_for_other_hardware_is_a_mismatch():
    (plain,) = release_of(classifier()).variants
    release = _changed(release_of(classifier()), variants=(_changed(plain, hardware=("jetson",)),))
    with pytest.raises(MismatchError, match="is for jetson; this is generic-linux"):
        choose(release, "generic-linux", INSTALLED)


def test_a_runtime_that_is_not_installed_is_named_with_what_to_install():
    (plain,) = release_of(classifier()).variants
    tflite = _changed(plain, runtime="tflite")
    release = _changed(release_of(classifier()), variants=(tflite,))
    with pytest.raises(RuntimeMissingError, match=r"install fieldfare\[litert\]"):
        choose(release, "generic-linux", INSTALLED)
    with pytest.raises(RuntimeMissingError, match=r"install fieldfare\[onnx\]"):
        choose(release_of(classifier()), "generic-linux", ())
    with pytest.raises(RuntimeMissingError, match=r"install fieldfare\[litert\]"):
        load(tflite, Path("never-read"), INSTALLED)


def test_a_variant_whose_providers_are_not_here_is_passed_over():
    release = release_of(classifier())
    (plain,) = release.variants
    gpu = _changed(plain, name="gpu", providers=("CUDAExecutionProvider",))
    both = _changed(release, variants=(gpu, plain))
    here = (_changed(INSTALLED[0], library="onnxruntime", providers=("CPUExecutionProvider",)),)
    assert choose(both, "generic-linux", here) is plain
    with pytest.raises(RuntimeMissingError, match="wants CUDAExecutionProvider; this onnxruntime"):
        choose(_changed(release, variants=(gpu,)), "generic-linux", here)


def test_of_two_libraries_for_one_runtime_the_first_that_was_probed_is_loaded(tmp_path):
    runtime = LiteRtRuntime(small_tflite.classifier())
    (plain,) = release_of(classifier()).variants
    variant = _changed(plain, runtime="tflite", inputs=runtime.inputs, outputs=runtime.outputs)
    path = write_model(tmp_path, small_tflite.classifier())
    works = Hosted(name="tflite", version="2.14.0", library="ai-edge-litert")
    loaded = load(variant, path, (*INSTALLED, works))
    assert isinstance(loaded, LiteRtRuntime)
    assert loaded.library == "ai-edge-litert"


def test_a_model_that_is_not_what_the_manifest_describes_is_not_loaded(tmp_path):
    (variant,) = release_of(classifier()).variants
    assert load(variant, write_model(tmp_path, classifier())).name == "onnx"
    with pytest.raises(ModelError, match="its manifest says"):
        load(variant, write_model(tmp_path, adder(), "other.onnx"))


def test_quality_counts_right_answers_and_a_refused_window_is_not_right():
    runtime = OnnxRuntime(classifier())
    x = np.concatenate([window(seed) for seed in range(20)])
    y = np.array([int(runtime.infer(row[None])[0].argmax()) for row in x])
    assert evaluate(runtime, x, y, "probabilities").accuracy == 1.0
    y[:5] = (y[:5] + 1) % 3
    x[7] = np.nan
    right = right_answers(runtime, x, y, "probabilities")
    assert right.sum() == 14
    assert not right[7]
    quality = evaluate(runtime, x, y, "probabilities")
    assert (quality.right, quality.windows) == (14, 20)


def test_a_model_that_answers_nan_is_never_right():
    runtime = OnnxRuntime(classifier(nan=True))
    y = np.zeros(3, np.int64)
    x = np.concatenate([window(seed) for seed in range(3)])
    assert evaluate(runtime, x, y, "probabilities").right == 0


def test_embeddings_are_the_named_output_of_each_window():
    runtime = OnnxRuntime(classifier())
    x = np.concatenate([window(seed) for seed in range(4)])
    rows = embed(runtime, x, "embedding")
    assert rows.shape == (4, 4)
    np.testing.assert_array_equal(rows[2], runtime.infer(x[2:3])[1][0])
    with pytest.raises(ModelError, match="no output 'nothing'"):
        embed(runtime, x, "nothing")


def test_a_runtime_starts_no_threads_of_its_own():
    before = len(list(Path("/proc/self/task").iterdir()))
    runtime = OnnxRuntime(classifier())
    runtime.infer(window())
    assert len(list(Path("/proc/self/task").iterdir())) <= before
    assert threading.active_count() >= 1


def _changed(value, **members):
    import msgspec

    return msgspec.structs.replace(value, **members)
