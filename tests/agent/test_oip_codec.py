"""The Open Inference Protocol's bytes: what is read, what is refused, and back again."""

import json
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.manifest import Tensor
from agent.errors import AgentError, InputRefusedError, MalformedError, ModelError
from agent.infer.oip import documents as oip_documents
from agent.infer.oip import exchange as oip
from agent.infer.oip.tensors import DATATYPES, MAX_STRINGS
from agent.infer.requests import Offered, Response, Stream
from agent.refusals import OversizedError

MOTION = (Tensor(name="x", dtype="float32", shape=(1, 2, 3)),)
NUMBERS = sorted(dtype for dtype in DATATYPES if dtype != "string")


def request(
    data: Any = (1, 2, 3, 4, 5, 6), *, datatype: str = "FP32", shape: Any = (1, 2, 3), **more: Any
) -> bytes:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def read(body: bytes, tensors: Any = MOTION) -> oip.Asked:
    return oip.read_request(body, None, tensors)


def response(**outputs: Any) -> Response:
    return Response(
        id="0123abcd-1",
        slot="motion",
        release="d",
        version="3",
        outputs={name: np.asarray(x) for name, x in outputs.items()},
        label="walking",
        confidence=0.5,
        latency_us=9.0,
    )


def written(answer: Response, asked: oip.Asked, **more: Any) -> Any:
    framed = oip.write_response(answer, asked, model="motion", **more)
    return json.loads(framed.content[: framed.json_length])


WISH = read(request(id="7"))
BINARY = read(request(parameters={"binary_data_output": True}))


def test_flat_and_nested_data_are_the_same_tensor() -> None:
    flat = read(request()).request.inputs["x"]
    nested = read(request([[[1, 2, 3], [4, 5, 6.0]]])).request.inputs["x"]
    assert flat.dtype == nested.dtype == np.float32
    assert flat.shape == (1, 2, 3)
    assert np.array_equal(flat, nested)
    assert np.array_equal(flat, np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3))


def test_whitespace_and_unknown_members_change_nothing() -> None:
    body = b""" { "priority": 3, "inputs" : [ {"name":"x", "content_type":"np", "shape":[1,2,3],
        "parameters": {"headers": {"a": 1}}, "datatype":"FP32",
        "data": [ [ [ 1, 2 , 3 ] , [4,5, 6] ] ] } ], "parameters": {"custom": "thing"} } """
    assert read(body).request.inputs["x"].sum() == 21


def test_id_outputs_stream_timeout_and_forms_are_read() -> None:
    asked = read(
        request(
            id="mine",
            outputs=[
                {"name": "a", "parameters": {"binary_data": True}},
                {"name": "b", "parameters": {"classification": 2}},
                {"name": "c"},
            ],
            parameters={
                "sequence_id": 42,
                "sequence_start": True,
                "timeout": 250_000,
                "binary_data_output": True,
            },
        )
    )
    assert asked.request.id == "mine"
    assert asked.request.outputs == ("a", "b", "c")
    assert asked.request.stream == Stream(id="42", starts=True)
    assert asked.timeout_seconds == 0.25
    assert asked.binary
    assert asked.forms == {"a": oip.Form(binary=True), "b": oip.Form(classes=2)}


