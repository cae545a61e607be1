"""An app in its own process: what it may do, and what costs it its reply."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from agent.contract.tensors import decode_message
from agent.errors import AppError
from agent.learn.apps.apart import Bounds
from agent.learn.apps.running import run_app, sweep
from agent.learn.samples import LabelledWindows
from tests.small_apps import HALVING, body, order, train_message

SMALL = Bounds(memory_bytes=512 * 1024**2, cpu_seconds=20, file_bytes=1024**2, nice=0)


def test_an_app_answers_with_what_it_made_of_the_arrays(tmp_path):
    answer = run_app(order(tmp_path, HALVING))
    said = decode_message(answer.reply)
    assert said.metadata.reply_to_message_id == "1.5"
    assert (said.metadata.src_node_id, said.metadata.dst_node_id) == (5, 1)
    made = said.content["arrays"].items["weight"]
    assert made.dtype == np.float32
    assert np.array_equal(made, np.arange(6, dtype=np.float32).reshape(2, 3) / 2)
    assert said.content["metrics"].items == {"num-examples": 8}


@pytest.mark.parametrize(
    ("lines", "code", "sentence"),
    [
        pytest.param(
            "raise ValueError('no luck')", "app-raised", "ValueError: no luck", id="raises"
        ),
        pytest.param("import time; time.sleep(60)", "app-time", "after 1 seconds", id="hangs"),
        pytest.param("import os; os.fork()", "app-process", "os.fork", id="forks"),
        pytest.param(
            "import subprocess; subprocess.run(['/bin/true'])",
            "app-process",
            "subprocess.Popen",
            id="starts a program",
        ),
        pytest.param("bytearray(2**30)", "app-memory", "more memory", id="eats memory"),
        pytest.param(
            "import socket; socket.create_connection(('127.0.0.1', 1883), 1)",
            "app-network",
            "socket",
            id="opens a socket",
        ),
        pytest.param(
            "import socket\ntry:\n    socket.socket()\nexcept OSError:\n    pass",
            "app-network",
            "socket",
            id="opens a socket and says nothing",
        ),
        pytest.param("import sys; sys.exit(0)", "app-raised", "SystemExit", id="exits"),
        pytest.param("import os; os._exit(0)", "app-died", "status 0", id="ends its process"),
        pytest.param("return None", "app-reply", "NoneType", id="returns nothing"),
        pytest.param(
            "return Message(RecordDict({'a': ArrayRecord([np.zeros(2, complex)])}),"
            " reply_to=message)",
            "app-reply",
            "complex",
            id="returns what cannot be sent",
        ),
        pytest.param(
            "from flwr.app import Error\nreturn Message(Error(9, 'sorry'), reply_to=message)",
            "app-raised",
            "sorry",
            id="returns an error",
        ),
        pytest.param(
            "import ctypes\nassert ctypes.CDLL(None).socket(2, 1, 0) < 0, 'a socket'\n"
            "assert ctypes.CDLL(None).syscall(39) > 0\nraise OSError('none by C')",
            "app-raised",
            "none by C",
            id="opens a socket behind Python's back",
        ),
        pytest.param(
            "open('big', 'wb').write(bytes(2 * 1024**2))",
            "app-raised",
            "File too large",
            id="fills",
        ),
    ],
)
def test_an_app_that_fails_costs_its_own_reply_with_a_reason(tmp_path, lines, code, sentence):
    seconds = 1.0 if code == "app-time" else 30.0
    with pytest.raises(AppError) as refused:
        run_app(order(tmp_path, body(lines), bounds=SMALL, seconds=seconds))
    assert refused.value.code == code
    assert sentence in str(refused.value)


def test_an_app_that_computes_for_ever_is_stopped_by_its_processor_time(tmp_path):
    bounds = Bounds(memory_bytes=2**30, cpu_seconds=1, file_bytes=2**20, nice=0)
    with pytest.raises(AppError) as refused:
        run_app(order(tmp_path, body("while True: pass"), bounds=bounds))
    assert refused.value.code == "app-cpu"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        pytest.param("import nothing_of_this_name", "nothing_of_this_name", id="no such module"),
        pytest.param("app = 5", "not a ClientApp", id="no app"),
        pytest.param("from flwr.app import Nothing", "light stand-in", id="not in the stand-in"),
        pytest.param("def", "SyntaxError", id="no Python"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_told_so(tmp_path, source, sentence):
    with pytest.raises(AppError, match=sentence) as refused:
        run_app(order(tmp_path, source))
    assert refused.value.code == "app-load"


def test_an_app_sees_no_key_no_environment_and_no_other_process(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDFARE_SECRET", "of the agent")
    secret = tmp_path / "state" / "identity.json"
    lines = f"""
