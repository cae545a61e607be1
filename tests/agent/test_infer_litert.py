import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from agent.errors import InputRefusedError, ModelError, RuntimeMissingError
from agent.infer import litert
from agent.infer.litert import LIBRARIES, LiteRtRuntime
from agent.infer.probing import present
from tests import small_tflite
from tests.small_models import SAMPLES, write_model
from tests.small_tflite import classifier, negative, quantised

OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.0.0"
WORKING = [
    library
    for library in LIBRARIES
    if library in present() and (library != "tflite-runtime" or OLD_NUMPY)
]


@pytest.fixture(params=WORKING)
def library(request):
    return request.param


def window(seed=0):
    return np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32)


def with_one(value):
    x = window()
    x[0, 1, 2] = value
    return x


def test_both_libraries_are_tried_where_numpy_lets_them():
    wanted = ["ai-edge-litert", "tflite-runtime"] if OLD_NUMPY else ["ai-edge-litert"]
    assert wanted == WORKING


def test_loading_a_library_leaves_the_arithmetic_of_the_process_alone(library):
    program = (
        f"from agent.infer import litert; litert.probe({library!r});"
        "raise SystemExit(float('2.2250738585072014e-308') / 2 == 0.0)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_inputs_and_outputs_are_called_as_the_signature_calls_them(library):
    runtime = LiteRtRuntime(classifier(), library)
    assert [(t.name, t.dtype, t.shape) for t in runtime.inputs] == [("x", "float32", (1, 3, 8))]
    assert [(t.name, t.shape) for t in runtime.outputs] == [
        ("probabilities", (1, 3)),
        ("embedding", (1, 4)),
    ]


def test_without_a_signature_they_are_called_like_their_tensors(library):
    runtime = LiteRtRuntime(classifier(named=False), library)
    assert runtime.inputs[0].name == "serving_default_x:0"
    assert [t.name for t in runtime.outputs] == ["PartitionedCall:1", "PartitionedCall:0"]


def test_equal_empty_and_long_names_become_names_of_their_own(library):
    runtime = LiteRtRuntime(small_tflite.copies(["x", "x", "", "y" * 300, "y" * 400]), library)
    names = [t.name for t in runtime.inputs]
    assert names == ["x", "x-2", "tensor-2", "y" * 80, "y" * 76 + "-2"]


def test_the_short_way_answers_like_the_long_one(library):
    runtime = LiteRtRuntime(classifier(), library)
    for seed in range(5):
        named = runtime.infer_named({"x": window(seed)})
        for fast, name in zip(runtime.infer(window(seed)), named, strict=True):
            np.testing.assert_array_equal(fast, named[name])


def test_an_answer_stays_what_it_was_after_the_next_inference(library):
    runtime = LiteRtRuntime(classifier(), library)
    first = runtime.infer(window(0))
    kept = [output.copy() for output in first]
    runtime.infer(window(1))
    runtime.close()
    for output, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, copy)
        assert output.flags.writeable


@pytest.mark.parametrize("make", [classifier, quantised, negative])
def test_one_output_is_read_where_it_lies_or_copied_and_is_the_same(library, make):
    runtime = LiteRtRuntime(make(), library)
    for seed in range(3):
        x = np.resize(window(seed), runtime.inputs[0].shape)
        every = runtime.infer(x)
        runtime.infer(np.zeros_like(x))
        for place, wanted in enumerate(every):
            np.testing.assert_array_equal(runtime.infer_one(x, place), wanted)


