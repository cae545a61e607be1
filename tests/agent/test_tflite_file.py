import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from agent.errors import (
    ArchivedModelError,
    ExternalDataError,
    ModelError,
    NotAModelError,
    PickledModelError,
    StoreError,
    TensorSizeError,
    UnknownOperatorError,
)
from agent.infer.tflite_file import examine_content, examine_tflite, stays_in_place
from scripts.base_model.tflite_graph import Operator, TfliteGraph
from tests import small_tflite
from tests.small_models import classifier as onnx_classifier


def examine(content: bytes) -> None:
    examine_content(memoryview(content), "the model")


def spoilt(spoil) -> bytes:
    """A small file after ``spoil`` had its hands on the model that is written."""
    graph = TfliteGraph()
    x, y = graph.tensor("x", (2, 2)), graph.tensor("y", (4,))
    size = graph.constant("size", np.array([4], np.int32))
    graph.operator(Operator.RESHAPE, [x, size], [y], schema.ReshapeOptionsT())
    graph.signature({"x": x}, {"y": y})
    spoil(graph._model)
    return graph.written([x], [y])


def test_what_a_device_can_run_passes():
    for content in (
        spoilt(lambda _: None),
        small_tflite.negative(),
        small_tflite.classifier(),
        small_tflite.quantised(),
        small_tflite.adder(),
        small_tflite.reshaped("string"),
        small_tflite.free_reshape(),
    ):
        examine(content)


def of_tensor(place, **changes):
    def spoil(model):
        for name, value in changes.items():
            setattr(model.subgraphs[0].tensors[place], name, value)

    return spoil


def of_operator(**changes):
    def spoil(model):
        for name, value in changes.items():
            setattr(model.subgraphs[0].operators[0], name, value)

    return spoil


def of_buffer(content: bytes, **changes):
    def spoil(model):
        model.buffers[1].data = np.frombuffer(content, np.uint8)
        for name, value in changes.items():
            setattr(model.buffers[1], name, value)

    return spoil


def with_code(code, custom=None):
    def spoil(model):
        model.operatorCodes[0].builtinCode = code
        model.operatorCodes[0].deprecatedBuiltinCode = min(code, 127)
        model.operatorCodes[0].customCode = custom

    return spoil


def calling_itself(model):
    with_code(Operator.WHILE)(model)
    options = schema.WhileOptionsT()
    options.condSubgraphIndex = options.bodySubgraphIndex = 0
    of_operator(builtinOptions=options, builtinOptionsType=schema.BuiltinOptions.WhileOptions)(
        model
    )


def calling_nothing(model):
    calling_itself(model)
    model.subgraphs[0].operators[0].builtinOptions.bodySubgraphIndex = 7


def sparse(model):
    model.subgraphs[0].tensors[2].sparsity = schema.SparsityParametersT()


def scaled(model):
    quantised = schema.QuantizationParametersT()
    quantised.scale = np.ones(3, np.float32)
    quantised.zeroPoint = np.zeros(3, np.int64)
    model.subgraphs[0].tensors[0].quantization = quantised


def strings(content: bytes):
    def spoil(model):
        model.subgraphs[0].tensors[2].type = schema.TensorType.STRING
        of_buffer(content)(model)

    return spoil


def signed_elsewhere(model):
    model.signatureDefs[0].subgraphIndex = 4


def signing_elsewhere(model):
    model.signatureDefs[0].inputs[0].tensorIndex = 40


