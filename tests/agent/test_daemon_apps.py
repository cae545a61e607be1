"""Offers for apps: what is fetched and checked before one is answered."""

from dataclasses import replace as changed
from hashlib import sha256

import pytest
from msgspec.structs import replace

from agent.config import Config, LearnConfig
from agent.contract.app_bundle import WantedApp, encode_bundle
from agent.contract.rounds import Task
from agent.daemon.apps import FOLDER, MAX_KEPT_APPS, TICKET, Apps, Surroundings
from agent.disk import Disk
from agent.errors import AgentError
from agent.learn.apps.environments import Environment
from agent.learn.offer import Accept, Conditions, Decline, Defer, decide
from agent.refusals import AppDependencyError, UnpublishedError, WrongTargetError
from agent.worker.jobs import AppCheckAnswer
from tests.small_apps import HALVING, bundle

SIGNED = encode_bundle(bundle(HALVING))
DIGEST = sha256(SIGNED).hexdigest()
OWN = Environment(name="agent", program="/usr/bin/python3", python="3.11.7")
RUNNING = "cd" * 32


def task(name="task-1", digest=DIGEST):
    return Task(
        device="d-one",
        run="run-1",
        task=name,
        kind="train",
        backbone=RUNNING,
        digest="ab" * 32,
        lasts_seconds=60,
        app=WantedApp(target="apps/small/1.json", digest=digest),
    )


WILLING = Conditions(
    device="d-one",
    trains=True,
    evaluates=True,
    train_windows=50,
    decide_windows=50,
    backbones=frozenset({RUNNING}),
    apps=True,
)


class Room:
    """The room in a world that remembers what it was asked."""

    def __init__(self, tmp_path, *, allowed=True) -> None:
        self.wanted, self.checked, self.offered, self.alarms, self.started = [], [], [], [], []
        self.vouched = set()
        self.told = 0
        self.disk = Disk(tmp_path)
        self.apps = Apps(
            Config(learn=LearnConfig(apps=allowed)),
            self.disk,
            Surroundings(
                want=self.wanted.append,
                vouches=lambda digest: digest in self.vouched,
                check=lambda ticket, app: self.checked.append((ticket, app)),
                start=lambda *given: self.started.append(given),
                offered=lambda task, *_: self.offered.append((task.task, self.decided(task))),
                changed=self.tell,
                alarm=lambda code, why: self.alarms.append((code, why)),
            ),
        )

    def tell(self):
        self.told += 1

    def decided(self, task):
        lacking, unfetched = self.apps.lacking, self.apps.unfetched
        return decide(task, changed(WILLING, lacking=dict(lacking), unfetched=dict(unfetched)))

    def arrive(self, content=SIGNED):
        self.vouched.add(sha256(content).hexdigest())
        self.apps.arrived(self.wanted[-1], content)


def test_an_offer_waits_until_its_app_is_here_and_a_python_has_what_it_declares(tmp_path):
    room = Room(tmp_path)
    room.apps.offered(task(), b"", lambda: None)
    assert [a.target for a in room.wanted] == ["apps/small/1.json"]
    assert room.offered == []
    room.arrive()
    assert room.disk.read(f"{FOLDER}/{DIGEST}") == SIGNED
    assert (room.checked, room.offered) == ([(DIGEST, DIGEST)], [])
    room.apps.checked(DIGEST, AppCheckAnswer(found=(OWN,)))
    assert room.offered == [("task-1", Accept())]
    room.apps.offered(task("task-2"), b"", lambda: None)
    assert room.offered[1:] == [("task-2", Accept())]
    room.apps.start(task("task-2"), task().app, b"message")
    assert room.started == [(task("task-2"), task().app, b"message", OWN)]


def test_what_an_app_lacks_is_the_answer_to_its_offer(tmp_path):
    room = Room(tmp_path)
    room.apps.offered(task(), b"", lambda: None)
    room.arrive()
    why = "app small misses in environment agent: torch==2.8.0 (not installed)"
    room.apps.checked(DIGEST, AppCheckAnswer(found=(), why=why))
    assert room.offered == [("task-1", Decline(why))]
    assert room.alarms == [("app-dependency", why)]
    with pytest.raises(AppDependencyError):
        room.apps.start(task(), task().app, b"")


def test_a_device_without_apps_fetches_nothing_and_says_no(tmp_path):
    room = Room(tmp_path, allowed=False)
    room.apps.begin()
    room.apps.offered(task(), b"", lambda: None)
    assert (room.wanted, room.checked) == ([], [])
    assert [name for name, _ in room.offered] == ["task-1"]
    no = decide(task(), changed(WILLING, apps=False))
    assert isinstance(no, Decline)
    assert "[learn] apps" in no.why


