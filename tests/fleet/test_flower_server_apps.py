"""Server apps that do not do what they should: their run ends with the reason, and all it had."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from agent.contract.rounds import TaskAnswer
from agent.errors import AgentError
from fleet.rounds.engine import replay
from fleet.rounds.events import decode_event
from fleet.rounds.host import FlowerChild, _Watch
from tests.small_rounds import World, conductor, drive, plan, three_devices

pytestmark = pytest.mark.slow

APPS = Path(__file__).resolve().parents[1] / "apps"


def run_app(app, *, folder=APPS, at_answer=None, fails=False):
    """Drive an app to its end; ``at_answer`` is called with its child as devices answer.

    With ``fails`` what a device cannot do is told as the device tells it.
    """
    world, devices, children = World(), three_devices(), []
    asked = plan(app=app, app_folder=str(folder))

    def launch(begin, put):
        children.append(FlowerChild(begin, put))
        return children[-1]

    def answer(device, task, content):
        if at_answer is not None:
            at_answer(children[-1])
        try:
            return devices[device].answer(task, content)
        except AgentError as why:
            if not fails:
                raise
            told = {"outcome": "failed", "why": str(why)}
            return TaskAnswer(run=task.run, task=task.task, **told), b""

    run = conductor(world, asked, launch=launch)
    return asked, world, drive(run, world, devices, answer=answer), children


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        pytest.param("broken_app:app", "ValueError: this app is broken", id="raises"),
        pytest.param("leaving_app:app", "SystemExit: there is no data here", id="leaves"),
        pytest.param("idle_app:app", "ended without running a strategy", id="returns nothing"),
        pytest.param("idle_app:nothing", "made no arrays in any round", id="makes nothing"),
        pytest.param("idle_app:nobody", "made no arrays in any round", id="asks nobody"),
        pytest.param("idle_app:not_an_app", "idle_app:not_an_app is no ServerApp", id="no app"),
        pytest.param("idle_app:missing", "has no attribute 'missing'", id="no attribute"),
        pytest.param("not_there:app", "No module named 'not_there'", id="no module"),
    ],
)
def test_an_app_that_gives_nothing_ends_its_run_with_the_reason(app, sentence):
    asked, world, state, children = run_app(app)
    assert state.status == "failed"
    assert sentence in state.why
    assert len(children) == 1  # it would do the same again
    # what its devices answered before is in the journal, and reads the same
    assert replay(asked, [decode_event(e) for e in world.journal]) == state


def test_a_strategy_that_returns_nothing_loses_no_answer_of_a_device():
    _, world, state, _ = run_app("idle_app:nothing")
    assert (state.rounds_completed, state.replies) == (2, 4)
    assert sum(name.startswith("t-") for name in world.spool) == 4


def test_an_app_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    tmp_path.chmod(0o777)  # where the app is another user
    shutil.copy(APPS / "hanging_app.py", tmp_path)

    def lose_patience(child):
        child._watch.seconds = 4

    _, _, state, children = run_app("hanging_app:app", folder=tmp_path, at_answer=lose_patience)
    assert (state.status, state.rounds_completed) == ("failed", 1)
    assert "TimeoutError: it said nothing for 4 s" in state.why
    assert len(children) == 1
    children[0].join()
    asleep = int((tmp_path / "started.txt").read_text())
    with pytest.raises(ProcessLookupError):
        still_there(asleep)


def still_there(process):
    """Raise when a process is gone, or is only waiting to be buried."""
    os.kill(process, 0)
    if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
        raise ProcessLookupError


def test_an_app_that_waits_for_slow_devices_does_not_hang():
    watched = []
    _, _, state, _ = run_app(
        "median_app:app",
        at_answer=lambda child: watched.append(not child._watch._timer.finished.is_set()),
    )
    assert state.status == "finished", state.why
    assert watched
    assert not any(watched)


def test_a_killed_app_is_started_again_and_says_the_same(tmp_path):
    baseline = run_app("median_app:app")[1]
    devices, world, children, killed = three_devices(), World(), [], []

    def launch(begin, put):
        children.append(FlowerChild(begin, put))
        return children[-1]

    asked = plan(app="median_app:app", app_folder=str(APPS))
    run = conductor(world, asked, launch=launch)

    def answer(device, task, content):
        said = devices[device].answer(task, content)
        if not killed and run.state.rounds_completed == 1:
            killed.append(os.kill(children[0].process_id, signal.SIGKILL))
        return said

    assert drive(run, world, devices, answer=answer).status == "finished"
    assert len(children) == 2
    assert world.spool["final"] == baseline.spool["final"]


def test_training_of_another_name_is_refused_by_a_device_that_trains_heads(tmp_path):
    (tmp_path / "naming_app.py").write_text(NAMING)
    _, _, state, _ = run_app("naming_app:app", folder=tmp_path, fails=True)
    (send,) = state.sends
    assert {a.outcome for a in send.answers.values()} == {"failed"}
    assert "a train task came with a message of another kind" in state.why


NAMING = """
from flwr.app import Message


def app(grid, context):
    sent = [Message(context.state, n, "train.my_way") for n in grid.get_node_ids()]
    grid.send_and_receive(sent)
"""


def test_words_to_a_child_that_is_gone_call_nobody():
    called = []
    watch = _Watch(0.0, lambda: called.append(1))
    watch.close()
    watch.begin()
    watch._run_out()
    assert (called, watch.expired, watch._timer) == ([], False, None)
