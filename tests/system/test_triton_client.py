"""The public client of the Open Inference Protocol works unchanged: ``tritonclient[http]``."""

import http.client
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from agent.infer.onnx import OnnxRuntime
from tests.served_models import PLAIN, TOKEN, Place, loaded, question, serving, window
from tests.small_models import adder, classifier

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def place(tmp_path: Path):
    models = {"motion": loaded(), "sum": loaded(OnnxRuntime(adder()), **PLAIN)}
    with serving(tmp_path, models, tcp=True) as place:
        yield place


@pytest.fixture
def client(place: Place):
    client = triton.InferenceServerClient(f"127.0.0.1:{place.endpoint.tcp_port}")
    yield client
    client.close()


def given(name: str, x: np.ndarray, datatype: str, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, list(x.shape), datatype)
    tensor.set_data_from_numpy(x, binary_data=binary)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live(headers=BEARER)
    assert client.is_server_ready(headers=BEARER)
    assert client.is_model_ready("motion", headers=BEARER)
    assert client.is_model_ready("motion", "1", headers=BEARER)
    assert not client.is_model_ready("other", headers=BEARER)
    assert client.get_server_metadata(headers=BEARER)["name"] == "fieldfare"
    found = client.get_model_metadata("motion", headers=BEARER)
    assert [one["name"] for one in found["outputs"]] == ["probabilities", "embedding"]
    assert client.get_model_config("motion", headers=BEARER)["input"][0]["name"] == "x"
    assert len(client.get_model_repository_index(headers=BEARER)) == 2
    stats = client.get_inference_statistics("motion", headers=BEARER)
    assert stats["model_stats"][0]["name"] == "motion"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_inference(
    client: triton.InferenceServerClient, binary_in, binary_out, packed: str | None
) -> None:
    probabilities, embedding = OnnxRuntime(classifier()).infer(window(1))
    result = client.infer(
        "motion",
        [given("x", window(1), "FP32", binary=binary_in)],
        outputs=[
            triton.InferRequestedOutput("probabilities", binary_data=binary_out),
            triton.InferRequestedOutput("embedding", binary_data=not binary_out),
        ],
        request_id="mine",
        headers=dict(BEARER),
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities)
    np.testing.assert_array_equal(result.as_numpy("embedding"), embedding)
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["parameters"]["label"] in {"still", "walk", "run"}


def test_inference_without_naming_outputs(client: triton.InferenceServerClient) -> None:
    result = client.infer(
        "motion", [given("x", window(), "FP32", binary=True)], headers=dict(BEARER)
    )
    assert result.as_numpy("probabilities").shape == (1, 3)


def test_several_inputs_of_several_types(client: triton.InferenceServerClient) -> None:
    a, b = np.float32([1.5, 2.5]), np.int64([10, 2**40])
    inputs = [given("a", a, "FP32", binary=False), given("b", b, "INT64", binary=True)]
    result = client.infer("sum", inputs, headers=dict(BEARER))
    np.testing.assert_array_equal(result.as_numpy("sum"), a + b.astype(np.float32))


def test_classification(client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    result = client.infer(
        "motion",
        [given("x", window(), "FP32", binary=True)],
        outputs=[wanted],
        headers=dict(BEARER),
    )
    first = result.as_numpy("probabilities")[0][0].decode()
    assert first.split(":")[2] == result.get_response()["parameters"]["label"]


def test_several_at_once(client: triton.InferenceServerClient) -> None:
    asked = [
        client.async_infer(
            "motion", [given("x", window(seed), "FP32", binary=True)], headers=dict(BEARER)
        )
        for seed in range(8)
    ]
    runtime = OnnxRuntime(classifier())
    for seed, one in enumerate(asked):
        np.testing.assert_array_equal(
            one.get_result().as_numpy("embedding"), runtime.infer(window(seed))[1]
        )


def test_refusals_are_sentences_of_the_client_s_own_exception(
    client: triton.InferenceServerClient,
) -> None:
    wrong = given("x", window()[:, :2].copy(), "FP32", binary=True)
    with pytest.raises(InferenceServerException, match="of shape") as refused:
        client.infer("motion", [wrong], headers=dict(BEARER))
    assert refused.value.status() == "400"
    with pytest.raises(InferenceServerException, match="there is motion, sum") as refused:
        client.get_model_metadata("other", headers=BEARER)
    assert refused.value.status() == "404"
    with pytest.raises(InferenceServerException, match="token") as refused:
        client.get_server_metadata()
    assert refused.value.status() == "401"
    assert client.is_server_live(headers=BEARER)


def test_python_s_own_client_over_the_unix_socket(place: Place) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(str(place.path))
    for _ in range(3):
        connection.request("POST", "/v2/models/motion/infer", question())
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["outputs"][0]["name"] == "probabilities"
    connection.close()