def test_an_app_that_was_withdrawn_is_not_run_again(tmp_path):
    room = Room(tmp_path)
    room.apps.offered(task(), b"", lambda: None)
    room.arrive()
    room.apps.checked(DIGEST, AppCheckAnswer(found=(OWN,)))
    room.vouched.clear()
    room.apps.offered(task("task-2"), b"", lambda: None)
    assert len(room.wanted) == 2
    room.apps.failed(room.wanted[-1], UnpublishedError("no offline-signed target is called so"))
    ((_, answer),) = room.offered[1:]
    assert isinstance(answer, Defer)
    assert "no offline-signed target" in answer.why
    room.apps.offered(task("task-2"), b"", lambda: None)
    assert len(room.wanted) == 3


@pytest.mark.parametrize("content", [b"{}", encode_bundle(bundle("app = 2"))])
def test_another_target_than_the_task_is_for_is_refused(tmp_path, content):
    room = Room(tmp_path)
    room.apps.offered(task(), b"", lambda: None)
    room.arrive(content)
    assert isinstance(room.offered[0][1], Defer)
    assert room.disk.names(FOLDER) == []
    assert room.alarms[0][0] == WrongTargetError.code


def test_signed_bytes_that_are_no_app_are_not_kept(tmp_path):
    room = Room(tmp_path)
    digest = sha256(b"{}").hexdigest()
    room.apps.offered(task(digest=digest), b"", lambda: None)
    room.arrive(b"{}")
    assert room.alarms[0][0] == "app-malformed"
    assert room.disk.names(FOLDER) == []


def test_an_offer_that_comes_again_settles_the_one_before(tmp_path):
    room, settled = Room(tmp_path), []
    room.apps.offered(task(), b"", lambda: settled.append(1))
    room.apps.offered(task(), b"", lambda: settled.append(2))
    assert (settled, len(room.wanted)) == ([1], 1)


def test_a_child_that_dies_while_it_looks_is_told_and_tried_again(tmp_path):
    room = Room(tmp_path)
    room.apps.offered(task(), b"", lambda: None)
    room.arrive()
    room.apps.checked(DIGEST, AgentError("it died"))
    assert room.offered == [("task-1", Defer("it died"))]
    room.apps.offered(task(), b"", lambda: None)
    assert len(room.wanted) == 2


def test_the_pythons_of_a_device_are_told_once_they_are_known(tmp_path):
    room = Room(tmp_path)
    room.apps.begin()
    assert room.checked == [(TICKET, None)]
    broken = Environment(name="torch", program="/no", why="/no: No such file or directory")
    room.apps.checked(TICKET, AppCheckAnswer(found=(OWN, broken)))
    assert [(e.name, e.python, bool(e.why)) for e in room.apps.environments] == [
        ("agent", "3.11.7", False),
        ("torch", "", True),
    ]
    assert room.told == 1
    assert "environment torch" in room.alarms[0][1]


def test_of_many_apps_the_newest_are_kept(tmp_path):
    room = Room(tmp_path)
    for number in range(MAX_KEPT_APPS + 3):
        signed = encode_bundle(bundle(f"app = {number}"))
        room.apps.offered(task(f"t-{number}", sha256(signed).hexdigest()), b"", lambda: None)
        room.arrive(signed)
    assert len(room.disk.names(FOLDER)) == MAX_KEPT_APPS


def test_what_was_lacking_is_looked_for_again_with_the_next_run(tmp_path):
    room = Room(tmp_path)
    room.apps.offered(task(), b"", lambda: None)
    room.arrive()
    room.apps.checked(DIGEST, AppCheckAnswer(found=(), why="no torch"))
    room.apps.offered(task("task-2"), b"", lambda: None)
    assert room.offered == [("task-1", Decline("no torch")), ("task-2", Decline("no torch"))]
    assert len(room.wanted) == 1
    room.apps.offered(replace(task("task-3"), run="run-2"), b"", lambda: None)
    room.arrive()
    room.apps.checked(DIGEST, AppCheckAnswer(found=(OWN,)))
    assert room.offered[2:] == [("task-3", Accept())]


def test_what_cannot_be_had_is_one_alarm_however_often_it_is_asked_for(tmp_path):
    room = Room(tmp_path)
    for _ in range(3):
        room.apps.offered(task(), b"", lambda: None)
        room.apps.failed(room.wanted[-1], UnpublishedError("no such target"))
    assert (len(room.offered), len(room.alarms)) == (3, 1)