def test_an_input_that_is_not_contiguous_is_answered_like_its_copy(library):
    runtime = LiteRtRuntime(classifier(), library)
    wanted = runtime.infer(window())[0]
    for turned in (
        np.asfortranarray(window()),
        np.repeat(window(), 2, axis=2)[:, :, ::2],
    ):
        np.testing.assert_array_equal(runtime.infer(turned)[0], wanted)
        np.testing.assert_array_equal(runtime.infer_named({"x": turned})["probabilities"], wanted)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        pytest.param(with_one(np.nan), "NaN or an infinity", id="one NaN"),
        pytest.param(with_one(np.inf), "NaN or an infinity", id="one infinity"),
        pytest.param(window().astype(np.float64), "is float64; wanted float32", id="float64"),
        pytest.param(window()[:, :2], "wanted", id="a channel is missing"),
        pytest.param(window()[0], "wanted", id="no batch axis"),
        pytest.param(window().astype(">f4"), "the other byte order", id="byte order"),
        pytest.param(with_one(-np.inf) + with_one(0), "NaN or an infinity", id="minus infinity"),
    ],
)
@pytest.mark.parametrize("make", [classifier, quantised], ids=["float", "int8"])
def test_a_window_that_does_not_fit_never_reaches_the_model(library, make, x, sentence):
    runtime = LiteRtRuntime(make(), library)
    with pytest.raises(InputRefusedError, match=sentence):
        runtime.infer(x)
    with pytest.raises(InputRefusedError, match=sentence):
        runtime.infer_named({"x": x})
    runtime.infer(window())


def test_large_finite_values_are_not_taken_for_infinity(library):
    LiteRtRuntime(negative(), library).infer(np.array([3e38], np.float32))
    LiteRtRuntime(negative((64,)), library).infer(np.full(64, 3e38, np.float32))


def test_a_large_input_is_looked_at_as_well(library):
    runtime = LiteRtRuntime(negative((2, 2**18)), library)
    x = np.zeros((2, 2**18), np.float32)
    assert runtime.infer(x)[0].shape == x.shape
    x[1, -1] = np.nan
    with pytest.raises(InputRefusedError, match="NaN or an infinity"):
        runtime.infer(x)


def test_a_free_dimension_takes_any_size_and_a_failure_does_not_stick(library):
    runtime = LiteRtRuntime(negative((1, 2), signature=(-1, 2)), library)
    assert runtime.inputs[0].shape == runtime.outputs[0].shape == (-1, 2)
    for rows in (1, 5, 3, 0, 2):
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        np.testing.assert_array_equal(runtime.infer(x)[0], -x)
    with pytest.raises(InputRefusedError, match="wanted"):
        runtime.infer(np.ones((3, 3), np.float32))
    assert runtime.infer(np.ones((2, 2), np.float32))[0].shape == (2, 2)


def test_a_size_that_the_graph_cannot_take_is_one_sentence_and_the_next_request_works(library):
    runtime = LiteRtRuntime(small_tflite.free_reshape(), library)
    with pytest.raises(ModelError, match="the model failed: ") as failure:
        runtime.infer(np.ones(5, np.float32))
    assert not isinstance(failure.value, InputRefusedError)
    assert "\n" not in str(failure.value)
    assert runtime.infer(np.ones(4, np.float32))[0].shape == (2, 2)


def test_what_a_recurrent_layer_keeps_is_not_there_at_the_next_inference(library, tmp_path):
    x = np.ones((1, 1), np.float32)
    for model in (small_tflite.summing(), write_model(tmp_path, small_tflite.summing())):
        runtime = LiteRtRuntime(model, library)
        for _ in range(3):
            assert runtime.infer(x)[0].tolist() == [[1.0]]
            assert runtime.infer_named({"x": 2 * x})["y"].tolist() == [[2.0]]
        runtime.close()


