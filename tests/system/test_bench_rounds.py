"""The rounds bench: both sides have the same model, bytes are counted, nothing is made up."""

import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from agent.infer.onnx import OnnxRuntime
from scripts.bench import rounds_model
from scripts.bench.rounds import summary
from scripts.bench.rounds_counting import Proxy, tree
from scripts.bench.rounds_graph import write

IDLE = {"idle_bytes_a_day": 100, "idle_pss_bytes": 10, "idle_measured_seconds": 60.0}
RUN = {"seconds_a_round": 1.0, "bytes_a_round": 50, "rss_training_bytes": 7}


@pytest.mark.parametrize("width", [rounds_model.SMALL, rounds_model.FEATURES * 3])
def test_a_device_and_flowers_client_embed_alike(tmp_path, width):
    chance = np.random.default_rng(0)
    windows = chance.normal(0, 2, (3, 6, 128)).astype(np.float32)
    arrays = rounds_model.make(width, np.full(6, 2, np.float32))
    model = write(tmp_path, "small", arrays)
    found = rounds_model.embed(model.with_suffix(".npz"), windows)
    runtime = OnnxRuntime(model.read_bytes())
    wanted = np.concatenate([runtime.infer(window[np.newaxis])[1] for window in windows])
    assert found.shape == (3, width)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    columns = found.T.round(6)
    assert len({c.tobytes() for c in columns}) == width  # or a codec would have it too easy


def test_the_sizes_are_those_that_are_promised():
    sizes = [rounds_model.parameters(w) for w in (rounds_model.SMALL, rounds_model.LARGE)]
    assert sizes == [656, 999_952]


def test_the_proxy_carries_everything_and_counts_both_ways():
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy(server.getsockname()[1])

        def echo() -> None:
            there, _ = server.accept()
            with there:
                there.sendall(there.recv(1000) * 2)

        thread = threading.Thread(target=echo)
        thread.start()
        with socket.create_connection(("127.0.0.1", proxy.port)) as near:
            near.sendall(b"x" * 300)
            said = b""
            while piece := near.recv(1000):
                said += piece
        thread.join()
        assert len(said) == 600
        assert proxy.carried == 900
        proxy.close()


def test_a_process_is_counted_with_those_that_it_started():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in tree(os.getpid())
        assert tree(child.pid) == [child.pid]
        child.communicate(b"\n")


def test_what_was_not_measured_has_no_ratio():
    theirs = {
        "small": RUN | {"seconds_a_round": 10.0, "work_seconds": 0.5},
        "large": RUN | {"bytes_a_round": 100},
        "killed": {"seconds_lost": 50.0},
    }
    mine = {
        "small": RUN,
        "large": {"not_measured": "too large"},
        "killed device": RUN | {"seconds_lost": 5.0},
        "killed manager": RUN | {"rounds_lost": 0},
        "large int8": {"not_measured": "too large"},
    }
    found = summary({"ours": IDLE, "flower": IDLE}, theirs, mine)
    assert (found["seconds_ratio"], found["bytes_ratio"]) == (None, None)
    assert (found["seconds_ratio_small"], found["killed_device_ratio"]) == (0.1, 0.1)
    assert (found["rounds_lost"], found["flower_polling_seconds"]) == (0, 9.5)
    whole = summary({"ours": IDLE, "flower": IDLE}, theirs, mine | {"large": RUN})
    assert (whole["seconds_ratio"], whole["bytes_ratio"]) == (1.0, 0.5)
