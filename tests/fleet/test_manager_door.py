"""Who may work in a manager's home, and who may speak to it."""

import os
import struct
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from fleet.api.socket import PeerChecked
from fleet.errors import ConflictError
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