@pytest.mark.parametrize("none", [0, ""])
def test_sequence_zero_is_no_sequence(none: Any) -> None:
    assert read(request(parameters={"sequence_id": none})).request.stream is None


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        pytest.param(b"", MalformedError, "0 bytes", id="nothing"),
        pytest.param(b"{}", MalformedError, "inputs", id="no inputs"),
        pytest.param(b"[1]", MalformedError, "does not parse", id="no object"),
        pytest.param(b"\xff\xfe", MalformedError, "does not parse", id="no text"),
        pytest.param(request([1]), InputRefusedError, "6 elements; 1 were", id="too few"),
        pytest.param(request([1] * 7), InputRefusedError, "6 elements; 7 were", id="too many"),
        pytest.param(
            request([[[1, 2], [3, 4], [5, 6]]]), InputRefusedError, "[1, 3, 2]", id="misnested"
        ),
        pytest.param(request([[[1, 2, 3, 4], [5, 6]]]), InputRefusedError, "nested", id="ragged"),
        pytest.param(request([[1, 2, 3], [4, 5, 6]]), InputRefusedError, "FP32", id="too flat"),
        pytest.param(request([1, 2, 3, 4, 5, True]), InputRefusedError, "bool", id="a bool"),
        pytest.param(request([1, 2, 3, 4, 5, "6"]), InputRefusedError, "str", id="a string"),
        pytest.param(request([1, 2, 3, 4, 5, None]), InputRefusedError, "null", id="a null"),
        pytest.param(
            request([1, 2, 3, 4, 5, 1e300]), InputRefusedError, "too large", id="beyond float32"
        ),
        pytest.param(
            request([[[1, 2, 3], [4, 5, 1e300]]]), InputRefusedError, "too large", id="as nested"
        ),
        pytest.param(
            request([1, 2, 3, 4, 5, float("nan")]), MalformedError, "does not parse", id="NaN"
        ),
        pytest.param(
            request([1, 2, 3, 4, 5, float("inf")]), MalformedError, "does not parse", id="Infinity"
        ),
        pytest.param(
            request().replace(b"6]", b"1e999]"), InputRefusedError, "out of range", id="1e999"
        ),
        pytest.param(request(shape=[2, 3]), InputRefusedError, "[1, 2, 3]", id="wrong shape"),
        pytest.param(request(shape=[1, 2, -3]), MalformedError, ">= 0", id="negative size"),
        pytest.param(request(shape=[1, 2, 2**60]), MalformedError, "shape", id="absurd size"),
        pytest.param(request(datatype="FP64"), InputRefusedError, "wanted FP32", id="dtype"),
        pytest.param(request(datatype="BF16"), MalformedError, "'BF16'", id="unknown dtype"),
        pytest.param(
            request().replace(b'"x"', b'"y"'), InputRefusedError, "takes 'x'", id="unknown input"
        ),
        pytest.param(
            request(outputs=[{"name": "a"}, {"name": "a"}]),
            InputRefusedError,
            "twice",
            id="an output twice",
        ),
        pytest.param(
            b'{"inputs": [{"name": "x", "shape": [1, 2, 3], "datatype": "FP32"}]}',
            MalformedError,
            "either data or",
            id="no elements",
        ),
        pytest.param(b'{"inputs":' + b"[" * 100_000, MalformedError, "parse", id="deep"),
        pytest.param(request(parameters={"timeout": -1}), MalformedError, "timeout", id="timeout"),
    ],
)
def test_a_bad_request_is_refused_with_a_sentence(body: bytes, reason: type, words: str) -> None:
    with pytest.raises(reason) as refused:
        read(body)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_tensor_is_not_given_twice() -> None:
    body = json.loads(request())
    body["inputs"] *= 2
    with pytest.raises(InputRefusedError, match="given twice"):
        read(json.dumps(body).encode())


def test_shared_memory_is_refused_in_both_directions() -> None:
    where = {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 24}}
    body = json.loads(request())
    del body["inputs"][0]["data"]
    body["inputs"][0] |= where
    with pytest.raises(MalformedError, match="shared memory"):
        read(json.dumps(body).encode())
    with pytest.raises(MalformedError, match="shared memory"):
        read(request(outputs=[{"name": "y", **where}]))


def test_json_has_a_limit_of_its_own() -> None:
    with pytest.raises(OversizedError, match="binary data"):
        oip.read_request(request(), None, MOTION, json_limit=20)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT8", [256]),
        ("UINT8", [-1]),
        ("INT8", [128]),
        ("INT16", [-32769]),
        ("UINT32", [2**32]),
        ("UINT64", [-1]),
        ("UINT64", [2**64]),
        ("INT64", [2**63]),
        ("INT32", [1.5]),
        ("BOOL", [1]),
        ("FP16", [70000]),
        ("BYTES", [1]),
    ],
)
def test_a_number_outside_of_its_datatype_is_refused(datatype: str, data: Any) -> None:
    for form, shape in ((data, [1]), ([data], [1, 1])):
        with pytest.raises(InputRefusedError):
            read(request(form, datatype=datatype, shape=shape), None)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT64", [2**64 - 1, 0]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("BOOL", [True, False]),
        ("BYTES", ["", "Bewegung, früh [1]"]),
        ("FP64", [1e300, -0.0]),
    ],
)
def test_the_ends_of_each_datatype_are_read(datatype: str, data: Any) -> None:
    for form, shape in ((data, [2]), ([data], [1, 2])):
        found = read(request(form, datatype=datatype, shape=shape), None).request.inputs["x"]
        assert found.shape == tuple(shape)
        assert found.ravel().tolist() == data


