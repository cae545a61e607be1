"""Every type of element, free dimensions, batches and texts: published, checked and asked."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.contract.manifest import State, Windowing
from agent.errors import InputRefusedError, ModelError
from agent.infer.golden import check_golden, make_golden
from agent.infer.loaded import Loaded
from agent.infer.onnx import OnnxRuntime
from agent.infer.requests import Request
from agent.infer.runtime import DTYPES
from agent.infer.serving import Serving
from agent.infer.stateful import Stateful
from agent.infer.variants import load
from agent.observe.windows import WindowRecorder
from fleet.errors import AdmissionError
from fleet.release.build import Placement, build_release
from tests.small_models import adder, classifier, echo, recurrent

KINDS = {
    "bool": TensorProto.BOOL,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
    **{
        f"{sign}int{bits}": getattr(TensorProto, f"{sign}int{bits}".upper())
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def built(model, *, golden_inputs=None, **members):
    placement = Placement(family="any", version="v1", slot="any", counter=1, **members)
    return build_release(model, placement, golden_inputs=golden_inputs, metrics={}, now_ms=1)


def loaded(release, tmp_path):
    """Load a built release as a device does, and check its golden vectors."""
    variant = release.release.variants[0]
    path = tmp_path / variant.model.digest
    path.write_bytes(release.artifacts[variant.model.digest])
    runtime = load(variant, path)
    golden = release.artifacts[release.release.golden.digest]
    finding = check_golden(runtime, golden, release.release.golden_tolerance)
    assert finding.held, finding.why
    recorder = WindowRecorder("any", release.digest, 0, now_ms=0)
    return Loaded(
        digest=release.digest, release=release.release, runtime=runtime, observer=recorder
    )


def served(release, tmp_path):
    serving = Serving(slot="any")
    serving.serve(loaded(release, tmp_path))
    return serving


def test_every_type_that_tensors_may_have_is_tried_here():
    assert set(KINDS) == DTYPES


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_a_model_of_any_type_is_published_checked_and_asked(dtype, tmp_path):
    release = built(echo(KINDS[dtype]))
    assert release.release.variants[0].inputs[0].dtype == dtype
    serving = served(release, tmp_path)
    given = np.array([["1", "0", "é"]]) if dtype == "string" else np.array([[1, 0, 1]], dtype)
    answer = serving.request(Request(inputs={"x": given})).outputs["y"]
    assert answer.tolist() == given.tolist()
    assert answer.dtype == (object if dtype == "string" else given.dtype)


@pytest.mark.parametrize("dtype", sorted(KINDS))
def test_another_type_than_the_models_is_refused(dtype, tmp_path):
    serving = served(built(echo(KINDS[dtype])), tmp_path)
    other = np.zeros((1, 3), "int8" if dtype != "int8" else "int16")
    with pytest.raises(InputRefusedError, match=f"is int.*wanted {dtype}"):
        serving.request(Request(inputs={"x": other}))


def test_bytes_are_read_as_utf8_and_what_is_no_text_is_refused(tmp_path):
    serving = served(built(echo(TensorProto.STRING)), tmp_path)
    for given in (
        np.array([[b"a", "é".encode(), b""]], object),
        np.array([["a", "é", ""]], object),
        np.array([["a", "é", ""]]),
        np.array([[b"a", "é".encode(), b""]]),
    ):
        answer = serving.request(Request(inputs={"x": given})).outputs["y"]
        assert answer.tolist() == [["a", "é", ""]]
    for given, why in (
        (np.array([[b"a", b"\xff", b""]], object), "not UTF-8"),
        (np.array([["a", 1, ""]], object), "holds a int; wanted texts"),
    ):
        with pytest.raises(InputRefusedError, match=why):
            serving.request(Request(inputs={"x": given}))


def test_numbers_of_the_other_byte_order_are_refused(tmp_path):
    serving = served(built(echo(shape=("n", 3))), tmp_path)
    with pytest.raises(InputRefusedError, match="byte order"):
        serving.request(Request(inputs={"x": np.ones((1, 3), ">f4")}))


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3)])
def test_free_dimensions_take_what_they_are_given(shape, tmp_path):
    serving = served(built(echo(shape=("rows", "columns"))), tmp_path)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(serving.request(Request(inputs={"x": x})).outputs["y"], x)


def test_answers_whose_shape_depends_on_the_input_are_published_and_given(tmp_path):
    x = np.array([[0, 1, 1], [0, 0, 1], [1, 1, 0]], np.float32)
    given = [{"x": row[None]} for row in x]
    release = built(echo(op="NonZero"), golden_inputs=given)
    serving = served(release, tmp_path)
    for row in x:
        answer = serving.request(Request(inputs={"x": row[None]})).outputs["y"]
        assert answer.shape == (2, int(row.sum()))
    runtime = OnnxRuntime(echo(op="NonZero"))
    finding = check_golden(runtime, make_golden(runtime, given), 1e-3)
    assert finding.held
    assert finding.why.startswith("2 vectors")  # the second answers in another shape


def test_golden_texts_that_differ_are_found():
    one = OnnxRuntime(echo(TensorProto.STRING))
    content = make_golden(one, [{"x": np.array([["a", "b", "c"]])}])
    assert check_golden(one, content, 1e-3).held
    numbers = check_golden(OnnxRuntime(echo()), content, 1e-3)
    assert not numbers.held
    assert "is string; wanted float32" in numbers.why
    found = check_golden(OnnxRuntime(_louder()), content, 1e-3)
    assert not found.held
    assert "largest difference inf in 'y'" in found.why


def _louder():
    """Texts with an exclamation mark."""
    mark = helper.make_tensor("mark", TensorProto.STRING, [1], [b"!"])
    graph = helper.make_graph(
        [helper.make_node("StringConcat", ["x", "mark"], ["y"])],
        "louder",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1, 3])],
        [mark],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    ).SerializeToString()


def test_golden_inputs_of_a_model_without_an_axis_for_rows_are_given_stacked(tmp_path):
    given = [{"a": np.ones((1, 2), np.float32), "b": np.full((1, 2), n)} for n in range(3)]
    release = built(adder(), golden_inputs=given)
    inputs = {"a": np.ones(2, np.float32), "b": np.full(2, 4)}
    assert served(release, tmp_path).request(Request(inputs=inputs)).outputs["sum"].tolist() == [
        5,
        5,
    ]


def test_a_table_of_words_is_looked_up_with_the_inputs_that_are_made_for_it(tmp_path):
    model = _embedding(5)
    response = served(built(model), tmp_path).request(Request(inputs={"x": np.array([[4, 0]])}))
    assert response.outputs["y"].tolist() == [[4, 0]]


def test_a_model_that_fails_on_what_is_made_for_it_says_how_inputs_are_given():
    with pytest.raises(AdmissionError, match="'golden_inputs' in its description"):
        built(_embedding(1))
    assert built(_embedding(1), golden_inputs=[{"x": np.array([[0, 0]])}])


def _embedding(rows):
    """Looks up places in a table of so many rows."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [rows], list(range(rows)))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "embedding",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [table],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def _with_output(value):
    node = helper.make_node("Identity", ["x"], ["y"])
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "odd", [given], [value])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1]),
            "not a tensor but a list or a map.*zipmap",
        ),
        (
            helper.make_value_info(
                "y",
                helper.make_map_type_proto(
                    TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
                ),
            ),
            "not a tensor but a list or a map",
        ),
        (
            helper.make_tensor_value_info("y", TensorProto.COMPLEX64, [1]),
            "elements of type complex64; devices know bool",
        ),
    ],
    ids=["a list", "a map", "complex numbers"],
)
def test_what_is_no_tensor_of_a_known_type_is_refused_at_publication(value, why):
    with pytest.raises(AdmissionError, match=why):
        built(_with_output(value))


