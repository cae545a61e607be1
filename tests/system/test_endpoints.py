"""Where devices look for the fleet is changed, rightly and wrongly, and they stay with it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import LinkError
from fleet.config import FleetConfig
from tests.brokers import eventually, free_port
from tests.ceremonies import running
from tests.home_fleet import HomeBroker, HomeFleet, home_fleet, marks_in
from tests.many_agents import ThreadedAgent, jobs_on_threads, running_all

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(300)]
DEVICES = 3


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[HomeFleet]:
    with home_fleet(tmp_path, capsys) as made:
        yield made


@contextmanager
def other_broker(fleet: HomeFleet) -> Iterator[FleetConfig]:
    """Run a second broker with the same accounts and certificate at other ports."""
    home = fleet.folder / "elsewhere"
    shutil.copytree(fleet.home, home, ignore=shutil.ignore_patterns("data", "*.sock", "*.log"))
    ports = [free_port(), free_port()]
    for path in (home / "fleet.toml", home / "broker" / "mosquitto.conf"):
        text = path.read_text().replace(str(fleet.home), str(home))
        for before, after in zip(fleet.broker.ports, ports, strict=True):
            text = text.replace(str(before), str(after))
        path.write_text(text)
    (home / "broker" / "data").mkdir(mode=0o700)
    config = FleetConfig.load(home)
    broker = HomeBroker(config)
    try:
        yield config
    finally:
        broker.stop()


def test_an_endpoint_that_cannot_be_reached_is_left_told_and_tried_again(fleet, monkeypatch):
    url, port = fleet.config.broker.url, free_port()
    moved = f"mqtts://127.0.0.1:{port}"
    with running(fleet.home, ""), jobs_on_threads(monkeypatch):
        agents = fleet.enrol(DEVICES)
        with running_all(agents):
            eventually(lambda: fleet.online() == DEVICES, 60)
            fleet("endpoint", "change", moved, url, "--yes")
            eventually(lambda: len({a["device"] for a in fleet.alarms()}) == DEVICES, 60)
            eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
            assert {a["code"] for a in fleet.alarms()} == {"endpoint"}
            assert all(f"{moved} is not used" in a["why"] for a in fleet.alarms())
            assert {agent.url for agent in agents} == {url}
            status, _, refusal = fleet.tries("endpoint", "change", moved, "--yes")
            assert status == 4
            assert all(agent.id in refusal for agent in agents)


def test_an_endpoint_where_no_manager_of_the_fleet_answers_is_left(fleet, monkeypatch):
    url = fleet.config.broker.url
    with running(fleet.home, ""), jobs_on_threads(monkeypatch):
        agents = fleet.enrol(DEVICES)
        with other_broker(fleet) as elsewhere, running_all(agents):
            eventually(lambda: fleet.online() == DEVICES, 60)
            fleet("endpoint", "change", elsewhere.broker.url, url, "--yes")
            eventually(lambda: len({a["device"] for a in fleet.alarms()}) == DEVICES, 60)
            assert all("no director answered" in a["why"] for a in fleet.alarms())
            eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
            assert {agent.url for agent in agents} == {url}


def test_a_fleet_moves_to_another_broker_with_its_manager(fleet, monkeypatch):
    url = fleet.config.broker.url
    with jobs_on_threads(monkeypatch):
        with running(fleet.home, ""):
            agents = fleet.enrol(DEVICES)
        with other_broker(fleet) as elsewhere, running_all(agents):
            moved = elsewhere.broker.url
            with running(fleet.home, ""):
                eventually(lambda: fleet.online() == DEVICES, 60)
                status, _, refusal = fleet.tries("endpoint", "change", moved, "--yes")
                assert status == 4
                assert "nothing in common" in refusal
                fleet("endpoint", "change", url, moved, "--yes")
                eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
            shutil.copy(elsewhere.home / "fleet.toml", fleet.home / "fleet.toml")
            fleet.broker.stop()
            with running(fleet.home, ""):
                eventually(lambda: {agent.url for agent in agents} == {moved}, 60)
                eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
                fleet("endpoint", "change", moved, "--yes")
                eventually(lambda: fleet.endpoints()["version"] == 2, 60)
                eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
                assert any(f"the fleet answers at {moved}" in a["why"] for a in fleet.alarms())


def test_a_change_of_authority_is_abandoned_before_the_switch(fleet, monkeypatch):
    (old,) = marks_in(fleet.config.broker_folder / "ca.pem")
    with running(fleet.home, ""), jobs_on_threads(monkeypatch):
        agents = fleet.enrol(DEVICES)
        with running_all(agents):
            eventually(lambda: fleet.online() == DEVICES, 60)
            fleet("broker", "rotate-ca", "begin", "--yes")
            eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
            fleet("broker", "rotate-ca", "abandon", "--yes")
            eventually(lambda: fleet.endpoints()["confirmed"] == DEVICES, 60)
            assert {agent.believes for agent in agents} == {(old,)}
            assert marks_in(fleet.config.broker_folder / "ca.pem") == (old,)
            assert fleet.tries("broker", "rotate-ca", "abandon", "--yes")[0] == 4
            fleet.broker.restart()
            eventually(lambda: fleet.online() == DEVICES, 60)
            assert fleet.alarms() == []


def test_devices_that_enrol_during_a_change_of_authority_are_told_what_is_right(fleet, monkeypatch):
    shown = fleet.broker.shows()
    with running(fleet.home, ""), jobs_on_threads(monkeypatch):
        early = fleet.token(1).rename(fleet.folder / "early.enrol")
        fleet("broker", "rotate-ca", "begin", "--yes")
        agents = fleet.enrol(1)
        fleet("broker", "rotate-ca", "switch")
        fleet.broker.reload()
        eventually(lambda: fleet.broker.shows() != shown)
        agents += fleet.enrol(1)
        with running_all(agents):
            eventually(lambda: fleet.endpoints()["confirmed"] == len(agents), 60)
            fleet("broker", "rotate-ca", "retire", "--yes")
            fleet.broker.restart()
            last = fleet.enrol(1)
            assert last[0].believes == marks_in(fleet.config.broker_folder / "ca.pem")
            with running_all(last):
                eventually(lambda: fleet.endpoints()["confirmed"] == len(agents) + 1, 60)
        with pytest.raises(LinkError, match="not believed"):
            ThreadedAgent(fleet.folder / "devices" / "late").enrol(early)