def test_strings_are_bounded_in_number() -> None:
    with pytest.raises(OversizedError, match="strings"):
        read(request([""], datatype="BYTES", shape=[MAX_STRINGS + 1]), None)
    raw = b"\0" * 4 * (MAX_STRINGS + 1)
    tensor = {"name": "x", "shape": [MAX_STRINGS + 1], "datatype": "BYTES"}
    text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]})
    with pytest.raises(OversizedError, match="strings"):
        oip.read_request(text.encode() + raw, len(text), None)


def framed(
    raw: bytes, *, announced: int | None = None, datatype: str = "FP32"
) -> tuple[bytes, int]:
    size = len(raw) if announced is None else announced
    tensor = {"name": "x", "shape": [1, 2, 3], "datatype": datatype}
    text = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": size}}]}).encode()
    return text + raw, len(text)


SIX = np.arange(6, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        pytest.param(*framed(SIX[:-1]), "takes 24 bytes; 23", id="a byte missing"),
        pytest.param(*framed(SIX + b"\0"), "takes 24 bytes; 25", id="a byte more"),
        pytest.param(*framed(SIX, announced=25), "24 stand behind", id="more announced"),
        pytest.param(*framed(SIX, announced=20), "takes 24 bytes; 20", id="fewer announced"),
        pytest.param(framed(SIX)[0] + b"x", framed(SIX)[1], "no tensor", id="bytes of nobody"),
        pytest.param(framed(SIX)[0], 10**6, "announced", id="JSON longer than the body"),
        pytest.param(framed(SIX)[0], 0, "announced", id="no JSON"),
        pytest.param(framed(SIX)[0], None, "parse", id="JSON length not announced"),
    ],
)
def test_raw_tensors_that_do_not_add_up_are_refused(
    body: bytes, length: int | None, words: str
) -> None:
    with pytest.raises((MalformedError, InputRefusedError), match=words):
        oip.read_request(body, length, MOTION)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(struct.pack("<I", 9) + b"short", "ends within", id="cut"),
        pytest.param(b"\1", "ends within", id="no length"),
        pytest.param(struct.pack("<I", 1) + b"\xff", "UTF-8", id="no text"),
        pytest.param(struct.pack("<I", 0) + b"more", "behind its", id="too much"),
    ],
)
def test_raw_strings_that_do_not_add_up_are_refused(raw: bytes, words: str) -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "BYTES"}
    text = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}
    ).encode()
    with pytest.raises(InputRefusedError, match=words):
        oip.read_request(text + raw, len(text), None)


def test_a_raw_bool_is_0_or_1() -> None:
    tensors = (Tensor(name="x", dtype="bool", shape=(1, 2, 3)),)
    good, length = framed(b"\0\1\0\1\0\1", datatype="BOOL")
    assert oip.read_request(good, length, tensors).request.inputs["x"].sum() == 3
    with pytest.raises(InputRefusedError, match="neither 0 nor 1"):
        oip.read_request(good[:-1] + b"\2", length, tensors)


def test_raw_tensors_are_aligned_whatever_stands_before_them() -> None:
    for width in range(8):
        body, length = framed(SIX)
        body = b" " * width + body
        found = oip.read_request(body, length + width, MOTION).request.inputs["x"]
        assert found.flags.aligned
        assert found.ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_answer_says_model_version_id_and_prediction() -> None:
    said = written(response(y=np.float32([[0.5, 0.25]])), WISH)
    assert said == {
        "model_name": "motion",
        "model_version": "3",
        "id": "7",
        "parameters": {"prediction_id": "0123abcd-1", "label": "walking", "confidence": 0.5},
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.25]}],
    }


def test_the_answer_says_that_a_sequence_began_afresh_where_one_was_named() -> None:
    began = msgspec.structs.replace(response(y=np.float32([[0.5]])), began=True)
    named = read(request(parameters={"sequence_id": 7}))
    assert written(began, named)["parameters"]["sequence_began"] is True
    assert "sequence_began" not in written(began, WISH)["parameters"]
    assert "sequence_began" not in written(response(y=np.float32([[0.5]])), named)["parameters"]


def test_each_output_is_written_as_it_was_asked_for() -> None:
    asked = read(
        request(
            outputs=[
                {"name": "a", "parameters": {"binary_data": True}},
                {"name": "b"},
                {"name": "c", "parameters": {"binary_data": True}},
            ]
        )
    )
    answer = response(a=np.int8([1, 2]), b=np.int8([3]), c=np.array(["ä"], object))
    framed = oip.write_response(answer, asked, model="m")
    outputs = json.loads(framed.content[: framed.json_length])["outputs"]
    assert [o.get("data") for o in outputs] == [None, [3], None]
    assert framed.content[framed.json_length :] == b"\1\2" + b"\2\0\0\0" + "ä".encode()


