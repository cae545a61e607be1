import os
import platform
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue

import msgspec
import numpy as np
import pytest

from agent.contract.manifest import describe_artifact, encode_release
from agent.contract.messages import Hosted
from agent.disk import Disk
from agent.errors import (
    AgentError,
    ChildDiedError,
    ModelError,
    StoreError,
    error_named,
)
from agent.infer.arrays import write_npz
from agent.update.store import Store
from agent.worker.jobs import CheckJob, Envelope, Limits, ProbeAnswer, ProbeJob
from agent.worker.start import Finished, read_answer, start
from tests.small_models import SAMPLES, hungry, release_of

MIB = 1024 * 1024
PATIENT = Limits(seconds=60.0, memory_bytes=4096 * MIB)


def run(kind, job, limits=PATIENT):
    answers: SimpleQueue[Finished] = SimpleQueue()
    start(kind, job, ticket="t1", limits=limits, deliver=answers.put)
    finished = answers.get(timeout=90)
    assert (finished.ticket, finished.kind) == ("t1", kind)
    return finished.answer


def labelled_file(path: Path, n: int = 30) -> Path:
    rng = np.random.default_rng(7)
    np.savez(
        path,
        x=rng.normal(size=(n, 6, 128)).astype(np.float32),
        y=(np.arange(n) % 7).astype(np.int64),
        split=(np.arange(n) % 3).astype(np.uint8),
    )
    return path


def test_a_probe_counts_the_labelled_windows(tmp_path):
    answer = run("probe", ProbeJob(samples=str(labelled_file(tmp_path / "l.npz"))))
    assert isinstance(answer, ProbeAnswer)
    assert (answer.train, answer.decide, answer.withheld) == (10, 10, 10)
    assert answer.why == ""


def test_unreadable_labelled_windows_are_a_sentence_and_not_a_failure(tmp_path):
    answer = run("probe", ProbeJob(samples=str(tmp_path / "missing.npz")))
    assert isinstance(answer, ProbeAnswer)
    assert "missing.npz" in answer.why


def test_a_named_error_of_the_child_arrives_as_itself(tmp_path):
    job = CheckJob(state_dir=str(tmp_path), digest="0" * 64, hardware="generic-linux", installed=())
    answer = run("check", job)
    assert isinstance(answer, StoreError)
    assert "0000" in str(answer)


def test_a_child_that_takes_too_long_is_stopped_and_says_so():
    answer = run("probe", ProbeJob(), Limits(seconds=0.05))
    assert isinstance(answer, AgentError)
    assert "stopped after 0.05 seconds" in str(answer)


def test_a_child_that_needs_too_much_memory_is_a_sentence():
    job = ProbeJob(library="onnxruntime")
    answer = run("probe", job, Limits(seconds=60.0, memory_bytes=96 * MIB))
    assert isinstance(answer, AgentError)
    assert str(answer)


def test_a_killed_child_is_reported_by_the_name_of_the_signal():
    answers: SimpleQueue[Finished] = SimpleQueue()
    running = start("probe", ProbeJob(), ticket="t1", limits=PATIENT, deliver=answers.put)
    os.kill(running.pid, signal.SIGSEGV)
    answer = answers.get(timeout=60).answer
    assert isinstance(answer, ChildDiedError)
    assert (answer.signal, "SIGSEGV" in str(answer)) == (signal.SIGSEGV, True)


def test_a_stopped_child_is_gone():
    answers: SimpleQueue[Finished] = SimpleQueue()
    running = start("probe", ProbeJob(), ticket="t1", limits=PATIENT, deliver=answers.put)
    running.stop()
    assert isinstance(answers.get(timeout=60).answer, AgentError)
    assert not Path(f"/proc/{running.pid}").exists()


def test_a_child_sees_nothing_of_the_agents_environment_that_it_does_not_need(monkeypatch):
    monkeypatch.setenv("FIELDFARE_SECRET", "not for models")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    answers: SimpleQueue[Finished] = SimpleQueue()
    running = start("probe", ProbeJob(), ticket="t1", limits=PATIENT, deliver=answers.put)
    seen = Path(f"/proc/{running.pid}/environ").read_bytes().split(b"\0")
    running.stop()
    assert b"OMP_NUM_THREADS=1" in seen
    assert not [line for line in seen if line.startswith(b"FIELDFARE")]


def test_a_child_of_another_parent_ends_at_once():
    envelope = Envelope(parent=1, limits=PATIENT, job=msgspec.Raw(msgspec.json.encode(ProbeJob())))
    ended = subprocess.run(
        [sys.executable, "-I", "-m", "agent", "worker", "probe"],
        input=msgspec.json.encode(envelope),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == b""


def test_an_unknown_job_is_wrong_usage():
    ended = subprocess.run(
        [sys.executable, "-I", "-m", "agent", "worker", "dance"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert b"a worker is one of" in ended.stderr


@pytest.mark.parametrize(
    ("status", "said", "says"),
    [
        pytest.param(-11, b"", "killed by SIGSEGV", id="signal"),
        pytest.param(1, b"", "ended with status 1 and no answer", id="crash"),
        pytest.param(0, b"{}", "no answer", id="nothing said"),
        pytest.param(
            0, b'{"type": "answered", "answer": {"runtimes": 3}}', "no answer", id="wrong shape"
        ),
        pytest.param(0, b"\xff", "no answer", id="no JSON"),
    ],
)
def test_what_is_no_answer_becomes_one_sentence(status, said, says):
    answer = read_answer("probe", status, said)
    assert isinstance(answer, AgentError)
    assert says in str(answer)


def test_errors_keep_their_class_between_processes():
    assert isinstance(error_named("model", "bad"), ModelError)
    unknown = error_named("from-the-future", "bad")
    assert type(unknown) is AgentError
    assert "from-the-future" in str(unknown)


def test_a_model_for_which_there_is_no_memory_is_no_finding_about_the_model(tmp_path):
    store = Store(Disk(tmp_path))
    model = hungry()
    members = {
        "in.x": (1, 1, 3, SAMPLES),
        "out.probabilities": (1, 1, 3),
        "out.embedding": (1, 1, 4),
    }
    zeros = {name: np.zeros(shape, np.float32) for name, shape in members.items()}
    golden = write_npz({"v": np.array(1, np.int64), **zeros})
    release = msgspec.structs.replace(
        release_of(model, version="01"), golden=describe_artifact(golden)
    )
    manifest, digest = encode_release(release)
    for content in (model, golden, manifest):
        store.put(sha256(content).hexdigest(), content)
    job = CheckJob(
        state_dir=str(tmp_path),
        digest=digest,
        hardware="generic-linux",
        installed=(Hosted(name="onnx", version="1"),),
    )
    answer = run("check", job, Limits(seconds=60.0, memory_bytes=3072 * MIB))
    assert isinstance(answer, AgentError)
    assert answer.code == AgentError.code, answer
    assert "more memory" in str(answer)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the call is x86_64's")
def test_a_child_that_trains_yields_processor_and_disk_to_everybody_else():
    asked = (
        "import ctypes, os; from agent.worker import child; from agent.worker.jobs import Limits;"
        "child._limit(Limits(seconds=1, nice=7, idle_disk=True));"
        "print(os.nice(0), ctypes.CDLL(None).syscall(252, 1, 0) >> 13)"
    )
    began = os.nice(0)
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(min(19, began + 7)), "3"]
