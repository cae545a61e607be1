"""Who may work in a manager's home, and who may speak to it."""

import os
import struct
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from fleet.api.app import make_app
from fleet.api.socket import PeerChecked, SocketServer
from fleet.errors import ConflictError, UnreachableError
from fleet.service.loop import RunningManager
from tests.manager_home import make_home


def test_one_home_has_one_manager_even_without_a_socket_between_them(tmp_path: Path):
    config = make_home(tmp_path)
    opened: Future[RunningManager] = Future()

    def serve() -> None:
        opened.set_result(RunningManager(config))  # on the thread that owns its registry
        opened.result().run()

    thread = Thread(target=serve)
    thread.start()
    manager = opened.result(timeout=20)
    try:
        with pytest.raises(ConflictError, match="another manager works in"):
            RunningManager(config)
    finally:
        manager.stop()
        thread.join(timeout=20)


def test_a_process_of_another_user_is_hung_up_on():
    gone: list[str] = []
    credentials = struct.pack("3i", 1, os.getuid() + 1000, 1)
    transport = SimpleNamespace(
        get_extra_info=lambda _: SimpleNamespace(getsockopt=lambda *_: credentials),
        abort=lambda: gone.append("aborted"),
    )
    PeerChecked.connection_made(PeerChecked.__new__(PeerChecked), transport)
    assert gone == ["aborted"]


SERVES = """
import ctypes, sys, threading
from fleet.__main__ import open_door
from fleet.cli.client import ManagerClient
from fleet.cli.program import main
from fleet.service.views import StatusView

def kill_the_door(socket):
    with ManagerClient(socket, patience_seconds=30) as client:
        print(client.get("/status", StatusView).fleet, flush=True)
        api = next(t for t in threading.enumerate() if t.name == "api")
        raised = ctypes.py_object(SystemExit)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(api.ident), raised)
        try:
            client.get("/status", StatusView)  # what it does next is to end
        except Exception:
            pass

def door_of_one_visit(path, ask):
    threading.Thread(target=kill_the_door, args=(path,), daemon=True).start()
    return open_door(path, ask)

main(door_of_one_visit, ["serve", "--home", sys.argv[1]])
"""


@pytest.mark.slow
def test_a_manager_whose_door_has_ended_says_so_and_ends_with_an_error(tmp_path: Path):
    config = make_home(tmp_path)

    ended = subprocess.run(
        [sys.executable, "-c", SERVES, str(config.home)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ended.stdout == "demo\n"
    assert ended.returncode == UnreachableError.exit_status
    assert "the thread that answers the command line has ended (SystemExit)" in ended.stderr
    assert ended.stderr.rstrip().endswith("the manager has stopped, start it again [unreachable]")
    assert not config.socket.exists()


def test_a_door_that_is_closed_on_purpose_tells_nobody(tmp_path: Path):
    told: list[str] = []
    door = SocketServer(tmp_path / "s", make_app(lambda use_case: use_case(None)))
    door.start(told.append)
    door.stop()
    assert told == []


@pytest.mark.slow
def test_a_manager_whose_errands_have_ended_ends_too(tmp_path: Path):
    config = make_home(tmp_path)
    manager = RunningManager(config)
    manager._errands.stop()  # as if that thread had died: nobody told the manager to stop

    with pytest.raises(UnreachableError, match="broker accounts has ended"):
        manager.run()
