"""A signed app trains on a real device: mosquitto, the manager, an agent, and the app apart."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.disk import Disk
from agent.learn.apps.kept_state import FOLDER, state_for
from agent.learn.stand_in.messages import read_state
from fleet.service.app_views import AppView
from tests.agents import RunningAgent, write_config
from tests.brokers import eventually
from tests.live_fleet import LEARNING, LiveFleet
from tests.manager_home import ROOT

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow]

APP = ROOT / "tests" / "apps" / "motion_counting"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with LiveFleet(tmp_path_factory.mktemp("fleet"), devices=1) as fleet:
        fleet.roll_out_motion()
        yield fleet


def allow_apps(fleet: LiveFleet) -> Path:
    """Let the one device run apps; returns its folder."""
    ((name, folder),) = fleet.folders.items()
    write_config(folder, f"{LEARNING}apps = true\n")
    fleet.agents[name].child.terminate()
    fleet.agents[name].child.wait(30)
    fleet.agents[name] = RunningAgent(folder)
    eventually(lambda: all(d.apps and d.environments for d in fleet.devices()), 60)
    return folder


def publish(fleet: LiveFleet, folder: Path) -> AppView:
    told = fleet("run", "app", "publish", folder, "-o", "json")
    return msgspec.json.decode(told, type=AppView)


def test_a_signed_app_trains_where_it_is_allowed_and_costs_its_own_reply_where_it_fails(
    fleet: LiveFleet, tmp_path: Path
):
    first = publish(fleet, APP)
    assert (first.target, first.server) == ("apps/motion-counting/1.json", None)
    assert publish(fleet, APP) == first
    with pytest.raises(AssertionError, match=r"\[learn\] apps = true"):
        fleet("run", "start", "motion", "--client-app", "motion-counting", "--minimum-replies", 1)

    folder = allow_apps(fleet)
    run = fleet.start_run(client_app="motion-counting", rounds=2, minimum_replies=1)
    ended = fleet.ended_run(run)
    assert (ended.status, ended.replies) == ("finished", 2), f"{ended.why}\n{fleet.words()}"
    kept = read_state(state_for(Disk(folder / "state"), run, "another task"))
    assert kept["count"]["seen"] == 2
    assert Disk(folder / "state").names(FOLDER) == [run]

    broken = tmp_path / "app"
    (broken / "motion_counting").mkdir(parents=True)
    for file in (APP / "pyproject.toml", *(APP / "motion_counting").glob("*.py")):
        place = broken / file.relative_to(APP)
        place.write_text(file.read_text().replace("count = len(", "raise OSError('no luck', "))
    second = publish(fleet, broken)
    assert second.target == "apps/motion-counting/2.json"
    run = fleet.start_run(client_app="motion-counting", rounds=1, minimum_replies=1)
    ended = fleet.ended_run(run)
    assert ended.status == "failed"
    assert "no luck" in fleet("run", "show", run)
    assert "motion-counting/2" in fleet("run", "app", "list")
