"""A fleet of people with keys of their own, its manager, and a device that follows it."""

import io
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Thread
from time import time

import pytest

from agent.update.refresh import refresh
from agent.update.trust import Refreshed, RefreshJob, TrustState, believe, pin
from fleet.__main__ import open_door
from fleet.api.app import make_app
from fleet.api.socket import SocketServer
from fleet.cli.program import main
from fleet.config import FleetConfig
from fleet.service.desk import Desk
from fleet.service.loop import RunningManager

PASSPHRASE = "correct horse battery"


class Person:
    """Runs ``fieldfare`` in this process, and keeps what it printed."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.secret = folder / "passphrase"
        self.secret.write_text(PASSPHRASE + "\n")
        self._capsys = capsys

    def __call__(self, *words: object) -> str:
        """Run a command that has to succeed, and return what it printed."""
        status, out, err = self.tries(*words)
        assert status == 0, err
        return out

    def tries(self, *words: object) -> tuple[int, str, str]:
        """Run a command, say no where it asks, and return its status and what it printed."""
        stdin, sys.stdin = sys.stdin, io.StringIO("n\n")
        try:
            main(open_door, [str(word) for word in words])
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            sys.stdin = stdin
        out, err = self._capsys.readouterr()
        return status, out, err

    def key(self, name: str) -> Path:
        """Make a key, or return the one that is there."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            self("keys", "new", path, "--passphrase-file", self.secret)
        return path


def found_fleet(
    person: Person,
    *,
    targets_threshold: int = 1,
    broker: tuple[object, ...] = ("--broker", "embedded", "--port", 1),
) -> Path:
    """Hold the whole ceremony of a fleet with three root and two targets keys."""
    folder, secret = person.folder, ("--passphrase-file", person.secret)
    roots = [person.key(f"root-{n}") for n in (1, 2, 3)]
    targets = [person.key(f"targets-{n}") for n in (1, 2)]
    person("keys", "online", folder / "online", *secret)
    founding, home = folder / "founding.json", folder / "home"
    person(
        "keys", "init", founding, "--fleet", "demo", "--online", folder / "online/public.json",
        *[word for key in roots for word in ("--root", key)],
        *[word for key in targets for word in ("--targets", key)],
        "--targets-threshold", targets_threshold,
    )  # fmt: skip
    for key in (*roots[:2], *targets[:targets_threshold]):
        person("keys", "root", "sign", founding, "--key", key, *secret, "--yes")
    person(
        "init", "--founding", founding, "--online", folder / "online", *secret,
        *broker, "--home", home,
    )  # fmt: skip
    return home


@contextmanager
def running(home: Path, passphrase: str = PASSPHRASE) -> Iterator[RunningManager]:
    """A manager that runs in this process, its broker away."""
    config = FleetConfig.load(home)
    opened: Future[RunningManager] = Future()

    def serve() -> None:
        manager = RunningManager(config, passphrase=passphrase)
        server = SocketServer(config.socket, make_app(manager.ask))
        server.start()
        opened.set_result(manager)
        try:
            manager.run()
        finally:
            server.stop()

    thread = Thread(target=serve)
    thread.start()
    manager = opened.result(timeout=20)
    try:
        yield manager
    finally:
        manager.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()


def first_trust(home: Path) -> TrustState:
    """A device that has pinned the fleet's first root."""
    root = (home / "repository/metadata/1.root.json").read_bytes()
    return pin(root, sha256(root).hexdigest())


def follow(manager: RunningManager, state: TrustState, *wanted: str) -> Refreshed:
    """Let a device refresh from a running manager, with its own production code."""

    def bundle(desk: Desk) -> dict[str, bytes]:
        return desk.repository.bundle(state.root_version, wanted)

    job = RefreshJob(
        state=state, files=manager.ask(bundle), wanted=wanted, now_ms=int(time() * 1000)
    )
    return believe(refresh(job))
