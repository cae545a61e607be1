import os
import signal
import socket
import threading
import tomllib
from pathlib import Path

import pytest

from agent.contract.messages import Inventory, Reported, SlotReport
from agent.daemon.agenda import Agenda
from agent.daemon.host import AGENT_VERSION, ServiceNotifier, event, lock_state, on_signals
from agent.daemon.state import StateTeller
from agent.errors import BusyError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_agent_says_the_version_of_its_distribution():
    assert tomllib.loads(PROJECT.read_text())["project"]["version"] == AGENT_VERSION


def test_appointments_come_due_in_order_and_once():
    said: list[str] = []
    agenda = Agenda()
    agenda.at("b", 2.0, lambda: said.append("b"))
    agenda.at("a", 1.0, lambda: said.append("a"))
    agenda.at("late", 9.0, lambda: said.append("late"))
    assert agenda.wait_seconds(0.0, 60.0) == 1.0
    for action in agenda.due(3.0):
        action()
    assert said == ["a", "b"]
    assert agenda.due(3.0) == []
    assert agenda.wait_seconds(3.0, 60.0) == 6.0


def test_a_second_appointment_of_one_name_replaces_the_first():
    said: list[int] = []
    agenda = Agenda()
    agenda.at("look", 1.0, lambda: said.append(1))
    agenda.at("look", 5.0, lambda: said.append(2))
    assert agenda.due(4.0) == []
    agenda.due(5.0)[0]()
    assert said == [2]
    agenda.at("look", 6.0, lambda: said.append(3))
    agenda.cancel("look")
    assert agenda.due(10.0) == []
    assert not agenda.holds("look")


def test_a_second_lock_on_one_state_directory_is_refused(tmp_path):
    with (
        lock_state(tmp_path / "state"),
        pytest.raises(BusyError, match="another agent works on"),
        lock_state(tmp_path / "state"),
    ):
        pass
    with lock_state(tmp_path / "state"):
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_systemd_is_told_and_its_watchdog_is_understood(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        notifier = ServiceNotifier({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "60000000"})
        notifier.say("READY=1")
        assert manager.recv(100) == b"READY=1"
    assert notifier.watchdog_seconds == 60.0
    notifier.say("WATCHDOG=1")  # systemd is gone: nothing happens


def test_a_watchdog_of_another_process_is_not_ours():
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert ServiceNotifier(environment).watchdog_seconds is None
    assert ServiceNotifier({}).watchdog_seconds is None


def test_a_signal_reaches_the_loop_from_another_thread():
    said: list[str] = []
    heard = threading.Event()
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def stop(why: str) -> None:
        said.append(why)
        heard.set()

    try:
        on_signals(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard.wait(10)
        assert said == ["SIGTERM"]
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_log_line_is_one_line_whatever_its_values_hold():
    line = event("x", why='two\nlines with "quotes"', n=3)
    assert line == "event=x why=\"two lines with 'quotes'\" n=3"


def reported(current: str | None) -> Reported:
    return Reported(rev=0, ts=0, slots={"motion": SlotReport(current=current)})


def test_equal_state_is_sent_once_and_news_gets_the_next_revision():
    sent: list[Inventory | Reported] = []
    teller = StateTeller(lambda m: bool(sent.append(m) or True), lambda: 77)
    for current in (None, None, "a" * 64, "a" * 64):
        teller.tell(reported(current))
    assert [(m.rev, m.ts) for m in sent] == [(1, 77), (2, 77)]
    teller.forget()
    teller.tell(reported("a" * 64))
    assert [m.rev for m in sent] == [1, 2, 2]


def test_state_that_could_not_be_sent_is_sent_later():
    online = False
    sent: list[int] = []

    def send(message: Inventory | Reported) -> bool:
        if online:
            sent.append(message.rev)
        return online

    teller = StateTeller(send, lambda: 0)
    teller.tell(reported(None))
    online = True
    teller.tell(reported(None))
    teller.tell(reported(None))
    assert sent == [1]
