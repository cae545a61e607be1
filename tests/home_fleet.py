"""A development fleet on a mosquitto of its own, operated by its command line."""

import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.contract.endpoints import fingerprint, split_authorities
from fleet.config import FleetConfig
from fleet.service.founding import Ports, found_dev
from tests.brokers import PROGRAM, accepts, eventually, free_port
from tests.ceremonies import Person
from tests.many_agents import ThreadedAgent, enrol_all


class HomeBroker:
    """The mosquitto of a manager's home."""

    def __init__(self, config: FleetConfig) -> None:
        self.folder = config.broker_folder
        self.ports = [
            int(u.rpartition(":")[2]) for u in (config.broker.url, config.broker.enrol_url)
        ]
        self.start()

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.child = subprocess.Popen(
                [str(PROGRAM), "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        eventually(lambda: all(accepts(port) for port in self.ports))

    def reload(self) -> None:
        self.child.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        """End every connection."""
        self.stop()
        self.start()

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.terminate()
            self.child.wait(20)

    def shows(self) -> str:
        """The fingerprint of the certificate that it shows now."""
        return fingerprint(ssl.get_server_certificate(("127.0.0.1", self.ports[0])))


class HomeFleet:
    """The home, its broker, and the person at the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ports = Ports(devices=free_port(), enrolment=free_port())
        self.folder = folder
        self.made = 0
        self.config = found_dev(folder / "home", "demo", kind="mosquitto", ports=ports)
        self.home = self.config.home
        self.person = Person(folder, capsys)
        self.broker = HomeBroker(self.config)

    def __call__(self, *words: object) -> str:
        """Run a command that has to succeed, and return what it printed."""
        return self.person(*words, "--home", self.home)

    def tries(self, *words: object) -> tuple[int, str, str]:
        """Run a command, and return its status and what it printed."""
        return self.person.tries(*words, "--home", self.home)

    def asks(self, *words: object) -> dict[str, object]:
        """Return what a command prints as JSON."""
        found: dict[str, object] = json.loads(self(*words, "-o", "json"))
        return found

    def enrol(self, count: int, settings: str = "") -> list[ThreadedAgent]:
        """Return so many enrolled devices with these settings, not yet running."""
        token = self.token(count)
        folders = [self.folder / "devices" / f"{self.made + n:02}" for n in range(count)]
        self.made += count
        agents = [ThreadedAgent(folder, settings) for folder in folders]
        enrol_all(agents, token)
        token.unlink()
        return agents

    def token(self, uses: int) -> Path:
        """Return a new enrolment file."""
        token = self.folder / "fleet.enrol"
        self("token", "create", "--file", token, "--uses", uses)
        return token

    def online(self) -> object:
        return self.asks("fleet", "status")["online"]

    def endpoints(self) -> dict[str, object]:
        return self.asks("endpoint", "show")

    def alarms(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self("fleet", "alarms", "-o", "json"))
        return found


@contextmanager
def home_fleet(folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[HomeFleet]:
    """A fleet whose broker runs, and is stopped at the end."""
    made = HomeFleet(folder, capsys)
    try:
        yield made
    finally:
        made.broker.stop()


def marks_in(path: Path) -> tuple[str, ...]:
    """The fingerprints of the certificates in a file."""
    return tuple(fingerprint(pem) for pem in split_authorities(path.read_text()))
