"""The broker's authority is changed under a running fleet, and nobody is stranded.

Real: mosquitto as ``fieldfare init`` configures it, the manager with its registry, signing and
command line, enrolment, and of each device everything but the process; see ``many_agents``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.ingest.authority import Issued, why_not_believed
from tests.brokers import eventually
from tests.ceremonies import running
from tests.home_fleet import HomeFleet, home_fleet, marks_in
from tests.many_agents import jobs_on_threads, running_all

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(600)]
ONLINE, AWAY = 50, 5


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[HomeFleet]:
    with home_fleet(tmp_path, capsys) as made:
        yield made


def test_a_ca_rotation_with_50_devices_online_and_5_offline_strands_nobody(
    fleet, monkeypatch, record_property
):
    broker, folder = fleet.broker, fleet.config.broker_folder
    (old,) = marks_in(folder / "ca.pem")
    old_pem = (folder / "ca.pem").read_text()
    with running(fleet.home, ""), jobs_on_threads(monkeypatch):
        agents = fleet.enrol(ONLINE + AWAY)
        away = agents[ONLINE:]
        with running_all(agents):
            eventually(lambda: fleet.online() == ONLINE + AWAY, 120)
            for agent in away:
                agent.stop()

            fleet("broker", "rotate-ca", "begin", "--yes")
            new = marks_in(folder / "ca.pem")[1]
            eventually(lambda: fleet.endpoints()["confirmed"] == ONLINE, 120)
            assert {a.believes for a in agents[:ONLINE]} == {(old, new)}
            assert {a.believes for a in away} == {(old,)}

            before = broker.shows()
            fleet("broker", "rotate-ca", "switch")
            broker.reload()
            eventually(lambda: broker.shows() != before)
            broker.restart()
            eventually(lambda: fleet.online() == ONLINE, 120)

            status, _, refusal = fleet.tries("broker", "rotate-ca", "retire", "--yes")
            assert status == 4
            assert all(agent.id in refusal for agent in away)
            assert not any(agent.id in refusal for agent in agents[:ONLINE])

            for agent in away:
                agent.start()
            eventually(lambda: fleet.endpoints()["stragglers"] == [], 120)
            assert {a.believes for a in agents} == {(old, new)}

            fleet("broker", "rotate-ca", "retire", "--yes")
            broker.reload()
            eventually(lambda: fleet.endpoints()["confirmed"] == ONLINE + AWAY, 120)
            assert {a.believes for a in agents} == {(new,)}
            broker.restart()
            eventually(lambda: fleet.online() == ONLINE + AWAY, 120)

            shown = Issued(
                chain=(folder / "server.pem").read_text(), key=(folder / "server.key").read_text()
            )
            assert marks_in(folder / "ca.pem") == (new,)
            assert why_not_believed(shown, "127.0.0.1", [(folder / "ca.pem").read_text()]) == ""
            assert why_not_believed(shown, "127.0.0.1", [old_pem])
            assert not list(folder.glob("*-next.*"))
            assert fleet.alarms() == []
    record_property("measured", f"authority rotation: {ONLINE} online and {AWAY} away, 0 stranded")
