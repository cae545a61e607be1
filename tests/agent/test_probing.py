import os
import signal
from queue import SimpleQueue

import numpy as np
import pytest

from agent.contract.messages import Hosted
from agent.daemon.agenda import Agenda
from agent.daemon.probing import MAX_TRIES, Probing, Surroundings
from agent.errors import AgentError, ChildDiedError, PlatformError, RuntimeMissingError
from agent.infer import probing as libraries
from agent.infer.onnx import PROBE_IR, PROBE_OPSET
from agent.worker import probes
from agent.worker.jobs import Limits, ProbeAnswer
from agent.worker.probes import is_final, joined, probe_jobs
from agent.worker.start import Finished, start

OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.0.0"
ONNX = ProbeAnswer(runtimes=(Hosted(name="onnx", version="1", library="onnxruntime"),))
LITERT = ProbeAnswer(runtimes=(Hosted(name="tflite", version="2", library="ai-edge-litert"),))
ILL = ChildDiedError("the probe worker was killed by SIGILL", signal.SIGILL)
SLOW = AgentError("the probe worker was stopped after 60 seconds")


@pytest.fixture
def all_three(monkeypatch):
    """Three libraries are there, whatever is installed: only their names are asked for."""
    monkeypatch.setattr(probes.probing, "present", lambda: tuple(libraries.LIBRARIES))


class Room:
    """A ``Probing`` with what it asked for, and a clock that is moved by hand."""

    def __init__(self, refuse=()) -> None:
        self.now, self.started, self.alarms, self.found = 0.0, [], [], []
        self.agenda = Agenda()
        self.refuse = list(refuse)
        self.probing = Probing(
            None,
            self.agenda,
            Surroundings(
                start=self.start,
                found=self.found.append,
                alarm=lambda code, why: self.alarms.append((code, why)),
                monotonic=lambda: self.now,
            ),
        )
        self.probing.begin()

    def start(self, ticket, job):
        assert job.library == ticket
        if self.refuse and self.refuse.pop():
            raise PlatformError("the probe worker does not start: out of processes")
        self.started.append(ticket)

    def answer(self, **answers):
        for ticket in self.started[:]:
            self.started.remove(ticket)
            self.probing.answered(ticket, answers[ticket.replace("-", "_")])

    def later(self, seconds):
        self.now += seconds
        for action in self.agenda.due(self.now):
            action()


def run_all():
    answers: SimpleQueue[Finished] = SimpleQueue()
    jobs = probe_jobs(None)
    for library, job in jobs.items():
        start("probe", job, ticket=library, limits=Limits(seconds=60.0), deliver=answers.put)
    found = [answers.get(timeout=90) for _ in jobs]
    return {finished.ticket: finished.answer for finished in found}


def test_every_installed_library_makes_an_inference_in_a_child_of_its_own():
    found = joined(run_all())
    wanted = ["onnxruntime", "ai-edge-litert", "tflite-runtime"]
    assert [r.library for r in found.runtimes] == (wanted if OLD_NUMPY else wanted[:2])
    onnx, litert = found.runtimes[:2]
    assert (onnx.name, litert.name) == ("onnx", "tflite")
    assert onnx.ir > PROBE_IR
    assert onnx.opset > PROBE_OPSET
    assert "CPUExecutionProvider" in onnx.providers
    assert (litert.ir, litert.opset, litert.providers) == (None, None, ())
    assert not [u for u in found.unusable if OLD_NUMPY or u.library != "tflite-runtime"]


@pytest.mark.skipif(
    OLD_NUMPY or "tflite-runtime" not in libraries.present(), reason="it works, or is not there"
)
def test_a_library_that_imports_and_does_not_run_is_found_by_the_inference():
    (unusable,) = joined(run_all()).unusable
    assert (unusable.library, unusable.code) == ("tflite-runtime", "runtime-missing")
    assert f"its build does not fit numpy {np.__version__}" in unusable.why


def test_the_limits_that_are_reported_are_those_that_the_library_keeps():
    from agent.errors import ModelError
    from agent.infer.onnx import OnnxRuntime
    from tests.small_models import classifier

    hosted = libraries.probe("onnxruntime")
    assert OnnxRuntime(classifier(opset=hosted.opset)).outputs
    with pytest.raises(ModelError, match=f"is of opset {hosted.opset + 1}; "):
        OnnxRuntime(classifier(opset=hosted.opset + 1))