import os
seen = [name for name in os.environ if "FIELDFARE" in name]
for name in ({str(secret)!r}, {str(tmp_path)!r}, "/proc/{os.getpid()}/environ", "/etc/passwd"):
    try:
        os.listdir(name) if os.path.isdir(name) else open(name).read()
        seen.append(name)
    except OSError:
        pass
for act in (lambda: os.kill({os.getpid()}, 0), lambda: os.link({str(secret)!r}, "reply")):
    try:
        act()
        seen.append("act")
    except OSError:
        pass
assert seen == [], seen
"""
    assert run_app(order(tmp_path, body(lines))).hidden


def test_a_reply_that_is_a_link_to_the_agents_key_is_not_followed(tmp_path):
    secret = tmp_path / "state" / "identity.json"
    lines = f"""
import os, json
os.symlink({str(secret)!r}, "reply")
open("state", "w").close()
json.dump({{"code": "", "why": "", "hidden": []}}, open("outcome.json", "w"))
os._exit(0)
"""
    with pytest.raises(AppError) as refused:
        run_app(order(tmp_path, body(lines)))
    assert refused.value.code == "app-reply"


def test_what_an_app_keeps_comes_back_with_its_next_message(tmp_path):
    lines = """
held = context.state.config_records.get("held")
seen = held["seen"] + 1 if held else 1
context.state["held"] = ConfigRecord({"seen": seen})
message.content["count"] = MetricRecord({"seen": seen})
"""
    first = run_app(order(tmp_path, body(lines)))
    second = run_app(order(tmp_path, body(lines), state=first.state))
    assert decode_message(second.reply).content["count"].items == {"seen": 2}


def test_an_app_finds_its_windows_and_its_settings_in_the_context(tmp_path):
    windows = LabelledWindows(
        x=np.ones((3, 2, 4), np.float32),
        y=np.array([0, 1, 1], np.int64),
        split=np.zeros(3, np.uint8),
    )
    lines = """
samples = np.load(context.node_config["samples-path"])
message.content["found"] = ConfigRecord({
    "labels": samples["y"].tolist(), "shape": list(samples["x"].shape),
    "part": [context.node_config["partition-id"], context.node_config["num-partitions"]],
    "rate": context.run_config["lr"], "node": context.node_id,
})
"""
    asked = order(
        tmp_path,
        body(lines),
        windows=windows,
        node_config={"partition-id": 2, "num-partitions": 4},
        run_config={"lr": 0.5},
    )
    found = decode_message(run_app(asked).reply).content["found"].items
    assert found == {
        "labels": (0, 1, 1),
        "shape": (3, 2, 4),
        "part": (2, 4),
        "rate": 0.5,
        "node": 5,
    }


def test_nothing_of_an_app_is_left_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    closed = "import os; os.makedirs('a/b'); os.symlink('/', 'a/root'); os.chmod('a', 0)"
    run_app(order(tmp_path, body(closed)))
    assert [p.name for p in Path(tmp_path).iterdir()] == ["state"]


def test_a_thread_that_an_app_leaves_behind_does_not_keep_the_device_waiting(tmp_path):
    lines = "import threading; threading.Thread(target=threading.Event().wait).start()"
    assert run_app(order(tmp_path, body(lines), seconds=20)).reply


def test_an_evaluation_is_answered_by_the_function_for_it(tmp_path):
    source = body("pass").replace("@app.train()", "@app.evaluate('quick')")
    assert run_app(order(tmp_path, source, message=train_message("evaluate.quick"))).reply


def test_what_a_killed_parent_left_goes_after_a_day_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, age_seconds in (
        ("fieldfare-app-a", 90_000),
        ("fieldfare-app-b", 60),
        ("other", 90_000),
    ):
        (tmp_path / name / "out").mkdir(parents=True)
        then = time.time() - age_seconds
        os.utime(tmp_path / name, (then, then))
    sweep()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fieldfare-app-b", "other"]
