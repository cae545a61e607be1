"""Real brokers on free loopback ports, each in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.contract.topics import Topics
from agent.link.inbox import Inbox
from fleet.ingest.broker import BrokerLink
from fleet.ingest.file_accounts import FileAccounts
from fleet.ingest.mail import Arrived, Connected, Connection, News
from fleet.ingest.mosquitto import Backend
from fleet.ingest.provision import (
    MANAGER_USER,
    PROVISIONER_USER,
    Accounts,
    BrokerLayout,
    Provisioner,
    prepare_broker,
)

PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
TOPICS = Topics(fleet="demo")
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once something holds; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true in {seconds} s: {holds}")
        time.sleep(0.01)


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False


class Mosquitto:
    """One mosquitto, configured as Fieldfare ships it, with accounts."""

    def __init__(
        self,
        folder: Path,
        topics: Topics = TOPICS,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        backend: Backend = Backend.DYNSEC,
        websockets: bool = False,
        clients: Path | None = None,
    ) -> None:
        assert PROGRAM, "mosquitto is not installed"
        self.topics = topics
        self.certificate = certificate
        self.layout = BrokerLayout(
            folder=folder,
            device_port=free_port(),
            enrol_port=free_port(),
            websocket_port=free_port() if websockets else None,
            bind="127.0.0.1",
            certificate=certificate,
            key=key,
            user="root" if os.geteuid() == 0 else None,
            backend=backend,
            clients=clients,
        )
        self.accounts: Accounts = prepare_broker(self.layout, topics)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.layout.device_port}"

    @property
    def enrol_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.layout.enrol_port}"

    @property
    def wss_url(self) -> str:
        return f"wss://127.0.0.1:{self.layout.websocket_port}/mqtt"

    @property
    def _scheme(self) -> str:
        return "mqtts" if self.certificate else "mqtt"

    def start(self) -> "Mosquitto":
        with (self.layout.folder / "broker.log").open("ab") as log:
            self._child = subprocess.Popen(
                [str(PROGRAM), "-c", str(self.layout.folder / "mosquitto.conf")],
                stdout=log,
                stderr=log,
            )
        eventually(self._listens)
        return self

    def _listens(self) -> bool:
        assert self._child
        assert self._child.poll() is None, (self.layout.folder / "broker.log").read_text()
        ports = (self.layout.device_port, self.layout.enrol_port, self.layout.websocket_port)
        return all(accepts(port) for port in ports if port)

    def kill(self) -> None:
        """Pull its plug."""
        assert self._child
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()
        self._child = None

    def stop(self) -> None:
        if self._child:
            self._child.terminate()
            self._child.wait()
            self._child = None

    def connection(self, username: str, password: str, ca: str = "") -> Connection:
        return Connection(
            url=self.url,
            ca=ca,
            username=username,
            password=password,
            client_id=username,
            longest_wait_seconds=0.5,
        )

    def manager(self, ca: str = "") -> Connection:
        return self.connection(MANAGER_USER, self.accounts.manager, ca)

    def provisioner(self) -> Provisioner:
        connection = self.connection(PROVISIONER_USER, self.accounts.provisioner)
        return Provisioner(connection, self.topics)

    def file_accounts(self) -> FileAccounts:
        return FileAccounts(
            self.layout.folder, self.connection(PROVISIONER_USER, self.accounts.provisioner)
        )

    def keeper(self) -> Provisioner | FileAccounts:
        """Whoever gives and takes accounts with this backend."""
        files = self.layout.backend is Backend.ACL_FILE
        return self.file_accounts() if files else self.provisioner()


class Listener:
    """A manager-side connection that keeps what it hears."""

    def __init__(self, connection: Connection, *filters: str) -> None:
        self.link = BrokerLink(connection, subscriptions=tuple((name, 1) for name in filters))
        self.heard: list[Arrived] = []
        self.news: list[News] = []
        self.until(lambda: any(isinstance(n, Connected) for n in self.news))

    def turn(self, seconds: float = 0.05) -> list[News]:
        news = self.link.poll(seconds)
        self.news += news
        messages = [n for n in news if isinstance(n, Arrived)]
        self.heard += messages
        self.link.settle(messages)
        return news

    def until(self, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"heard only {[m.topic for m in self.heard]}"
            self.turn()

    def close(self) -> None:
        self.link.close()


def next_of(inbox: Inbox, kind: type[T], seconds: float = 20.0) -> T:
    """Return the next item of one kind; others before it are skipped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        item = inbox.get(0.1)
        if isinstance(item, kind):
            return item
    raise AssertionError(f"no {kind.__name__} in {seconds} s")
