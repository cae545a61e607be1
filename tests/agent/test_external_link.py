"""The two ends of a worker's socket: what the agent believes, and what the shipped worker says."""

import http.client
import json
import socket
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MalformedError
from agent.infer.external.link import MAX_HEAD_BYTES, ExternalLink, _read_head
from agent.infer.external.model import ExternalRuntime
from agent.infer.external.standalone import onnx_worker
from agent.infer.external.supervised import Program
from agent.infer.external.worker import Outside
from agent.infer.oip import exchange as oip
from tests.small_models import negative, write_model


@pytest.fixture
def answering(tmp_path):
    """A socket that reads one request and says just this."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    said: list[list[bytes]] = []

    def serve():
        with suppress(OSError):  # who asked may have hung up already
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for part in said[0]:
                    connection.sendall(part)

    def begin(*parts: bytes) -> ExternalLink:
        said.append(list(parts))
        threading.Thread(target=serve, daemon=True).start()
        links.append(ExternalLink(tmp_path / "s"))
        return links[-1]

    links: list[ExternalLink] = []
    yield begin
    for link in links:
        link.close()
    listener.close()


def test_an_answer_that_comes_byte_by_byte_is_put_together(answering):
    whole = (
        b"HTTP/1.1 200 OK\r\ncontent-LENGTH:  5\r\nInference-Header-Content-Length: 2\r\n\r\n{}abc"
    )
    answer = answering(*(whole[at : at + 1] for at in range(len(whole)))).get("/v2", 10.0)
    assert (answer.status, answer.json_length, answer.body) == (200, 2, b"{}abc")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", "is no HTTP/1.1", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length", id="no length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "without Content-Length",
            id="chunks",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "length of", id="below 0"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "is over", id="too large"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc", "longer", id="too much"),
        pytest.param(b"x" * (MAX_HEAD_BYTES + 300_000), "head over", id="a head without end"),
    ],
)
def test_an_answer_outside_the_rules_is_refused_before_it_is_kept(answering, said, sentence):
    with pytest.raises(MalformedError, match=sentence):
        answering(said).get("/v2", 10.0)


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_worker_that_hangs_up_is_noticed(answering, said):
    with pytest.raises(ConnectionError):
        answering(said).get("/v2", 10.0)


def test_the_time_is_over_the_whole_answer_and_not_over_each_byte(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    over = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection:
            while not over.wait(0.05):
                connection.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    link = ExternalLink(tmp_path / "s")
    with pytest.raises(TimeoutError):
        link.get("/v2", 0.3)
    over.set()
    thread.join(10)
    link.close()
    listener.close()


def test_who_hangs_up_ends_the_exchange_of_another_thread(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    link, failed = ExternalLink(tmp_path / "s"), threading.Event()
    connection, _ = listener.accept()

    def wait():
        with pytest.raises(ConnectionError):
            link.get("/v2", 60.0)
        failed.set()

    threading.Thread(target=wait, daemon=True).start()
    connection.recv(65536)
    link.close()
    assert failed.wait(10)
    connection.close()
    listener.close()


@given(st.binary(max_size=400))
def test_any_bytes_are_a_head_or_a_sentence(head):
    try:
        status, size, json_length = _read_head(head)
    except MalformedError:
        return
    assert min(status, size, json_length or 0) >= 0


# --- what any client of the protocol gets from the shipped worker ------------------------------


class OverUnix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """The socket of a shipped worker; its agent's connection is closed, so that it takes ours."""
    model = write_model(tmp_path_factory.mktemp("model"), negative())
    program = Program(
        name="worker", command=(sys.executable, "-I", onnx_worker.__file__), environment={}
    )
    outside = Outside(
        program=program,
        runtime="onnx",
        providers=("CPUExecutionProvider",),
        start_seconds=30.0,
        deadline_seconds=30.0,
    )
    runtime = ExternalRuntime(outside, model)
    runtime._worker.link.close()
    yield runtime._folder / "worker.sock"
    runtime.close()


def ask(worker, method, target, body=b"", headers=None):
    connection = OverUnix(worker)
    connection.request(method, target, body, headers or {})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_a_plain_client_asks_in_json_and_is_answered_in_json(worker):
    x = {"name": "x", "datatype": "FP32", "shape": [1], "data": [3.0]}
    body = json.dumps({"id": "7", "inputs": [x]})
    status, headers, said = ask(worker, "POST", "/v2/models/anything/infer", body)
    answer = json.loads(said)
    assert (status, answer["id"], answer["outputs"][0]["data"]) == (200, "7", [-3.0])
    assert "Inference-Header-Content-Length" not in headers


def test_what_json_cannot_say_is_said_in_binary_or_refused(worker):
    framed = oip.write_request({"x": np.array([np.inf], np.float32)})
    headers = {"Inference-Header-Content-Length": str(framed.json_length)}
    status, got, said = ask(worker, "POST", "/v2/models/m/infer", framed.content, headers)
    assert status == 200
    raw = said[int(got["Inference-Header-Content-Length"]) :]
    assert struct.unpack("<f", raw) == (-np.inf,)
    plain = framed.content.replace(b'"binary_data_output":true', b'"binary_data_output":null')
    headers = {"Inference-Header-Content-Length": str(len(plain) - 4)}
    assert ask(worker, "POST", "/v2/models/m/infer", plain, headers)[0] == 500


INFER = "/v2/models/m/infer"
X = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}


@pytest.mark.parametrize(
    ("target", "status"),
    [("/v2/health/ready", 200), ("/v2/models/m/versions/1/ready", 200), ("/v3", 404)],
)
def test_the_shipped_worker_says_how_it_is(worker, target, status):
    assert ask(worker, "GET", target)[0] == status


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        pytest.param(5, 400, "no request of the Open Inference", id="no object"),
        pytest.param({"inputs": 5}, 400, "no request of the Open Inference", id="no inputs"),
        pytest.param({"inputs": [{**X, "shape": [2]}]}, 400, "cannot reshape", id="a wrong shape"),
        pytest.param(
            {"inputs": [X], "outputs": [{"name": "z"}]}, 400, "no output 'z'", id="no such output"
        ),
        pytest.param({"inputs": [{**X, "name": "z"}]}, 500, "z", id="no such input"),
    ],
)
def test_the_shipped_worker_refuses_in_a_sentence_and_goes_on(worker, asked, status, sentence):
    found, _, said = ask(worker, "POST", INFER, json.dumps(asked))
    assert found == status
    assert sentence in json.loads(said)["error"]
    assert ask(worker, "POST", INFER, json.dumps({"inputs": [X]}))[0] == 200
