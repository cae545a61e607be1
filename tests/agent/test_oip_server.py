"""Models over HTTP: what is answered, what is refused, and that the next request works."""

import contextlib
import dataclasses
import gzip
import json
import random
import socket
import threading
import tracemalloc
import zlib

import numpy as np
import pytest

from agent.contract.manifest import State
from agent.errors import DeadlineError, WorkerError
from agent.infer.oip import exchange as oip
from agent.infer.onnx import OnnxRuntime
from agent.infer.requests import Response
from agent.infer.server import connection, lanes, reading
from agent.infer.server.endpoint import Endpoint
from agent.infer.server.inflating import inflate
from agent.infer.stateful import Stateful
from agent.refusals import OversizedError
from tests.served_models import PLAIN, TOKEN, loaded, question, serving, window, written
from tests.small_models import SAMPLES, classifier, failing, recurrent

BEARER = {"Authorization": f"Bearer {TOKEN}"}


def answered(client):
    heard = client.infer(question())
    return heard.status == 200 and heard.json["outputs"][0]["name"] == "probabilities"


def test_json_is_answered_as_the_model_says(tmp_path):
    with serving(tmp_path) as place, place.client() as client:
        heard = client.infer(question(window(3), id="mine"))
        probabilities, embedding = OnnxRuntime(classifier()).infer(window(3))
    assert heard.status == 200
    assert heard.headers["content-type"] == "application/json"
    said = heard.json
    assert (said["model_name"], said["model_version"], said["id"]) == ("motion", "1", "mine")
    assert said["parameters"]["label"] in {"still", "walk", "run"}
    assert said["parameters"]["prediction_id"].count("-") == 1
    first, second = said["outputs"]
    np.testing.assert_array_equal(np.float32(first["data"]), probabilities.ravel())
    np.testing.assert_array_equal(np.float32(second["data"]), embedding.ravel())
    assert (first["shape"], first["datatype"]) == ([1, 3], "FP32")


def test_raw_tensors_are_answered_as_raw_tensors(tmp_path):
    framed = oip.write_request({"x": window(3)}, outputs=["embedding"])
    with serving(tmp_path) as place, place.client() as client:
        heard = client.infer(
            framed.content, {"Inference-Header-Content-Length": str(framed.json_length)}
        )
    assert heard.headers["content-type"] == "application/octet-stream"
    found = oip.read_response(heard.body, int(heard.headers["inference-header-content-length"]))
    _, embedding = OnnxRuntime(classifier()).infer(window(3))
    assert list(found.outputs) == ["embedding"]
    np.testing.assert_array_equal(found.outputs["embedding"], embedding)


def test_health_and_metadata_are_the_protocol_s(tmp_path):
    with serving(tmp_path, {"motion": loaded(), "later": None}) as place, place.client() as client:
        assert client.ask("GET", "/v2/health/live").json == {"live": True}
        assert "later" in client.ask("GET", "/v2/health/ready").error
        assert client.ask("GET", "/v2/models/motion/ready").status == 200
        assert client.ask("GET", "/v2/models/later/ready").status == 503
        said = client.ask("GET", "/v2").json
        assert (said["name"], said["version"]) == ("fieldfare", "9.9")
        assert "binary_tensor_data" in said["extensions"]
        said = client.ask("GET", "/v2/models/motion").json
        assert said["platform"] == "onnxruntime_onnx"
        assert said["versions"] == ["1"]
        assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 3, SAMPLES]}]
        assert client.ask("GET", "/v2/models/motion/versions/1").json == said
        config = client.ask("GET", "/v2/models/motion/config").json
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [1, 3, SAMPLES]}]
        index = client.ask("POST", "/v2/repository/index").json
        assert [(one["name"], one["state"]) for one in index] == [
            ("motion", "READY"),
            ("later", "UNAVAILABLE"),
        ]
        assert answered(client)
        stats = client.ask("GET", "/v2/models/motion/stats").json["model_stats"][0]
        assert stats["inference_stats"]["success"]["count"] == 1
        assert len(client.ask("GET", "/v2/models/stats").json["model_stats"]) == 2