def test_several_inputs_are_taken_by_name(library):
    runtime = LiteRtRuntime(small_tflite.adder(), library)
    inputs = {"a": np.array([1, 2], np.int64), "b": np.array([10, 20], np.int64)}
    assert runtime.infer_named(inputs)["sum"].tolist() == [11, 22]
    with pytest.raises(ModelError, match="takes 2 inputs"):
        runtime.infer(inputs["a"])
    with pytest.raises(InputRefusedError, match=r"\['a'\] were given; wanted \['a', 'b'\]"):
        runtime.infer_named({"a": inputs["a"]})


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_each_dtype_is_taken_and_answered_as_it_is(library, dtype):
    runtime = LiteRtRuntime(negative((2,), dtype=dtype), library)
    (answer,) = runtime.infer(np.array([1, 2], dtype))
    assert answer.dtype.name == dtype == runtime.inputs[0].dtype
    assert answer.tolist() == [-1, -2]


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32"]
)
def test_bytes_of_every_dtype_pass_through_unchanged(library, dtype):
    runtime = LiteRtRuntime(small_tflite.reshaped(dtype), library)
    x = np.array([[0, 1], [1, 1]], dtype)
    (answer,) = runtime.infer(x)
    assert answer.dtype.name == dtype
    np.testing.assert_array_equal(answer, x.reshape(4))


def test_strings_go_in_and_come_out(library):
    runtime = LiteRtRuntime(small_tflite.reshaped("string"), library)
    assert runtime.inputs[0].dtype == "string"
    x = np.array([["a", b"long one"], ["ü".encode(), "é"]], object)
    assert runtime.infer_named({"x": x})["y"].tolist() == ["a", "long one", "ü", "é"]
    assert runtime.infer(np.full((2, 2), ""))[0].tolist() == [""] * 4
    with pytest.raises(InputRefusedError, match="holds a int; wanted texts"):
        runtime.infer(np.array([[1, 2], [3, 4]], object))


def test_a_quantised_model_takes_and_answers_floats(library):
    whole, small = LiteRtRuntime(classifier(), library), LiteRtRuntime(quantised(), library)
    assert small.inputs == whole.inputs
    assert small.outputs == whole.outputs[:1]
    for seed in range(20):
        np.testing.assert_allclose(
            small.infer(window(seed))[0], whole.infer(window(seed))[0], atol=0.12
        )
        assert small.infer(window(seed))[0].dtype == np.float32


def test_a_quantised_model_takes_its_raw_integers_by_name(library):
    runtime = LiteRtRuntime(quantised(), library)
    steps = np.clip(np.rint(window() / np.float32(small_tflite.STEP)), -128, 127).astype(np.int8)
    np.testing.assert_array_equal(
        runtime.infer_named({"x": steps})["probabilities"], runtime.infer(window())[0]
    )


def test_a_file_that_is_no_model_is_one_sentence(library, tmp_path, capfd):
    for content in (b"", b"\x80\x04\x95 a pickle, renamed" * 9, classifier()[:40]):
        with pytest.raises(ModelError, match="cannot be loaded by") as refusal:
            LiteRtRuntime(write_model(tmp_path, content), library)
        assert "\n" not in str(refusal.value)
    assert capfd.readouterr().out == ""


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="is not on this disk"):
        LiteRtRuntime(tmp_path / "gone.tflite")


def test_a_closed_runtime_says_so(library):
    runtime = LiteRtRuntime(classifier(), library)
    runtime.close()
    for ask in (lambda: runtime.infer(window()), lambda: runtime.infer_named({"x": window()})):
        with pytest.raises(ModelError, match="the model was closed"):
            ask()


def test_a_library_that_is_not_there_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "ai-edge-litert", "not_a_module_of_ours")
    with pytest.raises(RuntimeMissingError, match=r"fieldfare\[litert\].*not_a_module_of_ours"):
        LiteRtRuntime(classifier(), "ai-edge-litert")


def test_the_embedded_probe_model_is_the_one_that_the_tests_rebuild():
    assert negative() == litert.PROBE_MODEL


def test_a_runtime_starts_no_threads_of_its_own(library):
    LiteRtRuntime(classifier(), library).infer(window())
    before = len(list(Path("/proc/self/task").iterdir()))
    LiteRtRuntime(classifier(), library).infer(window())
    assert len(list(Path("/proc/self/task").iterdir())) <= before
    assert threading.active_count() >= 1