def test_a_library_that_is_not_known_is_a_missing_runtime():
    with pytest.raises(RuntimeMissingError, match="no library that this agent knows"):
        libraries.probe("tensorflow")


def test_a_library_that_is_not_installed_is_not_tried(monkeypatch):
    monkeypatch.setitem(libraries.LIBRARIES, "ai-edge-litert", "not_a_module_of_ours")
    assert "ai-edge-litert" not in probe_jobs("labelled.npz")
    assert probe_jobs("labelled.npz")["samples"].samples == "labelled.npz"


def test_a_child_killed_by_sigill_costs_its_own_library_only():
    answers: SimpleQueue[Finished] = SimpleQueue()
    job = probe_jobs(None)["ai-edge-litert"]
    child = start("probe", job, ticket="x", limits=Limits(seconds=60.0), deliver=answers.put)
    os.kill(child.pid, signal.SIGILL)
    died = answers.get(timeout=60).answer
    assert is_final(died)
    found = joined({"onnxruntime": ONNX, "ai-edge-litert": died})
    assert found.runtimes == ONNX.runtimes
    (unusable,) = found.unusable
    assert (unusable.library, unusable.code) == ("ai-edge-litert", "child-died")
    assert "was killed by SIGILL when it made its first inference here" in unusable.why


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        pytest.param(ONNX, True, id="an answer"),
        pytest.param(RuntimeMissingError("onnxruntime does not work here"), True, id="no use"),
        pytest.param(ChildDiedError("SIGSEGV", signal.SIGSEGV), True, id="a fault of its own"),
        pytest.param(ChildDiedError("SIGKILL", signal.SIGKILL), False, id="killed by another"),
        pytest.param(SLOW, False, id="out of time"),
        pytest.param(PlatformError("no process"), False, id="never started"),
    ],
)
def test_only_what_would_happen_again_is_final(answer, final):
    assert is_final(answer) is final


@pytest.mark.usefixtures("all_three")
def test_the_agent_goes_on_with_the_libraries_that_work_and_tells_of_the_dead_one():
    room = Room()
    room.answer(onnxruntime=ONNX, ai_edge_litert=ILL, tflite_runtime=LITERT)
    (found,) = room.found
    assert [r.library for r in found.runtimes] == ["onnxruntime", "ai-edge-litert"]
    ((code, why),) = room.alarms
    assert code == "child-died"
    assert "SIGILL" in why


@pytest.mark.usefixtures("all_three")
def test_nothing_is_found_before_the_last_child_has_answered():
    room = Room()
    room.probing.answered("onnxruntime", ONNX)
    assert room.found == []


@pytest.mark.usefixtures("all_three")
def test_a_child_out_of_time_is_asked_again_and_the_others_are_not():
    room = Room()
    room.answer(onnxruntime=SLOW, ai_edge_litert=LITERT, tflite_runtime=LITERT)
    assert room.found == []
    assert [why for _, why in room.alarms] == [f"onnxruntime cannot be probed: {SLOW}"]
    room.later(61.0)
    assert room.started == ["onnxruntime"]
    room.answer(onnxruntime=ONNX)
    assert [len(found.runtimes) for found in room.found] == [3]


@pytest.mark.usefixtures("all_three")
def test_a_child_that_never_answers_holds_up_the_others_only_so_often():
    room = Room()
    for _ in range(MAX_TRIES):
        assert room.found == []
        room.answer(onnxruntime=SLOW, ai_edge_litert=LITERT, tflite_runtime=LITERT)
        room.later(61.0)
    (found,) = room.found
    assert [u.library for u in found.unusable] == ["onnxruntime"]


@pytest.mark.usefixtures("all_three")
def test_while_nothing_works_and_children_do_not_start_it_is_tried_for_ever():
    room = Room(refuse=[True] * 3 * 7)
    for _ in range(6):
        room.later(61.0)
    assert (room.found, room.started) == ([], [])
    room.later(61.0)
    assert len(room.started) == 3