WRONG = window().copy()
WRONG[0, 0, 0] = np.nan
RAW_NAN = oip.write_request({"x": WRONG})


@pytest.mark.parametrize(
    ("path", "body", "headers", "told"),
    [
        pytest.param("motion/infer", question(window()[:, :2]), {}, (400, "shape"), id="shape"),
        pytest.param(
            "motion/infer",
            question().replace(b"FP32", b"FP64"),
            {},
            (400, "wanted FP32"),
            id="dtype",
        ),
        pytest.param(
            "motion/infer",
            RAW_NAN.content,
            {"Inference-Header-Content-Length": str(RAW_NAN.json_length)},
            (400, "NaN or an infinity"),
            id="NaN in raw bytes",
        ),
        pytest.param("motion/infer", b"{", {}, (400, "does not parse"), id="no JSON"),
        pytest.param("motion/infer", b"", {}, (400, "0 bytes"), id="no body"),
        pytest.param(
            "motion/infer", question(outputs=[{"name": "z"}]), {}, (400, "'z'"), id="unknown output"
        ),
        pytest.param("other/infer", question(), {}, (404, "there is motion"), id="unknown model"),
        pytest.param(
            "motion/versions/7/infer", question(), {}, (404, "version 1"), id="unknown version"
        ),
        pytest.param("motion/other", question(), {}, (404, "there is no"), id="unknown path"),
        pytest.param("motion/infer/x", question(), {}, (404, "there is no"), id="longer path"),
        pytest.param(
            "motion/infer",
            question(),
            {"Inference-Header-Content-Length": "ten"},
            (400, "no number"),
            id="JSON length",
        ),
        pytest.param(
            "motion/infer", question(), {"Content-Encoding": "br"}, (400, "gzip"), id="encoding"
        ),
        pytest.param(
            "motion/infer", b"\x1f\x8bno", {"Content-Encoding": "gzip"}, (400, "gzip"), id="no gzip"
        ),
        pytest.param(
            "motion/infer",
            gzip.compress(question())[:-9],
            {"Content-Encoding": "gzip"},
            (400, "whole"),
            id="cut gzip",
        ),
        pytest.param(
            "motion/infer",
            gzip.compress(b" " * 200_000),
            {"Content-Encoding": "gzip"},
            (413, "100000"),
            id="a bomb",
        ),
        pytest.param(
            "motion/infer",
            question(),
            {"Origin": "https://evil.example"},
            (403, "evil"),
            id="origin",
        ),
        pytest.param(
            "motion/infer", question(), {"Origin": "null"}, (403, "null"), id="null origin"
        ),
        pytest.param(
            "motion/infer", question(), {"Sec-Fetch-Site": "cross-site"}, (403, "site"), id="a page"
        ),
    ],
)
def test_bad_input_gets_the_standard_s_error_and_the_next_request_works(
    tmp_path, path, body, headers, told
):
    limits = {"body_bytes": 100_000, "json_bytes": 50_000}
    with serving(tmp_path, **limits) as place, place.client() as client:
        heard = client.ask("POST", f"/v2/models/{path}", body, headers)
        assert heard.status == told[0]
        assert told[1] in heard.error
        assert "access-control-allow-origin" not in heard.headers
        assert answered(client)
        counts = place.endpoint.counts()
        assert counts.answered == 1
        assert sum(counts.refused.values()) == 1


def test_a_path_has_its_method(tmp_path):
    with serving(tmp_path) as place, place.client() as client:
        heard = client.ask("GET", "/v2/models/motion/infer")
        assert (heard.status, heard.headers["allow"]) == (405, "POST")
        assert client.ask("POST", "/v2/health/live").status == 405
        assert client.ask("GET", "/").status == 404
        assert answered(client)


@pytest.mark.parametrize("model", [failing(), classifier(nan=True)], ids=["raises", "NaN"])
def test_a_model_that_fails_is_500_and_asked_again_with_the_next_request(tmp_path, model):
    with serving(tmp_path, {"motion": loaded(model)}) as place, place.client() as client:
        for _ in range(5):  # in its lane, and on the loop
            heard = client.infer(question())
            assert heard.status == 500
            assert heard.error
        place.servings["motion"].serve(loaded(version="2"))
        assert answered(client)