def test_an_output_that_json_cannot_say_is_wanted_as_binary() -> None:
    for bad in (np.float32([1, np.nan]), np.float16([np.inf]), np.array([b"\xff"], object)):
        with pytest.raises(ModelError, match="ask for binary data"):
            oip.write_response(response(y=bad), WISH, model="m")
        oip.write_response(response(y=bad), BINARY, model="m")
    huge = np.full(3, 3e38, np.float32)  # finite, though its squares are not
    assert len(written(response(y=huge), WISH)["outputs"][0]["data"]) == 3


def test_classes_are_the_largest_entries_with_their_names() -> None:
    wish = {"name": "y", "parameters": {"classification": 2}}
    asked = read(request(outputs=[wish]))
    said = written(response(y=np.float32([[0.25, 0.5, 0.125]])), asked, classes=("a", "b", "c"))
    output = said["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["0.500000:1:b", "0.250000:0:a"]
    bare = written(response(y=np.uint8([3, 9])), asked)["outputs"][0]["data"]
    assert bare == ["9.000000:1", "3.000000:0"]
    with pytest.raises(InputRefusedError, match="no classes"):
        oip.write_response(response(y=np.array("text", object)), asked, model="m")


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("binary", [False, True])
def test_what_a_client_writes_a_server_reads(dtype: str, *, binary: bool) -> None:
    x = (np.arange(6).reshape(1, 2, 3) % 2).astype(dtype)
    framed = oip.write_request(
        {"x": x}, outputs=["y"], id="q", stream=Stream(id="s", ends=True), binary=binary
    )
    tensors = (Tensor(name="x", dtype=dtype, shape=(-1, 2, 3)),)
    asked = oip.read_request(framed.content, framed.json_length, tensors)
    assert np.array_equal(asked.request.inputs["x"], x)
    assert asked.request.inputs["x"].dtype == x.dtype
    assert asked.request.outputs == ("y",)
    assert asked.request.stream == Stream(id="s", ends=True)
    assert asked.binary is binary


@given(
    strings=st.lists(st.text(max_size=5), max_size=5),
    numbers=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=9),
    binary=st.booleans(),
)
def test_what_a_server_writes_a_client_reads(
    strings: list[str], numbers: list[float], *, binary: bool
) -> None:
    held = [s.encode("utf-8", "ignore").decode() for s in strings]
    outputs = {"s": np.array(held, object), "n": np.array(numbers, np.float32)}
    framed = oip.write_response(response(**outputs), BINARY if binary else WISH, model="m")
    found = oip.read_response(framed.content, framed.json_length)
    assert found.outputs["s"].tolist() == held
    assert np.array_equal(found.outputs["n"], outputs["n"])
    assert (found.model_name, found.model_version) == ("m", "3")


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-5, 300)))
def test_arbitrary_bytes_are_refused_by_name(body: bytes, length: int | None) -> None:
    with pytest.raises(AgentError):
        oip.read_request(body, length, MOTION)
    with pytest.raises(MalformedError):
        oip.read_response(body, length)


@given(st.data())
def test_a_damaged_request_is_read_or_refused_by_name(data: st.DataObject) -> None:
    body, length = framed(SIX)
    text = bytearray(data.draw(st.sampled_from([body, request(), request(["a"] * 6)])))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    for announced in (None, length):
        try:
            found = oip.read_request(bytes(text), announced, None)
        except AgentError:
            continue
        for x in found.request.inputs.values():
            assert x.nbytes <= 8 * len(text)


def test_metadata_of_a_model_comes_back_as_its_tensors() -> None:
    offered = Offered(
        slot="motion",
        inputs=MOTION,
        outputs=(Tensor(name="y", dtype="string", shape=(-1,)),),
        ready=True,
        platform="onnxruntime_onnx",
    )
    body = oip_documents.write_document(oip_documents.describe_model(offered))
    assert json.loads(body)["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [-1]}]
    assert oip_documents.read_metadata(body).tensors == (MOTION, offered.outputs)
    for bad in (b"", b"[]", b'{"name": 1}', b"[" * 9999):
        with pytest.raises(MalformedError):
            oip_documents.read_metadata(bad)


def test_errors_are_the_protocol_s_and_read_whatever_came() -> None:
    assert json.loads(oip_documents.write_error('no "x"')) == {"error": 'no "x"'}
    assert oip_documents.read_error(oip_documents.write_error("gone")) == "gone"
    assert "17 bytes" in oip_documents.read_error(b"<html>502</html>\n")
