"""The broker's authority is changed under a running fleet, and nobody is stranded.

Real: mosquitto as ``fieldfare init`` configures it, the manager with its registry, signing and
command line, enrolment, and of each device everything but the process; see ``many_agents``.
"""

import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.contract.endpoints import fingerprint, split_authorities
from fleet.config import FleetConfig
from fleet.ingest.authority import Issued, why_not_believed
from fleet.service.founding import Ports, found_dev
from tests.brokers import PROGRAM, accepts, eventually, free_port
from tests.ceremonies import Person, running
from tests.many_agents import ThreadedAgent, enrol_all, jobs_on_threads, running_all

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(600)]
ONLINE, AWAY = 50, 5


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
        self.child.terminate()
        self.child.wait(20)

    def shows(self) -> str:
        """The fingerprint of the certificate that it shows now."""
        return fingerprint(ssl.get_server_certificate(("127.0.0.1", self.ports[0])))


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    ports = Ports(devices=free_port(), enrolment=free_port())
    return found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)


@pytest.fixture
def broker(config: FleetConfig) -> Iterator[HomeBroker]:
    running_broker = HomeBroker(config)
    yield running_broker
    running_broker.stop()


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str], config: FleetConfig) -> Person:
    return Person(tmp_path, capsys)


def make_agents(folder: Path, person: Person, home: Path, count: int) -> list[ThreadedAgent]:
    token = folder / "fleet.enrol"
    person("token", "create", "--file", token, "--uses", count, "--home", home)
    agents = [ThreadedAgent(folder / "devices" / f"{n:02}") for n in range(count)]
    enrol_all(agents, token)
    return agents


def view(person: Person, home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(person("endpoint", "show", "-o", "json", "--home", home))
    return found


def online(person: Person, home: Path) -> int:
    count: int = json.loads(person("fleet", "status", "-o", "json", "--home", home))["online"]
    return count


def marks_in(path: Path) -> tuple[str, ...]:
    return tuple(fingerprint(pem) for pem in split_authorities(path.read_text()))


def test_a_ca_rotation_with_50_devices_online_and_5_offline_strands_nobody(
    tmp_path, config, broker, person, monkeypatch, record_property
):
    home, folder = config.home, config.broker_folder
    (old,) = marks_in(folder / "ca.pem")
    old_pem, asked = (folder / "ca.pem").read_text(), ("--home", home)
    with running(home, ""), jobs_on_threads(monkeypatch):
        agents = make_agents(tmp_path, person, home, ONLINE + AWAY)
        away = agents[ONLINE:]
        with running_all(agents):
            eventually(lambda: online(person, home) == ONLINE + AWAY, 120)
            for agent in away:
                agent.stop()

            person("broker", "rotate-ca", "begin", "--yes", *asked)
            assert marks_in(folder / "ca.pem")[0] == old
            new = marks_in(folder / "ca.pem")[1]
            eventually(lambda: view(person, home)["confirmed"] == ONLINE, 120)
            assert {a.believes for a in agents[:ONLINE]} == {(old, new)}
            assert {a.believes for a in away} == {(old,)}

            before = broker.shows()
            person("broker", "rotate-ca", "switch", *asked)
            broker.reload()
            eventually(lambda: broker.shows() != before)
            broker.restart()
            eventually(lambda: online(person, home) == ONLINE, 120)

            status, _, refusal = person.tries("broker", "rotate-ca", "retire", "--yes", *asked)
            assert status == 4
            assert all(agent.id in refusal for agent in away)
            assert not any(agent.id in refusal for agent in agents[:ONLINE])

            for agent in away:
                agent.start()
            eventually(lambda: view(person, home)["stragglers"] == [], 120)
            assert {a.believes for a in agents} == {(old, new)}

            person("broker", "rotate-ca", "retire", "--yes", *asked)
            broker.reload()
            eventually(lambda: view(person, home)["confirmed"] == ONLINE + AWAY, 120)
            assert {a.believes for a in agents} == {(new,)}
            broker.restart()
            eventually(lambda: online(person, home) == ONLINE + AWAY, 120)

            shown = Issued(
                chain=(folder / "server.pem").read_text(), key=(folder / "server.key").read_text()
            )
            assert marks_in(folder / "ca.pem") == (new,)
            assert why_not_believed(shown, "127.0.0.1", [(folder / "ca.pem").read_text()]) == ""
            assert why_not_believed(shown, "127.0.0.1", [old_pem])
            assert not list(folder.glob("*-next.*"))
            alarms = json.loads(person("fleet", "alarms", "-o", "json", *asked))
            assert [a for a in alarms if a["code"] != "link"] == []
    record_property("measured", f"authority rotation: {ONLINE} online and {AWAY} away, 0 stranded")