@pytest.mark.parametrize(
    ("why", "status"),
    [
        (DeadlineError("the worker hung"), 504),
        (WorkerError("the worker died of SIGSEGV"), 503),
        (ValueError("a bug"), 500),
    ],
)
def test_whose_fault_it_was_decides_the_status(tmp_path, why, status):
    def request(slot, asked):
        raise why

    with serving(tmp_path, request=request) as place, place.client() as client:
        heard = client.infer(question())
        assert heard.status == status
        assert ("retry-after" in heard.headers) is (status == 503)
        assert client.ask("GET", "/v2/health/live").status == 200
        assert not place.ended


def test_a_slot_without_a_model_says_so_until_it_has_one(tmp_path):
    with serving(tmp_path, {"motion": None}) as place, place.client() as client:
        heard = client.infer(question())
        assert (heard.status, heard.headers["retry-after"]) == (503, "1")
        assert "no model yet" in heard.error
        place.servings["motion"].serve(loaded())
        assert answered(client)


def test_a_body_that_is_announced_too_large_is_not_read(tmp_path):
    with serving(tmp_path, body_bytes=50_000, json_bytes=50_000) as place:
        with place.client() as client:
            client.send(
                b"POST /v2/models/motion/infer HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"
            )
            heard = client.hear()
            assert heard.status == 413
            assert "99999999" in heard.error
            assert client.is_closed()
        with place.client() as client:
            assert answered(client)


def test_a_chunked_body_is_read_and_counted(tmp_path):
    head = b"POST /v2/models/motion/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(tmp_path, body_bytes=50_000, json_bytes=50_000) as place:
        with place.client() as client:
            body = question()
            parts = [body[at : at + 100] for at in range(0, len(body), 100)]
            client.send(head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts))
            client.send(b"0\r\n\r\n")
            assert client.hear().status == 200
            assert answered(client)
        with place.client() as client:
            client.send(head)
            client.pour(b"1000\r\n" + b" " * 4096 + b"\r\n")
            assert client.hear().status == 413


def test_json_beyond_its_own_limit_is_413(tmp_path):
    with serving(tmp_path, json_bytes=1024) as place, place.client() as client:
        heard = client.infer(question(parameters={"more": "x" * 2000}))
        assert heard.status == 413
        assert "binary data" in heard.error
        framed = oip.write_request({"x": window()})
        length = {"Inference-Header-Content-Length": str(framed.json_length)}
        assert client.infer(framed.content, length).status == 200


def test_a_head_beyond_its_limit_is_431(tmp_path):
    big = b"X-Filler: " + b"a" * reading.MAX_HEAD_BYTES + b"\r\n"
    for raw in (
        b"GET /v2 HTTP/1.1\r\n" + big,
        b"GET /v2 HTTP/1.1\r\n" + b"X-F: aaaaaaaaaaaa\r\n" * 1024 + b"\r\n",
        b"GET /" + b"a" * reading.MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ):
        with serving(tmp_path) as place:
            with place.client() as client:
                client.send(raw)
                heard = client.hear()
                assert heard.status == 431
                assert heard.error
                assert client.is_closed()
            with place.client() as client:
                assert answered(client)


def test_a_header_that_never_ends_is_refused_while_it_comes(tmp_path):
    with serving(tmp_path) as place, place.client() as client:
        client.send(b"GET /v2 HTTP/1.1\r\nX-Filler: ")
        client.pour(b"a" * 1000)
        assert client.hear().status == 431


def test_a_trailer_that_never_ends_is_refused_while_it_comes(tmp_path):
    head = b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Filler: "
    with serving(tmp_path) as place, place.client() as client:
        client.send(head)
        client.pour(b"a" * 1000)
        assert client.hear().status == 431