def test_a_recurrent_release_is_published_with_its_states_and_checked_as_one_stream(tmp_path):

    states = (State(input="h_in", output="h_out"),)
    release = built(recurrent(), states=states)
    variant = release.release.variants[0]
    assert variant.states == states
    model = loaded(release, tmp_path)
    assert isinstance(model.runtime, Stateful)
    # the same file without its states does not reproduce the second vector
    golden = release.artifacts[release.release.golden.digest]

    class Forgetful(Stateful):
        def one_stream(self):
            return self.infer_named

    found = check_golden(Forgetful(OnnxRuntime(recurrent()), states), golden, 1e-3)
    assert not found.held


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ((("h_in", "y"),), "no output 'y'; it has sum, h_out"),
        ((("h_in", "h_out"), ("x", "sum")), "nothing is left to ask the model with"),
    ],
)
def test_states_that_cannot_be_are_refused_at_publication(states, why):

    with pytest.raises(AdmissionError, match=why):
        built(recurrent(), states=tuple(State(input=i, output=o) for i, o in states))


def test_windows_of_a_recurrent_model_fit_the_input_that_is_left():

    window = Windowing(channels=("a", "b"), samples=4, hop=4, rate_hz=1.0)
    states = (State(input="h_in", output="h_out"),)
    with pytest.raises(AdmissionError, match=r"windows of shape \(1, 2, 4\) do not fit"):
        built(recurrent(), states=states, windowing=window)
    with pytest.raises(AdmissionError, match="do not fit"):
        built(classifier(), windowing=window)


def test_a_closed_model_says_so_whatever_its_types(tmp_path):
    model = loaded(built(echo(TensorProto.STRING)), tmp_path)
    model.runtime.close()
    with pytest.raises(ModelError, match="was closed"):
        model.runtime.infer_named({"x": np.array([["a", "b", "c"]])})