@pytest.mark.parametrize(
    ("spoil", "kind", "sentence"),
    [
        pytest.param(
            with_code(32, "FlexErf"), UnknownOperatorError, "custom operator FlexErf", id="custom"
        ),
        pytest.param(with_code(51), UnknownOperatorError, "uses operator 51", id="a delegate"),
        pytest.param(of_operator(opcodeIndex=3), NotAModelError, "operator code 3", id="no code"),
        pytest.param(of_operator(inputs=[99, 2]), NotAModelError, "names 99, one of 3", id="input"),
        pytest.param(of_operator(outputs=[-1]), NotAModelError, "names -1", id="no output"),
        pytest.param(of_operator(inputs=[-1, 2]), NotAModelError, "names -1", id="no input"),
        pytest.param(of_operator(largeCustomOptionsOffset=9), UnknownOperatorError, "", id="large"),
        pytest.param(of_tensor(0, buffer=9), NotAModelError, "names 9, one of 2", id="no buffer"),
        pytest.param(
            of_tensor(1, shape=[2**16, 2**16]), TensorSizeError, "at most", id="a huge tensor"
        ),
        pytest.param(of_tensor(1, shape=[-5]), TensorSizeError, "at most", id="a negative size"),
        pytest.param(
            of_tensor(1, shape=[1] * 65), NotAModelError, "too many dimensions", id="dimensions"
        ),
        pytest.param(
            of_tensor(1, shapeSignature=[1] * 65), NotAModelError, "too many", id="signature"
        ),
        pytest.param(
            of_tensor(0, externalBuffer=1), ExternalDataError, "'x' in another file", id="external"
        ),
        pytest.param(of_buffer(b"123"), TensorSizeError, "1 elements in 3 bytes", id="hollow"),
        pytest.param(of_buffer(b"1" * 8), TensorSizeError, "1 elements in 8 bytes", id="full"),
        pytest.param(
            of_buffer(b"", offset=2**40, size=4), TensorSizeError, "at byte 1099511627776", id="far"
        ),
        pytest.param(of_tensor(2, type=99), NotAModelError, "of type 99", id="an unknown type"),
        pytest.param(sparse, NotAModelError, "sparse", id="sparse"),
        pytest.param(scaled, TensorSizeError, "3 scales and 3 zero points", id="scales"),
        pytest.param(
            strings(struct.pack("<4i", 1, 12, 90, 0)), TensorSizeError, "outside", id="t1"
        ),
        pytest.param(strings(struct.pack("<3i", 2**30, 0, 0)), TensorSizeError, "outside", id="t2"),
        pytest.param(strings(b"abc"), TensorSizeError, "outside", id="t3"),
        pytest.param(calling_itself, NotAModelError, "in a circle", id="a graph of itself"),
        pytest.param(calling_nothing, NotAModelError, "names 7, one of 1", id="a graph of nothing"),
        pytest.param(signed_elsewhere, NotAModelError, "signature of graph 4", id="signature 4"),
        pytest.param(signing_elsewhere, NotAModelError, "names 40, one of 3", id="signature 40"),
        pytest.param(lambda m: setattr(m, "version", 4), NotAModelError, "schema 4", id="version"),
    ],
)
def test_what_no_library_should_be_given_is_named(spoil, kind, sentence):
    with pytest.raises(kind, match=f"^the model .*{sentence}") as refused:
        examine(spoilt(spoil))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        pytest.param(b"", NotAModelError, "not a TensorFlow Lite file", id="empty"),
        pytest.param(b"\x80\x04K\x01." * 9, PickledModelError, "a Python pickle", id="a pickle"),
        pytest.param(b"PK\x03\x04" * 9, ArchivedModelError, "a zip archive", id="an archive"),
        pytest.param(b"\x89HDF\r\n\x1a\n" * 9, NotAModelError, "Keras", id="keras"),
        pytest.param(onnx_classifier(), NotAModelError, "instead of b'TFL3'", id="onnx"),
        pytest.param(b"\x10\0\0\0TFL3", NotAModelError, "not in the file", id="a head only"),
        pytest.param(b"\xff" * 4 + b"TFL3" * 9, NotAModelError, "not in the file", id="far root"),
    ],
)
def test_what_is_no_such_file_is_called_what_it_is(content, kind, sentence):
    with pytest.raises(kind, match=sentence):
        examine(content)


def test_a_field_that_nobody_here_reads_must_lie_in_its_table_as_well():
    content = bytearray(spoilt(lambda _: None))
    (root,) = struct.unpack_from("<I", content, 0)
    (back,) = struct.unpack_from("<i", content, root)
    slot_of_metadata = root - back + 4 + 2 * 6
    assert struct.unpack_from("<H", content, slot_of_metadata) == (0,)
    struct.pack_into("<H", content, slot_of_metadata, 250)
    with pytest.raises(NotAModelError, match="a field lies outside of the table"):
        examine(bytes(content))


def test_a_file_that_was_cut_anywhere_is_refused_and_never_an_exception_of_another_kind():
    whole = small_tflite.classifier()
    for end in range(0, len(whole), 7):
        with pytest.raises(ModelError):
            examine(whole[:end])


def test_a_file_with_any_byte_changed_passes_or_is_a_model_error():
    whole = small_tflite.classifier()
    for place in range(0, len(whole), 2):
        for value in (0, 255):
            content = whole[:place] + bytes([value]) + whole[place + 1 :]
            with contextlib.suppress(ModelError):
                examine(content)


def test_files_are_read_where_they_lie(tmp_path: Path):
    path = tmp_path / "motion.tflite"
    path.write_bytes(small_tflite.classifier())
    examine_tflite(path)
    path.write_bytes(b"")
    with pytest.raises(NotAModelError, match=r"model motion\.tflite is empty"):
        examine_tflite(path)
    with pytest.raises(StoreError, match="cannot be read"):
        examine_tflite(tmp_path / "gone")


def sized_by_an_input() -> bytes:
    graph = TfliteGraph()
    x, size, y = (
        graph.tensor(n, (2,), t) for n, t in (("x", "float32"), ("s", "int32"), ("y", "float32"))
    )
    graph.operator(Operator.RESHAPE, [x, size], [y], schema.ReshapeOptionsT())
    return graph.written([x, size], [y])


@pytest.mark.parametrize(
    ("content", "stays"),
    [
        pytest.param(small_tflite.classifier(), True, id="dense"),
        pytest.param(small_tflite.quantised(), True, id="quantised"),
        pytest.param(small_tflite.adder(), True, id="sums"),
        pytest.param(small_tflite.summing(), False, id="an operator that is not known for it"),
        pytest.param(sized_by_an_input(), False, id="sizes that come with the input"),
        pytest.param(b"nothing", False, id="no model"),
        pytest.param(small_tflite.classifier()[:200], False, id="cut off"),
    ],
)
def test_outputs_stay_in_place_only_where_every_operator_is_known_for_it(content, stays):
    assert stays_in_place(memoryview(content)) is stays


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_the_outputs_of_the_motion_model_stay_in_place(form):
    path = Path(__file__).parents[2] / "scripts" / "base_model" / f"motion-{form}.tflite"
    assert stays_in_place(memoryview(path.read_bytes()))