def test_chunks_of_one_byte_are_a_body_like_another(tmp_path):
    head = b"POST /v2/models/motion/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = question(parameters={"more": "x" * 30_000})
    with serving(tmp_path) as place, place.client() as client:
        client.send(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert client.hear().status == 200


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS"),
        pytest.param(
            b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            id="two lengths",
        ),
        pytest.param(b"GET /v2 HTTP/1.1\r\nContent-Length: x\r\n\r\n", id="no length"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
    ],
)
def test_what_is_no_http_1_is_refused_and_others_are_answered(tmp_path, raw):
    with serving(tmp_path) as place:
        with place.client() as client:
            client.send(raw)
            assert client.hear().status == 400
            assert client.is_closed()
        with place.client() as client:
            assert answered(client)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 200),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ],
)
def test_another_protocol_is_not_changed_to(tmp_path, raw, status):
    with serving(tmp_path) as place, place.client() as client:
        client.send(raw)
        assert client.hear().status == status
        assert client.is_closed()


def test_a_header_that_stands_there_twice_is_refused(tmp_path):
    with serving(tmp_path) as place, place.client() as client:
        client.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        heard = client.hear()
        assert heard.status == 400
        assert "twice" in heard.error
        assert answered(client)


def test_requests_on_one_connection_are_answered_in_order(tmp_path):
    asked = [question(window(seed), id=str(seed)) for seed in range(40)]
    with serving(tmp_path) as place, place.client() as client:
        paths = ["/v2/models/motion/infer", "/v2/models/none/infer"]
        client.send(
            b"".join(written("POST", paths[n % 3 == 2], body) for n, body in enumerate(asked))
        )
        for seed in range(40):
            heard = client.hear()
            if seed % 3 == 2:
                assert heard.status == 404
            else:
                assert heard.json["id"] == str(seed)


def test_a_large_body_is_announced_before_it_is_sent(tmp_path):
    body = question()
    expect = {"Expect": "100-continue"}
    with serving(tmp_path, body_bytes=50_000, json_bytes=50_000) as place:
        with place.client() as client:
            client.send(
                written(
                    "POST",
                    "/v2/models/motion/infer",
                    b"",
                    expect | {"Content-Length": str(len(body))},
                )
            )
            assert client.hear().status == 100
            client.send(body)
            assert client.hear().status == 200
        with place.client() as client:
            client.send(written("POST", "/v2", b"", expect | {"Content-Length": "60000"}))
            assert client.hear().status == 413  # and not 100
            assert client.is_closed()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_compressed_bodies_are_read(tmp_path, encoding):
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding]
    with serving(tmp_path) as place, place.client() as client:
        for _ in range(lanes.KNOWN_AFTER + 2):
            assert client.infer(packed(question()), {"Content-Encoding": encoding}).status == 200


def test_who_closes_the_sending_half_still_hears_the_answer(tmp_path):
    with serving(tmp_path) as place, place.client() as client:
        client.send(written("POST", "/v2/models/motion/infer", question()))
        client.there.shutdown(socket.SHUT_WR)
        assert client.hear().status == 200
        assert client.is_closed()


def test_a_client_of_http_1_0_is_answered_and_closed(tmp_path):
    with serving(tmp_path) as place, place.client() as client:
        client.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        heard = client.hear()
        assert (heard.status, heard.headers["connection"]) == (200, "close")
        assert client.is_closed()


def test_over_tcp_a_token_is_shown(tmp_path):
    with serving(tmp_path, tcp=True) as place:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            with place.client(tcp=True) as client:
                heard = client.infer(question(), headers)
                assert heard.status == 401
                assert heard.headers["www-authenticate"] == "Bearer"
                assert "token" in heard.error
                assert client.infer(question(), BEARER).status == 200
        with place.client() as client:
            assert answered(client)  # the socket has its mode instead


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("LocalHost", 200),
        ("model.lan", 200),
        ("rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("", 421),
    ],
)
def test_a_page_that_was_made_to_point_here_is_refused(tmp_path, host, status):
    with (
        serving(tmp_path, tcp=True, hosts=("model.lan",)) as place,
        place.client(tcp=True) as client,
    ):
        assert client.infer(question(), BEARER | {"Host": host}).status == status
        assert client.infer(question(), BEARER).status == 200


def test_only_a_page_of_ours_may_ask(tmp_path):
    with serving(tmp_path, tcp=True) as place, place.client(tcp=True) as client:
        for origin, status in (("http://localhost", 200), ("http://localhost:81", 403)):
            assert client.infer(question(), BEARER | {"Origin": origin}).status == status


def test_who_asks_too_often_is_told_so_and_health_is_not_counted(tmp_path):
    with serving(tmp_path, requests_per_second=1) as place, place.client() as client:
        assert client.infer(question()).status == 200
        while (heard := client.infer(question())).status == 200:
            pass  # a second went by
        assert heard.status == 429
        assert "requests_per_second" in heard.error
        assert heard.headers["retry-after"] == "1"
        for _ in range(20):
            assert client.ask("GET", "/v2/health/live").status == 200
        assert place.endpoint.counts().refused == {"rate": 1}


def test_one_connection_too_many_is_told_so(tmp_path):
    with (
        serving(tmp_path, connections=2) as place,
        place.client() as one,
        place.client() as two,
    ):
        assert answered(one)
        assert answered(two)
        with place.client() as three:
            assert three.hear().status == 503
            assert three.is_closed()
        assert answered(one)


class Gate:
    """A model that answers when it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked = threading.Semaphore(0)

    def request(self, slot, _):
        self.asked.release()
        assert self.open.wait(20)
        return Response(
            id="1-1",
            slot=slot,
            release="d",
            version="1",
            outputs={"y": np.float32([1])},
            label="",
            confidence=0.0,
            latency_us=1.0,
        )


def test_health_is_answered_while_a_model_is_slow_and_too_many_waiting_are_told_so(tmp_path):
    gate = Gate()
    with serving(tmp_path, request=gate.request, waiting=2) as place:
        clients = [place.client() for _ in range(5)]
        clients[0].send(written("POST", "/v2/models/motion/infer", question()))
        assert gate.asked.acquire(timeout=10)
        for client in clients[1:3]:
            client.send(written("POST", "/v2/models/motion/infer", question()))
        assert clients[4].ask("GET", "/v2/health/live").status == 200
        statuses = {clients[3].infer(question()).status, clients[4].infer(question()).status}
        assert statuses == {503}
        gate.open.set()
        assert [client.hear().status for client in clients[:3]] == [200] * 3
        assert clients[3].infer(question()).status == 200
        assert place.endpoint.counts().refused == {"busy": 2}
        for client in clients:
            client.there.close()


def test_what_has_no_answer_in_time_is_504_and_what_waited_is_not_asked(tmp_path):
    gate = Gate()
    with (
        serving(tmp_path, request=gate.request, deadline_seconds=0.5) as place,
        place.client() as one,
        place.client() as two,
    ):
        for client in (one, two):
            client.send(written("POST", "/v2/models/motion/infer", question()))
        for client in (one, two):
            heard = client.hear()
            assert heard.status == 504
            assert "0.5 seconds" in heard.error
        gate.open.set()
        assert one.infer(question()).status == 200
        times = 0
        while gate.asked.acquire(blocking=False):
            times += 1
        assert times == 2


def test_a_caller_s_own_timeout_counts_from_its_arrival(tmp_path):
    gate = Gate()
    with (
        serving(tmp_path, request=gate.request) as place,
        place.client() as one,
        place.client() as two,
    ):
        one.send(written("POST", "/v2/models/motion/infer", question()))
        assert gate.asked.acquire(timeout=10)
        two.send(written("POST", "/v2/models/motion/infer", question(parameters={"timeout": 1})))
        gate.open.set()
        assert one.hear().status == 200
        assert two.hear().status == 504


@pytest.mark.slow
def test_who_sends_slowly_or_nothing_is_not_waited_for(tmp_path):
    with serving(tmp_path, receive_seconds=0.3, idle_seconds=0.3) as place:
        with place.client() as silent, place.client() as slow, place.client() as idle:
            slow.send(b"POST /v2 HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
            assert answered(idle)
            heard = slow.hear()
            assert heard.status == 408
            assert "0.3 seconds" in heard.error
            for client in (silent, slow, idle):
                assert client.is_closed()
        with place.client() as client:
            assert answered(client)


@pytest.mark.slow
def test_who_does_not_read_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.1)
    with serving(tmp_path) as place:
        with place.client() as deaf:
            deaf.there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.there.settimeout(10)
            asked = written("GET", "/v2/models/motion") * 200
            with pytest.raises(ConnectionError):
                deaf.send_for_ever(asked)
        with place.client() as client:
            assert answered(client)


def test_too_many_large_bodies_at_once_are_refused(tmp_path):
    size = 40_000
    head = written("POST", "/v2/models/motion/infer", b"", {"Content-Length": str(size + 10)})
    with serving(tmp_path, body_bytes=size + 10, json_bytes=1024) as place:
        clients = [place.client() for _ in range(6)]
        for client in clients:
            client.send(head + b" " * size)
        assert clients[-1].hear().status == 503
        for client in clients[:2]:
            client.send(b" " * 10)
            assert client.hear().status == 413
        for client in clients:
            client.there.close()
        with place.client() as client:
            heard = client.infer(question()[:100])
            assert heard.status == 400  # read again, as nothing is held for who has gone


def test_no_request_is_dropped_while_models_change(tmp_path):
    models = [loaded(classifier(seed), version=str(seed)) for seed in range(12)]
    with serving(tmp_path, {"motion": models[0]}) as place:
        statuses: list[int] = []
        stop = threading.Event()

        def ask():
            with place.client() as client:
                while not stop.is_set():
                    statuses.append(client.infer(question()).status)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for model in models[1:]:
            before = len(statuses)
            place.servings["motion"].serve(model)
            while len(statuses) < before + 5 and any(t.is_alive() for t in threads):
                stop.wait(0.001)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert set(statuses) == {200}


def test_an_action_has_its_slot_and_its_status(tmp_path):
    def feedback(slot, body):
        said = json.loads(body)
        return (200 if slot == "motion" else 500), json.dumps({"heard": said}).encode()

    def broken(slot, body):
        raise RuntimeError("a bug")

    actions = {"feedback": feedback, "broken": broken}
    with serving(tmp_path, actions=actions) as place, place.client() as client:
        path = "/v2/models/motion/feedback"
        assert client.ask("POST", path, b'{"id": 1}').json == {"heard": {"id": 1}}
        assert client.ask("GET", path).status == 405
        assert client.ask("POST", "/v2/models/none/feedback", b"{}").status == 404
        packed = {"Content-Encoding": "gzip"}
        assert client.ask("POST", path, gzip.compress(b"[]"), packed).json == {"heard": []}
        assert client.ask("POST", "/v2/models/motion/broken", b"").status == 500
        assert answered(client)


def test_the_end_lets_what_is_being_answered_be_answered(tmp_path):
    gate = Gate()
    with (
        serving(tmp_path, request=gate.request) as place,
        place.client() as busy,
        place.client() as idle,
    ):
        assert idle.ask("GET", "/v2/health/live").status == 200
        busy.send(written("POST", "/v2/models/motion/infer", question()))
        assert gate.asked.acquire(timeout=10)
        stopping = threading.Thread(target=place.endpoint.stop)
        stopping.start()
        assert idle.is_closed()
        gate.open.set()
        heard = busy.hear()
        assert (heard.status, heard.headers["connection"]) == (200, "close")
        assert busy.is_closed()
        stopping.join(10)
        assert not stopping.is_alive()
        assert not place.path.exists()
        assert not place.ended


def test_a_server_that_cannot_go_on_says_so_and_ends_nothing_else(tmp_path, monkeypatch):
    def broken(self, token):
        raise RuntimeError("no loop today")

    monkeypatch.setattr(Endpoint, "_floor", broken)
    with serving(tmp_path) as place:
        assert place.ended == ["models are served no longer: RuntimeError: no loop today"]


def test_a_stateful_model_keeps_its_state_along_a_sequence(tmp_path):
    def ask(client, x, **sequence):
        data = np.float32([x])
        body = json.loads(question(data))
        body["parameters"] = sequence
        return client.infer(json.dumps(body).encode()).json["outputs"][0]["data"]

    states = (State(input="h_in", output="h_out"),)
    model = loaded(Stateful(OnnxRuntime(recurrent()), states), **PLAIN)
    with serving(tmp_path, {"motion": model}) as place, place.client() as client:
        assert [t["name"] for t in client.ask("GET", "/v2/models/motion").json["inputs"]] == ["x"]
        assert ask(client, [1, 2], sequence_id=7, sequence_start=True) == [1, 2]
        assert ask(client, [1, 2], sequence_id=7) == [2, 4]
        assert ask(client, [1, 2]) == [1, 2]
        assert ask(client, [1, 2], sequence_id=7, sequence_end=True) == [3, 6]
        assert ask(client, [1, 2], sequence_id=7, sequence_start=True) == [1, 2]


def test_a_model_in_a_process_of_its_own_is_never_waited_for_on_the_loop(tmp_path):
    threads = set()

    def request(slot, asked):
        threads.add(threading.current_thread().name)
        return place.servings[slot].request(asked)

    model = dataclasses.replace(loaded(), apart=True)
    with serving(tmp_path, {"motion": model}, request=request) as place, place.client() as client:
        for _ in range(lanes.KNOWN_AFTER + 5):
            assert client.infer(question()).status == 200
    assert threads == {"serve-motion"}


def test_a_quick_model_is_answered_on_the_loop_and_a_slow_one_no_longer(tmp_path, monkeypatch):
    threads = []
    waits = threading.Event()

    def request(slot, asked):
        threads.append(threading.current_thread().name)
        if waits.is_set():
            threading.Event().wait(0.02)
        return place.servings[slot].request(asked)

    monkeypatch.setattr(lanes, "QUICK_SECONDS", 0.01)
    with serving(tmp_path, request=request) as place, place.client() as client:
        while "serve" not in threads:
            assert client.infer(question()).status == 200
        waits.set()
        threads.clear()
        while "serve-motion" not in threads:
            assert client.infer(question()).status == 200
        waits.clear()
        threads.clear()
        while "serve" not in threads:
            assert client.infer(question()).status == 200


STATUSES = {200, 400, 401, 403, 404, 405, 408, 413, 421, 429, 431, 500, 503, 504}


def test_whatever_is_sent_is_answered_by_the_standard_or_closed_and_the_next_request_works(
    tmp_path,
):
    chance = random.Random(4)
    framed = oip.write_request({"x": window()})
    length = {"Inference-Header-Content-Length": str(framed.json_length)}
    whole = [
        written("POST", "/v2/models/motion/infer", question()),
        written("POST", "/v2/models/motion/infer", framed.content, length),
        written("GET", "/v2/models/motion") * 3,
        (
            b"POST /v2/models/motion/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'5\r\n{"inp\r\n0\r\n\r\n'
        ),
    ]
    with serving(tmp_path) as place:
        for _ in range(300):
            raw = bytearray(chance.choice(whole))
            for _ in range(chance.randint(1, 6)):
                at = chance.randrange(len(raw))
                match chance.randrange(4):
                    case 0:
                        raw[at] = chance.randrange(256)
                    case 1:
                        del raw[at : at + chance.randint(1, 40)]
                    case 2:
                        raw[at:at] = chance.randbytes(chance.randint(1, 40))
                    case _:
                        raw[at:at] = raw[: chance.randint(1, len(raw))]
                raw = raw or bytearray(b"\n")
            with place.client() as client:
                client.send(raw)
                client.there.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while True:
                        heard = client.hear()
                        assert heard.status in STATUSES
                        assert heard.status == 200 or heard.error
        with place.client() as client:
            assert answered(client)
        assert "bug" not in place.endpoint.counts().refused
        assert not place.ended


def test_of_a_bomb_no_more_is_inflated_than_the_limit():
    bomb = gzip.compress(b"\0" * 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(OversizedError, match="1000 bytes"):
            inflate(bomb, "gzip", 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
